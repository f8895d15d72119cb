"""The batch against pymatgen, ASE and a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.cell import Cell
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice

from polydit.data.chemistry.collate import collate, collate_raw
from polydit.data.chemistry.lattice import cell_parameters, cell_vectors
from polydit.data.chemistry.store import StructureStore
from polydit.data.chemistry.structure import AtomicStructure

from .conftest import structures


@settings(max_examples=30, deadline=None)
@given(items=st.lists(structures(), min_size=1, max_size=6))
def test_rows_are_the_structures(items: list[AtomicStructure]) -> None:
    batch = collate(items)
    assert batch.mask.sum(dim=1).tolist() == batch.num_atoms.tolist() == [len(item.numbers) for item in items]
    assert batch.periodic.tolist() == [item.is_periodic for item in items]
    for row, item in enumerate(items):
        n = len(item.numbers)
        assert batch.numbers[row, :n].tolist() == item.numbers.tolist()
        assert not batch.numbers[row, n:].any()
        assert not batch.positions[row, n:].any()
        assert not batch.fractional[row, n:].any()
        np.testing.assert_allclose(batch.positions[row, :n], item.positions, atol=1e-5)
        if item.cell is None:
            assert not (batch.cell[row].any() or batch.lengths[row].any() or batch.angles[row].any())
            assert not batch.fractional[row].any()
            continue
        lattice = Lattice(item.cell)
        np.testing.assert_allclose(batch.lengths[row], lattice.abc, rtol=1e-5)
        np.testing.assert_allclose(np.degrees(batch.angles[row].numpy()), lattice.angles, rtol=1e-5)
        difference = batch.fractional[row, :n].numpy() - lattice.get_fractional_coords(item.positions)
        np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-5)
        assert ((batch.fractional >= 0) & (batch.fractional < 1)).all()


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.tuples(*[st.floats(1, 30)] * 3), angles=st.tuples(*[st.floats(65, 115)] * 3)
)
def test_cells_agree_with_ase_and_come_back(lengths: tuple[float, ...], angles: tuple[float, ...]) -> None:
    cells = cell_vectors(np.array([lengths]), np.radians([angles]))
    np.testing.assert_allclose(cells[0], Cell.fromcellpar([*lengths, *angles]).array, atol=1e-9)
    back_lengths, back_angles = cell_parameters(cells)
    np.testing.assert_allclose(back_lengths[0], lengths)
    np.testing.assert_allclose(np.degrees(back_angles[0]), angles)


def test_an_atom_on_a_cell_face_stands_at_zero() -> None:
    structure = AtomicStructure(np.array([11]), np.array([[-1e-12, 4.0, 4.0 - 1e-9]]), 4.0 * np.eye(3))
    assert collate([structure]).fractional.tolist() == [[[0.0, 0.0, 0.0]]]


def test_a_store_and_its_structures_give_the_same_batch(mixed: list[AtomicStructure], tmp_path: Path) -> None:
    store = StructureStore.write(mixed, tmp_path / "s")
    chosen = np.array([3, 4, 17, 0])
    direct = collate_raw(store.read(chosen, ["gap"]))
    objects = collate([mixed[i] for i in chosen], ["gap"])
    for name in ("numbers", "positions", "fractional", "cell", "lengths", "angles", "mask", "periodic", "num_atoms"):
        torch.testing.assert_close(getattr(direct, name), getattr(objects, name), rtol=0, atol=0)
    torch.testing.assert_close(direct.properties["gap"], objects.properties["gap"], equal_nan=True)
    assert torch.isnan(direct.properties["gap"]).tolist() == [True, False, False, True]
    assert direct.index is not None
    assert direct.index.tolist() == chosen.tolist()


def test_a_batch_moves_whole(mixed: list[AtomicStructure]) -> None:
    moved = collate(mixed, ["gap"]).to("meta")
    assert {moved.numbers.device.type, moved.properties["gap"].device.type, moved.mask.device.type} == {"meta"}


def test_no_structures_are_refused() -> None:
    with pytest.raises(ValueError, match="0 structures"):
        collate([])
