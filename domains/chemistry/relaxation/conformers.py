"""The lowest of a molecule's conformers, and how far a given geometry is from it.

Source of the embedding: Riniker and Landrum 2015 (doi 10.1021/acs.jcim.5b00654), version 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import ConfigurationError, require

from .force_field import ForceField, build_molecule, check_settings, make_field, minimise
from .relaxation import Relaxation, Relaxed

if TYPE_CHECKING:
    from rdkit.Chem import Mol


@dataclass(frozen=True)
class ConformerComparison:
    """A geometry against the conformers of its molecule; energies in kcal/mol.

    Args:
        lowest: the lowest conformer, atoms in their order.
        energy: of the geometry as it was given.
        own_minimum: of the minimum that the geometry relaxes to; a member of the ensemble.
        lowest_energy: of the lowest.
        rmsd: Å between the geometry and the lowest, heavy atoms alone (all, if there are fewer than three), after the
            best rigid motion and the best matching of atoms that symmetry makes equal.
        count: conformers in the ensemble, the own minimum included.
        steps: that the geometry took to its minimum.
        converged: whether that and the lowest met the criterion.
        message: how bond orders came about, if not by length alone.
    """

    lowest: AtomicStructure
    energy: float
    own_minimum: float
    lowest_energy: float
    rmsd: float
    count: int
    steps: int
    converged: bool
    message: str


class ConformerSearch(Relaxation):
    """Replaces a molecule's geometry by the lowest conformer of its graph: ETKDG embeds, a force field relaxes.

    Stereochemistry is taken from the geometry and kept. As a relaxation, ``energy_before`` is the given geometry's,
    ``energy_after`` the lowest conformer's, and ``moved`` the RMSD of `ConformerComparison`.

    Args:
        count: conformers to embed; more find lower ones, at some ten milliseconds each.
        force_field: see `MMFFRelaxation`.
        max_steps: for each conformer.
        seed: of the embedding.
    """

    kind = "molecules"
    unit = "kcal/mol"
    per_atom = False

    def __init__(
        self, count: int = 50, force_field: ForceField = "MMFF94", max_steps: int = 2000, seed: int = 0
    ) -> None:
        check_settings(force_field, max_steps)
        if count < 1:
            raise ConfigurationError(f"count is {count}: give 1 conformer or more")
        self.count = count
        self.force_field = force_field
        self.max_steps = max_steps
        self.seed = seed

    @property
    def method(self) -> str:
        """Name of embedding and force field."""
        return f"ETKDG and {self.force_field}"

    def check(self) -> None:
        """RDKit must be there."""
        require("rdkit", "chemistry")

    def compare(self, structure: AtomicStructure) -> ConformerComparison:
        """The geometry of a molecule against the lowest of its conformers.

        Raises:
            ValueError: as by `MMFFRelaxation`, or if no conformer can be embedded.
        """
        chem = require("rdkit.Chem", "chemistry")
        molecule, message = build_molecule(structure)
        chem.AssignStereochemistryFrom3D(molecule)
        given = chem.Mol(molecule)
        field = make_field(molecule, self.force_field)
        energy = float(field.CalcEnergy())
        steps, converged = minimise(field, self.max_steps)
        minima = [(float(field.CalcEnergy()), converged, molecule, -1)]
        embedded = self._embed(given)
        for conformer in embedded.GetConformers():
            field = make_field(embedded, self.force_field, conformer.GetId())
            _, ended = minimise(field, self.max_steps)
            minima.append((float(field.CalcEnergy()), ended, embedded, conformer.GetId()))
        lowest, ended, mol, conformer_id = min(minima, key=lambda minimum: minimum[0])
        if not np.isfinite([energy, lowest]).all():
            raise ValueError(f"{self.force_field} gives energies {energy} and {lowest} kcal/mol: broken geometry")
        positions = np.array(mol.GetConformer(conformer_id).GetPositions(), dtype=np.float64)
        return ConformerComparison(
            replace(structure, positions=positions), energy, minima[0][0], lowest,
            _measure_rmsd(mol, conformer_id, given), len(minima), steps, converged and ended, message,
        )

    def relax(self, structure: AtomicStructure) -> Relaxed:
        """The lowest conformer in place of the geometry.

        Raises:
            ValueError: see `compare`.
        """
        found = self.compare(structure)
        above = found.own_minimum - found.lowest_energy
        said = f"lowest of {found.count} conformers, {above:.2f} kcal/mol below the geometry's own minimum"
        return Relaxed(
            found.lowest, found.energy, found.lowest_energy, found.steps, found.converged, found.rmsd,
            "; ".join(filter(None, (said, found.message))),
        )

    def _embed(self, given: Mol) -> Mol:
        chem = require("rdkit.Chem", "chemistry")
        distances = require("rdkit.Chem.rdDistGeom", "chemistry")
        rdbase = require("rdkit.rdBase", "chemistry")
        parameters: Any = distances.ETKDGv3()
        parameters.randomSeed = self.seed
        embedded = chem.Mol(given)
        with rdbase.BlockLogs():
            found = distances.EmbedMultipleConfs(embedded, self.count, parameters)
            if not found:  # cages and long chains, where a start from distances fails
                parameters.useRandomCoords = True
                found = distances.EmbedMultipleConfs(embedded, self.count, parameters)
        if not found:
            raise ValueError("ETKDG embeds no conformer of this graph")
        return embedded


def _measure_rmsd(molecule: Mol, conformer: int, given: Mol) -> float:
    chem = require("rdkit.Chem", "chemistry")
    align = require("rdkit.Chem.rdMolAlign", "chemistry")
    heavy = sum(atom.GetAtomicNum() > 1 for atom in given.GetAtoms()) >= 3
    probe, reference = chem.Mol(molecule, confId=conformer), chem.Mol(given)
    if heavy:
        probe, reference = chem.RemoveHs(probe), chem.RemoveHs(reference)
    return float(align.GetBestRMS(probe, reference))
