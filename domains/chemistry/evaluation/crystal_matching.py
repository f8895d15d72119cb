"""Which crystals are the same: pymatgen's StructureMatcher, asked only about crystals of equal reduced formula.

Source: Ong et al. 2013 (pymatgen, doi 10.1016/j.commatsci.2012.10.028). Tolerances are pymatgen's defaults: lengths
0.2, sites 0.3 of (V/n)^(1/3), angles 5 degrees; cells are made primitive and scaled to one volume first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require
from polydit.platform.evaluation.pool import Outcome, map_items

from .crystal_validity import Formula, reduce_formula

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher


@cache
def make_matcher(
    length_tolerance: float = 0.2, site_tolerance: float = 0.3, angle_tolerance: float = 5.0
) -> StructureMatcher:
    """A StructureMatcher; one per process and set of tolerances."""
    module = require("pymatgen.analysis.structure_matcher", "chemistry")
    matcher: StructureMatcher = module.StructureMatcher(
        ltol=length_tolerance, stol=site_tolerance, angle_tol=angle_tolerance
    )
    return matcher


def index_by_formula(structures: Iterable[AtomicStructure]) -> dict[Formula, list[int]]:
    """Reduced formula -> positions of the structures that have it."""
    index: dict[Formula, list[int]] = defaultdict(list)
    for position, structure in enumerate(structures):
        index[reduce_formula(structure)].append(position)
    return dict(index)


@dataclass(frozen=True)
class Comparison:
    """How a crystal compares with the others.

    Args:
        unique: whether no earlier one matches it.
        novel: whether no known one matches it; None where there was nothing known to compare with.
        problem: why this could not be found out; then the first crystal of a formula counts as unique, none as novel.
        timed_out: whether the time limit was why.
    """

    unique: bool
    novel: bool | None
    problem: str = ""
    timed_out: bool = False


def compare_crystals(
    structures: Sequence[AtomicStructure],
    known: Sequence[AtomicStructure] | None,
    time_limit: float | None,
    processes: int | None,
) -> list[Comparison]:
    """Compare crystals with each other and with known ones.

    Args:
        structures: crystals of plausible geometry.
        known: crystals that are not new, such as the training set; None: novelty is not asked.
        time_limit: seconds for all crystals of one formula; None: no limit.
        processes: worker processes, as in `map_items`.

    Returns:
        One comparison per structure.
    """
    alike = index_by_formula(structures)
    index = {} if known is None else index_by_formula(known)
    places = [cluster for formula, cluster in alike.items() if len(cluster) > 1 or formula in index]
    tasks = [
        ([structures[i] for i in cluster], [known[i] for i in index.get(reduce_formula(structures[cluster[0]]), [])])
        if known is not None
        else ([structures[i] for i in cluster], [])
        for cluster in places
    ]
    outcomes = map_items(
        match_formula, tasks, description="Comparing crystals", time_limit=time_limit, processes=processes
    )
    novel = None if known is None else True
    found = {cluster[0]: Comparison(True, novel) for cluster in alike.values()}
    for cluster, outcome in zip(places, outcomes, strict=True):
        found |= _read_outcome(cluster, outcome, novel)
    return [found[place] for place in range(len(structures))]


def match_formula(task: tuple[Sequence[AtomicStructure], Sequence[AtomicStructure]]) -> list[tuple[int, bool]]:
    """Match crystals of one formula; takes (crystals, known ones).

    Returns:
        For every crystal, the position of the first one that it matches, its own if none before does, and whether that
        one matches none of the known.
    """
    matcher = make_matcher()
    structures, known = ([structure.to_pymatgen() for structure in part] for part in task)
    novel: dict[int, bool] = {}
    found: list[tuple[int, bool]] = []
    for position, structure in enumerate(structures):
        first = next((first for first in novel if matcher.fit(structures[first], structure)), position)
        if first == position:
            novel[first] = not any(matcher.fit(structure, other) for other in known)
        found.append((first, novel[first]))
    return found


def _read_outcome(
    cluster: list[int], outcome: Outcome[list[tuple[int, bool]]], novel: bool | None
) -> dict[int, Comparison]:
    unknown = None if novel is None else False
    if outcome.value is None:
        return {
            place: Comparison(place == cluster[0], unknown, outcome.problem, outcome.timed_out) for place in cluster
        }
    return {
        place: Comparison(first == position, None if novel is None else fresh)
        for position, (place, (first, fresh)) in enumerate(zip(cluster, outcome.value, strict=True))
    }
