"""The data module: joint sources, splits, batches, requests, statistics, workers and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.sources import QM9Source, Source
from polydit.data.chemistry.structure import AtomicStructure
from polydit.data.chemistry.writer import StoreWriter
from polydit.platform.errors import ConfigurationError, DataError, UserError
from polydit.platform.requests import Request

from .conftest import make_crystal, make_molecule


class RandomSource(Source):
    """Random structures of one domain; `stored` gives every fifth to val and the next to test."""

    name = "random"

    def __init__(self, domain: str, count: int = 50, stored: bool = True, label: str = "gap") -> None:
        super().__init__()
        self.settings = {"domain": domain, "count": count, "stored": stored, "label": label}

    def fingerprint(self) -> dict[str, Any]:
        return self.settings

    def read(self, writer: StoreWriter) -> None:
        generator = np.random.default_rng(0)
        make = make_molecule if self.settings["domain"] == "molecule" else make_crystal
        for i in range(self.settings["count"]):
            made = make(generator, 1 + i % 12, f"{self.settings['domain']}{i}")
            labels = {self.settings["label"]: float(i)} if i % 2 else {}
            split = {0: 1, 1: 2}.get(i % 5, 0) if self.settings["stored"] else -1
            writer.add(AtomicStructure(made.numbers, made.positions, made.cell, labels, made.name), split=split)


@pytest.fixture
def build(tmp_path: Path) -> Any:
    """Makes data modules over a molecule and a crystal source that share a cache."""

    def make(**options: Any) -> ChemistryDataModule:
        both = [RandomSource("molecule"), RandomSource("crystal", 30, label="band_gap")]
        sources = options.pop("sources", both)
        module = ChemistryDataModule(sources, str(tmp_path / "cache"), **{"batch_size": 8, **options})
        module.prepare_data()
        module.setup("fit")
        return module

    return make


def collect(loader: Any) -> list[int]:
    return sorted(place for batch in loader for place in batch.index.tolist())


def test_stored_splits_join_all_sources(build: Any) -> None:
    module = build()
    train, val, test = (module.places(name).tolist() for name in ("train", "val", "test"))
    assert sorted(train + val + test) == list(range(80))
    assert val == [i for i in range(80) if (i if i < 50 else i - 50) % 5 == 0]
    assert collect(module.train_dataloader()) == train
    assert collect(module.val_dataloader()) == val
    assert collect(module.test_dataloader()[0]) == test


def test_batches_are_the_named_records(build: Any) -> None:
    module = build()
    view = module.structures("train")
    by_place = dict(zip(module.places("train").tolist(), view, strict=True))
    mixed = 0
    for batch in module.train_dataloader():
        assert isinstance(batch, AtomBatch)
        mixed += bool(batch.periodic.any()) and not bool(batch.periodic.all())
        for row, place in enumerate(batch.index.tolist()):
            structure = by_place[place]
            n = int(batch.num_atoms[row])
            assert batch.numbers[row, :n].tolist() == structure.numbers.tolist()
            np.testing.assert_allclose(batch.positions[row, :n], structure.positions, atol=1e-5)
            label = structure.labels.get("gap", np.nan)
            np.testing.assert_equal(float(batch.properties["gap"][row]), label)
    assert mixed > 0


def test_seeded_splits_repeat_and_divide(build: Any) -> None:
    splits = [0.5, 0.25, 0.25]
    one, again, other = (build(splits=splits, seed=seed) for seed in (1, 1, 2))
    assert one.places("train").tolist() == again.places("train").tolist() != other.places("train").tolist()
    assert [len(one.places(name)) for name in ("train", "val", "test")] == [25 + 15, 13 + 7, 12 + 8]
    unassigned = build(sources=[RandomSource("molecule", 100, stored=False)])
    assert [len(unassigned.places(name)) for name in ("train", "val", "test")] == [80, 10, 10]


def test_limits(build: Any) -> None:
    small = build(max_atoms=5, limit=7)
    assert len(small.places("train")) == 14
    assert max(len(structure.numbers) for structure in small.structures("train")) == 5
    batches = list(build(batch_size=None, max_tokens=24).train_dataloader())
    assert max(batch.numbers.numel() for batch in batches) <= 24


def test_views_choose_domain_and_number(build: Any) -> None:
    module = build()
    crystals = module.structures("train", "crystal")
    assert len(crystals) == 18
    assert all(structure.is_periodic for structure in crystals)
    few = module.structures("train", "molecule", limit=5)
    assert len(few) == len({structure.name for structure in few}) == 5
    assert [s.name for s in few[1:3]] == [few[1].name, few[2].name]
    assert [s.name for s in few] == [s.name for s in module.structures("train", "molecule", limit=5)]
    with pytest.raises(ValueError, match="domain is 'molecule'"):
        module.structures("train", "protein")
    with pytest.raises(ValueError, match="split is one of train, val, test"):
        module.structures("validation")


def test_statistics_are_those_of_the_training_split(build: Any) -> None:
    module = build()
    train = list(module.structures("train"))
    for domain, histogram in module.count_histogram().items():
        sizes = [len(s.numbers) for s in train if s.is_periodic == (domain == "crystal")]
        assert histogram.tolist() == np.bincount(sizes).tolist()
    values = [s.labels["gap"] for s in train if "gap" in s.labels]
    mean, std, count = module.property_statistics()["gap"]
    assert (mean, std, count) == pytest.approx((np.mean(values), np.std(values), len(values)))
    assert module.elements() == sorted({int(z) for s in train for z in s.numbers})
    molecules = build(sources=[RandomSource("molecule")])
    assert list(molecules.count_histogram()) == ["molecule"]


def test_requests(build: Any) -> None:
    module = build(requests=[{"domain": "molecule", "count": 3}, {"domain": "crystal", "space_group": 225}], seed=7)
    expected = [Request(7 + i, {"domain": "molecule"}) for i in range(3)]
    expected.append(Request(10, {"domain": "crystal", "space_group": 225}))
    assert [request for batch in module.predict_dataloader() for request in batch] == expected
    held_out, requests = module.test_dataloader()
    assert isinstance(next(iter(held_out)), AtomBatch)
    assert next(iter(requests)) == expected
    with pytest.raises(ConfigurationError, match="nothing to sample"):
        build().predict_dataloader()


def test_prediction_needs_no_data(tmp_path: Path) -> None:
    source = RandomSource("molecule")
    source.settings["domain"] = "absent"
    module = ChemistryDataModule([source], str(tmp_path / "cache"), requests=[{"count": 2}])

    class Echo(LightningModule):
        def predict_step(self, batch: list[Request], index: int) -> list[Request]:
            return batch

    outputs = trainer(tmp_path).predict(Echo(), datamodule=module)
    assert outputs is not None
    assert [request.seed for request in outputs[0]] == [0, 1]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4, "max_tokens": 10}, r"batch_size \(4\) or max_tokens \(10\), not both"),
        ({"splits": "random"}, "not 'random'"),
        ({"splits": [0.5, 0.4, 0.2]}, "these sum to 1.1"),
        ({"splits": [0.5, 0.5]}, "three fractions"),
        ({"requests": [{"count": 0}]}, "positive integer, not 0"),
    ],
)
def test_mistakes_are_found_before_data_load(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ChemistryDataModule([RandomSource("molecule")], str(tmp_path), **options)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_that_need_the_data(build: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="sources is empty"):
        ChemistryDataModule([], str(tmp_path))
    with pytest.raises(DataError, match=r"the train split is empty: 80 structures in all.*max_atoms=0"):
        build(max_atoms=0)
    with pytest.raises(DataError, match="no source has the property 'gab': did you mean 'gap'"):
        _ = build(properties=["gab"]).properties
    with pytest.raises(ConfigurationError, match="12 atoms, more than max_tokens 10"):
        build(batch_size=None, max_tokens=10).train_dataloader()


def test_an_empty_validation_split_is_no_loader(build: Any) -> None:
    assert build(splits=[1.0, 0.0, 0.0]).val_dataloader() == []


def test_spawned_workers_give_the_same_batches(build: Any) -> None:
    alone, workers = build(limit=6), build(limit=6, num_workers=1)
    for one, two in zip(alone.train_dataloader(), workers.train_dataloader(), strict=True):
        torch.testing.assert_close(one.positions, two.positions, rtol=0, atol=0)
        torch.testing.assert_close(one.index, two.index)


class Recorder(LightningModule):
    """Notes which records it was trained on, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: AtomBatch, index: int) -> torch.Tensor:
        assert batch.index is not None
        self.seen.append(batch.index.tolist())
        return self.weight**2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, limit_val_batches=0, **options,
    )  # fmt: skip


def test_training_resumes_in_mid_epoch_with_the_next_batch(build: Any, tmp_path: Path) -> None:
    straight = Recorder()
    trainer(tmp_path, max_steps=15).fit(straight, datamodule=build())
    assert straight.seen[:6] != straight.seen[6:12]  # the second epoch has other batches than the first
    first = Recorder()
    interrupted = trainer(tmp_path, max_steps=9)
    interrupted.fit(first, datamodule=build())
    interrupted.save_checkpoint(tmp_path / "middle.ckpt")
    second = Recorder()
    trainer(tmp_path, max_steps=15).fit(second, datamodule=build(), ckpt_path=str(tmp_path / "middle.ckpt"))
    assert first.seen + second.seen == straight.seen


@pytest.mark.parametrize(
    ("entry", "message"),
    [({"domian": "crystal"}, "did you mean 'domain'"), ({"domain": "crystal", "space_group": 231}, "from 1 to 230")],
)
def test_wishes_are_checked_before_any_data_are_read(entry: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ChemistryDataModule([QM9Source("nowhere")], requests=[entry])
