"""The site builds, and what its pages tell a reader to type works, in the order of the pages, with small settings."""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from polydit.platform.cli import list_commands as all_commands
from polydit.platform.cli import main
from tests.house.pages import LANGUAGES, Block, list_commands, list_pages, read_blocks
from tests.house.recipes import shrink, shrink_examples

ROOT = Path(__file__).resolve().parents[2]
PAGES = [str(path.relative_to(ROOT)) for path in list_pages(ROOT)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has in front of him: the examples, small, and what the pages before have left."""
    folder = tmp_path_factory.mktemp("reader")
    shrink_examples(ROOT / "examples", folder / "examples")
    return folder


@pytest.fixture(scope="module")
def already_run() -> set[str]:
    """Commands that an earlier page had its reader type; what they left is still there."""
    return set()


@pytest.fixture
def inside(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield workspace


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "AtomicStructure" in (tmp_path / "site" / "reference" / "data" / "index.html").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_a_kind_that_is_run(page: str) -> None:
    for block in read_blocks(ROOT / page, ROOT):
        assert block.language in LANGUAGES, f"{block}: a fence is one of {sorted(LANGUAGES)}"
        assert block.language == "bash" or "polydit fit" not in block.text, f"{block}: commands stand in bash blocks"


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_works(page: str, inside: Path, already_run: set[str]) -> None:
    for block in read_blocks(ROOT / page, ROOT):
        if block.title is not None:
            write_file(block, inside)
        elif block.reason is None and block.language == "bash":
            for words in list_commands(block):
                if shlex.join(words) not in already_run:
                    run_command(words, block)
                    already_run.add(shlex.join(words))
        elif block.reason is None and block.language == "python":
            script = inside / "script.py"
            script.write_text(block.text)
            runpy.run_path(str(script))


def write_file(block: Block, folder: Path) -> None:
    """The file that a reader is told to write, made small if it is a recipe."""
    assert block.title is not None
    path = folder / block.title
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(shrink(yaml.safe_load(block.text))) if block.language == "yaml" else block.text)


def run_command(words: list[str], block: Block) -> None:
    """Run what can be run here; what cannot must be marked."""
    name = words[0]
    if name == "polydit":
        assert main(words[1:]) == 0, f"{block}: {' '.join(words)}"
    elif name == "make":
        done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}: {done.stderr}"
    elif name == ".ci/run":
        assert os.access(ROOT / name, os.X_OK)
    else:
        pytest.fail(f"{block}: {name} is not run by this test: precede the block with <!-- not run: reason -->")


def test_unmarked_command_that_is_not_run_is_found() -> None:
    block = Block("page.md", 1, "bash", None, "curl example\n", None)
    with pytest.raises(pytest.fail.Exception, match="curl is not run"):
        run_command(["curl", "example"], block)


def test_blocks_are_read_with_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n<!-- not run: takes a day -->\n```bash\npolydit fit \\\n  --config a.yaml  # slow\n```\n\n"
        '- item\n\n  ```yaml title="b.yaml"\n  key: 1\n  ```\n'
    )
    first, second = read_blocks(page, tmp_path)
    assert (first.line, first.reason, list_commands(first)) == (
        4, "takes a day", [["polydit", "fit", "--config", "a.yaml"]],
    )  # fmt: skip
    assert (second.title, second.language, second.text, second.reason) == ("b.yaml", "yaml", "key: 1\n", None)


def test_commands_are_these_and_documented() -> None:
    # Adding one is a decision: change the list, the commands page and the changelog together.
    assert list(all_commands()) == ["fit", "validate", "test", "predict", "export", "check", "serve"]
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    assert all(f"polydit {name}" in text for name in all_commands())
