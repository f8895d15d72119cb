"""Labels of structures among the entries that files and libraries keep beside atoms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

NAME = "name"
"""Key of the name in ASE's ``info``, in pymatgen's ``properties`` and in ``Data``."""

LABELS = "labels"
"""Key of labels that cannot stand under their own name, as a dict or its JSON."""

SAMPLE_FIELDS = ("index", "seed", "valid", "num_bonds")
"""Numbers that our writers put beside a sample's ``request``; they say how it was made and are no labels of it."""


def check_names(labels: Mapping[str, float], structure: str) -> None:
    """Refuse labels that are called like the keys of name and labels themselves.

    Raises:
        ValueError: naming the label and the `structure` that has it.
    """
    for reserved in (NAME, LABELS):
        if reserved in labels:
            raise ValueError(f"{structure or 'a structure'} has a label {reserved!r}, which is the key of its "
                             f"{reserved}: call the label something else")


def collect_labels(entries: Mapping[Any, Any]) -> dict[str, float]:
    """The numbers among `entries` as labels, with those under `LABELS`; what marks a sample of ours left out."""
    hidden = SAMPLE_FIELDS if isinstance(entries.get("request"), str) else ()
    numbers = {key: read_number(value) for key, value in entries.items() if key not in (NAME, LABELS, *hidden)}
    labels = {str(key): number for key, number in numbers.items() if number is not None}
    return labels | read_group(entries.get(LABELS))


def read_number(value: Any) -> float | None:
    """A scalar as float, flags as 0 and 1; None of anything else, and of an integer that no float holds."""
    if not isinstance(value, bool | int | float | np.number | np.bool_) or isinstance(value, np.complexfloating):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def split_labels(
    labels: Mapping[str, float], fits: Callable[[str, float], bool]
) -> tuple[dict[str, float], dict[str, float]]:
    """Labels that a format can hold under their own name, and the rest, which go together under `LABELS`."""
    plain = {name: value for name, value in labels.items() if name not in (NAME, LABELS) and fits(name, value)}
    return plain, {name: value for name, value in labels.items() if name not in plain}


def read_group(group: Any) -> dict[str, float]:
    """Labels of a dict or of its JSON; none of anything else."""
    if isinstance(group, str):
        try:
            group = json.loads(group)
        except ValueError:
            return {}
    if not isinstance(group, Mapping):
        return {}
    found = {str(key): read_number(value) for key, value in group.items()}
    return {key: value for key, value in found.items() if value is not None}
