"""Films of episodes, as MP4."""

from __future__ import annotations

from pathlib import Path

from polydit.envs.episodes import Episode
from polydit.envs.video import write_video
from polydit.platform.evaluation.writer import Writer
from polydit.platform.requests import Sample

from .evaluation import name_task


class EpisodeVideoWriter(Writer):
    """Writes each filmed episode to ``<index>_<task>_<solved or not>.mp4``, at the speed of the simulation."""

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """Write the films among `samples`; episodes that were not filmed have none."""
        paths = []
        for index, sample in enumerate(samples, start):
            episode = sample.item
            if not isinstance(episode, Episode) or not episode.frames:
                continue
            outcome = "solved" if episode.success else "unsolved"
            path = folder / f"{index:05d}_{name_task(episode)}_{outcome}.mp4"
            write_video(path, episode.frames, max(1.0, episode.frame_rate))
            paths.append(path)
        return paths
