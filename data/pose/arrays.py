"""Reading npz files with errors that say what is missing, and objects in them without running what they hold."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError)


def read_arrays(path: str | Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Plain arrays of an npz file.

    Args:
        path: the file.
        names: arrays that must be there.
        optional: arrays that may be.

    Raises:
        DataError: if the file is missing, torn, lacks an array, or holds objects under one of these names.
    """
    with _open(path) as archive:
        missing = [name for name in names if name not in archive.files]
        if missing:
            raise DataError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(archive.files) or 'nothing'}")
        return {name: _read(archive, name, path) for name in [*names, *optional] if name in archive.files}


def read_object(path: str | Path, name: str) -> Any:
    """The nested dict of arrays that an npz file holds as an object, as Human3.6M's customary files do.

    NumPy stores objects as pickles, which may run anything when read; here dicts, lists and arrays are made, and a file
    that asks for more is refused.

    Raises:
        DataError: if the file is missing or torn, lacks the entry, or it holds anything else.
    """
    with _open(path) as archive:
        if name not in archive.files:
            raise DataError(f"{path} lacks {name}; it holds {', '.join(archive.files) or 'nothing'}")
    try:
        with zipfile.ZipFile(path) as members:
            content = io.BytesIO(members.read(f"{name}.npy"))
        version = np.lib.format.read_magic(content)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(content)
        if not dtype.hasobject or shape != ():
            raise DataError(f"{path}: {name} is an array {shape} of {dtype}, not a dict: this is another layout")
        return _ArraysOnly(content, encoding="latin1").load().item()
    except (*_DAMAGE, pickle.UnpicklingError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: {name} cannot be read ({_explain(error)}): fetch the file again") from error


class _ArraysOnly(pickle.Unpickler):
    """Makes nothing but NumPy arrays and what pickles are built of."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
        arrays = module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar")
        if arrays or (module, name) in allowed:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays are read from data files")


@contextmanager
def _open(path: str | Path) -> Iterator[Any]:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}: give the path of an npz file")
    with path.open("rb") as file:  # opened here, since NumPy leaves a torn file open
        try:
            archive = np.load(file, allow_pickle=False)
        except _DAMAGE as error:
            raise DataError(f"{path} is no whole npz file ({_explain(error)}): fetch or write it again") from error
        if not hasattr(archive, "files"):
            raise DataError(
                f"{path} holds one bare array: save it with a name, as numpy.savez(path, heatmaps=...) does"
            )
        yield archive


def _read(archive: Any, name: str, path: str | Path) -> NDArray[Any]:
    try:
        return np.asarray(archive[name])
    except _DAMAGE as error:
        raise DataError(f"{path}: {name} cannot be read ({_explain(error)}): write the file again") from error


def _explain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
