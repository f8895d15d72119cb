"""The peer of GFMDiff's published network: sizes, laws, and what its triplet mask lets through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.published.gfmdiff import PublishedGFMDiff, convert
from torch import Tensor

from polydit.domains.chemistry.gfmdiff.dtn import DualTrackTransformer
from polydit.platform.context import Context
from polydit.platform.state import Condition, MaskSpec

SMALL = {"channels": 7, "width": 32, "hidden": 48, "heads": 4, "layers": 2}


def make(seed: int = 0, **options: Any) -> PublishedGFMDiff:
    """A small network in 64 bits whose coordinates move by parts of an Ångström, not by nothing."""
    torch.manual_seed(seed)
    model = PublishedGFMDiff(**{**SMALL, **options}).double().eval()
    for layer in model.layers:
        torch.nn.init.normal_(layer.move.network[-1].weight, std=0.1)
    return model


def clouds(counts: list[int], longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """States, times and masks of molecules with these counts."""
    mask = torch.arange(longest) < torch.tensor(counts)[:, None]
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(len(counts), longest, 10, generator=generator, dtype=torch.float64) * mask[..., None]
    return state, torch.rand(len(counts), generator=generator, dtype=torch.float64), mask


@pytest.mark.parametrize(
    ("options", "parameters"), [({}, 92.5e6), ({"channels": 18, "lift": "concatenate"}, 9.2e6)]
)
def test_published_sizes(options: dict[str, Any], parameters: float) -> None:
    with torch.device("meta"):
        model = PublishedGFMDiff(**options)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, abs=0.05e6)


@pytest.mark.parametrize("lift", ["outer", "concatenate"])
@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_turning_the_input_turns_the_displacements_and_leaves_the_features(lift: str, mirror: float) -> None:
    model, (state, t, mask) = make(lift=lift), clouds([6, 4], 6)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    turn = turn * turn.det() * mirror
    with torch.no_grad():
        plain = model(state, t, mask)
        turned = model(torch.cat([state[..., :3] @ turn, state[..., 3:]], dim=-1), t, mask)
    assert plain[..., :3].abs().max() > 0.1
    torch.testing.assert_close(turned[..., :3], plain[..., :3] @ turn, rtol=0, atol=1e-5)
    torch.testing.assert_close(turned[..., 3:], plain[..., 3:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("lift", ["outer", "concatenate"])
def test_padding_tells_unless_triplets_are_masked(lift: str) -> None:
    short, t, mask = clouds([5, 5], 5)
    long = torch.nn.functional.pad(short, (0, 0, 0, 4))
    long_mask = torch.nn.functional.pad(mask, (0, 4))
    change = {}
    for masked in (False, True):
        model = make(lift=lift, mask_triplets=masked)
        with torch.no_grad():
            change[masked] = (model(long, t, long_mask)[:, :5] - model(short, t, mask)).abs().max().item()
    assert change[True] < 1e-10
    assert change[False] > 1e-5


def test_properties_are_heard() -> None:
    model, (state, t, mask) = make(context=2), clouds([6, 4], 6)
    told = torch.ones(2, 6, 2, dtype=torch.float64) * mask[..., None]
    assert (model(state, t, mask, told) - model(state, t, mask, -told)).abs().max() > 1e-3


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("lift", "ours"), [("outer", "outer"), ("concatenate", "gated")])
def test_ours_computes_the_same_with_converted_weights(
    lift: str, ours: str, masked: bool, precision: torch.dtype
) -> None:
    peer = make(lift=lift, mask_triplets=masked).to(precision)
    model = DualTrackTransformer(5, 32, 2, 4, 48, lift=ours, mask_triplets=masked).to(precision).eval()
    model.load_state_dict(convert(peer.state_dict()))
    # Centres of Gaussians are no weights; theirs are rounded once, ours twice.
    model.refresh.distances.centres.copy_(peer.distances.centres)
    model.refresh.angles.basis.centres.copy_(peer.angles.centres)
    state, t, mask = clouds([6, 4], 6)
    state, t = state.to(precision), t.to(precision)
    position, element, number, valence = state.split([3, 5, 1, 1], dim=-1)
    fields = {"position": position, "element": element, "number": number, "valence": valence}
    found = model(fields, t, Condition(), Context(masks={"node": MaskSpec(keys=mask)}))
    joined = torch.cat([found[name] for name in ("position", "element", "number", "valence")], dim=-1)
    wanted = peer(state, t, mask)
    tolerance = 1e-5 if precision == torch.float32 else 1e-9
    torch.testing.assert_close(joined, wanted, rtol=tolerance, atol=tolerance)
    probe = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(precision)
    (joined * probe).sum().backward()
    (wanted * probe).sum().backward()
    gradients = convert({name: p.grad for name, p in peer.named_parameters() if p.grad is not None})
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-3, atol=float(largest) * tolerance)
