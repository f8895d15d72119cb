"""Estimates kept within the range of the data.

Shape legend: B batch.
"""

from __future__ import annotations

from torch import Tensor

from ..state import State
from .guidance import Guidance, Guided, NoGuidance


class ClippedEstimate(Guidance):
    """The inner estimate limited to a range, as DDPM samplers do with data in [-1, 1] (arXiv 2006.11239, section 3.3).

    Networks that predict noise need it where there is next to no data left in x_t: a small error of the noise is there
    a large one of the estimate.

    Args:
        limit: largest absolute value of the clean data; 1 for fields normalised to [-1, 1].
        inner: guidance whose estimate is limited; None: the estimate under the condition as it is.
    """

    def __init__(self, limit: float = 1.0, inner: Guidance | None = None) -> None:
        if limit <= 0:
            raise ValueError(f"limit {limit} must be positive: it is the largest absolute value of the data")
        self.limit = limit
        self.inner = inner or NoGuidance()

    def estimate(self, x: State, t: Tensor, guided: Guided) -> State:
        """What the inner guidance costs."""
        estimate = self.inner.estimate(x, t, guided)
        return {name: value.clamp(-self.limit, self.limit) for name, value in estimate.items()}
