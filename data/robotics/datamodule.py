"""The data module of demonstrations: sources to batches of windows, requests, and statistics of the training split."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from polydit.data.batching import BucketBatchSampler, ResumableDataLoader
from polydit.data.splitting import SPLITS, check_splits
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.normalisers import FieldStatistics
from polydit.platform.requests import Request, expand_requests

from .demonstrations import DemonstrationSet, DemonstrationSource, FieldSpec
from .memory import MemoryDemonstrations, size_in_memory
from .splitting import divide_episodes
from .statistics import measure_fields
from .versions import warn_of_other_versions
from .windows import WindowDataset


class DemonstrationDataModule(LightningDataModule):
    """Demonstrations from any number of sources, trained on together.

    Args:
        sources: where demonstrations come from; with equal fields and action sizes.
        fields: of the observations that batches carry; None: every one.
        history: observations of a window, up to and with the current one.
        horizon: actions of a window, from the current one on.
        history_stride: steps between observations of the history.
        future_frames: later observations that batches carry too, for policies that predict them; 0: none.
        future_stride: steps between the current observation and the first later one, and between later ones.
        future_fields: fields of the later observations; None: the cameras among `fields`.
        batch_size: windows in a batch.
        splits: "stored" takes the lists that come with the data (robomimic's ``mask/train`` and ``mask/valid``), and
            90/10/0 by seed where none does; three fractions divide everything anew by seed. Always whole episodes.
        limit: at most this many episodes of each source in each split, for quick runs.
        requests: rollouts that `predict` and `test` ask for: ``environment`` (a spec such as
            ``"metaworld/reach-v3"``), other wishes of the rollout, and ``count``, default 1.
        request_batch_size: requests handed over at a time.
        request_seed: seed of the first rollout; the others count up. Far from the seeds of demonstrations, so that a
            policy is not tested where it has been shown the way.
        cache_limit_mb: demonstrations that take no more than this, decoded, are read into memory once; of larger ones
            only the vectors are, and frames are decoded window by window.
        seed: of splits and shuffling.
        num_workers: processes that read batches; 0 reads in the training process.

    Raises:
        ConfigurationError: if arguments contradict each other or a request is malformed.
    """

    def __init__(
        self,
        sources: list[DemonstrationSource],
        fields: list[str] | None = None,
        history: int = 1,
        horizon: int = 16,
        history_stride: int = 1,
        future_frames: int = 0,
        future_stride: int = 1,
        future_fields: list[str] | None = None,
        batch_size: int = 64,
        splits: Literal["stored"] | list[float] = "stored",
        limit: int | None = None,
        requests: list[dict[str, Any]] | None = None,
        request_batch_size: int = 64,
        request_seed: int = 100_000,
        cache_limit_mb: float = 1024,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if not sources:
            raise ConfigurationError(
                "sources is empty: name one, such as polydit.data.robotics.robomimic.RobomimicSource"
            )
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, not {batch_size}")
        check_splits(splits)
        self.sources = sources
        self.wanted_fields = fields
        self.window_options: dict[str, Any] = {
            "history": history, "horizon": horizon, "history_stride": history_stride, "future_frames": future_frames,
            "future_stride": future_stride, "future_fields": future_fields,
        }  # fmt: skip
        self.batch_size = batch_size
        self.splits = splits
        self.limit = limit
        for entry in requests or []:
            if not isinstance(entry.get("environment"), str):
                raise ConfigurationError(
                    f"a request names an environment, such as metaworld/reach-v3; this one does not: {entry}"
                )
        self.requests: list[Request] = expand_requests(requests or [], request_seed)
        self.request_batch_size = request_batch_size
        self.cache_limit_mb = cache_limit_mb
        self.seed = seed
        self.num_workers = num_workers

    def prepare_data(self) -> None:
        """Let sources make what is not there yet; `predict` alone needs none."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.PREDICTING:
            for source in self.sources:
                source.prepare()

    def setup(self, stage: str) -> None:
        """Open the demonstrations and check the splits, except for `predict`."""
        if stage == "predict":
            return
        warn_of_other_versions(self.opened)
        name = {"fit": "train", "validate": "val"}.get(stage, "test")
        if name == "test":
            self._warn_of_shown_seeds()
        if not any(map(len, self.episodes(name))) and not (name == "test" and self.requests):
            total = sum(map(len, self.opened))
            raise DataError(
                f"the {name} split is empty: {total} demonstrations in all, splits={self.splits!r}; give fractions "
                "such as splits: [0.8, 0.1, 0.1]"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training split, `TrajectoryBatch` each; resumes in mid-epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Batches of the validation split in a fixed order; no loader, so no validation, if it is empty."""
        return self._loader("val", shuffle=False) if any(map(len, self.episodes("val"))) else []

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Batches of the test split if there is one, and after them the requests if there are any."""
        loaders = [self._loader("test", shuffle=False)] if any(map(len, self.episodes("test"))) else []
        return [*loaders, self.predict_dataloader()] if self.requests else loaders

    def predict_dataloader(self) -> DataLoader[Any]:
        """Lists of `Request`."""
        if not self.requests:
            raise ConfigurationError(
                "nothing to roll out: add data.requests, such as [{environment: metaworld/reach-v3, count: 20}]"
            )
        return DataLoader(self.requests, batch_size=self.request_batch_size, collate_fn=list)  # type: ignore[arg-type]

    @cached_property
    def opened(self) -> list[DemonstrationSet]:
        """The opened demonstrations of each source.

        Raises:
            DataError: if they differ in the size of the action, or in a field that is asked for.
        """
        opened = [source.open() for source in self.sources]
        for other in opened[1:]:
            if other.action_size != opened[0].action_size:
                raise DataError(
                    f"{opened[0].name} has actions of size {opened[0].action_size}, {other.name} of size "
                    f"{other.action_size}: train on them apart, or through a codec with one action space for both"
                )
        names = self.wanted_fields if self.wanted_fields is not None else sorted(opened[0].fields)
        wanted = [*names, *(self.window_options["future_fields"] or [])]
        for each in opened:
            each.require_fields(wanted)
            for name in wanted:
                if each.fields[name] != opened[0].fields[name]:
                    raise DataError(
                        f"field {name!r} is {opened[0].fields[name]} in {opened[0].name} but {each.fields[name]} in "
                        f"{each.name}: train on them apart, or leave it out of fields"
                    )
        return opened

    @cached_property
    def fields(self) -> list[str]:
        """Observation fields that batches carry."""
        return sorted(self.opened[0].fields) if self.wanted_fields is None else self.wanted_fields

    @cached_property
    def sets(self) -> list[DemonstrationSet]:
        """What batches are read from: memory if everything fits, or all but the cameras; else the opened files."""
        names = list(dict.fromkeys([*self.fields, *(self.window_options["future_fields"] or [])]))
        vectors = [name for name in names if not self.opened[0].fields[name].is_camera]
        for held in (names, vectors):
            if sum(size_in_memory(opened, held) for opened in self.opened) <= self.cache_limit_mb * 1e6:
                return [MemoryDemonstrations(opened, held) for opened in self.opened]
        return self.opened

    @property
    def action_size(self) -> int:
        """Numbers of an action."""
        return self.opened[0].action_size

    @property
    def observation_specs(self) -> dict[str, FieldSpec]:
        """Field -> shape and type of one observation."""
        return {name: self.opened[0].fields[name] for name in self.fields}

    @property
    def observation_shapes(self) -> dict[str, tuple[int, ...]]:
        """Field -> shape of one observation."""
        return {name: spec.shape for name, spec in self.observation_specs.items()}

    @cached_property
    def instructions(self) -> list[str]:
        """Every instruction of any split, sorted; "" is none."""
        return sorted({opened.instruction(i) for opened in self.opened for i in range(len(opened))} - {""})

    @cached_property
    def tasks(self) -> list[str]:
        """Every environment spec of any split, sorted; "" is none."""
        return sorted({opened.task(i) for opened in self.opened for i in range(len(opened))} - {""})

    def episodes(self, split: str) -> list[NDArray[np.int64]]:
        """For each source, the places of a split's episodes, ascending."""
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
        return [part[split] for part in self._splits]

    def windows(self, split: str) -> WindowDataset:
        """The windows of a split: every step of each of its episodes."""
        return WindowDataset(self.sets, self.episodes(split), self.fields, **self.window_options)

    def statistics(self) -> dict[str, FieldStatistics]:
        """Vector field, and ``"actions"``, -> statistics over the training split; cameras have none.

        Raises:
            DataError: if a value is not finite, naming the episode, the step and the field.
        """
        return self._statistics

    @cached_property
    def _statistics(self) -> dict[str, FieldStatistics]:
        vectors = [name for name, spec in self.observation_specs.items() if not spec.is_camera]
        return measure_fields(self.sets, self.episodes("train"), vectors, self.seed)

    @cached_property
    def _splits(self) -> list[dict[str, NDArray[np.int64]]]:
        return [divide_episodes(opened, self.splits, self.seed, self.limit) for opened in self.opened]

    def _warn_of_shown_seeds(self) -> None:
        shown = {
            (opened.task(i), opened.seed(i))
            for opened, chosen in zip(self.opened, self.episodes("train"), strict=True)
            for i in chosen.tolist()
        }
        again = [request for request in self.requests if (request.wishes["environment"], request.seed) in shown]
        if again:
            warnings.warn(
                f"{len(again)} of {len(self.requests)} rollouts start from the seed of a demonstration in the training "
                f"split (such as {again[0].seed} of {again[0].wishes['environment']}): change request_seed",
                stacklevel=2,
            )

    def _loader(self, split: str, shuffle: bool) -> DataLoader[Any]:
        dataset = self.windows(split)
        trainer = self.trainer
        sampler = BucketBatchSampler(
            np.ones(len(dataset), dtype=np.int64), self.batch_size, shuffle=shuffle, bucket=False, seed=self.seed,
            num_replicas=1 if trainer is None else trainer.world_size,
            rank=0 if trainer is None else trainer.global_rank,
        )
        return ResumableDataLoader(
            dataset, sampler=sampler, batch_size=None, num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0, pin_memory=torch.cuda.is_available(),
            multiprocessing_context="spawn" if self.num_workers else None,
        )
