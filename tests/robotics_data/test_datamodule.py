"""The data module: splits by episode, fields, statistics, requests, caching, workers, resuming, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from polydit.data.robotics.batch import TrajectoryBatch
from polydit.data.robotics.datamodule import DemonstrationDataModule
from polydit.data.robotics.memory import MemoryDemonstrations
from polydit.data.robotics.robomimic import RobomimicSource
from polydit.data.robotics.robomimic_writer import RobomimicWriter, write_robomimic
from polydit.data.robotics.statistics import RunningStatistics
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.normalisers import Normaliser
from polydit.platform.requests import Request

from .conftest import make_demonstration, make_demonstrations

h5py = pytest.importorskip("h5py")
LENGTHS = tuple(range(3, 23))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_robomimic(make_demonstrations(LENGTHS), tmp_path / "twenty.hdf5")


@pytest.fixture
def build(path: Path) -> Callable[..., DemonstrationDataModule]:
    """Makes data modules over twenty episodes."""

    def make(**options: Any) -> DemonstrationDataModule:
        sources = options.pop("sources", [RobomimicSource(str(path))])
        module = DemonstrationDataModule(sources, **{"batch_size": 16, **options})
        module.prepare_data()
        module.setup("fit")
        return module

    return make


def collect(loader: Any) -> list[int]:
    return [index for batch in loader for index in batch.index.tolist()]


def test_splits_are_whole_episodes_and_cover_all(build: Any) -> None:
    module = build(splits=[0.7, 0.2, 0.1])
    parts = [module.episodes(split)[0].tolist() for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [14, 4, 2]
    assert sorted(place for part in parts for place in part) == list(range(20))
    for split, part in zip(("train", "val", "test"), parts, strict=True):
        windows = module.windows(split)
        numbers = windows[list(range(len(windows)))].actions[:, 0, 0]
        assert set(numbers.long().tolist()) == set(part)


def test_splits_depend_on_the_seed_alone(build: Any) -> None:
    one, same, other = (build(seed=seed).episodes("train")[0].tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_the_files_own_lists_are_taken(tmp_path: Path, build: Any) -> None:
    with RobomimicWriter(tmp_path / "listed.hdf5") as writer:
        for number, demonstration in enumerate(make_demonstrations((3, 4, 5, 6))):
            writer.add(demonstration, ("valid" if number == 1 else "train") if number < 3 else None)
    module = build(sources=[RobomimicSource(str(tmp_path / "listed.hdf5"))])
    assert [module.episodes(split)[0].tolist() for split in ("train", "val", "test")] == [[0, 2], [1], []]
    again = build(sources=[RobomimicSource(str(tmp_path / "listed.hdf5"))], splits=[0.5, 0.5, 0.0])
    assert len(again.episodes("train")[0]) == len(again.episodes("val")[0]) == 2


def test_limit_leaves_few_episodes(build: Any) -> None:
    module = build(limit=2, splits=[0.5, 0.5, 0.0])
    assert [len(module.episodes(split)[0]) for split in ("train", "val")] == [2, 2]


def test_training_batches_cover_every_window_once_in_another_order_each_epoch(build: Any) -> None:
    loader = build(horizon=4).train_dataloader()
    first = collect(loader)
    loader.sampler.set_epoch(1)
    second = collect(loader)
    assert sorted(first) == sorted(second) == list(range(len(first)))
    assert first != second != sorted(first)
    assert collect(build(horizon=4).train_dataloader()) == first


def test_validation_is_in_a_fixed_order(build: Any) -> None:
    indices = collect(build().val_dataloader())
    assert indices == list(range(len(indices)))


def test_fields_are_chosen(build: Any) -> None:
    module = build(fields=["state"])
    assert module.observation_shapes == {"state": (5,)}
    assert list(next(iter(module.train_dataloader())).observations) == ["state"]
    assert build().observation_shapes == {"state": (5,), "wrist": (8, 8, 3)}


@pytest.mark.parametrize(("limit_mb", "held"), [(0.03, ["state"]), (0, None)])
def test_memory_and_files_give_the_same(build: Any, limit_mb: float, held: list[str] | None) -> None:
    module = build(cache_limit_mb=limit_mb, history=2, future_frames=2)
    opened = module.sets[0]
    assert (list(opened._values) if isinstance(opened, MemoryDemonstrations) else None) == held
    batch = next(iter(module.val_dataloader()))
    whole = build(history=2, future_frames=2)
    assert list(whole.sets[0]._values) == ["state", "wrist"]
    other = next(iter(whole.val_dataloader()))
    assert torch.equal(batch.observations["wrist"], other.observations["wrist"])
    assert torch.equal(batch.future["wrist"], other.future["wrist"])
    assert torch.equal(batch.actions, other.actions)


def test_statistics_are_those_of_the_training_split(build: Any) -> None:
    module = build()
    chosen = module.episodes("train")[0].tolist()
    whole = make_demonstrations(LENGTHS)
    statistics = module.statistics()
    assert sorted(statistics) == ["actions", "state"]
    for name in statistics:
        arrays = [whole[i].actions if name == "actions" else whole[i].observations[name] for i in chosen]
        values = torch.from_numpy(np.concatenate(arrays)).double()
        torch.testing.assert_close(statistics[name].mean, values.mean(0))
        torch.testing.assert_close(statistics[name].std, values.std(0, correction=0))
        torch.testing.assert_close(statistics[name].minimum, values.amin(0))
        torch.testing.assert_close(statistics[name].maximum, values.amax(0))
        quantiles = torch.quantile(values, torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
        torch.testing.assert_close(torch.stack([statistics[name].low, statistics[name].high]), quantiles)
        assert statistics[name].count == len(values)


def test_streaming_survives_large_offsets() -> None:
    values = (1e6 + np.random.default_rng(0).normal(size=(3000, 2))).astype(np.float64)
    running = RunningStatistics()
    for part in np.array_split(values, 37):
        running.update(part)
    np.testing.assert_allclose(np.sqrt(running.squares / running.count), values.std(0), rtol=1e-9)


def test_normalised_actions_reach_the_unit_range(build: Any) -> None:
    module = build(horizon=1)
    normaliser = Normaliser(module.action_size, "range", "actions")
    normaliser.prepare(module.statistics()["actions"])
    values = torch.cat([normaliser.normalise(batch.actions) for batch in module.train_dataloader()])
    torch.testing.assert_close(values.amax((0, 1)), torch.ones(3))
    torch.testing.assert_close(values.amin((0, 1)), -torch.ones(3))


def test_vocabularies_are_sorted(build: Any) -> None:
    module = build()
    assert module.instructions == ["open drawer 0", "open drawer 1"]
    assert module.tasks == ["metaworld/drawer-open-v3"]
    assert module.action_size == 3


def test_requests_have_seeds_of_their_own(build: Any) -> None:
    wishes = [{"environment": "metaworld/reach-v3", "count": 3}, {"environment": "pusht", "max_steps": 50}]
    module = build(requests=wishes, request_batch_size=3)
    batches = list(module.predict_dataloader())
    assert [len(batch) for batch in batches] == [3, 1]
    assert batches[0][0] == Request(100_000, {"environment": "metaworld/reach-v3"})
    assert batches[1][0] == Request(100_003, {"environment": "pusht", "max_steps": 50})
    assert len(module.test_dataloader()) == 1
    assert len(build(requests=wishes, splits=[0.8, 0.1, 0.1]).test_dataloader()) == 2


def test_rollouts_from_seeds_of_demonstrations_are_warned_of(build: Any) -> None:
    module = build(requests=[{"environment": "metaworld/drawer-open-v3", "count": 40}], request_seed=0)
    with pytest.warns(UserWarning, match="of 40 rollouts start from the seed of a demonstration"):
        module.setup("test")


def test_prediction_opens_nothing() -> None:
    module = DemonstrationDataModule([RobomimicSource("absent.hdf5")], requests=[{"environment": "pusht"}])
    module.setup("predict")
    assert len(list(module.predict_dataloader())) == 1


@pytest.mark.parametrize("limit_mb", [1024, 0])
def test_spawned_workers_read_the_same(build: Any, limit_mb: int) -> None:
    inside = build(cache_limit_mb=limit_mb, history=2)
    outside = build(cache_limit_mb=limit_mb, history=2, num_workers=1)
    list(inside.train_dataloader())
    for one, other in zip(inside.train_dataloader(), outside.train_dataloader(), strict=True):
        assert torch.equal(one.observations["wrist"], other.observations["wrist"])
        assert torch.equal(one.actions, other.actions)


class Recorder(LightningModule):
    """Writes down which windows it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: TrajectoryBatch) -> torch.Tensor:
        assert batch.index is not None
        self.seen.append(batch.index.tolist())
        return self.weight * batch.actions.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def make_trainer(folder: Path, steps: int) -> Trainer:
    return Trainer(
        max_steps=steps, accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_resumes_in_mid_epoch(build: Any, tmp_path: Path) -> None:
    straight, broken, resumed = Recorder(), Recorder(), Recorder()
    make_trainer(tmp_path, 20).fit(straight, datamodule=build())
    trainer = make_trainer(tmp_path, 8)
    trainer.fit(broken, datamodule=build())
    trainer.save_checkpoint(tmp_path / "mid.ckpt")
    make_trainer(tmp_path, 20).fit(resumed, datamodule=build(), ckpt_path=str(tmp_path / "mid.ckpt"))
    assert broken.seen + resumed.seen == straight.seen


def test_real_files_train_together_or_say_why_not(shared_data: Path) -> None:
    folder = shared_data / "robotics"
    paths = [folder / "unitree_g1_bottle/image64_10hz.hdf5", folder / "bridge_v1_sample/bridge_sample.hdf5"]
    sources = [RobomimicSource(str(path)) for path in paths]
    with pytest.raises(DataError, match=r"image64_10hz.hdf5 has actions of size 26, .*bridge_sample.hdf5 of size 7"):
        DemonstrationDataModule(sources).setup("fit")
    module = DemonstrationDataModule(sources[1:], horizon=4, future_frames=1)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch.observations["image_0"].shape[1:] == (1, 64, 64, 3)
    assert module.instructions[0] == "flip pot upright which is in sink"
    assert all(torch.isfinite(entry.std).all() for entry in module.statistics().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": ["stat"]}, r"no field 'stat': did you mean 'state'\?"),
        ({"fields": ["state", "agentview_image"]}, r"no field 'agentview_image': .* Its cameras: wrist"),
        ({"sources": []}, "sources is empty"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"splits": [0.5, 0.6, 0.0]}, r"these sum to 1\.1"),
        ({"splits": "mine"}, "not 'mine'"),
        ({"splits": [0.0, 1.0, 0.0]}, "the train split is empty: 20 demonstrations"),
        ({"requests": [{"env": "pusht"}]}, "a request names an environment, such as metaworld/reach-v3"),
    ],
)
def test_mistakes_are_named(build: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigurationError, DataError), match=message):
        build(**options)


def test_sources_with_unequal_fields_are_named(path: Path, tmp_path: Path, build: Any) -> None:
    other = make_demonstration(0, 4)
    other.observations = {**other.observations, "state": np.zeros((4, 9), np.float32)}
    sources = [RobomimicSource(str(path)), RobomimicSource(str(write_robomimic([other], tmp_path / "other.hdf5")))]
    with pytest.raises(DataError, match=r"'state' is float32 \[5\] in .*twenty.hdf5 but float32 \[9\] in .*other.hdf5"):
        build(sources=sources)
    assert len(build(sources=sources, fields=["wrist"]).opened) == 2


def test_a_bad_state_names_episode_and_step(path: Path, build: Any) -> None:
    with h5py.File(path, "r+") as handle:
        for name in handle["data"]:
            handle[f"data/{name}/obs/state"][2, 4] = np.nan
    with pytest.raises(DataError, match=r"demo_\d+: state at step 2, dimension 4 is nan"):
        build().statistics()
