"""The hybrid objective of a learnt variance against formulas written out and against diffusers, and its sampler.

Shape legend: B batch, C channels.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from polydit.platform.errors import ConfigurationError
from polydit.platform.processes import DDPMSchedule, LearntVarianceProcess, Process, VPLinearSchedule
from polydit.platform.processes.learnt_variance import log_likelihood_of_level
from polydit.platform.samplers import Ancestral, LearntAncestral, StepGrid
from polydit.platform.samplers.sampler import spread_of

STEPS = 1000


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(*steps: int) -> Tensor:
    return torch.tensor(steps, dtype=torch.float64) / (STEPS - 1)


def tables() -> tuple[Tensor, Tensor, Tensor]:
    """Rates, levels and levels before, by the textbook."""
    betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    level = (1 - betas).cumprod(0)
    return betas, level, torch.cat([torch.ones(1, dtype=torch.float64), level[:-1]])


def test_posterior_is_that_of_the_textbook() -> None:
    betas, level, before = tables()
    every = torch.arange(STEPS, dtype=torch.float64) / (STEPS - 1)
    of_x0, of_x_t, low, high = DDPMSchedule().posterior(every)
    torch.testing.assert_close(of_x0, before.sqrt() * betas / (1 - level), rtol=1e-9, atol=0)
    torch.testing.assert_close(of_x_t, (1 - betas).sqrt() * (1 - before) / (1 - level), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(high, betas.log(), rtol=1e-9, atol=0)
    torch.testing.assert_close(low[1:], (betas * (1 - before) / (1 - level))[1:].log(), rtol=1e-9, atol=0)
    assert low[0] == low[1]


def test_bound_is_the_divergence_of_the_posterior_from_the_step() -> None:
    betas, level, before = tables()
    process = LearntVarianceProcess()
    steps = [1, 10, 500, 999]
    t, x0, noise = at(*steps), draw(4, 2, 3).clamp(-1, 1), draw(4, 2, 3, seed=1)
    output, spread = draw(4, 2, 3, seed=2), draw(4, 2, 3, seed=3).tanh()
    found = process.bound(output, spread, x0, noise, t)
    for row, k in enumerate(steps):
        x_t = level[k].sqrt() * x0[row] + (1 - level[k]).sqrt() * noise[row]
        guess = (x_t - (1 - level[k]).sqrt() * output[row]) / level[k].sqrt()
        small = betas[k] * (1 - before[k]) / (1 - level[k])

        def mean(clean: Tensor, k: int = k, x_t: Tensor = x_t) -> Tensor:
            first, second = before[k].sqrt() * betas[k], (1 - betas[k]).sqrt() * (1 - before[k])
            return (first * clean + second * x_t) / (1 - level[k])

        share = (spread[row] + 1) / 2
        variance = (share * betas[k].log() + (1 - share) * small.log()).exp()
        truth = Normal(mean(x0[row]), small.sqrt().expand(2, 3))
        expected = kl_divergence(truth, Normal(mean(guess), variance.sqrt())) / math.log(2)
        torch.testing.assert_close(found[row], expected, rtol=1e-6, atol=1e-9)


def test_first_step_counts_the_grey_level() -> None:
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    chances = log_likelihood_of_level(levels, torch.tensor(0.3, dtype=torch.float64), torch.tensor(-2.0).double()).exp()
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-6), "all levels together are certain"
    process = LearntVarianceProcess()
    x0, noise = levels[[0, 100, 255]].reshape(1, 1, 3), torch.zeros(1, 1, 3, dtype=torch.float64)
    surprise = process.bound(noise, noise - 1, x0, noise, at(0))
    assert (surprise >= 0).all() and surprise.max() < 2, "an exact estimate tells the level within about a bit"
    wrong = process.bound(noise + 90, noise - 1, x0, noise, at(0))
    assert wrong[..., 1:].min() > surprise.max(), "an estimate that is far too dark explains nothing but black"


def test_loss_is_squared_error_and_bound_and_the_bound_spares_the_mean() -> None:
    process = LearntVarianceProcess(bound_weight=0.5)
    x0, noise, t = draw(4, 2, 3).clamp(-1, 1), draw(4, 2, 3, seed=1), at(0, 3, 400, 999)
    output = draw(4, 4, 3, seed=2).requires_grad_()
    loss = process.loss(output, x0, noise, t)
    mean, spread = output.detach().chunk(2, dim=1)
    bound = process.bound(mean, spread, x0, noise, t).mean()
    assert float(loss.detach()) == pytest.approx(float((mean - noise).square().mean() + 0.5 * bound))
    loss.backward()
    assert output.grad is not None
    torch.testing.assert_close(output.grad[:, :2], 2 * (mean - noise) / mean.numel())
    assert (output.grad[:, 2:] != 0).all()


def test_tokens_are_as_images_whose_pixels_they_are() -> None:
    """[B, N, 2 C] with a mask: the same loss and halves as [B, 2 C, 1, N] of what the mask leaves."""
    process = LearntVarianceProcess()
    prediction, x0, noise = draw(2, 5, 6), draw(2, 5, 3, seed=1), draw(2, 5, 3, seed=2)
    t, mask = at(3, 700), torch.arange(5)[None] < torch.tensor([[3], [3]])

    def as_image(tokens: Tensor) -> Tensor:
        return tokens[:, :3].transpose(1, 2)[:, :, None]

    found = process.loss(prediction, x0, noise, t, mask)
    torch.testing.assert_close(found, process.loss(*map(as_image, (prediction, x0, noise)), t))
    assert torch.equal(as_image(process.spread(prediction, x0)), process.spread(as_image(prediction), as_image(x0)))
    x_t = process.corrupt(x0, noise, t)
    clean = process.convert(prediction, x_t, t)
    torch.testing.assert_close(as_image(clean), process.convert(as_image(prediction), as_image(x_t), t))
    with pytest.raises(ConfigurationError, match=r"set the head's out_channels \(of tokens, its fields\)"):
        process.loss(x0, x0, noise, t, mask)


def test_noisy_data_are_best_explained_by_a_wide_step() -> None:
    """The bound is best at the wide end for data of unit variance, and at the narrow one where all data are a point."""
    process = LearntVarianceProcess()
    generator = torch.Generator().manual_seed(0)
    t = at(300).expand(4000)
    noise = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    spread_out = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    for x0, expected in ((spread_out, 1.0), (torch.zeros_like(spread_out), -1.0)):
        x_t = process.corrupt(x0, noise, t)
        sigma = process.schedule.sigma(t)[:, None]
        exact = sigma * x_t if expected > 0 else x_t / sigma  # the noise that is to be expected given x_t
        scores = [float(process.bound(exact, torch.full_like(x0, v), x0, noise, t).mean()) for v in (-1.0, 0.0, 1.0)]
        assert scores.index(min(scores)) == (2 if expected > 0 else 0), scores


def test_a_head_without_room_for_a_variance_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"gives 3 channels for a field of 3, .* needs 6: set the hea"):
        LearntVarianceProcess().convert(draw(1, 3, 2), draw(1, 3, 2), at(5))
    with pytest.raises(ConfigurationError, match="bound_weight -1"):
        LearntVarianceProcess(bound_weight=-1)


def test_a_step_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=STEPS, beta_schedule="linear", variance_type="learned_range", clip_sample=False,
        timestep_spacing="linspace",
    )
    theirs.set_timesteps(STEPS)
    process, x = LearntVarianceProcess(), {"image": draw(2, 3, 4)}
    output, k = draw(2, 6, 4, seed=1), 700
    fresh = draw(2, 3, 4, seed=5)

    def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        field = state["image"]
        return {
            "image": process.convert(output, field, t.expand(2)), spread_of("image"): process.spread(output, field),
        }

    sampler = LearntAncestral(STEPS)
    times = sampler.times({"image": process})
    S = sampler.init(times, {"image": process}, x, lambda: {"image": fresh})
    found, _ = sampler.step(denoise, x, STEPS - 1 - k, S)

    betas, level, before = tables()
    clean = (x["image"] - (1 - level[k]).sqrt() * output[:, :3]) / level[k].sqrt()
    mean = (before[k].sqrt() * betas[k] * clean + (1 - betas[k]).sqrt() * (1 - before[k]) * x["image"]) / (1 - level[k])
    log_variance = theirs._get_variance(k, predicted_variance=output[:, 3:])
    expected = mean + (0.5 * log_variance).exp() * fresh
    # diffusers keeps its tables in single precision
    torch.testing.assert_close(found["image"], expected.double(), rtol=1e-4, atol=1e-4)


def test_ends_of_the_variance_are_those_of_the_plain_sampler() -> None:
    process, x, fresh = LearntVarianceProcess(), {"image": draw(2, 3, 4)}, draw(2, 3, 4, seed=5)
    estimate = draw(2, 3, 4, seed=6)

    def walk(sampler: Ancestral, spread: float | None) -> Tensor:
        def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
            told = {} if spread is None else {spread_of("image"): torch.full_like(estimate, spread)}
            return {"image": estimate, **told}

        found = sampler.walk(denoise, x, {"image": process}, lambda: {"image": fresh}, close=False)
        assert set(found) == {"image"}
        return found["image"]

    for spread, variance in ((-1.0, "posterior"), (1.0, "forward")):
        plain = Ancestral(10, StepGrid(), variance)  # type: ignore[arg-type]
        torch.testing.assert_close(walk(LearntAncestral(10), spread), walk(plain, None))
    with pytest.raises(ConfigurationError, match="no learnt variance"):
        walk(LearntAncestral(10), None)


def test_a_closed_walk_gives_the_field_alone() -> None:
    process, x = LearntVarianceProcess(), {"image": draw(2, 3, 4)}

    def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"image": state["image"] * 0, spread_of("image"): state["image"] * 0}

    found = LearntAncestral(5).sample(denoise, x, {"image": process}, lambda: {"image": draw(2, 3, 4)})
    assert set(found) == {"image"} and not found["image"].any()


def test_respaced_steps_are_whole_and_include_both_ends() -> None:
    times = StepGrid(1000).times(250, {"image": DDPMSchedule()}) * 999
    torch.testing.assert_close(times, times.round(), rtol=0, atol=1e-9)
    assert times[0] == 999 and times[-1] == 0 and (times.diff() < 0).all()
    with pytest.raises(ValueError, match="11 steps are more than the 10 levels"):
        StepGrid(10).times(11, {"image": DDPMSchedule()})


def test_other_processes_say_nothing_of_a_variance() -> None:
    process = Process.ddpm()
    assert process.spread(draw(2, 3), draw(2, 3)) is None
    assert not isinstance(VPLinearSchedule(), DDPMSchedule)
