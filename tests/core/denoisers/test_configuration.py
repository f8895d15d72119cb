"""A denoiser from YAML: every slot by class path, and the same again after it is written out."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from polydit.platform.denoisers import (
    AdaLNSingle,
    AdaLNZero,
    Denoiser,
    DiT,
    LayerNorm,
    RMSNorm,
    TokenEmbedding,
    TokenHead,
    TransformerBlock,
)
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import MLP, SwiGLU
from polydit.platform.mixers import Attention, RotaryPosition

DENOISERS = "polydit.platform.denoisers"
TOKENS: dict[str, Any] = {
    "embedding": {"class_path": f"{DENOISERS}.TokenEmbedding", "init_args": {"fields": {"latent": 8}}},
    "head": {"class_path": f"{DENOISERS}.TokenHead", "init_args": {"fields": {"latent": 8}}},
    "width": 64,
    "depth": 2,
}


def parse(**init_args: Any) -> tuple[Any, DiT]:
    """The parsed configuration and the denoiser built of what is left after writing it out and reading it back."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Denoiser, "denoiser")
    text = yaml.safe_dump({"denoiser": {"class_path": f"{DENOISERS}.DiT", "init_args": {**TOKENS, **init_args}}})
    config = parser.parse_string(text)
    for keep_empty in (False, True):
        written = parser.dump(config, skip_unset=not keep_empty)
        again = parser.parse_string(written)
        assert parser.dump(again, skip_unset=not keep_empty) == written
    return config.denoiser.init_args, parser.instantiate(again).denoiser


def test_defaults_are_the_published_parts() -> None:
    _, model = parse()
    assert isinstance(model.blocks[0].mixer, Attention) and isinstance(model.blocks[0].feedforward, MLP)
    assert isinstance(model.modulation, AdaLNZero) and isinstance(model.head.norm, LayerNorm)
    assert model.width == 64 and len(model.blocks) == 2


def test_blocks_take_several_builders_in_turn() -> None:
    reads = [
        {"class_path": "polydit.platform.mixers.CrossAttention", "init_args": {"axes": [name]}}
        for name in ("text", "image")
    ]
    dense = "polydit.platform.feedforwards.MLP", "polydit.platform.feedforwards.SwiGLU"
    _, model = parse(depth=3, cross_attention=reads, feedforward=[{"class_path": path} for path in dense])
    assert [block.cross_attention.axes for block in model.blocks] == [("text",), ("image",), ("text",)]
    assert [type(block.feedforward) for block in model.blocks] == [MLP, SwiGLU, MLP]
    with pytest.raises(ConfigurationError, match="`cross_attention` is an empty list"):
        DiT(partial(TokenEmbedding, fields={"a": 1}), partial(TokenHead, fields={"a": 1}), 64, 2, cross_attention=[])


def test_every_part_by_class_path() -> None:
    rotary = {"class_path": "polydit.platform.mixers.RotaryPosition", "init_args": {"axes": [8, 4], "base": 50}}
    mixer = {"class_path": "polydit.platform.mixers.Attention", "init_args": {"heads": 4, "qk_norm": "head"}}
    mixer["init_args"]["rotary"] = rotary  # type: ignore[index]
    cross = {"class_path": "polydit.platform.mixers.CrossAttention", "init_args": {"heads": 2, "axes": ["text"]}}
    _, model = parse(
        mixer=mixer, cross_attention=cross, feedforward="polydit.platform.feedforwards.SwiGLU",
        modulation=f"{DENOISERS}.AdaLNSingle", norm={"class_path": f"{DENOISERS}.RMSNorm", "init_args": {"eps": 1e-5}},
        time={"class_path": f"{DENOISERS}.TimeEmbedding", "init_args": {"scale": 1.0}},
    )
    block = model.blocks[1]
    assert isinstance(block.mixer.rotary, RotaryPosition) and block.mixer.rotary.axes == (8, 4)
    assert block.mixer.heads == 4 and block.cross_attention.axes == ("text",)
    assert isinstance(block.feedforward, SwiGLU) and isinstance(model.modulation, AdaLNSingle)
    assert isinstance(block.mixer_norm, RMSNorm) and block.mixer_norm.eps == 1e-5 and model.time.scale == 1.0


def test_conditions_in_context_instead_of_modulation() -> None:
    head = {"class_path": f"{DENOISERS}.TokenHead", "init_args": {"fields": {"latent": 8}, "modulated": False}}
    _, model = parse(block=f"{DENOISERS}.TransformerBlock", head=head, in_context=["time"])
    assert isinstance(model.blocks[0], TransformerBlock) and model.modulation is None
    assert model.in_context == ("time",)


SLOTS: dict[str, list[type[nn.Module]]] = {
    "mixer": [Attention],
    "feedforward": [MLP, SwiGLU],
    "modulation": [AdaLNZero, AdaLNSingle],
    "norm": [LayerNorm, RMSNorm],
}


@pytest.mark.parametrize(("slot", "kind"), [(slot, kind) for slot, kinds in SLOTS.items() for kind in kinds])
def test_a_part_named_alone_has_its_own_defaults(slot: str, kind: type[nn.Module]) -> None:
    """Not those of the default part of its slot, which the parser would carry over where the names agree."""
    config, _ = parse(**{slot: f"{kind.__module__}.{kind.__qualname__}"})
    options = dict(config[slot].get("init_args") or {})
    signature = inspect.signature(kind).parameters
    assert all(signature[name].default == value for name, value in options.items()), options


def test_a_misspelt_option_is_an_error() -> None:
    with pytest.raises(Exception, match="head_count"):
        parse(mixer={"class_path": "polydit.platform.mixers.Attention", "init_args": {"head_count": 4}})


def test_same_seed_same_weights_from_yaml() -> None:
    torch.manual_seed(0)
    first = parse()[1].state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(value, first[name]) for name, value in parse()[1].state_dict().items())
