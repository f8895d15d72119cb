"""Poses: how a batch of atoms is turned and shifted before it is encoded.

A transformer on coordinates has no built-in symmetry; it learns from poses, or is spared them by a canonical one.

Shape legend: B structures, N atoms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from polydit.data.chemistry.batch import AtomBatch


class Pose(ABC):
    """Puts every structure of a batch into a pose."""

    @abstractmethod
    def apply(self, batch: AtomBatch, generator: torch.Generator | None) -> AtomBatch:
        """A copy of the batch in new poses; without a generator the deterministic pose used for evaluation."""


class RandomPose(Pose):
    """A uniform random rotation for every structure; crystals are also shifted within their cell.

    Args:
        shift: whether crystals' atoms get a uniform random shift of fractional coordinates, wrapped.
    """

    def __init__(self, shift: bool = True) -> None:
        self.shift = shift

    def apply(self, batch: AtomBatch, generator: torch.Generator | None) -> AtomBatch:
        """Centred molecules, turned and shifted at random if there is a generator."""
        batch = centre_molecules(batch)
        if generator is None:
            return batch
        if self.shift:
            batch = shift_crystals(batch, generator)
        return rotate(batch, random_rotations(batch.numbers.shape[0], generator))


class CanonicalPose(Pose):
    """The pose in which a structure's principal axes lie along x, y and z; crystals in the standard cell setting.

    It takes rotations out of what must be learnt: each molecule has one pose (the skewness of each axis fixes its
    sign, and the third axis makes a right-handed frame, so that chirality is kept). Useful where the budget is too
    small to learn rotations from examples. Not in the ADiT paper.
    """

    def apply(self, batch: AtomBatch, generator: torch.Generator | None) -> AtomBatch:
        """The same pose with and without a generator."""
        batch = centre_molecules(batch)
        crystals = batch.periodic[:, None, None]
        return rotate(batch, torch.where(crystals, standard_frames(batch), principal_frames(batch)))


class PublishedPose(Pose):
    """The augmentation of ADiT's released code, faults included, for comparisons.

    One rotation per batch from quaternions whose components are uniform in [0, 1], which does not cover orientations
    uniformly; one shift per batch from the spread of cell lengths, added to all atoms if the batch has a crystal.
    """

    def apply(self, batch: AtomBatch, generator: torch.Generator | None) -> AtomBatch:
        """As released; untouched without a generator."""
        if generator is None:
            return batch
        device = batch.positions.device
        quaternion = torch.rand(1, 4, generator=generator, device=device)
        batch = rotate(batch, rotation_matrices(quaternion).expand(batch.numbers.shape[0], 3, 3))
        lengths = batch.lengths[batch.periodic]
        if len(lengths) < 2:
            return batch
        shift = torch.normal(lengths.mean(dim=0), lengths.std(dim=0), generator=generator) / 2
        positions = (batch.positions + shift) * batch.mask[..., None]
        return replace(batch, positions=positions, fractional=wrap(fractional_of(positions, batch), batch))


def centre_molecules(batch: AtomBatch) -> AtomBatch:
    """Copy in which every molecule's mean position is the origin; crystals stay where they are."""
    count = batch.num_atoms.clamp(min=1)[:, None, None].to(batch.positions.dtype)
    mean = batch.positions.sum(dim=1, keepdim=True) / count
    moved = (batch.positions - mean) * batch.mask[..., None]
    return replace(batch, positions=torch.where(batch.periodic[:, None, None], batch.positions, moved))


def shift_crystals(batch: AtomBatch, generator: torch.Generator) -> AtomBatch:
    """Copy in which every crystal's origin is elsewhere; positions follow the wrapped fractional coordinates."""
    shift = torch.rand(batch.numbers.shape[0], 1, 3, generator=generator, device=batch.positions.device)
    fractional = wrap(batch.fractional + shift, batch)
    positions = torch.where(batch.periodic[:, None, None], fractional @ batch.cell, batch.positions)
    return replace(batch, fractional=fractional, positions=positions * batch.mask[..., None])


def rotate(batch: AtomBatch, rotation: Tensor) -> AtomBatch:
    """Copy with positions and cells turned by `rotation` [B, 3, 3] (row vectors times its transpose)."""
    turned = rotation.transpose(1, 2)
    return replace(batch, positions=batch.positions @ turned, cell=batch.cell @ turned)


def random_rotations(count: int, generator: torch.Generator) -> Tensor:
    """Rotations [count, 3, 3] uniform on SO(3): normalised normal quaternions (Shoemake 1992)."""
    return rotation_matrices(torch.randn(count, 4, generator=generator, device=generator.device))


def rotation_matrices(quaternion: Tensor) -> Tensor:
    """Rotations [..., 3, 3] of quaternions [..., 4] (real part first), normalised here."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def principal_frames(batch: AtomBatch) -> Tensor:
    """Rotations [B, 3, 3] that bring each centred molecule's principal axes onto x, y, z, widest first."""
    positions = batch.positions.double()
    _, axes = torch.linalg.eigh(positions.transpose(1, 2) @ positions)
    axes = axes.flip(-1)
    # Third moments fix the sign of two axes; nearly symmetric axes fall back to the first atom that tells them apart.
    projected = positions @ axes
    moment = projected.pow(3).sum(dim=1)
    scale = projected.abs().pow(3).sum(dim=1)
    first = projected.gather(1, (projected.abs() > 1e-2).float().argmax(dim=1, keepdim=True)).squeeze(1)
    sign = torch.where(moment.abs() > 1e-3 * scale, moment, first).sign()
    sign = torch.where(sign == 0, torch.ones_like(sign), sign)
    axes = axes * sign[:, None]
    axes[..., 2] = torch.linalg.cross(axes[..., 0], axes[..., 1])
    return axes.transpose(1, 2).to(batch.positions.dtype)


def standard_frames(batch: AtomBatch) -> Tensor:
    """Rotations [B, 3, 3] that bring each cell to the setting of `cells_from_parameters`; identity for molecules."""
    identity = torch.eye(3, device=batch.cell.device, dtype=torch.float64)
    cell = torch.where(batch.periodic[:, None, None], batch.cell.double(), identity)
    standard = torch.where(
        batch.periodic[:, None, None], cells_from_parameters(batch.lengths.double(), batch.angles.double()), identity
    )
    rotation = torch.linalg.solve(cell, standard).transpose(1, 2)
    return rotation.to(batch.positions.dtype)


def cells_from_parameters(lengths: Tensor, angles: Tensor) -> Tensor:
    """Lattice vectors [B, 3, 3] as rows, a along x and b in the xy plane, of lengths and angles [B, 3] (Å, radians)."""
    a, b, c = lengths.unbind(-1)
    cos_alpha, cos_beta, cos_gamma = angles.cos().unbind(-1)
    sin_gamma = angles[..., 2].sin()
    zero = torch.zeros_like(a)
    c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    c_z = (1 - cos_beta.square() - c_y.square()).clamp(min=1e-8).sqrt()
    rows = [a, zero, zero, b * cos_gamma, b * sin_gamma, zero, c * cos_beta, c * c_y, c * c_z]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def fractional_of(positions: Tensor, batch: AtomBatch) -> Tensor:
    """Fractional coordinates [B, N, 3] of `positions` in the batch's cells; zero for molecules."""
    identity = torch.eye(3, device=positions.device, dtype=positions.dtype)
    cell = torch.where(batch.periodic[:, None, None], batch.cell, identity)
    return torch.linalg.solve(cell.transpose(1, 2), positions.transpose(1, 2)).transpose(1, 2)


def wrap(fractional: Tensor, batch: AtomBatch) -> Tensor:
    """Fractional coordinates wrapped into [0, 1), zero for molecules and padding."""
    keep = batch.mask[..., None] & batch.periodic[:, None, None]
    return torch.where(keep, fractional % 1.0, torch.zeros_like(fractional))
