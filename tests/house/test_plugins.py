"""An outside package, installed for the test alone, works like those inside; a broken one is named, no more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from polydit.platform.cli import describe, list_commands, main
from polydit.platform.plugins import Plugin, load_plugins
from polydit.platform.samplers import Sampler

PACKAGE = """
from polydit.platform.cli import Command
from polydit.platform.samplers import Euler

WAVE = Command("outside_package", "wave", "say hello")

def wave(words):
    print("hello", *words)
    return 0

class OutsideSampler(Euler):
    '''Euler under another name.'''
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Installs two packages, one of which cannot be imported."""
    (tmp_path / "outside_package.py").write_text(PACKAGE)
    (tmp_path / "broken_package.py").write_text("import no_such_library\n")
    metadata = tmp_path / "outside-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[polydit.plugins]\nouter = outside_package\nbad = broken_package\n"
        "[polydit.commands]\nwave = outside_package:WAVE\nfit = outside_package:WAVE\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("outside_package", None)


def test_outside_class_is_found_by_name(install: Path) -> None:
    bad, outer = load_plugins()
    assert outer == Plugin("outer", "outside_package") and bad.name == "bad"
    assert bad.error == "ModuleNotFoundError: No module named 'no_such_library'"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sampler", type=Sampler)
    parsed = parser.parse_object({"sampler": {"class_path": "OutsideSampler", "init_args": {"steps": 3}}})
    assert parsed.sampler.class_path == "outside_package.OutsideSampler"


def test_command_goes_on_without_a_broken_plugin(
    install: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path / "missing.ckpt"), str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "plug-in bad (broken_package) is not loaded" in lines[0] and "no_such_library" in lines[0]
    assert "missing.ckpt" in lines[-1]


def test_outside_command_runs_and_cannot_replace_one_of_the_core(
    install: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wave", "there"]) == 0
    assert capsys.readouterr().out == "hello there\n"
    assert main(["wav"]) == 2
    assert "Did you mean 'wave'?" in capsys.readouterr().err
    commands = list_commands()
    assert "say hello" in describe() and commands["fit"].module == "polydit.platform.commands"
