"""The built-in set as a source."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from polydit.platform.evaluation.pool import Outcome

from ..sources.base import OnError, Source, map_records
from ..sources.smiles import embed_smiles
from ..structure import AtomicStructure
from ..writer import StoreWriter
from .crystals import Compound, build_crystal, enumerate_compounds
from .molecules import enumerate_smiles

Kind = Literal["molecules", "crystals", "both"]


class BuiltinSource(Source):
    """Small organic molecules and ionic crystals, made on first use in about half a minute on two cores.

    Molecules of at most seven C, N, O and F atoms are enumerated, embedded by RDKit's ETKDG and relaxed by MMFF94;
    charge-balanced compounds are put on common crystal prototypes with lattice constants from Shannon's ionic radii.
    The structures are plausible, not computed or measured: good for demonstrations and tests, not for science.

    Args:
        kind: "molecules", "crystals" or "both".
        count: of each kind.
        workers: processes; None: every core.
        on_error: see `Source`.
    """

    name = "builtin"
    units = {"logp": "", "volume_per_atom": "Å^3"}  # noqa: RUF012

    def __init__(
        self, kind: Kind = "both", count: int = 2000, workers: int | None = None, on_error: OnError = "skip"
    ) -> None:
        super().__init__(on_error)
        if kind not in ("molecules", "crystals", "both"):
            raise ValueError(f"kind is 'molecules', 'crystals' or 'both', not {kind!r}")
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        self.kind = kind
        self.count = count
        self.workers = workers

    def fingerprint(self) -> dict[str, Any]:
        """Settings, and the libraries whose arithmetic the coordinates come from, see `Source.fingerprint`."""
        return {
            "kind": self.kind, "count": self.count, "rdkit": version("rdkit"), "pymatgen": version("pymatgen"),
        }  # fmt: skip

    def read(self, writer: StoreWriter) -> None:
        """Put the structures into `writer`, see `Source.read`."""
        if self.kind != "crystals":
            smiles = enumerate_smiles(self.count)
            molecules = map_records(build_molecule, smiles, "molecules", self.workers)
            for name, molecule in zip(smiles, molecules, strict=True):
                _put(writer, name, molecule, space_group=0)
        if self.kind != "molecules":
            compounds = enumerate_compounds(self.count)
            crystals = map_records(label_crystal, compounds, "crystals", self.workers)
            for compound, crystal in zip(compounds, crystals, strict=True):
                _put(writer, compound.name, crystal, compound.prototype.space_group)


def _put(writer: StoreWriter, name: str, outcome: Outcome[AtomicStructure], space_group: int) -> None:
    if outcome.value is None:
        writer.reject(name, outcome.problem)
    else:
        writer.add(outcome.value, space_group)


def build_molecule(smiles: str) -> AtomicStructure:
    """Embedded molecule with its octanol-water partition coefficient (Wildman & Crippen 1999) as label ``logp``."""
    from rdkit import Chem
    from rdkit.Chem import Crippen

    logp = float(Crippen.MolLogP(Chem.MolFromSmiles(smiles)))  # type: ignore[attr-defined]
    return replace(embed_smiles((smiles, 0)), labels={"logp": logp})


def label_crystal(compound: Compound) -> AtomicStructure:
    """Crystal of a compound with its label ``volume_per_atom``."""
    crystal = build_crystal(compound)
    assert crystal.cell is not None
    return replace(crystal, labels={"volume_per_atom": float(abs(np.linalg.det(crystal.cell))) / len(crystal.numbers)})
