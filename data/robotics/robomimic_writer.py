"""Writes demonstrations in robomimic's HDF5 layout, one after another, so that a killed recording loses one at most.

The layout is described in `polydit.data.robotics.robomimic_layout`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from polydit.platform.errors import DataError, RunError, require
from polydit.platform.storage import atomic_path

from .demonstrations import Demonstration, check_demonstration
from .robomimic_layout import ENVIRONMENT_TYPES, open_hdf5, partial_path, sort_names


def make_env_args(task: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The env_args of an environment, from which `find_task` gets `task` back.

    Args:
        task: environment spec, such as ``"robosuite/Lift"``.
        options: keyword arguments of the environment, as JSON can hold them.
    """
    family, _, name = task.partition("/")
    codes = {known: code for code, known in ENVIRONMENT_TYPES.items()}
    known = family in codes and bool(name)
    return {
        "env_name": name if known else task, "type": codes[family] if known else codes["gymnasium"],
        "env_kwargs": dict(options or {}), "environment": task,
    }  # fmt: skip


class RobomimicWriter:
    """Appends demonstrations to a file that appears under its own name when it is finished.

    HDF5 has no journal: a process that is killed while it changes a file can leave all of it unreadable. So each
    demonstration goes into a file of its own, in the folder ``<name>.partial``; each is whole or absent, and readable
    by robomimic. `finish` copies them together, compressed as they are. Leaving a ``with`` block finishes; leaving it
    by an exception keeps what there is, to be resumed.

    Args:
        path: of the finished file.
        env_args: robomimic's description of the environment; None: made of the first demonstration's task.
        resume: go on with an unfinished recording of the same name, or append to a finished one.
        compression: gzip level 0 to 9 of camera frames, each a chunk of its own, so that any is decoded alone.

    Raises:
        DataError: if the file or an unfinished recording exists and `resume` is not set, or is damaged.
    """

    def __init__(
        self, path: str | Path, env_args: Mapping[str, Any] | None = None, resume: bool = False, compression: int = 4
    ) -> None:
        require("h5py", "robotics")
        self.path = Path(path).expanduser()
        self.partial = partial_path(self.path)
        self.env_args = None if env_args is None else dict(env_args)
        self.compression = compression
        self._count = self._begin(resume)

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> RobomimicWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()

    def add(self, demonstration: Demonstration, split: str | None = None) -> str:
        """Append one episode and bring it to disk.

        Args:
            demonstration: all of its fields and metadata are kept.
            split: filter key that lists it, such as ``"train"`` or ``"valid"``; None: no key.

        Returns:
            Its name in the file, such as ``"demo_0"``.

        Raises:
            DataError: if its arrays contradict each other or hold NaN.
            RunError: if it could not be written; those before are kept.
        """
        h5py = require("h5py", "robotics")
        name = f"demo_{self._count}"
        check_demonstration(demonstration, name)
        env_args = self.env_args or make_env_args(demonstration.task)
        try:
            with atomic_path(self.partial / f"{name}.hdf5") as path, h5py.File(path, "w") as file:
                data = file.create_group("data")
                data.attrs.update({"total": len(demonstration), "env_args": json.dumps(env_args)})
                self._write(data.create_group(name), demonstration)
                if split is not None:
                    _append_names(file, f"mask/{split}", [name.encode()])
        except (OSError, RunError) as error:
            raise RunError(
                f"{self.partial} took no more ({error}); the {self._count} demonstrations before are kept: make room, "
                "then go on with resume=True"
            ) from error
        self._count += 1
        return name

    def finish(self) -> Path:
        """Put everything into one file under its own name.

        Raises:
            DataError: if it holds no demonstration, for then nobody could read it.
            RunError: if the disk is full; nothing is lost.
        """
        h5py = require("h5py", "robotics")
        if not self._count:
            raise DataError(f"{self.path}: no demonstration was added; there is nothing to finish")
        with atomic_path(self.path) as path:
            if self.path.is_file():
                shutil.copyfile(self.path, path)
            with h5py.File(path, "a") as file:
                for part in self._parts():
                    _merge(part, file)
        shutil.rmtree(self.partial, ignore_errors=True)
        return self.path

    def _parts(self) -> list[Path]:
        names = sort_names([part.name for part in self.partial.glob("*.hdf5") if not part.name.startswith(".")])
        return [self.partial / name for name in names]

    def _begin(self, resume: bool) -> int:
        """Demonstrations that are there already."""
        for there, what in ((self.partial, "an unfinished recording"), (self.path, "a finished file")):
            if there.exists() and not resume:
                raise DataError(f"{there} is {what}: go on with it by resume=True, delete it, or choose another name")
        finished: set[str] = set()
        if self.path.is_file():
            with open_hdf5(self.path) as file:
                finished = set(file["data"])
        for part in self._parts():
            if part.stem in finished:  # killed between the renaming of the whole and the removal of its parts
                part.unlink()
        self.partial.mkdir(parents=True, exist_ok=True)
        return len(finished) + len(self._parts())

    def _write(self, group: Any, demonstration: Demonstration) -> None:
        length = len(demonstration)
        group.create_dataset("actions", data=np.asarray(demonstration.actions, dtype=np.float32))
        rewards = np.zeros(length) if demonstration.rewards is None else demonstration.rewards
        group.create_dataset("rewards", data=np.asarray(rewards, dtype=np.float32))
        group.create_dataset("dones", data=(np.arange(length) == length - 1).astype(np.int64))
        if demonstration.states is not None:
            group.create_dataset("states", data=np.asarray(demonstration.states, dtype=np.float64))
        for name, values in demonstration.observations.items():
            values = np.asarray(values)
            if values.dtype == np.uint8 and values.ndim == 4:
                group.create_dataset(
                    f"obs/{name}", data=values, chunks=(1, *values.shape[1:]), compression="gzip",
                    compression_opts=self.compression,
                )
            else:
                group.create_dataset(f"obs/{name}", data=values.astype(np.float32))
        self._write_attributes(group.attrs, demonstration)

    def _write_attributes(self, attributes: Any, demonstration: Demonstration) -> None:
        attributes["num_samples"] = len(demonstration)
        metadata = dict(demonstration.metadata)
        if "model_file" in metadata:  # the scene as MuJoCo's XML, under robomimic's own name
            attributes["model_file"] = metadata.pop("model_file")
        values = {
            "language_instruction": demonstration.instruction or None, "environment": demonstration.task or None,
            "seed": demonstration.seed, "success": demonstration.success,
            "metadata": json.dumps(metadata) if metadata else None,
        }  # fmt: skip
        for name, value in values.items():
            if value is not None:
                attributes[name] = value


def write_robomimic(
    demonstrations: Iterable[Demonstration], path: str | Path, env_args: Mapping[str, Any] | None = None
) -> Path:
    """Write a whole file at once; see `RobomimicWriter`."""
    with RobomimicWriter(path, env_args) as writer:
        for demonstration in demonstrations:
            writer.add(demonstration)
    return writer.path


def _merge(part: Path, file: Any) -> None:
    """Copy the episodes of `part`, and what lists them, into an open file."""
    with open_hdf5(part) as source:
        data = file.require_group("data")
        for name in source["data"]:
            source.copy(f"data/{name}", data)
        for key in source.get("mask", ()):
            _append_names(file, f"mask/{key}", source["mask"][key][()])
        data.attrs["total"] = int(data.attrs.get("total", 0)) + int(source["data"].attrs["total"])
        if "env_args" not in data.attrs:
            data.attrs["env_args"] = source["data"].attrs["env_args"]


def _append_names(file: Any, key: str, names: Sequence[bytes]) -> None:
    listed = [*file[key][()], *names] if key in file else list(names)
    if key in file:
        del file[key]
    file[key] = np.array(listed, dtype="S")
