"""Settings of GFMDiff's two tracks, checked once and handed to every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from polydit.platform.errors import ConfigurationError

from .features import DEGREES, Angles, Distances, GaussianAngles

Lift = Literal["outer", "gated"]
"""How nodes become pairs: all products of features, as released for QM9; both gated and side by side, as for GEOM."""


Moves = Literal["all", "last"]
"""After which layers atoms move: all, as published; or the last, so that distances and angles are made once a pass."""


@dataclass(frozen=True)
class TrackSettings:
    """What the layers of one network share; see `DualTrackTransformer` for what each means."""

    heads: int
    pair_width: int
    pair_heads: int
    pair_hidden: int
    triplet_width: int
    lift: Lift
    angles: Angles
    moves: Moves
    distances: Distances
    dropout: float
    mask_triplets: bool
    chunk: int | None
    estimate: bool
    timed: bool

    def __post_init__(self) -> None:
        for name, value, known in (
            ("lift", self.lift, get_args(Lift)),
            ("angles", self.angles, get_args(Angles)),
            ("distances", self.distances, get_args(Distances)),
            ("moves", self.moves, get_args(Moves)),
        ):
            if value not in known:
                raise ConfigurationError(f"`{name}` is one of {', '.join(known)}, not {value!r}")
        if self.chunk is not None and self.angles in ("recurrent", "harmonic", "none"):
            raise ConfigurationError(
                f"chunk {self.chunk} makes Gaussians of angles some atoms at a time; `angles: {self.angles}` has none "
                "to make: set `angles: gaussian`, or leave `chunk` out"
            )
        if self.moves == "last" and self.angles == "recurrent":
            raise ConfigurationError(
                "`angles: recurrent` tells triplets what each layer's moves change, and with `moves: last` none does: "
                "set `angles` to gaussian, harmonic or none"
            )
        if self.chunk is not None and self.chunk < 1:
            raise ConfigurationError(f"chunk is a number of atoms, not {self.chunk}: give at least 1, or leave it out")
        if not 0 <= self.dropout < 1:
            raise ConfigurationError(f"dropout is a probability below 1, not {self.dropout}")


def width_of_triplets(angles: Angles, pair_width: int) -> int:
    """A: half a pair's width where triplets have a state of their own, else the size of the basis."""
    return {"recurrent": pair_width // 2, "gaussian": GaussianAngles.count, "harmonic": len(DEGREES)}.get(angles, 0)
