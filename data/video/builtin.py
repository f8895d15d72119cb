"""The built-in set: bodies that bounce and collide, and the sound of their impacts, made from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from polydit.platform.errors import ConfigurationError

from .clips import Clip, ClipFormat, ClipSet, ClipSource
from .impacts import synthesise
from .rasteriser import COLOURS, draw_discs
from .simulation import draw_bodies, simulate
from .store import ClipStore, name_store, write_store

VERSION = 1
"""Of what a seed gives; a change of it makes stores anew."""


class BouncingBodies(ClipSource):
    """Two to four discs in a box, seen from above, simulated with MuJoCo; each impact is heard the moment it is seen.

    There is neither friction nor gravity, and impacts lose nothing: between impacts bodies move on straight lines at
    constant speed, and number, sizes and colours stay as they are. Small bodies ring higher than large ones, fast
    impacts louder, walls duller. Frames are drawn exactly anti-aliased, so that motion shows below a pixel.
    Deterministic by seed, and stored on first use: good for demonstrations, tests and controls, not for science.

    Args:
        clips: how many.
        bodies: fewest and most in a clip.
        radius: least and greatest, as a share of the box.
        speed: least and greatest at the start, in boxes per second.
        silence: share of the clips that may be without any impact; the others are drawn until they have one.
        seed: of everything.

    Raises:
        ConfigurationError: if a range is empty or out of bounds.
    """

    def __init__(
        self,
        clips: int = 1000,
        bodies: tuple[int, int] = (2, 4),
        radius: tuple[float, float] = (0.08, 0.16),
        speed: tuple[float, float] = (0.4, 1.0),
        silence: float = 0.05,
        seed: int = 0,
    ) -> None:
        if clips < 1 or not 1 <= bodies[0] <= bodies[1] <= len(COLOURS):
            raise ConfigurationError(
                f"{clips} clips of {bodies[0]} to {bodies[1]} bodies: take at least 1 clip, and 1 to {len(COLOURS)} "
                "bodies, as many as there are colours"
            )
        if not 0.03 <= radius[0] <= radius[1] <= 0.2 or not 0 <= speed[0] <= speed[1] <= 5 or not 0 <= silence <= 1:
            raise ConfigurationError(
                f"radius {list(radius)}, speed {list(speed)}, silence {silence}: radii lie within 0.03 and 0.2 of the "
                "box, speeds within 0 and 5 boxes per second, silence is a share"
            )
        self.clips, self.bodies, self.radius, self.speed = clips, tuple(bodies), tuple(radius), tuple(speed)
        self.silence, self.seed = silence, seed

    def open(self, wanted: ClipFormat) -> ClipSet:
        """The clips, made if the cache lacks them."""
        settings = [VERSION, self.clips, self.bodies, self.radius, self.speed, self.silence, self.seed]
        facts = {name: value for name, value in asdict(wanted).items() if name != "cache_dir"}
        folder = name_store("bouncing", wanted.cache_dir, settings, facts)
        if folder.exists():
            return ClipStore(folder)
        return write_store(folder, self._make_all(wanted), self.clips, wanted)

    def make(self, index: int, wanted: ClipFormat) -> Clip:
        """One clip, which depends on the seed and its number alone."""
        generator = np.random.default_rng((self.seed, index))
        may_be_silent = generator.random() < self.silence
        while True:
            count = int(generator.integers(self.bodies[0], self.bodies[1] + 1))
            bodies = draw_bodies(count, (self.radius[0], self.radius[1]), (self.speed[0], self.speed[1]), generator)
            colours = generator.permutation(len(COLOURS))[:count]
            places, contacts = simulate(bodies, wanted.frames, wanted.frame_rate)
            if contacts or may_be_silent:
                break
        frames = draw_discs(places.astype(np.float64), bodies.radii, colours, wanted.size)
        onsets = np.array([contact.time for contact in contacts], np.float64)
        sound = None
        if wanted.sample_rate:
            sound = synthesise(contacts, bodies.radii, wanted.samples, wanted.sample_rate)
        name = f"clip{index:05d}"
        return Clip(frames, wanted.frame_rate, sound, wanted.sample_rate, onsets, count, name, name)

    def _make_all(self, wanted: ClipFormat) -> Iterator[Clip]:
        for index in range(self.clips):
            yield self.make(index, wanted)
