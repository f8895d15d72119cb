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
from polydit.platform.codec import Codec
from polydit.platform.errors import CheckpointError, UserError
from polydit.platform.requests import Request
from polydit.platform.state import Layout, State
from polydit.platform.systems.autoencoding import AutoencoderSystem

from .autoencoder import AtomAutoencoder

SMALLEST_VOLUME = 0.1
"""Å^3, below which a cell is not reduced; no crystal of any atoms is that small."""

MAX_ATOMS = 512
"""Longest structure the count prior can hold."""


class LatentAtomCodec(Codec):
    """Atoms to latent tokens through a trained, frozen autoencoder.

    Labels it hands to the conditioner: ``domain`` (1 crystal, 2 molecule), ``space_group`` (1..230), ``composition``
    ([B, E] element fractions), ``num_atoms``, ``elements`` ([B, N] atomic number of every token) and every property
    of the data set. Which of them guide is the conditioner's choice.

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

    counts: Tensor
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
        super().__init__()
        self._loaded_config: dict[str, Any] | None = None
        if isinstance(autoencoder, str):
            autoencoder, self._loaded_config = load_autoencoder(autoencoder)
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.normalise = normalise
        self.reduce_cells = reduce_cells
        self.use_mean = use_mean
        self.normaliser_batches = normaliser_batches
        channels = autoencoder.latent_channels
        self.register_buffer("counts", torch.zeros(len(DOMAINS), MAX_ATOMS + 1))
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

    def labels_of(self, batch: AtomBatch) -> dict[str, Tensor]:
        """Every label that a conditioner could use."""
        counts = torch.nn.functional.one_hot(batch.numbers, self.autoencoder.max_atomic_number + 1)[..., 1:]
        composition = (counts * batch.mask[..., None]).sum(dim=1) / batch.num_atoms[:, None].clamp(min=1)
        return {
            "domain": torch.where(batch.periodic, 1, 2),
            "space_group": batch.space_group,
            "composition": composition,
            "num_atoms": batch.num_atoms.to(composition.dtype),
            "elements": batch.numbers,
            **batch.properties,
        }

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Masks, labels and kept fragments of requests; open atom counts come from the training split's histogram."""
        wishes = [Wishes.parse(request.wishes) for request in requests]
        drawn = [self._draw(wish, request.seed) for wish, request in zip(wishes, requests, strict=True)]
        sizes = torch.tensor([size for _, size in drawn])
        longest = int(sizes.max())
        mask = torch.arange(longest) < sizes[:, None]
        labels = self._labels(wishes, [domain for domain, _ in drawn], sizes, longest)
        return Layout(
            shapes={"latent": (len(requests), longest, self.autoencoder.latent_channels)},
            masks={"latent": mask},
            labels=labels,
            seeds=tuple(request.seed for request in requests),
            extras={"wishes": wishes, "periodic": torch.tensor([domain == "crystal" for domain, _ in drawn])},
        )

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

    def present(self, item: AtomicStructure) -> Any:
        """An RDKit molecule with inferred bonds (None if its valences cannot be satisfied), or a pymatgen structure."""
        if item.is_periodic:
            return item.to_pymatgen()
        from ..evaluation.molecules import to_rdkit

        return to_rdkit(item)

    @torch.no_grad()
    def prepare(self, datamodule: Any) -> None:
        """Histogram of atom counts, and the latent normaliser, from the training split."""
        for row, domain in enumerate(DOMAINS):
            histogram = datamodule.count_histogram().get(domain)
            if histogram is not None:
                self.counts[row, : len(histogram)] = histogram.to(self.counts)[: MAX_ATOMS + 1]
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

    def _draw(self, wish: Wishes, seed: int) -> tuple[str, int]:
        """Domain and atom count of one sample, what is open drawn with the sample's own seed."""
        generator = np.random.default_rng((seed, 1))
        counts = self.counts.cpu().numpy()
        totals = counts.sum(axis=1)
        domain = wish.domain
        if domain is None:
            if not totals.any():
                raise UserError("a request names no domain and the model has no histogram: add domain: molecule")
            domain = DOMAINS[generator.choice(len(DOMAINS), p=totals / totals.sum())]
        row = counts[DOMAINS.index(domain)]
        size = wish.size
        if size is None:
            if not row.any():
                raise UserError(f"the model saw no {domain} in training, so it cannot choose a size: give num_atoms")
            fitting = row.copy()
            fitting[: wish.smallest_size] = 0
            if not fitting.any():
                raise UserError(
                    f"the kept fragment has {wish.smallest_size} atoms, more than any training {domain}: give num_atoms"
                )
            size = int(generator.choice(len(row), p=fitting / fitting.sum()))
        if size > MAX_ATOMS:
            raise UserError(f"num_atoms {size} is beyond the limit of {MAX_ATOMS}: ask for fewer atoms")
        return domain, size

    def _labels(self, wishes: list[Wishes], domains: list[str], sizes: Tensor, longest: int) -> dict[str, Tensor]:
        count = len(wishes)
        labels: dict[str, Tensor] = {"domain": torch.tensor([1 if domain == "crystal" else 2 for domain in domains])}
        if any(wish.num_atoms is not None for wish in wishes):
            told = [float("nan") if wish.num_atoms is None else float(wish.num_atoms) for wish in wishes]
            labels["num_atoms"] = torch.tensor(told)
        if any(wish.space_group for wish in wishes):
            labels["space_group"] = torch.tensor([wish.space_group for wish in wishes])
        if any(wish.composition for wish in wishes):
            labels["composition"] = torch.zeros(count, self.autoencoder.max_atomic_number)
            for row, wish in enumerate(wishes):
                for number, amount in wish.composition.items():
                    self._check_element(number)
                    labels["composition"][row, number - 1] = amount / sum(wish.composition.values())
        if any(wish.elements for wish in wishes):
            labels["elements"] = torch.zeros(count, longest, dtype=torch.long)
            for row, wish in enumerate(wishes):
                for number in wish.elements:
                    self._check_element(number)
                labels["elements"][row, : len(wish.elements)] = torch.tensor(wish.elements, dtype=torch.long)
        for name in sorted({name for wish in wishes for name in wish.properties}):
            labels[name] = torch.tensor([wish.properties.get(name, float("nan")) for wish in wishes])
        return labels

    def _check_element(self, number: int) -> None:
        if number > self.autoencoder.max_atomic_number:
            limit = self.autoencoder.max_atomic_number
            raise UserError(f"element {number} is beyond the model's table of {limit}: ask for a lighter one")

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
