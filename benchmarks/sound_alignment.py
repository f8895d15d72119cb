"""Flash and click: how often two towers make a flash and its click at one moment, with and without bridges.

Eight frames with one flash, 32 steps of sound (four to a frame) with one click at the same moment; two transformers of
three blocks and width 48, joint flow matching, 700 steps of batch 48, then 256 samples in 20 steps. A minute or
two a model on one thread: without bridges, with bridges by token number, by seconds, and these cut after training.

    python benchmarks/sound_alignment.py
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial

import torch
from torch import Tensor

from polydit.domains.audio_video.bridgedit import BridgeDiT, Positions
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.evaluation.statistics import estimate_share
from polydit.platform.mixers import Attention, RotaryPosition
from polydit.platform.processes import Process
from polydit.platform.samplers import Euler
from polydit.platform.state import Condition, Layout, State

FRAMES, STEPS = 8, 32
SHARE = STEPS // FRAMES
WIDTH, DEPTH = 48, 3


def draw_pairs(count: int, generator: torch.Generator) -> State:
    """Flashes [B, F, 1] and clicks [B, T, 1]: a bell of light and one of sound about one random moment."""
    moment = torch.randint(0, FRAMES, (count, 1), generator=generator) + torch.rand((count, 1), generator=generator)
    frame = torch.arange(FRAMES) + 0.5
    step = (torch.arange(STEPS) + 0.5) / SHARE
    flash = 2 * torch.exp(-(((frame - moment) / 0.6) ** 2)) - 0.5
    click = 2 * torch.exp(-(((step - moment) / 0.25) ** 2)) - 0.5
    return {"video": flash[..., None], "sound": click[..., None]}


def build(bridged: bool, positions: Positions) -> BridgeDiT:
    """Two towers, and two bridges where they are wanted."""
    towers = [
        DiT(
            partial(TokenEmbedding, fields={name: 1}), partial(TokenHead, fields={name: 1}), WIDTH, DEPTH,
            # as in towers of today: positions turn queries and keys, and no token carries its own
            partial(Attention, heads=4, rotary=RotaryPosition), name=f"{name}.blocks",
        )
        for name in ("video", "sound")
    ]
    # one frame is a second here
    return BridgeDiT(*towers, sites=None if bridged else [], heads=4, positions=positions, unit=0.25)


def lay_out(count: int) -> Layout:
    """Both fields with their seconds."""
    seconds = {
        "video": (torch.arange(FRAMES) + 0.5).expand(count, -1),
        "sound": ((torch.arange(STEPS) + 0.5) / SHARE).expand(count, -1),
    }
    return Layout({"video": (count, FRAMES, 1), "sound": (count, STEPS, 1)}, positions=seconds)


def train(model: BridgeDiT, steps: int, batch: int, seed: int) -> None:
    """Joint flow matching: one time for both fields."""
    generator, process = torch.Generator().manual_seed(seed), Process.flow_matching()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    layout = lay_out(batch)
    for _ in range(steps):
        x0 = draw_pairs(batch, generator)
        t = torch.rand(batch, generator=generator)
        noise = {name: torch.randn(value.shape, generator=generator) for name, value in x0.items()}
        x_t = {name: process.corrupt(value, noise[name], t) for name, value in x0.items()}
        prediction = model(x_t, t, Condition(), model.context(layout))
        loss = torch.stack([process.loss(prediction[name], x0[name], noise[name], t) for name in x0]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def sample(model: BridgeDiT, count: int, seed: int) -> State:
    """Pairs made in 20 steps."""
    process, layout = Process.flow_matching(), lay_out(count)
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(shape, generator=generator) for name, shape in layout.shapes.items()}

    def denoise(x: State, t: Tensor) -> State:
        level = t.expand(count)
        prediction = model(x, level, Condition(), model.context(layout))
        return {name: process.convert(prediction[name], x[name], level) for name in x}

    return Euler(20).sample(denoise, noise, dict.fromkeys(noise, process), lambda: noise, {})


def measure_offsets(pairs: State) -> Tensor:
    """Frames from the brightest flash to the loudest click [B]."""
    frame, step = pairs["video"][..., 0].argmax(dim=1), pairs["sound"][..., 0].argmax(dim=1)
    return (frame + 0.5) - (step + 0.5) / SHARE


def judge(pairs: State) -> dict[str, float | int | None]:
    """Share of pairs within one frame of each other, with count and interval."""
    near = measure_offsets(pairs).abs() <= 1
    return estimate_share(int(near.sum()), len(near)).to_dict()


def main() -> None:
    """Train and judge all four, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, bridged, positions in (
        ("no bridge", False, "index"), ("bridge, token number", True, "index"), ("bridge, seconds", True, "seconds"),
    ):
        torch.manual_seed(arguments.seed)
        model = build(bridged, positions)  # type: ignore[arg-type]
        started = time.perf_counter()
        train(model, arguments.steps, arguments.batch, arguments.seed)
        seconds = time.perf_counter() - started
        pairs = sample(model, arguments.samples, arguments.seed + 1)
        line = {"model": name, "within one frame": judge(pairs), "training seconds": round(seconds)}
        print(json.dumps(line), flush=True)
    model.cut = True
    print(json.dumps({"model": "bridge, seconds, cut", "within one frame": judge(sample(model, arguments.samples, 1))}))
    model.cut = False
    swapped = {"video": pairs["video"], "sound": pairs["sound"].roll(1, dims=0)}
    print(json.dumps({"model": "bridge, seconds, sound swapped", "within one frame": judge(swapped)}))


if __name__ == "__main__":
    main()
