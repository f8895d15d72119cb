"""The codec of atoms as points: coordinates, element, atomic number and valence of each (arXiv 2401.02683, section 3).

Shape legend: B molecules, N atoms, C elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.structure import AtomicStructure
from polydit.data.chemistry.wishes import Wishes, parse_elements
from polydit.platform.errors import DataError, UserError
from polydit.platform.requests import Request
from polydit.platform.state import Layout, State

from ..atom_codec import AtomCodec
from ..augmentation import Pose
from ..valence import bond_thresholds, count_valences, different_pairs, pair_distances


class AtomPointCodec(AtomCodec):
    """Molecules as sets of points, nothing learnt.

    Fields: ``position`` [B, N, 3] in units of `unit` around the mean of the atoms; ``element`` [B, N, C] one-hot,
    ``number`` [B, N, 1] the atomic number and ``valence`` [B, N, 1] the summed bond orders, each times its scale. Small
    scales make a field drown in noise early, so that it is settled after the coordinates when sampling. An atom's
    valence is counted from the distances of the training molecule; a sample's element is the largest entry of its
    one-hot part.

    Args:
        elements: symbols; molecules with others are refused.
        unit: Å.
        element_scale, number_scale, valence_scale: published: 1/4, 1/10, 1/10.
        pose: how training molecules are turned, for denoisers that are not equivariant; None: they stand as they are.
    """

    numbers: Tensor
    thresholds: Tensor
    kinds: Tensor

    def __init__(
        self,
        elements: Sequence[str] = ("H", "C", "N", "O", "F"),
        unit: float = 1.0,
        element_scale: float = 0.25,
        number_scale: float = 0.1,
        valence_scale: float = 0.1,
        pose: Pose | None = None,
    ) -> None:
        numbers = parse_elements(list(elements))
        super().__init__(max(numbers))
        self.elements, self.unit, self.pose = tuple(elements), unit, pose
        self.scales = {"element": element_scale, "number": number_scale, "valence": valence_scale}
        self.register_buffer("numbers", torch.tensor(numbers), persistent=False)
        self.register_buffer("thresholds", bond_thresholds(numbers), persistent=False)
        kinds = torch.full((self.max_atomic_number + 1,), -1)
        kinds[torch.tensor(numbers)] = torch.arange(len(numbers))
        self.register_buffer("kinds", kinds, persistent=False)

    @torch.no_grad()
    def encode(self, batch: AtomBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Fields of the batch's molecules.

        Raises:
            DataError: if there is a crystal, or an element that is not listed.
        """
        kinds = self.kinds_of(batch)
        if self.pose is not None:
            batch = self.pose.apply(batch, generator)
        real = batch.mask[..., None].float()
        mean = (batch.positions * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        centred = (batch.positions - mean) * real
        pairs = different_pairs(batch.mask)
        valences = count_valences(pair_distances(centred), kinds, pairs, self.thresholds)
        state = {"position": centred / self.unit, **self._features(kinds, batch.numbers, valences, real)}
        layout = Layout(
            shapes={name: tuple(value.shape) for name, value in state.items()},
            masks=dict.fromkeys(state, batch.mask),
            labels=self.labels_of(batch),
        )
        return state, layout

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Masks and labels of the requests.

        Raises:
            UserError: if a request wants a crystal or keeps a fragment.
        """
        asked = []
        for request in requests:
            wish = Wishes.parse(request.wishes)
            if wish.domain == "crystal":
                raise UserError("a crystal was asked of a model of molecules: ask for domain: molecule")
            if wish.keep is not None:
                raise UserError(
                    "keep: this model has no way to hold a fragment where it is: use an ADiT model, or leave keep out"
                )
            asked.append(Request(request.seed, {**request.wishes, "domain": "molecule"}))
        return self.layout_of(asked, {"position": 3, "element": len(self.elements), "number": 1, "valence": 1})

    def known(self, layout: Layout) -> tuple[State, State] | None:
        """Element and atomic number of atoms whose composition was asked for."""
        asked = layout.labels.get("elements")
        if asked is None:
            return None
        given = asked > 0
        for number in asked[given].unique().tolist():
            if number > self.max_atomic_number or int(self.kinds[number]) < 0:
                raise UserError(f"element {number} was asked for; this model knows {', '.join(self.elements)}")
        features = self._features(self.kinds[asked], asked, torch.zeros_like(asked), given[..., None].float())
        keep = {"element": given[..., None], "number": given[..., None]}
        return {name: features[name] for name in keep}, keep

    @torch.no_grad()
    def decode(self, state: State, layout: Layout) -> list[AtomicStructure]:
        """Molecules in Å; elements that were asked for are kept exactly."""
        numbers = self.numbers[state["element"].argmax(-1)]
        asked = layout.labels.get("elements")
        if asked is not None:
            numbers = torch.where(asked > 0, asked, numbers)
        positions = state["position"].double() * self.unit
        mask = layout.masks["position"].cpu()
        return [
            AtomicStructure(n[real].numpy(), p[real].numpy())
            for n, p, real in zip(numbers.cpu(), positions.cpu(), mask, strict=True)
        ]

    def kinds_of(self, batch: AtomBatch) -> Tensor:
        """[B, N] places of the atoms' elements among those listed; 0 at padding.

        Raises:
            DataError: if there is a crystal, or an element that is not listed.
        """
        if bool(batch.periodic.any()):
            raise DataError(
                f"{int(batch.periodic.sum())} of {len(batch.periodic)} structures are crystals, whose atoms this codec "
                "cannot place: train on molecules, or use an ADiT model"
            )
        numbers = batch.numbers
        unknown = (numbers > self.max_atomic_number) | (self.kinds[numbers.clamp(max=self.max_atomic_number)] < 0)
        unknown &= batch.mask
        if bool(unknown.any()):
            found = sorted(set(numbers[unknown].tolist()))
            raise DataError(
                f"the data hold elements of number {', '.join(map(str, found))}, the codec knows "
                f"{', '.join(self.elements)}: list them in `elements`, or leave such molecules out"
            )
        return self.kinds[numbers].clamp(min=0)

    def _features(self, kinds: Tensor, numbers: Tensor, valences: Tensor, real: Tensor) -> State:
        one_hot = torch.nn.functional.one_hot(kinds.clamp(min=0), len(self.elements)).float()
        values: dict[str, Any] = {"element": one_hot, "number": numbers[..., None], "valence": valences[..., None]}
        return {name: value.to(real.dtype) * self.scales[name] * real for name, value in values.items()}
