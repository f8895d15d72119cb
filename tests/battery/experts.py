"""Mixtures of experts, MoDE and Diffusion Policy's transformer in the battery.

Without dropout: its draws depend on how much is padded, and so would the outputs of real tokens in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from polydit.domains.robotics.diffusion_policy import DiffusionPolicyTransformer
from polydit.domains.robotics.mode import MoDE
from polydit.platform.state import Condition, Tokens

from .entry import CONDITION_TOKENS, LENGTHS, WIDTH, Case, Entry, Outputs, denoiser_entry, token_case

ACTION, HORIZON, HISTORY = 3, 16, 2


def policy_case(padding: int) -> Case:
    """Three chunks of 5, 3 and 4 actions, an instruction of 4, 2 and 4 words, two states and two times two patches."""
    case = token_case(padding, fields={"action": ACTION})
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(8))
    tokens = {
        "instruction": case.cond.tokens["text"],
        "state": Tokens(draw(len(LENGTHS), HISTORY, WIDTH)),
        "camera": Tokens(draw(len(LENGTHS), 2 * HISTORY, WIDTH)),
    }
    return Case(case.x_t, case.t, Condition(tokens=tokens), case.layout)


def seeded(entry: Entry, seed: int = 0) -> Entry:
    """The entry of a plug-in that draws from torch's global generator, with every run under the same seed."""

    def fix(run: Callable[[nn.Module, Any], Outputs]) -> Callable[[nn.Module, Any], Outputs]:
        def run_seeded(model: nn.Module, inputs: Any) -> Outputs:
            torch.manual_seed(seed)
            return run(model, inputs)

        return run_seeded

    neutral = {name: fix(run) for name, run in entry.neutral.items()}
    return replace(entry, run=fix(entry.run), neutral=neutral)


OPTIONS: dict[str, Any] = {
    "action_size": ACTION, "width": WIDTH, "depth": 2, "heads": 2, "horizon": HORIZON, "history": HISTORY,
    "observations": ("state", "camera"), "dropout": 0.0,
}
COUNT = CONDITION_TOKENS + 3 * HISTORY
Mode = partial(MoDE, **OPTIONS, experts=3, ratio=2.0, attention_dropout=0.0)
Baseline = partial(DiffusionPolicyTransformer, **OPTIONS)

EXPERT_POLICIES = [
    seeded(denoiser_entry("mode", Mode, 52_777, policy_case, max(LENGTHS), condition_tokens=COUNT + 1, start="zero")),
    denoiser_entry(
        "diffusion policy", Baseline, 43_267, policy_case, max(LENGTHS), condition_tokens=COUNT, start="free",
        compiler="eager",
    ),
    replace(
        denoiser_entry(
            "diffusion policy/first action", partial(Baseline, first_action=0), 43_267, policy_case, max(LENGTHS),
            start="free", compiler="eager",
        ),
        operations=None,
    ),
]
