"""Schedules given as a table of discrete steps, for weights that were trained elsewhere.

Shape legend: T steps of the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .schedules import VariancePreservingSchedule


class TabulatedSchedule(VariancePreservingSchedule):
    """Variance-preserving diffusion through a table of alpha^2 ("alphas_cumprod"), linear in log-SNR between entries.

    Step k of the table (k = 0 the cleanest) is t = k / (T - 1): a network trained on step numbers gets t (T - 1).

    Args:
        alphas_cumprod: [T] values falling within (0, 1), T >= 2.
    """

    def __init__(self, alphas_cumprod: Sequence[float]) -> None:
        table = torch.tensor([float(value) for value in alphas_cumprod], dtype=torch.float64)
        if len(table) < 2 or table.min() <= 0 or table.max() >= 1 or (table.diff() >= 0).any():
            raise ValueError(
                f"alphas_cumprod must hold at least two values falling within (0, 1), not {len(table)} values from "
                f"{table.max() if len(table) else None} to {table.min() if len(table) else None}"
            )
        self._log_snr = torch.log(table) - torch.log1p(-table)
        self._slope = self._log_snr.diff() * (len(table) - 1)

    @property
    def steps(self) -> int:
        """Length T of the table."""
        return len(self._log_snr)

    def posterior(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of q(x_{k-1} | x_k, x_0) at step k of the table (arXiv:2006.11239, equations 6 and 7).

        Args:
            t: k / (T - 1), of any shape.

        Returns:
            the weights of x_0 and of x_k in the mean, and the logarithms of the posterior's variance and of the forward
            step's, all shaped as t and in float64. At k = 0 the first is 0 and stands as its successor does.
        """
        level = torch.sigmoid(self._log_snr)
        before = torch.cat([torch.ones_like(level[:1]), level[:-1]])
        # 1 - level by the logistic function of minus the log-SNR, where nothing cancels
        noise = torch.sigmoid(-self._log_snr)
        noise_before = torch.cat([torch.zeros_like(noise[:1]), noise[:-1]])
        rate = 1 - level / before
        variance = rate * noise_before / noise
        variance[0] = variance[1]
        tables = (
            before.sqrt() * rate / noise, (level / before).sqrt() * noise_before / noise, variance.log(), rate.log(),
        )
        step = (t.to(torch.float64) * (self.steps - 1)).round().long()
        first, second, low, high = (table.to(t.device)[step] for table in tables)
        return first, second, low, high

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log-SNR at t and its slope."""
        values, slopes = (tensor.to(t.device) for tensor in (self._log_snr, self._slope))
        position = t.to(torch.float64) * len(slopes)
        left = position.floor().long().clamp(0, len(slopes) - 1)
        slope = slopes[left]
        return values[left] + slope * (position - left) / len(slopes), slope

    def log_snr(self, t: Tensor) -> Tensor:
        """Interpolated log-SNR."""
        return self._locate(t)[0].to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        """Square root of the logistic function of the log-SNR."""
        return torch.sigmoid(self._locate(t)[0]).sqrt().to(t.dtype)

    def variance(self, t: Tensor) -> Tensor:
        """Logistic function of minus the log-SNR."""
        return torch.sigmoid(-self._locate(t)[0]).to(t.dtype)

    def alpha_slope(self, t: Tensor) -> Tensor:
        """Derivative within the interval that holds t; at an entry, of the noisier one."""
        log_snr, slope = self._locate(t)
        return (0.5 * slope * torch.sigmoid(-log_snr) * torch.sigmoid(log_snr).sqrt()).to(t.dtype)

    def time_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Inverse interpolation, extended by the end intervals beyond the table."""
        rising = self._log_snr.flip(0).to(log_snr.device)
        wanted = log_snr.to(torch.float64)
        right = torch.searchsorted(rising, wanted.contiguous()).clamp(1, len(rising) - 1)
        left = len(rising) - 1 - right
        slopes, values = self._slope.to(log_snr.device), self._log_snr.to(log_snr.device)
        return (left / len(slopes) + (wanted - values[left]) / slopes[left]).to(log_snr.dtype)


class DDPMSchedule(TabulatedSchedule):
    """The discrete schedules of DDPM and its kin, by the name that checkpoints give them.

    Args:
        steps: length T of the table.
        beta_start: first noise rate; unused by "cosine".
        beta_end: last noise rate; unused by "cosine".
        spacing: "linear" in beta (arXiv:2006.11239), "scaled_linear" in its square root (latent diffusion,
            arXiv:2112.10752), "cosine" with rates limited to 0.999 (arXiv:2102.09672).
    """

    def __init__(
        self,
        *,
        steps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        spacing: Literal["linear", "scaled_linear", "cosine"] = "linear",
    ) -> None:
        if spacing == "linear":
            betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        elif spacing == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        else:
            times = torch.arange(steps + 1, dtype=torch.float64) / steps
            level = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - level[1:] / level[:-1]).clamp(max=0.999)
        super().__init__((1 - betas).cumprod(0).tolist())
