"""Models out of files and into files: build from a configuration, load a checkpoint, export safetensors and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import CheckpointError, UserError
from .explanations import explain
from .module import SCHEMA, GenerativeModule
from .storage import atomic_path, read_checkpoint, refuse_missing, refuse_pointer

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def build(config: Mapping[str, Any]) -> GenerativeModule:
    """Make a module from a plain configuration, by the same rules as the ``model:`` part of a YAML file.

    Args:
        config: ``{"system": {"class_path": ..., "init_args": {...}}, "optimizer": ...}``.

    Raises:
        ConfigurationError: if a key is unknown, a class is not found, or a value has the wrong type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GenerativeModule, "model", fail_untyped=False, sub_configs=True)
    try:
        parsed = parser.parse_object({"model": dict(config)})
    except ArgumentError as error:
        raise explain(error, parser) from error
    module: GenerativeModule = parser.instantiate(parsed).model
    module.config = json.loads(parser.dump(parsed, format="json", skip_unset=False))["model"]
    return module


def load(path: Path | str, map_location: str | torch.device = "cpu") -> GenerativeModule:
    """Load a trained model, ready to sample, with no configuration at hand.

    Averaged weights are taken where the run kept them (the checkpoint's own ``state_dict`` is then the average).

    Args:
        path: a ``.ckpt`` file, a run folder (its ``checkpoints/last.ckpt``) or a folder made by `export`.
        map_location: device of the model.

    Raises:
        CheckpointError: if there is no such file, or it is damaged, of a newer version, or of another model.
    """
    path = Path(path)
    if (path / CONFIG_FILE).is_file():
        metadata, weights = _read_export(path)
    else:
        if (path / "checkpoints" / "last.ckpt").is_file():
            path = path / "checkpoints" / "last.ckpt"
        checkpoint = read_checkpoint(path)
        metadata, weights = read_metadata(checkpoint, path), checkpoint["state_dict"]
    if metadata["config"] is None:
        raise CheckpointError(
            f"{path} was saved by a module put together by hand, without its configuration: make the module the same "
            "way and call load_state_dict, or build it with polydit.build before training"
        )
    module = build(metadata["config"])
    check_weights(module, weights, path)
    module.load_state_dict(weights)
    return module.to(map_location).eval()


def export(module: GenerativeModule, folder: Path | str) -> Path:
    """Write a model as ``model.safetensors`` and ``config.json`` into a new folder, which appears only when complete.

    Returns:
        The folder, which `load` reads.

    Raises:
        UserError: if the folder exists, or the module has no configuration.
        RunError: if the disk is full.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already and is not overwritten: remove it or name another folder")
    if module.config is None:
        raise UserError("a module put together by hand cannot be exported: make it with polydit.build or polydit.load")
    from polydit import __version__

    metadata = {
        "schema": SCHEMA,
        "version": __version__,
        "torch": torch.__version__,
        "config": module.portable_config(),
    }
    # safetensors refuses tensors that share memory; a copy of each is what a reader of one file expects anyway.
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with atomic_path(partial / WEIGHTS_FILE) as file:
            save_file(weights, file, metadata={"format": "pt"})
        with atomic_path(partial / CONFIG_FILE) as file:
            file.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def read_metadata(checkpoint: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The part of a checkpoint that polydit wrote: schema, version and configuration.

    Raises:
        CheckpointError: if there is none, or a newer polydit wrote it.
    """
    metadata = checkpoint.get("polydit")
    if not isinstance(metadata, dict) or "schema" not in metadata:
        raise CheckpointError(
            f"{source} is a checkpoint of another program: it has no 'polydit' entry "
            f"(it holds {', '.join(sorted(map(str, checkpoint))[:8])}). Give a checkpoint that polydit saved"
        )
    if metadata["schema"] > SCHEMA:
        raise CheckpointError(
            f"{source} has schema {metadata['schema']}, written by polydit {metadata.get('version')}; this version "
            f"reads up to schema {SCHEMA}: pip install --upgrade polydit"
        )
    return metadata


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Compare names and shapes before anything is copied.

    Raises:
        CheckpointError: naming what is missing, unexpected, or of another shape.
    """
    own = module.state_dict()
    complaints = [
        _complaint("missing", [name for name in own if name not in weights]),
        _complaint("unexpected", [name for name in weights if name not in own]),
        _complaint(
            "of another shape",
            [
                f"{name}: {list(tensor.shape)} in the file, {list(own[name].shape)} in the model"
                for name, tensor in weights.items()
                if name in own and tensor.shape != own[name].shape
            ],
        ),
    ]
    if any(complaints):
        raise CheckpointError(
            f"{source} is of another model: {'; '.join(filter(None, complaints))}. Use the configuration it was "
            "trained with (config.yaml of its run folder), or another checkpoint"
        )


def _complaint(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} weights {kind} ({', '.join(names[:3])}{more})"


def _read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is no JSON ({error}): export the model again") from error
    metadata = read_metadata({"polydit": content}, folder / CONFIG_FILE)
    file = folder / WEIGHTS_FILE
    refuse_missing(file)
    refuse_pointer(file)
    try:
        return metadata, load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file} is truncated or damaged ({error}): export the model again") from error
