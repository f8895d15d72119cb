"""Muon on the matrices of blocks, AdamW on the rest."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from polydit.platform.checkpoints import build, load
from polydit.platform.denoisers import TransformerStack
from polydit.platform.mixers import Attention
from polydit.platform.optimizers import MuonAdamW, group_parameters
from polydit.platform.state import MaskSpec
from tests.core.running import polydit, recipe, same, write


class Model(nn.Module):
    """A stack between two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 16)
        self.stack = TransformerStack(16, 2, partial(Attention, heads=2))
        self.head = nn.Linear(16, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from polydit.platform.context import Context

        return self.head(self.stack(self.embed(x), Context(masks={"x": MaskSpec()})))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def run(model: nn.Module, optimizer: Any, seeds: range) -> None:
    for seed in seeds:
        set_gradients(model, seed)
        optimizer.step()


def test_groups_hold_every_trainable_parameter_once(model: Model) -> None:
    hidden, other = group_parameters(model)
    assert (hidden["kind"], other["kind"]) == ("hidden", "other")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names[id(p)] for p in hidden["params"]) == sorted(
        f"stack.blocks.{block}.{part}.weight"
        for block in range(2)
        for part in ("mixer.qkv", "mixer.output", "feedforward.expand", "feedforward.contract")
    )
    joined = [names[id(p)] for p in (*hidden["params"], *other["params"])]
    assert sorted(joined) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_model_without_blocks_has_one_group() -> None:
    groups = group_parameters(nn.Linear(2, 2))
    assert [group["kind"] for group in groups] == ["other"]
    with pytest.raises(ValueError, match="use AdamW"):
        MuonAdamW(groups)


def test_steps_are_those_of_the_two_optimizers(model: Model) -> None:
    twin = copy.deepcopy(model)
    run(model, MuonAdamW(group_parameters(model), lr=1e-2, hidden_lr=3e-2, weight_decay=0.1), range(3))
    hidden, other = group_parameters(twin)
    muon = Muon(hidden["params"], 3e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = AdamW(other["params"], 1e-2, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    for seed in range(3):
        set_gradients(twin, seed)
        muon.step()
        adamw.step()
    assert same(model.state_dict(), twin.state_dict())


def test_update_of_a_matrix_has_the_promised_size(model: Model) -> None:
    before = model.stack.blocks[0].feedforward.expand.weight.clone()  # type: ignore[union-attr]
    run(model, MuonAdamW(group_parameters(model), lr=1e-2), range(1))
    update = model.stack.blocks[0].feedforward.expand.weight - before  # type: ignore[union-attr]
    assert update.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.2)


def test_saved_state_continues_to_the_same_weights(model: Model) -> None:
    first = MuonAdamW(group_parameters(model), lr=1e-2)
    run(model, first, range(3))
    twin, state = copy.deepcopy(model), copy.deepcopy(first.state_dict())
    run(model, first, range(3, 6))
    second = MuonAdamW(group_parameters(twin), lr=5.0)
    second.load_state_dict(state)
    run(twin, second, range(3, 6))
    assert same(model.state_dict(), twin.state_dict())


def test_scheduler_sets_the_rate_of_each_part(model: Model) -> None:
    optimizer = MuonAdamW(group_parameters(model), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, [4e-2, 1e-2], total_steps=10, cycle_momentum=False)
    for _ in range(5):
        run(model, optimizer, range(1))
        scheduler.step()
    hidden, other = optimizer.param_groups
    assert hidden["lr"] == pytest.approx(4 * other["lr"])
    before = copy.deepcopy(model.state_dict())
    hidden["lr"] = 0.0
    run(model, optimizer, range(1))
    assert torch.equal(model.stack.blocks[0].mixer.qkv.weight, before["stack.blocks.0.mixer.qkv.weight"])  # type: ignore[union-attr]
    assert not torch.equal(model.embed.weight, before["embed.weight"])


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("bf16-mixed", False)])
def test_gradients_are_clipped_in_every_precision(precision: str, fused: bool) -> None:
    config = recipe(averaging=False)
    config["trainer"] |= {"gradient_clip_val": 1e-3, "precision": precision, "max_steps": 1}
    config["model"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0, "fused": fused}}
    config["model"].pop("lr_scheduler")
    assert polydit("fit", "--config", write(Path("tiny.yaml"), config)) == 0
    trained = load("runs/tiny").state_dict()
    torch.manual_seed(0)
    start = build(config["model"]).state_dict()
    moved = [(trained[name] - start[name]).norm() for name in trained if "network" in name]
    assert torch.stack(moved).norm() == pytest.approx(1e-3, rel=0.02)
