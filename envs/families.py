"""Families of simulators: what one brings, and how a specification such as "metaworld/reach-v3" finds it.

A package outside adds a family by an entry point that names a `Family`::

    [project.entry-points."polydit.environments"]
    kitchen = "polydit_kitchen:FAMILY"
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError
from polydit.platform.plugins import load_plugins

if TYPE_CHECKING:
    from .environment import Environment
    from .simulator import Simulator

GROUP = "polydit.environments"
"""Entry points of families that other packages bring."""

CLASS_PATHS = "gymnasium"
"""The family that makes environments named by a class path."""

_BUILT_IN = {
    "metaworld": "metaworld",
    "robosuite": "robosuite",
    "aloha": "aloha",
    "pusht": "pusht",
    "gymnasium": "gymnasium_tasks",
}


class Expert(ABC):
    """A scripted controller that solves a task, for collecting demonstrations."""

    @abstractmethod
    def reset(self, environment: Environment) -> None:
        """Prepare for the episode that has just begun.

        Args:
            environment: right after its reset; its simulator may be looked into, not changed.
        """

    @abstractmethod
    def act(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The action [A] for an observation; may exceed the bounds, which clip it."""


@dataclass(frozen=True)
class Family:
    """The tasks of one simulator.

    Args:
        build: task, options -> simulator.
        tasks: lists the tasks; "" stands for the only task of a family without names.
        experts: task -> maker of a controller that solves it, for those that have one.
    """

    build: Callable[..., Simulator]
    tasks: Callable[[], Sequence[str]]
    experts: Callable[[], Mapping[str, Callable[[], Expert]]] = dict


def find_family(spec: str) -> tuple[Family, str]:
    """The family and the task that a specification names.

    Args:
        spec: ``"family/task"``, ``"family"`` for one with a single task, or the class path ``"package.module.Class"``
            of a ``gymnasium.Env``.

    Raises:
        ConfigurationError: if there is no such family or task.
    """
    prefix, slash, task = spec.partition("/")
    if not slash and "." in prefix:
        prefix, task = CLASS_PATHS, spec
    family = load_family(prefix)
    known = family.tasks()
    if task not in known and prefix != CLASS_PATHS:
        near = difflib.get_close_matches(task, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
        raise ConfigurationError(f"{prefix} has no task {task!r}: {hint}")
    return family, task


def list_environments() -> list[str]:
    """Specifications of every task of the families built in, sorted; needs no simulator installed but Gymnasium."""
    return sorted(f"{prefix}/{task}".removesuffix("/") for prefix in _BUILT_IN for task in load_family(prefix).tasks())


def load_family(prefix: str) -> Family:
    """The family of this name, ours or one that a package registered.

    Raises:
        ConfigurationError: if there is none; the message lists those there are, and those that failed to load.
    """
    if prefix in _BUILT_IN:
        family: Family = import_module(f".{_BUILT_IN[prefix]}", __package__).FAMILY
        return family
    plugins = load_plugins(GROUP)
    for plugin in plugins:
        if plugin.name == prefix and isinstance(plugin.loaded, Family):
            return plugin.loaded
    known = sorted({*_BUILT_IN, *(plugin.name for plugin in plugins)})
    failed = "".join(f"; {plugin.name} failed: {plugin.error}" for plugin in plugins if plugin.error)
    raise ConfigurationError(
        f"there is no environment family {prefix!r}: known are {', '.join(known)}, "
        f"or a class path such as package.module.Class{failed}"
    )
