"""Pixels and classes to a state and back; requests; names of classes in the checkpoint.

Shape legend: B images, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polydit.data.vision.pictures import ImageBatch
from polydit.domains.vision.codec import CLASS, IMAGE, ImageCodec
from polydit.platform.errors import ConfigurationError, UserError
from polydit.platform.module import GenerativeModule
from polydit.platform.processes import LearntVarianceProcess
from polydit.platform.requests import Request
from polydit.platform.samplers import LearntAncestral
from polydit.platform.samplers.guidance import ClassifierFreeGuidance

from .conftest import SIZE, make_batch, make_data, make_system


@given(st.integers(0, 5), st.sampled_from([1, 3]))
def test_pixels_come_back_as_they_went(seed: int, channels: int) -> None:
    batch = make_batch(channels=channels, seed=seed)
    codec = ImageCodec(SIZE, channels, 3)
    state, layout = codec.encode(batch, torch.Generator())
    assert state[IMAGE].min() >= -1 and state[IMAGE].max() <= 1
    assert torch.equal(layout.labels[CLASS], batch.labels + 1)
    asked = codec.layout([Request(i, {"class": int(label)}) for i, label in enumerate(batch.labels)])
    assert asked.shapes == layout.shapes and torch.equal(asked.labels[CLASS], layout.labels[CLASS])
    for picture, image, label in zip(codec.decode(state, asked), batch.images, batch.labels, strict=True):
        np.testing.assert_array_equal(picture.pixels, image.permute(1, 2, 0).numpy())
        assert picture.label == int(label)


def test_a_model_without_classes_ignores_them() -> None:
    state, layout = ImageCodec(SIZE, 1).encode(make_batch(), torch.Generator())
    assert layout.labels == {} and state[IMAGE].shape == (4, 1, SIZE, SIZE)
    with pytest.raises(UserError, match="this model knows no classes"):
        ImageCodec(SIZE, 1).layout([Request(0, {"class": 0})])


def test_names_of_classes_travel_with_the_weights() -> None:
    system = make_system()
    assert system.codec.classes == ["0", "1", "2"]  # type: ignore[attr-defined]
    system.prepare(make_data())
    other = make_system()
    other.load_state_dict(system.state_dict())
    sample, = GenerativeModule(other).sample(**{"class": "check"}, seed=3)
    assert sample.mode == "L" and sample.size == (SIZE, SIZE)
    layout = other.codec.layout([Request(0, {"class": "check"}), Request(1, {})])
    assert layout.labels[CLASS].tolist() == [3, 0]
    pictures = other.codec.decode({IMAGE: torch.zeros(2, 1, 8, 8)}, layout)
    assert [picture.class_name for picture in pictures] == ["check", ""]
    with pytest.raises(UserError, match="no class is called 'chekc': there are 3, such as check"):
        GenerativeModule(other).sample(label="chekc")
    long = ImageCodec(SIZE, 1, 1)
    data = make_data()
    data.__dict__["classes"] = ("ü" * 60,)
    long.prepare(data)
    assert long.classes == ["ü" * 32], "cut between letters"


def test_data_of_another_kind_are_refused() -> None:
    for codec, message in (
        (ImageCodec(16, 1, 3), "images of 16 pixels and 1 channels, the data of 8 and 1"),
        (ImageCodec(8, 3, 3), "images of 8 pixels and 3 channels, the data of 8 and 1"),
        (ImageCodec(8, 1, 4), "the data have 3 classes and the codec 4"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            codec.prepare(make_data())
    with pytest.raises(ConfigurationError, match="classes -1 not negative"):
        ImageCodec(8, 1, -1)


def test_a_sample_depends_on_its_request_alone_and_sizes_may_differ() -> None:
    module = GenerativeModule(make_system(guidance=ClassifierFreeGuidance({"class": 2.0})))
    wishes: list[dict[str, Any]] = [{"class": 1}, {"class": 2, "size": 12}, {}, {"size": [4, 8]}]
    together = module.system.generate([Request(5 + i, wish) for i, wish in enumerate(wishes)])
    assert [sample.item.pixels.shape for sample in together] == [(8, 8, 1), (12, 12, 1), (8, 8, 1), (4, 8, 1)]
    for sample in together:
        alone, = module.system.generate([sample.request])
        np.testing.assert_array_equal(alone.item.pixels, sample.item.pixels)
    with pytest.raises(ValueError, match="patches of 2 x 2 do not tile an image of 9 x 9"):
        module.sample(size=9)


def test_losses_are_those_of_the_generator() -> None:
    system = make_system().train()
    first, second = (system.losses(make_batch(), torch.Generator().manual_seed(1))["loss"] for _ in range(2))
    assert torch.equal(first, second)
    first.backward()
    assert all(parameter.grad is not None for parameter in system.parameters())


def test_a_learnt_variance_trains_and_samples_under_guidance() -> None:
    """The variance is that of the conditional estimate, whatever the guidance does to the mean."""
    options: dict[str, Any] = {"process": LearntVarianceProcess(), "sampler": LearntAncestral(4), "out": 2}
    system = make_system(**options, guidance=ClassifierFreeGuidance({"class": 3.0}))
    loss = system.losses(make_batch(), torch.Generator().manual_seed(1))["loss"]
    assert torch.isfinite(loss)
    requests = [Request(i, {"class": i % 3}) for i in range(3)]
    images = [sample.item.pixels for sample in system.generate(requests)]
    assert images[0].shape == (8, 8, 1)

    seen = []
    denoiser = system.denoiser
    original = denoiser.forward

    def watch(*arguments: Any) -> Any:
        found = original(*arguments)
        seen.append({name: value.clone() for name, value in found.items()})
        return found

    denoiser.forward = watch  # type: ignore[method-assign]
    from polydit.platform.samplers.sampler import spread_of
    from polydit.platform.systems.sampling import SamplingDenoiser

    layout = system.codec.layout(requests)
    condition = system._condition(layout, torch.device("cpu"), None)
    denoise = SamplingDenoiser(system, layout, condition, lambda: {})
    with torch.no_grad():
        estimate = denoise({IMAGE: torch.randn(3, 1, 8, 8)}, torch.tensor(0.5))
    unconditional, conditional = seen[-1][IMAGE].chunk(2)
    assert torch.equal(estimate[spread_of(IMAGE)], conditional[:, 1:])
    assert not torch.equal(unconditional[:, 1:], conditional[:, 1:])


def test_unknown_classes_of_data_are_the_null() -> None:
    batch = make_batch()
    batch = ImageBatch(batch.images, torch.tensor([-1, 0, 1, -1]), batch.index, batch.names)
    assert ImageCodec(SIZE, 1, 3).encode(batch, torch.Generator())[1].labels[CLASS].tolist() == [0, 1, 2, 0]
