"""What attaches to every block through the context: policies, taps, back ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from polydit.platform.context import BoundBlock, Context, RunBlocks
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead, TransformerStack
from polydit.platform.mixers import Attention, CrossAttention, WrittenAttention
from polydit.platform.state import Condition, MaskSpec, Streams, Tokens

T = torch.tensor([0.2, 0.7])
X = {"latent": torch.linspace(-1, 1, 2 * 4 * 3).reshape(2, 4, 3)}
TEXT = Condition(tokens={"text": Tokens(torch.linspace(0, 1, 2 * 3 * 16).reshape(2, 3, 16))})


@pytest.fixture
def dit() -> DiT:
    """A DiT of two blocks with every part, and weights that are nowhere zero."""
    model = DiT(
        partial(TokenEmbedding, fields={"latent": 3}), partial(TokenHead, fields={"latent": 3}), width=16, depth=2,
        mixer=partial(Attention, heads=2), cross_attention=partial(CrossAttention, heads=2),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


class Cache:
    """A step cache in miniature: keeps what every part returned, and returns it on later steps."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}
        self.computed: list[str] = []

    def call(self, name: str, function: Callable[[Tensor], Tensor], h: Tensor, ctx: Context) -> Tensor:
        if not ctx.step:
            self.computed.append(name)
            self.kept[name] = function(h)
        return self.kept[name]


def test_a_module_policy_sees_every_part_of_every_block_and_can_replace_it(dit: DiT) -> None:
    cache = Cache()
    first = Context(step=0, module_policies=(cache,))
    output = dit(X, T, TEXT, first)["latent"]
    parts = ("mixer", "cross_attention", "feedforward")
    assert cache.computed == [f"blocks.{i}.{part}" for i in range(2) for part in parts]
    assert torch.equal(output, dit(X, T, TEXT, Context())["latent"])
    cache.kept = {name: torch.zeros_like(value) for name, value in cache.kept.items()}
    later = first.at_step(1)
    later.wanted_taps = frozenset({"blocks.1"})
    dit(X, T, TEXT, later)
    assert len(cache.computed) == 6
    assert torch.equal(later.taps["blocks.1"], dit.embedding(X, TEXT, Context())["x"])


def test_policies_nest_with_the_first_outermost(dit: DiT) -> None:
    calls: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def call(self, name: str, function: Callable[[Tensor], Tensor], h: Tensor, ctx: Context) -> Tensor:
            calls.append(f"{self.name} in")
            h = function(h)
            calls.append(f"{self.name} out")
            return h

        def run(self, h: Streams, blocks: Sequence[BoundBlock], proceed: RunBlocks, ctx: Context) -> Streams:
            calls.append(f"{self.name} in {len(blocks)}")
            h = proceed(h, blocks[:1])
            calls.append(f"{self.name} out")
            return h

    policies = (Named("a"), Named("b"))
    dit(X, T, TEXT, Context(module_policies=policies))
    assert calls == ["a in", "b in", "b out", "a out"] * 6
    calls.clear()
    dit(X, T, TEXT, Context(stack_policies=policies))
    assert calls == ["a in 2", "b in 1", "b out", "a out"]


def test_leaving_blocks_out_is_leaving_blocks_out() -> None:
    class First:
        """Runs the first blocks only."""

        def __init__(self, count: int) -> None:
            self.count = count

        def run(self, h: Streams, blocks: Sequence[BoundBlock], proceed: RunBlocks, ctx: Context) -> Streams:
            return proceed(h, blocks[: self.count])

    stack = TransformerStack(16, 3, partial(Attention, heads=2))
    x, shorter = torch.randn(2, 4, 16), Context(stack_policies=(First(2),))
    output = stack(x, shorter)
    del stack.blocks[2]
    assert torch.equal(stack(x, Context()), output)
    assert torch.equal(stack(x, Context(stack_policies=(First(5),))), output)


def test_taps_keep_what_is_wanted_and_leave_the_output_alone(dit: DiT) -> None:
    ctx = Context(wanted_taps=frozenset({"blocks.0", "blocks.1.mixer", "blocks.9"}))
    assert torch.equal(dit(X, T, TEXT, ctx)["latent"], dit(X, T, TEXT, Context())["latent"])
    assert set(ctx.taps) == {"blocks.0", "blocks.1.mixer"}
    assert ctx.taps["blocks.0"].shape == (2, 4, 16) and ctx.taps["blocks.0"].requires_grad


def test_two_stacks_are_told_apart_by_name() -> None:
    stacks = [TransformerStack(16, 1, partial(Attention, heads=2), name=name) for name in ("encoder", "decoder")]
    ctx = Context(wanted_taps=frozenset({"encoder.0", "decoder.0"}))
    x = torch.randn(1, 3, 16)
    for stack in stacks:
        x = stack(x, ctx)
    assert set(ctx.taps) == {"encoder.0", "decoder.0"}


def test_the_back_end_of_the_context_computes_every_attention(dit: DiT) -> None:
    class Count(WrittenAttention):
        calls = 0

        def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec | None, ctx: Context) -> Tensor:
            self.calls += 1
            return super().attend(q, k, v, mask, ctx)

    backend = Count()
    output = dit(X, T, TEXT, Context(attention=backend))["latent"]
    assert backend.calls == 4  # two blocks, self- and cross-attention
    torch.testing.assert_close(output, dit(X, T, TEXT, Context())["latent"])


def test_parts_see_time_and_condition_and_the_caller_keeps_its_context(dit: DiT) -> None:
    seen: list[Context] = []

    class Look:
        def call(self, name: str, function: Callable[[Tensor], Tensor], h: Tensor, ctx: Context) -> Tensor:
            seen.append(ctx)
            return function(h)

    ctx = Context(module_policies=(Look(),), step=3)
    dit(X, T, TEXT, ctx)
    assert seen[0].time is not None and torch.equal(seen[0].time, dit.time(T))
    assert seen[0].condition is TEXT and seen[0].step == 3
    assert ctx.time is None and ctx.condition == Condition()


def test_a_step_shares_policies_and_nothing_else() -> None:
    ctx = Context(module_policies=(Cache(),), wanted_taps=frozenset({"a"}))
    ctx.tap("a", torch.zeros(1))
    ctx.add_loss("balance", torch.ones(()))
    ctx.add_loss("balance", torch.ones(()))
    assert len(ctx.losses["balance"]) == 2
    step = ctx.at_step(4)
    assert step.step == 4 and step.module_policies == ctx.module_policies and not step.taps and not step.losses
    assert replace(ctx, step=1).losses is ctx.losses
