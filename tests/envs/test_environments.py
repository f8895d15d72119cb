"""Every registered environment keeps Gymnasium's contract, and its seed alone decides an episode."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from gymnasium import register
from gymnasium.utils.env_checker import check_env

from polydit.envs import Environment, Family, SimulationError, families, list_environments, make, select_backend
from polydit.envs.gymnasium_tasks import GymnasiumSimulator
from polydit.platform.errors import ConfigurationError, MissingExtraError
from polydit.platform.plugins import Plugin

FEW = [
    "metaworld/reach-v3", "metaworld/peg-insert-side-v3", "metaworld/assembly-v3", "aloha/transfer_cube",
    "aloha/insertion", "pusht", "gymnasium/HalfCheetah-v5", "gymnasium/Reacher-v5", "robosuite/Lift",
    "tests.envs.tiny_environments.Drift", "tests.envs.tiny_environments.Pictured",
]  # fmt: skip
REST = sorted(set(list_environments()) - set(FEW))
EXPECTED_WARNINGS = ("infinity", "not having a spec", "symmetric and normalized")  # actions are in their own units


def check(spec: str) -> None:
    """Gymnasium's checker without an unexpected warning, determinism of resets and steps, metadata that JSON takes."""
    environment = make(spec)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(environment)
    unexpected = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    assert [text for text in unexpected if not any(known in text for known in EXPECTED_WARNINGS)] == []
    info = environment.environment_metadata()
    json.dumps(info.to_dict())
    assert info.instruction and info.versions["gymnasium"] and info.max_steps > 1
    for name, field in environment.fields.items():
        assert field.unit and field.meaning, name
        assert not field.parts or sum(size for _, size in field.parts) == np.prod(field.shape), name
    assert_same_episode(environment, make(spec))
    environment.close()
    environment.close()


def assert_same_episode(used: Environment, fresh: Environment) -> None:
    """A used and a fresh environment agree step for step; another seed starts elsewhere."""
    np.random.seed(0)
    used.reset(seed=11)
    for _ in range(7):
        used.step(used.action_space.sample())
    other = used.start_state()
    used.reset(seed=5)
    np.random.seed(1)
    fresh.reset(seed=5)
    assert used.start_state() == fresh.start_state() != other
    for _ in range(10):
        action = used.action_space.sample()
        one, two = used.step(action), fresh.step(action)
        assert one[1:4] == two[1:4] and one[4]["success"] is two[4]["success"]
        for name, value in one[0].items():
            np.testing.assert_array_equal(value, two[0][name], err_msg=name)
            assert value.dtype == (np.uint8 if name in used.cameras else np.float32)
    fresh.close()


@pytest.mark.parametrize("spec", FEW)
def test_environment_keeps_the_contract(spec: str) -> None:
    check(spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", REST)
def test_every_other_environment_keeps_the_contract(spec: str) -> None:
    check(spec)


def test_same_start_in_a_fresh_process(root: Path) -> None:
    specs = ["metaworld/push-v3", "aloha/insertion", "pusht", "gymnasium/Walker2d-v5"]
    script = (
        "import json, sys\nfrom polydit.envs import make\nstarts = []\n"
        "for spec in sys.argv[1:]:\n    environment = make(spec)\n    environment.reset(seed=7)\n"
        "    starts.append(environment.start_state())\nprint(json.dumps(starts))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *specs], cwd=root, capture_output=True, text=True, check=True)
    for spec, start in zip(specs, json.loads(done.stdout.splitlines()[-1]), strict=True):
        environment = make(spec)
        for seed in (3, 7):
            environment.reset(seed=seed)
        assert environment.start_state() == start, spec
        environment.close()


def test_cameras_are_fields_beside_the_state() -> None:
    if select_backend().name is None:
        pytest.skip("no OpenGL back end on this machine")
    for spec, camera in (("metaworld/reach-v3", "corner2"), ("aloha/transfer_cube", "top"), ("pusht", "top")):
        environment = make(spec, cameras=(camera,), image_size=(32, 48))
        observation, _ = environment.reset(seed=0)
        assert observation[camera].shape == (32, 48, 3) and observation[camera].dtype == np.uint8
        assert observation[camera].std() > 5, "something is to be seen"
        assert environment.observation_space.contains(observation)
        assert environment.render_camera(camera, (20, 10)).shape == (20, 10, 3)
        np.testing.assert_array_equal(environment.render(), observation[camera])
        environment.close()


def test_episodes_are_cut_at_max_steps_and_actions_at_their_bounds() -> None:
    environment = make("tests.envs.tiny_environments.Drift", max_steps=4)
    environment.reset(seed=0)
    ends = [environment.step([5.0, -5.0])[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]
    clipped = make("tests.envs.tiny_environments.Drift")
    clipped.reset(seed=0)
    environment.reset(seed=0)
    np.testing.assert_array_equal(environment.step([5.0, -5.0])[0]["state"], clipped.step([0.2, -0.2])[0]["state"])


def test_wrong_actions_and_observations_are_named() -> None:
    environment = make("tests.envs.tiny_environments.Diverging")
    environment.reset(seed=1)
    with pytest.raises(ConfigurationError, match=r"takes actions of shape \(2,\), got \(3,\)"):
        environment.step(np.zeros(3))
    with pytest.raises(SimulationError, match="step 0: the action holds nan at 1"):
        environment.step([0.0, np.nan])
    environment.step(np.zeros(2))
    environment.step(np.zeros(2))
    with pytest.raises(SimulationError, match="step 3: field 'state' holds nan at 0; the simulation diverged"):
        environment.step(np.zeros(2))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("metaworld/reach", {}, "has no task 'reach': did you mean 'reach-v3'"),
        ("metawrld/reach-v3", {}, "no environment family 'metawrld': known are aloha"),
        ("aloha/fold", {}, "has no task 'fold': it has insertion, transfer_cube"),
        ("metaworld/reach-v3", {"cameras": ("wrist",)}, "has no camera 'wrist'; it has corner2, "),
        ("metaworld/reach-v3", {"gravity": 0}, "have no option gravity"),
        ("pusht", {"max_steps": 0}, "max_steps is 0"),
        ("gymnasium/HalfCheetah-v99", {}, "knows no environment 'HalfCheetah-v99'"),
        ("tests.envs.no_such_module.Thing", {}, "no environment 'tests.envs.no_such_module.Thing'"),
        ("tests.envs.tiny_environments.LENGTH", {}, "is no gymnasium.Env"),
        ("tests.envs.tiny_environments.Buttons", {}, "policies here give a vector of numbers"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_named(spec: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(spec, **options)  # type: ignore[arg-type]


def test_reset_refuses_options_and_seeds_out_of_range() -> None:
    environment = make("tests.envs.tiny_environments.Drift")
    with pytest.raises(ConfigurationError, match="reset takes no options, got goal"):
        environment.reset(options={"goal": 1})
    with pytest.raises(ConfigurationError, match="seed is -1"):
        environment.reset(seed=-1)


def test_missing_simulator_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    monkeypatch.delitem(sys.modules, "metaworld", raising=False)
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises((MissingExtraError, ImportError), match="metaworld"):
        make("metaworld/reach-v3")


def test_family_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family(lambda task: GymnasiumSimulator("tests.envs.tiny_environments.Drift"), lambda: ["push"])
    plugins = [Plugin("kitchen", "kitchen:FAMILY", None, family), Plugin("lab", "lab:FAMILY", "ImportError: no lab")]
    monkeypatch.setattr(families, "load_plugins", lambda group: plugins if group == families.GROUP else [])
    assert make("kitchen/push").fields["state"].shape == (2,)
    with pytest.raises(ConfigurationError, match=r"known are .*kitchen.*lab failed: ImportError: no lab"):
        make("lab/anything")


def test_dictionaries_and_pictures_of_any_environment() -> None:
    spec = "tests.envs.tiny_environments.Pictured"
    environment = make(spec, cameras=("front",), image_size=(6, 8))
    observation, _ = environment.reset(seed=0)
    assert set(observation) == {"front", "arm/joints"} and observation["arm/joints"].shape == (3,)
    _, _, _, _, info = environment.step([0.5])
    assert info == {"success": True, "is_success": 1.0}
    with pytest.raises(ConfigurationError, match=r"images of 'front' are \(6, 8\), not \(84, 84\)"):
        make(spec, cameras=("front",)).reset(seed=0)


def test_registered_ids_of_gymnasium_can_be_made() -> None:
    register("tests/Drift-v0", entry_point="tests.envs.tiny_environments:Drift", max_episode_steps=5)
    environment = make("gymnasium/tests/Drift-v0")
    assert environment.max_steps == 5


def test_return_threshold_decides_success_at_the_end_of_an_episode() -> None:
    environment = make("gymnasium/InvertedPendulum-v5")
    observation, _ = environment.reset(seed=0)
    successes = []
    for _ in range(1000):
        cart, pole, cart_speed, pole_speed = observation["state"]
        action = [1.0 * cart + 20.0 * pole + 1.0 * cart_speed + 3.0 * pole_speed]
        observation, _, terminated, truncated, info = environment.step(action)
        successes.append(info["success"])
        if terminated or truncated:
            break
    assert len(successes) == 1000 and successes[-1] and not any(successes[:-1]), "balanced to the end: 1000 >= 950"
    environment.reset(seed=0)
    while not (step := environment.step([3.0]))[2]:
        pass
    assert step[4]["success"] is False
