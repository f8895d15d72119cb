"""Your own data: a folder or file of CIF, POSCAR, SDF, XYZ, extxyz, or an ASE database (SQLite or JSON)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polydit.platform.errors import DataError

from ..lattice import standardise
from ..store import BadRecord
from ..structure import AtomicStructure
from ..writer import StoreWriter
from .base import OnError, Source, describe_files, map_records
from .cdvae import SPLIT_FILES
from .parsing import KNOWN_FORMATS, find_parser, parse_file

LABELS_VERSION = 2
"""Part of every cache key here; raise it when files give other labels or names than before."""


class FilesSource(Source):
    """Every structure in a file, or in all files of a folder and below.

    Files in a folder called train, val or test belong to that split; the others are split by seed. Numbers that stand
    beside a structure (SDF fields, extxyz info, ASE database keys) become its labels; what an ASE calculation found
    becomes the label ``energy``, eV. Index and seed of our own samples are no labels.

    Args:
        path: file or folder.
        pattern: glob below a folder, such as ``"**/*.cif"``; None: every file of a known format.
        niggli: reduce the cells of crystals.
        find_space_groups: of crystals by spglib at 0.1 Å.
        minimum_distance: atoms closer than this, Å, make a record bad.
        workers: processes that parse; None: every core.
        on_error: see `Source`.
    """

    name = "files"

    def __init__(
        self, path: str, pattern: str | None = None, niggli: bool = False, find_space_groups: bool = True,
        minimum_distance: float = 0.3, workers: int | None = None, on_error: OnError = "skip",
    ) -> None:
        super().__init__(on_error)
        self.path = path
        self.pattern = pattern
        self.niggli = niggli
        self.find_space_groups = find_space_groups
        self.minimum_distance = minimum_distance
        self.workers = workers

    def _files(self) -> tuple[Path, list[Path]]:
        path = Path(self.path).expanduser()
        if path.is_file():
            return path.parent, [path]
        if not path.is_dir():
            raise DataError(f"there is no file or folder {path}; give one with {', '.join(KNOWN_FORMATS)}")
        found = sorted(file for file in path.glob(self.pattern or "**/*") if file.is_file())
        files = [file for file in found if self.pattern or find_parser(file)]
        if not files:
            wanted = self.pattern or ", ".join(KNOWN_FORMATS)
            raise DataError(f"{path} holds {len(found)} files and none is {wanted}; check the folder or the pattern")
        return path, files

    def fingerprint(self) -> dict[str, Any]:
        """Settings and files, see `Source.fingerprint`."""
        root, files = self._files()
        return {
            "root": str(root.absolute()), "files": describe_files(files, root), "pattern": self.pattern,
            "niggli": self.niggli, "find_space_groups": self.find_space_groups,
            "minimum_distance": self.minimum_distance, "labels": LABELS_VERSION,
        }  # fmt: skip

    def read(self, writer: StoreWriter) -> None:
        """Put the structures into `writer`, see `Source.read`."""
        writer.minimum_distance = self.minimum_distance
        root, files = self._files()
        names = [str(file.relative_to(root)) for file in files]
        tasks = [(file, name, self.niggli, self.find_space_groups) for file, name in zip(files, names, strict=True)]
        outcomes = map_records(_parse, tasks, f"reading {root.name}", self.workers)
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome.value is None:
                writer.reject(name, outcome.problem)
                continue
            for result in outcome.value:
                if isinstance(result, BadRecord):
                    writer.reject(result.name, result.reason)
                else:
                    writer.add(*result, split=_split_of(Path(name)))


def _split_of(path: Path) -> int:
    """Split code that a folder on the way to the file, or the file's own name, gives; -1 if none does."""
    parts = [*path.parts[:-1], path.stem]
    return next((SPLIT_FILES[part] for part in parts if part in SPLIT_FILES), -1)


def _parse(task: tuple[Path, str, bool, bool]) -> list[tuple[AtomicStructure, int] | BadRecord]:
    path, name, niggli, find = task
    results: list[tuple[AtomicStructure, int] | BadRecord] = []
    for parsed in parse_file(path, name):
        if isinstance(parsed, BadRecord):
            results.append(parsed)
            continue
        try:
            results.append(standardise(parsed, niggli, find))
        except ValueError as error:
            results.append(BadRecord(parsed.name, f"Niggli reduction failed: {error}"))
    return results
