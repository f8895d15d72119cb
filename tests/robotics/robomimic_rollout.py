"""Runs robomimic's own evaluation loops over a served policy; runs where robomimic is, without Lightning.

    python robomimic_rollout.py ws://127.0.0.1:PORT ENVIRONMENT SEED EPISODES HORIZON answers.json

What each part finds goes into one JSON file. polydit is found by PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch

OPERATORS = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):  # torchvision without its compiled part looks for these two and uses neither here
    OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from robomimic.algo import RolloutPolicy, algo_factory  # noqa: E402  after the operators
from robomimic.config import config_factory  # noqa: E402
from robomimic.envs.env_base import EnvBase  # noqa: E402
from robomimic.envs.wrappers import FrameStackWrapper  # noqa: E402
from robomimic.scripts import run_trained_agent  # noqa: E402
from robomimic.utils import obs_utils, train_utils  # noqa: E402

from polydit.domains.robotics.client import RemotePolicy  # noqa: E402
from polydit.domains.robotics.robomimic_interface import (  # noqa: E402
    make_robomimic_environment,
    make_rollout_policy,
)
from polydit.envs import select_backend  # noqa: E402
from polydit.platform.errors import UserError  # noqa: E402


class Recorder:
    """A policy that stands still and keeps what it is shown."""

    def __init__(self, actions: int) -> None:
        self.actions, self.starts, self.seen = actions, 0, list[dict[str, Any]]()

    def start_episode(self) -> None:
        self.starts += 1

    def __call__(self, observation: dict[str, Any]) -> Any:
        self.seen.append(observation)
        return np.full(self.actions, 0.1, np.float32)


def run_loops(url: str, spec: str, seed: int, episodes: int, horizon: int) -> dict[str, Any]:
    """The same episodes by each of the three loops, and once more with frames stacked."""
    answers: dict[str, Any] = {}

    def run(name: str, loop: Any, wrap: Any = lambda environment: environment) -> None:
        environment = make_robomimic_environment(spec, max_steps=horizon, seed=seed)
        with RemotePolicy(url, environment.base_env.instruction, seed=seed) as remote:
            policy = make_rollout_policy(remote)
            assert isinstance(policy, RolloutPolicy) and isinstance(environment, EnvBase)
            answers[name] = loop(policy, wrap(environment))
        environment.base_env.close()

    def with_stats(policy: Any, environment: Any) -> Any:
        logs, _ = train_utils.rollout_with_stats(
            policy, {"it": environment}, horizon, num_episodes=episodes, terminate_on_success=True
        )
        return {key: float(value) for key, value in logs["it"].items()}

    def alone(policy: Any, environment: Any) -> Any:
        return [
            train_utils.run_rollout(policy, environment, horizon, terminate_on_success=True) for _ in range(episodes)
        ]

    def of_trained_agents(policy: Any, environment: Any) -> Any:
        found = []
        for _ in range(2):
            results, trajectory = run_trained_agent.rollout(policy, environment, horizon)
            found.append({**results, "first_state": trajectory["states"][0].tolist()})
        return found

    run("rollout_with_stats", with_stats)
    run("run_rollout", alone)
    run("stacked", alone, lambda environment: FrameStackWrapper(environment, 3))
    run("run_trained_agent", of_trained_agents)
    return answers


def check_environment(spec: str, seed: int, horizon: int) -> dict[str, Any]:
    """States gone back to, environments made again, and what is refused."""
    environment = make_robomimic_environment(spec, max_steps=horizon, seed=seed)
    again = make_robomimic_environment(
        (told := json.loads(json.dumps(environment.serialize())))["env_name"], **told["env_kwargs"]
    )
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, environment.action_dimension))
    begun = environment.reset()["state"]
    for action in actions[:6]:
        environment.step(action)
    state = environment.get_state()
    first = [environment.step(action)[:3] for action in actions[6:]]
    seen = again.reset_to(state)
    second = [again.step(action)[:3] for action in actions[6:]]
    refusals = {}
    wrong = {**state, "states": state["states"] + 0.1}
    for name, call in {
        "goal": environment.get_goal, "set_goal": environment.set_goal, "window": environment.render,
        "vector": lambda: environment.reset_to({"states": state["states"]}),
        "other": lambda: environment.reset_to(wrong),
        "on_screen": lambda: type(environment)(spec, render=True),
        "policy_goal": lambda: make_rollout_policy(Recorder(4))({}, goal={}),
        "unbegun": make_robomimic_environment(spec).get_observation,
    }.items():
        try:
            call()
            refusals[name] = ""
        except UserError as error:
            refusals[name] = str(error)
    sparse = type(environment).create_for_data_processing(spec, [], 84, 84, reward_shaping=False)
    sparse.reset()
    return {
        "serialized": told, "type": environment.type, "refusals": refusals,
        "same_after": all(
            np.array_equal(a[0]["state"], b[0]["state"]) and a[1:] == b[1:] for a, b in zip(first, second, strict=True)
        ),
        "moved": not np.array_equal(seen["state"], first[-1][0]["state"]),
        "rewards": [again.get_reward(), sparse.step(actions[0])[1]],
        "flags": [again.is_done(), again.is_success()["task"]],
        "next_seed": [np.array_equal(each.reset()["state"], begun) for each in (again, environment)],
    }


def check_images(spec: str, seed: int) -> dict[str, Any]:
    """What a policy is shown of a camera is what the environment saw, bit for bit, stacked or not."""
    image = np.random.default_rng(1).integers(0, 256, (7, 9, 3), np.uint8)
    shown = obs_utils.process_obs(image, obs_modality="rgb")
    recorder = Recorder(4)
    policy = make_rollout_policy(recorder)
    for value in (shown, torch.from_numpy(shown.copy()), np.stack([np.zeros_like(shown), shown]), image):
        policy({"camera": value, "state": torch.ones(2, dtype=torch.float64)})
    fields = [observation["camera"] for observation in recorder.seen]
    answers: dict[str, Any] = {
        "equal": [bool(each.dtype == np.uint8 and np.array_equal(each, image)) for each in fields],
        "vector": str(recorder.seen[0]["state"].dtype), "starts": recorder.starts,
        "unchanged": bool(np.array_equal(shown, obs_utils.process_obs(image, obs_modality="rgb"))),
    }
    if select_backend().name is not None:
        environment = make_robomimic_environment(
            spec, ("corner2",), (24, 32), seed=seed, postprocess_visual_obs=True, max_steps=3
        )
        recorder = Recorder(environment.action_dimension)
        train_utils.run_rollout(make_rollout_policy(recorder), environment, horizon=3)
        ours = environment.base_env
        observations = [ours.reset(seed=seed)[0]]
        observations += [ours.step(np.full(4, 0.1, np.float32))[0] for _ in range(2)]
        answers["rendered"] = [
            bool(np.array_equal(mine["corner2"], its["corner2"]) and np.array_equal(mine["state"], its["state"]))
            for mine, its in zip(observations, recorder.seen, strict=True)
        ]
        answers["processed"] = list(environment.reset()["corner2"].shape)
        answers["film"] = list(environment.render("rgb_array", 48, 64).shape)
        ours.close()
    return answers


def run_its_policy(spec: str, horizon: int) -> dict[str, Any]:
    """robomimic's behaviour cloning, untrained, acts in our environment: its own policy, by its own loop."""
    config = config_factory("bc")
    with config.unlocked():
        config.observation.modalities.obs.low_dim = ["state"]
    obs_utils.initialize_obs_utils_with_config(config)
    environment = make_robomimic_environment(spec, max_steps=horizon)
    shape = list(environment.reset()["state"].shape)
    algorithm = algo_factory("bc", config, {"state": shape}, environment.action_dimension, torch.device("cpu"))
    results: dict[str, Any] = train_utils.run_rollout(RolloutPolicy(algorithm), environment, horizon=horizon)
    return results


def main(url: str, spec: str, seed: int, episodes: int, horizon: int, output: str) -> None:
    """Write what every part finds."""
    answers = {
        "loops": run_loops(url, spec, seed, episodes, horizon), "environment": check_environment(spec, seed, horizon),
        "images": check_images(spec, seed), "its_policy": run_its_policy(spec, 10),
    }  # fmt: skip
    with open(output, "w") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), sys.argv[6])
