"""An embedding whose stream has other tokens than its fields says what may attend to what."""

from __future__ import annotations

from functools import partial

import torch

from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.mixers import Attention
from polydit.platform.state import Condition, MaskSpec, State


class HalvesEmbedding(TokenEmbedding):
    """The first two tokens do not see the others."""

    def masks(self, x_t: State, ctx: Context) -> dict[str, MaskSpec]:
        groups = torch.tensor([[0, 0, 1, 1]])
        return {**ctx.masks, "x": MaskSpec(groups=groups, table=torch.tensor([[True, False], [True, True]]))}


def test_the_blocks_attend_as_the_embedding_says() -> None:
    torch.manual_seed(0)
    head = partial(TokenHead, fields={"a": 3})
    model = DiT(partial(HalvesEmbedding, fields={"a": 3}), head, 16, 2, mixer=partial(Attention, heads=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, t, ctx = torch.randn(1, 4, 3), torch.tensor([0.5]), Context()
    expected = model({"a": x}, t, Condition(), ctx)["a"]
    later, earlier = x.clone(), x.clone()
    later[:, 2:] += 1
    earlier[:, :2] += 1
    assert torch.equal(model({"a": later}, t, Condition(), ctx)["a"][:, :2], expected[:, :2])
    assert (model({"a": earlier}, t, Condition(), ctx)["a"][:, 2:] - expected[:, 2:]).abs().min() > 0
    assert ctx.masks == {}
