"""Reads the fenced blocks of the documentation: what a page tells its reader to type."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->$")
LANGUAGES = {"bash", "python", "yaml", "json", "text", "toml"}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: file it stands in, relative to the root.
        line: line of its opening fence, from 1.
        language: word after the fence.
        title: name of the file that the reader is told to write; None: not a file.
        text: what is inside, without its indentation.
        reason: why it is not run, from a ``<!-- not run: reason -->`` comment just before it; None if it is.
    """

    page: str
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def list_pages(root: Path) -> list[Path]:
    """Pages in reading order: README first, then as in the site's menu; later ones use what earlier ones left."""
    menu = yaml.safe_load((root / "mkdocs.yml").read_text())["nav"]
    return [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs" / page for page in _flatten(menu))]


def _flatten(menu: Any) -> list[str]:
    """The pages of a menu, whose entries are pages, titles with a page, or titles with a menu."""
    if isinstance(menu, str):
        return [menu]
    entries = menu.values() if isinstance(menu, dict) else menu
    return [page for entry in entries for page in _flatten(entry)]


def read_blocks(path: Path, root: Path) -> list[Block]:
    """The fenced blocks of one page, in order."""
    text = path.read_text()
    blocks = []
    for match in FENCE.finditer(text):
        before = NOT_RUN.search(text[: match.start()].rstrip())
        reason = before["reason"] if before else None
        lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines(keepends=True)]
        line = text.count("\n", 0, match.start()) + 1
        page = str(path.relative_to(root))
        blocks.append(Block(page, line, match["language"], match["title"], "".join(lines), reason))
    return blocks


def list_commands(block: Block) -> list[list[str]]:
    """The commands of a bash block as words; continued lines are joined, comments dropped."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]
