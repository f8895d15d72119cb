"""What StainDiffuser is defined by: a branch that can be deleted, gradients that stay where they belong, windows.

Shape legend: B images, Y, X height and width of an image.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polydit.domains.pathology.denoiser import MASK, STAIN, StainDiffuser
from polydit.domains.pathology.tissue import TissueAxis
from polydit.platform.conditioning import Conditioner
from polydit.platform.errors import ConfigurationError
from polydit.platform.samplers import Ancestral, Euler
from polydit.platform.samplers.guidance import ClassifierFreeGuidance
from polydit.platform.state import Condition, Layout, Tokens
from polydit.platform.systems.diffusion import DiffusionSystem

from .conftest import PATCH, TILE, WIDTH, Mixer, make_batch, make_system


def picture(height: int = TILE, width: int = TILE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sample(system: DiffusionSystem, image: np.ndarray, seed: int = 0) -> Tensor:
    """The sampled state itself, so that equality is to the bit."""
    label = torch.from_numpy(image).permute(2, 0, 1)[None]
    return system.sample_state(Layout({STAIN: tuple(label.shape)}, labels={"tissue": label}, seeds=(seed,)))[STAIN]


def gradients(module: nn.Module) -> list[float]:
    return [0.0 if p.grad is None else float(p.grad.abs().max()) for p in module.parameters()]


@pytest.mark.parametrize("size", [(TILE, TILE), (25, 33)])
def test_stains_are_the_same_bits_without_the_segmentation_branch(size: tuple[int, int]) -> None:
    system = make_system()
    before = sample(system, picture(*size))
    del system.denoiser.branches[MASK]  # type: ignore[union-attr]
    assert not any(MASK in name for name, _ in system.denoiser.named_parameters())
    assert torch.equal(sample(system, picture(*size)), before)


@pytest.mark.parametrize(("learnt", "idle"), [(STAIN, MASK), (MASK, STAIN)])
def test_a_loss_reaches_every_block_of_the_encoder_and_nothing_of_the_other_branch(learnt: str, idle: str) -> None:
    system = make_system()
    system.losses(make_batch(), torch.Generator().manual_seed(1))[learnt].backward()
    denoiser, axis = system.denoiser, system.conditioner.axes["tissue"]  # type: ignore[union-attr]
    assert isinstance(denoiser, StainDiffuser) and isinstance(axis, TissueAxis)
    assert all(min(gradients(block)) > 0 for block in axis.stack.blocks)
    assert min(gradients(denoiser.branches[learnt])) > 0
    assert max(gradients(denoiser.branches[idle])) == 0


def test_the_stain_is_blind_to_the_mask_and_to_its_noise_level() -> None:
    system = make_system()
    batch = make_batch()
    x0, layout = system.codec.encode(batch, torch.Generator())
    condition = system._condition(layout, torch.device("cpu"), None)
    t = {STAIN: torch.full((3,), 0.4), MASK: torch.full((3,), 0.7)}

    def predict(state: dict[str, Tensor], times: dict[str, Tensor]) -> dict[str, Tensor]:
        return system.denoiser(state, times, condition, system._context(layout, condition))

    both = predict(x0, t)
    other = predict({**x0, MASK: -x0[MASK]}, {**t, MASK: torch.zeros(3)})
    assert torch.equal(both[STAIN], other[STAIN]) and not torch.equal(both[MASK], other[MASK])
    assert torch.equal(predict({STAIN: x0[STAIN]}, {STAIN: t[STAIN]})[STAIN], both[STAIN])
    later = predict(x0, {**t, STAIN: torch.full((3,), 0.6)})
    assert not torch.equal(later[STAIN], both[STAIN]) and torch.equal(later[MASK], both[MASK])


def test_a_patch_reads_the_tissue_of_its_own_place_first() -> None:
    """Without blocks in between, the prediction of a patch depends on the tissue's token there and on no other."""
    system = make_system()
    branch = system.denoiser.branches[STAIN]  # type: ignore[union-attr]
    tokens = torch.randn(1, (TILE // PATCH) ** 2, WIDTH, requires_grad=True)
    condition = Condition(tokens={"tissue": Tokens(tokens)})
    x_t = {STAIN: torch.zeros(1, 3, TILE, TILE)}
    context = system.denoiser.context(Layout({STAIN: (1, 3, TILE, TILE)}))
    context.positions = branch.embedding.positions(x_t, context)
    branch.embedding(x_t, condition, context)["x"][0, 5].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[0].abs().sum(dim=-1).nonzero().flatten().tolist() == [5]


def test_a_tile_alone_needs_no_windows_and_a_larger_image_any_number_at_once() -> None:
    large = picture(27, 37)
    together = sample(make_system(chunk=64), large)
    torch.testing.assert_close(sample(make_system(chunk=1), large), together, atol=1e-5, rtol=1e-4)
    assert together.shape == (1, 3, 27, 37)
    assert torch.equal(sample(make_system(), large, seed=1), sample(make_system(), large, seed=1))
    assert not torch.equal(sample(make_system(), large, seed=1), together)


class WindowLevel(nn.Module):
    """Predicts, for all of a window, the mean of what it sees there: windows that know nothing of each other."""

    def forward(self, x_t: dict[str, Tensor], t: Tensor, cond: Any, ctx: Any) -> dict[str, Tensor]:
        return {name: x.mean(dim=(2, 3), keepdim=True).expand_as(x) for name, x in x_t.items()}


@pytest.mark.parametrize("sampler", [Euler(4), Ancestral(4)])
def test_no_edge_of_a_window_shows(sampler: Any) -> None:
    """Windows of different levels: side by side they leave steps at their edges, with overlap a slope."""

    def largest_step(overlap: float) -> float:
        system = make_system(overlap=overlap)
        system.sampler = sampler
        system.denoiser.branches[STAIN] = WindowLevel()  # type: ignore[union-attr]
        stain = torch.cat([sample(system, picture(48, 48), seed) for seed in range(3)])
        steps = (stain[..., 1:] - stain[..., :-1]).abs().mean(dim=(0, 1, 2))
        return float(steps.max() / steps.sum())

    assert largest_step(0.0) > 0.45, "two edges, and nothing between them"
    assert largest_step(0.5) < 0.12


def test_windows_work_under_guidance_and_with_cross_attention() -> None:
    system = make_system(cross_attention=True, heads=2)
    system.conditioner = Conditioner(
        WIDTH, {"tissue": partial(TissueAxis, tile=TILE, patch=PATCH, depth=1, mixer=Mixer, dropout=0.5)}
    )
    plain = sample(system, picture(20, 24))
    system.guidance = ClassifierFreeGuidance({"tissue": 2.0})
    guided = sample(system, picture(20, 24))
    assert guided.shape == plain.shape and not torch.allclose(guided, plain)
    system.guidance = ClassifierFreeGuidance({"tissue": 1.0})
    assert torch.equal(sample(system, picture(20, 24)), plain)


def test_the_encoder_runs_once_a_sample_and_not_once_a_step() -> None:
    system = make_system(steps=6)
    axis = system.conditioner.axes["tissue"]  # type: ignore[union-attr]
    calls: list[int] = []
    axis.stack.register_forward_hook(lambda *_: calls.append(1))
    sample(system, picture())
    assert len(calls) == 1


def test_settings_that_do_not_fit_together_are_explained() -> None:
    with pytest.raises(ConfigurationError, match="patches of 5 do not tile windows of 16"):
        StainDiffuser(WIDTH, 1, 16, 5, mixer=Mixer)
    with pytest.raises(ConfigurationError, match="patches of 5 do not tile windows of 16"):
        TissueAxis(WIDTH, 16, 5, 1, Mixer)
    system = make_system(segmentation=False)
    with pytest.raises(ConfigurationError, match=r"no branch for \['mask'\].*set segmentation on codec"):
        system.losses(make_batch(), torch.Generator())
    finer = partial(TissueAxis, tile=TILE, patch=2, depth=1, mixer=Mixer)
    system.conditioner = Conditioner(WIDTH, {"tissue": finer})
    for image in (picture(), picture(20, 20)):
        with pytest.raises(ConfigurationError, match=r"TissueAxis|tile, patch and overlap"):
            sample(system, image)
