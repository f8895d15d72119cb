"""ADiT's autoencoder: units, masks, losses and published sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.adit import AtomAutoencoder
from polydit.domains.chemistry.adit.autoencoder import Corruption
from polydit.domains.chemistry.adit.fractional import CircleCode, FractionalCode, PlainCode
from polydit.domains.chemistry.adit.losses import AtomLosses
from polydit.domains.chemistry.adit.prediction import NANOMETRES, AtomPrediction, scaled_lattice
from polydit.domains.chemistry.augmentation import CanonicalPose
from polydit.platform.autoencoders import DiagonalGaussian
from polydit.platform.module import count_parameters

from .conftest import random_structures


def perfect_prediction(batch: AtomBatch, code: FractionalCode | None = None) -> AtomPrediction:
    """What a decoder without error would say."""
    logits = 100.0 * one_hot(batch.numbers, 100).float()
    code = code or CircleCode()
    positions, fractional = batch.positions * NANOMETRES, code.encode(batch.fractional)
    return AtomPrediction(logits, positions, fractional, scaled_lattice(batch), code)


def no_posterior(batch: AtomBatch) -> DiagonalGaussian:
    zeros = torch.zeros(*batch.numbers.shape, 4)
    return DiagonalGaussian(zeros, zeros)


def test_perfect_predictions_lose_nothing_and_decode_to_the_input(batch: AtomBatch) -> None:
    batch = CanonicalPose().apply(batch, None)
    losses = AtomLosses()(perfect_prediction(batch), no_posterior(batch), batch)
    assert float(losses["loss"]) < 1e-9
    decoded = perfect_prediction(batch).structures(batch.mask, batch.periodic)
    for structure, original in zip(decoded, random_structures(), strict=True):
        assert structure.numbers.tolist() == original.numbers.tolist()
        assert structure.is_periodic == original.is_periodic
        if original.cell is None:
            ours, theirs = (p[:, None] - p[None] for p in (structure.positions, original.positions))
            np.testing.assert_allclose(np.linalg.norm(ours, axis=-1), np.linalg.norm(theirs, axis=-1), atol=1e-4)
        else:
            np.testing.assert_allclose(np.linalg.det(structure.cell), abs(np.linalg.det(original.cell)), rtol=1e-4)
            difference = structure.fractional - original.fractional
            np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-5)


def test_a_decoder_may_learn_from_the_bonds_of_what_it_decodes(batch: AtomBatch) -> None:
    """GFMDiff's geometric loss: nothing where positions are true, something where a bond is stretched, no crystals."""
    numbers, positions = np.array([8, 1, 1]), np.array([[0, 0, 0], [0.958, 0, 0], [-0.24, 0.927, 0]])
    crystal = random_structures()[3]
    target = collate([AtomicStructure(numbers, positions), crystal])
    losses, perfect = AtomLosses(valence=0.1, softness=0.02), perfect_prediction(target)
    assert "valence" not in AtomLosses()(perfect, no_posterior(target), target)
    assert float(losses(perfect, no_posterior(target), target)["valence"]) < 1e-6
    stretched = (perfect.positions * 1.2).detach().requires_grad_()
    found = losses(replace(perfect, positions=stretched), no_posterior(target), target)["valence"]
    assert float(found.detach()) > 0.1
    found.backward()
    assert stretched.grad is not None and stretched.grad.isfinite().all()
    assert stretched.grad[0, :3].abs().max() > 0 and not stretched.grad[1].any()


def test_heads_learn_only_from_what_exists(batch: AtomBatch, autoencoder: AtomAutoencoder) -> None:
    """Lattice and fractional heads are silent on molecules, the position head on crystals."""
    for periodic, silent, heard in (
        (False, ("fractional_head", "lattice_head"), ("position_head", "type_head")),
        (True, ("position_head",), ("fractional_head", "lattice_head", "type_head")),
    ):
        keep = (batch.periodic == periodic).nonzero().flatten()
        part = collate([random_structures()[i] for i in keep.tolist()])
        autoencoder.zero_grad()
        autoencoder.losses(part, torch.Generator().manual_seed(0))["loss"].backward()
        for name in silent:
            gradient = getattr(autoencoder, name).weight.grad
            assert gradient is None or gradient.abs().max() == 0, name
        for name in heard:
            assert getattr(autoencoder, name).weight.grad.abs().max() > 0, name


def test_padding_changes_nothing(autoencoder: AtomAutoencoder) -> None:
    structures = random_structures()
    alone = autoencoder.encode(collate(structures[2:3])).mean
    together = autoencoder.encode(collate(structures)).mean[2, : alone.shape[1]]
    torch.testing.assert_close(together, alone[0], atol=1e-5, rtol=1e-5)
    mask = torch.tensor([[True] * 4 + [False] * 3])
    latent = torch.randn(1, 7, 4)
    short = autoencoder.decode(latent[:, :4], mask[:, :4])
    long = autoencoder.decode(latent, mask)
    torch.testing.assert_close(long.positions[:, :4], short.positions, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(long.lattice, short.lattice, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("code", "error"), [(CircleCode(), 0.02**2), (PlainCode(), 0.98**2)])
def test_only_the_circle_sees_neighbours_across_the_cell_face(code: FractionalCode, error: float) -> None:
    output = code.encode(torch.full((3,), 0.99))
    assert float(code.error(output, torch.full((3,), 0.01))) == pytest.approx(error, rel=5e-3)
    torch.testing.assert_close(code.decode(output), torch.full((3,), 0.99))


@given(st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=3, max_size=3))
def test_codes_give_back_what_they_took(values: list[float]) -> None:
    fractional = torch.tensor(values, dtype=torch.float64)
    for code in (CircleCode(), PlainCode()):
        difference = code.decode(code.encode(fractional)) - fractional
        assert (difference - difference.round()).abs().max() < 1e-9
        assert float(code.error(code.encode(fractional), fractional)) < 1e-20


@pytest.mark.parametrize("clean", [True, False])
def test_corruption_damages_input_and_only_the_published_fault_damages_targets(batch: AtomBatch, clean: bool) -> None:
    targets = []

    class Recording(AtomLosses):
        def __call__(self, prediction, posterior, target):  # type: ignore[no-untyped-def]
            targets.append(target)
            return super().__call__(prediction, posterior, target)

    torch.manual_seed(0)
    corruption = Corruption(types=1.0, positions=1.0, clean_targets=clean)
    model = AtomAutoencoder(32, 1, 2, 4, pose=CanonicalPose(), corruption=corruption, losses=Recording())
    model.train().losses(batch, torch.Generator().manual_seed(0))
    posed = CanonicalPose().apply(batch, None)
    assert torch.equal(targets[0].numbers, posed.numbers) is clean
    assert torch.equal(targets[0].positions, posed.positions) is clean
    model.eval().losses(batch, torch.Generator().manual_seed(0))
    assert torch.equal(targets[1].positions, posed.positions), "evaluation is never corrupted"


def test_corruption_keeps_fractional_and_cartesian_together(batch: AtomBatch) -> None:
    batch = CanonicalPose().apply(batch, None)
    damaged = Corruption(positions=1.0, scale=0.3).apply(batch, torch.Generator().manual_seed(0))
    crystals = batch.periodic
    difference = torch.linalg.solve(
        batch.cell[crystals].mT, (damaged.positions[crystals] - damaged.fractional[crystals] @ batch.cell[crystals]).mT
    ).mT
    difference = (difference - difference.round())[batch.mask[crystals]]
    assert difference.abs().max() < 1e-4
    assert (damaged.positions - batch.positions)[~batch.mask].abs().max() == 0
    apart = (damaged.positions - batch.positions)[batch.mask]
    assert 0.15 < float(apart.std()) < 0.45


def test_published_size() -> None:
    """About 25 million parameters each for encoder and decoder, as published: 8 pre-norm layers of width 512."""
    with torch.device("meta"):
        model = AtomAutoencoder(fractional=PlainCode())
    layer = 4 * 512 * 512 + 4 * 512 + 2 * 512 * 2048 + 2048 + 512 + 4 * 512
    assert count_parameters(model.encoder) == count_parameters(model.decoder) == 8 * layer + 2 * 512
    assert 25.0e6 < count_parameters(model.encoder) < 25.5e6
    own = 100 * 512 + 2 * (3 * 512 + 512 * 512 + 512) + 512 * 16 + 8 * 512 + 512 * 100 + 100 + 512 * 12
    assert count_parameters(model) == 2 * count_parameters(model.encoder) + own


def test_reconstruction_pairs_items_in_one_pose(batch: AtomBatch, autoencoder: AtomAutoencoder) -> None:
    pairs = autoencoder.eval().reconstruct(batch)
    assert [len(pair.original.numbers) for pair in pairs] == batch.num_atoms.tolist()
    for pair in pairs:
        assert len(pair.decoded.numbers) == len(pair.original.numbers)
        assert np.isfinite(pair.decoded.positions).all()
