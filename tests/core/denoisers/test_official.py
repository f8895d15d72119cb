"""Checkpoints in the layout of the published DiT: against its own formulas, against diffusers, and there and back."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from polydit.platform.context import Context
from polydit.platform.denoisers import DiT
from polydit.platform.denoisers.official import (
    dit_from_official,
    dit_to_official,
    published_positions,
    read_official,
)
from polydit.platform.denoisers.sizes import published_dit
from polydit.platform.errors import CheckpointError, ConfigurationError
from polydit.platform.state import Condition

DEPTH, WIDTH, HEADS, CHANNELS, PATCH, SIDE, CLASSES = 2, 24, 2, 4, 2, 4, 7


def make_weights() -> dict[str, Tensor]:
    """Random weights by the keys and shapes of the published state dict."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (WIDTH, CHANNELS, PATCH, PATCH), "x_embedder.proj.bias": (WIDTH,),
        "t_embedder.mlp.0.weight": (WIDTH, 256), "t_embedder.mlp.0.bias": (WIDTH,),
        "t_embedder.mlp.2.weight": (WIDTH, WIDTH), "t_embedder.mlp.2.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
        "final_layer.linear.weight": (PATCH**2 * 2 * CHANNELS, WIDTH),
        "final_layer.linear.bias": (PATCH**2 * 2 * CHANNELS,),
        "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
    }  # fmt: skip
    for i in range(DEPTH):
        for name, rows, columns in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4),
                                    ("adaLN_modulation.1", 6, 1)):  # fmt: skip
            shapes[f"blocks.{i}.{name}.weight"] = (rows * WIDTH, columns * WIDTH)
            shapes[f"blocks.{i}.{name}.bias"] = (rows * WIDTH,)
    generator = torch.Generator().manual_seed(0)
    weights = {key: 0.2 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return {**weights, "pos_embed": published_positions((SIDE, SIDE), WIDTH)}


IMAGE = torch.randn(3, CHANNELS, SIDE * PATCH, SIDE * PATCH, generator=torch.Generator().manual_seed(1))
STEPS, LABELS = torch.tensor([0, 17, 999]), torch.tensor([2, CLASSES, 5])


def write_out(weights: dict[str, Tensor]) -> Tensor:
    """The published model, formula by formula, by the keys of its weights."""

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        x = functional.layer_norm(x, (WIDTH,), eps=1e-6)
        return x * (1 + scale[:, None]) + shift[:, None]

    x = functional.conv2d(IMAGE, weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2) + weights["pos_embed"]
    angle = STEPS[:, None].float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    hidden = functional.silu(linear("t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], 1)))
    time = linear("t_embedder.mlp.2", hidden)
    c = functional.silu(time + weights["y_embedder.embedding_table.weight"][LABELS])
    for i in range(DEPTH):
        vectors = linear(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, dim=1)
        q, k, v = linear(f"blocks.{i}.attn.qkv", modulate(x, *vectors[:2])).unflatten(-1, (3, HEADS, -1)).unbind(2)
        logits = torch.einsum("bnhe,bmhe->bhnm", q, k) / math.sqrt(WIDTH / HEADS)
        mixed = torch.einsum("bhnm,bmhe->bnhe", logits.softmax(-1), v).flatten(2)
        x = x + vectors[2][:, None] * linear(f"blocks.{i}.attn.proj", mixed)
        hidden = functional.gelu(linear(f"blocks.{i}.mlp.fc1", modulate(x, *vectors[3:5])), approximate="tanh")
        x = x + vectors[5][:, None] * linear(f"blocks.{i}.mlp.fc2", hidden)
    out = linear("final_layer.linear", modulate(x, *linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=1)))
    cells = out.reshape(len(x), SIDE, SIDE, PATCH, PATCH, 2 * CHANNELS)
    return torch.einsum("nhwpqc->nchpwq", cells).reshape(len(x), 2 * CHANNELS, SIDE * PATCH, SIDE * PATCH)


@torch.no_grad()
def run(model: DiT, table: Tensor) -> Tensor:
    condition = Condition({"class": table[LABELS]})
    return model({"image": IMAGE}, STEPS / 1000, condition, Context())["image"]


def test_computes_what_the_published_formulas_say() -> None:
    weights = make_weights()
    found, expected = run(*dit_from_official(weights, HEADS)), write_out(weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 0.1


def test_agrees_with_diffusers_under_its_own_names() -> None:
    """But for the sinusoid of its time embedding, which ends at the base itself there."""
    weights = make_weights()
    peer: Any = DiTTransformer2DModel(
        HEADS, WIDTH // HEADS, CHANNELS, 2 * CHANNELS, DEPTH, sample_size=SIDE * PATCH, num_embeds_ada_norm=CLASSES
    ).eval()
    theirs = {
        "pos_embed.proj": "x_embedder.proj", "proj_out_1": "final_layer.adaLN_modulation.1",
        "proj_out_2": "final_layer.linear",
    }  # fmt: skip
    for i in range(DEPTH):
        block = f"transformer_blocks.{i}"
        theirs |= {
            f"{block}.norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
            f"{block}.norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
            f"{block}.norm1.linear": f"blocks.{i}.adaLN_modulation.1",
            f"{block}.attn1.to_out.0": f"blocks.{i}.attn.proj",
            f"{block}.ff.net.0.proj": f"blocks.{i}.mlp.fc1", f"{block}.ff.net.2": f"blocks.{i}.mlp.fc2",
        }
    kinds = ("weight", "bias")
    state = {f"{name}.{kind}": weights[f"{ours}.{kind}"] for name, ours in theirs.items() for kind in kinds}
    for i in range(DEPTH):
        block = f"transformer_blocks.{i}"
        state[f"{block}.norm1.emb.class_embedder.embedding_table.weight"] = weights["y_embedder.embedding_table.weight"]
        for kind in ("weight", "bias"):
            parts = weights[f"blocks.{i}.attn.qkv.{kind}"].chunk(3)
            state |= {f"{block}.attn1.to_{part}.{kind}": value for part, value in zip("qkv", parts, strict=True)}
    missing, unexpected = peer.load_state_dict(state, strict=False)
    assert not unexpected and all("pos_embed" in name for name in missing)
    for layer in peer.transformer_blocks:
        layer.norm3.eps = 1e-6
    with torch.no_grad():
        expected = peer(IMAGE, timestep=STEPS, class_labels=LABELS).sample
    model, table = dit_from_official(weights, HEADS)
    torch.testing.assert_close(run(model, table)[:1], expected[:1], rtol=1e-4, atol=1e-4)  # step 0 has no angle
    model.time.include_base = True
    torch.testing.assert_close(run(model, table), expected, rtol=1e-4, atol=1e-4)


def test_there_and_back_is_the_same_bits() -> None:
    weights = make_weights()
    model, table = dit_from_official(weights, HEADS)
    again = dit_to_official(model, table, (SIDE, SIDE))
    assert set(again) == set(weights) and all(torch.equal(again[key], value) for key, value in weights.items())
    other, _ = dit_from_official(again, HEADS)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("name", "count"), [("DiT-S/2", 32_865_056 + 98_304), ("DiT-XL/2", 675_129_632)])
def test_the_published_sizes_have_the_published_number_of_weights(name: str, count: int) -> None:
    """With the label table and the fixed positions of 16 x 16 patches."""
    with torch.device("meta"):
        model = published_dit(name)
    state = dit_to_official(model, torch.zeros(1).expand(1001, model.width), (16, 16))
    assert sum(value.numel() for value in state.values()) == count


def test_files_are_read_as_weights_alone(tmp_path: Path) -> None:
    weights = make_weights()
    other = {key: value + 1 for key, value in weights.items()}
    torch.save(weights, tmp_path / "DiT.pt")
    save_file(weights, tmp_path / "DiT.safetensors")
    training = {"model": other, "ema": weights, "opt": {"state": {}}, "args": argparse.Namespace(model="DiT-XL/2")}
    torch.save(training, tmp_path / "training.pt")
    for name in ("DiT.pt", "DiT.safetensors", "training.pt"):
        found = read_official(tmp_path / name)
        assert set(found) == set(weights) and all(torch.equal(found[key], weights[key]) for key in weights)


class Trap:
    """What a pickle could run."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("sprung"),))


def test_files_that_hold_more_or_less_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, "trap.pt")
    with pytest.raises(CheckpointError, match="no file of weights alone"):
        read_official("trap.pt")
    assert not Path("sprung").exists()
    torch.save({"epoch": 3}, "other.pt")
    Path("torn.pt").write_bytes(Path("other.pt").read_bytes()[:40])
    for name, message in (("other.pt", "holds no state dict"), ("torn.pt", "weights alone"), ("none.pt", "not exist")):
        with pytest.raises(CheckpointError, match=message):
            read_official(name)


def test_weights_of_another_model_are_refused() -> None:
    weights = make_weights()
    with pytest.raises(CheckpointError, match="have no 'pos_embed'"):
        dit_from_official({key: value for key, value in weights.items() if key != "pos_embed"})
    with pytest.raises(CheckpointError, match=r"lack \['blocks.1.mlp.fc1.bias'\] and leave over \['extra'\]"):
        changed = {key: value for key, value in weights.items() if key != "blocks.1.mlp.fc1.bias"}
        dit_from_official({**changed, "extra": torch.zeros(1)}, HEADS)
    with pytest.raises(CheckpointError, match="is not the fixed table of a square grid"):
        dit_from_official({**weights, "pos_embed": weights["pos_embed"].flip(1)}, HEADS)
    with pytest.raises(CheckpointError, match="do not fit a DiT of width 24"):
        dit_from_official({**weights, "blocks.0.mlp.fc1.weight": torch.zeros(3, 3)}, HEADS)
    with pytest.raises(ConfigurationError, match="no published size has depth 2 and width 24: set `heads`"):
        dit_from_official(weights)
