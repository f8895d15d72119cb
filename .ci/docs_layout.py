"""A MkDocs hook: lays the package out as documentation tools expect, since they skip folders without a front file.

`platform/` must not hold one in the checkout (it would shadow Python's own module), so the layout is made of links in
a cache.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = ROOT / ".cache" / "docs"


def on_startup(**_: Any) -> None:
    """Make the layout anew, before the plug-ins are configured and look for it."""
    shutil.rmtree(LAYOUT, ignore_errors=True)
    package = LAYOUT / "polydit"
    (package / "platform").mkdir(parents=True)
    (package / "__init__.py").symlink_to(ROOT / "src" / "polydit" / "__init__.py")
    for folder in ("domains", "envs", "data"):
        (package / folder).symlink_to(ROOT / folder)
    (package / "platform" / "__init__.py").write_text('"""What every domain shares, and which knows no domain."""\n')
    for path in (ROOT / "platform").iterdir():
        if path.name != "__pycache__":
            (package / "platform" / path.name).symlink_to(path)
