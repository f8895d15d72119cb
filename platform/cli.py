"""The `polydit` command: a thin dispatcher, so that ``--help`` answers at once; each command imports what it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from .errors import UserError, naming_extras


class Command(NamedTuple):
    """A subcommand: ``module.function(arguments)`` returns the exit code, and raises `UserError` for a mistake."""

    module: str
    function: str
    help: str


COMMANDS = {
    "fit": Command("polydit.platform.commands", "fit", "train a model"),
    "validate": Command("polydit.platform.commands", "validate", "losses on the validation split"),
    "test": Command("polydit.platform.commands", "test", "losses and metrics on the test split"),
    "predict": Command("polydit.platform.commands", "predict", "sample, write files and a report"),
    "export": Command("polydit.platform.commands", "export", "write a checkpoint as safetensors and JSON"),
}


def list_commands() -> dict[str, Command]:
    """All commands by name: those of the core, then the registered ones."""
    from .plugins import COMMANDS_GROUP, load_plugins

    registered = {plugin.name: plugin.loaded for plugin in load_plugins(COMMANDS_GROUP) if plugin.error is None}
    return {**COMMANDS, **{name: command for name, command in registered.items() if name not in COMMANDS}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: words after ``polydit``; None: those of the process.

    Returns:
        0; 2 for a mistake in what was given; 1 for a run that failed; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        print(describe())
        return 0
    if name == "--version":
        from polydit import __version__

        print(f"polydit {__version__}")
        return 0
    command = COMMANDS.get(name) or list_commands().get(name)
    if command is None:
        import difflib

        known = list_commands()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Commands are: {', '.join(known)}."
        print(f"polydit: no command {name!r}. {hint}", file=sys.stderr)
        return 2
    return _guard(name, command, words[1:])


def describe() -> str:
    """Help text of the command."""
    commands = list_commands()
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in commands.items()]
    return "\n".join(
        [
            "usage: polydit COMMAND [OPTIONS]",
            "",
            "One Diffusion Transformer core, many sciences.",
            "",
            "commands:",
            *lines,
            "",
            "polydit COMMAND --help lists the options of a command; polydit --version prints the version.",
            "POLYDIT_TRACEBACK=1 in the environment shows where a mistake was noticed.",
        ]
    )


def _guard(name: str, command: Command, words: list[str]) -> int:
    """Run a command; a user's mistake becomes one message and an exit code."""
    try:
        _load_plugins()
        with naming_extras():
            return _resolve(command)(words)
    except UserError as error:
        return _report(name, str(error), error.exit_code, error)
    except KeyboardInterrupt as error:
        return _report(name, "stopped by Ctrl-C", 130, error)
    except BrokenPipeError:
        # The reader of a pipe (head, less) went away; point stdout elsewhere so that closing it raises nothing more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _resolve(command: Command) -> Callable[[list[str]], int]:
    # Classes named by class path may lie in the current folder; it comes last, so that it hides no installed package.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    function: Callable[[list[str]], int] = getattr(import_module(command.module), command.function)
    return function


def _load_plugins() -> None:
    from .plugins import COMMANDS_GROUP, load_plugins

    for plugin in (*load_plugins(), *load_plugins(COMMANDS_GROUP)):
        if plugin.error is not None:
            print(f"polydit: plug-in {plugin.name} ({plugin.module}) is not loaded. {plugin.error}", file=sys.stderr)


def _report(name: str, message: str, code: int, error: BaseException) -> int:
    if os.environ.get("POLYDIT_TRACEBACK") == "1":
        raise error
    print(f"polydit {name}: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
