"""GFMDiff's dual-track transformer: its laws, for the released settings and for those of small budgets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from polydit.domains.chemistry.gfmdiff.dtn import DualTrackTransformer
from polydit.domains.chemistry.gfmdiff.features import DEGREES, spherical_harmonics
from polydit.platform.context import Context
from polydit.platform.denoisers import TimeEmbedding
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import MixtureOfExperts
from polydit.platform.state import Condition, MaskSpec, State

VARIANTS: dict[str, dict[str, Any]] = {
    "released for QM9": {},
    "released for GEOM": {"lift": "gated"},
    "gaussian": {"lift": "gated", "angles": "gaussian", "distances": "plain"},
    "chunked": {"lift": "gated", "angles": "gaussian", "chunk": 3},
    "harmonic": {"lift": "gated", "angles": "harmonic", "distances": "plain", "pair_width": 16, "pair_heads": 2},
    "small budget": {
        "lift": "gated", "angles": "harmonic", "distances": "plain", "moves": "last", "pair_width": 16, "pair_heads": 1,
        "estimate": True, "time": TimeEmbedding,
    },
}


def make(dtype: torch.dtype = torch.float64, depth: int = 2, **options: Any) -> DualTrackTransformer:
    """A small network whose atoms move by parts of an Ångström, not by nothing as at the start of training."""
    torch.manual_seed(0)
    model = DualTrackTransformer(width=32, depth=depth, heads=4, hidden=48, dropout=0.0, **options)
    for name, parameter in model.named_parameters():
        if name.endswith("move.last.weight") or (parameter.ndim > 1 and not parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype).eval()


def make_state(count: int = 7, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> State:
    """Clouds of points around the origin with random features."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"position": 3, "element": 5, "number": 1, "valence": 1}
    state = {name: torch.randn(batch, count, size, generator=generator, dtype=dtype) for name, size in sizes.items()}
    return {**state, "position": state["position"] - state["position"].mean(1, keepdim=True)}


def estimated(state: State, estimate: State | None = None) -> Condition:
    """Condition with an estimate of the clean molecule: the state itself, or another."""
    estimate = estimate or {name: value * 0.9 for name, value in state.items()}
    return Condition(channels={"self_condition": torch.cat([estimate[name] for name in sorted(estimate)], dim=-1)})


def run(model: DualTrackTransformer, state: State, keys: Tensor | None = None) -> State:
    """Prediction at half noise."""
    t = torch.full((state["position"].shape[0],), 0.5, dtype=state["position"].dtype)
    masks = {} if keys is None else {"node": MaskSpec(keys=keys)}
    with torch.no_grad():
        return model(state, t, estimated(state), Context(masks=masks))


def random_turn(mirror: bool, dtype: torch.dtype) -> Tensor:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    return (turn * turn.det() * (-1 if mirror else 1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_turned_or_mirrored_molecules_get_the_same_features_and_turned_moves(
    variant: str, mirror: bool, dtype: torch.dtype
) -> None:
    model, state, turn = make(dtype, **VARIANTS[variant]), make_state(dtype=dtype), random_turn(mirror, dtype)
    plain, turned = run(model, state), run(model, {**state, "position": state["position"] @ turn})
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    assert plain["position"].abs().max() > 0.05
    torch.testing.assert_close(turned["position"], plain["position"] @ turn, rtol=0, atol=tolerance)
    for name in ("element", "number", "valence"):
        torch.testing.assert_close(turned[name], plain[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_moved_molecules_get_the_same_answer(variant: str) -> None:
    model, state = make(**VARIANTS[variant]), make_state()
    shift = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    t, moved = torch.full((2,), 0.5, dtype=torch.float64), {**state, "position": state["position"] + shift}
    clean = {**state, "position": state["position"] * 0.9}
    with torch.no_grad():
        plain = model(state, t, estimated(state, clean), Context())
        shifted = model(moved, t, estimated(state, {**clean, "position": clean["position"] + shift}), Context())
    for name, value in plain.items():
        torch.testing.assert_close(shifted[name], value, rtol=0, atol=1e-10)
    torch.testing.assert_close(plain["position"].mean(1), torch.zeros(2, 3).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_atoms_is_the_order_of_answers(variant: str) -> None:
    model, state = make(**VARIANTS[variant]), make_state()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    plain, shuffled = run(model, state), run(model, {name: value[:, order] for name, value in state.items()})
    for name, value in plain.items():
        torch.testing.assert_close(shuffled[name], value[:, order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=5, deadline=None)
@given(count=st.integers(1, 6), padding=st.integers(1, 4), seed=st.integers(0, 100))
def test_padding_changes_nothing(variant: str, count: int, padding: int, seed: int) -> None:
    model, state = make(depth=2, **VARIANTS[variant]), make_state(count, seed=seed)
    plain = run(model, state)
    longer = {
        name: torch.cat([value, torch.zeros(2, padding, value.shape[-1], dtype=value.dtype)], dim=1)
        for name, value in state.items()
    }
    keys = (torch.arange(count + padding) < count).expand(2, -1)
    padded = run(model, longer, keys)
    for name, value in plain.items():
        torch.testing.assert_close(padded[name][:, :count], value, rtol=0, atol=1e-6)
        assert not padded[name][:, count:].any()


def test_chunks_change_neither_answer_nor_gradient() -> None:
    whole, chunked = make(**VARIANTS["gaussian"]), make(**{**VARIANTS["gaussian"], "chunk": 2})
    state, t = make_state(), torch.full((2,), 0.5, dtype=torch.float64)
    gradients = []
    for model in (whole, chunked):
        answer = model(state, t, Condition(), Context())
        sum(value.square().sum() for value in answer.values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def degenerate_pair() -> tuple[Tensor, Tensor]:
    """A hexagon, and two triangles far apart: six points each, every one with two neighbours at 2.4 and none nearer.

    All other distances are beyond the basis of squared distances, so that nothing but angles tells the two apart.
    """
    angle = torch.arange(6, dtype=torch.float64) * torch.pi / 3
    hexagon = torch.stack([angle.cos(), angle.sin(), torch.zeros(6, dtype=torch.float64)], dim=-1) * 2.4
    corner = torch.arange(3, dtype=torch.float64) * 2 * torch.pi / 3
    triangle = torch.stack([corner.cos(), corner.sin(), torch.zeros(3, dtype=torch.float64)], dim=-1) * 2.4 / 3**0.5
    far = torch.tensor([0.0, 0.0, 30.0], dtype=torch.float64)
    triangles = torch.cat([triangle, triangle + far])
    return hexagon - hexagon.mean(0), triangles - triangles.mean(0)


@pytest.mark.parametrize("angles", ["recurrent", "gaussian", "harmonic"])
def test_angles_tell_what_distances_to_neighbours_do_not(angles: str) -> None:
    hexagon, triangles = degenerate_pair()
    for cloud in (hexagon, triangles):
        near = (torch.cdist(cloud, cloud) - 2.4).abs() < 1e-9
        assert (near.sum(1) == 2).all()
        assert (torch.cdist(cloud, cloud)[~near & ~torch.eye(6, dtype=torch.bool)] > 4).all()

    blind = [share_of_pairs(make(depth=1, lift="gated", angles="none"), cloud) for cloud in (hexagon, triangles)]
    told = [share_of_pairs(make(depth=1, lift="gated", angles=angles), cloud) for cloud in (hexagon, triangles)]
    assert abs(blind[0] - blind[1]) < 1e-9
    assert abs(told[0] - told[1]) > 1e-6


def share_of_pairs(model: DualTrackTransformer, cloud: Tensor) -> float:
    """The largest feature of a pair of nearest neighbours after the layer's triplet attention."""
    seen: list[Tensor] = []
    block = model.blocks[0]
    block.pair_feedforward.register_forward_hook(lambda module, given, output: seen.append(output))  # type: ignore[union-attr]
    state = {name: torch.ones_like(value[:1, :6]) for name, value in make_state(6).items()}
    with torch.no_grad():
        model({**state, "position": cloud[None]}, torch.ones(1, dtype=torch.float64) / 2, Condition(), Context())
    near = (torch.cdist(cloud, cloud) - 2.4).abs() < 1e-9
    return float(seen[0][0][near].sum())


@pytest.mark.parametrize("variant", ["released for QM9", "gaussian"])
def test_every_layer_learns_from_angles(variant: str) -> None:
    model, state = make(**VARIANTS[variant]), make_state()
    answer = model(state, torch.full((2,), 0.5, dtype=torch.float64), Condition(), Context())
    sum(value.square().sum() for value in answer.values()).backward()
    for block in model.blocks:
        gradient = block.triplet_attention.triplet_key.weight.grad  # type: ignore[union-attr]
        assert gradient is not None and gradient.abs().max() > 1e-9


def test_spherical_harmonics_add_up_to_legendre_polynomials() -> None:
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.nn.functional.normalize(torch.randn(50, 3, generator=generator).double(), dim=-1) for _ in range(2))
    cosine = (u * v).sum(-1)
    parts = (spherical_harmonics(u) * spherical_harmonics(v)).split(DEGREES, dim=-1)
    wanted = [torch.ones_like(cosine), cosine, (3 * cosine**2 - 1) / 2, (5 * cosine**3 - 3 * cosine) / 2]
    for part, polynomial in zip(parts, wanted, strict=True):
        torch.testing.assert_close(part.sum(-1), polynomial, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "chunked"])
def test_counted_operations_are_its_cost(variant: str) -> None:
    model, state = make(depth=3, **VARIANTS[variant]), make_state(batch=1)
    with FlopCounterMode(display=False) as counter:
        run(model, state)
    assert counter.get_total_flops() == pytest.approx(model.cost(7), rel=0.01)


def test_a_channel_tells_each_atom_its_own_and_one_left_out_counts_as_zeros() -> None:
    model, state = make(**VARIANTS["small budget"], channels={"elements": 6}), make_state()
    told = torch.randn(2, 7, 6, dtype=torch.float64)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))

    def answer(state: State, channel: Tensor | None) -> State:
        condition = Condition(channels={} if channel is None else {"elements": channel})
        with torch.no_grad():
            return model(state, torch.full((2,), 0.5, dtype=torch.float64), condition, Context())

    plain, exchanged = answer(state, told), answer(state, told.flip(1))
    assert (plain["element"] - exchanged["element"]).abs().max() > 0.01
    shuffled = answer({name: value[:, order] for name, value in state.items()}, told[:, order])
    for name, value in plain.items():
        torch.testing.assert_close(shuffled[name], value[:, order], rtol=0, atol=1e-10)
        torch.testing.assert_close(answer(state, None)[name], answer(state, 0 * told)[name], rtol=0, atol=1e-12)
    with pytest.raises(ConfigurationError, match="has \\['elements'\\] beside them"):
        make()(state, torch.full((2,), 0.5), Condition(channels={"elements": told}), Context())


def test_experts_take_the_place_of_the_feedforward() -> None:
    experts = partial(MixtureOfExperts, experts=3)
    model = make(torch.float32, lift="gated", angles="harmonic", feedforward=experts)
    context = Context(time=torch.randn(2, 32))
    answer = model(make_state(dtype=torch.float32), torch.full((2,), 0.5), Condition(), context)
    assert answer["element"].isfinite().all() and "balance" in context.losses


@pytest.mark.parametrize("variant", ["released for GEOM", "small budget"])
def test_weights_in_fewer_bits_leave_positions_in_full(variant: str) -> None:
    model, state = make(torch.float32, **VARIANTS[variant]), make_state(dtype=torch.float32)
    whole, reduced = run(model, state), run(model.bfloat16(), state)
    for name, value in whole.items():
        assert reduced[name].dtype == torch.float32
        assert (reduced[name] - value).norm() < 0.05 * value.norm()


def test_published_counts() -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in DualTrackTransformer(lift=lift).parameters()) for lift in ("outer", "gated")]
    # 92.5 and 9.2 million were counted; in each of five layers two biases of 256 are left out, which a softmax cancels
    assert [count + 5 * 2 * 256 for count in counts] == [92_452_271, 9_221_551]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lift": "half"}, "outer, gated"),
        ({"chunk": 4}, "angles: gaussian"),
        ({"angles": "recurrent", "moves": "last"}, "gaussian, harmonic or none"),
        ({"depth": 0}, "depth 0"),
        ({"angles": "gaussian", "chunk": 0}, "at least 1"),
    ],
)
def test_wrong_settings_name_the_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DualTrackTransformer(width=32, heads=4, hidden=48, **options)


def test_wrong_fields_name_the_fix() -> None:
    state = make_state()
    with pytest.raises(ConfigurationError, match="set `elements`"):
        run(make(), {**state, "element": state["element"][..., :4]})
    with pytest.raises(ConfigurationError, match="one noise level per molecule"):
        make()(state, torch.rand(2, 7), Condition(), replace(Context(), masks={}))
