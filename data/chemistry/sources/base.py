"""The contract of a source: read once, then open from the cache."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, require
from polydit.platform.evaluation.pool import Outcome, map_items

from ..lattice import standardise
from ..store import SCHEMA, StructureStore
from ..structure import AtomicStructure
from ..writer import StoreWriter

OnError = Literal["skip", "raise"]

Item = TypeVar("Item")
Value = TypeVar("Value")

SERIAL_LIMIT = 200
"""Fewer records than this are parsed in this process: workers, which import the parsers anew, would take longer."""

LIBRARIES = ("ase", "pymatgen", "rdkit", "spglib")
"""What readers parse with."""

READER_VERSION = 1
"""Part of every cache key; raise it when a reader gives other values for the same files."""


class Source(ABC):
    """Data of one origin, which becomes one `StructureStore`.

    Args:
        on_error: "skip" notes bad records by name in the store and goes on; "raise" stops at the first one.
    """

    name: str = "source"
    """Short name, the start of the cache folder."""

    units: dict[str, str] = {}  # noqa: RUF012 - read only
    """Label -> unit, where known."""

    def __init__(self, on_error: OnError = "skip") -> None:
        if on_error not in ("skip", "raise"):
            raise ValueError(f"on_error must be 'skip' or 'raise', not {on_error!r}")
        self.on_error = on_error

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """JSON-able description of everything the result depends on: settings, and files with size and change time.

        Raises:
            DataError: if there is nothing to read.
        """

    @abstractmethod
    def read(self, writer: StoreWriter) -> None:
        """Put every record into `writer`, good ones by `add` or `extend`, bad ones by `reject`."""

    def cache_path(self, cache_dir: str | Path) -> Path:
        """Folder of this source's store under `cache_dir`; another setting or a changed file gives another folder."""
        return self._cache_path(Path(cache_dir), self.fingerprint())

    def load(self, cache_dir: str | Path) -> StructureStore:
        """The store of this source, read from its files only if `cache_dir` does not hold it yet."""
        fingerprint = self.fingerprint()
        path = self._cache_path(Path(cache_dir), fingerprint)
        if not (path / "meta.json").is_file():
            for library in LIBRARIES:  # else every record would be rejected as one that cannot be read
                require(library, "chemistry")
            with StoreWriter(path, self.on_error, self.units, {"class": type(self).__name__, **fingerprint}) as writer:
                self.read(writer)
        return StructureStore.open(path)

    def _cache_path(self, cache_dir: Path, fingerprint: dict[str, Any]) -> Path:
        key = json.dumps([SCHEMA, READER_VERSION, type(self).__qualname__, self.on_error, fingerprint], sort_keys=True)
        return cache_dir / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def describe_files(paths: Iterable[Path], root: Path) -> list[list[Any]]:
    """Name, size in bytes and change time of each file, for a fingerprint."""
    described = []
    for path in paths:
        status = path.stat()
        described.append([str(path.relative_to(root)), status.st_size, status.st_mtime_ns])
    return described


def require_folder(path: str | Path, what: str) -> Path:
    """`path` as an existing folder.

    Raises:
        DataError: naming the folder and `what` should be in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give the one that holds {what}")
    return folder


def load_arrays(path: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    """The named arrays of an ``.npz`` file.

    Raises:
        DataError: if the file is damaged or lacks one of them.
    """
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return [file[name] for name in names]
    except KeyError as error:
        raise DataError(f"{path}: {error}; it should hold {', '.join(names)}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): copy it again from where it came") from error


def read_text(path: Path) -> str:
    """Text of a file, unpacked if its name ends in ``.gz``.

    Raises:
        DataError: if the file is missing, damaged, or not UTF-8 text.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    except (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or no text ({error}): copy it again, or save it as UTF-8") from error


def add_standardised(
    writer: StoreWriter, structures: list[AtomicStructure], splits: list[int], niggli: bool, find_space_groups: bool,
    workers: int | None, description: str,
) -> None:
    """Put `structures` into `writer`, Niggli-reduced and with space groups as asked, in a process pool."""
    tasks = [(structure, niggli, find_space_groups) for structure in structures]
    outcomes = map_records(_standardise, tasks, description, workers)
    for structure, outcome, split in zip(structures, outcomes, splits, strict=True):
        if outcome.value is None:
            writer.reject(structure.name, outcome.problem)
        else:
            writer.add(*outcome.value, split=split)


def map_records(
    function: Callable[[Item], Value], items: Sequence[Item], description: str, workers: int | None
) -> list[Outcome[Value]]:
    """`map_items` in `workers` processes (None: every core), or in this one where there are few items."""
    return map_items(
        function, items, description=description, processes=0 if len(items) < SERIAL_LIMIT else workers
    )


def _standardise(task: tuple[AtomicStructure, bool, bool]) -> tuple[AtomicStructure, int]:
    return standardise(*task)
