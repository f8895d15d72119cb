"""The codec of RDT: chunks and states of any robot in the unified vector.

Shape legend: B batch, T observation steps, H actions of a chunk, A action size, S slots of the unified vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polydit.data.robotics.batch import TrajectoryBatch
from polydit.platform.errors import ConfigurationError
from polydit.platform.normalisers import Kind
from polydit.platform.state import Layout, State

from .codec import ActionChunkCodec, History
from .instructions import InstructionLabels
from .unified_action import SLOTS, SlotLoss, SlotMap, count_slots, keep_invalid


class UnifiedActionCodec(ActionChunkCodec):
    """Chunks as the field ``action`` [B, H, S]; vectors that have slots as one label ``state`` [B, T, 2 S].

    The state's second half says which slots the robot has, as the label ``action_validity`` [B, 1, S] does of its
    actions. Slots that it does not have are zero in data and samples, and kept so at every step of sampling.

    Args:
        action_slots: names of the actions' dimensions, see `SlotMap`.
        state_slots: vector field -> names of its dimensions. A vector without keeps its own label and axis.
        vectors, cameras, horizon, history, instruction, actions, states: see `ActionChunkCodec`. Published weights want
            SI units, ``identity``; from scratch, values of unit size are learnt better.
        loss_over: slots that the loss is a mean over: ``valid``, or ``all`` as published; see `count_slots`.
        frequency: of control, Hz: told in rollouts, and in training where the data do not say; None: not told.

    Raises:
        ConfigurationError: if names are wrong, or a slot is taken twice.
    """

    def __init__(
        self,
        action_slots: Sequence[str],
        state_slots: dict[str, list[str]],
        vectors: dict[str, int],
        cameras: Sequence[str] = (),
        horizon: int = 16,
        history: int = 1,
        instruction: InstructionLabels | None = None,
        actions: Kind = "range",
        states: Kind = "standard",
        loss_over: SlotLoss = "valid",
        frequency: float | None = None,
    ) -> None:
        self.action_slots = SlotMap(action_slots)
        super().__init__(
            len(self.action_slots), vectors, cameras, horizon, history, instruction, actions, states
        )
        self.state_slots = {name: SlotMap(names) for name, names in sorted(state_slots.items())}
        for name, slots in self.state_slots.items():
            if vectors.get(name) != len(slots):
                raise ConfigurationError(
                    f"{name!r} has {len(slots)} named dimensions and vectors say {vectors.get(name)}: make both agree"
                )
        SlotMap([slot for slots in self.state_slots.values() for slot in slots.names])  # refuses a slot taken twice
        self.loss_over, self.frequency = loss_over, frequency

    def encode(self, batch: TrajectoryBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Unified chunks, the labels of what was observed, and what of the chunks counts in the loss."""
        state, layout = super().encode(batch, generator)
        packed = self.action_slots.pack(state["action"])
        if batch.frequency is not None:
            layout.labels["frequency"] = batch.frequency.nan_to_num(self.frequency or 0.0)
        counted = count_slots(self._valid(layout), batch.action_mask, self.loss_over)
        return {"action": packed}, replace(
            layout, shapes={"action": tuple(packed.shape)}, loss_masks={"action": counted}
        )

    def observe(self, histories: Sequence[History], instructions: Sequence[str], seeds: Sequence[int]) -> Layout:
        """Layout of one unified chunk for each of B situations; see `ActionChunkCodec.observe`."""
        layout = super().observe(histories, instructions, seeds)
        return replace(layout, shapes={"action": (len(histories), self.horizon, SLOTS)})

    def labels(self, observations: Mapping[str, Tensor], instructions: Sequence[str]) -> dict[str, Tensor]:
        """Labels of observations [B, T, ...] and what was told."""
        labels = super().labels(observations, instructions)
        batch, device = len(instructions), next(iter(observations.values())).device
        values = torch.zeros(batch, self.history, SLOTS, device=device)
        valid = torch.zeros(SLOTS, device=device)
        for name, slots in self.state_slots.items():
            values = values + slots.pack(labels.pop(name))
            valid = valid + slots.validity(device)
        labels["state"] = torch.cat([values, valid.expand_as(values)], dim=-1)
        labels["action_validity"] = self.action_slots.validity(device).float().expand(batch, 1, SLOTS)
        if self.frequency is not None:
            labels["frequency"] = torch.full((batch,), self.frequency, device=device)
        return labels

    def known(self, layout: Layout) -> tuple[State, State]:
        """Zero in the slots that the robot does not have."""
        values, keep = keep_invalid(self._valid(layout), self.horizon)
        return {"action": values}, {"action": keep}

    def decode(self, state: State, layout: Layout) -> list[NDArray[np.float32]]:
        """Chunks [H, A] in the environment's units, first action first."""
        return super().decode({"action": self.action_slots.unpack(state["action"])}, layout)

    def normalise_actions(self, actions: Sequence[NDArray[np.float32]], device: torch.device) -> State:
        """Unified state of chunks [H, A] in the environment's units, such as a guess of what comes next."""
        return {"action": self.action_slots.pack(super().normalise_actions(actions, device)["action"])}

    def _valid(self, layout: Layout) -> Any:
        return layout.labels["action_validity"][:, 0] > 0
