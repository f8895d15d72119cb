"""robomimic's own evaluation loops run a served policy in our environments, to our own numbers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from polydit.data.robotics.datamodule import DemonstrationDataModule
from polydit.domains.robotics import robomimic_environment
from polydit.domains.robotics.codec import ActionChunkCodec
from polydit.domains.robotics.collecting import ExpertSource
from polydit.domains.robotics.execution import Execution
from polydit.domains.robotics.observations import StateAxis
from polydit.domains.robotics.policy import PolicySystem, SlotPolicy
from polydit.domains.robotics.robomimic_interface import make_robomimic_environment, make_rollout_policy
from polydit.domains.robotics.serving import serve
from polydit.envs import Episode, EpisodeRequest, run_episodes
from polydit.envs.rendering import select_backend
from polydit.platform.conditioning import Conditioner
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.errors import MissingExtraError
from polydit.platform.mixers import Attention
from polydit.platform.processes import LinearFlowSchedule, Process, X0Prediction
from polydit.platform.samplers import Euler

REACH, SEED, EPISODES, MAX_STEPS = "metaworld/reach-v3", 502, 6, 80


@pytest.fixture(scope="module")
def robomimic_python(root: Path) -> Path:
    """Interpreter of an environment with robomimic."""
    folder = Path(os.environ.get("POLYDIT_ROBOMIMIC_VENV", root / ".venv-robomimic"))
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        pytest.skip(f"no environment with robomimic at {folder}: make it with 'make robomimic-venv'")
    return python


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicySystem:
    """Trained on a few demonstrations for seconds: it reaches some goals and misses others."""
    torch.manual_seed(0)
    source = ExpertSource([REACH], count=16, noise=0.3, folder=str(tmp_path_factory.mktemp("demonstrations")))
    source.prepare()
    module = DemonstrationDataModule([source], ["state"], horizon=8, batch_size=64, splits=[0.8, 0.2, 0.0])
    denoiser = DiT(
        partial(TokenEmbedding, fields={"action": 4}), partial(TokenHead, fields={"action": 4}), 48, 2,
        mixer=partial(Attention, heads=2), in_context=("state",),
    )
    system = PolicySystem(
        ActionChunkCodec(4, {"state": 39}, horizon=8), denoiser, Process(LinearFlowSchedule(), X0Prediction()),
        Euler(2), Conditioner(48, {"state": partial(StateAxis, size=39)}), execution=Execution(steps=4),
    )
    system.prepare(module)
    module.setup("fit")
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        for batch in module.train_dataloader():
            loss = system.losses(batch, generator)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return system.eval()


@pytest.fixture(scope="module")
def ours(policy: PolicySystem) -> list[Episode]:
    """The same episodes by our own rollouts, one at a time as robomimic's loop plays them."""
    requests = [EpisodeRequest(REACH, SEED + i) for i in range(EPISODES)]
    return run_episodes(requests, SlotPolicy(policy.controller()), 1, max_steps=MAX_STEPS, progress=False)


@contextmanager
def served(system: PolicySystem) -> Iterator[str]:
    """Address of a server in a thread of its own."""
    loop, ready, stop, ports = asyncio.new_event_loop(), threading.Event(), asyncio.Event(), list[int]()

    async def run() -> None:
        async with serve(system, port=0) as port:
            ports.append(port)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        assert ready.wait(20)
        yield f"ws://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@pytest.fixture(scope="module")
def answers(robomimic_python: Path, policy: PolicySystem, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the script finds in the other environment, by a policy served from this one."""
    folder = tmp_path_factory.mktemp("robomimic")
    script = Path(__file__).with_name("robomimic_rollout.py")
    with served(policy) as address:
        command = [robomimic_python, script, address, REACH, SEED, EPISODES, MAX_STEPS, folder / "answers.json"]
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, cwd=folder, timeout=240,
            env={**os.environ, "PYTHONPATH": str(root / "src")},
        )
    hint = "if a package is missing, delete the environment and make it again with 'make robomimic-venv'"
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{hint}"
    return json.loads((folder / "answers.json").read_text())


def test_its_loop_gives_our_numbers(answers: Any, ours: list[Episode]) -> None:
    assert {episode.success for episode in ours} == {True, False}, "a policy that always wins or loses proves less"
    expected = [
        {"Return": each.episode_return, "Horizon": each.steps, "Success_Rate": float(each.success)} for each in ours
    ]
    assert answers["loops"]["run_rollout"] == expected
    assert answers["loops"]["stacked"] == expected
    means = answers["loops"]["rollout_with_stats"]
    assert {key: means[key] for key in expected[0]} == pytest.approx(
        {key: sum(each[key] for each in expected) / EPISODES for key in expected[0]}, rel=1e-12
    )
    agents = answers["loops"]["run_trained_agent"]
    assert [{key: each[key] for key in expected[0]} for each in agents] == expected[:2]
    assert [each["first_state"] for each in agents] == [each.start_state for each in ours[:2]]


def test_a_state_is_gone_back_to(answers: Any) -> None:
    found = answers["environment"]
    assert found["same_after"] and found["moved"]
    assert found["next_seed"] == [True, False], "going back counts no episode"
    assert found["rewards"][0] > 0 and found["rewards"][1] == 0.0 and found["flags"] == [False, False]


def test_an_environment_describes_itself(answers: Any) -> None:
    told = answers["environment"]["serialized"]
    assert told["env_name"] == told["environment"] == REACH and told["type"] == answers["environment"]["type"] == 2
    assert told["env_kwargs"]["seed"] == SEED and told["env_kwargs"]["max_steps"] == MAX_STEPS
    assert "metaworld 3" in told["env_version"]


def test_what_it_cannot_do_is_said(answers: Any) -> None:
    refusals = answers["environment"]["refusals"]
    for name, message in {
        "goal": "use_goals", "set_goal": "use_goals", "policy_goal": "use_goals", "window": "not into a window",
        "on_screen": "not into a window", "vector": "got states", "other": "other versions", "unbegun": "reset()",
    }.items():
        assert message in refusals[name], (name, refusals[name])


def test_images_come_back_bit_for_bit(answers: Any) -> None:
    images = answers["images"]
    assert images["equal"] == [True] * 4 and images["unchanged"]
    assert images["vector"] == "float32" and images["starts"] == 0
    if select_backend().name is not None:
        assert images["rendered"] == [True] * 3 and images["processed"] == [3, 24, 32]
        assert images["film"] == [48, 64, 3]


def test_its_own_policy_acts_in_our_environment(answers: Any) -> None:
    assert answers["its_policy"]["Horizon"] == 10 and answers["its_policy"]["Return"] > 0


def test_without_robomimic_it_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(module: str) -> Any:
        raise ModuleNotFoundError(f"No module named {module!r}", name="robomimic")

    monkeypatch.setattr(robomimic_environment, "import_module", find_nothing)
    robomimic_environment._environment_class.cache_clear()
    with pytest.raises(MissingExtraError, match="make robomimic-venv"):
        make_robomimic_environment(REACH)
    with pytest.raises(MissingExtraError, match="make robomimic-venv"):
        make_rollout_policy(lambda observation: observation)  # type: ignore[arg-type]
