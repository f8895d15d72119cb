"""Packages outside that add domains or mechanisms: found by their entry points, imported when a command starts.

A package registers a module in its own ``pyproject.toml``::

    [project.entry-points."polydit.plugins"]
    proteins = "polydit_proteins"

A configuration can name any importable class by its path without that. What a registered module has imported can be
named by class name alone, and is offered where a name is misspelt or ``--help`` lists the choices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

GROUP = "polydit.plugins"
COMMANDS_GROUP = "polydit.commands"
"""Commands that a package adds: name -> a `polydit.platform.cli.Command`, in a module that is light to import."""

_IMPORT_FAILURES = (
    ImportError, SyntaxError, AttributeError, NameError, TypeError, ValueError, LookupError, OSError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class Plugin:
    """A registered package.

    Args:
        name: as registered.
        module: what was imported.
        error: why the import failed; None if it did not.
        loaded: what it is registered for: the module, or the object in it.
    """

    name: str
    module: str
    error: str | None = None
    loaded: Any = field(default=None, compare=False)


def load_plugins(group: str = GROUP) -> list[Plugin]:
    """Import everything registered in a group; what fails is reported and hinders nothing else.

    Args:
        group: of entry points.

    Returns:
        All of them in the order of their names, each with what went wrong.
    """
    plugins = []
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        error = loaded = None
        try:
            loaded = entry.load()
        except _IMPORT_FAILURES as failure:
            error = f"{type(failure).__name__}: {failure}"
        plugins.append(Plugin(entry.name, entry.value, error, loaded))
    return plugins
