"""A plotly figure of a scene, to be turned with the mouse: balls and sticks as triangle meshes.

Shape legend: n atoms drawn, m bonds, V vertices, F faces.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

from .scene import EDGE_COLOUR, STICK_RADIUS, Array, Scene, ball_radius, element_colour, element_name, normalise

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MANY_ATOMS = 40
"""Above this number of drawn atoms the balls are coarser, to keep the page light."""

BOX_SIDE = 2.05
"""Side of the axes' box in plotly's units; with a parallel projection it sets the scale, and this fills the picture."""

LIGHTING = {"ambient": 0.68, "diffuse": 0.5, "specular": 0.22, "roughness": 0.45, "fresnel": 0.1}

LIGHT_POSITION = {"x": -100_000, "y": 100_000, "z": -300}
"""Above the viewer's left shoulder: plotly takes it in clip space, where depth is squeezed and -z is nearer."""


def build_figure(scene: Scene) -> Figure:
    """Figure of a scene, one mesh per element: its balls, and its halves of the sticks."""
    graph = require("plotly.graph_objects", "report")
    figure = graph.Figure(layout={"template": graph.layout.Template()})
    if scene.edges is not None:
        breaks = np.full((12, 1, 3), np.nan)
        x, y, z = np.concatenate([scene.edges, breaks], axis=1).reshape(-1, 3).astype(np.float32).T
        figure.add_scatter3d(x=x, y=y, z=z, mode="lines", line={"color": EDGE_COLOUR, "width": 3}, hoverinfo="skip")
    for number in np.unique(scene.numbers):
        vertices, faces = mesh_element(scene, int(number))
        (x, y, z), (i, j, k) = vertices.astype(np.float32).T, faces.astype(smallest_index(len(vertices))).T
        figure.add_mesh3d(
            x=x, y=y, z=z, i=i, j=j, k=k, color=element_colour(int(number)), name=element_name(int(number)),
            hovertemplate="%{fullData.name}<extra></extra>",
            lighting=LIGHTING, lightposition=LIGHT_POSITION,
        )
    axis = {"visible": False, "showspikes": False, "range": [-scene.reach, scene.reach], "autorange": False}
    figure.update_layout(
        showlegend=False, margin={"l": 0, "r": 0, "t": 0, "b": 0}, paper_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": EDGE_COLOUR, "activecolor": EDGE_COLOUR},
        scene={
            "aspectmode": "manual", "aspectratio": dict.fromkeys("xyz", BOX_SIDE), "dragmode": "orbit",
            "xaxis": axis, "yaxis": axis, "zaxis": axis,
            "camera": {"eye": {"x": 0, "y": -BOX_SIDE, "z": 0}, "up": {"x": 0, "y": 0, "z": 1},
                       "projection": {"type": "orthographic"}},
        },
    )
    return figure


def smallest_index(count: int) -> Any:
    """Smallest unsigned integer type that numbers `count` vertices."""
    return np.uint16 if count <= np.iinfo(np.uint16).max else np.uint32


def mesh_element(scene: Scene, number: int) -> tuple[Array, NDArray[np.int64]]:
    """Vertices [V, 3] and faces [F, 3] of one element's balls and half-sticks."""
    ball, ball_faces = unit_sphere(1 if len(scene.numbers) > MANY_ATOMS else 2)
    parts = [(position + ball_radius(number) * ball, ball_faces)
             for position in scene.positions[scene.numbers == number]]
    for here, there in np.concatenate([scene.bonds, scene.bonds[:, ::-1]]):
        if scene.numbers[here] == number:
            start, end = scene.positions[here], scene.positions[there]
            parts.append(mesh_stick(start, (start + end) / 2))
    offsets = np.cumsum([0] + [len(vertices) for vertices, _ in parts])
    faces = [faces + offset for (_, faces), offset in zip(parts, offsets, strict=False)]
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces)


def mesh_stick(start: Array, end: Array, sides: int = 8) -> tuple[Array, NDArray[np.int64]]:
    """Vertices [2 sides, 3] and faces of an open tube."""
    along = normalise(end - start)
    across = normalise(np.cross(along, np.eye(3)[np.argmin(np.abs(along))]))
    angle = np.arange(sides)[:, None] * 2 * np.pi / sides
    ring = STICK_RADIUS * (np.cos(angle) * across + np.sin(angle) * np.cross(along, across))
    here = np.arange(sides)
    following = (here + 1) % sides
    faces = np.concatenate([np.stack([here, following, here + sides], 1),
                            np.stack([following, following + sides, here + sides], 1)])
    return np.concatenate([start + ring, end + ring]), faces


@cache
def unit_sphere(subdivisions: int) -> tuple[Array, NDArray[np.int64]]:
    """Vertices and faces of an icosahedron whose faces are split in four `subdivisions` times: 42, 162 ... vertices."""
    golden = (1 + 5**0.5) / 2
    corners = [(0, s, t * golden) for s in (-1, 1) for t in (-1, 1)]
    vertices = np.array([np.roll(corner, shift) for shift in range(3) for corner in corners], dtype=np.float64)
    distance = np.linalg.norm(vertices[:, None] - vertices[None], axis=-1)
    near = np.isclose(distance, 2.0)  # the edge length of this icosahedron
    faces = np.array([(i, j, k) for i in range(12) for j in range(i) for k in range(j)
                      if near[i, j] and near[j, k] and near[i, k]])
    inward = np.einsum("fi,fi->f", np.cross(*(vertices[faces[:, n]] - vertices[faces[:, 0]] for n in (1, 2))),
                       vertices[faces[:, 0]]) < 0
    faces[inward] = faces[inward][:, ::-1]
    for _ in range(subdivisions):
        vertices, faces = split_faces(vertices, faces)
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True), faces


def split_faces(vertices: Array, faces: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """Mesh with a new vertex in the middle of every edge."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    a, b, c = faces.T
    ab, bc, ca = inverse.reshape(3, -1) + len(vertices)
    split = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    middles = vertices[unique].mean(axis=1)
    middles *= np.linalg.norm(vertices[0]) / np.linalg.norm(middles, axis=1, keepdims=True)
    return np.concatenate([vertices, middles]), np.concatenate([np.stack(face, axis=1) for face in split])
