"""Requests whose properties are drawn from the training split, together with the number of atoms.

A property value and a size that do not occur together cannot be met by any sample, so both come from one training
structure: p(property, atoms) as a histogram, which is how EDM samples its conditions (Hoogeboom et al. 2022,
arXiv 2203.17003, section 5.2).

Shape legend: k structures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import UserError
from polydit.platform.requests import Request

from .wishes import DOMAINS, Wishes

DRAWN = "drawn"
"""What stands in a request in place of a property's value."""

BINS = 1000
"""Of the histogram of a property, over the range of its values (EDM)."""


@dataclass(frozen=True)
class LabelledStructures:
    """What the training split says of sizes and properties.

    Args:
        num_atoms: [k] atoms of each structure.
        periodic: [k] True for crystals.
        values: property -> [k] float64, NaN where unknown.
    """

    num_atoms: NDArray[np.int64]
    periodic: NDArray[np.bool_]
    values: Mapping[str, NDArray[np.float64]]

    def draw(self, request: Request) -> Request:
        """The request with numbers for its drawn properties, and with domain and number of atoms of the same structure.

        A structure is drawn of those that meet the request's domain and size; each property is then uniform in the
        structure's bin. The same request gives the same numbers, in any batch.

        Raises:
            UserError: if no structure has the properties and meets the request, or if only some properties are drawn.
        """
        names = drawn_properties(request.wishes)
        if not names:
            return request
        others = sorted(set(request.wishes["properties"]) - set(names))
        if others:
            raise UserError(
                f"a request draws {', '.join(names)} and gives {', '.join(others)}: properties are drawn together, so "
                f"write {DRAWN} for all of them, or numbers"
            )
        wish = Wishes.parse(without_drawn(request.wishes))
        places = self._places(names, wish)
        generator = np.random.default_rng((request.seed, 2))
        place = int(generator.choice(places))
        values = {name: self._draw_in_bin(name, place, generator) for name in names}
        wishes = {"domain": DOMAINS[int(not self.periodic[place])], **request.wishes, "properties": values}
        if not wish.elements:
            wishes["num_atoms"] = int(self.num_atoms[place])
        return replace(request, wishes=wishes)

    def _places(self, names: Sequence[str], wish: Wishes) -> NDArray[np.int64]:
        for name in names:
            if name not in self.values or np.isnan(self.values[name]).all():
                raise UserError(
                    f"{name} is to be drawn, but no training structure has it: list it under data.init_args.properties "
                    "and use a source with that label, or give a number"
                )
        chosen = self.num_atoms >= wish.smallest_size
        for name in names:
            chosen &= ~np.isnan(self.values[name])
        if wish.size is not None:
            chosen &= self.num_atoms == wish.size
        if wish.domain is not None:
            chosen &= self.periodic == (wish.domain == "crystal")
        if not chosen.any():
            size = "any size" if wish.size is None else f"{wish.size} atoms"
            raise UserError(
                f"{', '.join(names)} cannot be drawn: no training {wish.domain or 'structure'} of {size} has it; ask "
                "for another size or domain, or give a number"
            )
        return np.flatnonzero(chosen)

    def _draw_in_bin(self, name: str, place: int, generator: np.random.Generator) -> float:
        low, high = np.nanmin(self.values[name]), np.nanmax(self.values[name])
        width = (high - low) / BINS
        if not width:
            return float(low)
        bin_index = min(int((self.values[name][place] - low) / width), BINS - 1)
        return float(low + (bin_index + generator.random()) * width)


def drawn_properties(wishes: Mapping[str, Any]) -> list[str]:
    """Names of the properties that a request leaves to be drawn, in alphabetical order."""
    properties = wishes.get("properties") or {}
    return sorted(name for name, value in properties.items() if isinstance(value, str) and value == DRAWN)


def without_drawn(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without the properties that are drawn."""
    names = drawn_properties(wishes)
    if not names:
        return dict(wishes)
    return {**wishes, "properties": {k: v for k, v in wishes["properties"].items() if k not in names}}
