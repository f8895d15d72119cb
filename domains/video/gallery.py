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
        frames: most frames in a row; longer clips go on below.
        players: whether clips can be played, some 10 to 50 KB each.
    """

    title = "Clips"
    packages = ("av", "pillow")

    def __init__(self, limit: int = 12, frames: int = 8, players: bool = True) -> None:
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
        players = "".join(map(_player, shown)) if self.players else ""
        markup = _image(picture) + (f'<div style="{ROW}">{players}</div>' if players else "")
        return GalleryItem(item.name, "\n".join(lines), f'<div style="{BOX}">{markup}</div>')

    def draw(self, clips: Sequence[Clip], item: ClipAnswer) -> Picture:
        """The strips of some clips, in rows, each with its sound below."""
        parts: list[Picture] = []
        for clip in clips:
            for start in range(0, len(clip.frames), self.frames):
                part = cut(clip, start, self.frames)
                strip = make_strip([part.frames], [item.given_frames[start : start + self.frames]])
                parts += [strip] if part.sound is None else [strip, draw_wave(part, strip.shape[1])]
            parts.append(np.full((GAP, parts[0].shape[1], 3), 255, np.uint8))
        width = max(part.shape[1] for part in parts)
        return np.concatenate([
            np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in parts
        ])


GAP = 10
"""White pixels between clips."""

BOX = "width:100%;height:100%;display:flex;flex-direction:column;gap:4px"
ROW = "height:36%;display:flex;gap:8px;justify-content:center"


def cut(clip: Clip, start: int, frames: int) -> Clip:
    """Some frames of a clip from `start` on, with their sound and onsets."""
    low, high = start / clip.frame_rate, min(start + frames, len(clip.frames)) / clip.frame_rate
    sound = None if clip.sound is None else clip.sound[round(low * clip.sample_rate) : round(high * clip.sample_rate)]
    onsets = None if clip.onsets is None else clip.onsets[(clip.onsets >= low) & (clip.onsets < high)] - low
    return Clip(clip.frames[start : start + frames], clip.frame_rate, sound, clip.sample_rate, onsets, name=clip.name)


def _image(picture: Picture) -> str:
    data = base64.b64encode(encode_png(picture)).decode("ascii")
    return f'<img alt="frames of the clip" style="flex:1 1 0;min-height:0" src="data:image/png;base64,{data}">'


def _player(clip: Clip) -> str:
    with tempfile.TemporaryDirectory() as folder:
        data = base64.b64encode(write_video(Path(folder) / "clip.mp4", clip).read_bytes()).decode("ascii")
    label = html.escape(clip.name or "clip")
    return (
        f'<video controls loop playsinline aria-label="{label}" style="height:100%;max-width:48%" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )
