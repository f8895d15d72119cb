"""Laws of the built-in set: seeds, conservation, exact areas, and sound that begins when bodies touch."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydit.data.video.builtin import BouncingBodies
from polydit.data.video.clips import ClipFormat
from polydit.data.video.impacts import PITCH, list_modes, synthesise
from polydit.data.video.rasteriser import GROUND, cover, draw_discs
from polydit.data.video.simulation import WALL, Bodies, Contact, draw_bodies, simulate
from polydit.data.video.store import ClipStore
from polydit.data.video.tracking import find_turns, track_bodies
from polydit.platform.errors import ConfigurationError, DataError


def test_same_seed_same_clips_whatever_their_number(wanted: ClipFormat) -> None:
    few, many = BouncingBodies(2, seed=5).open(wanted), BouncingBodies(4, seed=5).open(wanted)
    for index in range(2):
        first, second = few.read(index), many.read(index)
        assert np.array_equal(first.frames, second.frames) and np.array_equal(first.sound, second.sound)
        assert np.array_equal(first.onsets, second.onsets) and first.bodies == second.bodies
    assert not np.array_equal(few.read(0).frames, BouncingBodies(1, seed=6).open(wanted).read(0).frames)


def test_the_store_is_made_once_and_read_from_memory_maps(wanted: ClipFormat) -> None:
    source = BouncingBodies(3)
    first = source.open(wanted)
    assert isinstance(first, ClipStore) and isinstance(first.frames, np.memmap)
    stamp = (first.folder / "frames.npy").stat().st_mtime_ns
    again = source.open(wanted)
    assert isinstance(again, ClipStore) and (again.folder / "frames.npy").stat().st_mtime_ns == stamp
    assert source.open(replace(wanted, size=16)).read(0).frames.shape == (8, 16, 16, 3)
    made = source.make(1, wanted)
    assert np.array_equal(first.read(1).frames, made.frames)
    np.testing.assert_allclose(first.read(1).sound, made.sound, atol=2e-5)


def test_a_damaged_store_is_named(wanted: ClipFormat) -> None:
    store = BouncingBodies(3).open(wanted)
    assert isinstance(store, ClipStore)
    facts = json.loads((store.folder / "clips.json").read_text())
    (store.folder / "clips.json").write_text(json.dumps({**facts, "clips": facts["clips"][:2]}))
    with pytest.raises(DataError, match="2 clips are listed and 3 stored"):
        BouncingBodies(3).open(wanted)


@pytest.mark.parametrize("seed", range(4))
def test_impacts_keep_energy_and_bodies_in_the_box(seed: int) -> None:
    bodies = draw_bodies(3, (0.08, 0.16), (0.4, 1.0), np.random.default_rng(seed))
    places, contacts = simulate(bodies, 400, 400.0)
    assert contacts == sorted(contacts, key=lambda contact: contact.time)
    velocities = np.diff(places.astype(float), axis=0) * 400
    energy = (bodies.masses * np.square(velocities).sum(-1)).sum(-1)
    free = np.ones(len(energy), bool)
    for contact in contacts:  # bodies are pressed together, and slow, for some milliseconds
        free[max(0, int(contact.time * 400) - 1) : int(contact.time * 400) + 5] = False
    assert abs(energy[free] / energy[0] - 1).max() < 0.06
    gap = np.minimum(places, 1 - places) - bodies.radii[:, None]
    assert gap.min() > -0.005


def test_a_body_meets_a_wall_when_it_gets_there() -> None:
    bodies = Bodies(np.array([0.1]), np.array([[0.5, 0.3]]), np.array([[0.5, 0.0]]))
    _, contacts = simulate(bodies, 30, 12.5)
    times = [contact.time for contact in contacts]
    np.testing.assert_allclose(times, [0.8, 2.4][: len(times)], atol=0.02)
    assert len(times) == 2 - (times[-1] < 1) and contacts[0].second == WALL
    assert contacts[0].speed == pytest.approx(0.5, rel=0.02)


@given(x=st.floats(-0.2, 1.2), y=st.floats(-0.2, 1.2), radius=st.floats(0.03, 0.3), size=st.integers(4, 24))
def test_discs_cover_their_exact_area(x: float, y: float, radius: float, size: int) -> None:
    share = cover(np.array([[[x, y]]]), np.array([radius]), size)[0, 0]
    assert share.min() >= 0 and share.max() <= 1
    fine = 400
    grid = (np.arange(fine) + 0.5) / fine
    inside = (grid[None] - x) ** 2 + (grid[:, None] - y) ** 2 < radius**2
    assert share.sum() / size**2 == pytest.approx(inside.mean(), abs=4e-3)
    if radius < min(x, y, 1 - x, 1 - y):
        assert share.sum() / size**2 == pytest.approx(math.pi * radius**2, rel=1e-9)


def test_motion_below_a_pixel_shows() -> None:
    places = np.array([[[0.5, 0.5]], [[0.505, 0.5]]])
    frames = draw_discs(places, np.array([0.12]), np.array([0]), 32)
    assert not np.array_equal(frames[0], frames[1])
    tracked = track_bodies(frames, 12.5).places[:, 0]
    np.testing.assert_allclose(tracked, places[:, 0], atol=0.002)
    assert tuple(frames[0, 0, 0]) == GROUND


def test_sound_is_silent_until_the_impact_and_rings_by_size() -> None:
    sound = synthesise([Contact(0.25, 0, WALL, 1.0)], np.array([0.1]), 8000, 8000)
    assert np.abs(sound[:2000]).max() == 0 and np.abs(sound[2000:2400]).max() > 0.1
    assert np.abs(sound[6000:]).max() < 1e-3
    small, large = (
        abs(np.fft.rfft(synthesise([Contact(0.0, 0, 1, 1.0)], np.array([r, r]), 8000, 8000))).argmax()
        for r in (0.08, 0.16)
    )
    assert small == pytest.approx(PITCH / 0.08, rel=0.02) and large == pytest.approx(PITCH / 0.16, rel=0.02)
    assert len(list_modes(Contact(0, 0, WALL, 1), np.array([0.1]))) == 5


def test_tracked_turns_are_the_impacts(tmp_path: Path) -> None:
    wanted = ClipFormat(16, 32, 12.5, 8000, str(tmp_path))
    source = BouncingBodies(20, bodies=(2, 2), speed=(0.3, 0.8), seed=1)
    errors, counted = [], 0
    for index in range(20):
        clip = source.make(index, wanted)
        tracks = track_bodies(clip.frames, clip.frame_rate)
        assert (tracks.present.sum(axis=1) == clip.bodies).mean() > 0.9
        times = np.array([turn.time for turn in find_turns(tracks)])
        for onset in clip.onsets[(clip.onsets > 0.08) & (clip.onsets < 1.12)]:
            counted += 1
            errors.append(np.abs(times - onset).min() if len(times) else 1.0)
    assert counted > 30 and np.median(errors) < 0.012 and np.mean(np.array(errors) < 0.05) > 0.85


@pytest.mark.parametrize("pixels", [0.1, 0.4, 1.0])
def test_jitter_is_found_beside_turns(pixels: float) -> None:
    """Bodies of true clips, drawn off their places by independent errors of known size."""
    generator = np.random.default_rng(0)
    source, wanted = BouncingBodies(30, bodies=(1, 1), radius=(0.12, 0.16), seed=2), ClipFormat(16, 32, 12.5, 8000)
    found, still = [], []
    for index in range(30):
        tracks = track_bodies(source.make(index, wanted).frames, 12.5)
        body = int(np.nanargmax(tracks.areas.sum(axis=0)))
        places = tracks.places[:, [body]] + generator.normal(0, pixels / 32, (16, 1, 2))
        frames = draw_discs(places, tracks.radii[[body]], np.array([body]), 32)
        found.append(track_bodies(frames, 12.5).jitter[body])
        still.append(tracks.jitter[body])
    assert np.mean(found) * 32 == pytest.approx(pixels, rel=0.15, abs=0.03) and np.mean(still) * 32 < 0.05


@pytest.mark.parametrize("options", [{"clips": 0}, {"bodies": (2, 5)}, {"radius": (0.1, 0.4)}, {"speed": (1.0, 0.5)}])
def test_what_cannot_be_simulated_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"at least 1 clip|radii lie"):
        BouncingBodies(**options)  # type: ignore[arg-type]
