"""Molecules and crystals in the report: drawn as they are, and a browser shows them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.drawing.figure import build_figure, unit_sphere
from polydit.domains.chemistry.drawing.scene import find_bonds, stage_structure
from polydit.domains.chemistry.drawing.still import draw_still
from polydit.domains.chemistry.gallery import CrystalGallery, MoleculeGallery
from polydit.platform.evaluation.figures import encode_figure, plot_histogram
from polydit.platform.evaluation.page import Chart, GallerySection, Page, render_page
from polydit.platform.evaluation.report import make_card
from polydit.platform.requests import Request, Sample

pytest.importorskip("rdkit")
pytest.importorskip("pymatgen")
pytestmark = pytest.mark.filterwarnings("ignore:No Pauling electronegativity")

METHANOL = AtomicStructure(
    np.array([6, 8, 1, 1, 1, 1]),
    np.array([[-0.046, 0.663, 0.0], [-0.046, -0.758, 0.0], [-1.087, 0.976, 0.0], [0.436, 1.07, 0.89],
              [0.436, 1.07, -0.89], [0.86, -1.057, 0.0]]),
)
ROCK_SALT = AtomicStructure(
    np.array([11] * 4 + [17] * 4),
    5.64 * np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0],
                     [0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]),
    5.64 * np.eye(3),
)
POLONIUM = AtomicStructure(np.array([84]), np.array([[0.02, 3.34, -0.01]]), 3.35 * np.eye(3))
INVALID = AtomicStructure(np.array([6, 1, 1, 1, 1, 1]), np.vstack([np.zeros(3), 0.9 * np.eye(3), -0.9 * np.eye(3)[:2]]))
LOST = AtomicStructure(np.array([6, 8]), np.array([[0.0, 0, 0], [np.nan, 0, 0]]))
FLAT = AtomicStructure(np.array([6, 6]), np.zeros((2, 3)), np.diag([3.0, 3.0, 0.0]))
INFINITE = AtomicStructure(np.array([6]), np.zeros((1, 3)), np.diag([3.0, np.inf, 3.0]))
OVERLAPPING = AtomicStructure(np.array([6, 6]), np.zeros((2, 3)), 3.0 * np.eye(3))


def wrap(*structures: AtomicStructure) -> list[Sample]:
    return [Sample(Request(i), structure) for i, structure in enumerate(structures)]


def test_sphere_is_closed_and_faces_outwards() -> None:
    for subdivisions, count in ((0, 12), (1, 42), (2, 162)):
        vertices, faces = unit_sphere(subdivisions)
        assert len(vertices) == count and len(faces) == 2 * (count - 2)  # Euler: V - E + F = 2 with 3 F = 2 E
        np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1)
        corners = vertices[faces]
        volumes = np.linalg.det(corners)
        assert (volumes > 0).all()
        assert volumes.sum() / 6 < 4 * np.pi / 3
    assert volumes.sum() / 6 == pytest.approx(4 * np.pi / 3, rel=0.05)


def test_bonds_of_methanol() -> None:
    assert find_bonds(METHANOL.numbers, METHANOL.positions).tolist() == [[0, 1], [0, 2], [0, 3], [0, 4], [1, 5]]


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_staging_is_a_proper_rotation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    structure = AtomicStructure(np.arange(1, 6), rng.normal(size=(5, 3)) * 2)
    scene = stage_structure(structure)
    centred = structure.positions - structure.positions.mean(axis=0)
    # Equal distances allow a mirror image; equal oriented volumes do not.
    np.testing.assert_allclose(scene.positions @ scene.positions.T, centred @ centred.T, atol=1e-9)
    assert np.linalg.det(scene.positions[:3]) == pytest.approx(np.linalg.det(centred[:3]), abs=1e-9)
    spread = scene.positions.std(axis=0)
    assert spread[0] >= spread[2] - 1e-9 and spread[2] >= spread[1] - 1e-9
    crystal = stage_structure(replace(structure, cell=np.eye(3) * 5 + rng.uniform(-0.5, 0.5, (3, 3))))
    assert crystal.edges is not None and crystal.edges.shape == (12, 2, 3)
    assert np.linalg.norm(crystal.positions, axis=1).max() <= crystal.reach


def test_atoms_on_a_corner_and_a_face_are_repeated() -> None:
    scene = stage_structure(ROCK_SALT)
    assert (scene.numbers == 11).sum() == 14 and (scene.numbers == 17).sum() == 13  # the textbook picture of rock salt
    assert len(stage_structure(POLONIUM).numbers) == 8  # beside a corner by less than the margin
    inside = replace(POLONIUM, positions=np.array([[0.5, 1.0, 1.5]]))
    assert len(stage_structure(inside).numbers) == 1


def test_captions_name_what_is_known() -> None:
    methanol, invalid, lost = MoleculeGallery().figures(wrap(METHANOL, INVALID, LOST))
    assert (methanol.title, methanol.caption) == ("CH₄O", "CO\n6 atoms")
    assert invalid.title == "CH₅" and invalid.caption.startswith("no SMILES")
    assert lost.caption.startswith("coordinates are not finite")
    salt, polonium, flat, infinite, overlapping = CrystalGallery().figures(
        wrap(ROCK_SALT, POLONIUM, FLAT, INFINITE, OVERLAPPING)
    )
    assert salt.title == "NaCl"
    assert salt.caption.split("\n") == [
        "space group Fm-3m (225)", "8 atoms in the cell", "a 5.64 b 5.64 c 5.64 Å", "α 90° β 90° γ 90°"
    ]
    assert polonium.caption.startswith("space group Pm-3m (221)\n1 atom in the cell")
    assert "flat or not finite" in flat.caption and "flat or not finite" in infinite.caption
    assert overlapping.caption.startswith("no space group found")


@pytest.mark.parametrize("structure", [METHANOL, ROCK_SALT, POLONIUM, INVALID, LOST, FLAT, INFINITE, OVERLAPPING])
def test_every_structure_is_drawn_with_finite_numbers(structure: AtomicStructure) -> None:
    scene = stage_structure(structure)
    still = draw_still(scene)
    assert "nan" not in still and "inf" not in still
    assert still.count("<circle") == 2 * len(scene.numbers)
    figure = build_figure(scene)
    meshes = [trace for trace in figure.data if trace.type == "mesh3d"]
    assert {mesh.name for mesh in meshes} <= {"Carbon", "Hydrogen", "Oxygen", "Sodium", "Chlorine", "Polonium"}
    assert len(meshes) == len(np.unique(scene.numbers))
    for mesh in meshes:
        points = np.stack([mesh.x, mesh.y, mesh.z])
        assert np.isfinite(points).all() and np.abs(points).max() <= scene.reach + 1e-5
        assert max(mesh.i.max(), mesh.j.max(), mesh.k.max()) < points.shape[1]
    assert len(encode_figure(figure)) < 300_000


def test_galleries_share_the_samples_between_them() -> None:
    for sample in [*wrap(METHANOL, ROCK_SALT), Sample(Request(0), "neither")]:
        structure = isinstance(sample.item, AtomicStructure)
        assert MoleculeGallery().accepts(sample) + CrystalGallery().accepts(sample) == structure


def make_page(samples: list[Sample]) -> str:
    sections = []
    for gallery in (MoleculeGallery(), CrystalGallery()):
        chosen = [sample for sample in samples if gallery.accepts(sample)]
        cards = [make_card(item, i, 0, []) for i, item in enumerate(gallery.figures(chosen))]
        sections.append(GallerySection(gallery.title, "", cards))
    histogram = plot_histogram(np.arange(10.0), np.arange(10.0))
    charts = [Chart("Numbers", encode_figure(histogram))] if histogram is not None else []
    return render_page(Page("Test", "predict", "", "0", "", [], [], [], sections, charts, [], ""))


class Browser:
    """Chromium without a window, on a page of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder = program, folder

    def run(self, page: Path, *options: str) -> str:
        command = [
            self.program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            "--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000",
            "--window-size=600,1700", f"--user-data-dir={self.folder / uuid.uuid4().hex}", *options, page.as_uri(),
        ]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        except subprocess.TimeoutExpired:  # on a loaded machine a browser may wait for itself for ever
            command[-len(options) - 2] += "-again"
            return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    return Browser(program, tmp_path_factory.mktemp("browser"))


def test_log_of_the_browser_tells_of_a_page_that_loads_something(browser: Browser, tmp_path: Path) -> None:
    page, log = tmp_path / "page.html", tmp_path / "net.json"
    page.write_text('<img src="http://example.invalid/picture.png">', encoding="utf-8")
    browser.run(page, "--dump-dom", f"--log-net-log={log}")
    assert requests_of(log) == ["http://example.invalid/picture.png"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # seconds of work, but on a loaded machine minutes of waiting
def test_browser_draws_the_page_and_loads_nothing(browser: Browser, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path, log, picture = tmp_path / "report.html", tmp_path / "net.json", tmp_path / "page.png"
    path.write_text(make_page(wrap(METHANOL, ROCK_SALT)), encoding="utf-8")
    drawn = browser.run(path, "--dump-dom", f"--log-net-log={log}")
    # Two figures to turn are live, and one chart has its ten bars.
    assert len(re.findall(r'class="stage turnable on"', drawn)) == 2
    assert len(re.findall(r"<canvas", drawn)) >= 2
    assert len(re.findall(r'<g class="point">', drawn)) == 10
    assert requests_of(log) == []
    browser.run(path, f"--screenshot={picture}")
    pixels = np.asarray(image.open(picture).convert("RGB")).astype(int).reshape(-1, 3)
    red, green, blue = pixels.T
    assert ((red > 180) & (green < 60) & (blue < 60)).sum() > 200  # methanol's oxygen
    assert ((green > 180) & (red < 90) & (blue < 90)).sum() > 1000  # chlorine
    assert ((blue > 200) & (red < 140) & (green > 120) & (green < 180)).sum() > 1000  # bars


def requests_of(log: Path) -> list[str]:
    """Addresses on the network that a page asked for; what a browser wants for itself has no origin."""
    events: list[dict[str, Any]] = json.loads(log.read_text(encoding="utf-8"))["events"]
    asked = [event.get("params", {}) for event in events]
    own = [str(params.get("url")) for params in asked if params.get("initiator", "not an origin") != "not an origin"]
    return [address for address in own if address.startswith(("http:", "https:", "ws:", "wss:"))]
