"""Samplers against diffusers' schedulers, and the order of every solver: ``python benchmarks/parity_schedulers.py``.

Both sides start from the same state, ask the same function for its prediction and draw the same noise. The function is
a small fixed network of the scaled input and of the noise label, so that a wrong scale, a wrong time or a wrong
prediction all show. The deviation is the largest absolute difference of the samples over the largest absolute sample.

Shape legend: B samples, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polydit.platform.processes import (
    DDPMSchedule,
    EDMSchedule,
    EpsPrediction,
    LinearFlowSchedule,
    Prediction,
    Process,
    Schedule,
    TabulatedSchedule,
    VelocityPrediction,
    VPCosineSchedule,
    VPLinearSchedule,
    VPPolynomialSchedule,
    VPrediction,
    X0Prediction,
)
from polydit.platform.samplers import (
    DDIM,
    Ancestral,
    DPMSolverPP2M,
    Euler,
    Grid,
    Heun,
    KarrasGrid,
    ListedGrid,
    Sampler,
    UniformGrid,
)
from polydit.platform.state import State

TRAINING_STEPS = 1000
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": EpsPrediction(),
    "sample": X0Prediction(),
    "v_prediction": VPrediction(),
}


def network(x: Tensor, label: Tensor) -> Tensor:
    """Fixed smooth prediction [B, C] from the scaled input [B, C] and the noise label (0-dim)."""
    channels = torch.arange(x.shape[-1], dtype=x.dtype)
    matrix = torch.sin(1.0 + channels[:, None] * 2.0 + channels[None, :] * 5.0)
    return torch.tanh(x @ matrix / 2 + torch.cos(label.to(x.dtype) * 3.0)) * (0.8 + 0.2 * torch.sin(label.to(x.dtype)))


@dataclass
class Comparison:
    """One scheduler of diffusers beside the sampler that should equal it.

    Args:
        scheduler: class name in diffusers.
        sampler: makes our sampler from (steps, grid).
        prediction: diffusers' name of what the network predicts.
        options: arguments of the scheduler.
        step_options: arguments of its step.
        own_grid: a grid of ours that should give the scheduler's times; default: the times are copied.
        family: "table" (DDPM tables), "flow" or "edm".
        ratio_space: whether the scheduler's state is x / alpha.
    """

    scheduler: str
    sampler: Callable[[int, Grid], Sampler]
    prediction: str = "epsilon"
    options: dict[str, Any] = field(default_factory=dict)
    step_options: dict[str, Any] = field(default_factory=dict)
    own_grid: Grid | None = None
    family: str = "table"
    ratio_space: bool = False

    @property
    def name(self) -> str:
        """Row title."""
        described = {**self.options, **self.step_options}
        return " ".join([self.scheduler, self.prediction, *(f"{key}={value}" for key, value in described.items())])

    def deviation(self, steps: int = 10, dtype: torch.dtype = torch.float64) -> float:
        """Largest relative difference of the two samples."""
        theirs, process, times = self._scheduler(steps)
        sampler = self.sampler(len(times), self.own_grid or ListedGrid(times.tolist()))
        start = sampler.times({"x": process})[0]
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
        x = x * torch.hypot(process.schedule.alpha(start), process.schedule.sigma(start)).to(dtype)
        expected = self._run_scheduler(theirs, x, float(process.schedule.alpha(start)))
        actual = self._run_sampler(sampler, process, x)
        return float((actual - expected).abs().max() / expected.abs().max())

    def _scheduler(self, steps: int) -> tuple[Any, Process, Tensor]:
        """The scheduler with its times set, our process for it, and those times in [0, 1]."""
        import diffusers

        scheduler = getattr(diffusers, self.scheduler)(**self._all_options())
        scheduler.set_timesteps(steps)
        if self.family == "flow":
            return scheduler, Process.flow_matching(), scheduler.sigmas[:-1].unique().flip(0).double()
        if self.family == "edm":
            sigmas = scheduler.sigmas[:-1].double()
            process = Process.edm(sigma_data=scheduler.config.sigma_data)
            return scheduler, process, process.schedule.time_from_log_snr(-2 * sigmas.log()).clamp(0, 1)
        process = Process(TabulatedSchedule(scheduler.alphas_cumprod.tolist()), PREDICTIONS[self.prediction])
        times = scheduler.timesteps.double() / (TRAINING_STEPS - 1)
        return scheduler, process, times.unique().flip(0)

    def _all_options(self) -> dict[str, Any]:
        if self.family == "flow":
            return self.options
        if self.family == "edm":
            return {"prediction_type": "epsilon", **self.options}
        table = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        return {**table, "prediction_type": self.prediction, **self.options}

    def _run_scheduler(self, scheduler: Any, x: Tensor, alpha: float) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        takes_generator = "generator" in scheduler.step.__code__.co_varnames
        extra = {**self.step_options, **({"generator": generator} if takes_generator else {})}
        x = x / alpha if self.ratio_space else x
        for i, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(network(scaled.to(x.dtype), self._label(scheduler, i)), t, x, **extra).prev_sample
        return x

    def _label(self, scheduler: Any, i: int) -> Tensor:
        """Noise label of a scheduler's call i, in our units."""
        t: Tensor = scheduler.timesteps[i]
        if self.family == "edm":
            return t  # already ln(sigma) / 4
        if self.family == "flow":
            # DPMSolverMultistepScheduler rounds its flow times to whole steps, though it integrates at the exact ones.
            return t / TRAINING_STEPS if t.is_floating_point() else scheduler.sigmas[i]
        return t / (TRAINING_STEPS - 1)

    def _run_sampler(self, sampler: Sampler, process: Process, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)

        def denoise(state: State, t: Tensor) -> State:
            value = state["x"]
            label = process.noise_label(t)
            return {"x": process.convert(network(value * process.input_scale(t), label), value, t, to="x0")}

        def draw() -> State:
            return {"x": torch.randn(x.shape, generator=generator, dtype=x.dtype)}

        return sampler.walk(denoise, {"x": x}, {"x": process}, draw)["x"]


def comparisons() -> list[Comparison]:
    """Every pair that should agree."""
    trailing = {"timestep_spacing": "trailing"}
    plain = {"clip_sample": False}
    rows = [
        Comparison("DDPMScheduler", Ancestral, kind, {**plain, "variance_type": "fixed_small"}) for kind in PREDICTIONS
    ]
    rows += [
        Comparison(
            "DDPMScheduler", partial(Ancestral, variance="forward"), options={**plain, "variance_type": "fixed_large"}
        ),
    ]
    for eta in (0.0, 0.5, 1.0):
        rows.append(Comparison("DDIMScheduler", partial(DDIM, eta=eta), "epsilon", plain, {"eta": eta}))
    rows += [Comparison("DDIMScheduler", DDIM, kind, {**plain, **trailing}) for kind in ("sample", "v_prediction")]
    for kind in ("epsilon", "v_prediction"):
        rows += [
            Comparison("EulerDiscreteScheduler", Euler, kind, trailing, ratio_space=True),
            Comparison("EulerAncestralDiscreteScheduler", Ancestral, kind, trailing, ratio_space=True),
            Comparison("HeunDiscreteScheduler", Heun, kind, trailing, ratio_space=True),
            Comparison("DPMSolverMultistepScheduler", DPMSolverPP2M, kind, {**trailing, "final_sigmas_type": "zero"}),
        ]
    karras = {"use_karras_sigmas": True}
    rows += [
        Comparison("EulerDiscreteScheduler", Euler, "epsilon", karras, own_grid=KarrasGrid(), ratio_space=True),
        Comparison("HeunDiscreteScheduler", Heun, "epsilon", karras, own_grid=KarrasGrid(), ratio_space=True),
    ]
    flow = UniformGrid(t_min=1 / TRAINING_STEPS, include_end=True)
    shifted = UniformGrid(t_min=3 / TRAINING_STEPS / (1 + 2 / TRAINING_STEPS), include_end=True, shift=3.0)
    dpm_flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "final_sigmas_type": "zero"}
    edm = UniformGrid(include_end=True)
    rows += [
        Comparison("FlowMatchEulerDiscreteScheduler", Euler, "velocity", own_grid=flow, family="flow"),
        Comparison(
            "FlowMatchEulerDiscreteScheduler", Euler, "velocity", {"shift": 3.0}, own_grid=shifted, family="flow"
        ),
        Comparison("FlowMatchHeunDiscreteScheduler", Heun, "velocity", own_grid=flow, family="flow"),
        Comparison("DPMSolverMultistepScheduler", DPMSolverPP2M, "velocity", dpm_flow, family="flow"),
        Comparison("EDMEulerScheduler", Euler, "preconditioned", own_grid=edm, family="edm"),
        Comparison("EDMDPMSolverMultistepScheduler", DPMSolverPP2M, "preconditioned", own_grid=edm, family="edm"),
    ]
    return rows


SCHEDULES: dict[str, Schedule] = {
    "linear flow": LinearFlowSchedule(),
    "VP linear": VPLinearSchedule(),
    "VP cosine": VPCosineSchedule(),
    "VP polynomial": VPPolynomialSchedule(),
    "EDM": EDMSchedule(),
    "DDPM table": DDPMSchedule(),
}

SOLVERS: dict[str, tuple[Callable[[int, Grid], Sampler], int]] = {
    "Euler": (Euler, 1),
    "DDIM": (DDIM, 1),
    "Heun": (Heun, 2),
    "Heun, ratio clock": (partial(Heun, clock="ratio"), 2),
    "Heun, flow clock": (partial(Heun, clock="flow"), 2),
    "DPM-Solver++ 2M": (DPMSolverPP2M, 2),
}


def gaussian_denoise(schedule: Schedule, mean: float, std: float) -> Callable[[State, Tensor], State]:
    """Exact posterior mean of x_0 ~ N(mean, std^2) given x_t."""

    def denoise(state: State, t: Tensor) -> State:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return {
            name: (mean * sigma**2 + std**2 * alpha * x) / (alpha**2 * std**2 + sigma**2) for name, x in state.items()
        }

    return denoise


def gaussian_error(
    schedule: Schedule, solver: Callable[[int, Grid], Sampler], steps: int, t_max: float = 0.9, t_min: float = 0.1
) -> float:
    """Error of a walk from t_max to t_min on N(0.4, 0.7^2), whose exact map keeps (x - alpha mean) / total std."""
    mean, std = 0.4, 0.7
    sampler = solver(steps + 1, UniformGrid(t_max=t_max, t_min=t_min, include_end=True))
    processes = {"x": Process(schedule, VelocityPrediction())}
    ends = torch.tensor([t_max, t_min], dtype=torch.float64)
    alpha, sigma = schedule.alpha(ends), schedule.sigma(ends)
    total = torch.sqrt((alpha * std) ** 2 + sigma**2)
    standard = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    start = alpha[0] * mean + total[0] * standard
    end = sampler.walk(gaussian_denoise(schedule, mean, std), {"x": start}, processes, close=False)["x"]
    return float((end - alpha[1] * mean - total[1] * standard).abs().max())


def order(schedule: Schedule, solver: Callable[[int, Grid], Sampler], steps: int = 160) -> float:
    """Order of convergence seen between `steps` and twice as many."""
    return math.log2(gaussian_error(schedule, solver, steps) / gaussian_error(schedule, solver, 2 * steps))


def main() -> None:
    """Print both tables in Markdown."""
    print("| scheduler of diffusers | float64 | float32 |\n| --- | --- | --- |")
    for row in comparisons():
        print(f"| {row.name} | {row.deviation():.1e} | {row.deviation(dtype=torch.float32):.1e} |")
    print("\n| order (error at 40 steps) | " + " | ".join(SOLVERS) + " |\n| --- |" + " --- |" * len(SOLVERS))
    for title, schedule in SCHEDULES.items():
        solvers = [solver for solver, _ in SOLVERS.values()]
        cells = [f"{order(schedule, solver):.2f} ({gaussian_error(schedule, solver, 40):.0e})" for solver in solvers]
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
