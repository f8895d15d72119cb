"""Which part of a clip is given and which is learnt: the mixture of masks of VDT (arXiv 2305.13311).

Shape legend: B clips, F frames, R, K rows and columns of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from polydit.platform.errors import ConfigurationError

TEMPORAL = ("unconditional", "predict", "backward", "interpolate", "animate", "random")
"""Whole frames: none given; the first half; the last half; every fourth; one; about a fifth, at random."""

EVERY = 4
"""Frames from one given frame to the next in interpolation."""

RANDOM_SHARE = 0.8
"""Of frames that are learnt where they are chosen at random."""

BLOCK_SHARE = 0.5
"""Of cells that are learnt where blocks are masked."""

BLOCK_ASPECT = 0.3
"""Least ratio of a block's sides (BEiT, arXiv 2106.08254, algorithm 1)."""


class MaskMixture:
    """Draws what is given in training: with some chance everything outside of blocks of cells, else whole frames.

    Args:
        kinds: of `TEMPORAL`, drawn alike.
        block_chance: that blocks are masked in all frames, which task complete asks for.

    Raises:
        ConfigurationError: if a kind is unknown or there is none, or the chance is none.
    """

    def __init__(self, kinds: Sequence[str] = TEMPORAL, block_chance: float = 0.2) -> None:
        unknown = sorted(set(kinds) - set(TEMPORAL))
        if unknown or not kinds or not 0 <= block_chance <= 1:
            raise ConfigurationError(
                f"kinds {list(kinds)} and block_chance {block_chance}: choose kinds of {', '.join(TEMPORAL)}, and a "
                "chance from 0 to 1"
            )
        self.kinds, self.block_chance = tuple(kinds), block_chance

    @property
    def tasks(self) -> tuple[str, ...]:
        """What a model that was trained so can be asked."""
        named = tuple(kind for kind in self.kinds if kind != "random")
        return named + (("complete",) if self.block_chance > 0 else ())

    def draw(self, count: int, frames: int, cells: tuple[int, int], generator: torch.Generator) -> Tensor:
        """What is given [B, F, R, K] bool.

        Args:
            count: B.
            frames: F.
            cells: R and K.
            generator: of all that is drawn.
        """
        device = generator.device

        def draw_number() -> float:
            return float(torch.rand((), generator=generator, device=device))

        given = torch.zeros(count, frames, *cells, dtype=torch.bool, device=device)
        for row in range(count):
            if draw_number() < self.block_chance:
                given[row] = ~draw_blocks(cells, draw_number).to(device)
                continue
            kind = self.kinds[int(draw_number() * len(self.kinds))]
            if kind == "random":
                chosen = torch.rand(frames, generator=generator, device=device) >= RANDOM_SHARE
            elif kind == "animate":
                chosen = torch.arange(frames, device=device) == int(draw_number() * frames)
            else:
                chosen = give_frames(kind, frames).to(device)
            given[row] = chosen[:, None, None]
        return given


def give_frames(task: str, frames: int, given: Sequence[int] | None = None) -> Tensor:
    """Which frames [F] a task gives.

    Args:
        task: one of `TEMPORAL` but for ``random``, or ``complete``, which gives no frame whole.
        frames: F.
        given: numbers of the given frames instead, negative ones from the end.

    Raises:
        ConfigurationError: if a number is out of range.
    """
    chosen = torch.zeros(frames, dtype=torch.bool)
    if given is not None:
        if any(not -frames <= number < frames for number in given):
            raise ConfigurationError(f"given {list(given)} names frames that {frames} do not have: 0 to {frames - 1}")
        chosen[list(given)] = True
    elif task == "predict":
        chosen[: frames // 2] = True
    elif task == "backward":
        chosen[frames - frames // 2 :] = True
    elif task == "interpolate":
        chosen[::EVERY] = True
    elif task == "animate":
        chosen[0] = True
    return chosen


def draw_blocks(cells: tuple[int, int], draw: object) -> Tensor:
    """Cells [R, K] that blocks cover, at least half of them (BEiT's blockwise masking).

    Args:
        cells: R and K.
        draw: gives a number from 0 to 1.
    """
    assert callable(draw)
    rows, columns = cells
    masked = torch.zeros(cells, dtype=torch.bool)
    wanted = rows * columns * BLOCK_SHARE
    while masked.sum() < wanted:
        area = max(1.0, (0.1 + 0.3 * draw()) * rows * columns)
        aspect = math.exp((2 * draw() - 1) * -math.log(BLOCK_ASPECT))
        height = min(rows, max(1, round(math.sqrt(area * aspect))))
        width = min(columns, max(1, round(math.sqrt(area / aspect))))
        top, left = int(draw() * (rows - height + 1)), int(draw() * (columns - width + 1))
        masked[top : top + height, left : left + width] = True
    return masked


def mask_region(region: tuple[float, float, float, float] | None, cells: tuple[int, int]) -> Tensor:
    """Cells [R, K] that a region (x, y, width, height; shares of the frame) touches; None: the middle half each way."""
    x, y, width, height = region or (0.25, 0.25, 0.5, 0.5)
    rows, columns = cells
    masked = torch.zeros(cells, dtype=torch.bool)
    bottom, right = math.ceil((y + height) * rows - 1e-6), math.ceil((x + width) * columns - 1e-6)
    masked[int(y * rows + 1e-6) : bottom, int(x * columns + 1e-6) : right] = True
    return masked
