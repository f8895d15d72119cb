"""Bodies that bounce and collide in a box, simulated with MuJoCo: where they are at each frame, and when they touch.

Shape legend: F frames, n bodies, m contacts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

EXTRA = "video"

WALL = -1
"""Stands for the wall as the second body of a contact."""

STIFFNESS = 4e5
"""Of contacts, 1/s²: two bodies touch for about 5 ms, a tenth of a frame or less."""

TIMESTEP = 2.5e-4
"""Of the simulation in seconds, a twentieth of a touch."""


@dataclass(frozen=True)
class Contact:
    """One impact.

    Args:
        time: of the first touch, in seconds.
        first: number of the body.
        second: number of the other body, or `WALL`.
        speed: at which they approached, in metres per second.
    """

    time: float
    first: int
    second: int
    speed: float


@dataclass(frozen=True)
class Bodies:
    """Bodies at the start, in a box of one metre.

    Args:
        radii: [n] metres.
        places: [n, 2] metres, right and down from the upper left corner.
        velocities: [n, 2] metres per second.
    """

    radii: NDArray[np.float64]
    places: NDArray[np.float64]
    velocities: NDArray[np.float64]

    @property
    def masses(self) -> NDArray[np.float64]:
        """[n] kilograms: balls of one density, of one kilogram at a radius of a tenth of a metre."""
        return (self.radii / 0.1) ** 3


def draw_bodies(
    count: int, radius: tuple[float, float], speed: tuple[float, float], generator: np.random.Generator
) -> Bodies:
    """Bodies that do not touch, with uniform radii, places, speeds and directions.

    Args:
        count: n.
        radius: least and greatest, in metres.
        speed: least and greatest, in metres per second.
        generator: of all that is drawn.
    """
    while True:
        radii = generator.uniform(*radius, count)
        places = generator.uniform(radii[:, None] + 0.01, 0.99 - radii[:, None], (count, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) - radii[:, None] - radii[None]
        if (gaps[~np.eye(count, dtype=bool)] > 0.02).all():
            break
    angles, speeds = generator.uniform(0, 2 * np.pi, count), generator.uniform(*speed, count)
    return Bodies(radii, places, speeds[:, None] * np.column_stack([np.cos(angles), np.sin(angles)]))


def simulate(bodies: Bodies, frames: int, frame_rate: float) -> tuple[NDArray[np.float32], list[Contact]]:
    """Places [F, n, 2] of the bodies at the frames, and their contacts in order of time.

    Frame f shows the moment f / frame_rate. Bodies slide without friction or gravity and bounce without loss.
    """
    mujoco = require("mujoco", EXTRA)
    model = mujoco.MjModel.from_xml_string(describe(bodies))
    data = mujoco.MjData(model)
    data.qpos[:] = bodies.places.ravel()
    data.qvel[:] = bodies.velocities.ravel()
    owner = [int(body) - 1 for body in model.geom_bodyid]  # the world, to which the walls belong, is body 0
    places = np.empty((frames, len(bodies.radii), 2), np.float32)
    contacts: list[Contact] = []
    touching: set[tuple[int, int]] = set()
    step = 0
    for frame in range(frames):
        until = round(frame / frame_rate / TIMESTEP)
        while step < until:
            before = data.qvel.copy()
            mujoco.mj_step(model, data)
            step += 1
            now = {
                (int(contact.geom1), int(contact.geom2)): contact.frame[:2].copy()
                for contact in (data.contact if data.ncon else ())  # an empty list of contacts is slow to make
            }
            contacts += [
                _make_contact((owner[pair[0]], owner[pair[1]]), normal, before.reshape(-1, 2), step * TIMESTEP)
                for pair, normal in sorted(now.items()) if pair not in touching
            ]
            touching = set(now)
        places[frame] = data.qpos.reshape(-1, 2)
    return places, contacts


def describe(bodies: Bodies) -> str:
    """The model as MuJoCo's XML: bodies on two slides each, four walls around them."""
    contact = f'solref="{-STIFFNESS:g} 0" solimp="0.99 0.99 0.001" condim="1"'
    walls = "".join(
        f'<geom type="plane" size="2 2 0.1" pos="{pos}" zaxis="{axis}" {contact}/>'
        for pos, axis in (("0 0 0", "1 0 0"), ("1 0 0", "-1 0 0"), ("0 0 0", "0 1 0"), ("0 1 0", "0 -1 0"))
    )
    balls = "".join(
        f'<body><joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/>'
        f'<geom type="sphere" size="{radius:.6f}" mass="{mass:.6f}" {contact}/></body>'
        for radius, mass in zip(bodies.radii, bodies.masses, strict=True)
    )
    return (
        f'<mujoco><option timestep="{TIMESTEP}" gravity="0 0 0"/>'
        f"<worldbody>{walls}{balls}</worldbody></mujoco>"
    )


def _make_contact(
    pair: tuple[int, int], normal: NDArray[np.float64], velocities: NDArray[np.float64], time: float
) -> Contact:
    first, second = sorted(pair, key=lambda body: (body == WALL, body))
    relative = velocities[first] - (0 if second == WALL else velocities[second])
    return Contact(time, first, second, float(abs(relative @ normal)))
