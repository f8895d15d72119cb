"""The arrows of the house: who may import whom, read from the source without importing any of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("platform", "data", "envs", "domains")
ALLOWED = {
    "platform": {"platform"},
    "data": {"data", "platform"},
    "envs": {"envs", "platform"},
    "domains": {"domains", "data", "envs", "platform"},
}


def find_modules(root: Path) -> list[Path]:
    """Every module of the package, relative to `root`."""
    return sorted(path.relative_to(root) for folder in FOLDERS for path in (root / folder).rglob("*.py"))


def name_module(path: Path) -> str:
    """Dotted import name of a module at `path`, relative to the root."""
    parts = ("polydit", *path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def list_imports(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of each import, wherever in the file, relative ones resolved."""
    package = ("polydit", *path.parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *((node.module,) if node.module else ())))
            for alias in node.names:
                yield node.lineno, f"{stem}.{alias.name}"
        elif is_dynamic_import(node):
            yield node.lineno, node.args[0].value  # type: ignore[attr-defined]


def is_dynamic_import(node: ast.AST) -> bool:
    """Whether this is ``import_module("a.b")`` or ``__import__("a.b")`` of a name written out."""
    if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in {"import_module", "__import__"} and isinstance(node.args[0].value, str)


def find_wrong_imports(root: Path) -> list[str]:
    """One line per import that goes against the arrows, with the file, the line and why."""
    wrong = []
    for path in find_modules(root):
        for line, name in list_imports((root / path).read_text(), path):
            why = explain_wrong_import(path, name)
            if why:
                wrong.append(f"{path}:{line}: {why}")
    return wrong


def explain_wrong_import(path: Path, name: str) -> str | None:
    """Why the module at `path` may not import `name`; None if it may."""
    parts = name.split(".")
    if parts[0] in {"data", "envs", "domains", "src", "tests", "examples", "benchmarks"}:
        return f"imports {name}; write polydit.{name}" if parts[0] in FOLDERS else f"imports {name}, not of the package"
    if parts[0] != "polydit" or len(parts) < 2 or parts[1] not in FOLDERS:
        return None
    here, there = path.parts[0], parts[1]
    if there not in ALLOWED[here]:
        return f"{here} may not import {there} ({name})"
    if here == there == "domains" and len(path.parts) > 2 and len(parts) > 2 and path.parts[1] != parts[2]:
        return f"domain {path.parts[1]} may not import domain {parts[2]} ({name}); what two need moves to platform"
    return None


def find_name_branches(root: Path, names: set[str]) -> list[str]:
    """Places in platform/ that compare something with the name of a domain, or match it."""
    found = []
    for path in find_modules(root):
        if path.parts[0] != "platform":
            continue
        for node in ast.walk(ast.parse((root / path).read_text())):
            operands = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            if isinstance(node, ast.MatchValue):
                operands = [node.value]
            constants = [leaf for operand in operands for leaf in ast.walk(operand) if isinstance(leaf, ast.Constant)]
            found += [f"{path}:{leaf.lineno}: {leaf.value!r}" for leaf in constants if leaf.value in names]
    return found
