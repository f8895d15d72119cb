"""The predictor of a property: its laws, what it learns, what travels in its checkpoint, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.property_networks import SchNetNetwork
from polydit.domains.chemistry.property_prediction import PropertyPredictionSystem, load_predictor
from polydit.platform.checkpoints import build, export
from polydit.platform.errors import CheckpointError, DataError, UserError
from polydit.platform.requests import Request


def make_molecules(count: int = 24, seed: int = 0) -> list[AtomicStructure]:
    """Molecules of H, C, N, O whose gap is their mean distance between atoms."""
    generator = np.random.default_rng(seed)
    molecules = []
    for index in range(count):
        size = int(generator.integers(2, 9))
        positions = generator.normal(size=(size, 3)) * generator.uniform(0.8, 2.0)
        distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        numbers = np.concatenate([[1, 6, 7, 8], generator.choice([1, 6, 7, 8], size)])[-size:]
        labels = {"gap": float(distances.sum() / (size * (size - 1)))}
        molecules.append(AtomicStructure(numbers, positions, labels=labels, name=f"molecule{index}"))
    return molecules


class Labelled:
    """What the system and the evaluator ask of a data module, over structures at hand."""

    def __init__(
        self, structures: list[AtomicStructure], unit: str = "eV", part: tuple[float, float] = (0.0, 0.5), seed: int = 0
    ) -> None:
        self.held, self.unit, self.train_part, self.part_seed = structures, unit, part, seed
        self.requests: list[Request] = []

    def property_unit(self, name: str) -> str:
        return self.unit

    def structures(self, split: str, domain: str) -> list[AtomicStructure]:
        return [structure for structure in self.held if structure.is_periodic == (domain == "crystal")]


def make_system(**options: Any) -> PropertyPredictionSystem:
    torch.manual_seed(0)
    network = SchNetNetwork(width=24, interactions=2, gaussians=12, cutoff=6.0)
    return PropertyPredictionSystem(network, **{"target": "gap", "unit": "eV", **options})


@pytest.fixture
def prepared() -> PropertyPredictionSystem:
    system = make_system().eval()
    system.prepare(Labelled(make_molecules()))
    return system


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), double=st.booleans())
def test_prediction_is_invariant(seed: int, double: bool) -> None:
    """Turning, shifting, mirroring and another order of atoms change nothing."""
    generator = np.random.default_rng(seed)
    network = make_system().network.eval()
    batch = collate(make_molecules(5, seed), properties=["gap"])
    if double:
        network, batch = network.double(), replace(batch, positions=batch.positions.double())
    turn = torch.from_numpy(Rotation.random(random_state=seed).as_matrix() * generator.choice([-1.0, 1.0]))
    moved = batch.positions @ turn.to(batch.positions.dtype) + torch.tensor([0.5, -2.0, 1.0])
    order = torch.arange(batch.mask.shape[1]).repeat(5, 1)
    for row, count in enumerate(batch.num_atoms.tolist()):
        order[row, :count] = torch.from_numpy(generator.permutation(count))
    other = replace(
        batch, numbers=batch.numbers.gather(1, order), positions=moved.gather(1, order[..., None].expand_as(moved))
    )
    with torch.no_grad():
        torch.testing.assert_close(network(other), network(batch), rtol=0, atol=1e-10 if double else 2e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), cut=st.integers(1, 7))
def test_a_molecule_is_predicted_alike_alone_and_in_any_batch(seed: int, cut: int) -> None:
    system = make_system().eval()
    system.prepare(Labelled(make_molecules(30)))
    molecules = make_molecules(8, seed)
    together = system.predict(molecules)
    np.testing.assert_allclose(system.predict(molecules, batch_size=cut), together, atol=2e-6)
    np.testing.assert_allclose(system.predict(molecules[::-1])[::-1], together, atol=2e-6)


def test_pairs_are_all_within_the_cutoff_and_none_between_molecules() -> None:
    network = SchNetNetwork(width=8, interactions=1, gaussians=4, cutoff=2.5)
    batch = collate(make_molecules(6))
    owners = torch.arange(6)[:, None].expand_as(batch.mask)[batch.mask]
    positions = batch.positions[batch.mask]
    pairs, distances = network._neighbours(positions, owners)
    full = torch.cdist(positions, positions)
    wanted = (full <= 2.5) & (owners[:, None] == owners[None]) & ~torch.eye(len(owners), dtype=torch.bool)
    found = torch.zeros_like(wanted)
    found[pairs[0], pairs[1]] = True
    assert torch.equal(found, wanted) and len(distances) == int(wanted.sum())
    torch.testing.assert_close(distances, full[pairs[0], pairs[1]], rtol=1e-4, atol=1e-5)


def test_it_learns_what_distances_tell() -> None:
    system = make_system()
    system.prepare(Labelled(make_molecules(200)))
    train, held_out = (collate(make_molecules(*arguments), properties=["gap"]) for arguments in ((200,), (60, 1)))
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    before = float(system.losses(held_out, generator)["mae"])
    for _ in range(80):
        optimizer.zero_grad()
        losses = system.losses(train, generator)
        losses["loss"].backward()
        optimizer.step()
    after = system.losses(held_out, generator)
    assert float(after["mae"]) < 0.4 * before
    assert float(after["loss"].detach() * system.std) == pytest.approx(float(after["mae"]), rel=1e-5)


def test_statistics_are_of_the_labelled_molecules() -> None:
    molecules = make_molecules(50)
    unlabelled = AtomicStructure(np.array([9, 9]), np.eye(3)[:2])
    crystal = AtomicStructure(np.array([11]), np.zeros((1, 3)), np.eye(3) * 4, {"gap": 99.0})
    system = make_system()
    system.prepare(Labelled([*molecules, unlabelled, crystal], part=(0.25, 0.75), seed=3))
    gaps, sizes = (np.array([m.labels["gap"] for m in molecules]), np.array([len(m.numbers) for m in molecules]))
    assert (float(system.mean), float(system.std)) == pytest.approx((gaps.mean(), gaps.std()), rel=1e-5)
    assert system.elements.nonzero()[:, 0].tolist() == [1, 6, 7, 8]
    assert system.predict_by_size(np.array([4]))[0] == pytest.approx(np.median(gaps[sizes == 4]), rel=1e-6)
    assert system.predict_by_size(np.array([300, 9999])) == pytest.approx([np.median(gaps)] * 2, rel=1e-6)
    assert system.train_part.tolist() == [0.25, 0.75, 3]


def test_only_labelled_rows_count(prepared: PropertyPredictionSystem) -> None:
    molecules = make_molecules(6)
    crystal = AtomicStructure(np.array([11]), np.zeros((1, 3)), np.eye(3) * 4)
    nothing = replace(molecules[0], labels={})
    generator = torch.Generator()
    mixed = collate([nothing, *molecules, crystal], properties=["gap"])
    assert mixed.properties["gap"].isnan().sum() == 2
    losses, alone = (prepared.losses(batch, generator) for batch in (mixed, collate(molecules, ["gap"])))
    torch.testing.assert_close(losses["loss"], alone["loss"])
    predictions = prepared.reconstruct(mixed)
    assert [p.actual for p in predictions] == pytest.approx([m.labels["gap"] for m in molecules])
    assert [p.num_atoms for p in predictions] == [len(m.numbers) for m in molecules]
    np.testing.assert_allclose([p.predicted for p in predictions], prepared.predict(molecules), atol=2e-6)
    none = collate([nothing], properties=["gap"])
    loss = prepared.losses(none, generator)["loss"]
    loss.backward()
    assert float(loss.detach()) == 0 and prepared.reconstruct(none) == []


def test_the_batch_is_left_as_it_is(prepared: PropertyPredictionSystem) -> None:
    batch = collate(make_molecules(4), properties=["gap"])
    copy: AtomBatch = batch.to("cpu")
    copy = replace(copy, positions=copy.positions.clone(), numbers=copy.numbers.clone())
    prepared.losses(batch, torch.Generator())
    assert torch.equal(batch.positions, copy.positions) and torch.equal(batch.numbers, copy.numbers)


def test_gradient_reaches_every_parameter(prepared: PropertyPredictionSystem) -> None:
    prepared.losses(collate(make_molecules(8), ["gap"]), torch.Generator())["loss"].backward()
    assert all(parameter.grad is not None for parameter in prepared.parameters())


def test_it_loads_with_no_configuration_at_hand(prepared: PropertyPredictionSystem, tmp_path: Path) -> None:
    module = build(
        {
            "system": {
                "class_path": "polydit.domains.chemistry.property_prediction.PropertyPredictionSystem",
                "init_args": {
                    "target": "gap", "unit": "eV",
                    "network": {
                        "class_path": "polydit.domains.chemistry.property_networks.SchNetNetwork",
                        "init_args": {"width": 24, "interactions": 2, "gaussians": 12, "cutoff": 6.0},
                    },
                },
            }
        }
    )  # fmt: skip
    module.system.load_state_dict(prepared.state_dict())
    export(module, tmp_path / "exported")
    loaded = load_predictor(str(tmp_path / "exported"))
    molecules = make_molecules(5, 3)
    np.testing.assert_array_equal(loaded.predict(molecules), prepared.predict(molecules))
    assert (loaded.target, loaded.unit, loaded.train_part.tolist()) == ("gap", "eV", [0.0, 0.5, 0.0])
    untrained = build(module.config or {})
    export(untrained, tmp_path / "untrained")
    with pytest.raises(CheckpointError, match="has seen no data"):
        load_predictor(str(tmp_path / "untrained"))


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"unit": "Hartree"}, Labelled(make_molecules()), "comes in eV, but the recipe says unit 'Hartree'"),
        ({"target": "mass"}, Labelled(make_molecules()), "0 training molecules have the label mass"),
        ({}, Labelled(make_molecules(1)), "1 training molecules have the label gap, 1 different"),
    ],
)
def test_what_cannot_be_learnt_is_refused(options: dict[str, Any], data: Labelled, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_system(**options).prepare(data)


def test_what_cannot_be_predicted_is_refused(prepared: PropertyPredictionSystem) -> None:
    fluorine = AtomicStructure(np.array([6, 9]), np.eye(3)[:2], name="strange")
    assert prepared.unknown_elements(fluorine) == [9]
    with pytest.raises(DataError, match="strange holds F, but the predictor of gap saw H, C, N, O alone"):
        prepared.predict([*make_molecules(2), fluorine])
    with pytest.raises(UserError, match="2 samples were asked of a predictor of gap"):
        prepared.generate([Request(0), Request(1)])
    with pytest.raises(DataError, match="batches carry no gap: list it under"):
        prepared.losses(collate(make_molecules(2)), torch.Generator())
    crystal = AtomicStructure(np.array([11]), np.zeros((1, 3)), np.eye(3) * 4, {"gap": 1.0})
    with pytest.raises(DataError, match="1 of 1 structures are crystals"):
        prepared.losses(collate([crystal], ["gap"]), torch.Generator())
    assert prepared.predict([]).shape == (0,)
