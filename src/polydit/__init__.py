"""polydit: one Diffusion Transformer core, many sciences.

The public front: `load` a trained model from its checkpoint, `build` one from a configuration, `__version__`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polydit.platform.checkpoints import build, load

__all__ = ["__version__", "build", "load"]

# In a source checkout the folders of the package lie at its root, so that platform/denoisers/dit.py is
# polydit.platform.denoisers.dit; a wheel holds them beside this file and needs no help.
_ROOT = Path(__file__).resolve().parents[2]
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "platform").is_dir():
    __path__[:] = [str(_ROOT)]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily, because torch and Lightning take seconds to import and `polydit --help` needs neither.
    if name in {"build", "load"}:
        from polydit.platform import checkpoints

        return getattr(checkpoints, name)
    raise AttributeError(f"module 'polydit' has no attribute {name!r}; public are {', '.join(__all__)}")
