"""PushT: a round pusher brings a T-shaped block into its goal pose, in the plane.

Source: Chi et al. 2023, arXiv 2303.04137; simulated by gym-pusht.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

from .families import Family
from .rendering import EXTRA, select_backend
from .simulator import Field, Outcome, Simulator, refuse_options

SIDE = 512.0
"""Side of the plane, its own unit of length (pixels of its full picture)."""

MAX_STEPS = 300  # as in Diffusion Policy


class PushTSimulator(Simulator):
    """The only task. It succeeds, and ends, when the block covers more than 95 % of the goal."""

    packages = ("gym-pusht", "pymunk")
    cameras = ("top",)
    frames_per_second = 10
    needs_opengl = False
    max_steps = MAX_STEPS
    instruction = "push the T-shaped block onto the T-shaped target"

    def __init__(self) -> None:
        select_backend()  # gym_pusht looks at the variable when it is imported
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pygame, about setuptools
            self._module = require("gym_pusht.envs.pusht", EXTRA)
        self.environment = self._module.PushTEnv(obs_type="state")
        self.environment._get_coverage = self._measure_coverage
        self.fields = {
            "state": Field(
                (5,), f"plane units, 0 to {SIDE:g}; rad, 0 to 2 pi", "places of pusher and block, block's angle",
                parts=(("pusher_position", 2), ("block_position", 2), ("block_angle", 1)),
            ),
            "keypoints": Field((16,), "plane units", "corners of the block's two bars, x and y in turn"),
        }  # fmt: skip
        self.action = Field((2,), f"plane units, 0 to {SIDE:g}", "place that the pusher is drawn to", 0.0, SIDE)

    def reset(self, seed: int) -> None:
        """Draw the places and the angle from the seed."""
        self.environment.reset(seed=seed)

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Draw the pusher to a place for a tenth of a second; the reward is the covered share of the goal over 95 %."""
        _, reward, terminated, _, info = self.environment.step(action.astype(np.float64))
        return Outcome(float(reward), bool(info["is_success"]), bool(terminated), {"coverage": float(info["coverage"])})

    def observe(self) -> dict[str, NDArray[Any]]:
        """Places and angle, and the corners of the block."""
        block = self.environment.block
        state = np.array([*self.environment.agent.position, *block.position, block.angle % (2 * math.pi)])
        return {"state": state, "keypoints": self.environment.get_keypoints(self.environment._block_shapes).ravel()}

    def state(self) -> NDArray[np.float64]:
        """Places and velocities of pusher and block."""
        agent, block = self.environment.agent, self.environment.block
        return np.array(
            [*agent.position, *agent.velocity, *block.position, *block.velocity, block.angle, block.angular_velocity]
        )

    def render(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """The plane from above, without the mark of the action."""
        self.environment.observation_height, self.environment.observation_width = height, width
        return np.ascontiguousarray(self.environment._render(visualize=False))

    def close(self) -> None:
        """Close the environment."""
        self.environment.close()

    def _measure_coverage(self) -> float:
        """Share of the goal under the block.

        gym-pusht walks the block's shapes as a set, whose order, and with it the rounding of the reward, changes from
        one process to the next; here they come in the order in which they were made.
        """
        environment, shapes = self.environment, self.environment._block_shapes
        goal_body = environment.get_goal_pose_body(environment.goal_pose)
        goal, block = (self._module.pymunk_to_shapely(body, shapes) for body in (goal_body, environment.block))
        return float(goal.intersection(block).area / goal.area)


def build(task: str, **options: Any) -> PushTSimulator:
    """Make the simulator; there are no options."""
    refuse_options("pusht", options)
    return PushTSimulator()


FAMILY = Family(build, lambda: [""])
