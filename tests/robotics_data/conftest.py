"""Small demonstrations with a camera and a state in which every value says where it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polydit.data.robotics.demonstrations import Demonstration
from polydit.data.robotics.robomimic_writer import write_robomimic

SIDE = 8


def make_demonstration(number: int, length: int, camera: bool = True, action_size: int = 3) -> Demonstration:
    """Episode `number`; state and action of step t begin with (number, t), and so does the camera's first pixel."""
    generator = np.random.default_rng(number)
    state = generator.normal(size=(length, 5)).astype(np.float32)
    state[:, 0], state[:, 1] = number, np.arange(length)
    actions = generator.uniform(-1, 1, size=(length, action_size)).astype(np.float32)
    actions[:, 0], actions[:, 1] = number, np.arange(length)
    observations: dict[str, Any] = {"state": state}
    if camera:
        observations["wrist"] = generator.integers(0, 255, (length, SIDE, SIDE, 3), dtype=np.uint8)
        observations["wrist"][:, 0, 0, 0] = number
        observations["wrist"][:, 0, 0, 1] = np.arange(length)
    return Demonstration(
        observations, actions, f"open drawer {number % 2}", "metaworld/drawer-open-v3",
        rewards=generator.normal(size=length).astype(np.float32), states=generator.normal(size=(length, 4)),
        success=number != 1, seed=10 + number, metadata={"control_frequency": 20.0, "versions": {"mujoco": "3.3.0"}},
    )


def make_demonstrations(lengths: tuple[int, ...] = (7, 1, 12, 4), **options: Any) -> list[Demonstration]:
    return [make_demonstration(number, length, **options) for number, length in enumerate(lengths)]


@pytest.fixture
def demonstrations() -> list[Demonstration]:
    return make_demonstrations()


@pytest.fixture
def file(tmp_path: Path, demonstrations: list[Demonstration]) -> Path:
    return write_robomimic(demonstrations, tmp_path / "demonstrations.hdf5")


@pytest.fixture
def edit(file: Path) -> Callable[[Callable[[Any], None]], Path]:
    """Spoils the file by a function of its open handle."""
    h5py = pytest.importorskip("h5py")

    def spoil(function: Callable[[Any], None]) -> Path:
        with h5py.File(file, "r+") as handle:
            function(handle)
        return file

    return spoil
