"""ADiT from stock torch modules, as a public implementation runs it: padded, fp32, batches as they come.

It is the peer that `adit_speed.py` times against; only shapes and the order of operations follow the publication.

Shape legend: B structures, N atoms of the largest in the batch, D width, C latent channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoid(values: Tensor, width: int, base: float) -> Tensor:
    """[..., width] cosines and sines of `values`."""
    frequency = base ** (-torch.arange(width // 2) / (width // 2))
    angle = values[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class StockEncoder(nn.Module):
    """Pre-norm `nn.TransformerEncoder` over type, position and fractional embeddings."""

    def __init__(self, width: int, depth: int, heads: int, channels: int) -> None:
        super().__init__()
        self.types = nn.Embedding(100, width)
        self.positions = nn.Sequential(nn.Linear(3, width, bias=False), nn.SiLU(), nn.Linear(width, width))
        self.fractional = nn.Sequential(nn.Linear(3, width, bias=False), nn.SiLU(), nn.Linear(width, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, nn.GELU("tanh"), batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.squeeze = nn.Linear(width, 2 * channels, bias=False)
        self.width = width

    def forward(self, numbers: Tensor, positions: Tensor, fractional: Tensor, mask: Tensor) -> Tensor:
        """Sampled latents [B, N, C]."""
        h = self.types(numbers) + self.positions(positions / 10) + self.fractional(fractional)
        h = h + sinusoid(torch.arange(numbers.shape[1]) * math.pi, self.width, 2048.0)
        mean, log_variance = self.squeeze(self.encoder(h, src_key_padding_mask=~mask)).chunk(2, dim=-1)
        return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


class StockBlock(nn.Module):
    """adaLN-Zero around `nn.MultiheadAttention` and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        """Next tokens [B, N, D]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c)[:, None].chunk(6, dim=-1)
        h = self.norm_1(x) * (1 + scale_1) + shift_1
        x = x + gate_1 * self.attention(h, h, h, key_padding_mask=~mask, need_weights=False)[0]
        return x + gate_2 * self.mlp(self.norm_2(x) * (1 + scale_2) + shift_2)


class StockDenoiser(nn.Module):
    """Denoiser of clean latents with self-conditioning, domain and space group."""

    def __init__(self, width: int, depth: int, heads: int, channels: int) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Linear(2 * channels, width)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.domain, self.space_group = nn.Embedding(3, width), nn.Embedding(231, width)
        self.blocks = nn.ModuleList([StockBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, channels)

    def forward(self, x: Tensor, previous: Tensor, t: Tensor, domain: Tensor, group: Tensor, mask: Tensor) -> Tensor:
        """Clean latents [B, N, C]."""
        h = self.embed(torch.cat([x, previous], dim=-1))
        h = h + sinusoid(torch.arange(x.shape[1]) * math.pi, self.width, 2048.0)
        c = self.time(sinusoid(t, 256, 1e4)) + self.domain(domain) + self.space_group(group)
        for block in self.blocks:
            h = block(h, c, mask)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)
        return self.head(self.norm(h) * (1 + scale) + shift) * mask[..., None]


def sample(model: StockDenoiser, counts: Tensor, steps: int, channels: int, scale: float = 2.0) -> Tensor:
    """Latents of molecules with these atom counts [B], both branches of guidance in one batch, padded as they come."""
    longest, size = int(counts.max()), len(counts)
    mask = (torch.arange(longest) < counts[:, None]).repeat(2, 1)
    x = torch.randn(size, longest, channels)
    domain = torch.cat([torch.full((size,), 2), torch.zeros(size, dtype=torch.long)])
    group = torch.zeros(2 * size, dtype=torch.long)
    previous = torch.zeros(2 * size, longest, channels)
    times = torch.linspace(0.01, 1.0, steps)
    for i, t in enumerate(times):
        told, untold = model(x.repeat(2, 1, 1), previous, t.expand(2 * size), domain, group, mask).chunk(2)
        clean = untold + scale * (told - untold)
        previous = clean.repeat(2, 1, 1)
        if i + 1 < steps:
            x = x + (clean - x) / (1 - t) * (times[i + 1] - t)
    return clean
