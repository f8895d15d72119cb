"""Common crystal prototypes: space group, free parameters, and how the cell follows from ionic radii.

Every distance d is a sum of two ionic radii, Å. Structural facts are those of the prototype's entry in R. W. G.
Wyckoff, Crystal Structures (2nd ed., Interscience), and O. Muller & R. Roy, The Major Ternary Structural Families.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Site = tuple[int, tuple[float, float, float]]
"""Index of an ion in the formula, and fractional coordinates of one of its Wyckoff places."""


@dataclass(frozen=True)
class Geometry:
    """Conventional cell of one compound in a prototype.

    Args:
        lengths: a, b, c, Å.
        sites: one entry for every Wyckoff place.
        gamma: degrees; alpha and beta are 90 in all prototypes here.
    """

    lengths: tuple[float, float, float]
    sites: tuple[Site, ...]
    gamma: float = 90.0


@dataclass(frozen=True)
class Prototype:
    """A family of compounds that share a structure.

    Args:
        name: common name.
        space_group: international number.
        amounts: formula units of each ion; cations first, the last ion is the anion.
        coordination: neighbours of each ion, which choose its radius.
        build: distances from every cation to the anion -> geometry; None where these radii do not fit the prototype.
    """

    name: str
    space_group: int
    amounts: tuple[int, ...]
    coordination: tuple[int, ...]
    build: Callable[[Sequence[float]], Geometry | None]


def _cubic(a: float, *sites: Site) -> Geometry:
    return Geometry((a, a, a), sites)


def _rock_salt(d: Sequence[float]) -> Geometry:
    return _cubic(2 * d[0], (0, (0, 0, 0)), (1, (0.5, 0.5, 0.5)))


def _caesium_chloride(d: Sequence[float]) -> Geometry:
    return _cubic(2 * d[0] / math.sqrt(3), (0, (0, 0, 0)), (1, (0.5, 0.5, 0.5)))


def _zinc_blende(d: Sequence[float]) -> Geometry:
    return _cubic(4 * d[0] / math.sqrt(3), (0, (0, 0, 0)), (1, (0.25, 0.25, 0.25)))


def _wurtzite(d: Sequence[float]) -> Geometry:
    c = d[0] / 0.375  # ideal: u = 3/8 and c/a = sqrt(8/3)
    a = c * math.sqrt(3 / 8)
    return Geometry((a, a, c), ((0, (1 / 3, 2 / 3, 0)), (1, (1 / 3, 2 / 3, 0.375))), 120)


def _nickel_arsenide(d: Sequence[float]) -> Geometry:
    a = d[0] / math.sqrt(1 / 3 + 1.55**2 / 16)  # c/a = 1.55
    return Geometry((a, a, 1.55 * a), ((0, (0, 0, 0)), (1, (1 / 3, 2 / 3, 0.25))), 120)


def _fluorite(d: Sequence[float]) -> Geometry:
    return _cubic(4 * d[0] / math.sqrt(3), (0, (0, 0, 0)), (1, (0.25, 0.25, 0.25)))


def _antifluorite(d: Sequence[float]) -> Geometry:
    return _cubic(4 * d[0] / math.sqrt(3), (0, (0.25, 0.25, 0.25)), (1, (0, 0, 0)))


def _rutile(d: Sequence[float]) -> Geometry:
    # c/a = 0.644 and x = 0.305 as in TiO2; the mean of four equatorial and two apical distances is 0.4255 a.
    x, ratio = 0.305, 0.644
    apical, equatorial = math.sqrt(2) * x, math.sqrt(2 * (0.5 - x) ** 2 + ratio**2 / 4)
    a = d[0] * 3 / (apical + 2 * equatorial)
    return Geometry((a, a, ratio * a), ((0, (0, 0, 0)), (1, (x, x, 0))))


def _anatase(d: Sequence[float]) -> Geometry:
    a = 1.941 * d[0]  # TiO2: a = 3.785, c = 9.514, mean distance 1.950
    return Geometry((a, a, 2.514 * a), ((0, (0, 0, 0)), (1, (0, 0, 0.2081))))


def _cadmium_iodide(d: Sequence[float]) -> Geometry:
    a = math.sqrt(2) * d[0]  # regular octahedra: the anion stands d / sqrt(3) above the layer, here a quarter of c
    c = 4 * d[0] / math.sqrt(3)
    return Geometry((a, a, c), ((0, (0, 0, 0)), (1, (1 / 3, 2 / 3, 0.25))), 120)


def _bismuth_fluoride(d: Sequence[float]) -> Geometry:
    return _cubic(4 * d[0] / math.sqrt(3), (0, (0, 0, 0)), (1, (0.5, 0.5, 0.5)), (1, (0.25, 0.25, 0.25)))


def _rhenium_oxide(d: Sequence[float]) -> Geometry:
    return _cubic(2 * d[0], (0, (0, 0, 0)), (1, (0.5, 0, 0)))


def _corundum(d: Sequence[float]) -> Geometry:
    a = 2.490 * d[0]  # Al2O3: a = 4.759, c = 12.991, mean distance 1.911
    return Geometry((a, a, 2.730 * a), ((0, (0, 0, 0.3522)), (1, (0.3063, 0, 0.25))), 120)


def _perovskite(d: Sequence[float]) -> Geometry | None:
    tolerance = d[0] / (math.sqrt(2) * d[1])  # Goldschmidt 1926
    if not 0.82 <= tolerance <= 1.06:
        return None
    return _cubic(2 * d[1], (0, (0.5, 0.5, 0.5)), (1, (0, 0, 0)), (2, (0.5, 0, 0)))


def _double_perovskite(d: Sequence[float]) -> Geometry | None:
    half = d[1] + d[2]
    if not 0.82 <= d[0] * math.sqrt(2) / half <= 1.06 or d[1] < d[2] + 0.1:
        return None
    x = d[2] / (2 * half)
    return _cubic(2 * half, (0, (0.25, 0.25, 0.25)), (1, (0.5, 0.5, 0.5)), (2, (0, 0, 0)), (3, (x, 0, 0)))


def _delafossite_rock_salt(d: Sequence[float]) -> Geometry | None:
    # alpha-NaFeO2: octahedral layers of both cations in turn; d^2 = a^2/3 + (height/2)^2 in each.
    if not 1.02 <= d[0] / d[1] <= 1.35:
        return None
    a = 1.48 * d[1]  # LiCoO2: 2.816 / 1.92; a little flatter than regular octahedra (1.414)
    height = [2 * math.sqrt(distance**2 - a**2 / 3) for distance in d]
    c = 3 * sum(height)
    z = 1 / 3 - height[1] / (2 * c)
    return Geometry((a, a, c), ((0, (0, 0, 0.5)), (1, (0, 0, 0)), (2, (0, 0, z))), 120)


def _chalcopyrite(d: Sequence[float]) -> Geometry | None:
    if not 0.85 <= d[0] / d[1] <= 1.3:
        return None
    a = 2 * (d[0] + d[1]) / math.sqrt(3)
    # x puts the anion at d[0] from one cation and at d[1] from the other (Jaffe & Zunger 1984, c = 2 a).
    x = 0.25 + (d[0] ** 2 - d[1] ** 2) / a**2
    return Geometry((a, a, 2 * a), ((0, (0, 0, 0)), (1, (0, 0, 0.5)), (2, (x, 0.25, 0.125))))


def _spinel(d: Sequence[float]) -> Geometry | None:
    # R. J. Hill, J. R. Craig & G. V. Gibbs, Phys. Chem. Minerals 4, 317 (1979); origin on the tetrahedral cation.
    root = 33 * d[1] ** 2 - 8 * d[0] ** 2
    if root <= 0 or not 0.85 <= d[0] / d[1] <= 1.08:
        return None
    a = 8 / (11 * math.sqrt(3)) * (5 * d[0] + math.sqrt(root))
    u = d[0] / (a * math.sqrt(3)) + 0.25
    return _cubic(a, (0, (0, 0, 0)), (1, (0.625, 0.625, 0.625)), (2, (u, u, u)))


def _potassium_nickel_fluoride(d: Sequence[float]) -> Geometry | None:
    a = 2 * d[1]
    if not 0.85 <= d[0] / (math.sqrt(2) * d[1]) <= 1.06:
        return None
    c = 3.27 * a  # K2NiF4: 13.08 / 4.00
    return Geometry((a, a, c), ((0, (0, 0, 0.352)), (1, (0, 0, 0)), (2, (0, 0.5, 0)), (2, (0, 0, 0.152))))


PROTOTYPES = (
    Prototype("rock salt", 225, (1, 1), (6, 6), _rock_salt),
    Prototype("caesium chloride", 221, (1, 1), (8, 8), _caesium_chloride),
    Prototype("zinc blende", 216, (1, 1), (4, 4), _zinc_blende),
    Prototype("wurtzite", 186, (1, 1), (4, 4), _wurtzite),
    Prototype("nickel arsenide", 194, (1, 1), (6, 6), _nickel_arsenide),
    Prototype("fluorite", 225, (1, 2), (8, 4), _fluorite),
    Prototype("antifluorite", 225, (2, 1), (4, 8), _antifluorite),
    Prototype("rutile", 136, (1, 2), (6, 3), _rutile),
    Prototype("anatase", 141, (1, 2), (6, 3), _anatase),
    Prototype("cadmium iodide", 164, (1, 2), (6, 3), _cadmium_iodide),
    Prototype("bismuth fluoride", 225, (1, 3), (8, 4), _bismuth_fluoride),
    Prototype("rhenium oxide", 221, (1, 3), (6, 2), _rhenium_oxide),
    Prototype("corundum", 167, (2, 3), (6, 4), _corundum),
    Prototype("perovskite", 221, (1, 1, 3), (12, 6, 6), _perovskite),
    Prototype("double perovskite", 225, (2, 1, 1, 6), (12, 6, 6, 6), _double_perovskite),
    Prototype("sodium ferrite", 166, (1, 1, 2), (6, 6, 6), _delafossite_rock_salt),
    Prototype("chalcopyrite", 122, (1, 1, 2), (4, 4, 4), _chalcopyrite),
    Prototype("spinel", 227, (1, 2, 4), (4, 6, 4), _spinel),
    Prototype("potassium nickel fluoride", 139, (2, 1, 4), (9, 6, 6), _potassium_nickel_fluoride),
)
"""All prototypes, smallest formulas first; primitive cells have 2 to 14 atoms."""
