"""Whether a crystal is plausible by itself: its geometry, and the charges of its composition.

Source: Xie et al. 2022 (CDVAE, arXiv 2110.06197), appendix; the bounds on volume and angles are ADiT's. The test of
compositions is the `smact` package's (Davies et al. 2016, doi 10.1016/j.chempr.2016.09.010).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, reduce

import numpy as np

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require

MIN_DISTANCE = 0.5
"""Å; nearest atoms of a valid crystal are farther apart than this."""
MIN_VOLUME = 0.1
"""Å^3; the cell of a valid crystal is larger than this."""
ANGLE_RANGE = (50.0, 130.0)
"""Degrees; all angles of the cell of a valid crystal lie strictly between these."""
OXIDATION_STATES = "smact14"
"""The set of oxidation states that published compositional validity is measured with."""

Formula = tuple[tuple[int, int], ...]
"""Reduced formula: (atomic number, count) by ascending number, counts without a common divisor."""


@dataclass(frozen=True)
class CrystalGeometry:
    """Measures of a cell; NaN where the cell is degenerate or a coordinate is not finite.

    Args:
        volume: Å^3.
        min_distance: Å, of nearest atoms, images of one atom included.
        angles: alpha, beta, gamma in degrees.
    """

    volume: float
    min_distance: float
    angles: tuple[float, float, float]

    @property
    def is_valid(self) -> bool:
        """Structural validity."""
        low, high = ANGLE_RANGE
        plausible_cell = self.volume > MIN_VOLUME and all(low < angle < high for angle in self.angles)
        return plausible_cell and self.min_distance > MIN_DISTANCE


def measure_geometry(structure: AtomicStructure) -> CrystalGeometry:
    """Volume, angles and shortest distance of a crystal.

    The shortest distance is measured only in cells of plausible volume and angles, where 27 images suffice to find it.
    """
    cell = structure.cell
    if cell is None:
        raise ValueError(f"molecule {structure.name!r} has no cell: structural validity is of crystals")
    undefined = (math.nan, math.nan, math.nan)
    finite = np.isfinite(cell).all() and np.isfinite(structure.positions).all()
    if not (finite and np.linalg.norm(cell, axis=1).all()):
        return CrystalGeometry(math.nan, math.nan, undefined)
    require("pymatgen.core", "chemistry")
    from pymatgen.core import Lattice

    lattice = Lattice(cell)
    angles = (float(lattice.alpha), float(lattice.beta), float(lattice.gamma))
    geometry = CrystalGeometry(float(lattice.volume), math.inf, angles)
    if not geometry.is_valid:
        return CrystalGeometry(geometry.volume, math.nan, angles)
    fractional = structure.fractional
    distances = lattice.get_all_distances(fractional, fractional)
    np.fill_diagonal(distances, min(lattice.get_lll_reduced_lattice().abc))
    return CrystalGeometry(geometry.volume, float(distances.min()), angles)


def reduce_formula(structure: AtomicStructure) -> Formula:
    """Reduced formula of a structure."""
    numbers, counts = np.unique(structure.numbers, return_counts=True)
    divisor = reduce(math.gcd, counts.tolist(), 0) or 1
    return tuple(zip(numbers.tolist(), (counts // divisor).tolist(), strict=True))


@cache
def check_composition(formula: Formula) -> bool:
    """Whether charges can balance with every anion more electronegative than every cation.

    Elements and alloys of metals pass without a test. The time grows with the product of the elements' numbers of
    oxidation states: a millisecond for three elements, for ever for ten.
    """
    screening = require("smact.screening", "chemistry")
    from pymatgen.core import Composition, Element

    composition = Composition({Element.from_Z(number): count for number, count in formula})
    valid = screening.smact_validity(
        composition, use_pauling_test=True, include_alloys=True, oxidation_states_set=OXIDATION_STATES
    )
    return bool(valid)


def write_formula(formula: Formula) -> str:
    """The formula as text, elements by electronegativity (``TiO2``)."""
    require("pymatgen.core", "chemistry")
    from pymatgen.core import Composition, Element

    return str(Composition({Element.from_Z(number): count for number, count in formula}).reduced_formula)
