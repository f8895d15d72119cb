"""Prediction of one scalar property of molecules, to judge generators that are asked for it.

Shape legend: B molecules, k molecules of the training split, Z atomic numbers, S sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import CheckpointError, DataError, UserError, require
from polydit.platform.requests import Request, Sample
from polydit.platform.systems.system import System

from .property_networks import PropertyNetwork

ELEMENTS = 119
"""Atomic numbers 0 to 118."""

SIZES = 513
"""Numbers of atoms 0 to 512, as far as atom counts reach elsewhere."""


@dataclass(frozen=True)
class Prediction:
    """A held-out molecule's property beside its prediction.

    Args:
        target: name of the property.
        actual: its label.
        predicted: by the network, in the same unit.
        by_size: median of the training molecules with as many atoms, what the number of atoms alone tells.
        num_atoms: atoms of the molecule.
    """

    target: str
    actual: float
    predicted: float
    by_size: float
    num_atoms: int


class PropertyPredictionSystem(System):
    """Trains a network to predict a property; structures without the label, and crystals without it, are passed over.

    What it saw in training travels in the checkpoint: mean and deviation of the label, the elements, the median label
    of every size, and which part of the training split it was.

    Args:
        network: what is trained.
        target: the property's name among the labels of the data.
        unit: of the label; refused where the data state another.
    """

    mean: Tensor
    std: Tensor
    elements: Tensor
    size_medians: Tensor
    train_part: Tensor

    def __init__(self, network: PropertyNetwork, target: str, unit: str = "") -> None:
        super().__init__()
        self.network = network
        self.target = target
        self.unit = unit
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.register_buffer("elements", torch.zeros(ELEMENTS, dtype=torch.bool))
        self.register_buffer("size_medians", torch.zeros(SIZES))
        self.register_buffer("train_part", torch.zeros(3, dtype=torch.float64))

    def forward(self, batch: AtomBatch) -> Tensor:
        """[B] property of each molecule, in `unit`."""
        return self.network(batch).float() * self.std + self.mean

    def losses(self, batch: AtomBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean absolute error: ``mae`` in `unit`, ``loss`` over the deviation of the training split."""
        chosen = self._labelled(batch)
        if not len(chosen.mask):
            nothing = torch.stack([parameter.sum() * 0.0 for parameter in self.network.parameters()]).sum()
            return {"mae": nothing.detach(), "loss": nothing}
        wanted = (chosen.properties[self.target] - self.mean) / self.std
        loss = (self.network(chosen).float() - wanted).abs().mean()
        return {"mae": loss.detach() * self.std, "loss": loss}

    @torch.no_grad()
    def reconstruct(self, batch: AtomBatch) -> list[Prediction]:
        """Held-out labels beside predictions, in full precision whatever the run trains in."""
        chosen = self._labelled(batch)
        if not len(chosen.mask):
            return []
        with torch.autocast(self.mean.device.type, enabled=False):
            predicted = self(chosen)
        medians = self.size_medians[chosen.num_atoms.clamp(max=SIZES - 1)]
        columns = (chosen.properties[self.target], predicted, medians, chosen.num_atoms)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [Prediction(self.target, *row) for row in rows]

    @torch.no_grad()
    def predict(self, structures: Sequence[AtomicStructure], batch_size: int = 128) -> NDArray[np.float64]:
        """[n] property of any molecules, in `unit`.

        Args:
            structures: molecules whose elements all occurred in training, see `unknown_elements`.
            batch_size: how many at a time; changes memory and time alone.

        Raises:
            DataError: if a molecule holds an element that training did not, naming the first.
        """
        for structure in structures:
            unknown = self.unknown_elements(structure)
            if unknown:
                raise DataError(
                    f"{structure.name or 'a molecule'} holds {_symbols(unknown)}, but the predictor of {self.target} "
                    f"saw {_symbols(self.elements.nonzero()[:, 0].tolist())} alone: train one on molecules with them"
                )
        # In order of size, so that little is padded.
        order = np.argsort([len(structure.numbers) for structure in structures], kind="stable")
        found = np.empty(len(structures))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = collate([structures[place] for place in places]).to(self.mean.device)
            found[places] = self(batch).double().cpu().numpy()
        return found

    def predict_by_size(self, num_atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        """[n] median property of training molecules with as many atoms, of all where there were none."""
        return self.size_medians.cpu().numpy().astype(np.float64)[np.minimum(num_atoms, SIZES - 1)]

    def unknown_elements(self, structure: AtomicStructure) -> list[int]:
        """Atomic numbers in a structure that training did not hold, ascending."""
        numbers = np.unique(structure.numbers)
        known = self.elements.cpu().numpy()
        return [int(z) for z in numbers if not 0 < z < ELEMENTS or not known[z]]

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        """Refused.

        Raises:
            UserError: always; a predictor judges samples and makes none.
        """
        raise UserError(
            f"{len(requests)} samples were asked of a predictor of {self.target}: predict with a generator's "
            "checkpoint, and name this one in PropertyErrorEvaluator"
        )

    def prepare(self, datamodule: Any) -> None:
        """Statistics of the labelled molecules of the training split.

        Raises:
            DataError: if none has the label, all have the same, or the data's unit is another.
        """
        unit = datamodule.property_unit(self.target)
        if unit and unit != self.unit:
            raise DataError(
                f"{self.target} comes in {unit}, but the recipe says unit {self.unit!r}: write unit: {unit} there"
            )
        values, sizes = [], []
        for structure in datamodule.structures("train", "molecule"):
            if self.target in structure.labels:
                values.append(structure.labels[self.target])
                sizes.append(min(len(structure.numbers), SIZES - 1))
                self.elements[torch.from_numpy(structure.numbers)] = True
        if not values or np.ptp(values) == 0:
            raise DataError(
                f"{len(values)} training molecules have the label {self.target}, {len(set(values))} different: give a "
                "source with that label, and list it under data.init_args.properties"
            )
        self.mean.fill_(float(np.mean(values)))
        self.std.fill_(float(np.std(values)))
        self.size_medians.copy_(_medians(np.array(values), np.array(sizes)))
        part = (*getattr(datamodule, "train_part", (0.0, 1.0)), getattr(datamodule, "part_seed", 0))
        self.train_part.copy_(torch.tensor(part, dtype=torch.float64))

    def _labelled(self, batch: AtomBatch) -> AtomBatch:
        """The structures of a batch that have the label."""
        if self.target not in batch.properties:
            raise DataError(f"batches carry no {self.target}: list it under data.init_args.properties")
        known = batch.properties[self.target].isfinite()
        if bool(known.all()):
            return batch
        tensors = {entry.name: getattr(batch, entry.name) for entry in fields(batch) if entry.name != "properties"}
        chosen: dict[str, Any] = {name: None if value is None else value[known] for name, value in tensors.items()}
        return AtomBatch(**chosen, properties={name: value[known] for name, value in batch.properties.items()})


def load_predictor(path: str) -> PropertyPredictionSystem:
    """The predictor in a checkpoint, ready to predict.

    Raises:
        CheckpointError: if the checkpoint holds another kind of model, or one that was never trained.
    """
    from polydit.platform.checkpoints import load

    system = load(path).system
    if not isinstance(system, PropertyPredictionSystem):
        raise CheckpointError(
            f"{path} holds a {type(system).__name__}, not a predictor of a property: train one "
            "(examples/chemistry/gap_predictor.yaml) and give its checkpoint"
        )
    if not bool(system.elements.any()):
        raise CheckpointError(f"{path} holds a predictor that has seen no data: train it with polydit fit")
    return system


def _medians(values: NDArray[np.float64], sizes: NDArray[np.int64]) -> Tensor:
    medians = np.full(SIZES, np.median(values))
    for size in np.unique(sizes):
        medians[size] = np.median(values[sizes == size])
    return torch.from_numpy(medians)


def _symbols(numbers: Sequence[int]) -> str:
    symbols = require("ase.data", "chemistry").chemical_symbols
    return ", ".join(symbols[z] if 0 < z < len(symbols) else f"element {z}" for z in numbers)
