"""SMILES of the training molecules, by the same bond inference as the samples', computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from polydit.data.chemistry.bonds import read_bond_table
from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.evaluation.pool import map_items
from polydit.platform.evaluation.writer import write_atomically

from .rdkit_conversion import Convention, list_smiles

CHUNK = 256
"""Molecules per message to a worker process."""


def collect_training_smiles(
    structures: Sequence[AtomicStructure],
    convention: Convention = "lengths",
    cache_folder: Path | None = None,
    processes: int | None = None,
) -> frozenset[str]:
    """Distinct SMILES of the valid ones among `structures`; about 2 ms each on one core.

    Args:
        structures: molecules alone; what is not valid is left out.
        convention: how bonds are found.
        cache_folder: where the result is kept under a digest of the molecules, the bond table and the convention.
            None: it is not kept.
        processes: worker processes; None: one per available core, 0: none.
    """
    if not len(structures):
        return frozenset()
    if cache_folder is None:
        return _collect(structures, convention, processes)
    path = cache_folder / f"smiles-{_digest(structures, convention)}.json"
    if path.exists():
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    smiles = _collect(structures, convention, processes)
    cache_folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(sorted(smiles), indent=0))
    return smiles


def _collect(molecules: Sequence[AtomicStructure], convention: Convention, processes: int | None) -> frozenset[str]:
    chunks = [molecules[start : start + CHUNK] for start in range(0, len(molecules), CHUNK)]
    function = partial(list_smiles, convention=convention)
    outcomes = map_items(function, chunks, description="SMILES of the training set", processes=processes)
    problems = [outcome.problem for outcome in outcomes if outcome.value is None]
    if problems:
        raise RuntimeError(f"SMILES of the training set: {len(problems)} of {len(chunks)} parts failed: {problems[0]}")
    return frozenset(smiles for outcome in outcomes for smiles in outcome.value or ())


def _digest(molecules: Sequence[AtomicStructure], convention: Convention) -> str:
    digest = hashlib.sha256(read_bond_table() + convention.encode())
    for molecule in molecules:
        digest.update(len(molecule.numbers).to_bytes(4, "little"))
        digest.update(molecule.numbers.tobytes())
        digest.update(molecule.positions.tobytes())
    return digest.hexdigest()[:24]
