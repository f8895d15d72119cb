"""Mistakes a user can make and mend: one message that names the value, the limit and the fix, without a traceback.

Raise one of these from anywhere; the command line prints the message alone and ends with `exit_code`. They are
`ValueError` too, so that callers from Python need not know this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what, why, and what to do instead.

    ``exit_code`` is what the command ends with: 2 for a mistake in what was given, 1 for a run that failed.
    """

    exit_code = 2


class ConfigurationError(UserError):
    """A configuration file or a command-line option is wrong."""


class DataError(UserError):
    """A data file or record is wrong, or there are none."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, not ours, or of another model."""


class RunError(UserError):
    """A run had to stop: the loss became NaN, or the disk is full."""

    exit_code = 1


class MissingExtraError(UserError, ImportError):
    """A domain needs a package that only an optional extra brings."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        module: import name, such as ``"rdkit.Chem"``.
        extra: the extra of polydit's package metadata that brings it, such as ``"chemistry"``.

    Raises:
        MissingExtraError: if the package is not installed; an import error inside an installed package passes through.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingExtraError(_missing(package, extra)) from error


@contextmanager
def naming_extras() -> Iterator[None]:
    """Inside, the failing import of a package that an extra brings raises an error that names the extra.

    `require` says so at one import; this covers every import below a front door, such as a command.

    Raises:
        MissingExtraError: in place of the `ModuleNotFoundError`; one of any other package passes through.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_extra(error.name or "")
        if missing is None:
            raise
        raise missing from error


def missing_extra(module: str) -> MissingExtraError | None:
    """The error that names the extra which brings `module`; None if no extra does.

    Args:
        module: import name that was not found, such as ``"rdkit.Chem"``.
    """
    package = module.partition(".")[0]
    extra = _find_extra(package)
    return None if extra is None else MissingExtraError(_missing(package, extra))


def _missing(package: str, extra: str) -> str:
    return f"{package} is not installed. It comes with the extra '{extra}': pip install 'polydit[{extra}]'"


def _find_extra(package: str) -> str | None:
    """The extra that brings `package`, by a name alike but for case and hyphens; None if none does."""
    from importlib import metadata  # slow to import, and seldom needed

    try:
        lines = metadata.requires("polydit") or []
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return None
    for line in lines:
        match = re.match(r"(?P<name>[\w.-]+)[^;]*;.*extra == ['\"](?P<extra>[\w-]+)['\"]", line)
        if match and match["name"].lower().replace("-", "_") == package.lower():
            return match["extra"]
    return None
