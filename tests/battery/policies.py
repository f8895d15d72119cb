"""RDT's and PAD's denoisers in the battery.

Shape legend: B batch, H actions, S slots, K frames, C channels.
"""

from __future__ import annotations

from functools import partial

import torch

from polydit.domains.robotics.pad import PAD
from polydit.domains.robotics.rdt import RDT
from polydit.platform.state import Condition, Layout, Tokens

from .entry import CONDITION_TOKENS, LENGTHS, WIDTH, Case, denoiser_entry, token_case

SLOTS = 6


def unified_case(padding: int) -> Case:
    """Three chunks of 5, 3 and 4 actions in six slots, of which each robot has others."""
    case = token_case(padding, fields={"action": SLOTS})
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(8))
    batch = len(LENGTHS)
    valid = torch.tensor([[1.0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]])[:, None]
    channels = {"state": torch.cat([draw(batch, 1, SLOTS) * valid, valid], dim=-1), "action_validity": valid}
    tokens = {"instruction": case.cond.tokens["text"], "images": Tokens(draw(batch, CONDITION_TOKENS, WIDTH))}
    condition = Condition({"frequency": draw(batch, WIDTH)}, tokens, channels)
    return Case(case.x_t, case.t, condition, case.layout)


def frames_case(padding: int) -> Case:
    """Three situations with two future frames and depth maps of 4 rows and 8 columns, and chunks of 3 actions.

    The second has its first frame and its first two actions only, the third no actions at all; fields are never padded.
    """
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(9))
    x_t = {"action": draw(3, 3, 2), "image": draw(3, 2, 3, 4, 8), "depth": draw(3, 2, 1, 4, 8)}
    seen = {"state": draw(3, 1, 5), "current_image": draw(3, 1, 3, 4, 8), "current_depth": draw(3, 1, 1, 4, 8)}
    condition = Condition({"instruction": draw(3, WIDTH)}, {}, seen)
    actions = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    masks = {"action": actions, "image": torch.tensor([[True, True], [True, False], [True, True]])}
    layout = Layout({name: tuple(value.shape) for name, value in x_t.items()}, masks)
    return Case(x_t, torch.tensor([0.1, 0.5, 0.9]), condition, layout)


TinyPAD = partial(PAD, WIDTH, 2, 2, frames=2, channels=3, patch=2, horizon=3, action_size=2, state_size=5)

POLICIES = [
    denoiser_entry(
        "rdt", partial(RDT, WIDTH, 2, 2, horizon=max(LENGTHS) + 6, slots=SLOTS), 34_982, unified_case,
        2 + 1 + max(LENGTHS), condition_tokens=CONDITION_TOKENS, start="zero", compiler="eager",
    ),
    denoiser_entry(
        "pad", partial(TinyPAD, depth_patch=4), 58_622, frames_case, 8 + 2 + 1, padded=False, compiler="eager"
    ),
    denoiser_entry(
        "pad/both ways", partial(TinyPAD, depth_patch=4, one_way=False), 58_622, frames_case, 8 + 2 + 1, padded=False
    ),
]
