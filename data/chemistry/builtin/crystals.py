"""Charge-balanced compounds on the prototypes, with lattice constants from Shannon's ionic radii."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, DataError

from ..structure import AtomicStructure
from .prototypes import PROTOTYPES, Geometry, Prototype

if TYPE_CHECKING:
    from pymatgen.symmetry.groups import SpaceGroup

CATIONS = (
    "Li+", "Na+", "K+", "Rb+", "Cs+", "Cu+", "Ag+", "Tl+",
    "Be2+", "Mg2+", "Ca2+", "Sr2+", "Ba2+", "Zn2+", "Cd2+", "Hg2+", "Mn2+", "Fe2+", "Co2+", "Ni2+", "Cu2+", "Pb2+",
    "Al3+", "Ga3+", "In3+", "Tl3+", "Sc3+", "Y3+", "La3+", "Nd3+", "Sm3+", "Gd3+", "Ho3+", "Lu3+", "Ti3+", "V3+",
    "Cr3+", "Mn3+", "Fe3+", "Co3+", "Rh3+", "Bi3+",
    "Si4+", "Ge4+", "Sn4+", "Pb4+", "Ti4+", "Zr4+", "Hf4+", "V4+", "Mn4+", "Ru4+", "Ir4+", "Pt4+", "Ce4+", "Th4+",
    "U4+", "V5+", "Nb5+", "Ta5+", "Sb5+", "Mo6+", "W6+", "Re6+", "Te6+",
)  # fmt: skip
"""Ions in their common oxidation states."""

ANIONS = ("F-", "Cl-", "Br-", "I-", "O2-", "S2-", "Se2-", "Te2-", "N3-")

ROMAN = {2: "II", 3: "III", 4: "IV", 6: "VI", 8: "VIII", 9: "IX", 12: "XII"}

MIN_ELECTRONEGATIVITY_DIFFERENCE = 0.5
"""Pauling units between the anion and every cation."""

COORDINATION_LIMITS = {4: (0.225, 0.55), 6: (0.36, 0.80), 8: (0.60, 1.30), 9: (0.60, 1.40), 12: (0.65, 1.60)}
"""Pauling's ratio of cation to anion radius for each coordination, widened by about a tenth as real crystals do."""


@dataclass(frozen=True)
class Compound:
    """Ions, as many as the prototype has places, on that prototype."""

    prototype: Prototype
    ions: tuple[str, ...]

    @property
    def name(self) -> str:
        """Prototype and ions, such as ``rock salt Na+ Cl-``."""
        return " ".join([self.prototype.name, *self.ions])


def enumerate_compounds(count: int) -> list[Compound]:
    """`count` compounds, the prototypes as evenly as their numbers of compounds allow, in a fixed order.

    Raises:
        ConfigurationError: if there are not so many.
    """
    families = [
        sorted((compound for compound in _balanced(prototype) if geometry_of(compound) is not None), key=_digest)
        for prototype in PROTOTYPES
    ]
    total = sum(map(len, families))
    if total < count:
        raise ConfigurationError(f"the built-in set has {total} crystals, fewer than the {count} asked for")
    chosen: list[Compound] = []
    for rank in range(max(map(len, families))):
        chosen += [family[rank] for family in families if rank < len(family)]
    return chosen[:count]


def build_crystal(compound: Compound) -> AtomicStructure:
    """Niggli-reduced primitive cell of a compound, coordinates rounded to 1e-6.

    Raises:
        DataError: if its radii do not fit its prototype.
    """
    from pymatgen.core import Element, Lattice, Structure

    geometry = geometry_of(compound)
    if geometry is None:
        raise DataError(f"{compound.name}: these radii do not fit the prototype")
    a, b, c = geometry.lengths
    symbols = [Element(parse_ion(ion)[0]) for ion in compound.ions]
    orbits = [(symbols[index], orbit_of(compound.prototype.space_group, place)) for index, place in geometry.sites]
    structure = Structure(
        Lattice.from_parameters(a, b, c, 90, 90, geometry.gamma),
        [symbol for symbol, orbit in orbits for _ in orbit],
        [place for _, orbit in orbits for place in orbit],
    )
    primitive = structure.get_primitive_structure().get_reduced_structure("niggli")
    lattice = Lattice.from_parameters(*(round(value, 6) for value in primitive.lattice.parameters))
    order = sorted(primitive, key=lambda site: (site.specie.X, site.specie.Z, *(site.frac_coords.round(6) % 1.0)))
    reduced = Structure(lattice, [site.specie for site in order], [site.frac_coords.round(6) % 1.0 for site in order])
    return AtomicStructure.from_pymatgen(reduced, compound.name)


def geometry_of(compound: Compound) -> Geometry | None:
    """Geometry of the prototype with this compound's radii, None if they do not fit."""
    prototype = compound.prototype
    radii = [ionic_radius(ion, number) for ion, number in zip(compound.ions, prototype.coordination, strict=True)]
    anion = radii[-1]
    for radius, number in zip(radii[:-1], prototype.coordination[:-1], strict=True):
        low, high = COORDINATION_LIMITS[number]
        if not low <= radius / anion <= high:
            return None
    return prototype.build([radius + anion for radius in radii[:-1]])


@lru_cache(maxsize=1024)
def orbit_of(space_group: int, place: tuple[float, float, float]) -> list[NDArray[np.float64]]:
    """Fractional coordinates of every place that the symmetry of the group makes of one."""
    return list(_symmetry_of(space_group).get_orbit(place))


@cache
def _symmetry_of(space_group: int) -> SpaceGroup:
    from pymatgen.symmetry.groups import SpaceGroup

    # Building the group takes longer than everything else here, so Structure.from_spacegroup, which does, is not used.
    return SpaceGroup.from_int_number(space_group)


@cache
def ionic_radius(ion: str, coordination: int) -> float:
    """Shannon's ionic radius, Å, high spin where that matters; of the nearest coordination he lists."""
    from pymatgen.core import Element

    symbol, charge = parse_ion(ion)
    table = Element(symbol).data["Shannon radii"][str(charge)]
    listed = {number: table[roman] for number, roman in ROMAN.items() if roman in table}
    spins = listed[min(listed, key=lambda number: (abs(number - coordination), number))]
    return float((spins.get("High Spin") or next(iter(spins.values())))["ionic_radius"])


@cache
def parse_ion(ion: str) -> tuple[str, int]:
    """Symbol and charge of an ion written as ``Mg2+``."""
    symbol = ion.rstrip("+-0123456789")
    digits = ion[len(symbol) : -1] or "1"
    return symbol, int(digits) if ion.endswith("+") else -int(digits)


def _balanced(prototype: Prototype) -> Iterator[Compound]:
    """Neutral compounds of different elements, the anion the most electronegative."""
    by_charge = defaultdict(list)
    for ion in CATIONS:
        by_charge[parse_ion(ion)[1]].append(ion)
    for charges, anion in product(product(sorted(by_charge), repeat=len(prototype.amounts) - 1), ANIONS):
        total = sum(n * charge for n, charge in zip(prototype.amounts, (*charges, parse_ion(anion)[1]), strict=True))
        if total != 0:
            continue
        for cations in product(*(by_charge[charge] for charge in charges)):
            symbols = {parse_ion(ion)[0] for ion in cations}
            if len(symbols) == len(cations) and all(_is_ionic(ion, anion) for ion in cations):
                yield Compound(prototype, (*cations, anion))


@cache
def _is_ionic(cation: str, anion: str) -> bool:
    from pymatgen.core import Element

    difference: float = Element(parse_ion(anion)[0]).X - Element(parse_ion(cation)[0]).X
    return difference >= MIN_ELECTRONEGATIVITY_DIFFERENCE


def _digest(compound: Compound) -> str:
    return hashlib.sha256(compound.name.encode()).hexdigest()
