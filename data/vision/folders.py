"""Images in a folder: all in one, or one folder a class."""

from __future__ import annotations

from pathlib import Path

from polydit.platform.errors import DataError

from .decoding import SUFFIXES
from .pictures import UNKNOWN, ImageSet, ImageSource


class ImageFolder(ImageSource):
    """Image files below a folder; folders in it are classes, in the order of their names.

    A folder of images alone is one without classes. Files that are no images by their suffix are left out, and so is
    what begins with a dot.

    Args:
        path: the folder.
        split: that all images are listed in; None: in none, for `splits` as fractions.
    """

    def __init__(self, path: str, split: str | None = None) -> None:
        self.path, self.split = Path(path), split or ""

    def open(self) -> ImageSet:
        """The images, by class and name; no file is opened.

        Raises:
            DataError: if there is no such folder, no image in it, or some images lie in classes and some in none.
        """
        if not self.path.is_dir():
            raise DataError(f"there is no folder {self.path}: give one with {', '.join(SUFFIXES)} files")
        files = [
            path for path in sorted(self.path.rglob("*"))
            if path.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(self.path).parts)
        ]
        if not files:
            raise DataError(f"{self.path} holds no image: give a folder with {', '.join(SUFFIXES)} files")
        names = [path.relative_to(self.path).as_posix() for path in files]
        return FolderSet(self.path, *name_classes(names, str(self.path)), self.split)


class FolderSet(ImageSet):
    """Files below a folder.

    Args:
        folder: the folder.
        names: paths below it.
        labels: number of the class of each.
        classes: names of the classes.
        split: in which all of them are listed.
    """

    def __init__(
        self, folder: Path, names: list[str], labels: list[int], classes: tuple[str, ...], split: str
    ) -> None:
        self.folder, self.names, self.labels, self.classes, self.listed = folder, names, labels, classes, split

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """Bytes of the file."""
        path = self.folder / self.names[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): put it back, or start anew") from error

    def header(self, index: int) -> Path:
        """The path: the beginning of the file says its size."""
        return self.folder / self.names[index]

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self.folder / self.names[index])

    def label(self, index: int) -> int:
        """Number of the image's class."""
        return self.labels[index]

    def split(self, index: int) -> str:
        """Split in which all images are listed."""
        return self.listed


def name_classes(names: list[str], origin: str) -> tuple[list[str], list[int], tuple[str, ...]]:
    """Paths, number of each one's class, and names of the classes, which are the first folder of the path.

    Args:
        names: paths with forward slashes, below the origin.
        origin: for messages.

    Raises:
        DataError: if some lie in classes and some in none.
    """
    # An archive often wraps all in one folder, which is no class.
    tops = {name.partition("/")[0] for name in names}
    wrapped = len(tops) == 1 and all(name.count("/") >= 2 for name in names)
    inner = [name.partition("/")[2] for name in names] if wrapped else names
    bare = [name for name in inner if "/" not in name]
    if not bare:
        classes = tuple(sorted({name.partition("/")[0] for name in inner}))
        numbers = {name: number for number, name in enumerate(classes)}
        return names, [numbers[name.partition("/")[0]] for name in inner], classes
    if len(bare) < len(inner):
        raise DataError(
            f"{origin} holds {len(bare)} images beside class folders, such as {bare[0]}: move them into a class, or "
            "give a folder without classes"
        )
    return names, [UNKNOWN] * len(names), ()
