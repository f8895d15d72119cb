"""MoDE and Diffusion Policy's transformer as whole policies, written in YAML: trained, asked for actions, fused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from polydit.domains.robotics.policy import PolicySystem
from polydit.platform.acceleration import fuse_experts, sampling_levels
from polydit.platform.systems.system import System

from .conftest import ACTIONS, HISTORY, HORIZON, STATES, WIDTH, Statistics, make_batch

COMMON = f"""
system:
  class_path: polydit.domains.robotics.policy.PolicySystem
  init_args:
    codec:
      class_path: polydit.domains.robotics.codec.ActionChunkCodec
      init_args:
        action_size: {ACTIONS}
        vectors: {{state: {STATES}}}
        cameras: [front]
        horizon: {HORIZON}
        history: {HISTORY}
        instruction:
          class_path: polydit.domains.robotics.instructions.WordHashes
          init_args: {{buckets: 64, words: 8}}
    conditioner:
      class_path: polydit.platform.conditioning.Conditioner
      init_args:
        width: {WIDTH}
        axes:
          state:
            class_path: polydit.domains.robotics.observations.StateAxis
            init_args: {{size: {STATES}, history: {HISTORY}}}
          front:
            class_path: polydit.domains.robotics.observations.CameraAxis
            init_args: {{history: {HISTORY}}}
          instruction:
            class_path: polydit.domains.robotics.observations.InstructionAxis
            init_args: {{buckets: 64}}
"""

MODE = f"""
    denoiser:
      class_path: polydit.domains.robotics.mode.MoDE
      init_args:
        action_size: {ACTIONS}
        width: {WIDTH}
        depth: 2
        heads: 2
        horizon: {HORIZON}
        history: {HISTORY}
        goals: [instruction]
        observations: [state, front]
        schedule:
          class_path: polydit.platform.processes.EDMSchedule
          init_args: {{sigma_min: 0.001, sigma_max: 80.0}}
    process:
      class_path: polydit.platform.processes.Process
      init_args:
        schedule:
          class_path: polydit.platform.processes.EDMSchedule
          init_args: {{sigma_min: 0.001, sigma_max: 80.0}}
        prediction:
          class_path: polydit.platform.processes.PreconditionedPrediction
          init_args: {{sigma_data: 0.5}}
        weighting:
          class_path: polydit.platform.processes.EDMWeighting
          init_args: {{sigma_data: 0.5}}
        time_sampling:
          class_path: polydit.platform.processes.LogLogisticSigma
    sampler:
      class_path: polydit.platform.samplers.DDIM
      init_args:
        steps: 10
        grid:
          class_path: polydit.platform.samplers.LogSNRGrid
          init_args: {{t_max: 1.0, t_min: 0.0}}
    objectives:
      balance:
        class_path: polydit.platform.objectives.SideLoss
        init_args: {{name: balance, weight: 0.02}}
"""

BASELINE = f"""
    denoiser:
      class_path: polydit.domains.robotics.diffusion_policy.DiffusionPolicyTransformer
      init_args:
        action_size: {ACTIONS}
        width: {WIDTH}
        depth: 2
        heads: 2
        horizon: {HORIZON}
        history: {HISTORY}
        goals: [instruction]
        observations: [state, front]
    process:
      class_path: polydit.platform.processes.Process
      init_args:
        schedule:
          class_path: polydit.platform.processes.DDPMSchedule
          init_args: {{steps: 100, spacing: cosine}}
        prediction: polydit.platform.processes.EpsPrediction
    sampler:
      class_path: polydit.platform.samplers.Ancestral
      init_args:
        steps: 100
        grid:
          class_path: polydit.platform.samplers.UniformGrid
          init_args: {{include_end: true}}
    guidance:
      class_path: polydit.platform.samplers.clipping.ClippedEstimate
"""


def build(policy: str) -> PolicySystem:
    """The system, from its configuration written out and read back."""
    torch.manual_seed(0)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(System, "system")
    config = parser.parse_string(parser.dump(parser.parse_string(yaml.safe_dump(yaml.safe_load(COMMON + policy)))))
    system: Any = parser.instantiate(config).system
    system.prepare(Statistics())
    return system


def histories(count: int) -> list[dict[str, Any]]:
    batch = make_batch(count, ("front",))
    return [{name: values[i].numpy() for name, values in batch.observations.items()} for i in range(count)]


def answer(system: PolicySystem, count: int) -> np.ndarray[Any, Any]:
    chunks = system.propose(histories(count), ["Reach the goal"] * count, range(count), [None] * count)
    return np.stack(chunks)


@pytest.mark.parametrize("policy", [MODE, BASELINE], ids=["mode", "diffusion policy"])
def test_a_policy_trains_and_answers(policy: str) -> None:
    """Its loss falls, and answers stay within what the demonstrations' actions span."""
    system = build(policy).train()
    optimizer = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], 3e-3)
    generator, history = torch.Generator().manual_seed(0), []
    for seed in range(30):
        losses = system.losses(make_batch(32, ("front",), seed), generator)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(float(losses["action"].detach()))
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:5])
    chunks = answer(system.eval(), 3)
    assert chunks.shape == (3, HORIZON, ACTIONS) and np.abs(chunks).max() < 1.5
    assert np.array_equal(chunks, answer(system, 3))
    if policy == MODE:
        assert 0.9 < float(losses["balance"].detach()) < 4.0


def test_fused_experts_answer_the_same_at_any_number_of_robots() -> None:
    system = build(MODE).eval()
    torch.nn.init.normal_(system.denoiser.head.linear.weight, std=0.1)
    for count in (1, 4):
        expected = answer(system, count)
        with fuse_experts(system.denoiser, sampling_levels(system)) as fused:
            np.testing.assert_allclose(answer(system, count), expected, atol=1e-5)
        assert (fused.hits, fused.misses) == (10, 0)


def test_a_guess_runs_fused_too() -> None:
    """Sampling that begins in the middle of the grid asks at the grid's own levels."""
    system = build(MODE).eval()
    system.execution = type(system.execution)(steps=4, guess_from=5)
    guess = answer(system, 1)[0]
    with fuse_experts(system.denoiser, sampling_levels(system)) as fused:
        system.propose(histories(1), [""], [0], [guess])
    assert (fused.hits, fused.misses) == (5, 0)
