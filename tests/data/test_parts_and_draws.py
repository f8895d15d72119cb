"""Disjoint parts of the training split, and requests drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.drawn import BINS, DRAWN, LabelledStructures, drawn_properties
from polydit.data.chemistry.sources import QM9Source
from polydit.data.chemistry.splitting import shares
from polydit.data.chemistry.wishes import Wishes
from polydit.platform.errors import ConfigurationError, DataError, UserError
from polydit.platform.requests import Request

from .test_datamodule import RandomSource

QM9 = Path(__file__).resolve().parents[3] / "shared" / "data" / "molecules" / "qm9"


@pytest.fixture
def build(tmp_path: Path) -> Any:
    """Makes data modules over 400 molecules and 100 crystals that share a cache."""

    def make(**options: Any) -> ChemistryDataModule:
        sources = [RandomSource("molecule", 400), RandomSource("crystal", 100, label="band_gap")]
        module = ChemistryDataModule(options.pop("sources", sources), str(tmp_path / "cache"), **options)
        module.prepare_data()
        module.setup("fit")
        return module

    return make


@given(size=st.integers(0, 300), cut=st.floats(0.05, 0.95), seed=st.integers(0, 2**16))
def test_shares_are_even_and_parts_divide(size: int, cut: float, seed: int) -> None:
    values = shares(size, seed)
    assert sorted(values.tolist()) == [i / size for i in range(size)]
    assert (values < cut).sum() + (values >= cut).sum() == size
    assert abs((values < cut).sum() - cut * size) <= 1


def test_halves_are_disjoint_and_whole_together(build: Any) -> None:
    whole, first, second = (build(train_part=part) for part in (None, [0, 0.5], [0.5, 1]))
    one, two = set(first.places("train").tolist()), set(second.places("train").tolist())
    assert one.isdisjoint(two)
    assert sorted(one | two) == whole.places("train").tolist()
    assert abs(len(one) - len(two)) < 0.2 * len(one | two)
    for split in ("val", "test"):
        assert first.places(split).tolist() == second.places(split).tolist() == whole.places(split).tolist()


@pytest.mark.parametrize(
    "options",
    [{"seed": 3}, {"limit": 20}, {"max_atoms": 6}, {"splits": [0.5, 0.2, 0.3], "seed": 9}, {"labelled": ["gap"]}],
)
def test_halves_stay_disjoint_whatever_else_differs(options: dict[str, Any], build: Any) -> None:
    first, second = build(train_part=[0, 0.5]), build(train_part=[0.5, 1], **options)
    assert len(second.places("train")) > 10
    assert set(first.places("train").tolist()).isdisjoint(second.places("train").tolist())


def test_the_order_of_parts_has_a_seed(build: Any) -> None:
    one, again, other = (build(train_part=[0, 0.3], part_seed=seed).places("train").tolist() for seed in (1, 1, 2))
    assert one == again != other


def test_only_the_labelled_are_left(build: Any) -> None:
    module = build(labelled=["gap"])
    for split in ("train", "val", "test"):
        assert all("gap" in structure.labels for structure in module.structures(split))
    assert len(module.places("train")) == 120
    with pytest.raises(DataError, match="no source has the property 'gab': did you mean 'gap'"):
        build(labelled=["gab"])


@pytest.mark.parametrize("part", [[0.5, 0.5], [0.2], [-0.1, 0.5], [0.5, 1.2], [1.0, 0.5]])
def test_a_part_that_is_none_is_refused(part: list[float]) -> None:
    with pytest.raises(ConfigurationError, match=r"two ascending shares from 0 to 1: give \[0, 0.5\]"):
        ChemistryDataModule([RandomSource("molecule")], train_part=part)


def test_units_of_properties(build: Any) -> None:
    assert build().property_unit("gap") == ""


def labelled(count: int = 4000) -> LabelledStructures:
    """Molecules whose gap is near 10 minus half their size, and crystals without one."""
    generator = np.random.default_rng(0)
    num_atoms = generator.integers(3, 15, count)
    gap = 10 - num_atoms / 2 + 0.1 * generator.normal(size=count)
    periodic = generator.random(count) < 0.2
    values = {"gap": np.where(periodic, np.nan, gap), "logp": -gap}
    return LabelledStructures(num_atoms, periodic, values, lambda place: f"C1 H{num_atoms[place] - 1}")


def draw(structures: LabelledStructures, seed: int = 0, **wishes: Any) -> dict[str, Any]:
    return structures.draw(Request(seed, wishes)).wishes


def test_properties_and_sizes_are_drawn_together() -> None:
    structures = labelled()
    drawn = [draw(structures, seed, domain="molecule", properties={"gap": DRAWN}) for seed in range(600)]
    sizes, gaps = (np.array([w["num_atoms"] for w in drawn]), np.array([w["properties"]["gap"] for w in drawn]))
    assert np.abs(gaps - (10 - sizes / 2)).max() < 0.6
    real = structures.values["gap"]
    assert gaps.mean() == pytest.approx(np.nanmean(real), abs=0.15)
    assert gaps.std() == pytest.approx(np.nanstd(real), rel=0.1)
    width = (np.nanmax(real) - np.nanmin(real)) / BINS
    nearest = np.abs(gaps[:, None] - real[None, :][:, ~np.isnan(real)]).min(axis=1)
    assert nearest.max() <= width * 1.001 and nearest.max() > 0


def test_same_seed_same_requests() -> None:
    structures = labelled()
    wishes = {"properties": {"gap": DRAWN, "logp": DRAWN}}
    one, again, other = (draw(structures, seed, **wishes) for seed in (5, 5, 6))
    assert one == again != other
    assert one["domain"] == "molecule"
    assert one["properties"]["gap"] == pytest.approx(-one["properties"]["logp"], abs=0.05)
    assert Wishes.parse(one).properties == one["properties"]


def test_a_request_without_draws_is_left_alone() -> None:
    request = Request(0, {"domain": "molecule", "properties": {"gap": 3.0}})
    assert labelled().draw(request) is request
    assert drawn_properties({"properties": None}) == []


def test_a_size_that_is_told_is_kept() -> None:
    structures = labelled()
    for seed in range(20):
        assert draw(structures, seed, num_atoms=7, properties={"gap": DRAWN})["num_atoms"] == 7
        drawn = draw(structures, seed, elements="CH4", properties={"gap": DRAWN})
        assert "num_atoms" not in drawn
        assert drawn["properties"]["gap"] == pytest.approx(7.5, abs=0.6)


def test_elements_are_drawn_with_the_size_and_the_property_of_their_structure() -> None:
    structures = labelled()
    for seed in range(50):
        drawn = draw(structures, seed, domain="molecule", elements=DRAWN, properties={"gap": DRAWN})
        size = Wishes.parse(drawn).size
        assert size is not None and "num_atoms" not in drawn
        assert drawn["properties"]["gap"] == pytest.approx(10 - size / 2, abs=0.6)
        assert Wishes.parse(draw(structures, seed, num_atoms=7, elements=DRAWN)).size == 7
    sizes = [Wishes.parse(draw(structures, seed, elements=DRAWN)).size for seed in range(600)]
    assert np.mean(sizes) == pytest.approx(structures.num_atoms.mean(), abs=0.4)  # type: ignore[arg-type]


def test_drawn_elements_are_those_of_training_structures(build: Any) -> None:
    module = build(requests=[{"domain": "molecule", "elements": DRAWN, "count": 30}])
    known = {tuple(np.bincount(structure.numbers, minlength=100)) for structure in module.structures("train")}
    wishes = [Wishes.parse(request.wishes) for request in module.drawn_requests()]
    assert len(wishes) == 30 and len({wish.elements for wish in wishes}) > 10
    assert all(tuple(np.bincount(wish.elements, minlength=100)) in known for wish in wishes)
    assert all(wish.domain == "molecule" for wish in wishes)


def test_a_single_value_is_drawn_as_it_is() -> None:
    structures = LabelledStructures(np.array([4]), np.array([False]), {"gap": np.array([2.5])}, str)
    assert draw(structures, properties={"gap": DRAWN}) == {
        "domain": "molecule", "num_atoms": 4, "properties": {"gap": 2.5},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"properties": {"gap": DRAWN, "logp": 1.0}}, "draws gap and gives logp"),
        ({"properties": {"mass": DRAWN}}, "mass is to be drawn, but no training structure has it"),
        ({"num_atoms": 99, "properties": {"gap": DRAWN}}, "the training split has no structure of 99 atoms"),
        ({"num_atoms": 99, "elements": DRAWN}, "elements cannot be drawn: the training split has no structure of 99"),
        ({"domain": "crystal", "properties": {"gap": DRAWN}}, "the training split has no crystal of any size"),
    ],
)
def test_what_cannot_be_drawn_is_said(wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw(labelled(), **wishes)


def test_the_data_module_draws(build: Any) -> None:
    entry = {"domain": "molecule", "count": 40, "properties": {"gap": DRAWN}}
    module = build(requests=[entry, {"domain": "crystal"}], train_part=[0.5, 1])
    requests = [request for batch in module.predict_dataloader() for request in batch]
    assert [request.seed for request in requests] == list(range(41))
    assert requests[-1].wishes == {"domain": "crystal"}
    known = {(len(s.numbers)) for s in module.structures("train", "molecule") if "gap" in s.labels}
    assert {request.wishes["num_atoms"] for request in requests[:40]} <= known
    assert requests == build(requests=[entry, {"domain": "crystal"}], train_part=[0.5, 1]).drawn_requests()


@pytest.mark.parametrize("value", [DRAWN, "many", None, float("nan")])
def test_a_value_that_is_no_number_is_refused_where_nothing_draws(value: Any) -> None:
    with pytest.raises(UserError, match="give a finite number"):
        Wishes.parse({"properties": {"gap": value}})


@pytest.mark.skipif(not QM9.is_dir(), reason="QM9 is not here")
def test_halves_of_the_labelled_part_of_qm9(tmp_path: Path) -> None:
    cache = Path("cache") if Path("cache").is_dir() else tmp_path
    options: dict[str, Any] = {"labelled": ["gap"], "properties": ["gap"], "cache_dir": str(cache)}
    halves = [
        ChemistryDataModule([QM9Source(str(QM9))], train_part=part, **options) for part in ([0, 0.5], [0.5, 1])
    ]
    sizes = [len(half.places("train")) for half in halves]
    assert sum(sizes) == 19_888 and abs(sizes[0] - sizes[1]) < 300
    assert set(halves[0].places("train").tolist()).isdisjoint(halves[1].places("train").tolist())
    (mean, std, _), (other, other_std, _) = (half.property_statistics()["gap"] for half in halves)
    assert abs(mean - other) < 0.05 and abs(std - other_std) < 0.05
    assert halves[0].property_unit("gap") == "eV"
