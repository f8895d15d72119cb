"""Relaxation of molecules by RDKit's force fields, and the bonds that these need.

Sources: MMFF94, Halgren 1996 (doi 10.1002/(SICI)1096-987X(199604)17:5/6<490::AID-JCC1>3.0.CO;2-P), in RDKit by Tosco,
Stiefl and Landrum 2014 (doi 10.1186/s13321-014-0037-3); UFF, Rappé et al. 1992 (doi 10.1021/ja00051a040).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from polydit.data.chemistry.interchange import sanitize_molecule
from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import ConfigurationError, require

from ..superposition import superpose
from .relaxation import Relaxation, Relaxed

if TYPE_CHECKING:
    from rdkit.Chem import Mol

ForceField = Literal["MMFF94", "MMFF94s", "UFF"]
"""MMFF94s differs from MMFF94 by flatter nitrogens, as in crystals."""

MOST_ORDERS = 10_000
"""Assignments of bond orders that RDKit tries before it gives up; molecules of drug size need some hundred."""


class MMFFRelaxation(Relaxation):
    """Relaxes molecules in a force field of RDKit, atoms in their order.

    Bonds are those that the EDM bond table infers from distances. The table knows no aromatic bond and misses orders of
    bonds a little too long, which shows as radicals; such orders are completed by RDKit, so that no atom is left with
    an unpaired electron and the molecule is neutral, if need be with formal charges that cancel; the message says so.
    What has no such orders is refused, since a force field would pull it towards another molecule. How far atoms moved
    is measured after the best rigid motion.

    Args:
        force_field: ``"MMFF94"``, ``"MMFF94s"`` or ``"UFF"``; UFF knows every element and is less exact.
        max_steps: of the BFGS optimiser; a molecule that needs more counts as not converged.
    """

    kind = "molecules"
    unit = "kcal/mol"
    per_atom = False

    def __init__(self, force_field: ForceField = "MMFF94", max_steps: int = 2000) -> None:
        check_settings(force_field, max_steps)
        self.force_field = force_field
        self.max_steps = max_steps

    @property
    def method(self) -> str:
        """Name of the force field."""
        return self.force_field

    def check(self) -> None:
        """RDKit must be there."""
        require("rdkit", "chemistry")

    def relax(self, structure: AtomicStructure) -> Relaxed:
        """Relax one molecule.

        Raises:
            ValueError: if a coordinate is not finite, if the bonds make no neutral closed-shell molecule, or if the
                force field has no parameters for it.
        """
        molecule, message = build_molecule(structure)
        field = make_field(molecule, self.force_field)
        before = float(field.CalcEnergy())
        steps, converged = minimise(field, self.max_steps)
        after = float(field.CalcEnergy())
        positions = np.array(molecule.GetConformer().GetPositions(), dtype=np.float64)
        if not (np.isfinite(positions).all() and np.isfinite([before, after]).all()):
            raise ValueError(f"{self.force_field} gives energies {before} and {after} kcal/mol: the geometry is broken")
        moved = superpose(structure.positions, positions) - positions
        return Relaxed(
            replace(structure, positions=positions), before, after, steps, converged,
            float(np.sqrt((moved**2).sum(axis=1).mean())), message,
        )


def check_settings(force_field: str, max_steps: int) -> None:
    """Refuse an unknown force field and fewer than one step.

    Raises:
        ConfigurationError: naming the value and what may stand there.
    """
    if force_field not in ("MMFF94", "MMFF94s", "UFF"):
        raise ConfigurationError(f"force_field is {force_field!r}: give MMFF94, MMFF94s or UFF")
    if max_steps < 1:
        raise ConfigurationError(f"max_steps is {max_steps}: give 1 or more")


def build_molecule(structure: AtomicStructure) -> tuple[Mol, str]:
    """Sanitised RDKit molecule without radicals, and what of its graph is not told by lengths alone.

    Raises:
        ValueError: if there is none.
    """
    if not np.isfinite(structure.positions).all():
        raise ValueError("a coordinate is not finite")
    molecule = structure.to_rdkit()
    if molecule is not None and not _list_radicals(molecule):
        return molecule, _describe(molecule)
    graph = structure.to_rdkit(sanitize=False)
    rdbase = require("rdkit.rdBase", "chemistry")
    bonds = require("rdkit.Chem.rdDetermineBonds", "chemistry")
    with rdbase.BlockLogs():
        try:
            bonds.DetermineBondOrders(graph, charge=0, embedChiral=False, maxIterations=MOST_ORDERS)
        except ValueError as error:
            raise ValueError(
                f"the bonds within reach of each other make no neutral molecule ({' '.join(str(error).split())})"
            ) from error
    if graph is None or sanitize_molecule(graph) is None:
        raise ValueError("a valence is not allowed")
    if radicals := _list_radicals(graph):
        raise ValueError(f"unpaired electrons at {', '.join(radicals)}")
    return graph, ", ".join(filter(None, ("bond orders completed by RDKit", _describe(graph))))


def make_field(molecule: Mol, force_field: str, conformer: int = -1) -> Any:
    """A force field of RDKit on a conformer of a molecule.

    Raises:
        ValueError: if it lacks parameters for one of the atoms.
    """
    helpers = require("rdkit.Chem.rdForceFieldHelpers", "chemistry")
    rdbase = require("rdkit.rdBase", "chemistry")
    with rdbase.BlockLogs():
        if force_field == "UFF":
            has = helpers.UFFHasAllMoleculeParams(molecule)
            field = helpers.UFFGetMoleculeForceField(molecule, confId=conformer) if has else None
        else:
            has = helpers.MMFFHasAllMoleculeParams(molecule)
            properties = helpers.MMFFGetMoleculeProperties(molecule, mmffVariant=force_field) if has else None
            field = properties and helpers.MMFFGetMoleculeForceField(molecule, properties, confId=conformer)
    if not field:
        elements = ", ".join(sorted({atom.GetSymbol() for atom in molecule.GetAtoms()}))
        other = "an ASE calculator" if force_field == "UFF" else "UFF or an ASE calculator"
        raise ValueError(f"{force_field} has no parameters for some atom among {elements}: try {other}")
    return field


def minimise(field: Any, max_steps: int) -> tuple[int, bool]:
    """Minimise the energy of a force field in place: the number of steps, and whether RDKit calls it converged."""
    require("rdkit.Chem.rdtrajectory", "chemistry")  # the type of what comes next, which RDKit does not load by itself
    more, snapshots = field.MinimizeTrajectory(1, max_steps)
    return len(snapshots), more == 0


def _describe(molecule: Mol) -> str:
    """The atoms that bear formal charges, as in a nitro group."""
    charged = [f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in molecule.GetAtoms() if atom.GetFormalCharge()]
    return f"formal charges at {', '.join(charged)}" if charged else ""


def _list_radicals(molecule: Mol) -> list[str]:
    return [f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in molecule.GetAtoms() if atom.GetNumRadicalElectrons()]
