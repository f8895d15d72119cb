"""Loss curves, read back from the files that Lightning's CSVLogger leaves in a run folder."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 400
"""Longer curves are averaged in groups of consecutive points, to keep the page light."""

DEPTH = 3
"""How many folders deep a run folder is searched: ``autoencoder/logs/version_0/metrics.csv``."""


@dataclass(frozen=True)
class Curve:
    """One logged value over optimizer steps.

    Args:
        steps: [k] ascending.
        values: [k] finite.
    """

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class LossCurves:
    """The losses of one training.

    Args:
        title: run that was logged, relative to the run folder; empty for the run itself.
        curves: logged name (``train/loss``, ``val/loss``, ``val/position``) -> curve.
    """

    title: str
    curves: dict[str, Curve]


def find_losses(folders: Iterable[Path]) -> list[LossCurves]:
    """Losses of every training that was logged in these run folders, one entry per log.

    A resumed run has several versions of its log; they are joined, a later version replacing an earlier one from its
    first step on.
    """
    found = []
    for folder in dict.fromkeys(path.resolve() for path in folders):
        logs: dict[Path, list[Path]] = {}
        for depth in range(DEPTH + 1):
            for path in folder.glob("*/" * depth + "metrics.csv"):
                versioned = re.fullmatch(r"version_\d+", path.parent.name)
                logs.setdefault(path.parent.parent if versioned else path.parent, []).append(path)
        for parent, paths in sorted(logs.items()):
            curves = join_versions([read_curves(path) for path in sorted(paths, key=order_of_version)])
            if curves:
                home = parent.parent if parent.name == "logs" and parent != folder else parent
                title = home.relative_to(folder).as_posix()
                found.append(LossCurves("" if title == "." else title, curves))
    return found


def order_of_version(path: Path) -> int:
    """Number of a log's version; 0 for one without."""
    number = re.search(r"\d+$", path.parent.name)
    return int(number.group()) if number else 0


def read_curves(path: Path) -> dict[str, Curve]:
    """Curves of the columns ``train/...`` and ``val/...`` of one metrics.csv, without values that are not finite."""
    points: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = to_number(row.get("step"))
            for name, text in row.items():
                if name is not None and name.startswith(("train/", "val/")):
                    value = to_number(text)
                    if math.isfinite(step) and math.isfinite(value):
                        points.setdefault(name, []).append((step, value))
    return {name: Curve(*np.array(sorted(pairs)).T) for name, pairs in points.items()}


def to_number(text: str | None) -> float:
    """Number of a cell; NaN where it is empty or cut off."""
    try:
        return float(text or "nan")
    except ValueError:  # the last line of a run that was killed
        return math.nan


def join_versions(versions: list[dict[str, Curve]]) -> dict[str, Curve]:
    """One set of curves from the successive logs of a resumed run."""
    joined: dict[str, Curve] = {}
    for curves in versions:
        for name, curve in curves.items():
            earlier = joined.get(name)
            if earlier is not None:
                kept = earlier.steps < curve.steps[0]
                steps, values = earlier.steps[kept], earlier.values[kept]
                curve = Curve(np.append(steps, curve.steps), np.append(values, curve.values))
            joined[name] = curve
    return joined


def thin(curve: Curve) -> Curve:
    """The curve averaged to at most `MAX_POINTS` points."""
    parts = min(len(curve.steps), MAX_POINTS)
    means = [np.array([part.mean() for part in np.array_split(axis, parts)]) for axis in (curve.steps, curve.values)]
    return Curve(*means)
