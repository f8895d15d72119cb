"""The folder that a run leaves behind: where it lies, and how an earlier run in it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .errors import CheckpointError

RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
BEST = "best.ckpt"
LEFT_BEHIND = (CHECKPOINTS, "logs", "samples*", "config*.yaml", "metrics.json", "rows.csv", "report.html")
"""Everything that a run writes; what else lies in the folder is not ours to move."""


def choose_folder(run: str | None, configs: Sequence[Path], ckpt_path: str | None) -> Path:
    """Folder of a run.

    Args:
        run: a name (``demo`` is ``runs/demo``) or a path (``./demo``, ``runs/demo``). None: the folder that the
            checkpoint came from, else ``runs/`` and the name of the last configuration file.
        configs: configuration files that were given.
        ckpt_path: checkpoint that was given; ``last`` and ``best`` say nothing about the folder.
    """
    if run is not None:
        return RUNS / run if Path(run).name == run else Path(run)
    if ckpt_path is not None and Path(ckpt_path).parent.name == CHECKPOINTS:
        return Path(ckpt_path).parent.parent
    return RUNS / (configs[-1].stem if configs else "run")


def find_checkpoint(ckpt_path: str | None, folder: Path) -> Path | None:
    """The checkpoint to start from: a path, or ``last`` or ``best`` of the run folder.

    Raises:
        CheckpointError: if the run folder holds no such checkpoint.
    """
    if ckpt_path not in ("last", "best"):
        return None if ckpt_path is None else Path(ckpt_path)
    path = folder / CHECKPOINTS / (LAST if ckpt_path == "last" else BEST)
    if not path.is_file():
        why = " It is kept only if checkpoint.monitor names a validation metric." if ckpt_path == "best" else ""
        raise CheckpointError(
            f"--ckpt_path {ckpt_path} means {path}, which does not exist.{why} Give another --run folder or a path"
        )
    return path


def config_path(folder: Path, stage: str) -> Path:
    """Where the resolved configuration is saved: config.yaml, but never over that of the fit in the same folder."""
    shared = stage != "fit" and (folder / CHECKPOINTS).is_dir()
    return folder / (f"config-{stage}.yaml" if shared else "config.yaml")


def set_aside(folder: Path) -> Path | None:
    """Move what an earlier run left in `folder` into ``earlier/<number>``, so that a new one starts in a clean folder.

    Returns:
        Where it went, or None if there was nothing to keep.
    """
    if not any((folder / CHECKPOINTS).glob("*.ckpt")):
        return None
    earlier = folder / "earlier"
    number = 1 + max((int(path.name) for path in earlier.glob("[0-9]*") if path.name.isdigit()), default=0)
    target = earlier / str(number)
    target.mkdir(parents=True)
    for pattern in LEFT_BEHIND:
        for path in sorted(folder.glob(pattern)):
            path.rename(target / path.name)
    return target
