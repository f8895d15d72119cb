"""The one way to make an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polydit.platform.errors import require

from .environment import Environment
from .families import find_family
from .rendering import EXTRA, select_backend


def make(
    spec: str,
    cameras: Sequence[str] = (),
    image_size: tuple[int, int] = (84, 84),
    max_steps: int | None = None,
    **options: Any,
) -> Environment:
    """Make an environment.

    Args:
        spec: ``"family/task"``, such as ``"metaworld/reach-v3"``, ``"robosuite/Lift"``, ``"aloha/transfer_cube"``,
            ``"pusht"`` or ``"gymnasium/HalfCheetah-v5"``; or the class path of a ``gymnasium.Env``.
        cameras: image fields of an observation, by the simulator's names; none by default, for rendering costs most of
            the time.
        image_size: (height, width) of the images, pixels.
        max_steps: after which an episode is truncated; None: the task's own.
        **options: of the family, see its module.

    Returns:
        The environment; the caller closes it.

    Raises:
        ConfigurationError: if the family, the task, a camera or an option is unknown.
        MissingExtraError: if a simulator is not installed.
    """
    family, task = find_family(spec)
    select_backend()
    require("gymnasium", EXTRA)
    simulator = family.build(task, **options)
    try:
        return Environment(simulator, spec, tuple(cameras), image_size, max_steps)
    except BaseException:
        simulator.close()
        raise
