"""Models out of files and into files, and what is said of files that are none."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import polydit
from polydit.platform import storage
from polydit.platform.checkpoints import build, check_weights, export, load
from polydit.platform.errors import CheckpointError, ConfigurationError, RunError, UserError
from polydit.platform.module import SCHEMA, GenerativeModule
from polydit.platform.storage import AtomicCheckpointIO, as_disk_error, atomic_path, read_checkpoint
from tests.core.running import MODULE, python, recipe
from tests.core.tiny_system import TinyNetwork, TinySystem


@pytest.fixture
def model() -> GenerativeModule:
    """An untrained model made from its configuration."""
    module = build(recipe()["model"]).eval()
    module.system.mean.copy_(torch.tensor([1.5, -2.0]))
    module.system.count.fill_(7)
    return module


def _save(path: Path, **entries: Any) -> Path:
    torch.save(entries, path)
    return path


def _metadata(module: GenerativeModule) -> dict[str, Any]:
    return {"schema": SCHEMA, "version": "0", "config": module.config}


@pytest.fixture
def saved(tmp_path: Path, model: GenerativeModule) -> Path:
    """A checkpoint of the model."""
    return _save(tmp_path / "model.ckpt", state_dict=model.state_dict(), polydit=_metadata(model))


def test_build_fills_defaults_into_the_configuration(model: GenerativeModule) -> None:
    assert model.config is not None
    assert model.config["system"]["init_args"]["noise"] == 0.1
    assert model.config["system"]["init_args"]["network"]["init_args"] == {"width": 4, "dropout": 0.2}
    assert json.loads(json.dumps(model.config)) == model.config
    assert build(model.config).config == model.config


def test_build_suggests_the_nearest_key() -> None:
    config = recipe(nois=0.3)["model"]
    with pytest.raises(ConfigurationError, match=r"unknown key 'nois' of tests.core.tiny_system.TinySystem.*'noise'"):
        build(config)


def test_load_gives_the_same_samples(saved: Path, model: GenerativeModule) -> None:
    loaded = polydit.load(saved)
    assert [list(sample) for sample in loaded.sample(3, seed=5)] == [list(sample) for sample in model.sample(3, seed=5)]
    assert not loaded.training


def test_export_loads_in_a_fresh_process(tmp_path: Path, model: GenerativeModule) -> None:
    folder = export(model, tmp_path / "exported")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["schema"] == SCHEMA
    code = "import sys, polydit; print([sample.tolist() for sample in polydit.load(sys.argv[1]).sample(2, seed=3)])"
    result = python(code, folder, cwd=tmp_path)
    assert result.stdout.strip() == str([sample.tolist() for sample in model.sample(2, seed=3)]), result.stderr


def test_export_replaces_nothing_and_leaves_no_part(
    tmp_path: Path, model: GenerativeModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export(model, tmp_path / "taken")
    with pytest.raises(UserError, match="by hand"):
        export(GenerativeModule(TinySystem(TinyNetwork())), tmp_path / "new")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("polydit.platform.checkpoints.save_file", fail)
    with pytest.raises(RunError, match="the disk took no more"):
        export(model, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_model_by_hand_loads_only_by_hand(tmp_path: Path) -> None:
    module = GenerativeModule(TinySystem(TinyNetwork()))
    path = _save(tmp_path / "a.ckpt", state_dict=module.state_dict(), polydit=_metadata(module))
    with pytest.raises(CheckpointError, match="put together by hand"):
        load(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.9, -1], ids=str)
def test_truncated_checkpoint(saved: Path, keep: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="is truncated or no checkpoint"):
        load(saved)


def test_any_changed_byte_of_the_weights_is_noticed(saved: Path, model: GenerativeModule) -> None:
    content = saved.read_bytes()
    weights = model.state_dict()["system.network.layers.0.weight"].numpy().tobytes()
    place = content.index(weights)
    saved.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(CheckpointError, match="damaged"):
        load(saved)


def test_missing_checkpoint_lists_those_there_are(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"modle.ckpt does not exist. There are: .*model.ckpt"):
        load(saved.with_name("modle.ckpt"))
    with pytest.raises(CheckpointError, match=r"is a folder, not a checkpoint. There are: .*model.ckpt"):
        load(saved.parent)


def test_pointer_file_is_recognised(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (tmp_path / "a.ckpt").write_text(pointer)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load(tmp_path / "a.ckpt")
    (tmp_path / "config.json").write_text(json.dumps({"schema": SCHEMA, "config": {}}))
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load(tmp_path)


def test_damaged_export(tmp_path: Path, model: GenerativeModule) -> None:
    folder = export(model, tmp_path / "exported")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is no JSON"):
        load(folder)


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = _save(tmp_path / "a.ckpt", state_dict={}, extra=_Payload())
    for read in (load, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointError, match="can run code"):
            read(path)
    assert not (tmp_path / "hacked").exists()


def test_checkpoint_of_another_program(tmp_path: Path, model: GenerativeModule) -> None:
    path = _save(tmp_path / "a.ckpt", state_dict=model.state_dict(), epoch=3)
    with pytest.raises(CheckpointError, match=r"of another program: it has no 'polydit' entry \(it holds epoch, state"):
        load(path)
    with pytest.raises(CheckpointError, match="under 'state_dict'"):
        load(_save(tmp_path / "b.ckpt", weights={}))


def test_newer_schema_asks_for_an_upgrade(tmp_path: Path, model: GenerativeModule) -> None:
    metadata = {**_metadata(model), "schema": SCHEMA + 1, "version": "9.0"}
    path = _save(tmp_path / "a.ckpt", state_dict=model.state_dict(), polydit=metadata)
    with pytest.raises(CheckpointError, match=r"written by polydit 9\.0.*upgrade"):
        load(path)


def test_weights_of_another_model_are_listed(tmp_path: Path) -> None:
    wide = build(recipe(network={"class_path": f"{MODULE}.TinyNetwork", "init_args": {"width": 9}})["model"])
    weights = {**wide.state_dict(), "system.extra": torch.zeros(1)}
    del weights["system.mean"]
    with pytest.raises(CheckpointError) as caught:
        check_weights(build(recipe()["model"]), weights, Path("a.ckpt"))
    message = str(caught.value)
    assert "1 weights missing (system.mean)" in message
    assert "1 weights unexpected (system.extra)" in message
    assert (
        "3 weights of another shape (system.network.layers.0.weight: [9, 2] in the file, [4, 2] in the model" in message
    )


@given(
    first=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)),
    second=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)),
)
def test_weights_are_accepted_exactly_if_torch_accepts_them(first: dict[str, int], second: dict[str, int]) -> None:
    def module(sizes: dict[str, int]) -> nn.Module:
        return nn.ParameterDict({name: nn.Parameter(torch.zeros(size)) for name, size in sizes.items()})

    weights = module(second).state_dict()
    try:
        module(first).load_state_dict(weights)
        accepted = True
    except RuntimeError:
        accepted = False
    try:
        check_weights(module(first), weights, Path("x"))
        assert accepted
    except CheckpointError:
        assert not accepted


# In a process of its own: the limit would also hold for the file that this one's output may be going to.
FULL_DISK = """
import resource
from pathlib import Path
import torch
from polydit.platform.errors import RunError
from polydit.platform.storage import AtomicCheckpointIO
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
path = Path("a.ckpt")
AtomicCheckpointIO().save_checkpoint({"state_dict": {"x": torch.ones(3)}}, path)
try:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"x": torch.ones(100_000)}}, path)
except RunError as error:
    print(error)
"""


class TestAtomicWriting:
    def test_failure_keeps_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "a.txt"
        with atomic_path(path) as partial:
            partial.write_text("old")
        with pytest.raises(KeyError), atomic_path(path) as partial:
            partial.write_text("new")
            assert path.read_text() == "old"
            raise KeyError
        assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
        assert path.read_text() == "old"

    def test_disk_that_takes_no_more(self, tmp_path: Path) -> None:
        pytest.importorskip("resource")
        result = python(FULL_DISK, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert re.search(r"the disk took no more of .*a\.ckpt .*MB free.*stands whole", result.stdout, re.DOTALL)
        assert torch.equal(read_checkpoint(tmp_path / "a.ckpt")["state_dict"]["x"], torch.ones(3))
        assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]

    def test_other_errors_pass_through(self, tmp_path: Path) -> None:
        assert as_disk_error(PermissionError(errno.EACCES, "no")) is None
        assert as_disk_error(RuntimeError("no")) is None
        with pytest.raises(TypeError):
            AtomicCheckpointIO().save_checkpoint({"state_dict": (item for item in ())}, tmp_path / "a.ckpt")
        assert not list(tmp_path.iterdir())

    def test_content_reaches_the_disk_before_the_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        events = []
        replace = Path.replace

        def note_replace(self: Path, target: Path) -> Path:
            events.append("rename")
            return replace(self, target)

        monkeypatch.setattr(storage.os, "fsync", lambda descriptor: events.append("synchronise"))
        monkeypatch.setattr(Path, "replace", note_replace)
        with atomic_path(tmp_path / "a") as partial:
            partial.write_text("x")
        assert events == ["synchronise", "rename", "synchronise"]
