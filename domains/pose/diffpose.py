"""DiffPose's denoiser, process, sampler and limits, as published.

Shape legend: B batch, J joints, D width, K size of the condition.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from polydit.platform.context import Context
from polydit.platform.denoisers import Denoiser
from polydit.platform.errors import ConfigurationError
from polydit.platform.processes import DDPMSchedule, EpsPrediction, Process, StepTime
from polydit.platform.samplers import Ancestral, UniformGrid
from polydit.platform.samplers.clipping import ClippedEstimate
from polydit.platform.state import Condition, State, Streams, Time, time_of

STEPS = 25
"""Steps of the published process."""

JOINTS = 16
"""All joints of Human3.6M but the root."""

CONDITION = 2048
"""Size of the published condition."""


class ResidualBlock(nn.Module):
    """Two linear maps, each with a leaky ReLU behind it, beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """[B, D]."""
        return h + functional.leaky_relu(self.second(functional.leaky_relu(self.first(h))))


class PoseMLP(Denoiser):
    """The published denoiser: the noised pose, the number of the step and the condition through a residual perceptron.

    The step's number goes in as it is, so that a model is tied to its number of steps (Holmquist and Wandt, ICCV 2023,
    arXiv:2211.16487, and their public code).

    Args:
        joints: J.
        condition: K, width of the conditioner.
        width: D.
        depth: residual blocks.
        steps: of the process; the step is t (steps - 1).
        axis: name of the condition's vector.
        field: of the pose [B, J, 3].
    """

    def __init__(
        self, joints: int = JOINTS, condition: int = CONDITION, width: int = 1024, depth: int = 2, steps: int = STEPS,
        axis: str = "heatmaps", field: str = "pose",
    ) -> None:
        super().__init__()
        if min(joints, condition, width, depth) < 1 or steps < 2:
            raise ConfigurationError(
                f"joints {joints}, condition {condition}, width {width} and depth {depth} must be at least 1, steps "
                f"{steps} at least 2"
            )
        self.joints, self.condition, self.steps, self.axis, self.field = joints, condition, steps, axis, field
        self.embedding = nn.Linear(3 * joints + 1 + condition, width)
        self.blocks = nn.ModuleList([ResidualBlock(width) for _ in range(depth)])
        self.head = nn.Linear(width, 3 * joints)

    @property
    def streams(self) -> dict[str, str]:
        """The stream ``x``, which is the whole pose."""
        return {"x": self.field}

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        """Prediction for the pose.

        Raises:
            ConfigurationError: if the condition lacks the vector, or it or the pose has another size.
        """
        pose, vector = x_t[self.field], cond.vectors.get(self.axis)
        if vector is None or vector.shape[-1] != self.condition or pose.shape[1:] != (self.joints, 3):
            held = {name: tuple(value.shape) for name, value in cond.vectors.items()}
            raise ConfigurationError(
                f"the denoiser reads poses [B, {self.joints}, 3] and a vector {self.axis!r} of {self.condition} and "
                f"got {tuple(pose.shape)} and {held}: give the conditioner that width and an axis of that name"
            )
        weight = self.embedding.weight
        step = (time_of(t, self.field).float() * (self.steps - 1))[:, None]
        given = torch.cat([pose.flatten(1).to(weight.dtype), step.to(weight.dtype), vector.to(weight.dtype)], dim=-1)
        h = ctx.run(
            {"x": self.embedding(given)},
            [partial(self._block, number=number, ctx=ctx) for number in range(len(self.blocks))],
        )
        return {self.field: self.head(h["x"]).unflatten(-1, (self.joints, 3)).to(pose.dtype)}

    def _block(self, h: Streams, number: int, ctx: Context) -> Streams:
        return {"x": ctx.call(f"blocks.{number}", self.blocks[number], h["x"])}

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Operations of one forward pass of one sample, products only; the number of joints is fixed."""
        return 2 * sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear))


def published_process(steps: int = STEPS) -> Process:
    """DDPM along a squared cosine that predicts the noise, trained at its whole steps."""
    return Process(DDPMSchedule(steps=steps, spacing="cosine"), EpsPrediction(), time_sampling=StepTime(steps=steps))


def published_sampler(steps: int = STEPS) -> Ancestral:
    """Ancestral sampling at every step of the schedule, with the smaller variance."""
    return Ancestral(steps, UniformGrid(include_end=True))


def published_guidance() -> ClippedEstimate:
    """None but that no joint is estimated more than 3 m from the pelvis, in poses of tenths of a metre."""
    return ClippedEstimate(30.0)
