"""From demonstrations by an expert to episodes, numbers and films, in a real simulator."""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from polydit.data.robotics.datamodule import DemonstrationDataModule
from polydit.data.robotics.robomimic_layout import partial_path
from polydit.domains.robotics.codec import ActionChunkCodec
from polydit.domains.robotics.collecting import ExpertSource
from polydit.domains.robotics.evaluation import SuccessEvaluator
from polydit.domains.robotics.execution import Execution
from polydit.domains.robotics.gallery import EpisodeGallery, tile_frames
from polydit.domains.robotics.observations import StateAxis
from polydit.domains.robotics.policy import PolicySystem, Rollouts
from polydit.domains.robotics.writers import EpisodeVideoWriter
from polydit.envs import rollouts
from polydit.envs.episodes import Episode, EpisodeRequest
from polydit.envs.rendering import select_backend
from polydit.platform.cli import main
from polydit.platform.conditioning import Conditioner
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import Attention
from polydit.platform.processes import LinearFlowSchedule, Process, X0Prediction
from polydit.platform.requests import Request, Sample, expand_requests
from polydit.platform.samplers import Euler
from tests.house.recipes import shrink

REACH = "metaworld/reach-v3"
ROOT = Path(__file__).resolve().parents[2]
RENDERS = select_backend().name is not None


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExpertSource:
    return ExpertSource([REACH], count=3, folder=str(tmp_path_factory.mktemp("demonstrations")))


@pytest.fixture(scope="module")
def module(source: ExpertSource) -> DemonstrationDataModule:
    source.prepare()
    return DemonstrationDataModule([source], ["state"], horizon=8, batch_size=16, splits=[0.67, 0.33, 0.0])


@pytest.fixture
def policy(module: DemonstrationDataModule) -> PolicySystem:
    """Untrained; it moves about, and knows the statistics of its demonstrations."""
    return make_policy(module)


def make_policy(module: DemonstrationDataModule, **options: Any) -> PolicySystem:
    import torch

    torch.manual_seed(0)
    denoiser = DiT(
        partial(TokenEmbedding, fields={"action": 4}), partial(TokenHead, fields={"action": 4}), 32, 1,
        mixer=partial(Attention, heads=2), in_context=("state",),
    )
    system = PolicySystem(
        ActionChunkCodec(4, {"state": 39}, horizon=8), denoiser, Process(LinearFlowSchedule(), X0Prediction()),
        Euler(2), Conditioner(32, {"state": partial(StateAxis, size=39)}), execution=Execution(steps=4),
        rollouts=Rollouts(**{"max_steps": 12, "progress": False, **options}),
    )
    system.prepare(module)
    torch.nn.init.normal_(denoiser.head.linear.weight, std=0.3)
    return system.eval()


def test_demonstrations_are_collected_once_and_show_the_task(
    source: ExpertSource, module: DemonstrationDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = source.open()
    assert len(held) == 3 and [held.seed(i) for i in range(3)] == [0, 1, 2] and held.task(0) == REACH
    demonstration = held.demonstration(0)
    assert demonstration.success and demonstration.observations["state"].shape == (len(demonstration), 39)
    assert held.instruction(0)
    batch = next(iter(module.train_dataloader()))
    assert batch.actions.shape == (16, 8, 4)

    def refuse(*words: Any, **options: Any) -> None:
        raise AssertionError("collected again")

    monkeypatch.setattr(rollouts, "run_episodes", refuse)
    monkeypatch.setattr("polydit.domains.robotics.collecting.run_episodes", refuse)
    source.prepare()
    assert ExpertSource([REACH], 4, folder=str(source.folder)).path != source.path


def test_an_interrupted_recording_is_gone_on_with(
    source: ExpertSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polydit.domains.robotics.collecting.EPISODES_AT_ONCE", 1)
    again = ExpertSource([REACH], count=3, folder=str(tmp_path))
    run, calls = rollouts.run_episodes, []

    def stop_at_the_third(requests: Any, *words: Any, **options: Any) -> list[Episode]:
        calls.append([request.seed for request in requests])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(requests, *words, **{**options, "progress": False})

    monkeypatch.setattr("polydit.domains.robotics.collecting.run_episodes", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        again.prepare()
    assert partial_path(again.path).exists() and not again.path.exists()
    again.prepare()
    assert calls == [[0], [1], [2], [2]]
    whole, resumed = source.open(), again.open()
    for i in range(3):
        assert np.array_equal(whole.read_actions(i), resumed.read_actions(i))


def test_nothing_to_collect_and_no_expert_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no expert"):
        ExpertSource(["gymnasium/HalfCheetah-v5"], folder=str(tmp_path)).prepare()
    assert not list(tmp_path.iterdir())


def test_an_episode_depends_on_its_seed_alone(policy: PolicySystem, module: DemonstrationDataModule) -> None:
    requests = expand_requests([{"environment": REACH, "count": 3}], seed=50)
    one = [sample.item for sample in make_policy(module, environments=1).generate(requests)]
    three = [sample.item for sample in policy.generate(requests[::-1])][::-1]
    for a, b in zip(one, three, strict=True):
        assert a.start_state == b.start_state and a.steps == b.steps == 12
        assert a.episode_return == pytest.approx(b.episode_return, rel=1e-4)
    assert len({tuple(episode.start_state) for episode in one}) == 3


@pytest.mark.skipif(not RENDERS, reason="nothing renders here: install libegl1 and libgl1, or libosmesa6")
def test_films_and_strips(module: DemonstrationDataModule, tmp_path: Path) -> None:
    policy = make_policy(module, camera="corner2", film=1, film_size=(64, 96), stride=4)
    samples = policy.generate(expand_requests([{"environment": REACH, "count": 2}], seed=50))
    first, second = (sample.item for sample in samples)
    assert len(first.frames) == 4 and second.frames is None
    (path,) = EpisodeVideoWriter().write(samples, tmp_path, 7)
    assert path.name == "00007_reach-v3_unsolved.mp4" and path.stat().st_size > 1000
    gallery = EpisodeGallery(frames=3, columns=2)
    assert gallery.accepts(samples[0]) and not gallery.accepts(samples[1])
    (item,) = gallery.figures(samples[:1])
    assert isinstance(item.figure, bytes)
    page = np.asarray(Image.open(io.BytesIO(item.figure)))
    assert page.shape == (2 * 64 + 2, 2 * 96 + 2, 3) and page.std() > 10
    assert np.array_equal(page[:64, :96], first.frames[0]) and np.array_equal(page[66:, :96], first.frames[-1])
    assert (page[66:, 98:] == 255).all() and "not solved of 12" in item.caption
    assert tile_frames(first.frames[:1], 1).shape == (64, 96, 3)


def make_sample(task: str, success: bool, seed: int = 0, error: str | None = None) -> Sample:
    episode = Episode(
        EpisodeRequest(f"metaworld/{task}", seed), success, 10, 5.0 + seed, 7 if success else None, [0.5, 1.0], "do it",
        {"mujoco": "3.3.0"}, error,
    )
    return Sample(Request(seed, {"environment": f"metaworld/{task}"}), episode)


def test_success_by_task_with_intervals() -> None:
    evaluator = SuccessEvaluator()
    samples = [make_sample("reach-v3", seed < 8, seed) for seed in range(10)]
    samples += [make_sample("push-v3", False, seed, "it flew away" if seed == 0 else None) for seed in range(10)]
    assert all(map(evaluator.accepts, samples)) and not evaluator.accepts(Sample(Request(0), np.zeros(3)))
    evaluator.update(samples)
    numbers = evaluator.compute()
    assert numbers["success/reach-v3"].value == 0.8 and numbers["success/push-v3"].value == 0.0
    assert 0.49 < numbers["success/reach-v3"].low < 0.8 < numbers["success/reach-v3"].high < 0.95
    assert numbers["success"].value == 0.4 and numbers["success"].count == 20
    assert numbers["failed_episodes"].value == 0.05 and numbers["steps_to_success"].value == 7
    assert numbers["return/push-v3"].count == 9
    row = evaluator.rows()[10]
    assert row["task"] == "push-v3" and row["error"] == "it flew away" and row["versions"] == "mujoco=3.3.0"
    assert set(evaluator.descriptions()) >= set(numbers)
    evaluator.reset()
    assert evaluator.rows() == []


def test_the_demo_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = shrink(yaml.safe_load((ROOT / "examples" / "robotics" / "demo.yaml").read_text()))
    system = recipe["model"]["system"]["init_args"]
    system["rollouts"] |= {"max_steps": 10, "film": 1, "progress": False}
    recipe["trainer"]["limit_val_batches"] = 0
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "demo.yaml"]) == 0
    assert main(["test", "--config", "demo.yaml", "--ckpt_path", "last"]) == 0
    run = tmp_path / "runs" / "demo_robot"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["success/reach-v3"]["count"] == 2 and 0 <= metrics["success/reach-v3"]["high"] <= 1
    with (run / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and rows[0]["request/environment"] == REACH and rows[0]["start_state"]
    assert len(list((run / "videos").glob("*.mp4"))) == RENDERS
    assert "Reaching in Meta-World" in (run / "report.html").read_text()
