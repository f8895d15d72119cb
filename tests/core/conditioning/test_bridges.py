"""Bridges between towers: the identity at the start, symmetric, and as large as published."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from polydit.platform.conditioning.bridges import Bridge, Stream
from polydit.platform.context import Context
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import WrittenAttention

WIDTHS = (32, 16)


def make(widths: tuple[int, int] = WIDTHS, noise: float = 0.1, **options: float) -> Bridge:
    torch.manual_seed(0)
    bridge = Bridge(widths, heads=2, **options)  # type: ignore[arg-type]
    for parameter in bridge.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return bridge


def draw(widths: tuple[int, int] = WIDTHS, tokens: tuple[int, int] = (6, 4)) -> list[Stream]:
    generator = torch.Generator().manual_seed(1)
    return [
        Stream(torch.randn(2, count, width, generator=generator), torch.randn(2, width, generator=generator))
        for width, count in zip(widths, tokens, strict=True)
    ]


def moved(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> list[bool]:
    return [not torch.equal(first, second) for first, second in zip(before, after, strict=True)]


def test_a_bridge_has_36_squares_of_the_width_and_biases() -> None:
    width = 64
    weights = {name: value.numel() for name, value in Bridge((width, width)).named_parameters()}
    assert sum(size for name, size in weights.items() if name.endswith("weight")) == 36 * width**2
    # modulation 12 D, projections 8 D, feed-forwards 10 D
    assert sum(size for name, size in weights.items() if name.endswith("bias")) == 30 * width


def test_it_starts_as_the_identity_and_can_learn() -> None:
    bridge, streams = make(noise=0.0), draw()
    crossed = bridge(*streams, Context())
    assert all(torch.equal(h, stream.h) for h, stream in zip(crossed, streams, strict=True))
    sum(h.square().sum() for h in crossed).backward()
    for layer in (*bridge.outputs, *(feedforward.contract for feedforward in bridge.feedforwards)):
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("side", [0, 1])
def test_each_stream_reads_the_other(side: int) -> None:
    bridge, streams = make(), draw()
    before = bridge(*streams, Context())
    streams[side] = streams[side]._replace(h=streams[side].h.flip(0))
    assert moved(before, bridge(*streams, Context())) == [True, True]


def test_times_of_the_towers_stay_apart() -> None:
    bridge, streams = make(), draw()
    bridge.outputs[1].weight.data.zero_()
    bridge.outputs[1].bias.data.zero_()
    before = bridge(*streams, Context())
    streams[0] = streams[0]._replace(time=streams[0].time + 1)
    assert moved(before, bridge(*streams, Context())) == [True, False]


def test_positions_count_by_their_difference_on_the_shared_axis() -> None:
    bridge, (first, second) = make(unit=0.02), draw()
    a, b = 0.08 * torch.arange(6.0)[None], 0.12 * torch.arange(4.0)[None]
    before = bridge(first._replace(positions=a), second._replace(positions=b), Context())
    shifted = bridge(first._replace(positions=a + 1), second._replace(positions=b + 1), Context())
    later = bridge(first._replace(positions=a), second._replace(positions=b + 0.05), Context())
    for old, new in zip(before, shifted, strict=True):
        torch.testing.assert_close(old, new, atol=1e-4, rtol=1e-4)
    assert moved(before, later) == [True, True]


def test_its_cost_is_what_is_counted() -> None:
    bridge, streams = make(), draw()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        bridge(*streams, Context(attention=WrittenAttention()))
    assert counter.get_total_flops() == 2 * bridge.cost((6, 4))


def test_heads_must_divide_the_inner_width() -> None:
    with pytest.raises(ConfigurationError, match="3 heads do not divide"):
        Bridge((32, 16), heads=3)


class Recorder:
    """An attention back end that keeps its weights."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Any, ctx: Context) -> Tensor:
        self.weights.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1))
        return self.weights[-1] @ v


@pytest.mark.parametrize("focus", [0.0, 1.4])
def test_a_focused_bridge_starts_near_equal_positions(focus: float) -> None:
    torch.manual_seed(0)
    bridge = Bridge((64, 64), heads=2, unit=0.02, base=100.0, focus=focus)
    moments = 0.08 * torch.arange(8.0)[None]
    generator = torch.Generator().manual_seed(2)
    streams = [Stream(torch.randn(2, 8, 64, generator=generator), torch.zeros(2, 64), moments) for _ in range(2)]
    recorder = Recorder()
    crossed = bridge(*streams, Context(attention=recorder))
    own = torch.stack([weights.diagonal(dim1=-2, dim2=-1).mean() for weights in recorder.weights])
    assert bool((own > 0.5).all()) if focus else bool((own < 0.3).all())
    assert all(torch.equal(h, stream.h) for h, stream in zip(crossed, streams, strict=True))
