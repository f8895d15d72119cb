import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polydit.platform.processes import (
    DDPMSchedule,
    EDMSchedule,
    LinearFlowSchedule,
    Schedule,
    TabulatedSchedule,
    VariancePreservingSchedule,
    VPCosineSchedule,
    VPLinearSchedule,
    VPPolynomialSchedule,
)

SCHEDULES = {
    "flow": LinearFlowSchedule(),
    "vp_linear": VPLinearSchedule(),
    "vp_cosine": VPCosineSchedule(),
    "vp_cosine_plain": VPCosineSchedule(offset=0.0),
    "vp_polynomial": VPPolynomialSchedule(),
    "vp_polynomial_3": VPPolynomialSchedule(power=3.0, precision=1e-4),
    "edm": EDMSchedule(),
    "table": DDPMSchedule(),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
TIMES = torch.linspace(0.001, 0.999, 997, dtype=torch.float64)  # 997 points: none lies on a kink of the 1000-step table


@every_schedule
def test_slopes_are_the_derivatives(schedule: Schedule) -> None:
    t = TIMES.clone().requires_grad_()
    for value, slope in ((schedule.alpha, schedule.alpha_slope), (schedule.sigma, schedule.sigma_slope)):
        (gradient,) = torch.autograd.grad((value(t) + 0 * t).sum(), t)
        torch.testing.assert_close(slope(t.detach()), gradient, rtol=1e-9, atol=1e-12)


@every_schedule
def test_log_snr_falls_and_inverts(schedule: Schedule) -> None:
    log_snr = schedule.log_snr(TIMES)
    assert (log_snr.diff() < 0).all()
    ratio = schedule.alpha(TIMES) / schedule.sigma(TIMES)
    torch.testing.assert_close(log_snr, 2 * ratio.log(), rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(schedule.time_from_log_snr(log_snr), TIMES, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name.startswith("vp") or name == "table"])
def test_variance_is_preserved(name: str) -> None:
    schedule = SCHEDULES[name]
    assert isinstance(schedule, VariancePreservingSchedule)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t), rtol=0, atol=1e-12)


@every_schedule
@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(0, 4), max_size=3), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_shape_and_dtype_are_kept(schedule: Schedule, shape: list[int], dtype: torch.dtype) -> None:
    t = torch.full(shape, 0.3, dtype=dtype)
    for function in (schedule.alpha, schedule.sigma, schedule.alpha_slope, schedule.sigma_slope, schedule.log_snr,
                     schedule.time_from_log_snr):
        assert function(t).shape == t.shape
        assert function(t).dtype == dtype


@pytest.mark.parametrize(
    ("name", "alpha", "sigma"),
    [
        ("flow", 0.0, 1.0),
        ("vp_linear", math.exp(-20.1 / 4), math.sqrt(1 - math.exp(-20.1 / 2))),
        ("vp_cosine", 0.0, 1.0),
        ("vp_polynomial", math.sqrt(1e-5), math.sqrt(1 - 1e-5)),
        ("edm", 1.0, 80.0),
    ],
)
def test_levels_at_pure_noise(name: str, alpha: float, sigma: float) -> None:
    one = torch.tensor(1.0, dtype=torch.float64)
    assert SCHEDULES[name].alpha(one).item() == pytest.approx(alpha, abs=1e-12)
    assert SCHEDULES[name].sigma(one).item() == pytest.approx(sigma, abs=1e-12)


def test_small_noise_is_accurate_in_single_precision() -> None:
    # 1 - alpha^2 would lose all digits here.
    t = torch.tensor([1e-6], dtype=torch.float32)
    for schedule in (VPLinearSchedule(), VPCosineSchedule()):
        torch.testing.assert_close(schedule.sigma(t).double(), schedule.sigma(t.double()), rtol=1e-5, atol=0)


def test_polynomial_is_the_published_table() -> None:
    # The table as its authors describe it: (1 - t^2)^2, step ratios limited to 0.001, then squeezed by the precision.
    steps, precision = 500, 1e-5
    level = (1 - np.linspace(0, 1, steps + 1) ** 2) ** 2
    ratios = np.clip(np.concatenate([[1.0], level[1:] / level[:-1]]), 0.001, 1.0)
    table = (1 - 2 * precision) * np.cumprod(ratios) + precision
    alpha = VPPolynomialSchedule().alpha(torch.linspace(0, 1, steps + 1, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(alpha**2, table, atol=2e-8)


def test_edm_uniform_times_are_the_published_noise_levels() -> None:
    count, low, high, rho = 18, 0.002, 80.0, 7.0
    i = np.arange(count)
    published = (high ** (1 / rho) + i / (count - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    sigma = EDMSchedule().sigma(torch.linspace(1, 0, count, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(sigma, published, rtol=1e-12)


@pytest.mark.parametrize("spacing", ["linear", "scaled_linear", "cosine"])
def test_tables_are_those_of_diffusers(spacing: str) -> None:
    from diffusers import DDPMScheduler

    name = "squaredcos_cap_v2" if spacing == "cosine" else spacing
    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=name).alphas_cumprod.double()
    steps = torch.arange(1000, dtype=torch.float64) / 999
    ours = DDPMSchedule(spacing=spacing).alpha(steps) ** 2  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPLinearSchedule(beta_min=3.0, beta_max=2.0), "beta_min 3.0"),
        (lambda: VPCosineSchedule(offset=1.0), "offset 1.0"),
        (lambda: VPPolynomialSchedule(power=0.0), "power 0.0"),
        (lambda: VPPolynomialSchedule(precision=0.5), "precision 0.5"),
        (lambda: EDMSchedule(sigma_min=0.0), "sigma_min 0.0"),
        (lambda: EDMSchedule(rho=-1.0), "rho -1.0"),
        (lambda: TabulatedSchedule([0.9, 0.95]), "falling within"),
        (lambda: TabulatedSchedule([]), "at least two"),
    ],
)
def test_bad_values_are_named(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
