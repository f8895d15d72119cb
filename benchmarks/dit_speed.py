"""Speed of DiT's training step and forward pass against diffusers' DiTTransformer2DModel of the same size.

    python benchmarks/dit_speed.py --model S/2 --batch 8 [--threads 1] [--repeats 7] [--precision fp32 bf16] [--compile]

All sides run in one process, in turn, on the same latents of 32 x 32 x 4 with class labels. "same" is our default
model, which computes what theirs computes; "tricks" has exact GELU and, in bf16, its weights in bf16 for inference. In
bf16 both others run under autocast. A training step is forward, squared error of the noise, backward and AdamW.
Reported: images a second (median and range over repeats), the ratio of medians to diffusers at equal precision, and the
rate of multiplications and additions.

Shape legend: B images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, PatchEmbedding, PatchHead
from polydit.platform.denoisers.sizes import PUBLISHED_SIZES
from polydit.platform.feedforwards import MLP
from polydit.platform.mixers import Attention
from polydit.platform.state import Condition

CLASSES = 1000
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents, step numbers, labels) -> predicted noise."""


@dataclass(frozen=True)
class Side:
    """One implementation in one precision.

    Args:
        name: as printed.
        precision: "fp32" or "bf16".
        model: its weights.
        predict: its forward pass.
        weights: type of the weights in inference; training keeps them in fp32.
    """

    name: str
    precision: str
    model: nn.Module
    predict: Predict
    weights: torch.dtype = torch.float32


class Labelled(nn.Module):
    """Our DiT and its label table."""

    def __init__(self, size: str, patch: int, activation: str) -> None:
        super().__init__()
        depth, width, heads = PUBLISHED_SIZES[size]
        self.denoiser = DiT(
            partial(PatchEmbedding, patch=patch), partial(PatchHead, out_channels=8, patch=patch), width, depth,
            partial(Attention, heads=heads), partial(MLP, activation=activation),
        )
        self.table = nn.Embedding(CLASSES + 1, width)

    def forward(self, x: Tensor, steps: Tensor, labels: Tensor) -> Tensor:
        """Predicted noise and variance [B, 8, 32, 32]."""
        condition = Condition({"class": self.table(labels)})
        return self.denoiser({"image": x}, steps / 999, condition, Context())["image"]


def make_sides(size: str, patch: int, precisions: list[str], compile_ours: bool) -> list[Side]:
    """Every implementation in every precision; those of one kind share their weights."""
    depth, width, heads = PUBLISHED_SIZES[size]
    theirs = DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=width // heads, in_channels=4, out_channels=8, num_layers=depth,
        sample_size=32, patch_size=patch, num_embeds_ada_norm=CLASSES,
    )
    ours, tricks = Labelled(size, patch, "gelu_tanh"), Labelled(size, patch, "gelu")
    if compile_ours:
        tricks.denoiser.compile(dynamic=True)
    sides = []
    for precision in precisions:
        sides += [
            Side("diffusers", precision, theirs, lambda x, t, y: theirs(x, t, y).sample),
            Side("polydit, same", precision, ours, ours),
            Side("polydit, tricks", precision, tricks, tricks,
                 torch.bfloat16 if precision == "bf16" else torch.float32),
        ]
    return sides


def autocast(side: Side) -> AbstractContextManager[Any]:
    """The side's precision where weights are in fp32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=side.precision == "bf16")


def make_training(side: Side, batch: int) -> Callable[[], None]:
    """A training step."""
    optimizer = torch.optim.AdamW(side.model.parameters(), lr=1e-4)
    x, noise, steps, labels = draw(batch)

    def run() -> None:
        with autocast(side):
            predicted = side.predict(x, steps, labels)[:, :4]
            loss = (predicted.float() - noise).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def make_inference(side: Side, batch: int) -> Callable[[], None]:
    """A forward pass, with the weights brought to the side's type before the clock starts."""
    x, _, steps, labels = draw(batch)

    @torch.no_grad()
    def run() -> None:
        if side.weights != torch.float32:
            side.predict(x, steps, labels)
            return
        with autocast(side):
            side.predict(x, steps, labels)

    return run


def draw(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, noise, step numbers and labels."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, batch, 4, 32, 32, generator=generator)
    steps = torch.randint(1000, (batch,), generator=generator)
    return x, noise, steps, torch.randint(CLASSES, (batch,), generator=generator)


def measure(sides: list[Side], work: str, batch: int, repeats: int) -> dict[int, list[float]]:
    """Seconds of each repeat for each side, which take turns."""
    make = make_training if work == "train" else make_inference
    runs = [make(side, batch) for side in sides]
    times: dict[int, list[float]] = {number: [] for number in range(len(sides))}
    for repeat in range(-2, repeats):  # two to warm up
        for number, (side, run) in enumerate(zip(sides, runs, strict=True)):
            side.model.train(work == "train")
            wanted = side.weights if work == "inference" else torch.float32
            if next(side.model.parameters()).dtype != wanted:
                side.model.to(wanted)
            start = time.perf_counter()
            run()
            if repeat >= 0:
                times[number].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="S/2", help="size and patch, as S/2 or B/4")
    parser.add_argument("--work", nargs="+", default=["train", "inference"], choices=["train", "inference"])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="compile the side with the tricks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, _, patch = options.model.partition("/")
    sides = make_sides(size, int(patch), options.precision, options.compile)
    tokens = (32 // int(patch)) ** 2
    cost = next(side.model.denoiser for side in sides if isinstance(side.model, Labelled)).cost(tokens)
    print(f"DiT-{options.model}, batch {options.batch}, {options.threads} thread(s), {options.repeats} repeats")
    for work in options.work:
        times = measure(sides, work, options.batch, options.repeats)
        for number, side in enumerate(sides):
            rates = sorted(options.batch / seconds for seconds in times[number])
            base = next(i for i, other in enumerate(sides) if other.precision == side.precision)
            ratio = statistics.median(times[base]) / statistics.median(times[number])
            rate = statistics.median(rates)
            print(
                f"{work:9s} {side.precision} {side.name:16s} {rate:7.2f} images/s ({rates[0]:.2f} to {rates[-1]:.2f})  "
                f"{ratio:.2f} x diffusers  {rate * cost * (3 if work == 'train' else 1) / 1e9:6.0f} GFLOP/s"
            )


if __name__ == "__main__":
    main()
