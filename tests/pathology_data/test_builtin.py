"""The built-in tissue: deterministic, different from slide to slide, its classes told by texture alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from polydit.data.pathology.builtin import SyntheticTissue
from polydit.platform.errors import ConfigurationError


def test_a_tile_is_made_of_its_seed_slide_and_number_alone() -> None:
    large, small = SyntheticTissue(slides=5, tiles=3).open(), SyntheticTissue(slides=2, tiles=3).open()
    one, other = large.read(4), small.read(4)
    np.testing.assert_array_equal(one.he, other.he)
    np.testing.assert_array_equal(one.ihc, other.ihc)
    assert (one.he != large.read(5).he).any() and (one.he != SyntheticTissue(2, 3, seed=1).open().read(4).he).any()


@pytest.mark.parametrize("size", [16, 48, 130])
def test_any_size_is_filled_with_cells(size: int) -> None:
    pair = SyntheticTissue(slides=1, tiles=1, size=size).open().read(0)
    assert pair.he.shape == pair.ihc.shape == (size, size, 3) and pair.mask is not None
    assert pair.mask.shape == (size, size)


def test_slides_differ_in_stain_more_than_tiles_of_a_slide() -> None:
    tiles = SyntheticTissue(slides=6, tiles=6, size=96).open()
    colours = np.array([tiles.read(index).he.mean(axis=(0, 1)) for index in range(36)]).reshape(6, 6, 3)
    assert colours.mean(axis=1).std(axis=0).mean() > 1.5 * colours.std(axis=1).mean()


def find_cells(ihc: np.ndarray) -> list[np.ndarray]:
    """Centres of cells that stand alone in an IHC image, whose counterstain and brown have no texture."""
    density = -np.log10((ihc[..., 0].astype(float) + 1) / 256)
    labels, count = ndimage.label(ndimage.gaussian_filter(density, 0.7) > 0.12)
    size = len(ihc)
    found = []
    for number in range(1, count + 1):
        rows, columns = np.nonzero(labels == number)
        centre = np.array([rows.mean(), columns.mean()])
        if 40 < len(rows) < 200 and centre.min() > 8 and centre.max() < size - 9:
            found.append(centre)
    return found


def test_classes_differ_in_texture_and_in_nothing_else_of_h_and_e() -> None:
    """Around the centres of cells of either class, darkness and its spread agree; how alike neighbours are does not."""
    tiles = SyntheticTissue(slides=6, tiles=8, size=96).open()
    rows, columns = np.mgrid[:96, :96]
    found: dict[bool, list[list[float]]] = {True: [], False: []}
    for index in range(len(tiles)):
        pair = tiles.read(index)
        assert pair.mask is not None
        density = -np.log10((pair.he[..., 0].astype(float) + 1) / 256)
        for centre in find_cells(pair.ihc):
            distance = np.hypot(rows - centre[0], columns - centre[1])
            inner, whole = distance < 3.6, distance < 5.6
            right = inner[:, 1:] & inner[:, :-1]
            alike = np.corrcoef(density[:, 1:][right], density[:, :-1][right])[0, 1]
            found[bool(pair.mask[inner].mean() > 0.5)].append(
                [density[inner].mean(), density[inner].std(), density[whole].sum(), alike]
            )
    assert min(map(len, found.values())) > 100
    (mean, spread, total, alike), other = (np.mean(values, axis=0) for values in (found[True], found[False]))
    assert mean == pytest.approx(other[0], rel=0.04)
    assert spread == pytest.approx(other[1], rel=0.2)
    assert total == pytest.approx(other[2], rel=0.05)
    assert alike > other[3] + 0.4


def test_stained_cells_are_brown_and_the_share_varies() -> None:
    tiles = SyntheticTissue(slides=6, tiles=4).open()
    shares = [tiles.read(index).mask.mean() for index in range(24)]  # type: ignore[union-attr]
    assert np.std(shares) > 0.03 and 0.05 < np.mean(shares) < 0.35


@pytest.mark.parametrize("options", [{"slides": 0}, {"tiles": 0}, {"size": 8}, {"grain": 0.9}])
def test_what_cannot_be_made_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        SyntheticTissue(**options)  # type: ignore[arg-type]
