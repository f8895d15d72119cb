"""What counts in the denoising loss, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from polydit.platform.codec import Codec
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.mixers import Attention
from polydit.platform.objectives import LossWeight
from polydit.platform.processes import Process, VPCosineSchedule, X0Prediction
from polydit.platform.requests import Request
from polydit.platform.samplers import Euler
from polydit.platform.state import Layout, State, masked_mean
from polydit.platform.systems.diffusion import DiffusionSystem

FIELDS = {"a": 2, "b": 1}


class HalfCodec(Codec):
    """Two fields of four tokens; of ``a`` only what `counts` says enters the loss."""

    def __init__(self, counts: Tensor | None) -> None:
        super().__init__()
        self.counts = counts

    def encode(self, batch: Tensor, generator: torch.Generator) -> tuple[State, Layout]:
        state = {"a": batch[..., :2], "b": batch[..., 2:]}
        masks = {} if self.counts is None else {"a": self.counts}
        return state, Layout({name: tuple(x.shape) for name, x in state.items()}, loss_masks=masks)

    def layout(self, requests: Sequence[Request]) -> Layout:
        raise NotImplementedError

    def decode(self, state: State, layout: Layout) -> list[Any]:
        raise NotImplementedError


def make_system(counts: Tensor | None = None, **options: Any) -> DiffusionSystem:
    torch.manual_seed(0)
    embed, head = partial(TokenEmbedding, fields=FIELDS), partial(TokenHead, fields=FIELDS)
    denoiser = DiT(embed, head, width=16, depth=1, mixer=partial(Attention, heads=2))
    torch.nn.init.normal_(denoiser.head.linear.weight)
    process = Process(VPCosineSchedule(), X0Prediction())
    return DiffusionSystem(HalfCodec(counts), denoiser, process, Euler(2), **options)


def losses(system: DiffusionSystem, batch: Tensor) -> dict[str, Tensor]:
    return system.losses(batch, torch.Generator().manual_seed(0))


def test_only_counted_entries_teach() -> None:
    counts = torch.zeros(3, 1, 2, dtype=torch.bool)
    counts[0, 0, 1] = True
    system = make_system(counts)
    losses(system, torch.randn(3, 4, 3))["a"].backward()
    gradient = system.denoiser.head.linear.weight.grad
    assert gradient is not None
    assert not gradient[0].any() and gradient[1].any() and not gradient[2].any()


def test_a_field_of_which_nothing_counts_has_no_loss_and_no_gradient() -> None:
    system = make_system(torch.zeros(3, 4, dtype=torch.bool))
    result = losses(system, torch.randn(3, 4, 3))
    assert result["a"] == 0 and result["loss"] == result["b"] > 0
    result["loss"].backward()
    gradient = system.denoiser.head.linear.weight.grad
    assert gradient is not None and not gradient[:2].any() and gradient[2].any()


def test_a_mask_of_entries_gives_their_mean() -> None:
    values, mask = torch.arange(24.0).reshape(2, 3, 4), torch.zeros(2, 1, 4, dtype=torch.bool)
    mask[1, 0, 2] = True
    assert masked_mean(values, mask) == values[1, :, 2].mean()


def test_a_layout_takes_its_loss_masks_along() -> None:
    layout = Layout({"a": (1, 2)}, loss_masks={"a": torch.ones(1, 2, dtype=torch.bool)})
    assert layout.to("meta").loss_masks["a"].device.type == "meta"


def test_a_weight_rises_with_the_training_batches_and_stands_still_in_validation() -> None:
    weight, one = LossWeight(end=2.0, steps=4, delay=2), torch.tensor(1.0)
    assert [float(weight(one)) for _ in range(8)] == [0, 0, 0, 0.5, 1.0, 1.5, 2.0, 2.0]
    resumed = LossWeight(end=2.0, steps=4, delay=2)
    resumed.load_state_dict({"batches": torch.tensor(4)})
    assert [float(resumed.eval()(one)) for _ in range(2)] == [1.0, 1.0]
    assert float(LossWeight(0.25)(one)) == 0.25
    assert [float(w) for w in map(LossWeight(end=3.0, delay=1), [one, one])] == [0.0, 3.0]
    with pytest.raises(ValueError, match="steps -1"):
        LossWeight(steps=-1)


def test_a_field_weighs_what_is_said() -> None:
    batch = torch.randn(3, 4, 3)
    plain, weighed = losses(make_system(), batch), losses(make_system(loss_weights={"a": LossWeight(0.5)}), batch)
    assert weighed["a"] == plain["a"] and "loss_weights.a.batches" in make_system(
        loss_weights={"a": LossWeight()}
    ).state_dict()
    torch.testing.assert_close(weighed["loss"], 0.5 * plain["a"] + plain["b"])
