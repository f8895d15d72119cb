"""How a DiT starts."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from polydit.platform.denoisers import DiT, LearntPosition, TokenEmbedding, TokenHead
from polydit.platform.mixers import Attention, CrossAttention


def test_every_weight_starts_as_published() -> None:
    embedding = partial(TokenEmbedding, fields={"latent": 8}, position=LearntPosition)
    model = DiT(
        embedding, partial(TokenHead, fields={"latent": 8}), width=64, depth=2, mixer=partial(Attention, heads=2),
        cross_attention=partial(CrossAttention, heads=2),
    )
    zero = {"head.linear", "modulation.linear"} | {f"blocks.{i}.cross_attention.output" for i in range(2)}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        assert not module.bias.any(), name
        if name in zero:
            assert not module.weight.any(), name
        elif name.startswith("time."):
            assert 0.018 < module.weight.std() < 0.022, name
        else:
            bound = (6 / (module.in_features + module.out_features)) ** 0.5
            assert 0.97 * bound < module.weight.abs().max() <= bound, name
            torch.testing.assert_close(module.weight.std().item(), bound / 3**0.5, rtol=0.1, atol=0)
    assert 0.018 < model.embedding.position.table.weight.std() < 0.022  # type: ignore[union-attr]
