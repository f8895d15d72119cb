"""Commands that robotics adds to `polydit`, registered in ``pyproject.toml``; imported whenever help is printed."""

from polydit.platform.cli import Command

SERVE = Command("polydit.domains.robotics.serving", "main", "answer observations with a trained policy, over a socket")
