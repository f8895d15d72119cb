"""Images in parquet files, in the layout of the Hugging Face Hub: ``image: {bytes, path}`` and ``label``.

Layout: https://huggingface.co/docs/datasets/image_dataset; names of classes stand in the file's metadata under
``huggingface``, as ``info.features.label.names``.
"""

from __future__ import annotations

import bisect
import json
import os
from pathlib import Path
from typing import Any

from polydit.platform.errors import ConfigurationError, DataError, require

from .archives import list_files, number_classes
from .pictures import ImageSet, ImageSource

EXTRA = "vision"


class ParquetShards(ImageSource):
    """Parquet files with a column of encoded images.

    Rows are read where they lie, a row group at a time; the last group stays in memory.

    Args:
        paths: files, or patterns with ``*``; ``{00..15}`` counts.
        image: column of images: a structure with ``bytes``, or the bytes themselves.
        label: column of classes, numbers or names; None, or a column that is not there: no classes.
        classes: names of the classes by number; None: those of the file's metadata, if it has any.
        split: that all images are listed in; None: in none, for `splits` as fractions.
    """

    def __init__(
        self,
        paths: list[str],
        image: str = "image",
        label: str | None = "label",
        classes: list[str] | None = None,
        split: str | None = None,
    ) -> None:
        if not paths:
            raise ConfigurationError("paths is empty: give parquet files, such as data/train-*.parquet")
        self.paths, self.image, self.label, self.classes, self.split = paths, image, label, classes, split or ""

    def open(self) -> ImageSet:
        """The images, in the order of the files; of these only headers and labels are read.

        Raises:
            DataError: if a file is missing, damaged or lacks the column of images, or a row lacks its class.
        """
        parquet = require("pyarrow.parquet", EXTRA)
        files = list_files(self.paths)
        ends: list[int] = []
        groups: list[tuple[int, int]] = []
        written: list[str | int | None] = []
        given = self.classes
        for number, path in enumerate(files):
            try:
                file = parquet.ParquetFile(path)
                names = file.schema_arrow.names
                if self.image not in names:
                    raise DataError(f"{path} has no column {self.image!r}, only {names}: say which one holds images")
                for group in range(file.num_row_groups):
                    groups.append((number, group))
                    ends.append((ends[-1] if ends else 0) + file.metadata.row_group(group).num_rows)
                if self.label is not None and self.label in names:
                    written += file.read(columns=[self.label])[self.label].to_pylist()
                else:
                    written += [None] * file.metadata.num_rows
                given = given or read_class_names(file.schema_arrow.metadata, self.label)
            except FileNotFoundError as error:
                raise DataError(f"there is no file {path}: check the path") from error
            except (OSError, _arrow_error()) as error:
                raise DataError(f"{path} is no parquet file, or a damaged one ({error}): download it again") from error
        if not written:
            raise DataError(f"{', '.join(self.paths)} hold no row")
        places = [f"{files[0]} and the others, row {row}" if len(files) > 1 else f"{files[0]}, row {row}"
                  for row in range(len(written))]
        known = (bool, float, list, dict)
        strange = next((row for row, value in enumerate(written) if isinstance(value, known)), None)
        if strange is not None:
            raise DataError(f"{places[strange]} has class {written[strange]!r}: a class is a number or a name")
        labels, classes = number_classes(written, given, places)
        return _ParquetSet(files, groups, ends, self.image, labels, classes, self.split)


class _ParquetSet(ImageSet):
    def __init__(
        self, files: list[Path], groups: list[tuple[int, int]], ends: list[int], column: str, labels: list[int],
        classes: tuple[str, ...], split: str,
    ) -> None:
        self.files, self.groups, self.ends, self.column = files, groups, ends, column
        self.labels, self.classes, self.listed = labels, classes, split
        self._kept: tuple[int, int, Any] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        place = bisect.bisect_right(self.ends, index)
        row = index - (self.ends[place - 1] if place else 0)
        # Files are opened anew in every process: handles must not be shared.
        if self._kept is None or self._kept[:2] != (os.getpid(), place):
            parquet = require("pyarrow.parquet", EXTRA)
            number, group = self.groups[place]
            try:
                column = parquet.ParquetFile(self.files[number]).read_row_group(group, columns=[self.column])
            except (OSError, _arrow_error()) as error:
                raise DataError(f"{self.name(index)} cannot be read ({error}): download the file again") from error
            self._kept = (os.getpid(), place, column[self.column].combine_chunks())
        value = self._kept[2][row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise DataError(
                f"{self.name(index)} holds no bytes of an image, only {str(value)[:60]!r}: export the set with its "
                "images embedded"
            )
        return data

    def name(self, index: int) -> str:
        place = bisect.bisect_right(self.ends, index)
        first = next(end for end, (number, _) in zip([0, *self.ends], self.groups, strict=False)
                     if number == self.groups[place][0])
        return f"{self.files[self.groups[place][0]]}, row {index - first}"

    def label(self, index: int) -> int:
        return self.labels[index]

    def split(self, index: int) -> str:
        return self.listed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def read_class_names(metadata: dict[bytes, bytes] | None, label: str | None) -> list[str] | None:
    """Names of the classes in a file's metadata; None if it has none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, ValueError, TypeError):
        return None


def _arrow_error() -> type[Exception]:
    error: type[Exception] = require("pyarrow", EXTRA).ArrowException
    return error
