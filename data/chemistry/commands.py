"""Commands that chemistry adds to `polydit`, registered in ``pyproject.toml``; imported whenever help is printed."""

from polydit.platform.cli import Command

CHECK = Command("polydit.data.chemistry.check", "main", "count and check data files, naming bad records")
