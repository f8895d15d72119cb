"""The checks: every plug-in of `entries` passes all of them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polydit.platform.context import Context

from .entries import ENTRIES
from .entry import Case, Entry, Outputs, under


def among(entries: Iterable[Entry]) -> pytest.MarkDecorator:
    """The test runs for these entries."""
    return pytest.mark.parametrize("entry", list(entries), ids=lambda entry: entry.name)


each = among(ENTRIES)


def build(entry: Entry, seed: int = 0, random: bool = True) -> nn.Module:
    """The plug-in; with weights that are nowhere zero, so that no part hides behind a closed gate."""
    torch.manual_seed(seed)
    model = entry.build()
    if random:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor inside nested inputs."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        return tensors_of([getattr(value, entry.name) for entry in fields(value)])
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_of(item)] if isinstance(value, list | tuple) else []


def loss_of(entry: Entry, model: nn.Module, inputs: Any) -> Tensor:
    """A loss that every output enters with a weight of its own."""
    generator = torch.Generator().manual_seed(3)
    outputs = entry.run(model, inputs).values()
    return torch.stack([(value * torch.randn(value.shape, generator=generator)).mean() for value in outputs]).sum()


def assert_equal(first: Outputs, second: Outputs) -> None:
    """The same names and the same bits."""
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), f"{key} differs by {(value - second[key]).abs().max():.3g}"


@each
def test_builds_with_the_stated_number_of_parameters(entry: Entry) -> None:
    assert sum(p.numel() for p in build(entry).parameters() if p.requires_grad) == entry.parameters
    with torch.device("meta"):
        entry.build()


@each
def test_outputs_are_finite_and_keep_shape_and_type(entry: Entry) -> None:
    model, inputs = build(entry), entry.inputs(2)
    batch = tensors_of(inputs)[0].shape[0]
    for dtype in (torch.float32, torch.float64):
        for value in entry.run(model.to(dtype), to_type(inputs, dtype)).values():
            assert value.dtype == dtype and value.shape[0] == batch and bool(value.isfinite().all())


def to_type(value: Any, dtype: torch.dtype) -> Any:
    """Copy of nested inputs with every floating tensor in `dtype`, but for noise levels, which stay in full."""
    value = copy.deepcopy(value)
    levels = {id(tensor) for tensor in tensors_of(value.t)} if isinstance(value, Case) else set()
    for tensor in tensors_of(value):
        if id(tensor) not in levels and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return value


@each
def test_same_seed_same_output(entry: Entry) -> None:
    assert_equal(entry.run(build(entry), entry.inputs(1)), entry.run(build(entry), entry.inputs(1)))
    other = entry.run(build(entry, seed=1), entry.inputs(1))
    assert any(not torch.equal(value, other[key]) for key, value in entry.run(build(entry), entry.inputs(1)).items())


@each
def test_inputs_are_left_as_they_were(entry: Entry) -> None:
    inputs = entry.inputs(2)
    before = [tensor.clone() for tensor in tensors_of(inputs)]
    loss_of(entry, build(entry), inputs).backward()
    for tensor, kept in zip(tensors_of(inputs), before, strict=True):
        assert torch.equal(tensor, kept) and tensor.grad is None


@among(entry for entry in ENTRIES if entry.unpad)
def test_padding_changes_no_real_output(entry: Entry) -> None:
    assert entry.unpad is not None
    model = build(entry)
    expected = entry.unpad(entry.run(model, entry.inputs(0)), 0)
    for padding in (1, 6):
        padded = entry.unpad(entry.run(model, entry.inputs(padding)), padding)
        for key, value in expected.items():
            size = max(1.0, float(value.detach().abs().max()))
            torch.testing.assert_close(padded[key] / size, value / size, rtol=0, atol=1e-6)


@each
def test_gradient_reaches_every_parameter(entry: Entry) -> None:
    model = build(entry)
    loss_of(entry, model, entry.inputs(1)).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not silent


@each
def test_starts_as_the_identity_where_declared(entry: Entry) -> None:
    outputs = entry.run(build(entry, random=False), entry.inputs(1))
    assert all(bool((value == 0).all()) for value in outputs.values()) == (entry.start != "free")
    if entry.start == "identity":
        stack = RecordStack()
        under(lambda ctx: with_stack(ctx, stack))(build(entry, random=False), entry.inputs(1))
        assert torch.equal(stack.before, stack.after) and bool((stack.before != 0).any())


class RecordStack:
    """A stack policy that remembers the stream before and after."""

    before: Tensor
    after: Tensor

    def run(self, h: Any, blocks: Any, proceed: Any, ctx: Context) -> Any:
        self.before = h["x"]
        h = proceed(h, blocks)
        self.after = h["x"]
        return h


def with_stack(ctx: Context, policy: RecordStack) -> Context:
    ctx.stack_policies = (policy,)
    return ctx


@among(entry for entry in ENTRIES if entry.neutral)
def test_neutral_settings_change_no_bit(entry: Entry) -> None:
    model = build(entry)
    expected = entry.run(model, entry.inputs(1))
    for run in entry.neutral.values():
        assert_equal(run(model, entry.inputs(1)), expected)


@pytest.fixture(scope="module")
def fresh_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with every entry's weights, and its outputs computed from them by another process."""
    folder = tmp_path_factory.mktemp("battery")
    for number, entry in enumerate(ENTRIES):
        save_file(build(entry).state_dict(), folder / f"{number}.safetensors")
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, "-m", "tests.battery.fresh", str(folder)], cwd=root, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    return folder


@each
def test_saved_and_loaded_in_a_fresh_process(entry: Entry, fresh_outputs: Path) -> None:
    with torch.no_grad():
        expected = entry.run(build(entry), entry.inputs(2))
    assert_equal(load_file(fresh_outputs / f"{ENTRIES.index(entry)}.out.safetensors"), expected)


@each
def test_training_resumed_equals_training_through(entry: Entry, tmp_path: Path) -> None:
    def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> list[float]:
        losses = []
        for step in steps:
            optimiser.zero_grad()
            loss = (loss_of(entry, model, entry.inputs(step % 3)) - 1).square()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses

    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = build(entry)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-3)

    through = start()
    earlier = train(*through, range(10))
    torch.save([part.state_dict() for part in through], tmp_path / "state.pt")
    later = train(*through, range(10, 20))
    resumed = start()
    for part, state in zip(resumed, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert train(*resumed, range(10, 20)) == later
    assert_equal(dict(resumed[0].state_dict()), dict(through[0].state_dict()))
    assert later[-1] < earlier[0]


@each
def test_runs_in_bfloat16(entry: Entry) -> None:
    model, inputs = build(entry), entry.inputs(1)
    with torch.no_grad():
        expected = entry.run(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(entry, model, inputs).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        automatic = entry.run(model, inputs)
    with torch.no_grad():
        converted = entry.run(model.bfloat16(), to_type(inputs, torch.bfloat16))
    for key, value in expected.items():
        for other in (automatic[key], converted[key]):
            error = (other.float() - value).square().mean().sqrt() / value.square().mean().sqrt()
            assert float(error) < 0.05, f"{key} is {float(error):.3f} of its size off in bfloat16"


@among(entry for entry in ENTRIES if entry.operations)
def test_counted_operations_are_the_claimed_ones(entry: Entry) -> None:
    assert entry.operations is not None
    counted, claimed = entry.operations(build(entry))
    assert counted == claimed > 0


@pytest.mark.slow
@among(entry for entry in ENTRIES if entry.compiler)
def test_compiled_equals_eager(entry: Entry) -> None:
    model, inputs = build(entry), entry.inputs(1)
    torch.compiler.reset()  # code that other tests compiled many times over is not compiled again
    compiled = cast(nn.Module, torch.compile(model, fullgraph=True, backend=entry.compiler))
    with torch.no_grad():
        outputs = entry.run(compiled, inputs)
        for key, value in entry.run(model, inputs).items():
            torch.testing.assert_close(outputs[key], value, rtol=1e-4, atol=1e-5)
