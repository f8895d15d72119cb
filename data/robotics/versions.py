"""Versions of the simulators that demonstrations were recorded with, against those that are installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from importlib import metadata

from .demonstrations import DemonstrationSet


def compare_versions(recorded: Mapping[str, str]) -> list[str]:
    """What differs: ``"mujoco 3.2.7 (here 3.3.0)"`` for each distribution whose installed version is another.

    Args:
        recorded: distribution -> version, as an episode's record has them. One that is not installed is left out: what
            cannot run here cannot be scored here.
    """
    differences = []
    for name, version in sorted(recorded.items()):
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if installed != version:
            differences.append(f"{name} {version} (here {installed})")
    return differences


def warn_of_other_versions(sets: Iterable[DemonstrationSet]) -> None:
    """Say which demonstrations were recorded with other versions of what simulates, before anything is trained or run.

    The same actions may then lead elsewhere, so that a success rate tells of the simulator as well as of the policy.
    """
    for opened in sets:
        found = {text for index in range(len(opened)) for text in compare_versions(opened.versions(index))}
        if found:
            warnings.warn(
                f"{opened.name}: recorded with {', '.join(sorted(found))}; success rates may differ from those of the "
                "versions it was recorded with: install these, or record anew",
                stacklevel=2,
            )
