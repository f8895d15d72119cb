"""Demonstrations: one episode, a set of them that reads lazily, and the contract of a source.

Shape legend: T steps of an episode, A numbers of an action, S shape of a field's value, k steps asked for.

An observation is a dict of named fields: vectors such as ``"state"`` [S] float32 in the units of the robot, and cameras
[h, w, 3] uint8 RGB. An action [A] float32 is in the environment's own units; action t answers observation t.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError


@dataclass(frozen=True)
class FieldSpec:
    """What one field of an observation is made of.

    Args:
        shape: S, of the value at one step.
        dtype: "float32" or "uint8".
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def is_camera(self) -> bool:
        """Whether it is an RGB image [h, w, 3] uint8."""
        return self.dtype == "uint8" and len(self.shape) == 3 and self.shape[-1] == 3

    @property
    def nbytes(self) -> int:
        """Bytes of the value at one step, decoded."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass
class Demonstration:
    """One episode.

    Args:
        observations: field -> [T, *S]; vectors float32, cameras uint8.
        actions: [T, A] float32, environment units.
        instruction: what the robot was told; "" if nothing.
        task: environment spec such as ``"metaworld/reach-v3"``; "" if unknown.
        rewards: [T] float32; None where there are none.
        states: [T, D] float64 states of the simulator, to start or replay the episode from; None where there are none.
        success: whether the task was solved; None if unknown.
        seed: with which the environment was reset; None if unknown.
        metadata: anything else that JSON can hold (environment options, versions, control frequency in Hz).
    """

    observations: Mapping[str, NDArray[Any]]
    actions: NDArray[np.float32]
    instruction: str = ""
    task: str = ""
    rewards: NDArray[np.float32] | None = None
    states: NDArray[np.float64] | None = None
    success: bool | None = None
    seed: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)


def check_demonstration(demonstration: Demonstration, name: str) -> None:
    """Refuse an episode that no reader would take.

    Args:
        demonstration: to be written.
        name: for messages, such as ``"demo_3"``.

    Raises:
        DataError: if it is empty, has arrays of unequal length, or holds a value that is not finite.
    """
    actions = np.asarray(demonstration.actions)
    if actions.ndim != 2 or not len(actions):
        raise DataError(f"{name}: actions have shape {actions.shape}; they must be [T, A] with at least one step")
    if not demonstration.observations:
        raise DataError(f"{name}: no observations; give at least one field, such as 'state'")
    check_finite(actions, name, "actions")
    extra = {"rewards": demonstration.rewards, "states": demonstration.states}
    for key, values in {**demonstration.observations, **extra}.items():
        if values is None:
            continue
        check_lengths(len(actions), len(values), name, key)
        check_finite(values, name, key)


def check_lengths(actions: int, values: int, name: str, key: str) -> None:
    """Refuse a field that has not one value for every action.

    Raises:
        DataError: naming the episode, the field and both lengths.
    """
    if actions != values:
        raise DataError(
            f"{name}: {actions} actions but {values} values of {key!r}; every action needs the observation it answers: "
            "cut both to the same length"
        )


def check_finite(values: NDArray[Any], name: str, key: str) -> None:
    """Refuse NaN and infinite values.

    Raises:
        DataError: naming the episode, the step, the field and the value.
    """
    if values.dtype.kind != "f":
        return
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        step, *place = bad[0].tolist()
        raise DataError(
            f"{name}: {key} at step {step}, dimension {', '.join(map(str, place)) or 0} is {values[tuple(bad[0])]}: "
            "leave the episode out, or cut it before that step"
        )


class DemonstrationSet(ABC):
    """Episodes of one origin, opened; only what is asked for is read and decoded.

    A set can be pickled: a data-loader worker opens the files for itself.

    Args:
        name: where the episodes come from, for messages.
        fields: field -> what it is made of, the same in all episodes.
        action_size: A.
        lengths: [n] steps T of each episode.
        metadata: what the origin says of itself, as JSON can hold it.
        splits: name -> places of the episodes that the origin itself puts there, such as ``"train"`` and ``"valid"``.
        missing: field that the origin declares but cannot deliver -> why.
        has_actions: False for episodes that are to be taken as plain video.
    """

    def __init__(
        self, name: str, fields: Mapping[str, FieldSpec], action_size: int, lengths: Sequence[int] | NDArray[np.int64],
        metadata: Mapping[str, Any] | None = None, splits: Mapping[str, NDArray[np.int64]] | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.fields = dict(fields)
        self.action_size = action_size
        self.lengths: NDArray[np.int64] = np.asarray(lengths, dtype=np.int64)
        self.metadata = dict(metadata or {})
        self.splits = dict(splits or {})
        self.missing = dict(missing or {})
        self.has_actions = True

    @abstractmethod
    def read_steps(self, index: int, steps: NDArray[np.int64], fields: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Observations at chosen steps.

        Args:
            index: of the episode.
            steps: [k] in any order, each in 0..T-1; a step may come more than once.
            fields: to read.

        Returns:
            field -> [k, *S].

        Raises:
            DataError: if a field is unknown or the file is damaged there.
        """

    @abstractmethod
    def read_actions(self, index: int) -> NDArray[np.float32]:
        """[T, A] actions of an episode."""

    @abstractmethod
    def episode_name(self, index: int) -> str:
        """Name of an episode in its origin, for messages."""

    def instruction(self, index: int) -> str:
        """What the robot was told in an episode; "" if nothing."""
        return ""

    def task(self, index: int) -> str:
        """Environment spec of an episode; "" if unknown."""
        return ""

    def success(self, index: int) -> bool | None:
        """Whether an episode solved its task; None if unknown."""
        return None

    def seed(self, index: int) -> int | None:
        """Seed with which the environment of an episode was reset; None if unknown."""
        return None

    def frequency(self, index: int) -> float | None:
        """Control frequency of an episode, actions per second (Hz); None if unknown."""
        return None

    def versions(self, index: int) -> Mapping[str, str]:
        """Distribution -> version of what simulated an episode; empty if unknown."""
        return {}

    def read_windows(
        self, indices: NDArray[np.int64], steps: NDArray[np.int64], fields: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Observations of many windows: field -> [B, k, *S] for episodes `indices` [B] and `steps` [B, k]."""
        rows = [self.read_steps(index, steps[row], fields) for row, index in enumerate(indices.tolist())]
        return {name: np.stack([row[name] for row in rows]) for name in fields}

    def read(self, index: int, start: int, stop: int, fields: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Observations field -> [stop - start, *S] of the steps from `start` up to, not including, `stop`."""
        return self.read_steps(index, np.arange(start, stop), fields)

    def demonstration(self, index: int, fields: Sequence[str] | None = None) -> Demonstration:
        """A whole episode; None: with every field."""
        names = list(self.fields) if fields is None else fields
        frequency = self.frequency(index)
        return Demonstration(
            self.read(index, 0, int(self.lengths[index]), names), self.read_actions(index), self.instruction(index),
            self.task(index), success=self.success(index), seed=self.seed(index),
            metadata={} if frequency is None else {"control_frequency": frequency},
        )

    def require_fields(self, names: Sequence[str]) -> None:
        """Refuse fields that the set does not have.

        Raises:
            DataError: naming the field and the nearest one there is, or why it cannot be read.
        """
        for name in names:
            if name in self.missing:
                raise DataError(f"{self.name}: field {name!r} cannot be read: {self.missing[name]}")
            if name not in self.fields:
                near = difflib.get_close_matches(name, self.fields, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(self.fields))}."
                cameras = ", ".join(sorted(key for key, spec in self.fields.items() if spec.is_camera)) or "none"
                raise DataError(f"{self.name} has no field {name!r}: {hint} Its cameras: {cameras}")

    def __len__(self) -> int:
        return len(self.lengths)


class DemonstrationSource(ABC):
    """Where demonstrations come from; named in a configuration by class path."""

    def prepare(self) -> None:
        """Make what is not there yet, such as a recording; called once, in one process, before anything is opened."""
        return None

    @abstractmethod
    def open(self) -> DemonstrationSet:
        """Open the episodes; reads what describes them, not the observations.

        Raises:
            DataError: if there are none, or they are damaged or contradict each other.
        """
