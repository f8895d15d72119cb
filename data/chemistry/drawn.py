"""Requests of which a part is drawn from the training split: properties, elements, and with them the number of atoms.

A property value and a size that do not occur together cannot be met by any sample, so both come from one training
structure: p(property, atoms) as a histogram, which is how EDM samples its conditions (Hoogeboom et al. 2022,
arXiv 2203.17003, section 5.2). Elements are drawn in the same way, as the formula of that structure: a prior of
compositions where the number of atoms alone would leave a model to count hydrogens.

Shape legend: k structures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import UserError
from polydit.platform.requests import Request

from .wishes import DOMAINS, Wishes

DRAWN = "drawn"
"""What stands in a request in place of a property's value, or of the elements."""

BINS = 1000
"""Of the histogram of a property, over the range of its values (EDM)."""


@dataclass(frozen=True)
class LabelledStructures:
    """What the training split says of sizes, compositions and properties.

    Args:
        num_atoms: [k] atoms of each structure.
        periodic: [k] True for crystals.
        values: property -> [k] float64, NaN where unknown.
        formula: reads the elements of a structure, given its number of the k, as a request names them.
    """

    num_atoms: NDArray[np.int64]
    periodic: NDArray[np.bool_]
    values: Mapping[str, NDArray[np.float64]]
    formula: Callable[[int], str]

    def draw(self, request: Request) -> Request:
        """The request with values for what is drawn, and with domain and number of atoms of the same structure.

        A structure is drawn of those that meet the request's domain and size; each property is then uniform in the
        structure's bin. The same request gives the same values, in any batch.

        Raises:
            UserError: if no structure has the properties and meets the request, if only some properties are drawn, or
                if elements are drawn around a kept fragment.
        """
        if not is_drawn(request.wishes):
            return request
        names = drawn_properties(request.wishes)
        given = request.wishes.get("properties") or {}
        others = sorted(set(given) - set(names))
        if names and others:
            raise UserError(
                f"a request draws {', '.join(names)} and gives {', '.join(others)}: properties are drawn together, so "
                f"write {DRAWN} for all of them, or numbers"
            )
        wish = Wishes.parse(without_drawn(request.wishes))
        if draws_elements(request.wishes) and wish.keep is not None:
            raise UserError("elements are to be drawn around a kept fragment, which may not hold its atoms: name them")
        places = self._places(names, wish)
        generator = np.random.default_rng((request.seed, 2))
        place = int(generator.choice(places))
        wishes = {"domain": DOMAINS[int(not self.periodic[place])], **request.wishes}
        if names:
            wishes["properties"] = {name: self._draw_in_bin(name, place, generator) for name in names}
        if draws_elements(request.wishes):
            wishes["elements"] = self.formula(place)
        elif not wish.elements:
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
            what = ", ".join(names) or "elements"
            size = "any size" if wish.size is None else f"{wish.size} atoms"
            raise UserError(
                f"{what} cannot be drawn: the training split has no {wish.domain or 'structure'} of {size} for it; ask "
                "for another size or domain, or give what was to be drawn"
            )
        return np.flatnonzero(chosen)

    def _draw_in_bin(self, name: str, place: int, generator: np.random.Generator) -> float:
        low, high = np.nanmin(self.values[name]), np.nanmax(self.values[name])
        width = (high - low) / BINS
        if not width:
            return float(low)
        bin_index = min(int((self.values[name][place] - low) / width), BINS - 1)
        return float(low + (bin_index + generator.random()) * width)


def is_drawn(wishes: Mapping[str, Any]) -> bool:
    """Whether a request leaves anything to be drawn from the training split."""
    return draws_elements(wishes) or bool(drawn_properties(wishes))


def draws_elements(wishes: Mapping[str, Any]) -> bool:
    """Whether a request leaves its elements to be drawn."""
    return isinstance(wishes.get("elements"), str) and wishes["elements"] == DRAWN


def drawn_properties(wishes: Mapping[str, Any]) -> list[str]:
    """Names of the properties that a request leaves to be drawn, in alphabetical order."""
    properties = wishes.get("properties") or {}
    return sorted(name for name, value in properties.items() if isinstance(value, str) and value == DRAWN)


def without_drawn(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without what is drawn."""
    kept = {key: value for key, value in wishes.items() if key != "elements" or not draws_elements(wishes)}
    names = drawn_properties(wishes)
    if names:
        kept["properties"] = {name: value for name, value in wishes["properties"].items() if name not in names}
    return kept
