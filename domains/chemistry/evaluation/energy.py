"""Stability of crystals against decomposition: energies by an ASE calculator of the user's, over a hull of the user's.

The energies of the hull must come from the calculator itself or be comparable with it (a potential trained on the
hull's functional, corrections included); polydit brings neither, since no such model is free of assumptions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import ConfigurationError, require
from polydit.platform.evaluation.pool import Outcome, map_items

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram


@dataclass(frozen=True)
class EnergyModel:
    """How the energy above the hull is found.

    Args:
        calculator: class path of an ASE calculator, such as ``"ase.calculators.emt.EMT"``.
        hull: JSON file with a list of pymatgen ``PDEntry`` dicts (composition and energy in eV for that composition),
            elements included.
        arguments: keyword arguments of the calculator.
        relax_steps: at most this many steps of relaxation of atoms and cell before the energy is taken; 0: none.
        max_force: eV/Å at which a relaxation ends early.
    """

    calculator: str
    hull: str
    arguments: dict[str, Any] = field(default_factory=dict)
    relax_steps: int = 0
    max_force: float = 0.05

    def __post_init__(self) -> None:
        if self.relax_steps < 0 or self.max_force <= 0:
            raise ConfigurationError(
                f"relax_steps is {self.relax_steps} and max_force is {self.max_force}: give 0 or more steps, and a "
                "force above 0 eV/Å"
            )

    def load_hull(self) -> list[PDEntry]:
        """Entries of the hull file.

        Raises:
            ConfigurationError: if the file does not hold entries.
        """
        diagram = require("pymatgen.analysis.phase_diagram", "chemistry")
        try:
            entries = json.loads(Path(self.hull).read_text(encoding="utf-8"))
            return [diagram.PDEntry.from_dict(entry) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"hull {self.hull}: {type(error).__name__}: {error}. Give a JSON list of pymatgen PDEntry.as_dict()"
            ) from error


@cache
def build_calculator(calculator: str, arguments: str) -> Any:
    """An ASE calculator by class path and JSON of its keyword arguments; one per process.

    Raises:
        ConfigurationError: if the class path leads nowhere or the class refuses the arguments.
    """
    module, _, name = calculator.rpartition(".")
    try:
        return getattr(import_module(module), name)(**json.loads(arguments))
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"energy calculator {calculator!r} with {arguments}: {error}. Give the class path of an installed ASE "
            "calculator, such as ase.calculators.emt.EMT, and the arguments it takes"
        ) from error


def measure_energy(structure: AtomicStructure, model: EnergyModel) -> float:
    """Total energy in eV, relaxed first if the model says so.

    Raises:
        ValueError: if the energy is not finite.
    """
    atoms = structure.to_ase()
    atoms.calc = build_calculator(model.calculator, json.dumps(model.arguments))
    if model.relax_steps:
        from ase.filters import FrechetCellFilter
        from ase.optimize import FIRE

        FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=model.max_force, steps=model.relax_steps)
    energy = float(atoms.get_potential_energy())
    if not math.isfinite(energy):
        raise ValueError(f"energy {energy} eV of {structure.name or 'a crystal'}")
    return energy


def measure_hull_distances(
    structures: Sequence[AtomicStructure], model: EnergyModel, time_limit: float | None, processes: int | None
) -> list[Outcome[float]]:
    """Energy above the hull in eV/atom, negative below it, for every structure.

    Where the calculator fails or the hull lacks an element, the outcome says so.
    """
    entries = model.load_hull()
    build_calculator(model.calculator, json.dumps(model.arguments))
    energies = map_items(
        partial(measure_energy, model=model), structures, description="Energies", time_limit=time_limit,
        processes=processes,
    )
    hulls: dict[frozenset[str], PhaseDiagram | None] = {}
    return [
        energy if energy.value is None else _compare(structure, energy.value, entries, hulls)
        for structure, energy in zip(structures, energies, strict=True)
    ]


def _compare(
    structure: AtomicStructure, energy: float, entries: list[PDEntry], hulls: dict[frozenset[str], PhaseDiagram | None]
) -> Outcome[float]:
    diagram = require("pymatgen.analysis.phase_diagram", "chemistry")
    composition = structure.to_pymatgen().composition
    elements = frozenset(element.symbol for element in composition.elements)
    if elements not in hulls:
        chosen = [entry for entry in entries if {e.symbol for e in entry.composition.elements} <= elements]
        pure = {entry.composition.elements[0].symbol for entry in chosen if entry.is_element}
        hulls[elements] = diagram.PhaseDiagram(chosen) if pure == elements else None
    hull = hulls[elements]
    if hull is None:
        return Outcome(None, f"the hull lacks a pure entry of one of {', '.join(sorted(elements))}")
    distance = hull.get_e_above_hull(diagram.PDEntry(composition, energy), allow_negative=True)
    return Outcome(float(distance)) if distance is not None else Outcome(None, "the hull gives no decomposition")
