"""Frames per second at 84 pixels: a simulator's own rendering against polydit's, and what of it the sky costs.

    python benchmarks/rendering.py [--environments metaworld/reach-v3 aloha/transfer_cube] [--seconds 5] [--size 84]

Both render the same states of the same model with the same back end. The default is what the simulator's package does
when it is asked for an image: Gymnasium's renderer for Meta-World and the MuJoCo tasks, dm_control's for ALOHA.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from polydit.envs import Environment, SceneRenderer, make, select_backend

RESET_STEPS = 50


def make_default_renderer(environment: Environment, camera: str, size: int) -> Callable[[], object]:
    """The simulator's own way to an image."""
    simulator = environment.simulator
    if hasattr(simulator, "control"):
        return lambda: simulator.control.physics.render(size, size, camera)
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    renderer = MujocoRenderer(
        simulator.model, simulator.data, width=size, height=size, camera_name=camera  # type: ignore[attr-defined]
    )  # fmt: skip
    return lambda: renderer.render("rgb_array")


def count_frames(environment: Environment, render: Callable[[], object], seconds: float) -> float:
    """Frames per second of rendering alone, over states that change between them."""
    environment.reset(seed=0)
    environment.action_space.seed(0)
    render()  # the first one makes what the later ones use
    frames, spent = 0, 0.0
    while spent < seconds:
        if frames % RESET_STEPS == 0:
            environment.reset(seed=frames)
        environment.step(0.1 * environment.action_space.sample())  # larger ones make ALOHA's arms collide violently
        start = time.perf_counter()
        render()
        spent += time.perf_counter() - start
        frames += 1
    return frames / spent


def main() -> None:
    """Measure each environment's three ways one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--environments", nargs="+", default=["metaworld/reach-v3", "aloha/transfer_cube", "gymnasium/HalfCheetah-v5"]
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of rendering, each")
    parser.add_argument("--size", type=int, default=84, help="height and width, pixels")
    options = parser.parse_args()
    print(select_backend())
    for name in options.environments:
        environment = make(name)
        camera = environment.simulator.cameras[0]
        default = count_frames(environment, make_default_renderer(environment, camera, options.size), options.seconds)
        environment.close()
        print(f"{name} {camera}: default {default:.0f} frames/s", end="", flush=True)
        for skybox in (True, False):
            environment = make(name)
            with SceneRenderer(environment.simulator.model, options.size, options.size, skybox) as renderer:  # type: ignore[attr-defined]
                simulator = environment.simulator
                ours = count_frames(
                    environment, lambda: renderer.render(simulator.data, camera), options.seconds  # type: ignore[attr-defined]  # noqa: B023
                )  # fmt: skip
            environment.close()
            sky = "with" if skybox else "without"
            print(f"; polydit's {sky} sky {ours:.0f} frames/s ({ours / default:.1f} times)", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
