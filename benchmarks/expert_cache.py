"""Time and operations of a sampled chunk: MoDE with fused experts, without, and dense with as many parameters.

    python benchmarks/expert_cache.py [--size MoDE-small] [--batches 1 64] [--repeats 9] [--threads 1] [--device cpu]

All sample the same chunks of 10 actions after four tokens, of the noise level, a goal and two views, as published,
in 10 DDIM steps, alternating within the run; reported are the median over repeats, and floating-point operations as
counted by a profiler of tensor products, per sample. The dense model's single SwiGLU is as wide as four experts and the
router together; a second one is as wide as the two experts that run, which is what fused experts should cost.

Shape legend: B batch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polydit.domains.robotics.mode import SIZES, MoDE, published_process, published_sampler
from polydit.platform.acceleration import fuse_experts
from polydit.platform.context import Context
from polydit.platform.feedforwards import SwiGLU, count_active_parameters
from polydit.platform.mixers import WrittenAttention
from polydit.platform.state import Condition, State, Tokens

HORIZON, ACTION, EXPERTS = 10, 7, 4
PROCESS = {"action": published_process()}


def build(size: str, device: str, ratio: float | None = None) -> MoDE:
    """MoDE of a size, or with one dense feed-forward of this ratio in place of its experts."""
    torch.manual_seed(0)
    depth, width, heads = SIZES[size]
    dense = partial(SwiGLU, ratio=ratio, multiple=1, hidden_bias=True) if ratio else None
    with torch.device(device):
        model = MoDE(ACTION, width, depth, heads, HORIZON, observations=("static", "gripper"), feedforward=dense)
    for parameter in model.parameters():
        if not bool((parameter != 0).any()):
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def make_condition(model: MoDE, batch: int) -> Condition:
    """A goal and two views, one token each."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(1)
    names = ("instruction", "static", "gripper")
    return Condition(
        tokens={name: Tokens(torch.randn(batch, 1, model.width, generator=generator).to(device)) for name in names}
    )


@torch.inference_mode()
def sample(model: MoDE, cond: Condition, noise: State, written: bool = False) -> Tensor:
    """A chunk for every sample of the batch."""
    process = PROCESS["action"]

    def denoise(x: State, t: Tensor) -> State:
        level = t.expand(len(x["action"]))
        ctx = Context(attention=WrittenAttention() if written else None)
        output = model({"action": x["action"] * process.input_scale(t)}, level, cond, ctx)["action"]
        return {"action": process.convert(output, x["action"], t)}

    return published_sampler().sample(denoise, noise, PROCESS)["action"]


def measure(run: Callable[[], Tensor]) -> float:
    """Milliseconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="MoDE-small")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    width = SIZES[options.size][1]
    plain, fused = (build(options.size, options.device) for _ in range(2))
    router = sum(parameter.numel() for parameter in plain.blocks[0].get_submodule("feedforward.router").parameters())
    models = {
        "experts": plain,
        "experts, fused": fused,
        "dense, all parameters": build(options.size, options.device, 4.0 * EXPERTS + router / (3 * width**2)),
        "dense, active parameters": build(options.size, options.device, 8.0),
    }
    start = time.perf_counter()
    handle = fuse_experts(fused, published_sampler().times(PROCESS))
    print(f"{options.size} on {options.device}; fusing took {time.perf_counter() - start:.2f} s")
    for batch in options.batches:
        noise = {"action": torch.randn(batch, HORIZON, ACTION, generator=torch.Generator().manual_seed(2))}
        noise = {"action": noise["action"].to(options.device)}
        runs = {
            name: partial(sample, model, make_condition(model, batch), noise) for name, model in models.items()
        }
        difference = float((runs["experts"]() - runs["experts, fused"]()).abs().max())
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            measure(run)
        for _ in range(options.repeats):
            for name, run in runs.items():
                times[name].append(measure(run))
        print(f"batch {batch}; fused and unfused chunks differ by at most {difference:.1e}")
        for name, run in runs.items():
            with FlopCounterMode(display=False) as counter:
                run(written=True)
            total = sum(parameter.numel() for parameter in models[name].parameters())
            active = count_active_parameters(models[name], routers=models[name] is not fused)
            print(
                f"  {name:26s} {statistics.median(times[name]):9.2f} ms ({min(times[name]):.2f} to "
                f"{max(times[name]):.2f}), {counter.get_total_flops() / batch / 1e9:7.3f} GFLOP a sample, "
                f"{total / 1e6:.2f} M parameters, {active / 1e6:.2f} M active",
                flush=True,
            )
    assert handle.misses == 0


if __name__ == "__main__":
    main()
