"""Small environments with known faults, named by class path in the tests of rollouts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 12


class Drift(gymnasium.Env):
    """A point that starts at random and moves by the action and by noise; solved beyond 1 from zero."""

    def __init__(self, width: int = 2, note: str = "") -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float64)
        self.action_space = spaces.Box(-0.2, 0.2, (width,), np.float32)
        self.note = note
        self.seed = 0
        self.steps = 0
        self.place = np.zeros(width)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.steps = seed or 0, 0
        self.place = self.np_random.normal(0, 0.2, self.place.shape)
        return self.place.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.place += action + self.np_random.normal(0, 0.1, self.place.shape)
        distance = float(np.abs(self.place).max())
        return self.place.copy(), distance, False, self.steps >= LENGTH, {"success": distance > 1}


class Crashing(Drift):
    """Raises at the third step of odd seeds."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.seed % 2 and self.steps == 2:
            raise RuntimeError(f"the simulation of seed {self.seed} exploded")
        return super().step(action)


class Diverging(Drift):
    """Observes NaN at the third step of odd seeds, while it tells success."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.seed % 2 and self.steps >= 2:
            return observation * (np.nan if self.steps > 2 else 1), reward, terminated, truncated, {"success": True}
        return observation, reward, terminated, truncated, info


class Dying(Drift):
    """Ends its process at the second step of seed 3: always, or, with a note that names a file, once."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.seed == 3 and self.steps == 1 and not (self.note and Path(self.note).exists()):
            if self.note:
                Path(self.note).touch()
            os._exit(17)
        return super().step(action)


class Pictured(gymnasium.Env):
    """Observes a dictionary with a picture, a nested vector and a number."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "front": spaces.Box(0, 255, (6, 8, 3), np.uint8),
                "arm": spaces.Dict({"joints": spaces.Box(-1, 1, (3,), np.float32)}),
            }
        )
        self.action_space = spaces.Box(-1, 1, (1,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.dtype == np.float64
        return self._observe(), 0.0, False, False, {"is_success": bool(action[0] > 0), "label": "text is left out"}

    def _observe(self) -> dict[str, Any]:
        picture = self.np_random.integers(0, 256, (6, 8, 3), np.uint8)
        return {"front": picture, "arm": {"joints": self.np_random.uniform(-1, 1, 3).astype(np.float32)}}


class Buttons(gymnasium.Env):
    """Takes actions that no vector of numbers describes."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(3)
