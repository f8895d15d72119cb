"""Axes, their nulls, and guidance built on them."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polydit.platform.conditioning import (
    Axis,
    CategoricalAxis,
    Conditioner,
    ScalarAxis,
    TokenCategoricalAxis,
    VectorAxis,
)
from polydit.platform.context import StackPolicy
from polydit.platform.samplers.guidance import ClassifierFreeGuidance, Guided, NoGuidance
from polydit.platform.state import Condition, State

WIDTH, BATCH = 8, 5
CPU = torch.device("cpu")


def make_conditioner(dropout: float = 0.5) -> Conditioner:
    torch.manual_seed(0)
    return Conditioner(
        WIDTH,
        {
            "colour": lambda width: CategoricalAxis(width, 3, dropout),
            "gap": lambda width: ScalarAxis(width, dropout),
            "mix": lambda width: VectorAxis(width, 4, dropout),
            "kind": lambda width: TokenCategoricalAxis(width, 6, channels=4, dropout=dropout),
        },
    )


def make_labels() -> dict[str, Tensor]:
    return {
        "colour": torch.tensor([0, 1, 2, 3, 1]),
        "gap": torch.tensor([math.nan, 0.1, 2.0, -1.0, 0.5]),
        "mix": torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 1], [0.25] * 4]),
        "kind": torch.tensor([[0, 0], [1, 2], [3, 0], [6, 6], [1, 1]]),
    }


def test_unknown_labels_are_exactly_the_null() -> None:
    conditioner = make_conditioner()
    condition = conditioner.encode(make_labels(), BATCH, CPU)
    nothing = conditioner.null(condition, ["colour", "gap", "mix", "kind"])
    for axis in ("colour", "gap", "mix"):
        assert torch.equal(condition.vectors[axis][0], nothing.vectors[axis][0])
        assert not torch.equal(condition.vectors[axis][1], nothing.vectors[axis][1])
    assert torch.equal(condition.channels["kind"][0], nothing.channels["kind"][0])
    assert not torch.equal(condition.channels["kind"][1], nothing.channels["kind"][1])


def test_absent_labels_count_as_unknown() -> None:
    conditioner = make_conditioner()
    absent = conditioner.encode({}, BATCH, CPU)
    nothing = conditioner.null(absent, ["colour", "gap", "mix", "kind"])
    for axis in absent.vectors:
        assert torch.equal(absent.vectors[axis], nothing.vectors[axis])


def test_null_of_one_axis_leaves_the_others() -> None:
    conditioner = make_conditioner()
    condition = conditioner.encode(make_labels(), BATCH, CPU)
    changed = conditioner.null(condition, ["gap"])
    assert torch.equal(changed.vectors["colour"], condition.vectors["colour"])
    assert not torch.equal(changed.vectors["gap"], condition.vectors["gap"])


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_dropping_never_and_always(dropout: float) -> None:
    conditioner = make_conditioner(dropout)
    told = conditioner.encode(make_labels(), BATCH, CPU)
    dropped = conditioner.encode(make_labels(), BATCH, CPU, torch.Generator().manual_seed(0))
    expected = told if dropout == 0.0 else conditioner.null(told, list(told.vectors))
    for axis in told.vectors:
        assert torch.equal(dropped.vectors[axis], expected.vectors[axis])


class History(Axis):
    """Vectors [B, M, 3] as condition tokens; NaN rows are unknown, and padded where a whole step is missing."""

    role = "tokens"

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__(width, dropout)
        self.linear = torch.nn.Linear(3, width)

    def is_known(self, labels: Tensor) -> Tensor:
        return labels.isfinite().all(dim=-1)

    def embed(self, labels: Tensor) -> Tensor:
        return self.linear(labels.nan_to_num())

    def real(self, labels: Tensor) -> Tensor:
        return labels[..., 0] != math.inf

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        return torch.full((batch_size, 2, 3), math.nan, device=device)


def test_axes_may_give_tokens() -> None:
    conditioner = Conditioner(WIDTH, {"history": History, "colour": lambda width: CategoricalAxis(width, 3)})
    labels = torch.randn(BATCH, 2, 3)
    labels[1, 0], labels[2, 1] = math.nan, math.inf
    condition = conditioner.encode({"history": labels}, BATCH, CPU)
    group, null = condition.tokens["history"], conditioner.axes["history"].null
    assert group.features.shape == (BATCH, 2, WIDTH) and set(condition.vectors) == {"colour"}
    assert torch.equal(group.features[1, 0], null) and not torch.equal(group.features[1, 1], null)
    assert group.mask is not None and group.mask.logical_not().nonzero().tolist() == [[2, 1]]
    nothing = conditioner.null(condition, ["history"]).tokens["history"]
    assert torch.equal(nothing.features, null.expand(BATCH, 2, WIDTH)) and nothing.mask is group.mask
    assert torch.equal(conditioner.encode({}, BATCH, CPU).tokens["history"].features, nothing.features)
    always = Conditioner(WIDTH, {"history": lambda width: History(width, 1.0)})
    dropped = always.encode({"history": labels}, BATCH, CPU, torch.Generator().manual_seed(0)).tokens["history"]
    assert torch.equal(dropped.features, always.axes["history"].null.expand(BATCH, 2, WIDTH))


def test_dropping_hits_its_probability() -> None:
    conditioner = Conditioner(WIDTH, {"colour": lambda width: CategoricalAxis(width, 3, 0.3)})
    labels = {"colour": torch.ones(4000, dtype=torch.long)}
    condition = conditioner.encode(labels, 4000, CPU, torch.Generator().manual_seed(0))
    nothing = conditioner.null(condition, ["colour"])
    share = (condition.vectors["colour"] == nothing.vectors["colour"]).all(dim=-1).float().mean()
    assert abs(float(share) - 0.3) < 0.03


def test_unknown_scalars_send_no_nan_into_the_gradient() -> None:
    conditioner = make_conditioner()
    condition = conditioner.encode(make_labels(), BATCH, CPU)
    condition.vectors["gap"].sum().backward()
    gradients = [p.grad for p in conditioner.axes["gap"].parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def linear_denoise(
    x: State, t: Tensor, conditions: Sequence[Condition], stack_policies: tuple[StackPolicy, ...] = ()
) -> list[State]:
    """A denoiser whose estimate is the sum of its condition vectors, so that guidance can be checked by hand."""
    return [{"x": c.add_to(torch.zeros(BATCH, WIDTH))} for c in conditions]


def make_guided(told: tuple[str, ...]) -> tuple[Guided, Conditioner]:
    conditioner = make_conditioner()
    condition = Condition(conditioner.encode(make_labels(), BATCH, CPU).vectors)
    return Guided(linear_denoise, condition, conditioner, told), conditioner


@given(st.floats(0, 5), st.floats(0, 5))
def test_guidance_weights_each_axis_by_its_own_number(gap: float, mix: float) -> None:
    guided, conditioner = make_guided(("colour", "gap", "mix"))
    estimate = ClassifierFreeGuidance({"gap": gap, "mix": mix}).estimate({}, torch.tensor(0.5), guided)["x"]
    told, nothing = guided.condition.vectors, conditioner.null(guided.condition, ["gap", "mix"]).vectors
    expected = told["colour"] + sum(
        nothing[axis] + weight * (told[axis] - nothing[axis]) for axis, weight in (("gap", gap), ("mix", mix))
    )
    torch.testing.assert_close(estimate, expected, atol=1e-5, rtol=1e-5)


def test_guidance_of_some_channels_leaves_the_others_conditional() -> None:
    guided, _ = make_guided(("gap",))
    plain = NoGuidance().estimate({}, torch.tensor(0.5), guided)["x"]
    everywhere = ClassifierFreeGuidance({"gap": 3.0}).estimate({}, torch.tensor(0.5), guided)["x"]
    some = ClassifierFreeGuidance({"gap": 3.0}, channels=3).estimate({}, torch.tensor(0.5), guided)["x"]
    assert torch.equal(some[:, :3], everywhere[:, :3]) and torch.equal(some[:, 3:], plain[:, 3:])
    assert not torch.equal(everywhere[:, 3:], plain[:, 3:])
    with pytest.raises(ValueError, match="channels 0 must be at least 1"):
        ClassifierFreeGuidance({"gap": 3.0}, channels=0)


def test_neutral_guidance_is_the_conditional_estimate_bit_for_bit() -> None:
    guided, _ = make_guided(("gap", "mix"))
    plain = NoGuidance().estimate({}, torch.tensor(0.5), guided)["x"]
    neutral = ClassifierFreeGuidance({"gap": 1.0, "mix": 1.0}).estimate({}, torch.tensor(0.5), guided)["x"]
    assert torch.equal(plain, neutral)


@pytest.mark.parametrize(("told", "t"), [((), 0.5), (("gap",), 0.9)])
def test_guidance_spends_nothing_where_it_changes_nothing(told: tuple[str, ...], t: float) -> None:
    calls = []

    def counting(
        x: State, t: Tensor, conditions: Sequence[Condition], stack_policies: tuple[StackPolicy, ...] = ()
    ) -> list[State]:
        calls.append(len(conditions))
        return linear_denoise(x, t, conditions)

    guided, _ = make_guided(told)
    guided = Guided(counting, guided.condition, guided.conditioner, told)
    ClassifierFreeGuidance({"gap": 3.0}, interval=(0.0, 0.8)).estimate({}, torch.tensor(t), guided)
    assert calls == [1]
