import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polydit.platform.processes import (
    CentredGaussianPrior,
    CleanUniformWeighting,
    ClippedWeighting,
    DDPMSchedule,
    EDMSchedule,
    EDMWeighting,
    EpsPrediction,
    LinearFlowSchedule,
    PreconditionedPrediction,
    Prediction,
    Process,
    Schedule,
    SigmoidWeighting,
    SNRWeighting,
    UniformWeighting,
    VelocityPrediction,
    VPCosineSchedule,
    VPLinearSchedule,
    VPPolynomialSchedule,
    VPrediction,
    X0Prediction,
)

SCHEDULES: dict[str, Schedule] = {
    "flow": LinearFlowSchedule(),
    "vp_linear": VPLinearSchedule(),
    "vp_cosine": VPCosineSchedule(),
    "vp_polynomial": VPPolynomialSchedule(),
    "edm": EDMSchedule(),
    "table": DDPMSchedule(),
}
PREDICTIONS: dict[str, Prediction] = {
    "eps": EpsPrediction(),
    "x0": X0Prediction(),
    "v": VPrediction(),
    "velocity": VelocityPrediction(),
    "preconditioned": PreconditionedPrediction(sigma_data=0.7),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_schedule
@every_prediction
@settings(max_examples=10, deadline=None)
@given(t=st.floats(0.05, 0.95), per_token=st.booleans(), axes=st.integers(0, 2))
def test_target_converts_back(
    schedule: Schedule, prediction: Prediction, t: float, per_token: bool, axes: int
) -> None:
    process = Process(schedule, prediction)
    shape = (2, 3, 4, 2)[: 2 + axes]
    x0, noise = draw(*shape), draw(*shape, seed=1)
    times = torch.full(shape[:2] if per_token else shape[:1], t, dtype=torch.float64)
    times[0] = times[0] * 0.9
    x_t = process.corrupt(x0, noise, times)
    output = process.target(x0, noise, times)
    torch.testing.assert_close(process.convert(output, x_t, times, to="x0"), x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(process.convert(output, x_t, times, to="eps"), noise, rtol=1e-6, atol=1e-6)
    velocity = Process(schedule, VelocityPrediction()).target(x0, noise, times)
    torch.testing.assert_close(process.convert(output, x_t, times, to="velocity"), velocity, rtol=1e-6, atol=1e-6)


@every_schedule
def test_velocity_is_the_time_derivative_of_the_path(schedule: Schedule) -> None:
    process = Process(schedule, VelocityPrediction())
    x0, noise = draw(1, 3), draw(1, 3, seed=1)
    t = torch.tensor([0.43], dtype=torch.float64)
    _, tangent = torch.autograd.functional.jvp(lambda s: process.corrupt(x0, noise, s), t, torch.ones_like(t))
    torch.testing.assert_close(process.target(x0, noise, t), tangent)


@every_schedule
@every_prediction
def test_gain_is_the_sensitivity_of_the_clean_estimate(schedule: Schedule, prediction: Prediction) -> None:
    process = Process(schedule, prediction)
    t = torch.tensor([0.2, 0.6, 0.9], dtype=torch.float64)
    x_t, output = draw(3, 1), draw(3, 1, seed=1)
    difference = process.convert(output + 1, x_t, t) - process.convert(output, x_t, t)
    torch.testing.assert_close(prediction.gain(schedule, t), difference[:, 0].abs(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("prediction", [p for name, p in PREDICTIONS.items() if name != "eps"])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_clean_estimate_is_finite_at_the_ends_of_the_flow(prediction: Prediction, t: float) -> None:
    process = Process(LinearFlowSchedule(), prediction)
    x0, noise, times = draw(2, 3), draw(2, 3, seed=1), torch.full((2,), t, dtype=torch.float64)
    estimate = process.convert(process.target(x0, noise, times), process.corrupt(x0, noise, times), times)
    torch.testing.assert_close(estimate, x0)


def test_preconditioning_is_that_of_edm() -> None:
    # Table 1 of arXiv:2206.00364, written with sigma.
    sigma_data = 0.5
    process = Process.edm(sigma_data)
    sigma = torch.tensor([0.01, 0.5, 30.0], dtype=torch.float64)
    t = process.schedule.time_from_log_snr(-2 * sigma.log())
    x, output = draw(3, 2), draw(3, 2, seed=1)
    column = sigma[:, None]
    skip = sigma_data**2 / (column**2 + sigma_data**2)
    out = column * sigma_data / (column**2 + sigma_data**2).sqrt()
    torch.testing.assert_close(process.convert(output, x, t), skip * x + out * output)
    torch.testing.assert_close(process.input_scale(t), 1 / (sigma**2 + sigma_data**2).sqrt())
    torch.testing.assert_close(process.noise_label(t), sigma.log() / 4)
    torch.testing.assert_close(process.weight(t), torch.ones(3, dtype=torch.float64))


@every_schedule
def test_preconditioned_input_and_target_have_unit_variance(schedule: Schedule) -> None:
    sigma_data = 0.7
    process = Process(schedule, PreconditionedPrediction(sigma_data=sigma_data))
    x0, noise = sigma_data * draw(1, 200_000), draw(1, 200_000, seed=1)
    for value in (0.1, 0.5, 0.9):
        t = torch.tensor([value], dtype=torch.float64)
        scaled = process.corrupt(x0, noise, t) * process.input_scale(t)
        assert scaled.var().item() == pytest.approx(1, abs=0.02)
        assert process.target(x0, noise, t).var().item() == pytest.approx(1, abs=0.02)


@every_schedule
@every_prediction
def test_clean_weighting_means_the_same_under_every_prediction(schedule: Schedule, prediction: Prediction) -> None:
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    x0, noise, error = draw(2, 4), draw(2, 4, seed=1), 0.1 * draw(2, 4, seed=2)
    clean = Process(schedule, X0Prediction(), SNRWeighting(high=5.0))
    other = Process(schedule, prediction, SNRWeighting(high=5.0))
    x_t = clean.corrupt(x0, noise, t)
    # The other network's output that stands for the same, wrong, clean estimate.
    eps = (x_t - schedule.alpha(t)[:, None] * (x0 + error)) / schedule.sigma(t)[:, None]
    output = other.target(x0 + error, eps, t)
    expected = clean.loss(x0 + error, x0, noise, t)
    torch.testing.assert_close(other.loss(output, x0, noise, t), expected, rtol=1e-6, atol=0)


@every_schedule
def test_unlimited_snr_weighs_every_error_of_eps_alike(schedule: Schedule) -> None:
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    weight = Process(schedule, EpsPrediction(), SNRWeighting()).weight(t)
    torch.testing.assert_close(weight, torch.ones_like(t))


def test_published_weights() -> None:
    t = torch.tensor([0.0, 0.05, 0.1, 0.5, 1.0], dtype=torch.float64)
    adit = Process(LinearFlowSchedule(), X0Prediction(), ClippedWeighting())
    torch.testing.assert_close(adit.weight(t), 1 / (1 - (1 - t).clamp(max=0.9)) ** 2)
    inner = t[1:-1]
    snr = ((1 - inner) / inner) ** 2
    flow = LinearFlowSchedule()
    min_snr = Process(flow, EpsPrediction(), SNRWeighting(high=5.0)).weight(inner)
    torch.testing.assert_close(min_snr, snr.clamp(max=5) / snr)
    vp = VPCosineSchedule()
    ones = torch.ones_like(inner)
    torch.testing.assert_close(Process(vp, VPrediction(), SNRWeighting(offset=1.0)).weight(inner), ones)
    eps_weight = Process(flow, EpsPrediction(), SigmoidWeighting(bias=2.0)).weight(inner)
    torch.testing.assert_close(eps_weight, torch.sigmoid(2 - snr.log()))
    torch.testing.assert_close(Process(vp, EpsPrediction(), UniformWeighting()).weight(inner), ones)
    torch.testing.assert_close(Process(flow, VelocityPrediction(), CleanUniformWeighting()).weight(inner), inner**2)
    edm = Process(EDMSchedule(), X0Prediction(), EDMWeighting(sigma_data=0.5)).weight(inner)
    sigma = EDMSchedule().sigma(inner)
    torch.testing.assert_close(edm, (sigma**2 + 0.25) / (0.5 * sigma) ** 2)


def test_loss_is_the_mean_over_real_tokens() -> None:
    process = Process(LinearFlowSchedule(), X0Prediction(), ClippedWeighting())
    x0, noise, output = draw(2, 3, 4), draw(2, 3, 4, seed=1), draw(2, 3, 4, seed=2)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    t = torch.tensor([0.05, 0.5], dtype=torch.float64)
    errors = [100 * (output[0, :2] - x0[0, :2]) ** 2, 4 * (output[1, :1] - x0[1, :1]) ** 2]
    expected = torch.cat([error.flatten() for error in errors]).mean()
    torch.testing.assert_close(process.loss(output, x0, noise, t, mask), expected)
    padded = output.clone()
    padded[~mask] = 1e6
    assert process.loss(padded, x0, noise, t, mask) == process.loss(output, x0, noise, t, mask)


def test_per_token_times_equal_per_sample_times() -> None:
    process = Process(VPLinearSchedule(), VPrediction(), SNRWeighting(high=5.0))
    x0, noise, output = draw(2, 3, 4), draw(2, 3, 4, seed=1), draw(2, 3, 4, seed=2)
    t = torch.tensor([0.2, 0.8], dtype=torch.float64)
    tokens = t[:, None].expand(2, 3)
    assert torch.equal(process.corrupt(x0, noise, t), process.corrupt(x0, noise, tokens))
    torch.testing.assert_close(process.loss(output, x0, noise, t), process.loss(output, x0, noise, tokens))


@pytest.mark.parametrize("name", ["ddpm", "edm", "flow_matching", "rectified_flow"])
def test_presets_train_to_a_finite_loss(name: str) -> None:
    process: Process = getattr(Process, name)()
    generator = torch.Generator().manual_seed(0)
    t = process.sample_time(512, generator)
    x0, noise = draw(512, 2), draw(512, 2, seed=1)
    assert process.loss(process.target(x0, noise, t), x0, noise, t) == 0
    assert math.isfinite(process.loss(torch.zeros_like(x0), x0, noise, t).item())


def test_process_is_built_by_class_path(tmp_path: Path) -> None:
    from jsonargparse import auto_cli

    package = "polydit.platform.processes"
    config = tmp_path / "process.yaml"
    config.write_text(f"""
        process:
          class_path: {package}.Process
          init_args:
            schedule: {{class_path: {package}.VPPolynomialSchedule, init_args: {{precision: 1e-4}}}}
            prediction: {package}.X0Prediction
            weighting: {{class_path: {package}.ClippedWeighting, init_args: {{floor: 0.2}}}}
            time_sampling: {{class_path: {package}.LogitNormalTime, init_args: {{std: 2.0}}}}
            prior: {package}.CentredGaussianPrior
    """)

    def build(process: Process) -> Process:
        return process

    process = auto_cli(build, args=["--config", str(config)])
    assert process.schedule.precision == 1e-4
    assert process.weighting.floor == 0.2
    assert process.time_sampling.std == 2.0
    assert isinstance(process.prior, CentredGaussianPrior)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PreconditionedPrediction(sigma_data=0.0), "sigma_data 0.0"),
        (lambda: EDMWeighting(sigma_data=-1.0), "sigma_data -1.0"),
        (lambda: ClippedWeighting(floor=0.0), "floor 0.0"),
        (lambda: SNRWeighting(low=2.0, high=1.0), "low 2.0"),
    ],
)
def test_bad_values_are_named(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
