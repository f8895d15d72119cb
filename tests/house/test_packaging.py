"""The wheel and the sdist, built without network and installed where only the core dependencies are."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from polydit.platform.errors import MissingExtraError, naming_extras
from tests.house.arrows import find_modules, name_module

CORE_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "ignore"}


def close_over_requirements(requirements: list[str]) -> set[str]:
    """Names of the installed distributions that `requirements` bring, directly or not."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        extras = {"", *requirement.extras}
        key = f"{normalise(requirement.name)}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        try:
            lines = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(key)
        needed = map(Requirement, lines)
        waiting += [
            r for r in needed if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return {key.partition("[")[0] for key in found}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def link_distributions(names: set[str], site_packages: Path) -> None:
    """Links in `site_packages` to everything that the installed distributions `names` brought, and to nothing else."""
    for name in names:
        distribution = importlib.metadata.distribution(name)
        base = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
            target = site_packages / top
            if top != "__pycache__" and (base / top).exists() and not target.exists():
                target.symlink_to(base / top)


@pytest.fixture(scope="module")
def archives(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist); the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def core_python(root: Path, archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that holds the wheel and what the core depends on, and no extra."""
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site_packages,) = (folder / "lib").glob("python*/site-packages")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    names = close_over_requirements(project["dependencies"])
    assert {"torch", "pytorch-lightning", "typeshed-client"} <= names and "rdkit" not in names
    link_distributions(names, site_packages)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(archives[0])]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def run_python(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *arguments], cwd=cwd, env=CORE_ENVIRONMENT, capture_output=True, text=True, check=False
    )


def test_wheel_holds_every_module_and_nothing_else(root: Path, archives: tuple[Path, Path]) -> None:
    names = {name for name in zipfile.ZipFile(archives[0]).namelist() if name.endswith(".py")}
    assert names == {"polydit/__init__.py", *(f"polydit/{path}" for path in find_modules(root))}


def test_sdist_holds_the_sources_once(root: Path, archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[1]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
        assert not [member.name for member in archive.getmembers() if member.issym()]
    assert {str(path) for path in find_modules(root)} <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/conftest.py", "src/polydit/__init__.py"} <= names
    assert not [
        name for name in names if re.match(r"src/polydit/(platform|data|envs|domains)|runs/|\.venv/|site/", name)
    ]


def test_wheel_installs_with_the_core_dependencies_alone(core_python: Path, tmp_path: Path) -> None:
    missing = run_python(core_python, "-c", "import rdkit", cwd=tmp_path)
    assert "No module named 'rdkit'" in missing.stderr
    where = run_python(core_python, "-c", "import polydit; print(polydit.__file__, polydit.__version__)", cwd=tmp_path)
    assert where.stdout.split() == [
        str(next(core_python.parents[1].glob("lib/*/site-packages/polydit/__init__.py"))),
        "0.1.0",
    ]


def test_every_module_imports_with_the_core_dependencies_alone(root: Path, core_python: Path, tmp_path: Path) -> None:
    modules = [name_module(path) for path in find_modules(root)]
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        importlib.import_module(name)\n"
        "    except ImportError as error:\n        print(f'{name}: {error}')\n"
    )
    done = run_python(core_python, "-c", script, *modules, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_answers_with_the_core_dependencies_alone(core_python: Path, tmp_path: Path) -> None:
    command = [str(core_python.with_name("polydit")), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=CORE_ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fit" in done.stdout and "predict" in done.stdout


@pytest.mark.parametrize(
    ("script", "package"),
    [
        (
            "import numpy\nfrom polydit.data.chemistry.structure import AtomicStructure\n"
            "AtomicStructure(numpy.array([6]), numpy.zeros((1, 3))).to_ase()\n",
            "ase",
        ),
        (
            "import sys\nfrom polydit.platform.cli import main\n"
            "open('a.xyz', 'w').write('1\\n\\nC 0 0 0\\n')\nsys.exit(main(['check', 'a.xyz']))\n",
            "ase",
        ),
        ("from polydit.platform.errors import naming_extras\nwith naming_extras():\n    import torch_geometric.data\n",
         "torch_geometric"),
    ],
    ids=["python", "command", "any import"],
)  # fmt: skip
def test_domain_without_its_extra_names_it(core_python: Path, tmp_path: Path, script: str, package: str) -> None:
    done = run_python(core_python, "-c", script, cwd=tmp_path)
    assert done.returncode != 0
    assert f"{package} is not installed. It comes with the extra 'chemistry'" in done.stderr
    assert "pip install 'polydit[chemistry]'" in done.stderr


def test_import_error_of_another_package_passes_through() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as caught, naming_extras():
        importlib.import_module("no_such_package")
    assert not isinstance(caught.value, MissingExtraError)


def test_ranges_allow_what_the_constraints_pin(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    ranges = {normalise(Requirement(line).name): Requirement(line).specifier for line in lines}
    pins = [
        Requirement(line) for line in (root / "constraints.txt").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert pins
    for pin in pins:
        (version,) = (specifier.version for specifier in pin.specifier)
        assert ranges[normalise(pin.name)].contains(version), pin
