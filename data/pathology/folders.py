"""Pairs in two folders with equal file names."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from polydit.platform.errors import ConfigurationError, DataError

from .images import list_images, read_mask, read_picture, read_size
from .tiles import TilePair, TileSet, TileSource


class PairedFolders(TileSource):
    """Tiles in two folders; files of equal name (whatever their suffix) are the same tissue, pixel by pixel.

    The slide or patient of each tile must be told, by one of two rules, so that no slide stands in two splits.

    Args:
        he: folder of H&E tiles.
        ihc: folder of IHC tiles.
        slide_pattern: regular expression that is searched in the name without suffix; its group ``slide``, or its
            first, is the slide: ``"(.+)_x[0-9]+_y[0-9]+"``.
        table: CSV file with a column ``name`` (with or without suffix), one of the slides, and, if wanted, a column
            ``split`` with train, val or test.
        slide_column: column of the slide or patient.
        masks: folder of masks of equal names, in place of those that the brown channel gives; whatever is not 0 is a
            stained cell. None: none.

    Raises:
        ConfigurationError: if not exactly one of `slide_pattern` and `table` is given, or the pattern is not one.
    """

    def __init__(
        self,
        he: str,
        ihc: str,
        slide_pattern: str | None = None,
        table: str | None = None,
        slide_column: str = "slide",
        masks: str | None = None,
    ) -> None:
        if (slide_pattern is None) == (table is None):
            raise ConfigurationError(
                f"slide_pattern {slide_pattern!r}, table {table!r}: give one of them, which says the slide of every "
                "tile; tiles of one slide must not train and test"
            )
        self.he, self.ihc = Path(he), Path(ihc)
        self.table = None if table is None else Path(table)
        self.slide_column = slide_column
        self.masks = None if masks is None else Path(masks)
        try:
            self.pattern = None if slide_pattern is None else re.compile(slide_pattern)
        except re.error as error:
            raise ConfigurationError(f"slide_pattern {slide_pattern!r} is no regular expression: {error}") from error
        if self.pattern is not None and not self.pattern.groups:
            raise ConfigurationError(
                f"slide_pattern {slide_pattern!r} has no group: put parentheses around the part that names the slide"
            )

    def open(self) -> TileSet:
        """The pairs, by name; every header has been read.

        Raises:
            DataError: if a tile lacks its partner or its slide, or partners differ in size.
        """
        he, ihc = _by_stem(self.he), _by_stem(self.ihc)
        for here, there, folder in ((he, ihc, self.ihc), (ihc, he, self.he)):
            alone = sorted(set(here) - set(there))
            if alone:
                raise DataError(
                    f"{here[alone[0]]} has no partner in {folder} ({len(alone)} of {len(here)} tiles have none): tiles "
                    "of both stains need equal names; remove what is alone"
                )
        names = sorted(he)
        masks = {} if self.masks is None else _by_stem(self.masks)
        if self.masks is not None and set(names) - set(masks):
            raise DataError(f"{self.masks} has no mask {sorted(set(names) - set(masks))[0]}: give every tile one")
        table = self._read_table() if self.table is not None else {}
        sizes = [_check_sizes(he[name], ihc[name]) for name in names]
        groups = [self._find_group(name, table) for name in names]
        return _Folders([(he[name], ihc[name], masks.get(name)) for name in names], sizes, groups)

    def _find_group(self, name: str, table: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
        if self.pattern is None:
            if name not in table:
                raise DataError(f"{self.table} says nothing of tile {name}: add a row with its slide")
            return table[name]
        match = self.pattern.search(name)
        if match is None:
            raise DataError(
                f"the slide of {name} is unknown: slide_pattern {self.pattern.pattern!r} is not found in the name; "
                "change the pattern, or give a table"
            )
        slide = match["slide"] if "slide" in self.pattern.groupindex else match[1]
        return slide or "", ""

    def _read_table(self) -> dict[str, tuple[str, str]]:
        assert self.table is not None
        try:
            with self.table.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.table} cannot be read ({error}): give a CSV file in UTF-8") from error
        for column in ("name", self.slide_column):
            if not rows or column not in rows[0]:
                raise DataError(
                    f"{self.table} has no column {column!r}, only {sorted(rows[0]) if rows else []}: it needs `name` "
                    "and the column that `slide_column` names"
                )
        return {Path(row["name"]).stem: (row[self.slide_column], row.get("split") or "") for row in rows}


class _Folders(TileSet):
    def __init__(
        self, paths: list[tuple[Path, Path, Path | None]], sizes: list[tuple[int, int]], groups: list[tuple[str, str]]
    ) -> None:
        self.paths, self.sizes, self.groups = paths, sizes, groups

    def __len__(self) -> int:
        return len(self.paths)

    def slide(self, index: int) -> str:
        return self.groups[index][0]

    def split(self, index: int) -> str:
        return self.groups[index][1]

    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def read(self, index: int) -> TilePair:
        he, ihc, mask = self.paths[index]
        inside = None if mask is None else read_mask(mask, self.sizes[index]).astype(np.bool_)
        return TilePair(read_picture(he), read_picture(ihc), he.stem, self.slide(index), inside)


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path} have one name but for the suffix: keep one of them")
        found[path.stem] = path
    return found


def _check_sizes(he: Path, ihc: Path) -> tuple[int, int]:
    size, other = read_size(he), read_size(ihc)
    if size != other:
        raise DataError(
            f"{he} is {size[0]} x {size[1]} pixels and its partner {ihc} {other[0]} x {other[1]}: register both stains "
            "and cut them alike"
        )
    return size
