"""What can be asked of a chemistry model: a request's wishes, parsed and checked.

Shape legend: n atoms, k kept atoms.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from polydit.platform.errors import UserError

from .batch import AtomBatch
from .collate import collate
from .structure import AtomicStructure

DOMAINS = ("crystal", "molecule")
KEYS = ("domain", "num_atoms", "composition", "elements", "space_group", "properties", "keep", "reference")


@dataclass(frozen=True)
class KeptFragment:
    """Atoms that a sample must contain exactly.

    Args:
        structure: the fragment; a molecule's, or a crystal's with its cell.
    """

    structure: AtomicStructure

    def batch(self) -> AtomBatch:
        """The fragment alone, as a batch of one."""
        return collate([self.structure])

    def restore(self, sample: AtomicStructure) -> AtomicStructure:
        """The sample moved onto the fragment by its first k atoms, which then are the fragment's own.

        A molecule is superposed (Kabsch 1976); a crystal is shifted by the mean difference of fractional coordinates.
        """
        k = len(self.structure.numbers)
        numbers = np.concatenate([self.structure.numbers, sample.numbers[k:]])
        if sample.cell is None:
            moved = superpose(sample.positions, sample.positions[:k], self.structure.positions)
            return replace(sample, numbers=numbers, positions=np.concatenate([self.structure.positions, moved[k:]]))
        difference = self.structure.fractional - sample.fractional[:k]
        shift = (difference - np.round(difference)).mean(axis=0)
        fractional = np.concatenate([self.structure.fractional, (sample.fractional[k:] + shift) % 1.0])
        return replace(sample, numbers=numbers, positions=fractional @ sample.cell)


@dataclass(frozen=True)
class Wishes:
    """One request, checked.

    Args:
        domain: ``"molecule"`` or ``"crystal"``; None: drawn as in the training split.
        num_atoms: atoms of the sample, per cell for a crystal; None: drawn from the training histogram.
        composition: atomic number -> amount; guides towards these element ratios.
        elements: atomic number of every atom; fixes the composition (crystal structure prediction).
        space_group: international number 1..230; 0: not told.
        properties: name -> wanted value, in the unit of the data set.
        keep: fragment that the sample must contain.
        reference: place of a structure in the data that the sample is judged against; the model is not told.
    """

    domain: str | None = None
    num_atoms: int | None = None
    composition: dict[int, float] = field(default_factory=dict)
    elements: tuple[int, ...] = ()
    space_group: int = 0
    properties: dict[str, float] = field(default_factory=dict)
    keep: KeptFragment | None = None
    reference: int | None = None

    @property
    def size(self) -> int | None:
        """Number of atoms, where the wishes settle it."""
        return len(self.elements) or self.num_atoms

    @property
    def smallest_size(self) -> int:
        """Fewest atoms that hold the kept fragment."""
        return 0 if self.keep is None else len(self.keep.structure.numbers)

    @staticmethod
    def parse(raw: Mapping[str, Any]) -> Wishes:
        """Wishes from a request's plain values.

        Raises:
            UserError: naming the wish, its limit and the fix.
        """
        for key in raw:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
                raise UserError(f"unknown wish {key!r} in a request: {hint} Scalar labels go under properties")
        domain, space_group, num_atoms = raw.get("domain"), raw.get("space_group") or 0, raw.get("num_atoms")
        if domain not in (None, *DOMAINS):
            raise UserError(f"domain is molecule or crystal, not {domain!r}")
        if not isinstance(space_group, int) or not 0 <= space_group <= 230:
            raise UserError(f"space_group is an international number from 1 to 230, not {space_group!r}")
        if space_group and domain == "molecule":
            raise UserError(f"space_group {space_group} was asked of a molecule: ask for domain: crystal")
        if num_atoms is not None and (not isinstance(num_atoms, int) or num_atoms < 1):
            raise UserError(f"num_atoms is a positive integer, not {num_atoms!r}")
        reference = raw.get("reference")
        if reference is not None and (not isinstance(reference, int) or reference < 0):
            raise UserError(f"reference is the place of a structure in the data, 0 or more, not {reference!r}")
        wishes = Wishes(
            domain, num_atoms, parse_composition(raw.get("composition")), parse_elements(raw.get("elements")),
            space_group, {name: parse_number(name, value) for name, value in (raw.get("properties") or {}).items()},
            read_fragment(str(raw["keep"])) if raw.get("keep") else None, reference,
        )
        return wishes._checked()

    def _checked(self) -> Wishes:
        if self.elements and self.num_atoms not in (None, len(self.elements)):
            raise UserError(f"elements are {len(self.elements)} atoms, num_atoms says {self.num_atoms}: drop num_atoms")
        if self.keep is None:
            return self
        if self.size is not None and self.size < self.smallest_size:
            raise UserError(
                f"the kept fragment has {self.smallest_size} atoms, {self.size} were asked for: raise num_atoms"
            )
        domain = "crystal" if self.keep.structure.is_periodic else "molecule"
        if self.domain not in (None, domain):
            raise UserError(f"a {self.domain} was asked for around a fragment of a {domain}: change domain or keep")
        return replace(self, domain=domain)


def parse_number(name: str, value: Any) -> float:
    """The wanted value of a property."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"property {name} is asked for as {value!r}: give a finite number (drawn stands only in the requests of a "
            "data module, which draws a number from its training split)"
        )
    return number


def parse_composition(raw: str | Mapping[Any, float] | None) -> dict[int, float]:
    """Atomic number -> amount of a formula such as ``"Ca(OH)2"`` or of a mapping symbol -> amount."""
    if not raw:
        return {}
    from pymatgen.core import Composition

    try:
        # Strict, because an unknown symbol otherwise becomes a made-up species instead of an error.
        composition = Composition(dict(raw) if isinstance(raw, Mapping) else raw, strict=True)
    except (ValueError, KeyError) as error:
        raise UserError(f"composition {raw!r} is not a formula ({error}): write one such as TiO2") from error
    return {element.Z: float(amount) for element, amount in composition.element_composition.items()}


def parse_elements(raw: str | list[Any] | None) -> tuple[int, ...]:
    """Atomic numbers of a formula with whole amounts (``"Ti2O4"``) in its order, or of a list of symbols or numbers."""
    if not raw:
        return ()
    from pymatgen.core import Element

    if isinstance(raw, list):
        return tuple(int(entry) if isinstance(entry, int) else Element(entry).Z for entry in raw)
    pairs = re.findall(r"([A-Z][a-z]?)(\d*)", raw)
    if "".join(symbol + amount for symbol, amount in pairs) != raw.replace(" ", ""):
        raise UserError(f"elements {raw!r} is not a plain formula with whole amounts: write one such as Ti2O4")
    try:
        return tuple(Element(symbol).Z for symbol, amount in pairs for _ in range(int(amount or 1)))
    except ValueError as error:
        raise UserError(f"elements {raw!r} names no element ({error}): write a formula such as Ti2O4") from error


@lru_cache(maxsize=64)
def read_fragment(path: str) -> KeptFragment:
    """The fragment in a structure file of any format ASE reads.

    Raises:
        UserError: if the file is missing or holds no atoms.
    """
    from ase.io import read

    if not Path(path).is_file():
        raise UserError(f"keep: there is no file {path}: give an XYZ, SDF, CIF or other structure file")
    atoms = read(path)
    atoms = atoms[0] if isinstance(atoms, list) else atoms
    if len(atoms) == 0:
        raise UserError(f"keep: {path} holds no atoms: give a file with the fragment to keep")
    return KeptFragment(AtomicStructure.from_ase(atoms, Path(path).stem))


def superpose(points: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`points` [n, 3] moved by the rigid motion that best brings `source` [k, 3] onto `target` [k, 3]."""
    from scipy.spatial.transform import Rotation

    start, end = source - source.mean(axis=0), target - target.mean(axis=0)
    # Fewer than three points leave a turn about them free: a faint copy of the frame itself settles it as "none".
    frame = 1e-6 * np.eye(3)
    rotation, _ = Rotation.align_vectors(np.concatenate([end, frame]), np.concatenate([start, frame]))
    return rotation.apply(points - source.mean(axis=0)) + target.mean(axis=0)
