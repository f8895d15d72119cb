"""Images in archives, read where they lie: zips of class folders, and WebDataset's tar shards."""

from __future__ import annotations

import glob
import json
import os
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polydit.platform.errors import ConfigurationError, DataError

from .decoding import SUFFIXES
from .folders import name_classes
from .pictures import UNKNOWN, ImageSet, ImageSource


class ImageZip(ImageSource):
    """A zip file of images, in one folder or one folder a class.

    Args:
        path: the file.
        split: that all images are listed in; None: in none, for `splits` as fractions.
    """

    def __init__(self, path: str, split: str | None = None) -> None:
        self.path, self.split = Path(path), split or ""

    def open(self) -> ImageSet:
        """The images, by class and name.

        Raises:
            DataError: if the file is missing, damaged or holds no image.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = sorted(archive.namelist())
        except FileNotFoundError as error:
            raise DataError(f"there is no file {self.path}: check the path") from error
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self.path} is no zip file, or a damaged one ({error}): copy it again") from error
        names = [
            name for name in names
            if Path(name).suffix.lower() in SUFFIXES
            and not any(part.startswith((".", "__MACOSX")) for part in Path(name).parts)
        ]
        if not names:
            raise DataError(f"{self.path} holds no image: give a zip of {', '.join(SUFFIXES)} files")
        return _ZipSet(self.path, *name_classes(names, str(self.path)), self.split)


class _ZipSet(ImageSet):
    def __init__(
        self, path: Path, names: list[str], labels: list[int], classes: tuple[str, ...], split: str
    ) -> None:
        self.path, self.names, self.labels, self.classes, self.listed = path, names, labels, classes, split
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        try:
            # A handle that a forked or spawned worker shared would be moved by both.
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            return self._opened[1].read(self.names[index])
        except (OSError, zipfile.BadZipFile, KeyError, RuntimeError, EOFError, zlib.error) as error:
            raise DataError(f"{self.name(index)} cannot be read ({error}): copy the archive again") from error

    def name(self, index: int) -> str:
        return f"{self.path}:{self.names[index]}"

    def label(self, index: int) -> int:
        return self.labels[index]

    def split(self, index: int) -> str:
        return self.listed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


@dataclass(frozen=True)
class Member:
    """Where an image lies in a shard.

    Args:
        shard: number of the shard.
        name: of the member.
        offset: of its first byte.
        size: its bytes.
        label: its class as it is written; None: none.
    """

    shard: int
    name: str
    offset: int
    size: int
    label: str | int | None


class TarShards(ImageSource):
    """WebDataset's layout: tar files in which members of one name but for the suffix are one sample.

    The image is the member with an image's suffix; its class the number in ``.cls``, or the field `label` of ``.json``.
    Each shard is listed once, by reading its headers; images are then read where they lie, in any order. Shards must
    not be compressed.

    Args:
        paths: tar files, or patterns with ``*``; ``{000..015}`` counts.
        label: field of ``.json`` that is the class: a number or a name.
        classes: names of the classes by number; None: numbers themselves, or the names in the order of the alphabet.
        split: that all images are listed in; None: in none, for `splits` as fractions.
    """

    def __init__(
        self, paths: list[str], label: str = "label", classes: list[str] | None = None, split: str | None = None
    ) -> None:
        if not paths:
            raise ConfigurationError("paths is empty: give tar files, such as shards/train-{000..015}.tar")
        self.paths, self.label, self.classes, self.split = paths, label, classes, split or ""

    def open(self) -> ImageSet:
        """The images, in the order of the shards.

        Raises:
            DataError: if a shard is missing, truncated or compressed, or an image lacks its class.
        """
        shards = list_files(self.paths)
        members = [member for number, path in enumerate(shards) for member in list_members(path, number, self.label)]
        if not members:
            raise DataError(f"{', '.join(self.paths)} hold no image: members need a suffix of {', '.join(SUFFIXES)}")
        labels, classes = number_classes(
            [member.label for member in members], self.classes, [f"{shards[m.shard]}:{m.name}" for m in members]
        )
        return _TarSet(shards, members, labels, classes, self.split)


class _TarSet(ImageSet):
    def __init__(
        self, shards: list[Path], members: list[Member], labels: list[int], classes: tuple[str, ...], split: str
    ) -> None:
        self.shards, self.members, self.labels, self.classes, self.listed = shards, members, labels, classes, split

    def __len__(self) -> int:
        return len(self.members)

    def read(self, index: int) -> bytes:
        member = self.members[index]
        try:
            with self.shards[member.shard].open("rb") as file:
                file.seek(member.offset)
                data = file.read(member.size)
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read ({error.strerror}): put the shard back") from error
        if len(data) < member.size:
            raise DataError(f"{self.name(index)} ends after {len(data)} of {member.size} bytes: copy the shard again")
        return data

    def name(self, index: int) -> str:
        member = self.members[index]
        return f"{self.shards[member.shard]}:{member.name}"

    def label(self, index: int) -> int:
        return self.labels[index]

    def split(self, index: int) -> str:
        return self.listed


def list_members(path: Path, number: int, field: str) -> list[Member]:
    """Images of a shard with the classes that are written beside them.

    Raises:
        DataError: if the shard is missing, truncated or compressed, or what is written beside an image is no class.
    """
    images: dict[str, Member] = {}
    labels: dict[str, str | int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            length = path.stat().st_size
            for entry in archive:
                if not entry.isfile():
                    continue
                if entry.offset_data + entry.size > length:
                    raise DataError(f"{path} is truncated within {entry.name}: copy it again")
                folder, _, base = entry.name.rpartition("/")
                key, _, suffix = base.partition(".")
                key = f"{folder}/{key}"
                last = "." + suffix.lower().rpartition(".")[2]
                if last in SUFFIXES:
                    images[key] = Member(number, entry.name, entry.offset_data, entry.size, None)
                elif last in (".cls", ".json"):
                    extracted = archive.extractfile(entry)
                    found = _read_label(b"" if extracted is None else extracted.read(), last, field, path, entry.name)
                    if found is not None:
                        labels[key] = found
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check the path") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path} is no plain tar file, or a damaged one ({error}): copy it again, or unpack what is compressed"
        ) from error
    return [
        Member(member.shard, member.name, member.offset, member.size, labels.get(key)) for key, member in images.items()
    ]


def list_files(patterns: list[str]) -> list[Path]:
    """Files of paths and patterns, in their order; ``{000..015}`` counts and ``*`` matches.

    Raises:
        DataError: if a pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        for counted in _count(pattern):
            matches = sorted(glob.glob(counted)) if glob.has_magic(counted) else [counted]  # noqa: PTH207  # may be absolute
            if not matches:
                raise DataError(f"{counted} matches no file: check the pattern")
            found += map(Path, matches)
    return found


def number_classes(
    written: list[str | int | None], given: list[str] | None, names: list[str]
) -> tuple[list[int], tuple[str, ...]]:
    """Number of each image's class, and the names of the classes.

    Args:
        written: a class for each image: its number or name; None for images without.
        given: names of the classes by number; None: to be found.
        names: of the images, for messages.

    Raises:
        DataError: if only some images have a class, some are numbers and some names, or one is not among the given.
    """
    known = [value for value in written if value is not None]
    if not known:
        return [UNKNOWN] * len(written), ()
    if len(known) < len(written):
        raise DataError(f"{names[written.index(None)]} has no class, and others have: give every image one, or none")
    if all(isinstance(value, int) for value in known):
        highest, lowest = max(map(int, known)), min(map(int, known))
        classes = tuple(given or map(str, range(highest + 1)))
        if lowest < 0 or highest >= len(classes):
            place = next(i for i, value in enumerate(known) if not 0 <= int(value) < len(classes))
            raise DataError(f"{names[place]} has class {known[place]}, which is not one of 0 to {len(classes) - 1}")
        return [int(value) for value in known], classes
    if not all(isinstance(value, str) for value in known):
        raise DataError(f"classes near {names[0]} are partly numbers and partly names: write all of them alike")
    classes = tuple(given or sorted({str(value) for value in known}))
    strange = next((i for i, value in enumerate(known) if value not in classes), None)
    if strange is not None:
        raise DataError(f"{names[strange]} has class {known[strange]!r}, which is not among the {len(classes)} given")
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[str(value)] for value in known], classes


def _read_label(data: bytes, suffix: str, field: str, path: Path, name: str) -> str | int | None:
    try:
        text = data.decode("utf-8").strip()
        value = (json.loads(text).get(field) if suffix == ".json" else text)
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}:{name} holds no class ({error}): write a number, or an object in JSON") from error
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not (value is None or isinstance(value, int | str)) or value == "":
        raise DataError(f"{path}:{name} holds class {value!r}: a class is a number or a name")
    return value


def _count(pattern: str) -> list[str]:
    """The pattern with every number of its ``{first..last}``; the pattern itself if it has none."""
    before, brace, rest = pattern.partition("{")
    inside, closing, after = rest.partition("}")
    first, dots, last = inside.partition("..")
    if not (brace and closing and dots and first.isdecimal() and last.isdecimal()):
        return [pattern]
    numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return [f"{before}{number}{tail}" for number in numbers for tail in _count(after)]
