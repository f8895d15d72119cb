"""The time embedding.

Shape legend: B batch, N tokens, D width, F frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigurationError
from ..state import Time
from .positions import angles


class TimeEmbedding(nn.Module):
    """Sinusoid of the noise level through a two-layer perceptron with SiLU.

    Args:
        width: D; supplied by the denoiser.
        frequencies: length of the sinusoid, cosines before sines; 256 in the published DiT.
        base: ratio of the longest wavelength to the shortest.
        scale: multiplies t, which is in [0, 1]; 1000 makes it the step number that the base was chosen for. ADiT was
            published with 1, which leaves most of the sinusoid constant.
        include_base: see `angles`; True where diffusers' weights are loaded.
        fields: for states whose fields have noise levels of their own, the fields in order; their sinusoids are joined
            before the perceptron. Empty: one level for all.
    """

    def __init__(
        self,
        width: int,
        frequencies: int = 256,
        base: float = 1e4,
        scale: float = 1000.0,
        include_base: bool = False,
        fields: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.frequencies, self.base, self.scale, self.include_base = frequencies, base, scale, include_base
        self.fields = tuple(fields)
        self.expand = nn.Linear(frequencies * max(1, len(self.fields)), width)
        self.contract = nn.Linear(width, width)
        self.initialise()

    def initialise(self) -> None:
        """Normal weights with standard deviation 0.02, zero biases."""
        for linear in (self.expand, self.contract):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, t: Time) -> Tensor:
        """Embedding [B, D], or [B, N, D] if any level is per token.

        Raises:
            ConfigurationError: if levels come per field and this embedding was not told of the fields.
        """
        parts = [self._sinusoid(level) for level in self._levels(t)]
        if any(part.ndim == 3 for part in parts):
            tokens = max(part.shape[1] for part in parts if part.ndim == 3)
            parts = [part if part.ndim == 3 else part[:, None].expand(-1, tokens, -1) for part in parts]
        joined = torch.cat(parts, dim=-1).to(self.expand.weight.dtype)
        return self.contract(functional.silu(self.expand(joined)))

    def _levels(self, t: Time) -> list[Tensor]:
        if isinstance(t, Tensor):
            return [t] * max(1, len(self.fields))
        if self.fields:
            missing = [name for name in self.fields if name not in t]
            if missing:
                raise ConfigurationError(f"no noise level for fields {missing}, only for {sorted(t)}: give each one")
            return [t[name] for name in self.fields]
        if len(t) > 1:
            raise ConfigurationError(
                f"noise levels came for {sorted(t)} and the time embedding knows one level: "
                "set its `fields` to these names"
            )
        return list(t.values())

    def _sinusoid(self, t: Tensor) -> Tensor:
        angle = angles(t.float() * self.scale, self.frequencies // 2, self.base, self.include_base)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    def cost(self) -> int:
        """Floating-point operations of one level, two per multiply-add."""
        return 2 * (self.expand.weight.numel() + self.contract.weight.numel())
