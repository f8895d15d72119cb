"""Flash and click: how often a flash and its click are made at one moment, by two towers and by one frozen transformer.

Eight frames with one flash, 32 steps of sound (four to a frame) with one click at the same moment; joint flow matching,
700 steps of batch 48, then 256 samples in 20 steps; three blocks of width 48. A minute or two a model on one thread:
two towers without bridges, with bridges by token number, by seconds, and these cut after training; and AV-DiT, whose
transformer learns single frames first and is frozen then, without fusion, with it, and with seconds told.

    python benchmarks/sound_alignment.py
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from polydit.domains.audio_video import avdit, bridgedit
from polydit.platform.denoisers import Denoiser, DiT, TokenEmbedding, TokenHead
from polydit.platform.denoisers.frames import FrameEmbedding, FrameHead
from polydit.platform.evaluation.statistics import estimate_share
from polydit.platform.mixers import Attention, RotaryPosition
from polydit.platform.processes import Process
from polydit.platform.samplers import Euler
from polydit.platform.state import Condition, Layout, State

FRAMES, STEPS = 8, 32
SHARE = STEPS // FRAMES
WIDTH, DEPTH = 48, 3
SIDE = 2
"""Pixels of a frame that is an image."""

UNIT = 0.25
"""Seconds from one step of sound to the next, for one frame is a second here."""


def draw_pairs(count: int, generator: torch.Generator) -> State:
    """Flashes [B, F, 1] and clicks [B, T, 1]: a bell of light and one of sound about one random moment."""
    moment = torch.randint(0, FRAMES, (count, 1), generator=generator) + torch.rand((count, 1), generator=generator)
    frame = torch.arange(FRAMES) + 0.5
    step = (torch.arange(STEPS) + 0.5) / SHARE
    flash = 2 * torch.exp(-(((frame - moment) / 0.6) ** 2)) - 0.5
    click = 2 * torch.exp(-(((step - moment) / 0.25) ** 2)) - 0.5
    return {"video": flash[..., None], "sound": click[..., None]}


def draw_clips(count: int, generator: torch.Generator) -> State:
    """The same with frames as images [B, F, 1, 2, 2]."""
    pairs = draw_pairs(count, generator)
    return {**pairs, "video": pairs["video"][..., None, None].expand(-1, -1, 1, SIDE, SIDE).contiguous()}


def draw_frames(count: int, generator: torch.Generator) -> State:
    """Single frames [B, 1, 1, 2, 2] of such clips."""
    frames = draw_clips(count, generator)["video"]
    return {"video": frames[:, torch.randint(0, FRAMES, (1,), generator=generator)]}


Draw = Callable[[int, torch.Generator], State]


def build_towers(bridged: bool, positions: bridgedit.Positions) -> bridgedit.BridgeDiT:
    """Two towers, and two bridges where they are wanted."""
    towers = [
        DiT(
            partial(TokenEmbedding, fields={name: 1}), partial(TokenHead, fields={name: 1}), WIDTH, DEPTH,
            # as in towers of today: positions turn queries and keys, and no token carries its own
            partial(Attention, heads=4, rotary=RotaryPosition), name=f"{name}.blocks",
        )
        for name in ("video", "sound")
    ]
    return bridgedit.BridgeDiT(*towers, sites=None if bridged else [], heads=4, positions=positions, unit=UNIT)


def build_images() -> DiT:
    """A transformer of single frames."""
    return DiT(
        partial(FrameEmbedding, in_channels=1, patch=SIDE), partial(FrameHead, out_channels=1, patch=SIDE), WIDTH,
        DEPTH, partial(Attention, heads=4),
    )


def lay_out(x0: State) -> Layout:
    """The fields, with their seconds where frames have sound."""
    count = len(x0["video"])
    seconds = {
        "video": (torch.arange(FRAMES) + 0.5).expand(count, -1),
        "sound": ((torch.arange(STEPS) + 0.5) / SHARE).expand(count, -1),
    }
    shapes = {name: tuple(value.shape) for name, value in x0.items()}
    return Layout(shapes, positions=seconds if "sound" in x0 else {})


def train(model: Denoiser, draw: Draw, steps: int, batch: int, seed: int) -> None:
    """Joint flow matching: one time for all fields."""
    generator, process = torch.Generator().manual_seed(seed), Process.flow_matching()
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        x0 = draw(batch, generator)
        t = torch.rand(batch, generator=generator)
        noise = {name: torch.randn(value.shape, generator=generator) for name, value in x0.items()}
        x_t = {name: process.corrupt(value, noise[name], t) for name, value in x0.items()}
        prediction = model(x_t, t, Condition(), model.context(lay_out(x0)))
        loss = torch.stack([process.loss(prediction[name], x0[name], noise[name], t) for name in x0]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def sample(model: Denoiser, draw: Draw, count: int, seed: int) -> State:
    """Pairs made in 20 steps; of what is drawn only the shapes are used."""
    generator = torch.Generator().manual_seed(seed)
    process, layout = Process.flow_matching(), lay_out(draw(count, generator))
    noise = {name: torch.randn(shape, generator=generator) for name, shape in layout.shapes.items()}

    def denoise(x: State, t: Tensor) -> State:
        level = t.expand(count)
        prediction = model(x, level, Condition(), model.context(layout))
        return {name: process.convert(prediction[name], x[name], level) for name in x}

    return Euler(20).sample(denoise, noise, dict.fromkeys(noise, process), lambda: noise, {})


def measure_offsets(pairs: State) -> Tensor:
    """Frames from the brightest flash to the loudest click [B]."""
    frame, step = pairs["video"].flatten(2).mean(dim=2).argmax(dim=1), pairs["sound"][..., 0].argmax(dim=1)
    return (frame + 0.5) - (step + 0.5) / SHARE


def judge(pairs: State) -> dict[str, float | int | None]:
    """Share of pairs within one frame of each other, with count and interval."""
    near = measure_offsets(pairs).abs() <= 1
    return estimate_share(int(near.sum()), len(near)).to_dict()


def main() -> None:
    """Train and judge all, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    def run(name: str, build: Callable[[], Denoiser], draw: Draw) -> tuple[Denoiser, State]:
        torch.manual_seed(arguments.seed)
        model = build()
        started = time.perf_counter()
        train(model, draw, arguments.steps, arguments.batch, arguments.seed)
        seconds = time.perf_counter() - started
        pairs = sample(model, draw, arguments.samples, arguments.seed + 1)
        report(name, pairs, {"training seconds": round(seconds)})
        return model, pairs

    def report(name: str, pairs: State, facts: dict[str, int] | None = None) -> None:
        print(json.dumps({"model": name, "within one frame": judge(pairs), **(facts or {})}), flush=True)

    run("two towers, no bridge", partial(build_towers, False, "index"), draw_pairs)
    run("two towers, bridge by token number", partial(build_towers, True, "index"), draw_pairs)
    towers, pairs = run("two towers, bridge by seconds", partial(build_towers, True, "seconds"), draw_pairs)
    assert isinstance(towers, bridgedit.BridgeDiT)
    towers.cut = True
    report("the same, cut", sample(towers, draw_pairs, arguments.samples, 1))
    report("the same, sound swapped", {"video": pairs["video"], "sound": pairs["sound"].roll(1, dims=0)})

    torch.manual_seed(arguments.seed)
    images = build_images()
    train(images, draw_frames, arguments.steps, arguments.batch, arguments.seed)
    for name, options in {
        "AV-DiT, no fusion": {"fusion": False},
        "AV-DiT, fusion": {"positions": "none"},
        "AV-DiT, fusion by seconds": {},
    }.items():
        adapted = partial(avdit.AVDiT, copy.deepcopy(images), bands=1, heads=4, unit=UNIT, **options)
        _, pairs = run(name, adapted, draw_clips)
    report("the same, sound swapped", {"video": pairs["video"], "sound": pairs["sound"].roll(1, dims=0)})


if __name__ == "__main__":
    main()
