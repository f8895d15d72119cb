"""The KL bottleneck: a diagonal Gaussian per token (Kingma & Welling 2014; per token as in latent diffusion).

Shape legend: B batch, N tokens, D width, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DiagonalGaussian:
    """A Gaussian with independent channels.

    Args:
        mean: [B, N, C].
        log_variance: [B, N, C].
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw [B, N, C]."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + noise * (0.5 * self.log_variance).exp()

    def kl(self) -> Tensor:
        """Divergence from the standard normal, summed over channels: [B, N]."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(dim=-1)


class GaussianBottleneck(nn.Module):
    """Linear maps into a diagonal Gaussian of few channels and out of it, without bias.

    Args:
        width: D.
        channels: C.
        log_variance_range: the log-variance is clamped to it.
    """

    def __init__(self, width: int, channels: int, log_variance_range: tuple[float, float] = (-30.0, 20.0)) -> None:
        super().__init__()
        self.channels = channels
        self.log_variance_range = log_variance_range
        self.squeeze = nn.Linear(width, 2 * channels, bias=False)
        self.expand = nn.Linear(channels, width, bias=False)

    def encode(self, h: Tensor) -> DiagonalGaussian:
        """Posterior [B, N, C] of features [B, N, D]."""
        mean, log_variance = self.squeeze(h).chunk(2, dim=-1)
        return DiagonalGaussian(mean, log_variance.clamp(*self.log_variance_range))

    def decode(self, latent: Tensor) -> Tensor:
        """Features [B, N, D] of a latent [B, N, C]."""
        return self.expand(latent)
