"""The codec of a policy: chunks of actions to a state and back, observations to labels.

Shape legend: B batch, T observation steps, H actions of a chunk, A action size, S values of a state, h, w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polydit.data.robotics.batch import TrajectoryBatch
from polydit.platform.codec import Codec
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.normalisers import Kind, Normaliser
from polydit.platform.requests import Request
from polydit.platform.state import Layout, State

from .comparison import ChunkComparison
from .instructions import InstructionLabels

History = Mapping[str, NDArray[Any]]
"""Field of an observation -> its last T values, oldest first."""


class ActionChunkCodec(Codec):
    """Chunks of H actions as the field ``action`` [B, H, A], normalised; observations as labels of the same names.

    Vectors among the observations are normalised too; cameras stay as they are, [B, T, h, w, 3] uint8. Actions past the
    end of a demonstration are masked: they neither count in the loss nor are attended to.

    Args:
        action_size: A.
        vectors: vector field of an observation -> its size S. The conditioner has an axis of that name.
        cameras: camera fields, with axes of their names.
        horizon: H.
        history: T, observations that the policy looks back on, the present one included.
        instruction: makes labels of the instruction, for the axis ``instruction``; None: the policy is told nothing.
        actions: how actions are normalised.
        states: how vectors are normalised.
    """

    def __init__(
        self,
        action_size: int,
        vectors: dict[str, int],
        cameras: Sequence[str] = (),
        horizon: int = 16,
        history: int = 1,
        instruction: InstructionLabels | None = None,
        actions: Kind = "range",
        states: Kind = "standard",
    ) -> None:
        super().__init__()
        if horizon < 1 or history < 1:
            raise ConfigurationError(f"horizon {horizon} and history {history} must be at least 1")
        if not vectors and not cameras:
            raise ConfigurationError("a policy that observes nothing: name at least one of `vectors` or `cameras`")
        self.action_size, self.horizon, self.history = action_size, horizon, history
        self.vectors, self.cameras = dict(vectors), tuple(cameras)
        self.instruction = instruction
        self.action = Normaliser(action_size, actions, "actions")
        self.states = nn.ModuleDict({name: Normaliser(size, states, name) for name, size in sorted(vectors.items())})

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of an observation that are looked at."""
        return (*self.vectors, *self.cameras)

    def prepare(self, datamodule: Any) -> None:
        """Take the statistics of actions and vectors from the training split."""
        statistics = datamodule.statistics()
        self.action.prepare(statistics["actions"])
        for name, normaliser in self._normalisers():
            if name not in statistics:
                raise ConfigurationError(
                    f"the data have no field {name!r} that the policy's codec looks at; read are {sorted(statistics)}"
                )
            normaliser.prepare(statistics[name])

    def encode(self, batch: TrajectoryBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Normalised chunks, and the labels of what was observed."""
        if batch.actions.shape[1] != self.horizon:
            raise ConfigurationError(
                f"the data module cuts chunks of {batch.actions.shape[1]} actions and the codec has horizon "
                f"{self.horizon}: give both the same"
            )
        actions = self.action.normalise(batch.actions)
        layout = Layout(
            {"action": tuple(actions.shape)}, {"action": batch.action_mask},
            labels=self.labels(batch.observations, batch.instructions),
        )
        return {"action": actions * batch.action_mask[..., None]}, layout

    def observe(
        self, histories: Sequence[History], instructions: Sequence[str], seeds: Sequence[int]
    ) -> Layout:
        """Layout of one chunk for each of B situations.

        Args:
            histories: what each has observed; a history shorter than T is filled up with its first value.
            instructions: what each was told.
            seeds: of each one's noise.

        Raises:
            DataError: if an observation lacks a field, or a value in it is no number, naming it.
        """
        observations = {name: torch.stack([self._history(history, name) for history in histories])
                        for name in self.fields}
        count = len(histories)
        return Layout(
            {"action": (count, self.horizon, self.action_size)}, labels=self.labels(observations, instructions),
            seeds=tuple(seeds),
        )

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Layout of requests that hold an ``observation`` (field -> value or history) and an ``instruction``."""
        histories = []
        for request in requests:
            observation = request.wishes.get("observation")
            if observation is None:
                raise ConfigurationError(
                    "a policy answers an observation: ask with observation={field: value}, or with "
                    "environment='family/task' for whole episodes"
                )
            histories.append({name: self._as_history(name, value) for name, value in observation.items()})
        told = [str(request.wishes.get("instruction", "")) for request in requests]
        return self.observe(histories, told, [request.seed for request in requests])

    def labels(self, observations: Mapping[str, Tensor], instructions: Sequence[str]) -> dict[str, Tensor]:
        """Labels of observations [B, T, ...] and what was told."""
        missing = [name for name in self.fields if name not in observations]
        if missing:
            raise DataError(f"the policy looks at {missing[0]!r}, which is not among {sorted(observations)}")
        labels = {name: normaliser.normalise(observations[name]) for name, normaliser in self._normalisers()}
        labels |= {name: observations[name] for name in self.cameras}
        if self.instruction is not None:
            first = next(iter(labels.values()))
            labels["instruction"] = self.instruction(instructions).to(first.device)
        return labels

    def decode(self, state: State, layout: Layout) -> list[NDArray[np.float32]]:
        """Chunks [H, A] in the environment's units, first action first."""
        return list(self.action.restore(state["action"].float()).cpu().numpy())

    def question(self, batch: TrajectoryBatch) -> Layout:
        """What held-out windows show before anything is done, each with the seed of its place in the split."""
        seeds = range(len(batch)) if batch.index is None else batch.index.tolist()
        _, layout = self.encode(batch, torch.Generator())
        return replace(layout, masks={}, seeds=tuple(seeds))

    def compare(self, batch: TrajectoryBatch, answers: Sequence[State], layout: Layout) -> list[ChunkComparison]:
        """Held-out windows beside what was sampled for them, errors averaged over the answers."""
        truth = self.action.normalise(batch.actions)
        errors = torch.stack([
            (self.action.normalise(torch.as_tensor(np.stack(self.decode(state, layout)), device=truth.device)) - truth)
            .abs().mean(dim=-1)
            for state in answers
        ]).mean(dim=0)
        counts = batch.action_mask.sum(dim=1)
        means = (errors * batch.action_mask).sum(dim=1) / counts  # NaN where a window has no actions
        return [
            ChunkComparison(task, error, count)
            for task, error, count in zip(batch.tasks, means.tolist(), counts.tolist(), strict=True)
        ]

    def normalise_actions(self, actions: Sequence[NDArray[np.float32]], device: torch.device) -> State:
        """State of chunks [H, A] in the environment's units, such as a guess of what comes next."""
        return {"action": self.action.normalise(torch.as_tensor(np.stack(actions), device=device))}

    def _normalisers(self) -> list[tuple[str, Normaliser]]:
        return [(name, module) for name, module in self.states.items() if isinstance(module, Normaliser)]

    def _as_history(self, name: str, value: Any) -> NDArray[Any]:
        array = np.asarray(value)
        single = 3 if name in self.cameras else 1
        return array[None] if array.ndim == single else array

    def _history(self, history: History, name: str) -> Tensor:
        if name not in history:
            raise DataError(f"the policy looks at {name!r}, which is not among {sorted(history)}")
        values = np.asarray(history[name])[-self.history :]
        if name in self.vectors:
            values = values.astype(np.float32)
            if values.shape[1:] != (self.vectors[name],):
                raise DataError(
                    f"{name!r} has shape {values.shape[1:]} and the policy was made for {self.vectors[name]} values: "
                    "this is another environment than it was trained for"
                )
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                value = values[tuple(bad[0])]
                raise DataError(f"{name!r}: dimension {bad[0, 1]} is {value}: look at the sensor or the simulator")
        missing = self.history - len(values)
        if missing:
            values = np.concatenate([np.repeat(values[:1], missing, axis=0), values])
        return torch.from_numpy(np.ascontiguousarray(values))
