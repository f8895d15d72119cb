"""Guidance away from a weaker self: the same network with some of its blocks left out.

Autoguidance (Karras et al. 2024, arXiv:2406.02507, equation 4) extrapolates from a weaker model's estimate through the
model's own: both err in the same direction, the weaker one further. A second, worse network is not needed: one whose
blocks are partly skipped errs likewise (Hyung et al. 2024, spatiotemporal skip guidance, arXiv:2411.18664). It needs no
condition. What overshoots can also blow samples apart: watch a metric that notices.

Shape legend: B batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..context import BoundBlock, Context, RunBlocks
from ..errors import ConfigurationError
from ..state import State, Streams
from .guidance import Guidance, Guided, NoGuidance, check_interval, is_within


class SkipBlocks:
    """Stack policy that leaves some blocks out.

    Args:
        blocks: their indices; negative ones count from the end.
    """

    def __init__(self, blocks: Sequence[int]) -> None:
        self.blocks = tuple(blocks)

    def run(self, h: Streams, blocks: Sequence[BoundBlock], proceed: RunBlocks, ctx: Context) -> Streams:
        """Streams after the other blocks.

        Raises:
            ConfigurationError: if the stack has no block of an index.
        """
        depth = len(blocks)
        beyond = [index for index in self.blocks if not -depth <= index < depth]
        if beyond:
            raise ConfigurationError(f"blocks {beyond} are not among the {depth} of the stack: choose 0 to {depth - 1}")
        skipped = {index % depth for index in self.blocks}
        return proceed(h, [block for index, block in enumerate(blocks) if index not in skipped])


class SkipGuidance(Guidance):
    """x̂ = x̂_inner + (w - 1) (x̂_inner - x̂_skipped), where the last is estimated with some blocks left out.

    Args:
        blocks: indices of the blocks to leave out, found by trial; one in the middle is a good start.
        weight: w; 1 is neutral, 2 doubles the way from the weaker estimate.
        interval: times [low, high] in which to guide; outside, the inner estimate alone is computed.
        inner: guidance that this one goes over; None: the estimate under the condition as it is.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        weight: float = 2.0,
        interval: tuple[float, float] = (0.0, 1.0),
        inner: Guidance | None = None,
    ) -> None:
        if not blocks:
            raise ValueError("skip guidance names no block to leave out: give indices, such as blocks: [2]")
        self.weakened = SkipBlocks(blocks)
        self.weight = weight
        self.interval = check_interval(interval)
        self.inner = inner or NoGuidance()

    def estimate(self, x: State, t: Tensor, guided: Guided) -> State:
        """What the inner guidance costs, and one evaluation of the shortened network."""
        strong = self.inner.estimate(x, t, guided)
        if self.weight == 1.0 or not is_within(t, self.interval):
            return strong
        weak = guided.denoise(x, t, [guided.condition], (self.weakened,))[0]
        return {name: value + (self.weight - 1.0) * (value - weak[name]) for name, value in strong.items()}
