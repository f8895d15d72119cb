"""The data module of poses: clips to views with heatmaps, splits by subject, requests, and batches."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from polydit.data.batching import BucketBatchSampler, ResumableDataLoader
from polydit.data.splitting import SPLITS, check_splits
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request, expand_requests

from .cameras import CameraRange
from .dataset import ViewDataset
from .heatmaps import HeatmapRecipe
from .motion import Motion, MotionSource, divide_motions
from .walking import WalkingSource
from .wishes import HeatmapInput, check_count, check_frame, check_keys, read_heatmaps


class PoseDataModule(LightningDataModule):
    """People seen by random cameras, through heatmaps with stated doubts, all made by seed when they are read.

    Args:
        sources: where clips come from; None: the built-in walking people.
        cameras: from where they are seen.
        heatmaps: how heatmaps are made, and what they leave in doubt.
        stride: of how many frames of a clip one is taken; neighbouring frames are much alike.
        views: cameras for each frame of the training split, other ones for each; held-out frames have one.
        batch_size: views in a batch.
        test_batch_size: held-out views in a batch; None: `batch_size`. `test` samples all hypotheses of a batch.
        splits: "stored" takes the test split that comes with the data, and divides the rest by subject; three fractions
            divide all anew. A subject is never divided.
        limit: at most this many frames, drawn at random, of each split, or by split, as ``{test: 64}``.
        requests: what `predict` asks for: ``heatmaps``, the path of an npz file, all of whose frames are taken unless
            ``frame`` says which; or ``frame`` alone, a place in the test split. ``hypotheses`` says how many poses.
        request_batch_size: requests handed over at a time.
        request_seed: seed of the first request; the others count up.
        seed: of splits, cameras, heatmaps and shuffling.
        num_workers: processes that make batches; 0 makes them in the training process.

    Raises:
        ConfigurationError: if arguments contradict each other or a request is malformed.
    """

    def __init__(
        self,
        sources: list[MotionSource] | None = None,
        cameras: CameraRange | None = None,
        heatmaps: HeatmapRecipe | None = None,
        stride: int = 4,
        views: int = 16,
        batch_size: int = 64,
        test_batch_size: int | None = None,
        splits: Literal["stored"] | list[float] = "stored",
        limit: int | dict[str, int] | None = None,
        requests: list[dict[str, Any]] | None = None,
        request_batch_size: int = 8,
        request_seed: int = 0,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_splits(splits)
        for name, value in {"stride": stride, "views": views, "batch_size": batch_size}.items():
            if value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value}")
        if isinstance(limit, dict) and set(limit) - set(SPLITS):
            raise ConfigurationError(f"limit names {sorted(set(limit) - set(SPLITS))}: splits are {', '.join(SPLITS)}")
        self.sources = sources if sources is not None else [WalkingSource()]
        self.cameras, self.heatmaps = cameras or CameraRange(), heatmaps or HeatmapRecipe()
        self.stride, self.views, self.batch_size = stride, views, batch_size
        self.test_batch_size = test_batch_size or batch_size
        self.splits, self.limit, self.seed, self.num_workers = splits, limit, seed, num_workers
        for entry in requests or []:
            wishes = {key: value for key, value in entry.items() if key != "count"}
            check_keys(wishes)
            check_count(wishes)
            if "heatmaps" not in entry and "frame" not in entry:
                raise ConfigurationError(
                    "a request names heatmaps: file.npz or a frame of the test split, frame: 0; this one does not: "
                    f"{entry}"
                )
        self.requests = list(requests or [])
        self.request_batch_size, self.request_seed = request_batch_size, request_seed

    def setup(self, stage: str) -> None:
        """Read the clips, if they are needed, and check that the split is not empty."""
        if stage == "predict":
            return
        name = {"fit": "train", "validate": "val"}.get(stage, "test")
        if not len(self.view(name)):
            raise DataError(
                f"the {name} split is empty: {len(self.motions)} clips of "
                f"{len({motion.subject for motion in self.motions})} subjects, splits={self.splits!r}; give fractions "
                "such as [0.8, 0.1, 0.1]"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training split, `PoseBatch` each; resumes in mid-epoch."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Batches of the validation split in a fixed order; none if it is empty."""
        return self._loader("val", self.batch_size, shuffle=False) if len(self.view("val")) else []

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Batches of the test split, and after them the requests, if there are any, for the pictures."""
        loaders = [self._loader("test", self.test_batch_size, shuffle=False)]
        return [*loaders, self.predict_dataloader()] if self.requests else loaders

    def predict_dataloader(self) -> DataLoader[Any]:
        """Lists of `Request`, each with the heatmaps that it names."""
        if not self.requests:
            raise ConfigurationError(
                "nothing to estimate: add data.requests, such as [{heatmaps: file.npz}] or [{frame: 0}]"
            )
        entries = [entry for request in self.requests for entry in self._resolve(request)]
        requests: list[Request] = expand_requests(entries, self.request_seed)
        return DataLoader(requests, batch_size=self.request_batch_size, collate_fn=list)  # type: ignore[arg-type]

    @cached_property
    def motions(self) -> list[Motion]:
        """Every clip of every source."""
        return [motion for source in self.sources for motion in source.read()]

    def view(self, split: str) -> ViewDataset:
        """The views of a split."""
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
        if split not in self._views:
            places = divide_motions(self.motions, self.splits, self.seed)[split]
            limit = self.limit.get(split) if isinstance(self.limit, dict) else self.limit
            # Another seed for each split, so that no camera of training is met again.
            seed = 3 * self.seed + SPLITS.index(split)
            self._views[split] = ViewDataset(
                [self.motions[place] for place in places], self.cameras, self.heatmaps, self.stride,
                self.views if split == "train" else 1, limit, seed,
            )
        return self._views[split]

    @cached_property
    def _views(self) -> dict[str, ViewDataset]:
        return {}

    def _resolve(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        """Requests that an entry stands for, with heatmaps in place of paths and places."""
        kept = {key: value for key, value in entry.items() if key in ("hypotheses", "count")}
        if "heatmaps" in entry:
            held = read_heatmaps(entry["heatmaps"])
            if "frame" in entry:
                held = [held[check_frame(entry["frame"], len(held), str(entry["heatmaps"]))]]
            return [{"heatmaps": each, **kept} for each in held]
        view = self.view("test")
        batch = view[[check_frame(entry["frame"], len(view), "the test split")]]
        name = f"{batch.clips[0]}[{int(batch.frames[0])}]"
        return [{"heatmaps": HeatmapInput(name, batch.heatmaps[0].numpy(), batch.poses[0].numpy()), **kept}]

    def _loader(self, split: str, batch_size: int, shuffle: bool) -> DataLoader[Any]:
        dataset = self.view(split)
        trainer = self.trainer
        sampler = BucketBatchSampler(
            np.ones(len(dataset), dtype=np.int64), batch_size, shuffle=shuffle, bucket=False, seed=self.seed,
            num_replicas=1 if trainer is None else trainer.world_size,
            rank=0 if trainer is None else trainer.global_rank,
        )
        return ResumableDataLoader(
            dataset, sampler=sampler, batch_size=None, num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0, pin_memory=torch.cuda.is_available(),
            multiprocessing_context="spawn" if self.num_workers else None,
        )
