"""Requests made from structures at hand: what held-out ones are made of, so that samples can be compared with them.

Shape legend: n atoms.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from polydit.platform.errors import ConfigurationError
from polydit.platform.requests import expand_requests

from .dataset import StructureView
from .drawn import without_drawn
from .store import SPLITS
from .structure import AtomicStructure
from .wishes import Wishes

KEYS = ("elements_of", "source", "limit")
"""What an entry that makes requests from structures holds beside wishes and ``count``."""

SETTLED = ("elements", "num_atoms", "composition", "keep", "reference")
"""Wishes that follow from the structure, and so cannot be given beside it."""


def check_entry(entry: Mapping[str, Any]) -> None:
    """Refuse an entry of ``requests`` that is malformed, before data load.

    Raises:
        UserError: if a wish is.
        ConfigurationError: if what makes requests from structures is.
        ValueError: if the count is no positive integer.
    """
    expand_requests([dict(entry)])
    if "elements_of" not in entry:
        Wishes.parse(without_drawn({key: value for key, value in entry.items() if key != "count"}))
        return
    split, limit, source = entry["elements_of"], entry.get("limit"), entry.get("source")
    if split not in SPLITS:
        near = difflib.get_close_matches(str(split), SPLITS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"name one of {', '.join(SPLITS)}"
        raise ConfigurationError(f"elements_of is a split, not {split!r}: {hint}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ConfigurationError(f"limit is how many structures to make requests of, a positive integer, not {limit!r}")
    if source is not None and not isinstance(source, str):
        raise ConfigurationError(f"source is the name of one of data.sources, such as cdvae-csv, not {source!r}")
    for wish in SETTLED:
        if wish in entry:
            raise ConfigurationError(f"elements_of: {split} settles {wish!r} for every structure: drop it from {entry}")
    Wishes.parse(without_drawn(_own_wishes(entry)))


def expand_entry(entry: Mapping[str, Any], structures: StructureView) -> list[dict[str, Any]]:
    """One entry per structure, each asking for its elements, and naming it as what to compare with.

    Args:
        entry: a checked one with ``elements_of``; its ``count`` is the number of samples for each structure.
        structures: those to make requests of.
    """
    own, count = _own_wishes(entry), entry.get("count", 1)
    return [
        {
            **own, "domain": "crystal" if structure.is_periodic else "molecule", "elements": list_elements(structure),
            "reference": place, "count": count,
        }
        for place, structure in zip(structures.places.tolist(), structures, strict=True)
    ]


def list_elements(structure: AtomicStructure) -> str:
    """Formula of all atoms (``"Ti2 O4"``), elements by electronegativity.

    It depends on the composition alone, so that the order of the atoms in a held-out structure, which may tell which of
    them are equivalent, stays unknown. Files of the Materials Project stand in this order too, so what a model learns
    of the order of atoms there holds for the request.
    """
    from pymatgen.core import Composition, Element

    numbers, counts = np.unique(structure.numbers, return_counts=True)
    amounts = zip(numbers.tolist(), counts.tolist(), strict=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        return str(Composition({Element.from_Z(number): count for number, count in amounts}).formula)


def _own_wishes(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in (*KEYS, "count")}
