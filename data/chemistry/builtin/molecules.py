"""Small organic molecules of C, N, O, F and H, enumerated as graphs that grow by an atom or a ring at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

from polydit.platform.errors import ConfigurationError

if TYPE_CHECKING:
    from rdkit.Chem import Mol, RWMol

MAX_HEAVY_ATOMS = 7
"""C, N, O and F of a molecule together."""

MAX_ATOMS = 20
"""Atoms of a molecule, hydrogens included."""

SUBSTITUENTS = {"C": 4, "N": 3, "O": 2, "F": 1}
"""Elements that are added, with their valence."""

MAX_HETEROATOMS = 3
"""N, O and F of a molecule together; none of them is bonded to another."""

UNWANTED = (
    "C=C=*", "N=C=*",  # cumulenes, ketenes, isocyanates
    "[CX4]([F,O,N])[O,N]",  # two polar neighbours on one saturated carbon: acetals, hydrates
    "[OX2H,NX3;H1,H2;!$([NX3]C=O);!$([NX3]C#N)][C;!$(C=O)]=[C,N]",  # enols, enamines, amidines: tautomers
    "[O,N]C#C", "[F]C#*", "[F]C=[N,O]", "[O,N]C#N", "[C;!R]=[NX2H]",  # reactive groups
    "*#*@*", "*=1**1", "*=1***1", "[r3]=*", "[r4]=*",  # strained
)  # fmt: skip
"""SMARTS of groups that do not last in a bottle, or that a force field draws badly."""


def enumerate_smiles(count: int) -> list[str]:
    """`count` canonical SMILES: every molecule of few heavy atoms, then part of those of the next size.

    Returns:
        SMILES sorted by number of heavy atoms, then alphabetically.

    Raises:
        ConfigurationError: if there are not so many with `MAX_HEAVY_ATOMS`.
    """
    level, chosen = ["C", "N", "O"], ["C", "N", "O"]
    for _ in range(2, MAX_HEAVY_ATOMS + 1):
        level = _next_level(level, count - len(chosen))
        chosen += level
        if len(chosen) >= count:
            return sorted(chosen[:count], key=lambda smiles: (_count_heavy(smiles), smiles))
    raise ConfigurationError(f"the built-in set has {len(chosen)} molecules, fewer than the {count} asked for")


def _next_level(level: list[str], limit: int) -> list[str]:
    """Wanted molecules with one heavy atom more than those of `level`, at most `limit`, in the order of their digest.

    Parents are taken in that order too, and no more of them than fill the limit, so that a part of a level is as varied
    as the whole.
    """
    grown: set[str] = set()
    seen: set[str] = set()
    for parent in sorted(level, key=_digest):
        children = set(grow(parent)) - seen
        seen |= children
        grown |= {smiles for smiles in children if is_wanted(smiles)}
        if len(grown) >= limit:
            break
    return sorted(grown, key=_digest)[:limit]


def grow(smiles: str) -> Iterator[str]:
    """Canonical SMILES of every molecule with one heavy atom more: on a chain, or also closing the one ring allowed."""
    from rdkit import Chem

    parent = Chem.MolFromSmiles(smiles)
    Chem.Kekulize(parent, clearAromaticFlags=True)
    free = [atom.GetTotalNumHs() for atom in parent.GetAtoms()]
    hetero = [atom.GetSymbol() != "C" for atom in parent.GetAtoms()]
    for host, symbol in product(range(len(free)), SUBSTITUENTS):
        if symbol != "C" and (hetero[host] or sum(hetero) >= MAX_HETEROATOMS):
            continue
        valence = SUBSTITUENTS[symbol]
        for order in range(1, min(free[host], valence, 3) + 1):
            grown = Chem.RWMol(parent)
            new = grown.AddAtom(Chem.Atom(symbol))
            grown.AddBond(host, new, Chem.BondType.values[order])
            yield from _canonical(grown)
            if order < valence and not parent.GetRingInfo().NumRings():
                yield from _close_rings(grown, host, free, hetero, symbol)


def is_wanted(smiles: str) -> bool:
    """Whether the molecule is small enough and free of `UNWANTED` groups."""
    from rdkit import Chem

    mol = Chem.MolFromSmiles(smiles)
    if Chem.AddHs(mol).GetNumAtoms() > MAX_ATOMS:
        return False
    return not any(mol.HasSubstructMatch(pattern) for pattern in _patterns())


def _close_rings(grown: RWMol, host: int, free: list[int], hetero: list[bool], symbol: str) -> Iterator[str]:
    """Bond the last atom to any other but its host that has a hydrogen to give."""
    from rdkit import Chem

    for other, hydrogens in enumerate(free):
        if other != host and hydrogens and not (hetero[other] and symbol != "C"):
            closed = Chem.RWMol(grown)
            closed.AddBond(other, grown.GetNumAtoms() - 1, Chem.BondType.SINGLE)
            yield from _canonical(closed)


def _canonical(grown: RWMol) -> Iterator[str]:
    from rdkit import Chem

    mol: Mol = Chem.Mol(grown)
    if not Chem.SanitizeMol(mol, catchErrors=True):
        yield Chem.MolToSmiles(mol)


@lru_cache(maxsize=1)
def _patterns() -> tuple[Mol, ...]:
    from rdkit import Chem

    return tuple(Chem.MolFromSmarts(smarts) for smarts in UNWANTED)


def _count_heavy(smiles: str) -> int:
    from rdkit import Chem

    return int(Chem.MolFromSmiles(smiles).GetNumHeavyAtoms())


def _digest(smiles: str) -> str:
    return hashlib.sha256(smiles.encode()).hexdigest()
