"""The import arrows hold, the root shadows no standard module, and shared code knows no domain by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.arrows import FOLDERS, find_modules, find_name_branches, find_wrong_imports

DOMAIN_WORDS = {
    "chemistry",
    "molecule",
    "molecules",
    "crystal",
    "crystals",
    "robotics",
    "pathology",
    "pose",
    "vision",
    "video",
}


def write_house(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_every_import_follows_the_arrows(root: Path) -> None:
    assert len(find_modules(root)) > 10
    assert find_wrong_imports(root) == []


@pytest.mark.parametrize(
    ("path", "text", "why"),
    [
        ("platform/a.py", "from polydit.data.chemistry import batch\n", "platform may not import data"),
        (
            "platform/samplers/a.py",
            "def f():\n    import polydit.domains.chemistry.codec\n",
            "platform may not import domains",
        ),
        ("platform/a.py", "from polydit import envs\n", "platform may not import envs"),
        ("platform/processes/a.py", "from ...data import chemistry\n", "platform may not import data"),
        (
            "platform/a.py",
            "import importlib\nimportlib.import_module('polydit.domains.pose')\n",
            "platform may not import domains",
        ),
        ("data/chemistry/a.py", "from polydit.domains.chemistry import codec\n", "data may not import domains"),
        ("data/a.py", "import polydit.envs\n", "data may not import envs"),
        ("envs/a.py", "from polydit.data import chemistry\n", "envs may not import data"),
        (
            "domains/pose/a.py",
            "from polydit.domains.video.codec import Codec\n",
            "domain pose may not import domain video",
        ),
        ("domains/pose/a.py", "from ..video import codec\n", "domain pose may not import domain video"),
        ("domains/pose/a.py", "from data.pose import read\n", "write polydit.data.pose.read"),
        ("domains/pose/a.py", "import src.polydit\n", "not of the package"),
    ],
)
def test_wrong_import_is_found(tmp_path: Path, path: str, text: str, why: str) -> None:
    house = write_house(tmp_path, {path: text, "platform/good.py": "import platform\nfrom .noise import NoiseSource\n"})
    (message,) = find_wrong_imports(house)
    assert message.startswith(path) and why in message


def test_right_imports_pass(tmp_path: Path) -> None:
    text = (
        "import platform\nimport polydit\nfrom polydit.platform.state import State\n"
        "from polydit.data.pose import read\n"
        "from polydit import envs\nfrom . import codec\nfrom .parts.legs import Leg\n"
    )
    assert find_wrong_imports(write_house(tmp_path, {"domains/pose/a.py": text})) == []


def test_shared_code_does_not_branch_on_a_domain(root: Path, tmp_path: Path) -> None:
    assert find_name_branches(root, DOMAIN_WORDS) == []
    bad = "def f(kind):\n    return 1 if kind == 'molecule' else kind in ('video', 'x')\n"
    assert len(find_name_branches(write_house(tmp_path, {"platform/a.py": bad}), DOMAIN_WORDS)) == 2


def test_root_does_not_shadow_the_standard_platform_module(root: Path) -> None:
    assert not (root / "platform" / "__init__.py").exists()
    command = [sys.executable, "-c", "import platform; print(platform.system()); print(platform.__file__)"]
    lines = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] and str(root) not in lines[1]


def test_no_module_is_named_after_a_standard_one(root: Path) -> None:
    names = {path.stem for path in find_modules(root) if path.parts[0] == "platform" and len(path.parts) == 2}
    assert names & sys.stdlib_module_names == set()


def test_every_package_folder_but_platform_has_a_front_file(root: Path) -> None:
    folders = {path.parent for path in find_modules(root)} - {Path("platform")}
    assert [str(folder) for folder in sorted(folders) if not (root / folder / "__init__.py").is_file()] == []


def test_links_for_type_checkers_lead_to_the_folders(root: Path) -> None:
    for folder in FOLDERS:
        link = root / "src" / "polydit" / folder
        if link.is_symlink():  # Windows checkouts hold a text file instead, and work without
            assert link.resolve() == root / folder
