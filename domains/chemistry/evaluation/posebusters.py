"""PoseBusters' plausibility tests of a molecule on its own.

Source: Buttenschoen, Morris and Deane 2024 (doi 10.1039/D3SC04185A), configuration "mol" of the `posebusters` package.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require

from .rdkit_conversion import Convention, perceive

QUICK_TESTS = (
    "mol_pred_loaded",
    "sanitization",
    "inchi_convertible",
    "all_atoms_connected",
    "no_radicals",
    "bond_lengths",
    "bond_angles",
    "internal_steric_clash",
    "aromatic_ring_flatness",
    "non-aromatic_ring_non-flatness",
    "double_bond_flatness",
)
"""Names of the tests of graph and geometry, as the package writes them; about 0.1 s a molecule."""

ENERGY_TEST = "internal_energy"
"""Name of the test of energy: about a second a molecule, and minutes where conformers are hard to embed."""

TESTS = (*QUICK_TESTS, ENERGY_TEST)
"""Names of all tests."""


def check_geometry(structure: AtomicStructure, convention: Convention = "lengths") -> dict[str, bool | None]:
    """Quick test -> whether a valid molecule passes, None where the test could not be run.

    Args:
        structure: a molecule.
        convention: how its bonds are found.

    Raises:
        ValueError: if RDKit refuses the molecule.
    """
    return _bust(structure, convention, quick=True)


def check_energy(structure: AtomicStructure, convention: Convention = "lengths") -> bool | None:
    """Whether a valid molecule's force-field energy is at most 100 times that of its conformers, None if none embeds.

    Args:
        structure: a molecule.
        convention: how its bonds are found.

    Raises:
        ValueError: if RDKit refuses the molecule.
    """
    return _bust(structure, convention, quick=False)[ENERGY_TEST]


def _bust(structure: AtomicStructure, convention: Convention, quick: bool) -> dict[str, bool | None]:
    molecule = perceive(structure, convention)
    if molecule is None:
        raise ValueError(f"{structure.name or 'a molecule'} is not valid: PoseBusters runs on valid molecules")
    with _quiet():
        report = _buster(quick).bust([molecule], None, None)
    found = {name: report[name].iloc[0] for name in (QUICK_TESTS if quick else (ENERGY_TEST,))}
    # The package says NaN where a test could not be run, which would pass for True.
    return {name: None if value != value else bool(value) for name, value in found.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """What goes wrong in a test is its result; the packages' messages about it would flood the terminal."""
    rdbase = require("rdkit.rdBase", "chemistry")
    loggers = [logging.getLogger(name) for name in ("rdkit", "posebusters")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with rdbase.BlockLogs():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@cache
def _buster(quick: bool) -> Any:
    """The quick tests of configuration "mol", or its test of energy alone."""
    module = require("posebusters", "chemistry")
    config = module.PoseBusters(config="mol").config
    chosen = [part for part in config["modules"] if (part["function"] != "energy_ratio") == quick]
    return module.PoseBusters(config={**config, "modules": chosen})
