"""Experts solve their tasks, noise is seeded and recorded, and where there is no expert the error says so."""

from __future__ import annotations

import numpy as np
import pytest

from polydit.envs import (
    Episode,
    EpisodeRequest,
    ExpertPolicy,
    list_environments,
    list_expert_tasks,
    make,
    make_expert,
    run_episodes,
)  # fmt: skip
from polydit.envs.aloha_expert import Waypoint, interpolate
from polydit.platform.errors import ConfigurationError

TEN_TASKS = [
    "reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close", "button-press-topdown", "window-open",
    "window-close", "peg-insert-side",
]  # fmt: skip


def demonstrate(spec: str, seeds: range, noise: float = 0.0, **options: object) -> list[Episode]:
    requests = [EpisodeRequest(spec, seed) for seed in seeds]
    return run_episodes(requests, ExpertPolicy(noise), progress=False, keep_trajectory=True, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["reach-v3", "drawer-close-v3", "pick-place-v3"])
def test_metaworld_experts_solve(task: str) -> None:
    assert sum(episode.success for episode in demonstrate(f"metaworld/{task}", range(4))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("task", TEN_TASKS)
def test_metaworld_experts_solve_nine_of_ten(task: str) -> None:
    assert sum(episode.success for episode in demonstrate(f"metaworld/{task}-v3", range(20))) >= 18


def test_transfer_cube_is_handed_over() -> None:
    for episode in demonstrate("aloha/transfer_cube", range(3), steps_after_success=None):
        assert episode.success and episode.observations is not None and episode.actions is not None
        state = episode.observations["state"]
        assert state[0, 14] > 0 and state[-1, 14] < -0.05, "from the right arm's side to the left one's"
        assert state[-1, 16] > 0.2, "held in the air when the right gripper has let go"
        assert state[-1, 6] < 0.7 < state[-1, 13], "left gripper around the cube, right one open"
        bounds = make("aloha/transfer_cube").action_space
        assert all(bounds.contains(action) for action in episode.actions)


@pytest.mark.slow
def test_transfer_cube_expert_solves_nine_of_ten() -> None:
    assert sum(episode.success for episode in demonstrate("aloha/transfer_cube", range(20))) >= 18


def test_noise_is_seeded_by_the_episode_and_what_was_chosen_is_kept() -> None:
    (one, other), (again,) = (
        demonstrate("metaworld/reach-v3", range(2), 0.3),
        demonstrate("metaworld/reach-v3", range(1), 0.3),
    )
    (plain,) = demonstrate("metaworld/reach-v3", range(1))
    assert plain.executed_actions is None and one.executed_actions is not None and one.actions is not None
    assert one.actions.shape == one.executed_actions.shape
    np.testing.assert_array_equal(one.executed_actions, again.executed_actions)
    assert other.executed_actions is not None and plain.actions is not None
    assert not np.array_equal(one.executed_actions[0] - one.actions[0], other.executed_actions[0] - other.actions[0])
    np.testing.assert_array_equal(one.actions[0], plain.actions[0], err_msg="the first choice knows no noise yet")
    inside = np.abs(one.executed_actions) < 1
    deviation = (one.executed_actions - one.actions)[inside].std()
    assert 0.15 < deviation < 0.4 and np.abs(one.executed_actions).max() <= 1


def test_every_task_with_an_expert_exists_and_others_say_so() -> None:
    assert len(list_expert_tasks("metaworld")) == 50 and list_expert_tasks("aloha") == ["aloha/transfer_cube"]
    assert {*list_expert_tasks("metaworld"), *list_expert_tasks("aloha")} <= set(list_environments())
    with pytest.raises(ConfigurationError, match="aloha/insertion has no expert; aloha has experts for transfer_cube"):
        make_expert("aloha/insertion")
    with pytest.raises(ConfigurationError, match="pusht has no expert; pusht has experts for no task"):
        run_episodes([EpisodeRequest("pusht", 0)], ExpertPolicy(), progress=False)


def test_waypoints_are_met_and_the_last_is_held() -> None:
    plan = [Waypoint(0, np.zeros(3), 0.0, 1.0), Waypoint(10, np.ones(3), 1.0, 0.0), Waypoint(30, np.ones(3), 1.0, 1.0)]
    for waypoint in plan:
        place, angle, opening, in_plane = interpolate(plan, waypoint.step)
        np.testing.assert_allclose(
            [*place, angle, opening, in_plane], [*waypoint.place, waypoint.angle, waypoint.opening, 1]
        )
    assert interpolate(plan, 5)[1] == 0.5 and interpolate(plan, 500)[2] == 1.0
