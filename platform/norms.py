"""Norms, built as ``Norm(width, affine)``: affine where no modulation follows.

Shape legend: D width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class LayerNorm(nn.LayerNorm):
    """Zero mean and unit variance over the width.

    Args:
        width: D; supplied by the block.
        affine: whether it learns scale and shift; supplied by the block.
        eps: added to the variance.
    """

    def __init__(self, width: int, affine: bool, eps: float = 1e-6) -> None:
        super().__init__(width, eps=eps, elementwise_affine=affine)


class RMSNorm(nn.RMSNorm):
    """Unit mean square over the width.

    Args:
        width: D; supplied by the block.
        affine: whether it learns a scale; supplied by the block.
        eps: added to the mean square.
    """

    def __init__(self, width: int, affine: bool, eps: float = 1e-6) -> None:
        super().__init__(width, eps=eps, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normed `x` [..., D], in its own type: torch's fused kernel refuses weights of another, as under autocast."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return functional.rms_norm(x, self.normalized_shape, weight, self.eps)
