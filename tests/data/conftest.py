"""Random structures for the tests of data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import strategies as st

from polydit.data.chemistry.structure import AtomicStructure


def make_molecule(generator: np.random.Generator, size: int, name: str = "molecule") -> AtomicStructure:
    """Random elements on a grid of 1.2 Å, so that no two atoms overlap."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)
    places = generator.permutation(len(grid))[:size]
    positions = 1.2 * grid[places] + generator.uniform(-0.1, 0.1, (size, 3))
    return AtomicStructure(generator.integers(1, 100, size), positions, None, {}, name)


def make_crystal(generator: np.random.Generator, size: int, name: str = "crystal") -> AtomicStructure:
    """A random cell, not too flat, with atoms on a grid of a third of it."""
    cell = 6 * np.eye(3) + generator.uniform(-1.5, 1.5, (3, 3))
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) / 3
    places = grid[generator.permutation(len(grid))[:size]] + generator.uniform(0, 0.05, (size, 3))
    return AtomicStructure(generator.integers(1, 100, size), places @ cell, cell, {}, name)


@st.composite
def structures(draw: Callable[..., int]) -> AtomicStructure:
    """Molecules and crystals of 1 to 12 atoms."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    make = draw(st.sampled_from([make_molecule, make_crystal]))
    return make(generator, draw(st.integers(1, 12)))


@pytest.fixture
def mixed() -> list[AtomicStructure]:
    """Forty structures, molecules and crystals in turn, with labels on some."""
    generator = np.random.default_rng(0)
    made = []
    for i in range(40):
        make = make_molecule if i % 2 else make_crystal
        structure = make(generator, int(generator.integers(1, 13)), f"Ä{i}")
        labels = {"gap": float(i)} if i % 3 else {}
        made.append(AtomicStructure(structure.numbers, structure.positions, structure.cell, labels, structure.name))
    return made
