"""Episodes depend on their seeds alone, failures stay in their episode, and no worker outlives a run."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polydit.envs import Episode, EpisodeRequest, ExpertPolicy, Recording, run_episodes
from polydit.envs.environment import EnvironmentInfo
from polydit.platform.errors import ConfigurationError, MissingExtraError

TINY = "tests.envs.tiny_environments."
DRIFT = f"{TINY}Drift"


class Wandering:
    """Steps at random, from a generator per episode, away from zero; counts what it is told."""

    def __init__(self) -> None:
        self.generators: dict[int, np.random.Generator] = {}
        self.sizes: dict[int, int] = {}
        self.begun: list[tuple[str, int]] = []
        self.instructions: list[str] = []
        self.largest = 0

    def begin(self, slot: int, request: EpisodeRequest, info: EnvironmentInfo) -> None:
        assert slot not in self.generators, "the slot's last episode has ended"
        self.generators[slot] = np.random.default_rng(request.seed)
        self.sizes[slot] = info.action.shape[0]
        self.begun.append((request.environment, request.seed))
        self.instructions.append(info.instruction)

    def act(self, slots: list[int], observations: list[dict[str, NDArray[Any]]]) -> list[NDArray[np.float32]]:
        self.largest = max(self.largest, len(slots))
        assert len(slots) == len(observations) and set(slots) <= set(self.generators)
        return [self.generators[slot].uniform(0, 0.2, self.sizes[slot]).astype(np.float32) for slot in slots]

    def end(self, slot: int) -> None:
        del self.generators[slot]


def requests(count: int, spec: str = DRIFT) -> list[EpisodeRequest]:
    return [EpisodeRequest(spec, seed, {"width": 2 + seed % 2} if spec == DRIFT else {}) for seed in range(count)]


def run(asked: list[EpisodeRequest], **options: Any) -> list[Episode]:
    return run_episodes(asked, Wandering(), progress=False, **options)


def assert_equal(episodes: list[Episode], others: list[Episode]) -> None:
    for one, other in zip(episodes, others, strict=True):
        assert one.request == other.request
        assert (one.success, one.steps, one.episode_return, one.success_step, one.error, one.start_state) == (
            other.success, other.steps, other.episode_return, other.success_step, other.error, other.start_state,
        )  # fmt: skip
        if one.actions is not None:
            np.testing.assert_array_equal(one.actions, other.actions)


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Any:
    yield
    assert multiprocessing.active_children() == []


def test_neither_slots_nor_workers_change_an_episode() -> None:
    asked = requests(9)
    alone = [run([request], environments=1, keep_trajectory=True)[0] for request in asked]
    assert len({tuple(episode.start_state[:2]) for episode in alone}) == 9
    assert sum(episode.success for episode in alone) > 0
    assert_equal(run(asked, environments=4, keep_trajectory=True), alone)
    assert_equal(run(asked, environments=5, workers=2, keep_trajectory=True), alone)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 10))
def test_order_of_requests_is_kept(seeds: list[int], slots: int) -> None:
    asked = [EpisodeRequest(DRIFT, seed) for seed in seeds]
    policy = Wandering()
    episodes = run_episodes(asked, policy, environments=slots, progress=False)
    assert [episode.request.seed for episode in episodes] == seeds
    assert policy.generators == {} and len(policy.begun) == len(seeds)
    assert policy.largest <= min(slots, len(seeds))
    for episode in episodes:
        assert_equal([episode], run([episode.request]))


def test_experts_give_the_same_beside_the_simulator_in_any_process() -> None:
    asked = [EpisodeRequest("metaworld/drawer-close-v3", seed) for seed in range(3)]
    options: dict[str, Any] = {"progress": False, "keep_trajectory": True}
    here = run_episodes(asked, ExpertPolicy(0.1), **options)
    assert_equal(run_episodes(asked, ExpertPolicy(0.1), workers=2, **options), here)
    assert_equal(run_episodes(asked[::-1], ExpertPolicy(0.1), **options)[::-1], here)


def test_records_hold_what_happened() -> None:
    (episode,) = run([EpisodeRequest(DRIFT, 1, {"width": 3})], keep_trajectory=True, steps_after_success=None)
    assert episode.steps == 12 and episode.error is None and episode.versions["gymnasium"]
    assert episode.observations is not None and episode.actions is not None and episode.states is not None
    assert episode.observations["state"].shape == (12, 3) and episode.actions.shape == (12, 3)
    assert episode.rewards is not None and episode.rewards.sum() == pytest.approx(episode.episode_return)
    np.testing.assert_allclose(episode.observations["state"][0], episode.start_state[:3], rtol=1e-6)
    assert episode.success_step is not None
    assert (episode.rewards > 1).argmax() + 1 == episode.success_step, "the first step beyond 1"
    assert len(pickle.dumps(run([EpisodeRequest(DRIFT, 1)])[0])) < 2000


def test_an_episode_ends_some_steps_after_its_success() -> None:
    request = EpisodeRequest(DRIFT, 1)
    (whole,) = run([request], steps_after_success=None)
    assert whole.success_step is not None and whole.success_step < 9
    assert run([request])[0].steps == whole.success_step
    assert run([request], steps_after_success=2)[0].steps == whole.success_step + 2
    assert run([request], max_steps=2)[0].steps == 2
    assert run([EpisodeRequest(DRIFT, 1, {"max_steps": 3})], max_steps=2)[0].steps == 3


def test_frames_are_recorded_by_stride_of_chosen_episodes() -> None:
    chosen = EpisodeRequest("pusht", 0, record=Recording(None, 4, (32, 40)))
    recorded, other = run([chosen, EpisodeRequest("pusht", 1)], max_steps=10)
    assert other.frames is None and recorded.frames is not None
    assert len(recorded.frames) == 4, "start, steps 4 and 8, and the end"
    assert recorded.frames[0].shape == (32, 40, 3) and recorded.frame_rate == 2.5
    (everyone,) = run([EpisodeRequest("pusht", 1)], max_steps=4, record=("top", 2))
    assert everyone.frames is not None and len(everyone.frames) == 3
    with pytest.raises(ConfigurationError, match="pusht has no camera 'side'; it has top"):
        run([EpisodeRequest("pusht", 1)], record=("side", 2))


def test_policy_is_told_the_instruction_and_a_request_may_replace_it() -> None:
    policy = Wandering()
    run_episodes(
        [EpisodeRequest("pusht", 0), EpisodeRequest("pusht", 0, instruction="push it home")], policy,
        environments=1, max_steps=2, progress=False,
    )  # fmt: skip
    assert policy.instructions == ["push the T-shaped block onto the T-shaped target", "push it home"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_crash_fails_its_episode_by_name_and_no_other(workers: int) -> None:
    asked = requests(6, f"{TINY}Crashing")
    policy = Wandering()
    episodes = run_episodes(asked, policy, environments=3, workers=workers, progress=False, steps_after_success=None)
    assert policy.generators == {}
    for seed, episode in enumerate(episodes):
        if seed % 2:
            assert episode.error == f"RuntimeError: the simulation of seed {seed} exploded"
            assert (episode.success, episode.steps) == (False, 2)
        else:
            assert episode.error is None and episode.steps == 12


def test_an_observation_that_is_not_finite_is_no_success() -> None:
    even, odd = run(requests(2, f"{TINY}Diverging"), steps_after_success=None)
    assert even.error is None
    assert odd.error is not None and "field 'state' holds nan at 0" in odd.error and not odd.success


def test_a_worker_that_dies_repeats_its_episode_once(tmp_path: Path) -> None:
    once = [EpisodeRequest(f"{TINY}Dying", seed, {"note": str(tmp_path / "died")}) for seed in range(5)]
    episodes = run(once, environments=4, workers=2)
    assert (tmp_path / "died").exists()
    drifts = run([EpisodeRequest(DRIFT, seed) for seed in range(5)])
    assert [episode.error for episode in episodes] == [None] * 5
    assert [episode.start_state for episode in episodes] == [episode.start_state for episode in drifts]


def test_a_worker_that_dies_again_is_reported_and_never_a_success() -> None:
    episodes = run(requests(5, f"{TINY}Dying"), environments=2, workers=2)
    assert [episode.error is None for episode in episodes] == [True, True, True, False, True]
    assert episodes[3].error == "the worker process died (exit code 17), 2 times" and not episodes[3].success


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_policy_raises_ends_the_run_and_its_workers(failure: type[BaseException], workers: int) -> None:
    class Failing(Wandering):
        def act(self, slots: list[int], observations: list[dict[str, NDArray[Any]]]) -> list[NDArray[np.float32]]:
            raise failure("stop")

    with pytest.raises(failure, match="stop"):
        run_episodes(requests(4), Failing(), workers=workers, progress=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_mistakes_in_requests_stop_the_run(workers: int) -> None:
    with pytest.raises(ConfigurationError, match="has no task 'reach'"):
        run([*requests(2), EpisodeRequest("metaworld/reach", 0)], workers=workers)

    class Wide(Wandering):
        def act(self, slots: list[int], observations: list[dict[str, NDArray[Any]]]) -> list[NDArray[np.float32]]:
            return [np.zeros(7, np.float32) for _ in slots]

    with pytest.raises(ConfigurationError, match=r"takes actions of shape \(2,\), got \(7,\)"):
        run_episodes(requests(1), Wide(), workers=workers, progress=False)


def test_an_action_that_is_not_finite_fails_its_episode() -> None:
    class Broken(Wandering):
        def act(self, slots: list[int], observations: list[dict[str, NDArray[Any]]]) -> list[NDArray[np.float32]]:
            return [np.full(2, np.nan, np.float32) for _ in slots]

    (episode,) = run_episodes(requests(1), Broken(), progress=False)
    assert episode.error is not None and "step 0: the action holds nan at 0" in episode.error


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="environments is 0 and workers 0"):
        run(requests(1), environments=0)
    assert run([]) == []

    class Short(Wandering):
        def act(self, slots: list[int], observations: list[dict[str, NDArray[Any]]]) -> list[NDArray[np.float32]]:
            return []

    with pytest.raises(ConfigurationError, match="the policy gave 0 actions for 2 observations"):
        run_episodes(requests(2), Short(), progress=False)


def test_episodes_are_handed_over_as_they_end() -> None:
    ended: list[int] = []
    run(requests(5), environments=2, finished=lambda episode: ended.append(episode.request.seed))
    assert sorted(ended) == list(range(5))


def test_errors_of_a_worker_arrive_whole() -> None:
    for error in (ConfigurationError("wrong"), MissingExtraError("missing")):
        one, other = multiprocessing.Pipe()
        one.send(error)
        copy = other.recv()
        assert type(copy) is type(error) and str(copy) == str(error)
