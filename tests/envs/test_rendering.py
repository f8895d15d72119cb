"""The back end is chosen before MuJoCo is imported, images are what they should be, and states need no renderer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polydit.envs import SceneRenderer, make, rendering, select_backend
from polydit.envs.rendering import import_mujoco
from polydit.platform.errors import ConfigurationError

SCENE = """
<mujoco>
  <asset><texture type="skybox" builtin="flat" rgb1="0 0 1" rgb2="0 0 1" width="32"/></asset>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="front" pos="0 -2 0" xyaxes="1 0 0 0 0 1"/>
    <geom name="ball" type="sphere" size="0.3" pos="0 0 0.5" rgba="1 0 0 1" group="0"/>
    <geom name="box" type="box" size="0.3 0.3 0.3" pos="0 0 -0.5" rgba="0 1 0 1" group="1"/>
  </worldbody>
</mujoco>
"""


def needs_renderer() -> None:
    if select_backend().name is None:
        pytest.skip("no OpenGL back end on this machine")


@pytest.mark.parametrize(
    ("wanted", "libraries", "chosen", "warning"),
    [
        (None, {"egl", "osmesa"}, "egl", None),
        (None, {"osmesa"}, "osmesa", None),
        (None, set(), None, None),
        ("osmesa", {"egl", "osmesa"}, "osmesa", None),
        ("egl", {"osmesa"}, "osmesa", "MUJOCO_GL=egl is set, but its library does not load: osmesa is used instead"),
        ("osmesa", set(), None, "MUJOCO_GL=osmesa is set, but its library does not load: nothing is rendered"),
        ("glfw", {"glfw", "egl"}, "glfw", None),
    ],
)
def test_back_end_is_probed_and_the_users_choice_kept(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, libraries: set[str], chosen: str | None, warning: str | None
) -> None:
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(rendering, "_usable", libraries.__contains__)
    if wanted is None:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
    else:
        monkeypatch.setenv("MUJOCO_GL", wanted)
    if warning is None:
        backend = select_backend()
    else:
        with pytest.warns(RuntimeWarning, match=warning):
            backend = select_backend()
    assert backend.name == chosen and os.environ.get("MUJOCO_GL") == chosen
    assert backend.reason
    monkeypatch.setenv("MUJOCO_GL", "")  # so that what was set here is put back


def test_without_a_back_end_states_run_and_a_camera_says_what_to_install(root: Path) -> None:
    script = (
        "import os; os.environ.pop('MUJOCO_GL', None)\n"
        "from polydit.envs import make, rendering\n"
        "rendering._load = lambda name: None\n"
        "for spec in ('metaworld/reach-v3', 'aloha/transfer_cube', 'gymnasium/Hopper-v5'):\n"
        "    environment = make(spec)\n"
        "    environment.reset(seed=0)\n"
        "    environment.step(environment.action_space.sample())\n"
        "    try:\n        make(spec, cameras=environment.simulator.cameras[:1])\n"
        "    except ValueError as error:\n        print(error)\n"
        "print(rendering.select_backend())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and all("libegl1 libgl1 (or libosmesa6)" in line for line in lines[:3])
    assert lines[3].startswith("no rendering")


def test_scene_is_upright_without_samples_and_the_sky_optional() -> None:
    needs_renderer()
    mujoco = import_mujoco()
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with SceneRenderer(model, 40, 60) as renderer:
        image = renderer.render(data, "front")
    assert model.vis.quality.offsamples == 0
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8
    assert (image[8:14, 28:32, 0] > 2.0 * image[8:14, 28:32, 1]).all(), "the red ball is above"
    assert (image[26:34, 28:32, 1] > 2.0 * image[26:34, 28:32, 0]).all(), "the green box is below"
    assert image[:, :5, 2].min() > 200, "the sky is drawn"
    with SceneRenderer(model, 40, 60, skybox=False, geom_groups=(1,)) as renderer:
        bare = renderer.render(data, "front")
    assert bare[:, :5].max() == 0 and bare[:15].max() == 0 and bare[25:].max() > 50
    renderer.close()


def test_images_may_exceed_the_models_buffer() -> None:
    needs_renderer()
    mujoco = import_mujoco()
    model = mujoco.MjModel.from_xml_string(SCENE)
    with SceneRenderer(model, 700, 900) as renderer:
        assert renderer.render(mujoco.MjData(model), "front").shape == (700, 900, 3)


def test_five_times_the_frames_of_the_default() -> None:
    needs_renderer()
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    environment = make("metaworld/reach-v3", cameras=("corner2",))
    environment.reset(seed=0)
    simulator = environment.simulator
    ours = min(measure(lambda: simulator.render("corner2", 84, 84)) for _ in range(10))
    environment.close()
    plain = make("metaworld/reach-v3")
    plain.reset(seed=0)
    default = MujocoRenderer(plain.simulator.model, plain.simulator.data, width=84, height=84, camera_name="corner2")  # type: ignore[attr-defined]
    theirs = min(measure(lambda: default.render("rgb_array")) for _ in range(5))
    default.close()
    plain.close()
    assert theirs > 5 * ours


def measure(render: Callable[[], object]) -> float:
    start = time.perf_counter()
    render()
    return time.perf_counter() - start


def test_camera_error_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "select_backend", lambda: rendering.RenderingBackend(None, "there is nothing"))
    with pytest.raises(ConfigurationError, match="Install libegl1 libgl1"):
        rendering.require_backend("corner2")
