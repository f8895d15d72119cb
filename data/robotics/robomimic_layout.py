"""robomimic's HDF5 layout: opening a file, and what its names, shapes and attributes say.

    data                      attributes: env_args (JSON), total (steps of all episodes)
    data/demo_0               attributes: num_samples, model_file (optional); beside robomimic's own, where they exist:
                              language_instruction, environment, seed, success, metadata (JSON)
    data/demo_0/obs/<field>   [T, ...]; [1, ...] for a value that holds for the whole episode
    data/demo_0/actions       [T, A], and rewards, dones, states of the same length
    mask/<key>                names of episodes: train, valid, and any other choice

Source: robomimic's documentation of its dataset structure (v0.3).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, require

from .demonstrations import FieldSpec, check_lengths

ENVIRONMENT_TYPES = {1: "robosuite", 2: "gymnasium"}
"""``type`` in env_args -> family of the environment spec (robomimic's EnvType)."""

Fields = Mapping[str, FieldSpec | str]
"""Field -> what it is made of, or why it cannot be read."""


@dataclass
class Episode:
    """What the attributes and shapes of one episode say; see `DemonstrationSet` for the words."""

    name: str
    length: int
    action_size: int
    instruction: str
    task: str
    frequency: float | None
    success: bool | None
    seed: int | None
    metadata: dict[str, Any]


def open_hdf5(path: Path, mode: str = "r") -> Any:
    """The `h5py.File` at `path`.

    Raises:
        DataError: if it is missing, a folder, cut short, or no HDF5 file.
    """
    h5py = require("h5py", "robotics")
    if not path.is_file():
        there = sorted(entry.name for entry in path.glob("*.hdf5"))[:5] if path.is_dir() else []
        listing = f"{path} is a folder; it holds {', '.join(there)}" if there else f"there is no file {path}"
        rest = partial_path(path)
        hint = f"; {rest} is an unfinished recording: finish it with RobomimicWriter(..., resume=True)"
        raise DataError(f"{listing}{hint if rest.is_dir() else ''}")
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a git-lfs pointer, not the data: run 'git lfs pull' in its repository")
    if not h5py.is_hdf5(path):
        size = path.stat().st_size
        raise DataError(f"{path} ({size:,} bytes) is not an HDF5 file: give a file that robomimic or polydit wrote")
    try:
        return h5py.File(path, mode)
    except OSError as error:
        if "truncated" in str(error):
            raise DataError(
                f"{path} was cut short ({path.stat().st_size:,} bytes; {error}): copy it again from where it came"
            ) from error
        raise DataError(f"{path} cannot be opened ({error}): close it where it is open, or copy it again") from error


def partial_path(path: Path) -> Path:
    """Folder in which a recording for `path` grows until it is finished."""
    return path.with_name(f"{path.name}.partial")


def sort_names(names: Sequence[str]) -> list[str]:
    """Names of episodes by their number, ``demo_2`` before ``demo_10``."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def find_task(env_args: Mapping[str, Any]) -> str:
    """Environment spec that a file's env_args mean; "" if they name no simulator that we know."""
    if env_args.get("environment"):
        return str(env_args["environment"])
    family = ENVIRONMENT_TYPES.get(env_args.get("type", 0))
    return f"{family}/{env_args.get('env_name')}" if family else ""


def survey(
    path: Path, filter_key: str | None
) -> tuple[list[Episode], dict[str, FieldSpec | str], dict[str, Any], dict[str, NDArray[np.int64]]]:
    """Episodes, fields (or why one cannot be read), env_args, and the masks as places."""
    with open_hdf5(path) as file:
        if "data" not in file or not len(file["data"]):
            raise DataError(f"{path} holds no demonstrations: robomimic keeps them as data/demo_0, data/demo_1 ...")
        env_args = _read_json(file["data"].attrs.get("env_args", "{}"), f"{path}: env_args")
        masks = {key: _decode_names(file["mask"][key][()]) for key in file["mask"]} if "mask" in file else {}
        names = sort_names(list(file["data"]))
        for key, listed in masks.items():
            unknown = sorted(set(listed) - set(names))
            if unknown:
                raise DataError(f"{path}: mask/{key} lists {unknown[0]}, which is not among the {len(names)} episodes")
        if filter_key is not None and filter_key not in masks:
            raise DataError(f"{path} has no filter key {filter_key!r}: there are {', '.join(masks) or 'none'}")
        if filter_key is not None:
            names = [name for name in names if name in set(masks[filter_key])]
        if not names:
            raise DataError(f"{path}: filter key {filter_key!r} lists no demonstrations")
        fields = _describe_fields(file["data"][names[0]], f"{path}: {names[0]}")
        episodes = [_survey_episode(path, name, file["data"][name], env_args) for name in names]
        for name, episode in zip(names[1:], episodes[1:], strict=True):
            described = _describe_fields(file["data"][name], f"{path}: {name}")
            _check_alike(path, (names[0], episodes[0].action_size, fields), (name, episode.action_size, described))
    places = {name: place for place, name in enumerate(names)}
    splits = {
        key: np.array([places[name] for name in listed if name in places], dtype=np.int64)
        for key, listed in masks.items()
    }
    return episodes, fields, env_args, splits


def _survey_episode(path: Path, name: str, group: Any, env_args: Mapping[str, Any]) -> Episode:
    where = f"{path}: {name}"
    if "actions" not in group or len(group["actions"].shape) != 2 or not len(group["actions"]):
        raise DataError(f"{where} has no actions [T, A]: it was not recorded to the end; delete the group {name}")
    length, action_size = group["actions"].shape
    attributes = group.attrs
    counted = int(attributes.get("num_samples", length))
    if counted != length:
        raise DataError(f"{where}: num_samples says {counted} but there are {length} actions: the episode is cut short")
    for key, values in group["obs"].items():
        if len(values) != 1:
            check_lengths(length, len(values), where, key)
    metadata = _read_json(attributes.get("metadata", "{}"), f"{where}: metadata")
    told = attributes.get("language_instruction", "")
    if not told and "ep_meta" in attributes:  # robosuite 1.5 and its descendants
        told = _read_json(attributes["ep_meta"], f"{where}: ep_meta").get("lang", "")
    frequency = metadata.get("control_frequency", (env_args.get("env_kwargs") or {}).get("control_freq"))
    return Episode(
        name, length, action_size, _decode(told), _decode(attributes.get("environment", "")) or find_task(env_args),
        None if frequency is None else float(frequency),
        bool(attributes["success"]) if "success" in attributes else None,
        int(attributes["seed"]) if "seed" in attributes else None, metadata,
    )


def _describe_fields(group: Any, where: str) -> dict[str, FieldSpec | str]:
    if "obs" not in group or not len(group["obs"]):
        raise DataError(f"{where} has no observations: robomimic keeps them in a group 'obs'; extract them first")
    fields: dict[str, FieldSpec | str] = {}
    for name, values in group["obs"].items():
        if values.dtype.kind not in "fiub":
            fields[name] = f"it holds {values.dtype}, not numbers"
            continue
        shape = tuple(values.shape[1:])
        image = FieldSpec(shape, str(values.dtype))
        fields[name] = image if image.is_camera else FieldSpec(shape, "float32")
    return fields


def _check_alike(path: Path, first: tuple[str, int, Fields], other: tuple[str, int, Fields]) -> None:
    """Refuse two episodes with unequal fields or actions; each is (name, action size, fields)."""
    if first[1] != other[1]:
        raise DataError(
            f"{path}: {first[0]} has actions of size {first[1]}, {other[0]} of size {other[1]}: split the file"
        )
    for name in sorted({*first[2], *other[2]}):
        here, there = first[2].get(name), other[2].get(name)
        if here != there:
            raise DataError(
                f"{path}: field {name!r} is {here or 'absent'} in {first[0]} but {there or 'absent'} in {other[0]}: "
                "all episodes of a file need the same fields; list those alike under a filter key, or split the file"
            )


def _decode(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _decode_names(values: Any) -> list[str]:
    return [_decode(value) for value in np.atleast_1d(values).tolist()]


def _read_json(text: Any, where: str) -> dict[str, Any]:
    try:
        content = json.loads(_decode(text))
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error}): write it again with json.dumps") from error
    return content if isinstance(content, dict) else {}
