"""Configuration errors on one screen: what is wrong, in which file and line, and the nearest valid key."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigurationError, UserError, missing_extra, naming_extras

LONGEST_MESSAGE = 12
"""Lines of an unforeseen parser message that are shown."""


def explain(error: Exception, parser: Any, files: Sequence[Path] = ()) -> UserError:
    """Reword a parser's error.

    Args:
        error: what jsonargparse raised.
        parser: the parser that refused, for the keys it knows.
        files: the configuration files that were given, searched for the line of the mistake.
    """
    text = str(error)
    absent = re.search(r"No module named '([^']+)'", text)
    missing = missing_extra(absent[1]) if absent is not None else None
    if missing is not None:
        return missing
    place = ".".join(re.findall(r'Parser key "([\w.]+)"', text))
    for pattern, reword in _REWORDINGS:
        match = re.search(pattern, text, flags=re.DOTALL)
        if match is not None:
            return ConfigurationError(reword(match, place, text, parser, files))
    lines = [line for line in text.splitlines() if line.strip()]
    return ConfigurationError("\n".join(lines[:LONGEST_MESSAGE]))


def suggest(word: str, known: Iterable[str]) -> str:
    """``Did you mean ...?`` with the nearest of the known words, or the list of them."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(word, choices, n=2, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    if not choices:
        return ""
    more = f" and {len(choices) - 20} more" if len(choices) > 20 else ""
    return f"Known are: {', '.join(choices[:20])}{more}."


def locate(key: str, files: Sequence[Path]) -> str:
    """``(file, line 3)`` of the first line that sets `key`, or an empty string."""
    pattern = re.compile(rf"^[\s\-{{]*['\"]?{re.escape(key)}['\"]?\s*:|[{{,]\s*{re.escape(key)}\s*:")
    for file in files:
        if file.is_file():
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                if pattern.search(line):
                    return f" ({file}, line {number})"
    return ""


def _unknown_in_class(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    path, option = match["path"], match["option"].split(".")[0]
    known = _parameters(path)
    return f"unknown key {option!r} of {path}{_at(place)}{locate(option, files)}. {suggest(option, known)}"


def _unknown_in_group(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    group, option = match["group"], match["option"].split(".")[0]
    known = _children(parser, group + ".")
    return f"unknown key {option!r} in {group!r}{locate(option, files)}. {suggest(option, known)}"


def _unknown_at_top(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    option = match["option"].split(".")[0]
    return f"unknown key {option!r}{locate(option, files)}. {suggest(option, _children(parser, ''))}"


def _unknown_argument(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    option = match["option"]
    if not option.startswith("--"):
        return f"unexpected argument {option!r}: options start with --, as in --config FILE"
    return f"unknown option {option!r}. {suggest(option, ['--' + name for name in _destinations(parser)])}"


def _unknown_class(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    return _say_unknown_class(match["module"], match["name"], place, files)


def _say_unknown_class(module: str, name: str, place: str, files: Sequence[Path]) -> str:
    try:
        known = [word for word in dir(import_module(module)) if not word.startswith("_")]
    except ImportError:
        known = []
    return f"there is no {name!r} in {module}{_at(place)}{_mention(name, files)}. {suggest(name, known)}"


def _unknown_module(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    return _say_unknown_module(match["module"], place, files)


def _say_unknown_module(module: str, place: str, files: Sequence[Path]) -> str:
    return (
        f"module {module!r} cannot be imported{_at(place)}{_mention(module, files)}: check the class path, and that "
        "the package is installed or lies in the current folder"
    )


def _wrong_parent(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    path, parent = match["path"], match["parent"]
    module, _, name = path.rpartition(".")
    # Inside lists and unions the parser says this, too, of a class that it could not import.
    with naming_extras():
        try:
            found = hasattr(import_module(module), name) if module else False
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            return _say_unknown_module(error.name, place, files)
    if not found:
        return _say_unknown_class(module, name, place, files)
    return f"{path} is not a {parent}{_at(place)}{_mention(path, files)}: give the class path of one"


def _wrong_type(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    expected = list(dict.fromkeys(re.findall(r"Expected an? (?:<class ')?([\w.\[\], ]+)", text)))
    wanted = " or ".join("nothing (null)" if name == "NoneType" else name.strip() for name in expected)
    given = re.findall(r"(?:Got value|Given value): (.*)", text)
    value = f", not {given[-1][:80]!r}" if given else ""
    key = place.rsplit(".", maxsplit=1)[-1]
    return f"{place} must be {wanted}{value}{locate(key, files)}"


def _missing_file(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    missing = [file for file in files if not file.is_file()]
    path = missing[0] if missing else Path(match["path"])
    there = [file.name for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    near = suggest(path.name, there) if there else f"There is no .yaml file in {path.parent}."
    return f"configuration file {path} does not exist. {near}"


def _broken_yaml(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    for file in files:
        try:
            yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            return f"{file} is no valid YAML: {' '.join(str(error).split())}"
    return "\n".join(text.splitlines()[:LONGEST_MESSAGE])


def _missing_arguments(match: re.Match[str], place: str, text: str, parser: Any, files: Sequence[Path]) -> str:
    source = "in the configuration" if files else "because no --config FILE was given"
    return f"{match['names'].strip()} must be set and is not, {source}. Recipes to start from lie in examples/"


_REWORDINGS = [
    (
        r"Problem with given class_path '(?P<path>[^']+)':\s+Option '(?P<option>[^']+)' is not accepted",
        _unknown_in_class,
    ),
    (r"Group '(?P<group>[^']+)' does not accept option '(?P<option>[^']+)'", _unknown_in_group),
    (r"Option '(?P<option>[^']+)' is not accepted", _unknown_at_top),
    (r"[Uu]nrecognized arguments: (?P<option>[^\s=]+)", _unknown_argument),
    (r"module '(?P<module>[^']+)' has no attribute '(?P<name>[^']+)'", _unknown_class),
    (r"No module named '(?P<module>[^']+)'", _unknown_module),
    (r"Import path (?P<path>\S+) does not correspond to a subclass of (?P<parent>\S+)", _wrong_parent),
    (r"File does not exist: '(?P<path>[^']+)'", _missing_file),
    (r"Problems parsing config", _broken_yaml),
    (r"arguments are required: (?P<names>.+)", _missing_arguments),
    (r"Expected an? ", _wrong_type),
]


def _at(place: str) -> str:
    return f" at {place}" if place else ""


def _mention(word: str, files: Sequence[Path]) -> str:
    for file in files:
        if file.is_file():
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                if word in line:
                    return f" ({file}, line {number})"
    return ""


def _parameters(class_path: str) -> list[str]:
    """Names that the constructor of a class and of its parents take."""
    module, _, name = class_path.rpartition(".")
    cls = getattr(import_module(module), name)
    if not isinstance(cls, type):
        return [parameter for parameter in inspect.signature(cls).parameters]
    names: list[str] = []
    for base in cls.__mro__:
        own = vars(base).get("__init__")
        if own is None:
            continue
        parameters = inspect.signature(own).parameters.values()
        names += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # nothing is passed on to the parent
    return names


def _destinations(parser: Any) -> list[str]:
    return [action.dest for action in parser._actions if action.dest]


def _children(parser: Any, prefix: str) -> list[str]:
    return [name[len(prefix) :].split(".")[0] for name in _destinations(parser) if name.startswith(prefix)]
