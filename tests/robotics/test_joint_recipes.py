"""RDT and PAD as users write them: from YAML to losses, actions and back from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from polydit.data.robotics.batch import TrajectoryBatch
from polydit.domains.robotics.comparison import ComparisonEvaluator
from polydit.domains.robotics.policy import PolicySystem
from polydit.platform.checkpoints import build, export, load
from polydit.platform.errors import ConfigurationError
from polydit.platform.normalisers import FieldStatistics

RDT_SMALL = """
system:
  class_path: polydit.domains.robotics.policy.PolicySystem
  init_args:
    codec:
      class_path: polydit.domains.robotics.rdt_codec.UnifiedActionCodec
      init_args:
        action_slots: ["left_arm_joint_position[0:6]", left_gripper_joint_position_0,
                       "right_arm_joint_position[0:6]", right_gripper_joint_position_0]
        state_slots:
          state: ["left_arm_joint_position[0:6]", left_gripper_joint_position_0,
                  "right_arm_joint_position[0:6]", right_gripper_joint_position_0]
        vectors: {state: 14}
        cameras: [top]
        horizon: 16
        frequency: 50.0
        instruction: polydit.domains.robotics.instructions.WordHashes
    conditioner:
      class_path: polydit.platform.conditioning.Conditioner
      init_args:
        width: 256
        axes:
          state: {class_path: polydit.domains.robotics.channels.ChannelAxis, init_args: {shape: [1, 256], dropout: 0.1}}
          action_validity: {class_path: polydit.domains.robotics.channels.ChannelAxis, init_args: {shape: [1, 128]}}
          frequency: polydit.domains.robotics.rdt_axes.FrequencyAxis
          instruction: polydit.domains.robotics.observations.InstructionAxis
          top: polydit.domains.robotics.observations.CameraAxis
    denoiser:
      class_path: polydit.domains.robotics.rdt.RDT
      init_args: {width: 256, depth: 6, heads: 8, horizon: 16, images: [top]}
    process:
      class_path: polydit.platform.processes.Process
      init_args:
        schedule: {class_path: polydit.platform.processes.DDPMSchedule, init_args: {spacing: cosine}}
        prediction: polydit.platform.processes.X0Prediction
    sampler: {class_path: polydit.platform.samplers.DPMSolverPP2M, init_args: {steps: 5}}
"""

PAD_SMALL = """
system:
  class_path: polydit.domains.robotics.policy.PolicySystem
  init_args:
    codec:
      class_path: polydit.domains.robotics.pad_codec.FrameActionCodec
      init_args:
        action_size: 14
        camera: top
        frames: 3
        vectors: {state: 14}
        horizon: 8
        instruction: polydit.domains.robotics.instructions.WordHashes
    conditioner:
      class_path: polydit.platform.conditioning.Conditioner
      init_args:
        width: 256
        axes:
          state: {class_path: polydit.domains.robotics.channels.ChannelAxis, init_args: {shape: [1, 14]}}
          current_image: {class_path: polydit.domains.robotics.channels.ChannelAxis, init_args: {shape: [1, 3, 64, 64]}}
          instruction: polydit.domains.robotics.pad_axes.InstructionVectorAxis
    denoiser:
      class_path: polydit.domains.robotics.pad.PAD
      init_args: {width: 256, depth: 6, heads: 4, frames: 3, channels: 3, patch: 8, horizon: 8, action_size: 14,
                  state_size: 14}
    process:
      class_path: polydit.platform.processes.Process
      init_args:
        schedule: polydit.platform.processes.DDPMSchedule
        prediction: polydit.platform.processes.X0Prediction
    sampler: {class_path: polydit.platform.samplers.DDIM, init_args: {steps: 3}}
    loss_weights:
      action: {class_path: polydit.platform.objectives.LossWeight, init_args: {end: 2.0, steps: 1000}}
"""

RECIPES = {"rdt": (RDT_SMALL, 16), "pad": (PAD_SMALL, 8)}


class Statistics:
    """A data module's statistics: everything within [-1, 1]."""

    def statistics(self) -> dict[str, FieldStatistics]:
        one = torch.ones(14)
        return dict.fromkeys(("actions", "state"), FieldStatistics(0 * one, 0.5 * one, -one, one, count=100))


def make_batch(horizon: int) -> TrajectoryBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 4, 64, 64, 3), dtype=torch.uint8, generator=generator)
    return TrajectoryBatch(
        {"state": torch.rand(2, 1, 14, generator=generator), "top": images[:, :1]}, torch.ones(2, 1, dtype=torch.bool),
        torch.rand(2, horizon, 14, generator=generator), torch.ones(2, horizon, dtype=torch.bool),
        ["Transfer the cube", ""], ["aloha/transfer_cube"] * 2, future={"top": images[:, 1:]},
        future_mask=torch.tensor([[True] * 3, [True, False, False]]), frequency=torch.full((2,), 50.0),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_acts_and_comes_back_from_a_file(name: str, tmp_path: Path) -> None:
    text, horizon = RECIPES[name]
    torch.manual_seed(0)
    module = build(yaml.safe_load(text))
    system = module.system
    assert isinstance(system, PolicySystem)
    system.prepare(Statistics())
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    for step in range(2):  # PAD's actions weigh nothing in the first
        losses = system.losses(make_batch(horizon), torch.Generator().manual_seed(step))
        losses["loss"].backward()
        optimizer.step()
    assert set(losses) == ({"action", "loss"} if name == "rdt" else {"action", "image", "loss"})
    observation: dict[str, Any] = {"state": np.zeros(14, np.float32), "top": np.zeros((64, 64, 3), np.uint8)}
    action = system.policy("Transfer the cube", seed=3)(observation)
    assert action.shape == (14,) and np.isfinite(action).all() and np.abs(action).max() > 0
    export(module, tmp_path / "weights")
    again = load(tmp_path / "weights").system
    assert isinstance(again, PolicySystem)
    np.testing.assert_array_equal(again.policy("Transfer the cube", seed=3)(observation), action)


def test_a_chunk_longer_than_the_denoiser_s_is_refused_before_it_runs() -> None:
    config = yaml.safe_load(RDT_SMALL)
    config["system"]["init_args"]["codec"]["init_args"]["horizon"] = 20
    module = build(config)
    assert isinstance(module.system, PolicySystem)
    module.system.prepare(Statistics())
    with pytest.raises(ConfigurationError, match=r"actions of shape \(2, 20, 128\).*up to 16 actions"):
        module.system.losses(make_batch(20), torch.Generator().manual_seed(0))


def test_predicted_frames_are_compared_with_the_future_and_with_a_copy() -> None:
    torch.manual_seed(0)
    system = build(yaml.safe_load(PAD_SMALL)).system
    assert isinstance(system, PolicySystem)
    system.prepare(Statistics())
    batch = make_batch(8)
    batch.future["top"][0] = batch.observations["top"][0]
    first, second = system.eval().reconstruct(batch)
    assert first.copied_psnr == 100.0 and first.psnr is not None and 3 < first.psnr < 100
    assert second.copied_psnr is not None and second.copied_psnr < 15, "only its first frame is real, and noise"
    evaluator = ComparisonEvaluator()
    evaluator.update([first, second])
    numbers = evaluator.compute()
    assert numbers["held_out/psnr_gain"].value == pytest.approx(
        numbers["held_out/psnr"].value - numbers["held_out/psnr_of_copy"].value
    )
