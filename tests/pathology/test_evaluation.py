"""Metrics have known values on known pairs, and are defined where nothing is brown."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from polydit.data.pathology.builtin import SyntheticTissue
from polydit.domains.pathology.evaluation import StainEvaluator, correlate, measure_overlap, measure_psnr, measure_ssim
from polydit.domains.pathology.gallery import GAP, StainGallery, paint_overlap, resize
from polydit.domains.pathology.item import VirtualStain
from polydit.platform.evaluation.statistics import Estimate
from polydit.platform.requests import Request, Sample

TILES = SyntheticTissue(slides=4, tiles=3, size=48).open()
PAIRS = [TILES.read(index) for index in range(12)]


def evaluate(items: list[VirtualStain]) -> dict[str, Estimate]:
    evaluator = StainEvaluator()
    samples = [Sample(Request(seed), item) for seed, item in enumerate(items)]
    assert all(evaluator.accepts(sample) for sample in samples)
    evaluator.update(samples)
    estimates = evaluator.compute()
    assert len(evaluator.rows()) == len(items)
    assert set(estimates) <= set(evaluator.descriptions())
    return estimates


def test_the_truth_itself_is_perfect_and_another_tiles_is_not() -> None:
    perfect = evaluate([VirtualStain(pair.he, pair.ihc, pair.ihc, threshold=0.06) for pair in PAIRS])
    assert perfect["stain/ssim"].value == perfect["brown/dice"].value == perfect["brown/iou"].value == 1
    assert perfect["stain/psnr"].value == 100 and perfect["brown/area_error"].value == 0
    assert perfect["brown/area_correlation"].value == pytest.approx(1)
    assert perfect["brown/dice"].count == perfect["brown/area_correlation"].count == 12
    shuffled = evaluate([
        VirtualStain(pair.he, other.ihc, pair.ihc, threshold=0.06)
        for pair, other in zip(PAIRS, PAIRS[1:] + PAIRS[:1], strict=True)
    ])
    assert shuffled["brown/dice"].value < 0.35 and shuffled["stain/ssim"].value < 0.5
    assert shuffled["stain/psnr"].value < 20
    assert perfect["brown/dice_of_shuffled"].value == pytest.approx(shuffled["brown/dice"].value)


def test_a_blur_keeps_its_psnr_and_an_absent_cell_is_felt_by_dice() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    pair = PAIRS[0]
    blurred = ndimage.gaussian_filter(pair.ihc, (1.0, 1.0, 0))
    bare = pair.ihc.copy()
    bare[make(pair.ihc)] = np.median(pair.ihc, axis=(0, 1)).astype(np.uint8)
    assert measure_overlap(make(blurred), make(pair.ihc))[0] > 0.9
    assert measure_overlap(make(bare), make(pair.ihc))[0] < 0.1
    assert measure_psnr(bare, pair.ihc) > 8


def make(image: np.ndarray) -> np.ndarray:
    return VirtualStain(image, image, image, threshold=0.06).mask


def test_known_values() -> None:
    zero, ten = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 10, np.uint8)
    assert measure_psnr(zero, ten) == pytest.approx(20 * math.log10(25.5))
    assert measure_ssim(zero, zero) == 1 and measure_ssim(zero[:8], zero[:8]) is None
    # of constant images only the term of luminance is left
    c1 = (0.01 * 255) ** 2
    assert measure_ssim(zero, ten) == pytest.approx(c1 / (100 + c1), rel=1e-3)
    left, right = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    left[:2], right[1:3] = True, True
    assert measure_overlap(left, right) == (0.5, 1 / 3)
    assert measure_overlap(left, np.zeros((4, 4), bool)) == (0, 0)
    assert measure_overlap(np.zeros((4, 4), bool), np.zeros((4, 4), bool)) == (1, 1)
    assert correlate(np.array([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1]])) == pytest.approx(-1)


def test_metrics_are_defined_where_nothing_is_brown() -> None:
    items = [VirtualStain(pair.he, pair.he, pair.he, threshold=0.06) for pair in PAIRS[:3]]
    estimates = evaluate(items)
    assert estimates["brown/dice"].value == 1 and estimates["brown/dice"].count == 3
    assert estimates["brown/dice_where_present"].count == 0 and math.isnan(estimates["brown/area_correlation"].value)
    assert estimates["brown/area_error"].value == 0
    one = evaluate(items[:1])
    assert one["brown/dice_of_shuffled"].count == 0 and math.isnan(one["brown/area_correlation"].value)


def test_answers_of_a_tile_are_averaged_and_compared() -> None:
    pair, other = PAIRS[0], PAIRS[1]
    row = StainEvaluator(perceptual=lambda image, truth: float((image != truth).any()))
    row.update([Sample(Request(0), VirtualStain(pair.he, pair.ihc, pair.ihc, (other.ihc,), 0.06))])
    estimates = row.compute()
    single = measure_ssim(other.ihc, pair.ihc)
    assert single is not None
    assert estimates["stain/ssim"].value == pytest.approx((1 + single) / 2)
    assert estimates["stain/perceptual_distance"].value == 0.5
    assert estimates["stain/seed_difference"].value > 5


def test_a_stain_without_truth_is_not_judged_but_shown() -> None:
    sample = Sample(Request(0), VirtualStain(PAIRS[0].he, PAIRS[0].ihc, None, threshold=0.06, name="colon"))
    assert not StainEvaluator().accepts(sample)
    gallery = StainGallery(side=96)
    assert gallery.accepts(sample)
    item = gallery.figures([sample])[0]
    assert isinstance(item.figure, bytes) and "below brown" in item.caption and "stained" in item.caption
    sheet = np.asarray(Image.open(io.BytesIO(item.figure)))
    height, width = resize(PAIRS[0].he, 96).shape[:2]
    assert sheet.shape == (2 * height + GAP, 2 * width + GAP, 3)
    assert (sheet[:height, :width] == resize(PAIRS[0].he, 96)).all()
    assert (sheet[:height, width + GAP :] == resize(PAIRS[0].ihc, 96)).all()
    assert (sheet[height + GAP :, width + GAP :] == 255).all()


def test_panels_are_enlarged_by_whole_factors_and_overlaps_coloured() -> None:
    assert resize(PAIRS[0].he, 100).shape == (96, 96, 3) and resize(PAIRS[0].he, 30).shape == (30, 30, 3)
    left, right = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    assert len(np.unique(paint_overlap(left, right).reshape(-1, 3), axis=0)) == 4
