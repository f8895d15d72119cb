"""Poses keep a structure's shape; random ones cover orientations, canonical ones forget them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.augmentation import (
    CanonicalPose,
    Pose,
    PublishedPose,
    RandomPose,
    cells_from_parameters,
    random_rotations,
    rotate,
    rotation_matrices,
)


def make_batch(seed: int = 0) -> AtomBatch:
    rng = np.random.default_rng(seed)
    structures = []
    for count in (1, 4, 9):
        structures.append(AtomicStructure(rng.integers(1, 9, count), rng.normal(size=(count, 3)) * [3, 2, 1]))
        cell = np.diag([4.0, 5.0, 6.0]) + rng.normal(size=(3, 3)) * 0.5
        structures.append(AtomicStructure(rng.integers(1, 90, count), rng.uniform(size=(count, 3)) @ cell, cell))
    return collate(structures)


def distances(batch: AtomBatch) -> torch.Tensor:
    """Pair distances: plain for molecules, to the nearest image within one cell for crystals."""
    difference = batch.positions[:, :, None] - batch.positions[:, None]
    fractional = batch.fractional[:, :, None] - batch.fractional[:, None]
    periodic = ((fractional - fractional.round())[..., None, :] @ batch.cell[:, None, None]).squeeze(-2)
    apart = torch.where(batch.periodic[:, None, None, None], periodic, difference).norm(dim=-1)
    return apart * (batch.mask[:, :, None] & batch.mask[:, None])


@pytest.mark.parametrize("pose", [RandomPose(), CanonicalPose(), RandomPose(shift=False)])
def test_poses_keep_distances_and_consistency(pose: Pose) -> None:
    batch = make_batch()
    posed = pose.apply(batch, torch.Generator().manual_seed(3))
    torch.testing.assert_close(distances(posed), distances(batch), atol=2e-4, rtol=1e-4)
    back = (posed.fractional @ posed.cell)[posed.periodic]
    difference = torch.linalg.solve(posed.cell[posed.periodic].mT, (back - posed.positions[posed.periodic]).mT)
    assert (difference - difference.round()).abs().max() < 1e-3
    assert (posed.positions[~posed.mask] == 0).all()


def test_canonical_pose_forgets_rotation_but_not_chirality() -> None:
    batch = make_batch()
    keep = ~batch.periodic & (batch.num_atoms > 1)
    reference = CanonicalPose().apply(batch, None).positions[keep]
    turned = rotate(batch, random_rotations(len(keep), torch.Generator().manual_seed(1)))
    torch.testing.assert_close(CanonicalPose().apply(turned, None).positions[keep], reference, atol=1e-4, rtol=1e-4)
    mirrored = replace(batch, positions=batch.positions * torch.tensor([-1.0, 1.0, 1.0]))
    assert not torch.allclose(CanonicalPose().apply(mirrored, None).positions[keep], reference, atol=1e-2)


def test_canonical_crystals_are_in_the_standard_setting() -> None:
    posed = CanonicalPose().apply(make_batch(), None)
    expected = cells_from_parameters(posed.lengths, posed.angles)[posed.periodic]
    torch.testing.assert_close(posed.cell[posed.periodic], expected, atol=1e-4, rtol=1e-4)


def test_random_rotations_are_uniform_and_the_published_ones_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(20_000, generator)
    assert rotations.mean(dim=0).abs().max() < 0.02
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand_as(rotations), atol=1e-5, rtol=1e-5)
    published = rotation_matrices(torch.rand(20_000, 4, generator=generator)).mean(dim=0)
    assert published.max() > 0.6


def test_published_pose_turns_the_whole_batch_alike() -> None:
    batch = make_batch()
    molecules = replace(batch, periodic=torch.zeros_like(batch.periodic))
    posed = PublishedPose().apply(molecules, torch.Generator().manual_seed(0))
    rotation = torch.linalg.lstsq(molecules.positions[4], posed.positions[4]).solution
    torch.testing.assert_close(molecules.positions[2] @ rotation, posed.positions[2], atol=1e-4, rtol=1e-3)
