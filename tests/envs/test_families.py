"""What is particular to each simulator: goals, states, instructions, and what is not rendered."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from polydit.envs import make, select_backend
from polydit.envs.metaworld import INSTRUCTIONS
from polydit.envs.robosuite import read_env_args
from polydit.platform.errors import ConfigurationError

ENV_ARGS = {
    "env_name": "Lift", "env_version": "1.4.1", "type": 1,
    "env_kwargs": {
        "has_renderer": False, "has_offscreen_renderer": False, "ignore_done": True, "use_object_obs": True,
        "use_camera_obs": False, "control_freq": 20, "robots": ["Panda"], "reward_shaping": False,
        "camera_depths": False, "camera_heights": 84, "camera_widths": 84, "render_gpu_device_id": 0,
        "controller_configs": {
            "type": "OSC_POSE", "input_max": 1, "input_min": -1, "output_max": [0.05] * 3 + [0.5] * 3,
            "output_min": [-0.05] * 3 + [-0.5] * 3, "kp": 150, "damping": 1, "impedance_mode": "fixed",
            "kp_limits": [0, 300], "damping_limits": [0, 10], "position_limits": None, "orientation_limits": None,
            "uncouple_pos_ori": True, "control_delta": True, "interpolation": None, "ramp_ratio": 0.2,
        },
    },
}  # fmt: skip
"""Of the layout in robomimic's files of Lift."""


def test_metaworld_covers_its_fifty_tasks_in_plain_words() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert set(INSTRUCTIONS) == set(ALL_V3_ENVIRONMENTS) and len(set(INSTRUCTIONS.values())) == 50
    assert all("-" not in words and words.islower() for words in INSTRUCTIONS.values())


def test_metaworld_goal_is_observed_and_drawn_from_the_seed() -> None:
    environment = make("metaworld/push-v3")
    goals, objects = [], []
    for seed in range(4):
        observation, _ = environment.reset(seed=seed)
        state = observation["state"]
        np.testing.assert_allclose(state[36:], environment.simulator.task._target_pos, atol=1e-6)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(state[:18], state[18:36], err_msg="nothing has moved yet")
        goals.append(tuple(state[36:]))
        objects.append(tuple(state[4:7]))
    assert len(set(goals)) == len(set(objects)) == 4
    environment.close()


def test_metaworld_takes_nothing_from_numpys_global_generator() -> None:
    environment = make("metaworld/door-open-v3")
    np.random.seed(3)
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    environment.reset(seed=0)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # type: ignore[index]
    environment.close()


def test_metaworld_corner_cameras_are_turned_the_right_way_up() -> None:
    if select_backend().name is None:
        pytest.skip("no OpenGL back end on this machine")
    environment = make("metaworld/reach-v3")
    environment.reset(seed=0)
    image = environment.render_camera("corner2", (84, 84))
    red = image[..., 0] > 2.0 * image[..., 1].clip(20)
    assert red.sum() > 50, "the arm is seen"
    turned = super(type(environment.simulator), environment.simulator).render("corner2", 84, 84)
    np.testing.assert_array_equal(image, turned[::-1, ::-1])
    assert np.nonzero(red)[1].mean() < 42, "the arm stands on the left of this view"
    environment.close()


def test_aloha_renders_nothing_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = make("aloha/transfer_cube")

    def refuse(*words: object, **more: object) -> None:
        raise AssertionError("something was rendered")

    monkeypatch.setattr(type(environment.simulator.control.physics), "render", refuse)  # type: ignore[attr-defined]
    observation, _ = environment.reset(seed=0)
    low, high = environment.action_space.low, environment.action_space.high  # type: ignore[attr-defined]
    rest = observation["state"][:14]
    assert (rest >= low - 1e-3).all() and (rest <= high + 1e-3).all(), "joints at rest are within the actions' bounds"
    for _ in range(20):
        observation, reward, terminated, _, info = environment.step(rest)
        assert (reward, terminated, info["success"]) == (0, False, False)
    np.testing.assert_allclose(observation["state"][:14], rest, atol=0.02)
    assert observation["state"][16] == pytest.approx(0.02, abs=1e-3), "the cube has come to lie on the table"


def test_aloha_draws_objects_as_gym_aloha_does() -> None:
    from gym_aloha.utils import sample_box_pose, sample_insertion_pose

    for task, expected in (
        ("transfer_cube", sample_box_pose(5)),
        ("insertion", np.concatenate(sample_insertion_pose(5))),
    ):
        observation, _ = make(f"aloha/{task}").reset(seed=5)
        np.testing.assert_allclose(observation["state"][14:], expected, atol=1e-5)


def test_pusht_agrees_with_its_own_observation_and_succeeds_on_the_goal() -> None:
    environment = make("pusht")
    observation, _ = environment.reset(seed=4)
    inner = environment.simulator.environment  # type: ignore[attr-defined]
    np.testing.assert_allclose(observation["state"], inner.get_obs(), rtol=1e-6)
    block = inner.block
    block.angle = np.pi / 4  # the goal pose; turning about the centre of gravity moves the place, so it comes second
    block.position = (256, 256)
    inner.agent.position = (20.0, 20.0)
    inner.space.step(0.0)
    _, reward, terminated, _, info = environment.step([20.0, 20.0])
    assert info["coverage"] > 0.95 and info["success"] and terminated and reward == 1
    corners = environment.simulator.observe()["keypoints"].reshape(8, 2)
    assert np.abs(corners - 256).max() < 120, "around the goal"


def test_robosuite_state_is_in_robomimics_order_and_quiet(caplog: pytest.LogCaptureFixture) -> None:
    spec, options = read_env_args(ENV_ARGS)
    assert spec == "robosuite/Lift" and set(options) == {"control_freq", "robots", "controller_configs"}
    with caplog.at_level(logging.INFO):
        environment = make(spec, **options)
    assert [record.message for record in caplog.records if record.name == "robosuite_logs"] == []
    observation, _ = environment.reset(seed=0)
    raw = environment.simulator.task._get_observations()  # type: ignore[attr-defined]
    joined = [raw[f"robot0_{key}"] for key in ("eef_pos", "eef_quat", "gripper_qpos")] + [raw["object-state"]]
    np.testing.assert_allclose(observation["state"], np.concatenate(joined), atol=1e-6)
    hand = observation["state"][2]
    for _ in range(10):
        observation, *_ = environment.step([0, 0, 1, 0, 0, 0, 0])
    assert observation["state"][2] > hand + 0.05, (
        "the old controller's command moves the hand up by 5 cm a step at most"
    )
    environment.close()


def test_robomimic_metadata_of_other_kinds() -> None:
    assert read_env_args({"env_name": "Hopper-v5", "type": 2, "env_kwargs": {}}) == ("gymnasium/Hopper-v5", {})
    with pytest.raises(
        ConfigurationError, match="env_args name 'Kitchen' of type 1: known are Lift, NutAssemblySquare"
    ):
        read_env_args({"env_name": "Kitchen", "type": 1})
