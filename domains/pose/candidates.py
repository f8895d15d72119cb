"""Candidates: places drawn from heatmaps, which stand for them as sets do for distributions.

Shape legend: B heatmap sets, k draws of each, J joints, S pixels along each side, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

STREAM = 1
"""Tells the numbers that draw candidates from others of the same seed."""


def draw_candidates(heatmaps: Tensor, uniform: Tensor) -> Tensor:
    """Places with their likelihood, [k, B, J, C, 3]: x and y in [-1, 1), and the raw value of the heatmap there.

    The first candidate is the highest pixel, the others are drawn with probability proportional to the heatmap, with
    replacement. Negative values count as none; an empty heatmap gives places from everywhere, of likelihood 0.

    Args:
        heatmaps: [B, J, S, S], rows downwards.
        uniform: [k, B, J, C - 1] numbers in [0, 1).
    """
    size = heatmaps.shape[-1]
    values = heatmaps.clamp(min=0).flatten(2)
    heights = values.cumsum(dim=-1)
    total = heights[..., -1:]
    numbers = uniform.to(values).movedim(0, 2).flatten(2)  # [B, J, k (C - 1)]
    # Below the sum, however numbers round: the pixel where the heights first exceed it then has a value above 0.
    wanted = torch.minimum(numbers * total, torch.nextafter(total, torch.zeros_like(total)))
    drawn = torch.searchsorted(heights, wanted.contiguous(), right=True)
    anywhere = (numbers * values.shape[-1]).long()
    drawn = torch.where(total > 0, drawn, anywhere).clamp(max=values.shape[-1] - 1)
    likelihood = values.gather(-1, drawn)
    peak, place = values.max(dim=-1, keepdim=True)
    count, rest = uniform.shape[0], uniform.shape[-1]

    def arrange(first: Tensor, others: Tensor) -> Tensor:
        parts = others.unflatten(-1, (count, rest)).movedim(2, 0)
        return torch.cat([first.expand(count, *first.shape), parts], dim=-1)

    cells, weights = arrange(place, drawn), arrange(peak, likelihood)
    x, y = cells % size, cells.div(size, rounding_mode="floor")
    places = torch.stack([x, y], dim=-1).to(values.dtype) * (2 / size) - 1
    return torch.cat([places, weights[..., None]], dim=-1)


def uniform_of(seeds: Sequence[int], joints: int, count: int) -> Tensor:
    """Numbers in [0, 1) for `count` draws of each joint, [n, J, count]; each row depends on its own seed alone."""
    rows = [np.random.default_rng((seed % 2**63, STREAM)).random((joints, count)) for seed in seeds]
    return torch.from_numpy(np.stack(rows))
