"""Guidance away from the same network with blocks left out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polydit.platform.conditioning import CategoricalAxis, Conditioner
from polydit.platform.context import Context, StackPolicy
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import Attention
from polydit.platform.samplers.guidance import ClassifierFreeGuidance, Guided, NoGuidance
from polydit.platform.samplers.skip_guidance import SkipBlocks, SkipGuidance
from polydit.platform.state import Condition, State

T = torch.tensor(0.5)


def run_stack(kept: SkipBlocks, depth: int = 4) -> list[int]:
    """Indices of the blocks that run, in order."""
    ran: list[int] = []

    def block(h: dict, index: int) -> dict:
        ran.append(index)
        return h

    Context(stack_policies=(kept,)).run({}, [partial(block, index=index) for index in range(depth)])
    return ran


def test_the_other_blocks_run_in_order() -> None:
    assert run_stack(SkipBlocks([2])) == [0, 1, 3]
    assert run_stack(SkipBlocks([0, -1])) == [1, 2]
    with pytest.raises(ConfigurationError, match=r"blocks \[4, -5\] are not among the 4.*0 to 3"):
        run_stack(SkipBlocks([1, 4, -5]))


def numbered(calls: list[tuple[int, int]]) -> Guided:
    """A denoiser that gives 5, and 3 where the stack is weakened, and notes its calls."""

    def denoise(
        x: State, t: torch.Tensor, conditions: Sequence[Condition], stack_policies: tuple[StackPolicy, ...] = ()
    ) -> list[State]:
        calls.append((len(conditions), len(stack_policies)))
        return [{"x": torch.full((2, 1), 3.0 if stack_policies else 5.0)} for _ in conditions]

    return Guided(denoise, Condition(), None, ())


@given(st.floats(-2, 6))
def test_extrapolates_from_the_weaker_estimate(weight: float) -> None:
    estimate = SkipGuidance([1], weight).estimate({}, T, numbered([]))["x"]
    torch.testing.assert_close(estimate, torch.full((2, 1), 5.0 + (weight - 1) * 2.0))


@pytest.mark.parametrize(("guidance", "calls"), [
    (SkipGuidance([1], 1.0), [(1, 0)]),
    (SkipGuidance([1], 3.0, interval=(0.6, 1.0)), [(1, 0)]),
    (SkipGuidance([1], 3.0, interval=(0.5, 1.0)), [(1, 0), (1, 1)]),
])  # fmt: skip
def test_spends_nothing_where_it_changes_nothing(guidance: SkipGuidance, calls: list[tuple[int, int]]) -> None:
    made: list[tuple[int, int]] = []
    guidance.estimate({}, T, numbered(made))
    assert made == calls


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="names no block"):
        SkipGuidance([])
    with pytest.raises(ValueError, match="0 <= low < high <= 1"):
        SkipGuidance([1], interval=(0.5, 0.2))


def test_goes_over_another_guidance_on_a_real_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fields = {"x": 3}
    denoiser = DiT(
        partial(TokenEmbedding, fields=fields), partial(TokenHead, fields=fields), 16, 3, partial(Attention, heads=2)
    )
    conditioner = Conditioner(16, {"kind": partial(CategoricalAxis, num_classes=3)})
    for parameter in (*denoiser.parameters(), *conditioner.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    condition = conditioner.eval().encode({"kind": torch.tensor([1, 2])}, 2, torch.device("cpu"))
    x = {"x": torch.randn(2, 5, 3)}

    def denoise(
        x: State, t: torch.Tensor, conditions: Sequence[Condition], stack_policies: tuple[StackPolicy, ...] = ()
    ) -> list[State]:
        return [denoiser(x, t.expand(2), c, Context(stack_policies=stack_policies)) for c in conditions]

    guided = Guided(denoise, condition, conditioner, ("kind",))
    inner = ClassifierFreeGuidance({"kind": 2.0})
    estimate = SkipGuidance([1], 2.5, inner=inner).estimate(x, T, guided)["x"]
    strong = inner.estimate(x, T, guided)["x"]
    monkeypatch.setattr(denoiser.blocks[1], "forward", lambda h, modulation, ctx: h)
    weak = NoGuidance().estimate(x, T, guided)["x"]
    assert not torch.allclose(strong, weak, atol=1e-3)
    torch.testing.assert_close(estimate, strong + 1.5 * (strong - weak))
