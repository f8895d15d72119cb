"""Measures of images: real ones are near, noise is far, blur ever farther; known answers; what is left out is said.

Shape legend: n images, C channels, h, w height and width, D features.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from polydit.data.vision.pictures import Picture
from polydit.domains.vision.evaluation import (
    ClassifierJudgement,
    FeatureDistance,
    ImageEvaluator,
    ImageReconstructionEvaluator,
    NearestNeighbours,
    References,
    SlicedWasserstein,
    TorchScriptFeatures,
)
from polydit.domains.vision.evaluation.distances import (
    find_within_manifold,
    measure_frechet,
    measure_kernel_distance,
    measure_sliced_distance,
    spread_evenly,
)
from polydit.domains.vision.evaluation.sliced import make_pyramid
from polydit.platform.autoencoders import Reconstruction
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request, Sample

from .conftest import SIZE, Stripes, make_data

Measures = (SlicedWasserstein(resamples=10), ClassifierJudgement(steps=60, keep=False), NearestNeighbours())


def features(n: int, d: int = 6, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(n, d)) @ np.random.default_rng(9).normal(size=(d, d))


def real_images(split: str = "val") -> tuple[Tensor, Tensor]:
    batches = list(make_data(sources=[Stripes(300)], splits=[0.4, 0.3, 0.3]).images(split).batches(64))
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


def as_samples(images: Tensor, labels: Tensor) -> list[Sample]:
    return [
        Sample(Request(i, {"class": int(label)}), Picture(image.permute(1, 2, 0).numpy(), int(label), str(int(label))))
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def judge(images: Tensor, labels: Tensor, *measures: Any) -> dict[str, float]:
    evaluator = ImageEvaluator(list(measures))
    evaluator.prepare(make_data(sources=[Stripes(300)], splits=[0.4, 0.3, 0.3]))
    evaluator.reset()
    evaluator.update(as_samples(images, labels))
    found = evaluator.compute()
    assert all(entry.low <= entry.value <= entry.high for entry in found.values() if np.isfinite(entry.low))
    assert set(found) <= set(evaluator.descriptions())
    assert len(evaluator.rows()) == len(images)
    return {name: entry.value for name, entry in found.items()}


def test_real_is_near_noise_is_far_and_blur_ever_farther() -> None:
    gaussian_filter = pytest.importorskip("scipy.ndimage").gaussian_filter
    images, labels = real_images()
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    distances = {"real": judge(images, labels, *Measures), "noise": judge(noise, labels, *Measures)}
    for sigma in (0.5, 0.8, 1.2):
        blurred = torch.from_numpy(gaussian_filter(images.numpy().astype(float), (0, 0, sigma, sigma)).astype(np.uint8))
        distances[f"blur {sigma}"] = judge(blurred, labels, *Measures)
    for name in ("image/sliced_wasserstein", "class/frechet"):
        real, noisy = distances["real"][name], distances["noise"][name]
        blurs = [distances[f"blur {sigma}"][name] for sigma in (0.5, 0.8, 1.2)]
        floor = distances["real"][f"{name}_of_real"]
        assert real < 1.5 * floor and floor < blurs[0], (name, distances)
        assert real < blurs[0] < blurs[1] < blurs[2] and noisy > 5 * real, (name, distances)
    assert distances["real"]["class/accuracy"] > 0.95 and distances["noise"]["class/accuracy"] < 0.7
    assert distances["real"]["neighbour/memorised"] < 0.1


def test_a_wrong_class_is_told_from_a_right_one() -> None:
    images, labels = real_images()
    found = judge(images, (labels + 1) % 3, Measures[1])
    assert found["class/accuracy"] < 0.05 and found["class/accuracy_on_real"] > 0.95
    assert "class/accuracy" not in judge(images, torch.full_like(labels, -1), Measures[1])


def test_copies_of_the_training_set_are_memorised_and_alike_images_no_diversity() -> None:
    train, labels = real_images("train")
    copied = judge(train, labels, NearestNeighbours())
    assert copied["neighbour/memorised"] == 1.0 and copied["neighbour/distance"] == pytest.approx(0.0, abs=0.05)
    flat = judge(torch.full_like(train, 90), labels, NearestNeighbours())
    assert flat["neighbour/memorised"] < 0.05, "a grey image is near to many, and a copy of none"
    same = judge(train[:1].expand(20, -1, -1, -1), labels[:1].expand(20), NearestNeighbours())
    assert same["neighbour/diversity"] == 0.0 < copied["neighbour/diversity"]
    evaluator = ImageEvaluator([NearestNeighbours()])
    evaluator.prepare(make_data(sources=[Stripes(300)], splits=[0.4, 0.3, 0.3]))
    evaluator.update(as_samples(train[5:6], labels[5:6]))
    evaluator.compute()
    assert str(evaluator.rows()[0]["nearest"]).startswith("stripe ")


@settings(deadline=None, max_examples=20)
@given(st.integers(30, 80), st.integers(2, 12), st.integers(0, 3))
def test_frechet_and_kernel_distance_are_those_of_torchmetrics(n: int, d: int, seed: int) -> None:
    a, b = features(n, d, seed), 0.7 * features(n + 5, d, seed + 10) + 0.3
    identity = nn.Flatten()
    identity.num_features = d  # type: ignore[assignment]
    fid = FrechetInceptionDistance(feature=identity, input_img_size=(1, 1, d)).set_dtype(torch.float64)
    fid.update(torch.from_numpy(b), real=True)
    fid.update(torch.from_numpy(a), real=False)
    assert measure_frechet(a, b) == pytest.approx(float(fid.compute()), rel=1e-3, abs=1e-3)
    kid = KernelInceptionDistance(feature=identity, subsets=1, subset_size=n)
    kid.update(torch.from_numpy(b[:n]), real=True)
    kid.update(torch.from_numpy(a), real=False)
    expected = float(kid.compute()[0])
    assert measure_kernel_distance(a, b[:n]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_frechet_of_normal_distributions_is_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    a = generator.normal(size=(200_000, 2)) * [1.0, 2.0]
    b = generator.normal(size=(200_000, 2)) * [3.0, 0.5] + [1.0, 0.0]
    assert measure_frechet(a, b) == pytest.approx(1 + (3 - 1) ** 2 + (2 - 0.5) ** 2, rel=0.02)
    assert measure_frechet(a, a) == pytest.approx(0.0, abs=1e-9)
    few = features(3, 8)
    assert np.isfinite(measure_frechet(few, features(4, 8, 1))), "fewer items than features"


def test_precision_and_recall_see_what_is_outside_and_what_is_missing() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.normal(size=(300, 2)), generator.normal(size=(300, 2)) + 40
    both = np.concatenate([left, right])
    assert find_within_manifold(left, both).mean() > 0.95  # all samples are real ones' like: precise
    assert find_within_manifold(both, left).mean() == pytest.approx(0.5, abs=0.03)  # half of the real ones are missed
    assert find_within_manifold(right + 100, both).sum() == 0


def test_sliced_distance_in_one_direction_is_the_mean_shift_of_quantiles() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 1, generator=generator), torch.randn(50, 1, generator=generator) * 2 + 1
    values, order = torch.cat([a, b]).sort(dim=0)
    weights = torch.cat([torch.full((50,), 1 / 50), torch.full((50,), -1 / 50)])
    found = measure_sliced_distance(order, values.diff(dim=0), torch.arange(100), weights)
    assert found == pytest.approx(float((a.sort(0).values - b.sort(0).values).abs().mean()), rel=1e-4)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_pyramid_holds_all_of_the_image(height: int, width: int) -> None:
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    levels = make_pyramid(images)
    rebuilt = levels[-1]
    for level in reversed(levels[:-1]):
        rebuilt = level + torch.nn.functional.interpolate(rebuilt, level.shape[2:], mode="bilinear")
    torch.testing.assert_close(rebuilt, images.float() / 127.5 - 1, atol=1e-5, rtol=1e-5)


def test_real_ones_to_compare_with_are_of_every_class_though_they_are_sorted() -> None:
    found = spread_evenly(6, 60) // 10  # sixty images, ten of each of six classes
    assert found.tolist() == [0, 1, 2, 3, 4, 5]
    assert spread_evenly(9, 4).tolist() == [0, 1, 2, 3]


def test_the_classifier_is_kept_and_made_again_when_the_data_change(tmp_path: Path) -> None:
    def prepare(**options: Any) -> tuple[ClassifierJudgement, bytes]:
        data = make_data(**options)
        data.__dict__["trainer"] = SimpleNamespace(default_root_dir=str(tmp_path))
        measure = ClassifierJudgement(steps=5)
        measure.prepare(References(data, "test", 100))
        return measure, (tmp_path / "classifier.safetensors").read_bytes()

    first, kept = prepare()
    time = (tmp_path / "classifier.safetensors").stat().st_mtime_ns
    second, again = prepare()
    assert kept == again and time == (tmp_path / "classifier.safetensors").stat().st_mtime_ns
    assert first.model is not None and second.model is not None
    images = real_images()[0]
    assert torch.equal(first.model.judge(images)[1], second.model.judge(images)[1])
    _, other = prepare(seed=1)
    assert other != kept
    (tmp_path / "classifier.safetensors").write_bytes(b"torn")
    assert prepare(seed=1)[1] == other, "a damaged one is made again"


def test_measures_that_lack_their_data_are_left_out_and_named() -> None:
    class Bare(Stripes):
        def open(self) -> Any:
            images = super().open()
            images.classes = ()
            images.labels = np.full(len(images), -1)  # type: ignore[attr-defined]
            return images

    evaluator = ImageEvaluator([ClassifierJudgement(steps=2), NearestNeighbours()])
    with pytest.warns(UserWarning, match="ClassifierJudgement is left out: the data have 0 classes"):
        evaluator.prepare(make_data(sources=[Bare()]))
    images, _ = real_images()
    evaluator.update(as_samples(images, torch.full((len(images),), -1)))
    assert "neighbour/distance" in evaluator.compute() and len(evaluator.rows()) == len(images)
    without = ImageEvaluator()
    with pytest.raises(DataError, match="the data module has no sources"):
        without.prepare(make_data(sources=[], requests=[{}]))
    without.update(as_samples(images, torch.full((len(images),), -1)))
    assert without.compute() == {} and len(without.rows()) == len(images)


def test_samples_of_another_size_are_resized() -> None:
    images, labels = real_images()
    large = torch.nn.functional.interpolate(images.float(), (16, 16)).to(torch.uint8)
    assert judge(large, labels, NearestNeighbours())["neighbour/distance"] < 40


class Means(nn.Module):
    """Mean of every row and column."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images.float().mean(dim=(1, 2)), images.float().mean(dim=(1, 3))], dim=1)


def test_given_features_make_fid_kid_precision_and_recall(tmp_path: Path) -> None:
    images, labels = real_images()
    own = judge(images, labels, FeatureDistance(Means(), resamples=5, block=40))
    far = judge(255 - images, labels, FeatureDistance(Means(), resamples=5, block=40))
    assert far["image/fid"] > 5 * own["image/fid"] and far["image/kid"] > own["image/kid"]
    assert own["image/precision"] > 0.8 > far["image/precision"] and own["image/recall"] > 0.8
    assert abs(own["image/kid"]) < 0.1 * far["image/kid"]

    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    extractor = TorchScriptFeatures(str(tmp_path / "means.pt"))
    torch.testing.assert_close(extractor(images[:2]), Means()(images[:2].expand(-1, 3, -1, -1)))
    assert TorchScriptFeatures(str(tmp_path / "means.pt"), size=4, scale="unit")(images[:2]).max() <= 1
    (tmp_path / "torn.pt").write_bytes(b"no network")
    with pytest.raises(DataError, match="no TorchScript file"):
        TorchScriptFeatures(str(tmp_path / "torn.pt"))
    with pytest.raises(DataError, match="there is no file"):
        TorchScriptFeatures(str(tmp_path / "no.pt"))
    with pytest.raises(ConfigurationError, match="scale 'percent'"):
        TorchScriptFeatures(str(tmp_path / "means.pt"), scale="percent")


def test_features_that_are_not_finite_are_refused() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 3), float("nan"))

    with warnings.catch_warnings(), pytest.raises(UserWarning, match="gives features that are not finite"):
        warnings.simplefilter("error")
        judge(*real_images(), FeatureDistance(Broken()))


def test_settings_out_of_range_are_refused() -> None:
    for make in (
        lambda: SlicedWasserstein(patches=0), lambda: ClassifierJudgement(steps=0), lambda: NearestNeighbours(most=1),
        lambda: FeatureDistance(Means(), block=1), lambda: ImageEvaluator(limit=1),
    ):
        with pytest.raises(ConfigurationError):
            make()


def test_reconstructions_are_measured() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    near = np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)
    evaluator = ImageReconstructionEvaluator()
    pairs = [Reconstruction(Picture(image), Picture(image)), Reconstruction(Picture(image), Picture(near))]
    small = Picture(image[:SIZE, :SIZE])
    assert all(evaluator.accepts(pair) for pair in pairs) and not evaluator.accepts(image)
    evaluator.update([*pairs, Reconstruction(small, small)])
    first, second, third = evaluator.rows()
    assert first["psnr"] == 100.0 and first["ssim"] == pytest.approx(1.0) and first["error"] == 0.0
    assert 35 < float(second["psnr"] or 0) < 45 and float(second["ssim"] or 0) > 0.95
    assert "ssim" not in third
    found = evaluator.compute()
    assert found["reconstruction/psnr"].count == 3 and found["reconstruction/ssim"].count == 2
