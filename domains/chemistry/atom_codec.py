"""What every codec of atoms does alike: labels, sizes drawn from the training split, requests to layouts.

Shape legend: B structures, N atoms, E elements of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.structure import AtomicStructure
from polydit.data.chemistry.wishes import DOMAINS, Wishes
from polydit.platform.codec import Codec
from polydit.platform.errors import UserError
from polydit.platform.requests import Request
from polydit.platform.state import Layout

from .valence import count_unsaturation, usual_valences

MAX_ATOMS = 512
"""Longest structure the count prior can hold."""


class AtomCodec(Codec):
    """Codec of molecules and crystals whose tokens are atoms.

    Labels it hands to the conditioner: ``domain`` (1 crystal, 2 molecule), ``space_group`` (1..230), ``composition``
    ([B, E] element fractions), ``num_atoms``, ``elements`` ([B, N] atomic number of every token), ``unsaturation`` (of
    a molecule's formula, see `count_unsaturation`) and every property of the data set. Which of them guide is the
    conditioner's choice. A request that names all elements has told of the formula's other labels too.

    Args:
        max_atomic_number: E, the heaviest element it knows.
    """

    counts: Tensor
    valences: Tensor

    def __init__(self, max_atomic_number: int) -> None:
        super().__init__()
        self.max_atomic_number = max_atomic_number
        self.register_buffer("counts", torch.zeros(len(DOMAINS), MAX_ATOMS + 1))
        self.register_buffer("valences", usual_valences(max_atomic_number), persistent=False)

    def labels_of(self, batch: AtomBatch) -> dict[str, Tensor]:
        """Every label that a conditioner could use."""
        return {
            "domain": torch.where(batch.periodic, 1, 2),
            "space_group": batch.space_group,
            "elements": batch.numbers,
            **self._formula_labels(batch.numbers, batch.mask, batch.periodic),
            **batch.properties,
        }

    def layout_of(self, requests: Sequence[Request], fields: Mapping[str, int]) -> Layout:
        """Masks, labels and kept fragments of requests; open atom counts come from the training split's histogram.

        Args:
            requests: what is wanted.
            fields: name -> channels of every token.
        """
        wishes = [Wishes.parse(request.wishes) for request in requests]
        drawn = [self._draw(wish, request.seed) for wish, request in zip(wishes, requests, strict=True)]
        sizes = torch.tensor([size for _, size in drawn])
        longest = int(sizes.max())
        mask = torch.arange(longest) < sizes[:, None]
        return Layout(
            shapes={name: (len(requests), longest, channels) for name, channels in fields.items()},
            masks=dict.fromkeys(fields, mask),
            labels=self._labels(wishes, [domain for domain, _ in drawn], sizes, longest),
            seeds=tuple(request.seed for request in requests),
            extras={"wishes": wishes, "periodic": torch.tensor([domain == "crystal" for domain, _ in drawn])},
        )

    def present(self, item: AtomicStructure) -> Any:
        """An RDKit molecule with inferred bonds (None if its valences cannot be satisfied), or a pymatgen structure."""
        if item.is_periodic:
            return item.to_pymatgen()
        from .evaluation.molecules import to_rdkit

        return to_rdkit(item)

    @torch.no_grad()
    def prepare(self, datamodule: Any) -> None:
        """Histogram of atom counts from the training split."""
        for row, domain in enumerate(DOMAINS):
            histogram = datamodule.count_histogram().get(domain)
            if histogram is not None:
                self.counts[row, : len(histogram)] = histogram.to(self.counts)[: MAX_ATOMS + 1]

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
        crystal = torch.tensor([domain == "crystal" for domain in domains])
        labels: dict[str, Tensor] = {"domain": torch.where(crystal, 1, 2)}
        if any(wish.num_atoms is not None for wish in wishes):
            wanted = [float("nan") if wish.num_atoms is None else float(wish.num_atoms) for wish in wishes]
            labels["num_atoms"] = torch.tensor(wanted)
        if any(wish.space_group for wish in wishes):
            labels["space_group"] = torch.tensor([wish.space_group for wish in wishes])
        if any(wish.composition for wish in wishes):
            labels["composition"] = torch.zeros(count, self.max_atomic_number)
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
            told = labels["elements"] > 0
            for name, value in self._formula_labels(labels["elements"], told, crystal).items():
                unknown = torch.zeros_like(value) if name == "composition" else torch.full_like(value, torch.nan)
                rows = told.any(dim=1).reshape(-1, *[1] * (value.ndim - 1))
                labels[name] = torch.where(rows, value, labels.get(name, unknown))
        for name in sorted({name for wish in wishes for name in wish.properties}):
            labels[name] = torch.tensor([wish.properties.get(name, float("nan")) for wish in wishes])
        return labels

    def _formula_labels(self, numbers: Tensor, mask: Tensor, periodic: Tensor) -> dict[str, Tensor]:
        """What follows from the elements [B, N] of all atoms."""
        counts = torch.nn.functional.one_hot(numbers, self.max_atomic_number + 1)[..., 1:] * mask[..., None]
        size = mask.sum(dim=1)
        unsaturation = count_unsaturation(numbers, mask, self.valences.to(numbers.device))
        return {
            "composition": counts.sum(dim=1) / size[:, None].clamp(min=1),
            "num_atoms": size.to(unsaturation.dtype),
            "unsaturation": torch.where(periodic, torch.nan, unsaturation),
        }

    def _check_element(self, number: int) -> None:
        if number > self.max_atomic_number:
            limit = self.max_atomic_number
            raise UserError(f"element {number} is beyond the model's table of {limit}: ask for a lighter one")
