"""Clips in the report: strips of what was given, made and true, and a player of each."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polydit.data.video.clips import Clip
from polydit.data.video.media import write_video
from polydit.data.video.pictures import Picture, draw_wave, encode_png, make_strip
from polydit.data.video.samples import ClipAnswer
from polydit.platform.evaluation.gallery import Gallery, GalleryItem
from polydit.platform.requests import Sample

from .evaluation import measure


class ClipGallery(Gallery):
    """Strips of the made clip and the true one, given frames with a blue rim, their sound below, and players of both.

    Args:
        limit: most clips shown.
        frames: most frames of a clip in a strip.
        players: whether clips can be played, some 10 to 50 KB each.
    """

    title = "Clips"
    packages = ("av", "pillow")

    def __init__(self, limit: int = 12, frames: int = 16, players: bool = True) -> None:
        super().__init__(limit)
        self.frames, self.players = frames, players

    def accepts(self, sample: Sample) -> bool:
        """Whether the sample is a clip."""
        return isinstance(sample.item, ClipAnswer)

    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        """Strips and players of each."""
        return [self._show(sample.item) for sample in samples]

    def _show(self, item: ClipAnswer) -> GalleryItem:
        shown = [item.clip] if item.truth is None else [item.clip, item.truth]
        names = "made" if item.truth is None else "above made, below true"
        picture = self.draw(shown, item)
        numbers = ""
        if item.truth is not None and item.given.any() and not item.given.all():
            row = measure(item)
            numbers = f"; PSNR {row['psnr']:.1f} dB, of a blend {row['psnr_of_blend']:.1f}"
        given = "; given frames have a blue rim" if item.given_frames.any() else ""
        lines = [f"{item.task}: {names}{given}{numbers}"]
        if any(clip.sound is not None for clip in shown):
            lines.append("sound in blue, moments at which something is known to be hit in orange")
        markup = _image(picture) + ("".join(_player(clip) for clip in shown) if self.players else "")
        return GalleryItem(item.name, "\n".join(lines), f'<div style="{BOX}">{markup}</div>')

    def draw(self, clips: Sequence[Clip], item: ClipAnswer) -> Picture:
        """The strips of some clips, each with its sound below."""
        parts = []
        for clip in clips:
            strip = make_strip([clip.frames], [item.given_frames], most=self.frames)
            parts.append(strip)
            if clip.sound is not None:
                parts.append(draw_wave(clip, strip.shape[1]))
        return np.concatenate(parts, axis=0)


BOX = "width:100%;height:100%;display:flex;flex-wrap:wrap;gap:6px;align-content:center;justify-content:center"


def _image(picture: Picture) -> str:
    data = base64.b64encode(encode_png(picture)).decode("ascii")
    return f'<img alt="frames of the clip" style="width:100%" src="data:image/png;base64,{data}">'


def _player(clip: Clip) -> str:
    with tempfile.TemporaryDirectory() as folder:
        data = base64.b64encode(write_video(Path(folder) / "clip.mp4", clip).read_bytes()).decode("ascii")
    label = html.escape(clip.name or "clip")
    return (
        f'<video controls loop playsinline aria-label="{label}" style="width:48%;max-width:220px" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )
