"""Noise whose value belongs to the sample: each sample draws from its own generator, whatever batch it stands in.

Shape legend: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class NoiseSource:
    """Standard normal noise, one generator per sample.

    Args:
        seeds: one seed per sample of the batch. Same seed, same noise, at any batch size, padding or order.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def draw(self, shape: Sequence[int], mask: Tensor | None, device: torch.device | str = "cpu") -> Tensor:
        """Noise of `shape` [B, N, ...], zero at padded tokens; `mask` is [B, N] bool or None.

        A sample of n real tokens draws exactly n rows, so that the padded length never enters its noise.

        Raises:
            ValueError: if the batch is not as long as the seeds.
        """
        if shape[0] != len(self.generators):
            raise ValueError(f"{shape[0]} samples but {len(self.generators)} seeds: give one seed a sample")
        noise = torch.zeros(tuple(shape))
        valid = None if mask is None else mask.cpu()
        for i, generator in enumerate(self.generators):
            if valid is None:
                noise[i] = torch.randn(noise[i].shape, generator=generator)
            else:
                count = int(valid[i].sum())
                noise[i, valid[i]] = torch.randn((count, *noise.shape[2:]), generator=generator)
        return noise.to(device)
