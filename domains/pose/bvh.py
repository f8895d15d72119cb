"""Poses as Biovision hierarchies, and back: for Blender, MotionBuilder and whatever else animates people.

A file stores a skeleton with rotations. Hypotheses differ in the lengths of their bones too, so every joint has
channels of position beside those of rotation, as motion capture files have: the joints come back exactly, and the
rotations turn a rigged body the same way.

Lengths are centimetres, y is up. Camera axes become (x, -y, -z): the person is seen from +z, where the camera is.

Shape legend: F frames, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polydit.data.pose.skeleton import JOINTS, PARENTS
from polydit.platform.errors import DataError

Array = NDArray[np.float64]

UNIT = 100.0
"""Centimetres in a metre."""

AXES = np.array([1.0, -1.0, -1.0])
"""Camera axes to those of the file."""

REST = {
    "hip": (1, -0.2, 0), "knee": (0, -1, 0), "ankle": (0, -1, 0), "shoulder": (1, 0, 0), "elbow": (1, 0, 0),
    "wrist": (1, 0, 0), "spine": (0, 1, 0), "thorax": (0, 1, 0), "neck": (0, 1, 0), "head": (0, 1, 0),
}  # fmt: skip
"""Direction of the bone that ends at a joint, arms held sideways; x is the left side's."""

END = 5.0
"""Centimetres of the bones that end a limb, which BVH asks for."""

CHANNELS = ("Xposition", "Yposition", "Zposition", "Zrotation", "Xrotation", "Yrotation")


@dataclass(frozen=True)
class Hierarchy:
    """What a BVH file holds.

    Args:
        names: [J].
        parents: [J], -1 for the root.
        offsets: [J, 3] in the rest pose.
        channels: of each joint, in the order of the file.
        motion: [F, channels of all joints].
        frame_time: seconds.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Array
    channels: tuple[tuple[str, ...], ...]
    motion: Array
    frame_time: float

    def positions(self) -> Array:
        """Joints [F, J, 3] in the axes and unit of the file, by forward kinematics."""
        places: list[Array] = []
        turns: list[Array] = []
        frames, column = len(self.motion), 0
        for joint, parent in enumerate(self.parents):
            local = np.repeat(self.offsets[joint][None], frames, axis=0)
            turn = np.repeat(np.eye(3)[None], frames, axis=0)
            for name in self.channels[joint]:
                values, axis = self.motion[:, column], "XYZ".index(name[0])
                column += 1
                if name.endswith("position"):
                    local[:, axis] = values
                else:
                    turn = turn @ rotate(axis, np.radians(values))
            if parent >= 0:
                local = places[parent] + np.einsum("fij,fj->fi", turns[parent], local)
                turn = turns[parent] @ turn
            places.append(local)
            turns.append(turn)
        return np.stack(places, axis=1)


def write_bvh(path: Path, poses: NDArray[np.floating], frame_time: float = 1 / 30) -> None:
    """Write poses [F, 17, 3] in metres and camera axes as the frames of one motion."""
    places = poses.astype(np.float64) * AXES * UNIT
    offsets = rest_offsets(places)
    turns = find_rotations(places, offsets)
    names = [name.title().replace("_", "") for name in JOINTS]
    lines = ["HIERARCHY", *_describe(0, names, offsets, "")]
    lines += ["MOTION", f"Frames: {len(poses)}", f"Frame Time: {frame_time:.6f}"]
    columns: list[Array] = []
    order: list[int] = _order(0)
    for joint in order:
        parent = PARENTS[joint]
        local_turn = turns[joint] if parent < 0 else turns[parent].swapaxes(1, 2) @ turns[joint]
        away = places[:, joint] - (places[:, parent] if parent >= 0 else 0.0)
        local = away if parent < 0 else np.einsum("fji,fj->fi", turns[parent], away)
        columns += [local, np.degrees(to_euler(local_turn))]
    lines += [" ".join(f"{value:.6f}" for value in row) for row in np.concatenate(columns, axis=1)]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def read_poses(path: Path) -> NDArray[np.float32]:
    """Poses [F, 17, 3] in metres and camera axes of a file that `write_bvh` wrote."""
    held = read_bvh(path)
    wanted = [name.title().replace("_", "") for name in JOINTS]
    missing = [name for name in wanted if name not in held.names]
    if missing:
        raise DataError(f"{path} has no joints {', '.join(missing)}: it is of another skeleton; see read_bvh")
    places = held.positions()[:, [held.names.index(name) for name in wanted]]
    return (places / UNIT * AXES).astype(np.float32)


def read_bvh(path: Path) -> Hierarchy:
    """The skeleton and motion of any BVH file.

    Raises:
        DataError: if the file is no whole BVH file, saying what was expected.
    """
    words = path.read_text(encoding="utf-8", errors="replace").split()
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[tuple[str, ...]] = []
    stack: list[int] = []
    place = 0
    try:
        if words[0].upper() != "HIERARCHY":
            raise DataError(f"{path} begins with {words[0]!r}, not HIERARCHY: this is no BVH file")
        while words[place].upper() != "MOTION":
            word = words[place]
            if word in ("ROOT", "JOINT", "End"):
                parents.append(stack[-1] if stack else -1)
                names.append(words[place + 1] if word != "End" else "")
                offsets.append([0.0, 0.0, 0.0])
                channels.append(())
                stack.append(len(names) - 1)
                place += 2
            elif word == "OFFSET":
                offsets[stack[-1]] = [float(value) for value in words[place + 1 : place + 4]]
                place += 4
            elif word == "CHANNELS":
                count = int(words[place + 1])
                channels[stack[-1]] = tuple(words[place + 2 : place + 2 + count])
                place += 2 + count
            else:
                if word == "}":
                    stack.pop()
                place += 1
        frames, frame_time = int(words[place + 2]), float(words[place + 5])
        values = np.array([float(value) for value in words[place + 6 :]])
        motion = values.reshape(frames, sum(map(len, channels)))
    except (IndexError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no whole BVH file ({error}): write it again") from error
    kept = [i for i, name in enumerate(names) if name]
    return Hierarchy(
        tuple(names[i] for i in kept), tuple(kept.index(parents[i]) if parents[i] >= 0 else -1 for i in kept),
        np.array([offsets[i] for i in kept]), tuple(channels[i] for i in kept), motion, frame_time,
    )


def rest_offsets(places: Array) -> Array:
    """Offsets [J, 3] of the rest pose, with the mean lengths of the bones."""
    offsets = np.zeros((len(JOINTS), 3))
    for joint, parent in enumerate(PARENTS):
        if parent < 0:
            continue
        side, _, part = JOINTS[joint].rpartition("_")
        direction = np.array(REST[part], dtype=np.float64)
        direction[0] *= -1 if side == "right" else 1
        length = np.linalg.norm(places[:, joint] - places[:, parent], axis=-1).mean()
        offsets[joint] = length * direction / np.linalg.norm(direction)
    return offsets


def find_rotations(places: Array, offsets: Array) -> list[Array]:
    """Rotation [F, 3, 3] of each joint out of the rest pose: that which best turns its children to where they are.

    One child leaves the turn about its bone free; it is then the parent's own (Kabsch 1976, with the parent's frame as
    a faint further point).
    """
    turns: list[Array] = []
    for joint, parent in enumerate(PARENTS):
        children = [child for child, other in enumerate(PARENTS) if other == joint]
        before = turns[parent] if parent >= 0 else np.repeat(np.eye(3)[None], len(places), axis=0)
        if not children:
            turns.append(before)
            continue
        rest, moved = offsets[children], places[:, children] - places[:, joint : joint + 1]
        # The faint frame follows the parent, or the bone would be free to twist from frame to frame.
        matrix = np.einsum("ci,fcj->fij", rest, moved) + 1e-3 * before.swapaxes(1, 2)
        u, _, v = np.linalg.svd(matrix)
        sign = np.sign(np.linalg.det(u @ v))
        u[:, :, -1] *= sign[:, None]
        turns.append((u @ v).swapaxes(1, 2))
    return turns


def rotate(axis: int, angle: Array) -> Array:
    """Rotations [F, 3, 3] about x, y or z by [F] radians."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.repeat(np.eye(3)[None], len(angle), axis=0)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, i, i], matrix[:, j, j], matrix[:, i, j], matrix[:, j, i] = c, c, -s, s
    return matrix


def to_euler(turn: Array) -> Array:
    """Angles [F, 3] about z, x and y, in the order of the product, of rotations [F, 3, 3]."""
    x = np.arcsin(turn[:, 2, 1].clip(-1, 1))
    z, y = np.arctan2(-turn[:, 0, 1], turn[:, 1, 1]), np.arctan2(-turn[:, 2, 0], turn[:, 2, 2])
    # Where x is a right angle, z and y turn about one axis: all of it is given to z.
    locked = np.abs(turn[:, 2, 1]) > 1 - 1e-10
    z = np.where(locked, np.arctan2(turn[:, 1, 0], turn[:, 0, 0]), z)
    return np.stack([z, x, np.where(locked, 0.0, y)], axis=-1)


def _order(joint: int) -> list[int]:
    children = [child for child, parent in enumerate(PARENTS) if parent == joint]
    return [joint, *(place for child in children for place in _order(child))]


def _describe(joint: int, names: list[str], offsets: Array, indent: str) -> list[str]:
    offset = " ".join(f"{value:.6f}" for value in offsets[joint])
    lines = [f"{indent}{'JOINT' if indent else 'ROOT'} {names[joint]}", f"{indent}{{"]
    lines += [f"{indent}\tOFFSET {offset}", f"{indent}\tCHANNELS {len(CHANNELS)} {' '.join(CHANNELS)}"]
    children = [child for child, parent in enumerate(PARENTS) if parent == joint]
    for child in children:
        lines += _describe(child, names, offsets, indent + "\t")
    if not children:
        end = END * offsets[joint] / max(float(np.linalg.norm(offsets[joint])), 1e-9)
        text = " ".join(f"{value:.6f}" for value in end)
        lines += [f"{indent}\tEnd Site", f"{indent}\t{{", f"{indent}\t\tOFFSET {text}", f"{indent}\t}}"]
    return [*lines, f"{indent}}}"]
