"""Small structures, a small autoencoder and a small diffusion system, built anew for every test."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.adit import AtomAutoencoder, LatentAtomCodec
from polydit.platform.conditioning import CategoricalAxis, Conditioner, ScalarAxis, TokenCategoricalAxis, VectorAxis
from polydit.platform.denoisers import DiT, SinCosPosition, TokenEmbedding, TokenHead
from polydit.platform.mixers import Attention
from polydit.platform.processes import ClippedWeighting, LinearFlowSchedule, Process, UniformTime, X0Prediction
from polydit.platform.samplers import Euler
from polydit.platform.samplers.guidance import ClassifierFreeGuidance
from polydit.platform.systems.diffusion import DiffusionSystem

WIDTH = 32


def random_structures(seed: int = 0) -> list[AtomicStructure]:
    """Molecules of 1, 4 and 9 atoms and crystals of 1, 4 and 7, in turn."""
    rng = np.random.default_rng(seed)
    structures = []
    for molecule, crystal in ((1, 1), (4, 4), (9, 7)):
        numbers, positions = rng.integers(1, 10, molecule), rng.normal(size=(molecule, 3)) * 2
        structures.append(AtomicStructure(numbers, positions, labels={"gap": rng.normal()}))
        cell = np.diag([4.0, 5.0, 6.0]) + rng.normal(size=(3, 3)) * 0.3
        positions = rng.uniform(size=(crystal, 3)) @ cell
        structures.append(AtomicStructure(rng.integers(1, 90, crystal), positions, cell))
    return structures


@pytest.fixture
def structures() -> list[AtomicStructure]:
    return random_structures()


@pytest.fixture
def batch(structures: list[AtomicStructure]) -> AtomBatch:
    return collate(structures, properties=["gap"], space_group=[0, 225, 0, 1, 0, 62])


@pytest.fixture
def autoencoder() -> AtomAutoencoder:
    torch.manual_seed(0)
    return AtomAutoencoder(width=WIDTH, depth=1, heads=2, latent_channels=4, encode_cell=True)


@pytest.fixture
def system(autoencoder: AtomAutoencoder) -> DiffusionSystem:
    torch.manual_seed(1)
    denoiser = DiT(
        embedding=partial(
            TokenEmbedding,
            fields={"latent": 4},
            channels={"self_condition": 4, "elements": 6},
            position=partial(SinCosPosition, base=2048.0, scale=math.pi),
        ),
        head=partial(TokenHead, fields={"latent": 4}),
        width=WIDTH,
        depth=2,
        mixer=partial(Attention, heads=2),
    )
    with torch.no_grad():
        # A denoiser that starts at zero would ignore what the tests change.
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    conditioner = Conditioner(
        WIDTH,
        {
            "domain": partial(CategoricalAxis, num_classes=2),
            "space_group": partial(CategoricalAxis, num_classes=230),
            "composition": partial(VectorAxis, features=99),
            "num_atoms": ScalarAxis,
            "gap": ScalarAxis,
            "elements": partial(TokenCategoricalAxis, num_classes=99, channels=6),
        },
    )
    process = Process(LinearFlowSchedule(), X0Prediction(), ClippedWeighting(), UniformTime(low=0.01, high=0.99))
    codec = LatentAtomCodec(autoencoder)
    codec.counts[0, 1:8] = torch.arange(1.0, 8.0)
    codec.counts[1, 3:10] = 1.0
    return DiffusionSystem(
        codec, denoiser, process, Euler(4), conditioner, ClassifierFreeGuidance({"domain": 2.0}), self_conditioning=0.5
    ).eval()
