"""robomimic's rollout interface: its evaluation loops run our policies, in our environments or in its own.

robomimic 0.3 needs other packages than polydit, torchvision above all, so it mostly lives in an environment of its own,
where Lightning cannot be imported. So this module asks for neither: there a policy is a
`polydit.domains.robotics.client.RemotePolicy`, served by ``polydit serve``; elsewhere it is `PolicySystem.policy`.

    environment = make_robomimic_environment("metaworld/reach-v3", seed=7)
    with RemotePolicy(url, environment.base_env.instruction, seed=7) as remote:
        logs, _ = rollout_with_stats(make_rollout_policy(remote), {"reach": environment}, horizon=500, num_episodes=50)

Source: robomimic 0.3, ``algo/algo.py`` and ``utils/train_utils.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError

from .robomimic_environment import NO_GOALS, import_robomimic, make_robomimic_environment

__all__ = ["StepPolicy", "make_robomimic_environment", "make_rollout_policy"]


class StepPolicy(Protocol):
    """A policy as a function of one observation, such as `RemotePolicy` or `Policy`."""

    def start_episode(self) -> None:
        """Forget what was seen, and go on to the next seed."""

    def __call__(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Action [A] for an observation, field -> value now."""


def make_rollout_policy(policy: StepPolicy) -> Any:
    """Make a policy a `RolloutPolicy` of robomimic.

    Args:
        policy: just made, or just told to start an episode: robomimic's loops start each episode before they act, and
            the first start is the one that was already made, so that the policy's seed is the first episode's.

    Returns:
        What robomimic's loops take. Observations may be arrays or tensors, their images as robomimic's networks take
        them or as they were taken, one frame or a stack of frames, of which the last one is passed on.

    Raises:
        MissingExtraError: if robomimic is not installed.
    """
    return _policy_class()(policy)


class RolloutInterface:
    """What robomimic's loops ask of a policy, over one of ours; `make_rollout_policy` joins it to `RolloutPolicy`.

    Args:
        policy: see `make_rollout_policy`.
    """

    def __init__(self, policy: StepPolicy) -> None:
        self.policy = policy
        self.obs_normalization_stats = None  # ours normalise by what they learnt, and want what the environment gives
        self._at_start = True

    def start_episode(self) -> None:
        """Begin anew, with the next seed, unless nothing was asked in this episode yet."""
        if not self._at_start:
            self.policy.start_episode()
        self._at_start = True

    def __call__(self, ob: Mapping[str, Any], goal: Mapping[str, Any] | None = None) -> NDArray[np.float32]:
        """Action [A] in the environment's units.

        Args:
            ob: field -> what is seen now, or a stack of the last frames.
            goal: none is taken.

        Raises:
            ConfigurationError: if there is a goal.
        """
        if goal is not None:
            raise ConfigurationError(NO_GOALS)
        self._at_start = False
        return self.policy({name: _to_field(value) for name, value in ob.items()})

    def __repr__(self) -> str:
        return f"RolloutPolicy({self.policy!r})"


@lru_cache(maxsize=1)
def _policy_class() -> Any:
    base = import_robomimic("algo").RolloutPolicy
    return type("RobomimicPolicy", (RolloutInterface, base), {"__doc__": RolloutInterface.__doc__})


def _to_field(value: Any) -> NDArray[Any]:
    """A vector as float32 [S] or an image as uint8 [h, w, 3], of robomimic's array or tensor."""
    array = import_robomimic("utils.tensor_utils").to_numpy(value) if hasattr(value, "detach") else np.asarray(value)
    if array.ndim in (2, 4):  # frames stacked by robomimic's wrapper, the newest last
        array = array[-1]
    if array.ndim < 2:
        return np.asarray(array, np.float32)
    if array.dtype == np.uint8:
        return array
    # It scales in place, and the array is the caller's.
    image = import_robomimic("utils.obs_utils").unprocess_obs(array.copy(), obs_modality="rgb")
    return np.rint(image).astype(np.uint8)
