"""The first recipe of every domain, made small: what mechanisms are put into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningDataModule
from torch import Tensor

import polydit
from polydit.platform.commands import PolyditCLI
from polydit.platform.state import Layout, State
from polydit.platform.systems.diffusion import DiffusionSystem
from tests.house.recipes import shrink
from tests.house.test_recipes import ROOT, find_recipe, list_checkpoints, save_untrained
from tests.house.test_recipes import build as build_recipe


@dataclass(frozen=True)
class Domain:
    """A recipe that needs no files of the user's.

    Args:
        files: the recipe and what goes behind it.
        lacks: slots of the denoiser that a transformer usually has and this one does not.
    """

    files: tuple[str, ...]
    lacks: frozenset[str] = field(default_factory=frozenset)


DOMAINS = {
    "chemistry": Domain(("examples/chemistry/demo.yaml",)),
    "robotics": Domain(("examples/robotics/demo.yaml",)),
    "pathology": Domain(("examples/pathology/demo.yaml",), frozenset({"modulation", "norm"})),
    "pose": Domain(("examples/pose/demo.yaml", "examples/pose/joint_tokens.yaml")),
    "vision": Domain(("examples/vision/demo.yaml",)),
    "video": Domain(("examples/video/demo.yaml",), frozenset({"norm"})),
    "audio_video": Domain(
        ("examples/audio_video/demo.yaml",), frozenset({"feedforward", "mixer", "modulation", "norm", "unbroken stack"})
    ),
}


@dataclass(frozen=True)
class Bench:
    """A domain's model as plain configuration, and one training batch of its own data.

    Args:
        model: what stands under ``model`` in the recipe.
        data: its data module, set up.
        batch: of the training split.
    """

    model: dict[str, Any]
    data: LightningDataModule
    batch: Any

    def build(self, changes: dict[str, Any]) -> DiffusionSystem:
        """The system with `changes` merged into its options; weights are drawn so that every part counts."""
        model = merge(self.model, {"system": {"init_args": changes}})
        torch.manual_seed(0)
        system = polydit.build(model).system
        assert isinstance(system, DiffusionSystem)
        system.prepare(self.data)
        with torch.no_grad():  # what starts at zero would hide a part that does nothing
            for parameter in system.denoiser.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.05)
        return system

    def sample(self, system: DiffusionSystem, seed: int = 0) -> State:
        """States of two entries: answers to held-out questions where the domain asks any, else free samples."""
        system.eval()
        question = system.codec.question(self.batch)
        if question is None:
            self.data.setup("predict")
            (first, *_), *_ = self.data.predict_dataloader()
            return system.sample_state(system.codec.layout([replace(first, seed=seed + place) for place in range(2)]))
        question = take(question, 2, seed)
        return system.sample_state(system.codec.ask(question, question.seeds))


def take(layout: Layout, count: int, seed: int) -> Layout:
    """The first entries of a layout, with seeds."""

    def cut(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor[:count] for name, tensor in tensors.items()}

    return Layout(
        {name: (count, *shape[1:]) for name, shape in layout.shapes.items()}, cut(layout.masks), cut(layout.positions),
        cut(layout.labels), tuple(range(seed, seed + count)),
        {name: value[:count] if isinstance(value, (Tensor, list)) else value for name, value in layout.extras.items()},
        cut(layout.loss_masks),
    )


def merge(base: Any, changes: Any) -> Any:
    """`base` with `changes` in it; a part of another class takes the place of the whole part."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    if changes.get("class_path") not in (None, base.get("class_path")):
        return changes
    return {**base, **{key: merge(base.get(key), value) for key, value in changes.items()}}


@contextmanager
def standing_in(folder: Path) -> Iterator[None]:
    """The current folder changed, for as long as paths of a recipe are looked up."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def set_up(domain: Domain, folder: Path) -> Bench:
    """Build a domain's recipe in `folder`, over untrained first stages, and read its first batch."""
    words: list[str] = []
    model: dict[str, Any] = {}
    for number, file in enumerate(domain.files):
        content = yaml.safe_load((ROOT / file).read_text())
        for checkpoint in list_checkpoints(content.get("model")):
            save_untrained(build_recipe(find_recipe(checkpoint)), Path(checkpoint))
        path = folder / f"{number}.yaml"
        path.write_text(yaml.safe_dump(shrink(content)))
        words += ["--config", str(path)]
        model = merge(model, shrink(content)["model"])
    data = PolyditCLI("fit", words).datamodule
    data.prepare_data()
    data.setup("fit")
    return Bench({"system": model["system"]}, data, next(iter(data.train_dataloader())))
