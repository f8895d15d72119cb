"""ADiT's codec: a frozen autoencoder makes latents of atoms, and atoms of latents.

Shape legend: B structures, N atoms, C latent channels, E elements of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.lattice import niggli_reduce
from polydit.data.chemistry.structure import AtomicStructure
from polydit.data.chemistry.wishes import DOMAINS, KeptFragment, Wishes
from polydit.platform.errors import CheckpointError
from polydit.platform.requests import Request
from polydit.platform.state import Layout, State
from polydit.platform.systems.autoencoding import AutoencoderSystem

from ..atom_codec import AtomCodec
from .autoencoder import AtomAutoencoder

SMALLEST_VOLUME = 0.1
"""Å^3, below which a cell is not reduced; no crystal of any atoms is that small."""


class LatentAtomCodec(AtomCodec):
    """Atoms to latent tokens through a trained, frozen autoencoder.

    For the labels that it hands to the conditioner see `AtomCodec`.

    Args:
        autoencoder: path of a checkpoint of the first stage, or the autoencoder itself (untrained).
        normalise: bring every latent channel to zero mean and unit variance over the training split, crystals and
            molecules each by their own statistics: the two lie apart, and by common ones each would fill only a
            fraction of the unit noise. The published model does not normalise.
        reduce_cells: give sampled crystals in their Niggli-reduced cell. The crystal is the same, but usual tests of
            validity look at the angles of the cell it is given in. For models trained on cells that are not reduced.
        use_mean: train on posterior means instead of samples.
        normaliser_batches: training batches from which the normaliser is taken.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        autoencoder: AtomAutoencoder | str,
        normalise: bool = True,
        reduce_cells: bool = False,
        use_mean: bool = False,
        normaliser_batches: int = 20,
    ) -> None:
        loaded_config: dict[str, Any] | None = None
        if isinstance(autoencoder, str):
            autoencoder, loaded_config = load_autoencoder(autoencoder)
        super().__init__(autoencoder.max_atomic_number)
        self._loaded_config = loaded_config
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.normalise = normalise
        self.reduce_cells = reduce_cells
        self.use_mean = use_mean
        self.normaliser_batches = normaliser_batches
        channels = autoencoder.latent_channels
        self.register_buffer("latent_mean", torch.zeros(len(DOMAINS), channels))
        self.register_buffer("latent_std", torch.ones(len(DOMAINS), channels))

    def train(self, mode: bool = True) -> LatentAtomCodec:
        """The autoencoder stays in evaluation mode whatever the rest does."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    @torch.no_grad()
    def encode(self, batch: AtomBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Latents [B, N, C] in a fresh pose, and the labels of the batch."""
        posterior = self.autoencoder.encode(self.autoencoder.pose.apply(batch, generator))
        latent = posterior.mean if self.use_mean else posterior.sample(generator)
        latent = self._normalised(latent, batch.periodic) * batch.mask[..., None]
        layout = Layout(
            shapes={"latent": tuple(latent.shape)}, masks={"latent": batch.mask}, labels=self.labels_of(batch)
        )
        return {"latent": latent}, layout

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Masks, labels and kept fragments of requests; open atom counts come from the training split's histogram."""
        return self.layout_of(requests, {"latent": self.autoencoder.latent_channels})

    @torch.no_grad()
    def decode(self, state: State, layout: Layout) -> list[AtomicStructure]:
        """Structures of finished latents; elements and fragments that were asked for are kept exactly."""
        mask = layout.masks["latent"]
        periodic = layout.extras["periodic"].to(mask.device)
        mean, std = self._statistics(periodic)
        latent = state["latent"] * std + mean
        prediction = self.autoencoder.decode(latent, mask)
        wishes: list[Wishes] = layout.extras["wishes"]
        numbers = layout.labels.get("elements")
        structures = prediction.structures(mask, periodic, numbers)
        kept = [
            structure if wish.keep is None else wish.keep.restore(structure)
            for structure, wish in zip(structures, wishes, strict=True)
        ]
        return [reduce_cell(structure) for structure in kept] if self.reduce_cells else kept

    @torch.no_grad()
    def known(self, layout: Layout) -> tuple[State, State] | None:
        """Latents of kept fragments, encoded alone, at the first tokens of their samples."""
        wishes: list[Wishes] = layout.extras["wishes"]
        if all(wish.keep is None for wish in wishes):
            return None
        values = torch.zeros(layout.shapes["latent"], device=self.latent_mean.device)
        keep = torch.zeros((*layout.shapes["latent"][:2], 1), dtype=torch.bool, device=values.device)
        for row, wish in enumerate(wishes):
            if wish.keep is not None:
                latent = self._encode_fragment(wish.keep)
                values[row, : len(latent)] = latent
                keep[row, : len(latent)] = True
        return {"latent": values}, {"latent": keep}

    @torch.no_grad()
    def prepare(self, datamodule: Any) -> None:
        """Histogram of atom counts, and the latent normaliser, from the training split."""
        super().prepare(datamodule)
        if self.normalise:
            self._fit_normaliser(datamodule.train_dataloader())

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` with the first stage's architecture in place of the path it was loaded from."""
        return config if self._loaded_config is None else {**config, "autoencoder": self._loaded_config}

    def _fit_normaliser(self, batches: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        seen: tuple[list[Tensor], ...] = tuple([] for _ in DOMAINS)
        for _, batch in zip(range(self.normaliser_batches), batches, strict=False):
            posterior = self.autoencoder.encode(self.autoencoder.pose.apply(batch, generator))
            latent = posterior.mean if self.use_mean else posterior.sample(generator)
            for row, chosen in enumerate((batch.periodic, ~batch.periodic)):
                seen[row].append(latent[batch.mask & chosen[:, None]])
        for row, latents in enumerate(seen):
            joined = torch.cat(latents)
            if len(joined) > 1:
                # Coordinates keep the unit that distances are measured in.
                first = 0 if self.autoencoder.coordinates is None else 3
                self.latent_mean[row, first:] = joined.mean(dim=0)[first:]
                self.latent_std[row, first:] = joined.std(dim=0).clamp(min=1e-4)[first:]

    def _statistics(self, periodic: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, 1, C] for the domain of each structure."""
        rows = (~periodic).long()
        return self.latent_mean[rows][:, None], self.latent_std[rows][:, None]

    def _normalised(self, latent: Tensor, periodic: Tensor) -> Tensor:
        mean, std = self._statistics(periodic)
        return (latent - mean) / std

    def _encode_fragment(self, fragment: KeptFragment) -> Tensor:
        batch = fragment.batch()
        posed = self.autoencoder.pose.apply(batch, None)
        return self._normalised(self.autoencoder.encode(posed).mean, posed.periodic)[0]


def reduce_cell(structure: AtomicStructure) -> AtomicStructure:
    """A crystal in its Niggli-reduced cell; molecules, and cells too flat to be reduced, as they are."""
    # The reduction of a flat cell need not end, so such cells never get there.
    if structure.cell is None or abs(np.linalg.det(structure.cell)) < SMALLEST_VOLUME:
        return structure
    try:
        return niggli_reduce(structure)
    except ValueError:
        return structure


def load_autoencoder(path: str) -> tuple[AtomAutoencoder, dict[str, Any]]:
    """The autoencoder of a first-stage checkpoint and the configuration that makes it again.

    Raises:
        CheckpointError: if the checkpoint holds another kind of model.
    """
    from polydit.platform.checkpoints import load

    module = load(path)
    system = module.system
    if not isinstance(system, AutoencoderSystem) or not isinstance(system.autoencoder, AtomAutoencoder):
        raise CheckpointError(
            f"{path} holds a {type(system).__name__}, not an atom autoencoder: give the first stage's checkpoint"
        )
    assert module.config is not None
    return system.autoencoder, module.config["system"]["init_args"]["autoencoder"]
