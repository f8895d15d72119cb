"""How the distribution of generated crystals compares with held-out ones: distances and coverage.

Shape legend: n crystals, R bins of the radial fingerprint, P element properties, S statistics of a property.

The published coverage (Xie et al. 2022, CDVAE, arXiv 2110.06197) needs CrystalNN and Magpie fingerprints of another
package; here stand smaller ones of the same kind, so coverage compares only with coverage measured by this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require
from polydit.platform.evaluation.statistics import Estimate, estimate_distance, estimate_share

RADIAL_RANGE = 4.0
"""Reach of the radial fingerprint in units of (V/n)^(1/3), the edge of the cube that one atom takes."""
RADIAL_BINS = 80
RADIAL_WIDTH = 0.1
"""Standard deviation of the smearing, same unit."""
PROPERTIES = ("Z", "X", "row", "group", "mendeleev_no", "atomic_radius")
"""Element properties of the composition fingerprint, as pymatgen names them."""
RADIAL_CUTOFF = 0.1
"""Cosine distance, (1 - cos) / 2, of radial fingerprints below which crystals are near in geometry."""
COMPOSITION_CUTOFF = 0.8
"""Root-mean-square difference of standardised composition fingerprints below which crystals are near in composition.

The two cut-offs are set on real data: of 847 training crystals of MP-20, 95 % are near one of 265 held-out ones, while
8 % of all pairs are near, and few structures with atoms at random places are.
"""


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of n crystals.

    Args:
        radial: [n, R], each of length one.
        composition: [n, P * S] in the units of the properties.
    """

    radial: NDArray[np.float64]
    composition: NDArray[np.float64]


def measure_density(structure: AtomicStructure) -> float:
    """Density of a crystal in g/cm^3."""
    require("ase", "chemistry")
    from ase.data import atomic_masses
    from ase.units import _amu

    mass = float(atomic_masses[structure.numbers].sum()) * _amu * 1e3
    return mass / (measure_volume(structure) * 1e-24)


def measure_volume(structure: AtomicStructure) -> float:
    """Volume of a crystal's cell in Å^3."""
    if structure.cell is None:
        raise ValueError(f"molecule {structure.name!r} has no cell, so no volume")
    return float(abs(np.linalg.det(structure.cell)))


def count_elements(structure: AtomicStructure) -> int:
    """Number of different elements."""
    return len(np.unique(structure.numbers))


def estimate_wasserstein(values: NDArray[np.float64], reference: NDArray[np.float64]) -> Estimate:
    """Wasserstein-1 distance of two samples of a quantity, in its unit, with a bootstrap interval over `values`."""
    stats = require("scipy.stats", "chemistry")
    return estimate_distance(values, lambda sample: float(stats.wasserstein_distance(sample, reference)))


def fingerprint(structures: Sequence[AtomicStructure]) -> Fingerprints:
    """Fingerprints of crystals; about 2 ms each."""
    radial = [fingerprint_geometry(structure) for structure in structures]
    composition = [fingerprint_composition(structure) for structure in structures]
    return Fingerprints(np.array(radial), np.array(composition))


def fingerprint_geometry(structure: AtomicStructure) -> NDArray[np.float64]:
    """[R] radial distribution function less one, of all atoms alike, in units of the space one atom takes.

    Source: Oganov and Valle 2009 (doi 10.1063/1.3079326), here without distinction of elements; compared by cosine
    distance, as there.
    """
    count = len(structure.numbers)
    unit = (measure_volume(structure) / count) ** (1 / 3)
    _, _, _, distances = structure.to_pymatgen().get_neighbor_list((RADIAL_RANGE + 3 * RADIAL_WIDTH) * unit)
    edges, kernel = _smearing()
    found, _ = np.histogram(distances / unit, edges)
    distribution = kernel @ found / count - 1
    return distribution / np.linalg.norm(distribution)


@cache
def _smearing() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of fine bins of distance, and the matrix that turns their counts into [R] densities over an even gas's."""
    centres = (np.arange(RADIAL_BINS) + 0.5) * RADIAL_RANGE / RADIAL_BINS
    edges = np.linspace(0, RADIAL_RANGE + 3 * RADIAL_WIDTH, 4 * RADIAL_BINS + 1)
    offsets = (centres[:, None] - (edges[1:] + edges[:-1]) / 2) / RADIAL_WIDTH
    gauss = np.exp(-0.5 * offsets**2) / (RADIAL_WIDTH * np.sqrt(2 * np.pi))
    # The shell's area vanishes at the centre, where smeared counts do not.
    return edges, gauss / (4 * np.pi * np.maximum(centres, RADIAL_WIDTH)[:, None] ** 2)


def fingerprint_composition(structure: AtomicStructure) -> NDArray[np.float64]:
    """[P * S] mean, mean deviation, least and greatest of each element property over the atoms.

    Source: the statistics of Ward et al. 2016 (Magpie, doi 10.1038/npjcompumats.2016.28) over six of its properties.
    """
    values = np.array([element_properties(number) for number in structure.numbers.tolist()])
    mean = values.mean(axis=0)
    return np.concatenate([mean, np.abs(values - mean).mean(axis=0), values.min(axis=0), values.max(axis=0)])


@cache
def element_properties(number: int) -> tuple[float, ...]:
    """[P] properties of an element; 0 where none is known, as the electronegativity of helium."""
    require("pymatgen.core", "chemistry")
    import warnings

    from pymatgen.core import Element

    element = Element.from_Z(number)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No (Pauling electronegativity|data available)")
        values = [getattr(element, name) for name in PROPERTIES]
    return tuple(0.0 if value is None or np.isnan(float(value)) else float(value) for value in values)


def estimate_coverage(samples: Fingerprints, reference: Fingerprints) -> dict[str, Estimate]:
    """Shares of reference crystals near some sample (recall) and of samples near some reference crystal (precision).

    Near is near in geometry and in composition; the scale of composition is the reference's standard deviation.
    """
    scale = reference.composition.std(axis=0)
    scale[scale == 0] = 1.0
    near = np.zeros((len(samples.radial), len(reference.radial)), dtype=bool)
    for row in range(len(near)):
        radial = (1 - reference.radial @ samples.radial[row]) / 2
        difference = (reference.composition - samples.composition[row]) / scale
        composition = np.sqrt((difference**2).mean(axis=1))
        near[row] = (radial < RADIAL_CUTOFF) & (composition < COMPOSITION_CUTOFF)
    return {
        "coverage_recall": estimate_share(int(near.any(axis=0).sum()), near.shape[1]),
        "coverage_precision": estimate_share(int(near.any(axis=1).sum()), near.shape[0]),
    }
