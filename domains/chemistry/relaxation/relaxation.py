"""The contract of a relaxation: one structure to the nearest minimum of some energy, and what that changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from polydit.data.chemistry.structure import AtomicStructure


@dataclass(frozen=True)
class Relaxed:
    """A structure after relaxation, and what it took.

    Args:
        structure: atoms in the order of the one that came in, and its name and labels.
        energy_before: of the structure that came in, in the relaxation's unit.
        energy_after: of `structure`.
        steps: of the optimiser.
        converged: whether the optimiser met its criterion, rather than ran out of steps.
        moved: Å, root-mean-square distance of the atoms from where they were; each relaxation says after what motion.
        message: what a reader should know of this one; often empty.
    """

    structure: AtomicStructure
    energy_before: float
    energy_after: float
    steps: int
    converged: bool
    moved: float
    message: str = ""


class Relaxation(ABC):
    """Finds a minimum of energy near a structure. Must be picklable, because it works in other processes."""

    kind: Literal["molecules", "crystals"]
    """What it relaxes."""

    unit: str
    """Of its energies."""

    per_atom: bool
    """Whether energies are to be compared per atom, as is usual of crystals."""

    @property
    @abstractmethod
    def method(self) -> str:
        """What relaxes, in a word or two, such as ``"MMFF94"``."""

    def check(self) -> None:
        """Fail early, before structures are there; nothing by default.

        Raises:
            ConfigurationError: if the settings cannot work.
        """
        return None

    def accepts(self, structure: AtomicStructure) -> bool:
        """Whether a structure is of the kind that is relaxed here."""
        return structure.is_periodic == (self.kind == "crystals")

    @abstractmethod
    def relax(self, structure: AtomicStructure) -> Relaxed:
        """Relax one structure.

        Raises:
            ValueError: if it cannot be relaxed, with the reason.
        """
