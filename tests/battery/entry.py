"""What a plug-in brings to the battery.

Shape legend: B batch, N tokens, M condition tokens, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polydit.platform.context import Context
from polydit.platform.mixers import WrittenAttention
from polydit.platform.state import Condition, Layout, MaskSpec, State, Time, Tokens

Outputs = dict[str, Tensor]
Compiler = Literal["", "eager", "inductor"]
Start = Literal["identity", "zero", "free"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tiny configuration of a plug-in and how to run it.

    Args:
        name: what the test is called.
        build: makes the module, drawing from torch's global generator.
        inputs: number of padded tokens -> inputs of `run`; values of real tokens must not depend on it.
        run: forward pass, every tensor that comes out by name; differentiable.
        parameters: expected number of trainable parameters.
        unpad: outputs and number of padded tokens -> outputs of the tokens there are without padding; None: the plug-in
            has nothing to pad.
        operations: module -> (counted, claimed) floating-point operations; None: it claims none.
        neutral: runs under settings that must change no bit.
        start: what it does before training: ``identity``, every block is the identity and the output zero; ``zero``,
            the output is zero; ``free``, anything else.
        compiler: ``eager`` traces it whole, in seconds; ``inductor`` generates code too, half a minute; empty: neither.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    run: Callable[[nn.Module, Any], Outputs]
    parameters: int
    unpad: Callable[[Outputs, int], Outputs] | None = None
    operations: Callable[[nn.Module], tuple[int, int]] | None = None
    neutral: Mapping[str, Callable[[nn.Module, Any], Outputs]] = field(default_factory=dict)
    start: Start = "free"
    compiler: Compiler = ""


@dataclass(frozen=True)
class Case:
    """Inputs of a denoiser."""

    x_t: State
    t: Time
    cond: Condition
    layout: Layout
    change: Callable[[Context], Context] = lambda context: context


def denoiser_entry(
    name: str,
    build: Callable[[], nn.Module],
    parameters: int,
    inputs: Callable[[int], Case],
    tokens: int,
    *,
    condition_tokens: int = 0,
    padded: bool = True,
    start: Start = "identity",
    compiler: Compiler = "",
) -> Entry:
    """Entry of a denoiser; `tokens` and `condition_tokens` are what its `cost` is asked for without padding."""

    def count(model: nn.Module) -> tuple[int, int]:
        case = replace(inputs(0), change=lambda ctx: replace(ctx, attention=WrittenAttention()))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run_denoiser(model, case)
        batch = case.layout.batch_size
        return counter.get_total_flops(), batch * model.cost(tokens, condition_tokens)

    def unpad(outputs: Outputs, padding: int) -> Outputs:
        return {key: value[:, : value.shape[1] - padding] for key, value in outputs.items()}

    return Entry(
        name=name, build=build, inputs=inputs, run=run_denoiser, parameters=parameters, unpad=unpad if padded else None,
        operations=count, neutral=NEUTRAL, start=start, compiler=compiler,
    )


def run_denoiser(model: nn.Module, case: Case) -> Outputs:
    """A forward pass under a fresh context."""
    return model(case.x_t, case.t, case.cond, case.change(model.context(case.layout)))


class PassModule:
    """A module policy that changes nothing."""

    def call(self, name: str, function: Callable[[Tensor], Tensor], h: Tensor, ctx: Context) -> Tensor:
        return function(h)


class PassStack:
    """A stack policy that changes nothing but the number of calls: one block at a time."""

    def run(self, h: Any, blocks: Any, proceed: Any, ctx: Context) -> Any:
        for block in blocks:
            h = proceed(h, [block])
        return h


def under(change: Callable[[Context], Context]) -> Callable[[nn.Module, Case], Outputs]:
    """Run of a denoiser with its context changed."""
    return lambda model, case: run_denoiser(model, replace(case, change=change))


NEUTRAL = {
    "policies that pass": under(
        lambda ctx: replace(ctx, module_policies=(PassModule(),) * 2, stack_policies=(PassStack(),) * 2)
    ),
    "every feature tapped": under(
        lambda ctx: replace(ctx, wanted_taps=frozenset({"blocks.0", "blocks.1", "blocks.0.mixer"}))
    ),
}

LENGTHS = (5, 3, 4)
WIDTH = 32
CONDITION_TOKENS = 4


def token_case(
    padding: int,
    fields: Mapping[str, int] = {"latent": 3},
    axes: int = 0,
    per_token: bool = False,
    times: bool = False,
) -> Case:
    """Three sets of 5, 3 and 4 tokens with a label, a text of 4 tokens and self-condition channels.

    Args:
        padding: further padded tokens; what stands there is large and random.
        fields: field -> channels.
        axes: number of position axes; 0: no positions are given.
        per_token: whether the noise level and the label are per token.
        times: whether every field has a noise level of its own.
    """
    generator = torch.Generator().manual_seed(7)
    batch, longest = len(LENGTHS), max(LENGTHS)
    mask = torch.arange(longest + padding)[None] < torch.tensor(LENGTHS)[:, None]

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def pad(values: Tensor) -> Tensor:
        garbage = torch.Generator().manual_seed(padding)
        longer = 9 * torch.randn(batch, longest + padding, *values.shape[2:], generator=garbage)
        longer[:, :longest][mask[:, :longest]] = values[mask[:, :longest]]
        return longer

    x_t = {name: pad(draw(batch, longest, count)) for name, count in fields.items()}
    label = pad(draw(batch, longest, WIDTH)) if per_token else draw(batch, WIDTH)
    level = torch.rand(batch, longest, generator=generator) if per_token else torch.rand(batch, generator=generator)
    level = pad(level).abs() if per_token else level
    words = torch.arange(CONDITION_TOKENS)[None] < torch.tensor([4, 2, 4])[:, None]
    text = Tokens(draw(batch, CONDITION_TOKENS, WIDTH), words)
    condition = Condition({"label": label}, {"text": text}, {"self_condition": pad(draw(batch, longest, 3))})
    positions = {name: pad(draw(batch, longest, axes)) for name in fields} if axes else {}
    layout = Layout({name: tuple(value.shape) for name, value in x_t.items()}, dict.fromkeys(fields, mask), positions)
    return Case(x_t, dict.fromkeys(fields, level) if times else level, condition, layout)


def image_case(padding: int) -> Case:
    """Two latent images of 4 rows and 8 columns with a label; images are never padded."""
    generator = torch.Generator().manual_seed(7)
    image = torch.randn(2, 4, 4, 8, generator=generator)
    label = Condition({"label": torch.randn(2, WIDTH, generator=generator)})
    return Case({"image": image}, torch.tensor([0.1, 0.9]), label, Layout({"image": tuple(image.shape)}))


def stack_case(padding: int) -> tuple[Tensor, Context]:
    """Tokens and context for a plain stack."""
    case = token_case(padding, fields={"h": WIDTH})
    return case.x_t["h"], Context(masks={"x": MaskSpec(keys=case.layout.masks["h"])})
