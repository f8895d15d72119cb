"""The brown channel finds what is brown, in made and in real tissue, and nothing where nothing is."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from polydit.data.pathology.brown import FLOOR, choose_threshold, make_mask, measure_brown
from polydit.data.pathology.builtin import SyntheticTissue
from polydit.data.pathology.images import read_picture
from polydit.platform.errors import ConfigurationError

TISSUE = SyntheticTissue(slides=4, tiles=4)


def expose(density: tuple[float, float, float]) -> np.ndarray:
    light = np.round(255 * 10.0 ** -np.array(density))
    return np.broadcast_to(light, (4, 4, 3)).astype(np.uint8)


def test_pure_stains_are_told_apart() -> None:
    brown, blue, pink = (
        float(measure_brown(expose(stain)).mean())
        for stain in ((0.268, 0.570, 0.776), (0.650, 0.704, 0.286), (0.072, 0.990, 0.105))
    )
    assert brown > 0.15 and blue < 0.01 and pink < 0.01


def test_masks_of_made_tissue_are_the_cells_that_were_stained() -> None:
    pairs = [TISSUE.open().read(index) for index in range(16)]
    threshold = choose_threshold(pair.ihc for pair in pairs)
    masks = np.stack([make_mask(pair.ihc, threshold) for pair in pairs])
    truth = np.stack([pair.mask for pair in pairs if pair.mask is not None])
    assert 2 * (masks & truth).sum() / (masks.sum() + truth.sum()) > 0.9


def test_h_and_e_has_no_brown() -> None:
    images = [TISSUE.open().read(index).he for index in range(4)]
    assert choose_threshold(images) == FLOOR, "Otsu would divide noise"
    assert not any(make_mask(image, FLOOR).any() for image in images)


def test_a_single_colour_has_a_threshold_and_no_image_has_none() -> None:
    assert choose_threshold([np.full((8, 8, 3), 240, np.uint8)]) == FLOOR
    with pytest.raises(ConfigurationError, match="give brown_threshold"):
        choose_threshold([])


def test_smoothing_passes_over_single_pixels() -> None:
    image = np.full((21, 21, 3), 240, np.uint8)
    image[10, 10] = (90, 50, 20)
    assert make_mask(image, 0.05, smoothing=0).sum() == 1
    assert not make_mask(image, 0.05, smoothing=1.5).any()


def test_real_colon_gives_a_plausible_mask(shared_data: Path) -> None:
    """A real IHC image: between a tenth and two thirds are brown, which is redder than blue; nuclei around are not."""
    image = read_picture(shared_data / "pathology" / "skimage_ihc" / "ihc.png")
    mask = make_mask(image, choose_threshold([image]))
    assert 0.1 < mask.mean() < 0.67
    red, _, blue = (image[..., channel].astype(float) for channel in range(3))
    assert (red - blue)[mask].mean() > 25 > 10 > (red - blue)[~mask].mean()
    inner = mask[1:-1, 1:-1]
    alone = inner & ~(mask[:-2, 1:-1] | mask[2:, 1:-1] | mask[1:-1, :-2] | mask[1:-1, 2:])
    assert alone.sum() < 0.01 * mask.sum(), "a mask of cells is no scatter of pixels"


def test_real_h_and_e_has_next_to_no_brown(shared_data: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    with zipfile.ZipFile(shared_data / "pathology" / "dsb2018" / "histology.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("images/"))
        shares = []
        for name in names[:: len(names) // 10]:
            image = np.asarray(pillow.open(io.BytesIO(archive.read(name))).convert("RGB"))
            shares.append(float(make_mask(image, FLOOR).mean()))
    assert np.median(shares) < 0.01
