"""Demonstrations recorded with another simulator are said to be, before anything runs."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from polydit.data.robotics.datamodule import DemonstrationDataModule
from polydit.data.robotics.robomimic import RobomimicSource
from polydit.data.robotics.robomimic_writer import write_robomimic
from polydit.data.robotics.versions import compare_versions

from .conftest import make_demonstrations


def test_differences_are_named_and_what_is_not_installed_is_left_out() -> None:
    here = metadata.version("numpy")
    assert compare_versions({"numpy": here, "no-such-simulator": "1.0"}) == []
    assert compare_versions({"numpy": "0.1"}) == [f"numpy 0.1 (here {here})"]


@pytest.mark.parametrize("version", ["0.1", metadata.version("numpy")])
def test_a_data_module_warns_once_before_it_trains(tmp_path: Path, version: str) -> None:
    recorded = [replace(each, metadata={"versions": {"numpy": version}}) for each in make_demonstrations((4, 5))]
    path = write_robomimic(recorded, tmp_path / "old.hdf5")
    module = DemonstrationDataModule([RobomimicSource(str(path))], splits=[0.5, 0.5, 0.0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module.setup("fit")
    told = [str(warning.message) for warning in caught if "recorded with" in str(warning.message)]
    assert len(told) == (version == "0.1")
    if told:
        assert "numpy 0.1 (here" in told[0] and str(path) in told[0]
