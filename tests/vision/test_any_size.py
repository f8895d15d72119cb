"""Images of any size in one batch: padding and company change nothing, squares are as with the codec of one size.

Shape legend: B images, C channels, N tokens, L latent channels.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polydit.data.vision.builtin import ArraySet
from polydit.data.vision.datamodule import ImageDataModule
from polydit.data.vision.decoding import Decoder
from polydit.data.vision.pictures import ImageBatch, ImageSet, ImageSource, MixedImageBatch, Picture
from polydit.domains.vision.any_size import AnySizeImageCodec, AnySizeLatentCodec
from polydit.domains.vision.autoencoder import KLAutoencoder
from polydit.domains.vision.codec import CLASS, IMAGE, ImageCodec
from polydit.domains.vision.evaluation import ClassifierJudgement, ImageEvaluator, NearestNeighbours, SlicedWasserstein
from polydit.domains.vision.gallery import draw_grid
from polydit.domains.vision.latent import LatentImageCodec
from polydit.platform.checkpoints import build
from polydit.platform.cli import main
from polydit.platform.conditioning import CategoricalAxis, Conditioner
from polydit.platform.denoisers import (
    AdaLNLoRA,
    DiT,
    PackedTokenEmbedding,
    PatchEmbedding,
    PatchHead,
    TokenEmbedding,
    TokenHead,
    pack_images,
)
from polydit.platform.denoisers.patches import cut_patches
from polydit.platform.errors import ConfigurationError, UserError
from polydit.platform.feedforwards import SwiGLU
from polydit.platform.mixers import Attention, NTKRotary, RotaryPosition, RotaryScaling
from polydit.platform.module import GenerativeModule
from polydit.platform.processes import LearntVarianceProcess, Process
from polydit.platform.requests import Request, Sample
from polydit.platform.samplers import Euler, LearntAncestral, Sampler
from polydit.platform.samplers.guidance import ClassifierFreeGuidance
from polydit.platform.state import Condition, Layout
from polydit.platform.systems.diffusion import DiffusionSystem
from tests.house.recipes import shrink

from .conftest import make_batch

WIDTH, SIZE, PATCH = 32, 8, 2
FIELDS = {IMAGE: PATCH**2}
SIZES = ((8, 8), (4, 12), (12, 4), (6, 10))


def make_denoiser(embedding: Any, head: Any, scaling: RotaryScaling | None = None) -> DiT:
    return DiT(
        embedding, head, WIDTH, 2,
        partial(Attention, heads=2, qk_norm="layer", rotary=partial(RotaryPosition, axes=(8, 8), scaling=scaling)),
        partial(SwiGLU, ratio=8 / 3, multiple=1, bias=True), modulation=AdaLNLoRA,
    )


def make_any_size(
    codec: ImageCodec | None = None, embedding: Any = TokenEmbedding, scaling: RotaryScaling | None = None,
    process: Process | None = None, sampler: Sampler | None = None, outputs: int = PATCH**2,
) -> DiffusionSystem:
    """Untrained, with random weights throughout."""
    torch.manual_seed(0)
    system = DiffusionSystem(
        codec or AnySizeImageCodec(SIZE, 1, 3, PATCH),
        make_denoiser(partial(embedding, fields=FIELDS), partial(TokenHead, fields={IMAGE: outputs}), scaling),
        process or Process.flow_matching(), sampler or Euler(3),
        Conditioner(WIDTH, {"class": partial(CategoricalAxis, num_classes=3)}),
        ClassifierFreeGuidance({"class": 2.0}),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return system.eval()


def make_mixed(sizes: Sequence[tuple[int, int]] = SIZES, channels: int = 1, seed: int = 0) -> MixedImageBatch:
    """Noise of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (channels, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    count = len(sizes)
    return MixedImageBatch(images, torch.arange(count) % 3, torch.arange(count), [f"image {i}" for i in range(count)])


def ask(sizes: Sequence[tuple[int, int]] = SIZES) -> list[Request]:
    return [
        Request(5 + i, {"class": i % 3, "height": height, "width": width}) for i, (height, width) in enumerate(sizes)
    ]


class Ramps(ImageSource):
    """Noisy grey ramps along the height, the width or both, of several sizes: three classes.

    Args:
        count: images.
    """

    def __init__(self, count: int = 240) -> None:
        self.count = count

    def open(self) -> ImageSet:
        generator = np.random.default_rng(0)
        labels = np.arange(self.count) % 3
        images = []
        for label in labels:
            height, width = SIZES[generator.integers(len(SIZES))]
            y, x = np.mgrid[:height, :width]
            ramp = [y / height, x / width, (y / height + x / width) / 2][label]
            images.append((ramp * 200 + generator.normal(20, 6, ramp.shape)).clip(0, 255).astype(np.uint8))
        return ArraySet(images, labels, ("down", "across", "both"), "ramp")


def make_ramps(**options: Any) -> ImageDataModule:
    chosen: dict[str, Any] = {
        "sources": [Ramps()], "size": SIZE, "fit": "keep", "multiple": PATCH, "decoder": Decoder(channels=1),
        "batch_size": 32, **options,
    }
    return ImageDataModule(**chosen)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5), st.sampled_from([1, 3]),
    st.integers(1, 3),
)
def test_pixels_come_back_as_they_went(grids: list[tuple[int, int]], channels: int, patch: int) -> None:
    sizes = [(rows * patch, columns * patch) for rows, columns in grids]
    batch, codec = make_mixed(sizes, channels), AnySizeImageCodec(4 * patch, channels, 3, patch)
    state, layout = codec.encode(batch, torch.Generator())
    asked = codec.layout(ask(sizes))
    assert asked.shapes == layout.shapes and asked.sizes() == codec.sizes(ask(sizes))
    for name in ("masks", "positions"):
        assert torch.equal(getattr(asked, name)[IMAGE], getattr(layout, name)[IMAGE])
    assert torch.equal(asked.labels[CLASS], layout.labels[CLASS])
    for picture, image in zip(codec.decode(state, asked), batch.images, strict=True):
        np.testing.assert_array_equal(picture.pixels, image.permute(1, 2, 0).numpy())


def test_padding_changes_no_loss() -> None:
    class Spoilt(AnySizeImageCodec):
        """Padded tokens hold what they should not."""

        def encode(self, batch: Any, generator: torch.Generator) -> Any:
            state, layout = super().encode(batch, generator)
            return {IMAGE: state[IMAGE].masked_fill(~layout.masks[IMAGE][..., None], 50.0)}, layout

    losses = []
    for codec in (AnySizeImageCodec(SIZE, 1, 3, PATCH), Spoilt(SIZE, 1, 3, PATCH)):
        system = make_any_size(codec).train()
        losses.append(system.losses(make_mixed(), torch.Generator().manual_seed(1))["loss"])
        losses[-1].backward()
        gradients = [parameter.grad for parameter in system.parameters() if parameter.grad is not None]
        assert len(gradients) > 10 and all(bool(gradient.isfinite().all()) for gradient in gradients)
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("scaling", [None, NTKRotary(trained=(4, 4))], ids=["plain", "stretched"])
def test_a_sample_is_the_same_in_any_company(scaling: RotaryScaling | None) -> None:
    system = make_any_size(scaling=scaling)
    sizes = [*SIZES, (16, 16)]
    together = system.generate(ask(sizes))
    assert [sample.item.pixels.shape[:2] for sample in together] == sizes
    for sample in together:
        alone, = system.generate([sample.request])
        difference = np.abs(alone.item.pixels.astype(int) - sample.item.pixels.astype(int))
        assert difference.max() <= 1, "rounding alone"
    plain = make_any_size().generate(ask(sizes))
    same = [np.array_equal(a.item.pixels, b.item.pixels) for a, b in zip(together, plain, strict=True)]
    assert same[0] and same[4] == (scaling is None), "what is no longer than in training stays as it is"


def test_a_learnt_variance_trains_and_samples_at_any_size() -> None:
    system = make_any_size(process=LearntVarianceProcess(), sampler=LearntAncestral(4), outputs=2 * PATCH**2)
    losses = [
        system.losses(make_mixed(seed=seed), torch.Generator().manual_seed(1))["loss"] for seed in (0, 0, 1)
    ]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])
    losses[0].backward()
    samples = system.generate(ask())
    assert [sample.item.pixels.shape[:2] for sample in samples] == list(SIZES)
    for sample in samples:
        alone, = system.generate([sample.request])
        assert np.abs(alone.item.pixels.astype(int) - sample.item.pixels).max() <= 1


def test_packed_images_are_what_they_are_padded() -> None:
    single, packed = make_any_size(), make_any_size(embedding=partial(PackedTokenEmbedding, samples=3))
    packed.load_state_dict(single.state_dict())
    batch, levels = make_mixed(), torch.tensor([0.2, 0.9, 0.5, 0.4])
    state, layout = single.codec.encode(batch, torch.Generator())
    expected = single.denoiser(state, levels, Condition(), single.denoiser.context(layout))[IMAGE]
    images = [image.float() / 127.5 - 1 for image in batch.images]
    patches = pack_images([images[:3], images[3:]], PATCH)
    number = patches.positions[..., 0] + torch.tensor([[0], [3]])
    row = Layout({IMAGE: tuple(patches.tokens.shape)}, {IMAGE: patches.mask}, {IMAGE: patches.positions})
    output = packed.denoiser({IMAGE: patches.tokens}, levels[number], Condition(), packed.denoiser.context(row))[IMAGE]
    torch.testing.assert_close(output[patches.mask], expected[layout.masks[IMAGE]], rtol=1e-4, atol=1e-4)


def test_a_square_batch_is_that_of_the_codec_of_one_size() -> None:
    batch = make_batch()
    mixed = MixedImageBatch(list(batch.images), batch.labels, batch.index, batch.names)
    codec, fixed = AnySizeImageCodec(SIZE, 1, 3, PATCH), ImageCodec(SIZE, 1, 3)
    state, layout = fixed.encode(batch, torch.Generator())
    for given_batch in (batch, mixed):
        tokens, own = codec.encode(given_batch, torch.Generator())
        assert torch.equal(tokens[IMAGE], cut_patches(state[IMAGE], PATCH))
        assert bool(own.masks[IMAGE].all()) and torch.equal(own.labels[CLASS], layout.labels[CLASS])
    any_size = make_any_size().denoiser
    patches = make_denoiser(
        partial(PatchEmbedding, in_channels=1, patch=PATCH, position=None),
        partial(PatchHead, out_channels=1, patch=PATCH),
    )
    patches.load_state_dict(any_size.state_dict())
    levels = torch.linspace(0.1, 0.9, len(batch))
    expected = patches(state, levels, Condition(), patches.context(layout))[IMAGE]
    found = any_size(tokens, levels, Condition(), any_size.context(own))[IMAGE]
    torch.testing.assert_close(found, cut_patches(expected, PATCH), rtol=1e-4, atol=1e-5)


def test_sizes_that_cannot_be_drawn_are_refused() -> None:
    model = GenerativeModule(make_any_size())
    image, = model.sample(height=4, width=10, seed=3)
    assert image.size == (10, 4)
    square, = model.sample(seed=3)
    assert square.size == (SIZE, SIZE)
    for wish, message in (
        ({"height": 9, "width": 8}, "size 9 x 8 cannot be cut into squares of 2 pixels: ask for 8 x 8"),
        ({"size": [1, 3]}, "ask for 2 x 4"),
        ({"size": 66}, r"1089 tokens, more than 64 times the 16 of training: ask for at most 4096 pixels"),
        ({"height": 8}, "give both"),
    ):
        with pytest.raises(UserError, match=message):
            model.sample(**wish)


def test_data_of_other_multiples_are_refused() -> None:
    AnySizeImageCodec(SIZE, 1, 3, PATCH).prepare(make_ramps(multiple=4))
    AnySizeImageCodec(SIZE, 1, 3, PATCH).prepare(make_ramps(fit="crop", multiple=1))
    with pytest.raises(ConfigurationError, match=r"multiples of 2, and the codec needs multiples of 4: set data\.mu"):
        AnySizeImageCodec(SIZE, 1, 3, 4).prepare(make_ramps())
    with pytest.raises(ConfigurationError, match="images of 16 pixels"):
        AnySizeImageCodec(16, 1, 3, 4).prepare(make_ramps(multiple=4))
    with pytest.raises(ConfigurationError, match="size 8 must be a multiple of patch 3"):
        AnySizeImageCodec(SIZE, 1, 3, 3)


def test_parts_for_one_size_refuse_images_of_many() -> None:
    with pytest.raises(ConfigurationError, match="ImageCodec has images of one size: set fit to crop, or take"):
        ImageCodec(SIZE, 1, 3).prepare(make_ramps())
    with pytest.raises(ConfigurationError, match="an autoencoder trains on images of one size"):
        make_autoencoder().prepare(make_ramps())


def make_autoencoder() -> KLAutoencoder:
    torch.manual_seed(0)
    return KLAutoencoder(channels=1, latent_channels=2, width=8, multipliers=(1, 2))


def test_latents_of_any_size_are_those_of_one_size() -> None:
    autoencoder = make_autoencoder()
    codec = AnySizeLatentCodec(autoencoder, SIZE, 3, patch=2, use_mean=True)
    fixed = LatentImageCodec(autoencoder, SIZE, 3, use_mean=True)
    assert codec.multiple == 4
    batch = make_batch()
    state, _ = codec.encode(batch, torch.Generator().manual_seed(0))
    expected, _ = fixed.encode(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(state[IMAGE], cut_patches(expected[IMAGE], 2))

    sizes = [(8, 8), (4, 12), (8, 8), (16, 4)]
    mixed = make_mixed(sizes)
    codec.prepare(make_ramps(multiple=4))
    assert float(codec.latent_std.min()) > 0 and not torch.equal(codec.latent_mean, fixed.latent_mean)
    state, layout = codec.encode(mixed, torch.Generator().manual_seed(0))
    asked = codec.layout(ask(sizes))
    assert asked.shapes == layout.shapes and layout.sizes() == [4, 3, 4, 4]
    for place, picture in enumerate(codec.decode(state, asked)):
        one = MixedImageBatch([mixed.images[place]], mixed.labels[place : place + 1], mixed.index[:1], ["one"])
        alone, = codec.decode(codec.encode(one, torch.Generator())[0], codec.layout([ask(sizes)[place]]))
        assert picture.pixels.shape == (*sizes[place], 1)
        assert np.abs(alone.pixels.astype(int) - picture.pixels).max() <= 1
    with pytest.raises(ConfigurationError, match="multiple of patch 2 times the autoencoder's factor 2"):
        AnySizeLatentCodec(autoencoder, 6, 3)
    with pytest.raises(UserError, match="cannot be cut into squares of 4 pixels: ask for 8 x 12"):
        codec.layout(ask([(10, 12)]))


def test_samples_of_many_sizes_are_judged_and_each_size_by_itself() -> None:
    data = make_ramps(splits=[0.6, 0.0, 0.4])
    evaluator = ImageEvaluator([
        SlicedWasserstein(resamples=3), ClassifierJudgement(steps=60, keep=False), NearestNeighbours(),
    ])
    evaluator.prepare(data)
    real = data.images("test")
    samples = []
    for batch in real.batches(16):
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            samples.append(Sample(Request(0), Picture(image.permute(1, 2, 0).numpy(), label, data.classes[label])))
    evaluator.update(samples)
    found = evaluator.compute()
    assert set(found) <= set(evaluator.descriptions()) and found["class/accuracy"].value > 0.9
    counts = {name: found[f"class/accuracy/{name}"].count for name in ("8x8", "4x12", "12x4", "6x10")}
    assert sum(counts.values()) == found["class/accuracy"].count == len(samples) and min(counts.values()) > 5
    assert all(found[f"class/accuracy/{name}"].value > 0.8 for name in counts)
    assert all(found[f"class/accuracy_on_real/{name}"].value > 0.8 for name in counts)
    assert found["neighbour/distance"].value < 60
    rows = evaluator.rows()
    assert {(row["height"], row["width"]) for row in rows} == set(SIZES)
    evaluator.reset()
    evaluator.update([sample for sample in samples if sample.item.pixels.shape[:2] == (8, 8)])
    assert not any(name.startswith("class/accuracy/") for name in evaluator.compute()), "one size needs no breakdown"


def test_a_grid_shows_sizes_in_proportion() -> None:
    pytest.importorskip("PIL.Image")
    white = [np.full((height, width, 1), 255, np.uint8) for height, width in ((8, 8), (4, 12), (16, 16))]
    grid = draw_grid([("", white)], 3, 64)
    lit = (grid == 255).all(axis=2).sum()
    assert lit == 16 * (64 + 48 + 256), "every pixel four by four"


def test_it_learns_from_batches_of_mixed_sizes() -> None:
    """The loss of a tiny model falls well below that of a constant answer."""
    data = make_ramps()
    system = make_any_size().train()
    system.prepare(data)
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses: list[float] = []
    loader = data.train_dataloader()
    for epoch in range(12):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            assert isinstance(batch, MixedImageBatch | ImageBatch)
            loss: Tensor = system.losses(batch, generator)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_a_folder_of_mixed_images_trains_by_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit, test and predict of the recipe, made small."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    recipe = shrink(yaml.safe_load((Path(__file__).parents[2] / "examples/vision/any_size.yaml").read_text()))
    for callback in recipe["trainer"]["callbacks"]:
        if callback["class_path"].endswith("Evaluation"):
            callback["init_args"]["evaluators"][0]["init_args"] = {"measures": [{
                "class_path": "polydit.domains.vision.evaluation.ClassifierJudgement", "init_args": {"steps": 5},
            }]}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["fit", "--config", "small.yaml"]) == 0
    assert main(["test", "--config", "small.yaml", "--ckpt_path", "last"]) == 0
    run = tmp_path / "runs" / "any_size_images"
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"class/accuracy/8x28", "class/accuracy/24x24", "class/accuracy_on_real/24x24"} <= set(metrics)
    with (run / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100 and {(row["height"], row["width"]) for row in rows} >= {("8", "28"), ("24", "24")}
    assert main(["predict", "--config", "small.yaml", "--ckpt_path", "last", "--data.requests",
                 "[{class: 7, height: 8, width: 32}]"]) == 0
    with pytest.importorskip("PIL.Image").open(run / "samples" / "00000_7.png") as image:
        assert image.size == (32, 8)


def test_the_published_recipe_has_the_published_number_of_weights() -> None:
    pytest.importorskip("diffusers")
    recipe = yaml.safe_load((Path(__file__).parents[2] / "examples/vision/fit.yaml").read_text())
    with torch.device("meta"):
        system = build(recipe["model"]).system
    assert isinstance(system, DiffusionSystem) and isinstance(system.codec, AnySizeLatentCodec)
    parts = (system.denoiser, system.conditioner)
    assert sum(p.numel() for part in parts if part is not None for p in part.parameters()) == 671_045_776
    assert system.codec.multiple == recipe["data"]["init_args"]["multiple"] == 16
