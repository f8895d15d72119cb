"""Laws that every sampler keeps on every process."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from polydit.platform.noise import NoiseSource
from polydit.platform.processes import (
    CentredGaussianPrior,
    DDPMSchedule,
    EDMSchedule,
    EpsPrediction,
    LinearFlowSchedule,
    Process,
    Schedule,
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
    LogSNRGrid,
    Sampler,
    UniformGrid,
)
from polydit.platform.state import State

SCHEDULES: dict[str, Schedule] = {
    "flow": LinearFlowSchedule(),
    "vp_linear": VPLinearSchedule(),
    "vp_cosine": VPCosineSchedule(),
    "vp_polynomial": VPPolynomialSchedule(),
    "edm": EDMSchedule(),
    "table": DDPMSchedule(),
}
SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "euler": Euler,
    "ddim": DDIM,
    "ddim_half": partial(DDIM, eta=0.5),
    "ancestral": Ancestral,
    "ancestral_forward": partial(Ancestral, variance="forward"),
    "dpm": DPMSolverPP2M,
    "heun": Heun,
    "heun_ratio": partial(Heun, clock="ratio"),
    "heun_flow": partial(Heun, clock="flow"),
}
GRIDS: dict[str, Grid] = {
    "uniform": UniformGrid(),
    "uniform_to_end": UniformGrid(t_max=0.99, include_end=True),
    "shifted": UniformGrid(shift=3.0),
    "log_snr": LogSNRGrid(t_max=0.99, t_min=0.01),
    "karras": KarrasGrid(sigma_max=50.0, sigma_min=0.02),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drawing(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Callable[[], State]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: {"x": torch.randn(shape, generator=generator, dtype=dtype)}


def known_distribution(schedule: Schedule, mean: float = 0.4, std: float = 0.7) -> Callable[[State, Tensor], State]:
    """Posterior mean of normal data."""

    def denoise(state: State, t: Tensor) -> State:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        gain = std**2 * alpha / (alpha**2 * std**2 + sigma**2)
        return {name: mean + gain * (x - alpha * mean) for name, x in state.items()}

    return denoise


@every_schedule
@every_sampler
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_oracle_is_reached(schedule: Schedule, make: Callable[..., Sampler], grid: Grid) -> None:
    process = {"x": Process(schedule, VPrediction())}
    answer = draw(3, 2, seed=5)
    path: list[Tensor] = []

    def keep(i: int, x: State) -> None:
        path.append(x["x"])

    for steps in (2, 5, 100):
        path.clear()
        sampler = make(steps, grid)
        result = sampler.sample(lambda x, t: {"x": answer}, {"x": draw(3, 2)}, process, drawing(3, 2), callback=keep)
        torch.testing.assert_close(result["x"], answer, rtol=0, atol=1e-6)
        assert len(path) == steps
        assert torch.stack(path).isfinite().all()


@every_schedule
@pytest.mark.parametrize("name", [name for name in SAMPLERS if "ancestral" not in name and "half" not in name])
def test_oracle_path_is_the_straight_one(schedule: Schedule, name: str) -> None:
    # With a fixed estimate every deterministic solver must keep eps, at every step: x = alpha x0 + sigma eps.
    process = Process(schedule, VPrediction())
    answer, noise = draw(3, 2, seed=5, dtype=torch.float64), draw(3, 2, dtype=torch.float64)
    sampler = SAMPLERS[name](7, UniformGrid(t_max=0.97, t_min=0.05, include_end=True))
    times = sampler.times({"x": process})
    start = process.corrupt(answer, noise, times[0])
    path: list[Tensor] = []
    sampler.walk(lambda x, t: {"x": answer}, {"x": start}, {"x": process}, callback=lambda i, x: path.append(x["x"]))
    for t, x in zip(times, path, strict=True):
        torch.testing.assert_close(x, process.corrupt(answer, noise, t), rtol=1e-9, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("name", ["ddim_half", "ancestral", "ancestral_forward"])
def test_stochastic_samplers_recover_the_distribution(schedule: Schedule, name: str) -> None:
    count = 20_000
    process = {"x": Process(schedule, VPrediction())}
    grid = UniformGrid(include_end=True) if isinstance(schedule, EDMSchedule) else UniformGrid()
    sampler = SAMPLERS[name](150, grid)
    noise = {"x": draw(count, 1, dtype=torch.float64)}
    result = sampler.sample(
        known_distribution(schedule), noise, process, drawing(count, 1, dtype=torch.float64)
    )["x"]
    # Their own bias at 150 steps is below 0.015; the sampling error of the mean is 0.005.
    assert result.mean().item() == pytest.approx(0.4, abs=0.03)
    assert result.std().item() == pytest.approx(0.7, abs=0.03)


@every_schedule
def test_names_of_one_step(schedule: Schedule) -> None:
    process = {"x": Process(schedule, VPrediction())}
    denoise = known_distribution(schedule)

    def run(sampler: Sampler) -> Tensor:
        return sampler.sample(denoise, {"x": draw(3, 2)}, process, drawing(3, 2))["x"]

    torch.testing.assert_close(run(DDIM(9)), run(Euler(9)))
    torch.testing.assert_close(run(DDIM(9, eta=1.0)), run(Ancestral(9)))
    assert (run(DDIM(9, eta=1.0)) - run(Euler(9))).abs().max() > 1e-2


@every_schedule
@pytest.mark.parametrize("make", [Euler, DDIM, Heun, DPMSolverPP2M])
def test_inversion_leads_back(schedule: Schedule, make: Callable[..., Sampler]) -> None:
    process = {"x": Process(schedule, VPrediction())}
    denoise = known_distribution(schedule)
    sampler = make(200, UniformGrid(t_max=0.95, t_min=0.05, include_end=True))
    start = {"x": 0.5 * draw(4, 2, dtype=torch.float64)}
    noised = sampler.invert(denoise, start, process)
    assert (noised["x"] - start["x"]).abs().max() > 0.1
    back = sampler.walk(denoise, noised, process, close=False)
    tolerance = 4e-2 if make in (Euler, DDIM) else 8e-4
    torch.testing.assert_close(back["x"], start["x"], rtol=0, atol=tolerance)


@every_sampler
def test_fields_do_not_touch_each_other(make: Callable[..., Sampler]) -> None:
    processes = {"a": Process(LinearFlowSchedule(), VPrediction()), "b": Process(EDMSchedule(), VPrediction())}
    alone = {}
    noise = {"a": draw(3, 4, 2), "b": draw(3, 5)}
    for name in ("a", "b"):
        schedule = processes[name].schedule
        fresh = {name: draw(*noise[name].shape, seed=9)}
        alone[name] = make(8).sample(
            known_distribution(schedule), {name: noise[name]}, {name: processes[name]}, lambda fresh=fresh: fresh
        )[name]

    def denoise(x: State, t: Tensor) -> State:
        return {name: known_distribution(processes[name].schedule)({name: x[name]}, t)[name] for name in x}

    together = make(8).sample(
        denoise, noise, processes, lambda: {name: draw(*value.shape, seed=9) for name, value in noise.items()}
    )
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=0, atol=1e-6)


@every_sampler
def test_padding_stays_zero_and_changes_nothing(make: Callable[..., Sampler]) -> None:
    process = Process(LinearFlowSchedule(), VPrediction(), prior=CentredGaussianPrior())
    results = []
    for length in (5, 8):
        mask = (torch.arange(length) < 5)[None]
        source = NoiseSource([7])

        def fresh(source: NoiseSource = source, length: int = length, mask: Tensor = mask) -> State:
            return {"x": process.prior(source.draw((1, length, 2), mask), mask)}

        result = make(6).sample(
            known_distribution(process.schedule), fresh(), {"x": process}, fresh, masks={"x": mask}
        )["x"]
        assert (result[:, 5:] == 0).all()
        results.append(result[:, :5])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)


@every_sampler
def test_calls_and_times_of_the_denoiser(make: Callable[..., Sampler]) -> None:
    process = {"x": Process(LinearFlowSchedule(), VPrediction())}
    seen: list[Tensor] = []

    def denoise(x: State, t: Tensor) -> State:
        seen.append(t)
        return {"x": 0.5 * x["x"]}

    sampler = make(10)
    sampler.sample(denoise, {"x": draw(3, 2)}, process, drawing(3, 2))
    assert all(t.ndim == 0 and t.dtype == torch.float32 for t in seen)
    if isinstance(sampler, Heun):
        expected_calls = 18 if sampler.clock == "ratio" else 19  # the ratio clock is infinite at t = 1: one Euler step
    else:
        expected_calls = 10
    assert len(seen) == expected_calls
    assert seen[-1] == pytest.approx(0.1)


def test_grid_of_adit_is_two_hundredths_short_of_the_ends() -> None:
    sampler = Euler(100, UniformGrid(t_max=0.99, include_end=True))
    times = sampler.times({"x": Process(LinearFlowSchedule(), X0Prediction())})
    torch.testing.assert_close(1 - times, torch.linspace(0.01, 1, 100, dtype=torch.float64))


def test_no_sample_depends_on_its_batch() -> None:
    process = {"x": Process(VPLinearSchedule(), VPrediction())}
    denoise = known_distribution(process["x"].schedule)

    def run(seeds: list[int]) -> Tensor:
        source = NoiseSource(seeds)

        def fresh() -> State:
            return {"x": source.draw((len(seeds), 3, 2), None)}

        return Ancestral(6).sample(denoise, fresh(), process, fresh)["x"]

    torch.testing.assert_close(run([1, 2, 3])[2:], run([3]))


def test_gradient_reaches_the_noise() -> None:
    process = {"x": Process(LinearFlowSchedule(), VPrediction())}
    noise = draw(2, 3).requires_grad_()
    Heun(4).sample(known_distribution(LinearFlowSchedule()), {"x": noise}, process)["x"].sum().backward()
    assert noise.grad is not None and (noise.grad != 0).all()


def test_loop_asks_the_device_for_nothing() -> None:
    # On the meta device any look at a value raises.
    process = {"x": Process(LinearFlowSchedule(), VPrediction())}
    for make in (Euler, Heun, DPMSolverPP2M, Ancestral):
        noise = {"x": torch.empty(2, 3, device="meta")}
        result = make(5).sample(
            lambda x, t: {"x": x["x"] * t}, noise, process, lambda: {"x": torch.empty(2, 3, device="meta")}
        )
        assert result["x"].shape == (2, 3)


def flow() -> dict[str, Process]:
    return {"x": Process(LinearFlowSchedule(), VPrediction())}


def invalid_actions() -> Iterator[tuple[str, Callable[[], object]]]:
    two = {**flow(), "y": Process(EDMSchedule(), VPrediction())}
    yield "at least 1 step, not 0", lambda: Euler(0)
    yield "eta 1.5", lambda: DDIM(eta=1.5)
    yield "'backward' is neither", lambda: Ancestral(variance="backward")  # type: ignore[arg-type]
    yield "clock 'sundial'", lambda: Heun(clock="sundial")  # type: ignore[arg-type]
    yield "t_min 0.5 and t_max 0.2", lambda: UniformGrid(t_max=0.2, t_min=0.5)
    yield "shift 0.0", lambda: UniformGrid(shift=0.0)
    yield "pass draw", lambda: Ancestral(3).sample(lambda x, t: x, {"x": draw(1, 1)}, flow())
    yield "cannot be inverted", lambda: Ancestral(3).invert(lambda x, t: x, {"x": draw(1, 1)}, flow())
    yield "no noise at t=0.0", lambda: Euler(3, UniformGrid(include_end=True)).invert(
        lambda x, t: x, {"x": draw(1, 1)}, flow()
    )
    yield "2 times are listed for 3 steps", lambda: Euler(3, ListedGrid([1.0, 0.5])).times(flow())
    yield "must fall", lambda: Euler(3, ListedGrid([0.2, 0.5, 0.7])).times(flow())
    yield "says nothing of the data", lambda: Euler(3).times({"x": Process(VPCosineSchedule(), EpsPrediction())})
    yield "set sigma_max", lambda: Euler(3, KarrasGrid()).times(flow())
    yield "set sigma_max", lambda: Euler(3, KarrasGrid(sigma_max=100.0)).times({"x": Process.edm()})
    yield "infinite end", lambda: Euler(3, LogSNRGrid(t_max=1.0)).times(flow())
    yield "set field to one of", lambda: Euler(3, LogSNRGrid()).times(two)


@pytest.mark.parametrize(("message", "action"), list(invalid_actions()))
def test_errors_name_the_value_and_the_fix(message: str, action: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        action()


def test_a_grid_can_follow_one_field() -> None:
    two = {**flow(), "y": Process(EDMSchedule(), VPrediction())}
    times = Euler(5, KarrasGrid(field="y")).times(two)
    torch.testing.assert_close(times, torch.linspace(1, 0, 5, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["euler", "heun_ratio", "heun_flow", "dpm"])
def test_a_walk_depends_on_noise_ratios_alone(name: str) -> None:
    # In the straight clocks a schedule only names the ratios sigma / alpha; the data that they lead to is one.
    noise = {"x": draw(3, 2, dtype=torch.float64)}
    grid = KarrasGrid(sigma_max=50.0, sigma_min=0.02)
    results = []
    for schedule in SCHEDULES.values():
        process = {"x": Process(schedule, VPrediction())}
        results.append(SAMPLERS[name](8, grid).sample(known_distribution(schedule), noise, process)["x"])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-6, atol=1e-6)
