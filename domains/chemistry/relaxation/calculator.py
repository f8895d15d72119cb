"""Relaxation of crystals, or of molecules, by a calculator of ASE."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import ConfigurationError, require

from ..evaluation.energy import build_calculator
from ..superposition import superpose
from .relaxation import Relaxation, Relaxed

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST_VOLUME = 0.1
"""Å³; a flatter cell is no crystal (CDVAE's structural validity), and a calculator may take for ever over it."""


class ASERelaxation(Relaxation):
    """Relaxes crystals with any calculator of ASE, atoms in their order.

    Atoms of a crystal move from where they were along the cell: by their fractional coordinates, without a shift of the
    whole, in the relaxed cell. Those of a molecule move after the best rigid motion.

    Args:
        calculator: class path of a calculator, such as ``"ase.calculators.emt.EMT"``, or of a function that makes one.
        arguments: keyword arguments of the calculator.
        optimizer: class path of an optimiser of ASE.
        max_force: eV/Å at which it has converged; with the cell, also eV/Å of stress times volume, as ASE counts.
        max_steps: of the optimiser; a structure that needs more counts as not converged.
        cell: relax the cell of a crystal too.
        molecules: relax molecules instead of crystals.
    """

    unit = "eV"

    def __init__(
        self,
        calculator: str,
        arguments: dict[str, Any] | None = None,
        optimizer: str = "ase.optimize.FIRE",
        max_force: float = 0.05,
        max_steps: int = 500,
        cell: bool = True,
        molecules: bool = False,
    ) -> None:
        if max_force <= 0 or max_steps < 1:
            raise ConfigurationError(
                f"max_force is {max_force} and max_steps is {max_steps}: give a force above 0 eV/Å, and 1 or more steps"
            )
        self.calculator = calculator
        self.arguments = dict(arguments or {})
        self.optimizer = optimizer
        self.max_force = max_force
        self.max_steps = max_steps
        self.cell = cell and not molecules
        self.kind = "molecules" if molecules else "crystals"
        self.per_atom = not molecules

    @property
    def method(self) -> str:
        """Name of the calculator."""
        return self.calculator.rpartition(".")[2]

    def check(self) -> None:
        """Build calculator and optimiser once.

        Raises:
            ConfigurationError: if a class path leads nowhere, or the calculator refuses its arguments.
        """
        require("ase", "chemistry")
        build_calculator(self.calculator, json.dumps(self.arguments))
        _find_optimizer(self.optimizer)

    def relax(self, structure: AtomicStructure) -> Relaxed:
        """Relax one structure.

        Raises:
            ValueError: if it is flat or not finite, or an energy is.
            NotImplementedError: by calculators that do not know an element.
        """
        _check_geometry(structure)
        atoms = structure.to_ase()
        atoms.calc = build_calculator(self.calculator, json.dumps(self.arguments))
        before = float(atoms.get_potential_energy())
        if not math.isfinite(before):
            raise ValueError(f"{self.method} gives an energy of {before} eV")
        target: Any = atoms
        if self.cell:
            from ase.filters import FrechetCellFilter

            target = FrechetCellFilter(atoms)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of cells that fly apart; the energy tells
            optimizer = _find_optimizer(self.optimizer)(target, logfile=None)
            converged = bool(optimizer.run(fmax=self.max_force, steps=self.max_steps))
        after = float(atoms.get_potential_energy())
        relaxed = replace(
            structure, positions=np.array(atoms.positions, dtype=np.float64),
            cell=None if structure.cell is None else np.array(atoms.cell.array, dtype=np.float64),
        )
        if not (math.isfinite(after) and np.isfinite(relaxed.positions).all()):
            raise ValueError(f"{self.method} gives an energy of {after} eV after {optimizer.nsteps} steps")
        return Relaxed(relaxed, before, after, int(optimizer.nsteps), converged, measure_motion(structure, relaxed))


def measure_motion(before: AtomicStructure, after: AtomicStructure) -> float:
    """Root-mean-square distance in Å of the atoms from where they were, as `ASERelaxation` says."""
    if before.cell is None or after.cell is None:
        delta = superpose(before.positions, after.positions) - after.positions
    else:
        fractional = np.linalg.solve(after.cell.T, after.positions.T).T - np.linalg.solve(
            before.cell.T, before.positions.T
        ).T
        fractional -= np.round(fractional)
        # An atom halfway along an axis may be rounded either way; seen from the first atom, none is in two minds.
        relative = fractional - fractional[0]
        relative -= np.round(relative)
        delta = (relative - relative.mean(axis=0)) @ after.cell
    return float(np.sqrt((delta**2).sum(axis=1).mean()))


def _check_geometry(structure: AtomicStructure) -> None:
    if not np.isfinite(structure.positions).all():
        raise ValueError("a coordinate is not finite")
    if structure.cell is None:
        return
    volume = abs(float(np.linalg.det(structure.cell)))
    if not volume >= SMALLEST_VOLUME or not math.isfinite(volume):
        raise ValueError(f"the cell's volume is {volume:.3g} Å³, below {SMALLEST_VOLUME}")


def _find_optimizer(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    try:
        optimizer = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"optimizer {path!r}: {error}. Give a class path such as ase.optimize.FIRE") from error
    if not callable(getattr(optimizer, "run", None)):
        raise ConfigurationError(f"optimizer {path!r} cannot run: give a class path such as ase.optimize.FIRE")
    found: Callable[..., Any] = optimizer
    return found
