"""Batches, splits and requests of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from polydit.data.video.builtin import BouncingBodies
from polydit.data.video.clips import Clip
from polydit.data.video.datamodule import VideoDataModule
from polydit.data.video.media import write_video
from polydit.data.video.wishes import ClipWish
from polydit.platform.errors import ConfigurationError, DataError, UserError


def make(tmp_path: Path, **options: Any) -> VideoDataModule:
    shared: dict[str, Any] = {"frames": 4, "size": 16, "batch_size": 3, "splits": [0.6, 0.2, 0.2]}
    shared["cache_dir"] = str(tmp_path)
    return VideoDataModule([BouncingBodies(10, bodies=(1, 2))], **{**shared, **options})


def test_batches_of_frames_and_sound(tmp_path: Path) -> None:
    module = make(tmp_path, sample_rate=8000)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch.frames.shape == (3, 4, 3, 16, 16) and batch.frames.dtype == torch.uint8
    assert batch.sound.shape == (3, 2560) and batch.sound.abs().max() <= 1
    assert len(batch.clips) == 3 and batch.clips[0].onsets is not None and batch.clips[0].bodies in (1, 2)
    assert batch.to("cpu").sound is not None
    alone = make(tmp_path)
    assert next(iter(alone.train_dataloader())).sound is None


def test_splits_share_no_group_and_epochs_shuffle(tmp_path: Path) -> None:
    module = make(tmp_path)
    names = {
        split: {module.clips(split).read(place).group for place in range(len(module.clips(split)))}
        for split in ("train", "val", "test")
    }
    assert [len(names[split]) for split in names] == [6, 2, 2] and len(set.union(*names.values())) == 10
    loader = module.train_dataloader()
    orders = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        orders.append([int(place) for batch in loader for place in batch.index])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(6)) and orders[0] != orders[1]
    assert len(make(tmp_path, limit=1).clips("train")) == 1


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    module = make(tmp_path, splits=[1.0, 0.0, 0.0])
    module.setup("fit")
    assert module.val_dataloader() == []
    with pytest.raises(DataError, match="the test split is empty: 10 groups"):
        module.setup("test")
    with pytest.raises(ConfigurationError, match="fractions"):
        make(tmp_path, splits=[0.9, 0.2, 0.1])
    with pytest.raises(ConfigurationError, match="sources is empty"):
        VideoDataModule([])


def test_requests(tmp_path: Path, clip: Clip) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / "clips" / f"{name}.mp4", clip)
    module = make(tmp_path, requests=[
        {"task": "unconditional", "count": 2}, {"task": "predict", "folder": str(tmp_path / "clips"), "given": [0, 1]},
    ])
    wishes = [ClipWish.parse(request.wishes) for request in module.requests]
    assert [wish.task for wish in wishes] == ["unconditional"] * 2 + ["predict"] * 2
    assert [request.seed for request in module.requests] == [0, 1, 2, 3]
    assert [wish.name for wish in wishes[2:]] == ["a", "b"] and wishes[2].given == (0, 1)
    read = wishes[2].read(4, 16, 12.5)
    assert read is not None and read.frames.shape == (4, 16, 16, 3)
    assert wishes[0].read(4, 16, 12.5) is None


@pytest.mark.parametrize(("wish", "message"), [
    ({"taks": "predict"}, "did you mean 'task'"), ({"task": "dream"}, "no task 'dream'"),
    ({"task": "predict"}, "needs a clip"), ({"task": "predict", "clip": "absent.mp4"}, "there is no file"),
    ({"clip": "FILE"}, "looks at none"), ({"task": "predict", "clip": "FILE", "start": -1}, "second of the file"),
    ({"task": "predict", "clip": "FILE", "given": [0.5]}, "list of numbers"),
    ({"task": "predict", "clip": "FILE", "region": [0, 0, 1, 1]}, "task complete"),
    ({"task": "complete", "clip": "FILE", "region": [0.5, 0, 0.6, 1]}, "shares"),
    ({"task": "sound", "clip": "FILE", "given": [1]}, "leave it out"),
])
def test_malformed_wishes_are_explained(wish: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"")
    with pytest.raises(UserError, match=message):
        ClipWish.parse({key: str(file) if value == "FILE" else value for key, value in wish.items()})


def test_a_clip_that_is_too_short_is_named(tmp_path: Path, clip: Clip) -> None:
    path = write_video(tmp_path / "clip.mp4", clip)
    with pytest.raises(DataError, match=r"has 8 frames at 12\.5 per second, 8 from second 0\.4 on"):
        ClipWish.parse({"task": "predict", "clip": str(path), "start": 0.4}).read(8, 32, 12.5)
