"""Requests made from held-out structures: what they ask for, what they name, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.references import list_elements
from polydit.data.chemistry.sources import CDVAECsvSource, MaterialsProjectSource
from polydit.data.chemistry.structure import AtomicStructure
from polydit.data.chemistry.wishes import Wishes, parse_elements
from polydit.platform.errors import ConfigurationError, DataError, UserError

from .conftest import structures
from .test_datamodule import RandomSource

CRYSTALS = Path(__file__).resolve().parents[3] / "shared" / "data" / "crystals"


class OtherSource(RandomSource):
    """Random structures under another name."""

    name = "other"


def make_module(folder: Path, **options: Any) -> ChemistryDataModule:
    both = [RandomSource("molecule"), OtherSource("crystal", 30), RandomSource("crystal", 20)]
    return ChemistryDataModule(options.pop("sources", both), str(folder), **options)


def test_every_held_out_crystal_is_asked_for_and_named(tmp_path: Path) -> None:
    module = make_module(tmp_path, requests=[{"domain": "crystal", "elements_of": "test", "count": 3}], seed=5)
    held_out = module.structures("test", "crystal")
    assert len(module.requests) == 3 * len(held_out) == 3 * 10
    assert [request.seed for request in module.requests] == list(range(5, 35))
    for place, structure, first in zip(held_out.places.tolist(), held_out, module.requests[::3], strict=True):
        wishes = Wishes.parse(first.wishes)
        assert wishes.domain == "crystal"
        assert wishes.reference == place
        assert sorted(wishes.elements) == sorted(structure.numbers.tolist())
        named = module.structure(place)
        assert named.name == structure.name
        np.testing.assert_array_equal(named.positions, structure.positions)
    assert module.requests[0].wishes == module.requests[2].wishes != module.requests[3].wishes


def test_source_domain_and_limit_choose(tmp_path: Path) -> None:
    def names(**entry: Any) -> list[str]:
        module = make_module(tmp_path, requests=[{"elements_of": "test", **entry}])
        return [module.structure(request.wishes["reference"]).name for request in module.requests]

    assert len(names()) == 20
    assert names(source="other") == [f"crystal{i}" for i in range(1, 30, 5)]
    assert names(domain="molecule") == [f"molecule{i}" for i in range(1, 50, 5)]
    assert len(names(limit=7)) == 7
    assert names(limit=7) == names(limit=7)


def test_other_wishes_and_entries_stay(tmp_path: Path) -> None:
    entries = [{"domain": "molecule", "count": 2}, {"elements_of": "val", "source": "other", "space_group": 1}]
    requests = make_module(tmp_path, requests=entries).requests
    assert [request.wishes for request in requests[:2]] == [{"domain": "molecule"}] * 2
    assert {request.wishes["space_group"] for request in requests[2:]} == {1}
    assert [request.seed for request in requests] == list(range(2 + 6))


@given(structures())
@settings(max_examples=30, deadline=None)
def test_elements_depend_on_the_composition_alone(structure: AtomicStructure) -> None:
    order = np.random.default_rng(0).permutation(len(structure.numbers))
    mixed = AtomicStructure(structure.numbers[order], structure.positions[order], structure.cell)
    text = list_elements(structure)
    assert list_elements(mixed) == text
    assert sorted(parse_elements(text)) == sorted(structure.numbers.tolist())
    assert list_elements(AtomicStructure(np.array([8, 22, 8, 22, 8, 8]), np.zeros((6, 3)))) == "Ti2 O4"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"elements_of": "tset"}, "did you mean 'test'"),
        ({"elements_of": "test", "limit": 0}, "positive integer, not 0"),
        ({"elements_of": "test", "count": 0}, "positive integer, not 0"),
        ({"elements_of": "test", "source": 1}, "name of one of data.sources"),
        ({"elements_of": "test", "elements": "NaCl"}, "settles 'elements'"),
        ({"elements_of": "test", "reference": 3}, "settles 'reference'"),
        ({"elements_of": "test", "temperature": 3}, "unknown wish 'temperature'"),
        ({"elements": "NaCl", "reference": -1}, "0 or more, not -1"),
        ({"limit": 3}, "unknown wish 'limit'"),
    ],
)
def test_mistakes_are_found_before_data_load(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigurationError, UserError, ValueError), match=message):
        make_module(tmp_path, requests=[entry])
    assert list(tmp_path.iterdir()) == []


def test_mistakes_that_need_the_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no source is called 'mp': those .* are other, random"):
        _ = make_module(tmp_path, requests=[{"elements_of": "test", "source": "mp"}]).requests
    entry = {"elements_of": "test", "source": "random", "domain": "crystal"}
    sources = [RandomSource("molecule"), OtherSource("crystal", 30)]
    with pytest.raises(DataError, match="no crystal of the source random"):
        _ = make_module(tmp_path, sources=sources, requests=[entry]).requests


@pytest.mark.skipif(not CRYSTALS.is_dir(), reason="the shared data sets are not here")
def test_real_training_crystals_stand_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    # What a model learns of the order of atoms holds for a request only if both are in one order.
    source = MaterialsProjectSource(str(CRYSTALS / "mp_le20"), find_space_groups=False)
    module = ChemistryDataModule([source], str(tmp_path))
    few = module.structures("train", limit=300)
    same = [parse_elements(list_elements(crystal)) == tuple(crystal.numbers.tolist()) for crystal in few]
    assert np.mean(same) > 0.99


@pytest.mark.skipif(not CRYSTALS.is_dir(), reason="the shared data sets are not here")
def test_the_public_test_crystals_are_asked_for_by_name(tmp_path: Path) -> None:
    source = CDVAECsvSource(str(CRYSTALS / "mp20_sample" / "test.csv.gz"), find_space_groups=False, workers=1)
    module = ChemistryDataModule([source], str(tmp_path), requests=[{"elements_of": "test", "count": 2}])
    assert len(module.requests) == 2 * 142
    assert all(module.structure(request.wishes["reference"]).name.startswith("mp-") for request in module.requests[:5])
