import math

import pytest
import torch

from polydit.platform.noise import NoiseSource
from polydit.platform.processes import (
    CentredGaussianPrior,
    DDPMSchedule,
    EDMSchedule,
    GaussianPrior,
    LinearFlowSchedule,
    LogitNormalTime,
    LogLogisticSigma,
    LogNormalSigma,
    StepTime,
    TimeSampling,
    UniformTime,
)

SAMPLINGS = {
    "uniform": UniformTime(low=0.01, high=0.99),
    "uniform_stratified": UniformTime(low=0.01, high=0.99, stratified=True),
    "logit_normal": LogitNormalTime(mean=0.5, std=1.5),
    "log_normal_stratified": LogNormalSigma(stratified=True),
    "log_logistic": LogLogisticSigma(),
    "step": StepTime(steps=25, stratified=True),
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_times_repeat_with_the_seed_and_stay_inside(sampling: TimeSampling) -> None:
    first, second = (
        sampling.sample(1000, EDMSchedule(), torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    other = sampling.sample(1000, EDMSchedule(), torch.Generator().manual_seed(4))
    assert not torch.equal(first, other)


def test_distributions_have_their_moments() -> None:
    count = 200_000
    generator = torch.Generator().manual_seed(0)
    uniform = UniformTime(low=0.2, high=0.8).sample(count, LinearFlowSchedule(), generator)
    assert uniform.min() >= 0.2 and uniform.max() <= 0.8
    assert uniform.mean().item() == pytest.approx(0.5, abs=2e-3)
    logit = torch.logit(LogitNormalTime(mean=0.5, std=1.5).sample(count, LinearFlowSchedule(), generator))
    assert logit.mean().item() == pytest.approx(0.5, abs=0.02)
    assert logit.std().item() == pytest.approx(1.5, abs=0.02)
    schedule = EDMSchedule()
    log_sigma = schedule.sigma(LogNormalSigma().sample(count, schedule, generator)).log()
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=0.02)
    assert log_sigma.std().item() == pytest.approx(1.2, abs=0.02)


def test_log_logistic_levels_follow_the_truncated_distribution() -> None:
    """By its distribution function F(sigma) = 1 / (1 + (sigma / 0.5)^-2), cut off at both ends."""
    schedule = EDMSchedule(sigma_min=0.05, sigma_max=4.0)
    sigma = schedule.sigma(LogLogisticSigma().sample(200_000, schedule, torch.Generator().manual_seed(0)))
    assert sigma.min() >= 0.05 * (1 - 1e-4) and sigma.max() <= 4.0 * (1 + 1e-4)

    def distribution(value: float) -> float:
        return 1 / (1 + (value / 0.5) ** -2)

    low, high = distribution(0.05), distribution(4.0)
    for value in (0.1, 0.3, 0.5, 1.0, 2.0, 3.5):
        expected = (distribution(value) - low) / (high - low)
        assert (sigma < value).float().mean().item() == pytest.approx(expected, abs=4e-3)


def test_steps_are_those_of_the_table_and_all_alike() -> None:
    times = StepTime(steps=25).sample(50_000, DDPMSchedule(steps=25), torch.Generator().manual_seed(0))
    steps = times.double() * 24
    assert (steps - steps.round()).abs().max() < 1e-5
    counts = torch.bincount(steps.round().long(), minlength=25)
    assert len(counts) == 25 and counts.min() > 1800 and counts.max() < 2200


def test_stratified_times_visit_every_slice_in_random_order() -> None:
    times = UniformTime(stratified=True).sample(64, LinearFlowSchedule(), torch.Generator().manual_seed(0))
    slices = (times * 64).floor().long()
    assert sorted(slices.tolist()) == list(range(64))
    assert slices.tolist() != list(range(64))


def test_centred_noise_has_no_mean_over_real_tokens() -> None:
    mask = torch.arange(20)[None] < torch.tensor([[7], [20], [1]])
    noise = CentredGaussianPrior()(NoiseSource([1, 2, 3]).draw((3, 20, 4), mask), mask)
    assert noise.sum(1).abs().max() < 1e-5
    assert (noise[~mask] == 0).all()
    assert (noise[2] == 0).all()  # one token has nothing left but its mean
    torch.testing.assert_close(CentredGaussianPrior()(noise[1:2]), noise[1:2])


def test_counting_the_padding_leaves_the_published_residue() -> None:
    # 7 real of 20 tokens: the real mean keeps a standard deviation of sqrt(1/7 - 1/20) = 0.305.
    mask = (torch.arange(20) < 7)[None].expand(20_000, 20)
    noise = torch.randn(20_000, 20, 1, generator=torch.Generator().manual_seed(0))
    centred = CentredGaussianPrior(count_padding=True)(noise, mask)
    residue = centred.sum(1) / 7
    assert residue.std().item() == pytest.approx(math.sqrt(1 / 7 - 1 / 20), abs=0.01)
    assert (centred[~mask] == 0).all()
    torch.testing.assert_close(centred[mask], (noise - noise.mean(1, keepdim=True))[mask])


def test_plain_noise_is_masked() -> None:
    mask = torch.tensor([[True, False]])
    noise = torch.ones(1, 2, 3, 2)
    assert GaussianPrior()(noise) is noise
    assert GaussianPrior()(noise, mask).sum() == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformTime(low=0.9, high=0.1), "low 0.9"),
        (lambda: StepTime(steps=1), "at least 2"),
        (lambda: LogitNormalTime(std=0.0), "std 0.0"),
        (lambda: LogNormalSigma(std=-1.0), "std -1.0"),
    ],
)
def test_bad_values_are_named(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
