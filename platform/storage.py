"""Files that are whole or absent: writing under a temporary name, reading with an error that says what is wrong."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from .errors import CheckpointError, RunError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left, quota used up, file larger than allowed."""


def as_disk_error(error: BaseException, path: Path | None = None) -> RunError | None:
    """The message for a full disk, or None if `error` is about something else.

    Args:
        error: what a write raised; torch hides the system's error in the context of its own.
        path: the file that was being written, if known.
    """
    cause = error if isinstance(error, OSError) else error.__context__
    if not isinstance(cause, OSError) or cause.errno not in DISK_FULL:
        return None
    name = path or cause.filename
    where = f" of {name}" if name else ""
    folder = Path(name).parent if name else Path.cwd()
    free = f"{shutil.disk_usage(folder).free / 1e6:.0f} MB free" if folder.is_dir() else "free space unknown"
    return RunError(
        f"the disk took no more{where} ({os.strerror(cause.errno or 0)}; {free}). Nothing already written is lost: "
        "the previous file stands whole. Free some space or choose another --run folder, then continue with "
        "--ckpt_path last"
    )


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well and removed when it does not.

    A reader sees the old file or the new one, never a part, even if the process is killed or the power fails.

    Raises:
        RunError: if the disk is full; `path` is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")  # a fixed name, so that the next write clears up after a kill
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        full = as_disk_error(error, path)
        if full is not None:
            raise full from error
        raise


def _flush(path: Path) -> None:
    # A rename may reach the disk before the content does, so both the file and its folder are synchronised.
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written whole or not at all and read as plain tensors only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; an earlier file of that name stands until the new one is complete.

        Raises:
            RunError: if the disk is full.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_path(path) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """The content of a checkpoint; files that would run code are refused, whatever `weights_only` says.

        Raises:
            CheckpointError: as `read_checkpoint`.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(path, map_location)


def read_checkpoint(path: Path | str, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a Lightning checkpoint without running any code it may hold.

    Args:
        path: a ``.ckpt`` file.
        map_location: device of the tensors.
        mmap: map the file instead of reading it, to look at names and shapes alone.

    Raises:
        CheckpointError: if the file is missing, a pointer to large-file storage, truncated, damaged, or no checkpoint.
    """
    path = Path(path)
    refuse_missing(path)
    refuse_pointer(path)
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or no checkpoint: take another checkpoint of the "
            "same run, or copy the file again from where it came"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()  # torch reads past wrong checksums
        if changed is not None:
            raise OSError(f"checksum of {changed} is wrong")
        checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects beside tensors and numbers, which are never loaded since they can run code: "
            f"save it again without them ({str(error).splitlines()[0][:160]})"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged ({str(error).splitlines()[0][:160]}): take another checkpoint of the same run, or copy "
            "the file again from where it came"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} holds no weights under 'state_dict': give a checkpoint of a training run")
    return checkpoint


def refuse_missing(path: Path) -> None:
    """Raise `CheckpointError` with the checkpoints there are, if `path` is not a file."""
    if path.is_file():
        return
    folder = path if path.is_dir() else path.parent
    there = sorted(folder.rglob("*.ckpt"))[:5] if folder.is_dir() else []
    listing = f"There are: {', '.join(map(str, there))}" if there else f"There is no .ckpt file under {folder}"
    problem = "is a folder, not a checkpoint" if path.is_dir() else "does not exist"
    raise CheckpointError(f"checkpoint {path} {problem}. {listing}")


def refuse_pointer(path: Path) -> None:
    """Raise `CheckpointError` if `path` is a git-lfs pointer that stands for the weights."""
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise CheckpointError(
                f"{path} is a git-lfs pointer ({path.stat().st_size} bytes), not the weights themselves: run "
                "'git lfs pull' in its repository, or download the file itself"
            )
