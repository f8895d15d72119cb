"""From requests to structures: priors, wishes kept exactly, and what a sample depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.adit import AtomAutoencoder, LatentAtomCodec
from polydit.domains.chemistry.adit.codec import reduce_cell
from polydit.platform.requests import Request
from polydit.platform.systems.diffusion import DiffusionSystem

from .conftest import random_structures


def requests(count: int = 6, first: int = 0, **wishes: object) -> list[Request]:
    return [Request(first + i, dict(wishes)) for i in range(count)]


def test_a_sample_depends_on_its_own_seed_alone(system: DiffusionSystem) -> None:
    together = system.generate(requests(3, domain="molecule") + requests(3, first=3, domain="crystal"))
    alone = system.generate([Request(4, {"domain": "crystal"})])[0].item
    again = together[4].item
    assert again.numbers.tolist() == alone.numbers.tolist()
    np.testing.assert_allclose(again.positions, alone.positions, atol=1e-3)
    other = system.generate([Request(5, {"domain": "crystal"})])[0].item
    assert len(other.numbers) != len(alone.numbers) or not np.allclose(other.positions, alone.positions, atol=1e-3)


def test_samples_come_in_the_order_of_the_requests(system: DiffusionSystem) -> None:
    sizes = [7, 3, 5, 1]
    samples = system.generate([Request(i, {"domain": "crystal", "num_atoms": n}) for i, n in enumerate(sizes)])
    assert [len(sample.item.numbers) for sample in samples] == sizes
    assert [sample.request.seed for sample in samples] == [0, 1, 2, 3]


def test_batching_does_not_change_samples(system: DiffusionSystem) -> None:
    wanted = requests(7, domain="molecule")
    large = system.generate(wanted)
    system.sample_batch_size = 2
    for one, other in zip(large, system.generate(wanted), strict=True):
        np.testing.assert_allclose(one.item.positions, other.item.positions, atol=1e-3)


def test_open_sizes_follow_the_training_histogram(system: DiffusionSystem) -> None:
    layout = system.codec.layout(requests(4000, domain="crystal"))
    counts = np.bincount(layout.masks["latent"].sum(1).numpy(), minlength=8)[:8] / 4000
    expected = np.arange(8) / 28
    np.testing.assert_allclose(counts, expected, atol=0.03)


def test_open_domains_follow_the_training_shares(system: DiffusionSystem) -> None:
    layout = system.codec.layout(requests(4000))
    crystals = layout.extras["periodic"].float().mean()
    assert abs(float(crystals) - 28 / 35) < 0.03


def test_fixed_elements_are_exact_and_set_the_size(system: DiffusionSystem) -> None:
    for sample in system.generate(requests(3, domain="crystal", elements="Ti2O4")):
        assert sample.item.numbers.tolist() == [22, 22, 8, 8, 8, 8]
        assert sample.item.is_periodic


def test_every_wish_moves_the_sample(system: DiffusionSystem) -> None:
    base = {"domain": "crystal", "num_atoms": 5}
    plain = system.generate([Request(0, base)])[0].item
    for wish in ({"space_group": 225}, {"composition": "NaCl"}, {"properties": {"gap": 2.0}}):
        told = system.generate([Request(0, base | wish)])[0].item
        moved = not np.allclose(told.positions, plain.positions, atol=1e-6)
        assert moved or told.numbers.tolist() != plain.numbers.tolist(), wish
    everything = base | {"space_group": 225, "composition": "NaCl", "properties": {"gap": 2.0}}
    assert len(system.generate([Request(0, everything)])[0].item.numbers) == 5


def test_a_kept_fragment_stands_in_the_sample_exactly(system: DiffusionSystem, tmp_path: Path) -> None:
    molecule = AtomicStructure(np.array([6, 8, 1]), np.array([[0.0, 0, 0], [1.2, 0, 0], [-0.6, 0.9, 0]]))
    crystal = random_structures()[3]
    for name, fragment in (("fragment.xyz", molecule), ("fragment.cif", crystal)):
        path = tmp_path / name
        fragment.to_ase().write(path)
        k = len(fragment.numbers)
        for sample in system.generate(requests(2, keep=str(path), num_atoms=k + 3)):
            assert len(sample.item.numbers) == k + 3
            assert sample.item.numbers[:k].tolist() == fragment.numbers.tolist()
            if fragment.cell is None:
                np.testing.assert_allclose(sample.item.positions[:k], fragment.positions, atol=1e-6)
            else:
                difference = sample.item.fractional[:k] - fragment.fractional
                np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-4)


def test_kept_latents_hold_through_sampling(system: DiffusionSystem, tmp_path: Path) -> None:
    path = tmp_path / "fragment.xyz"
    AtomicStructure(np.array([6, 8]), np.array([[0.0, 0, 0], [1.2, 0, 0]])).to_ase().write(path)
    layout = system.codec.layout(requests(2, keep=str(path), num_atoms=5))
    values, keep = system.codec.known(layout)  # type: ignore[misc]
    seen = []
    decode = system.codec.decode
    system.codec.decode = lambda state, layout: seen.append(state) or decode(state, layout)  # type: ignore[method-assign,func-returns-value]
    system.generate(requests(2, keep=str(path), num_atoms=5))
    kept = keep["latent"].expand_as(values["latent"])
    torch.testing.assert_close(seen[0]["latent"][kept], values["latent"][kept])
    assert kept.sum() == 2 * 2 * 4


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"domian": "crystal"}, "did you mean 'domain'"),
        ({"domain": "protein"}, "molecule or crystal"),
        ({"domain": "molecule", "space_group": 2}, "ask for domain: crystal"),
        ({"space_group": 231}, "from 1 to 230"),
        ({"num_atoms": 0}, "positive integer"),
        ({"num_atoms": 100_000, "domain": "crystal"}, "ask for fewer atoms"),
        ({"composition": "Xx2"}, "not a formula"),
        ({"elements": "Ti2O4(H)"}, "plain formula"),
        ({"elements": "TiO2", "num_atoms": 4}, "drop num_atoms"),
        ({"elements": ["Lr"], "domain": "crystal"}, "beyond the model's table"),
        ({"keep": "nowhere.xyz"}, "no file nowhere.xyz"),
    ],
)
def test_wishes_that_cannot_be_met_say_why(system: DiffusionSystem, wishes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        system.generate([Request(0, wishes)])


@torch.no_grad()
def test_normalised_latents_have_unit_channels_in_each_domain(autoencoder: AtomAutoencoder, batch: AtomBatch) -> None:
    class DataModule:
        def count_histogram(self) -> dict[str, torch.Tensor]:
            return {"crystal": torch.bincount(batch.num_atoms[batch.periodic])}

        def train_dataloader(self) -> list[AtomBatch]:
            return [batch] * 200

    codec = LatentAtomCodec(autoencoder, normaliser_batches=200)
    codec.prepare(DataModule())
    encoded = [codec.encode(batch, torch.Generator().manual_seed(i))[0]["latent"] for i in range(200)]
    for chosen in (batch.periodic, ~batch.periodic):
        latents = torch.cat([latent[batch.mask & chosen[:, None]] for latent in encoded])
        torch.testing.assert_close(latents.mean(0), torch.zeros(4), atol=0.1, rtol=0)
        torch.testing.assert_close(latents.std(0), torch.ones(4), atol=0.1, rtol=0)
    layout = codec.layout([Request(0, {"domain": "crystal", "num_atoms": 2})])
    raw = torch.randn(1, 2, 4)
    state = {"latent": (raw - codec.latent_mean[0]) / codec.latent_std[0]}
    decoded = codec.decode(state, layout)[0]
    mask = layout.masks["latent"]
    expected = autoencoder.decode(raw, mask).structures(mask, torch.tensor([True]))[0]
    np.testing.assert_allclose(decoded.positions, expected.positions, atol=1e-4)
    assert codec.counts[0].sum() == 3


def test_reduced_cells_are_the_same_crystal(system: DiffusionSystem) -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    skewed = AtomicStructure(
        np.array([11, 17]),
        np.array([[0.0, 0, 0], [2.8, 0, 0]]),
        np.array([[0.0, 2.8, 2.8], [2.8, 0.0, 2.8], [2.8, 8.4, 5.6]]),
    )
    reduced = reduce_cell(skewed)
    assert all(55 < angle < 125 for angle in reduced.to_pymatgen().lattice.angles)
    assert min(skewed.to_pymatgen().lattice.angles) < 50
    assert StructureMatcher().fit(reduced.to_pymatgen(), skewed.to_pymatgen())
    flat = AtomicStructure(np.array([11]), np.zeros((1, 3)), np.diag([3.0, 3.0, 1e-9]))
    assert reduce_cell(flat).numbers.tolist() == [11]
    molecule = random_structures()[0]
    assert reduce_cell(molecule) is molecule


def test_training_is_reproducible_and_leaves_the_first_stage_alone(system: DiffusionSystem, batch: AtomBatch) -> None:
    system.train()
    first = system.losses(batch, torch.Generator().manual_seed(0))["loss"]
    second = system.losses(batch, torch.Generator().manual_seed(0))["loss"]
    assert torch.equal(first, second)
    first.backward()
    assert all(p.grad is None for p in system.codec.parameters())
    assert all(p.grad is not None for p in system.denoiser.parameters())
    assert not system.codec.autoencoder.training
