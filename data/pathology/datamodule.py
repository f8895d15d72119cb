"""The data module of paired tiles: sources to batches, requests, and the brown threshold of the training split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from polydit.data.batching import ResumableDataLoader
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request, expand_requests

from .brown import FLOOR, choose_threshold, make_mask
from .dataset import EpochBatchSampler, KeptTiles, TileDataset
from .splitting import SPLITS, Splits, check_splits, divide_tiles
from .tiles import Picture, TileSet, TileSource
from .wishes import StainWish, expand_folders

THRESHOLD_TILES = 500
"""Most tiles of the training split, drawn by seed, that the brown threshold is chosen from."""


class TilePairDataModule(LightningDataModule):
    """Paired tiles of two stains from any number of sources.

    Args:
        sources: where pairs come from.
        tile: side in pixels of the tiles that batches hold; larger images are cut, at random places in training and
            side by side elsewhere; what is left at their ends is not looked at.
        batch_size: tiles in a batch.
        splits: three fractions of the slides for train, val and test, divided by seed, or "stored" for those that the
            origin lists. Tiles of one slide or patient always stand in one split.
        limit: at most this many images of each source in each split, drawn by seed, for quick runs.
        masks: "brown" makes masks of stained cells from the IHC image; "stored" takes those that the source brings.
        brown_threshold: concentration of brown from which on tissue is stained; None: Otsu's over the training split.
            It depends on scanner and laboratory and travels in the checkpoint.
        smoothing: blur of the concentration before the threshold, in pixels.
        augment: whether training cuts its tiles at random places, and flips and turns them.
        requests: images that `predict` stains: ``image`` (a file) or ``folder`` (every image in it); with ``mpp`` or
            ``region`` (x, y, width, height) the file is read as a whole slide; ``truth``, the IHC image or folder to be
            judged against; ``count``, how many times with another seed.
        request_batch_size: requests handed over at a time.
        request_seed: seed of the first request; the others count up.
        cache_limit_mb: sources that take no more than this, decoded, are kept in memory.
        seed: of splits, shuffling, crops, flips and turns.
        num_workers: processes that decode; 0: the training process.

    Raises:
        ConfigurationError: if arguments contradict each other.
        UserError: if a request is malformed or names a missing file.
    """

    def __init__(
        self,
        sources: list[TileSource],
        tile: int = 256,
        batch_size: int = 16,
        splits: Splits = [0.7, 0.15, 0.15],  # noqa: B006  # jsonargparse shows it; never changed
        limit: int | None = None,
        masks: Literal["brown", "stored"] = "brown",
        brown_threshold: float | None = None,
        smoothing: float = 1.0,
        augment: bool = True,
        requests: list[dict[str, Any]] | None = None,
        request_batch_size: int = 64,
        request_seed: int = 0,
        cache_limit_mb: float = 1024,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if not sources and not requests:
            raise ConfigurationError("sources is empty: name one, such as polydit.data.pathology.folders.PairedFolders")
        if tile < 1 or batch_size < 1:
            raise ConfigurationError(f"tile {tile} and batch_size {batch_size} must be at least 1")
        if smoothing < 0 or (brown_threshold is not None and not 0 < brown_threshold < 1):
            raise ConfigurationError(
                f"smoothing {smoothing} must not be negative, brown_threshold {brown_threshold} between 0 and 1 (brown "
                "begins at about 0.05)"
            )
        check_splits(splits)
        self.sources, self.tile, self.batch_size, self.splits, self.limit = sources, tile, batch_size, splits, limit
        self.masks, self.smoothing, self.augment = masks, smoothing, augment
        self.given_threshold = brown_threshold
        self._request_entries, self._request_seed = requests or [], request_seed
        self.request_batch_size = request_batch_size
        self.cache_limit_mb = cache_limit_mb
        self.seed, self.num_workers = seed, num_workers

    @cached_property
    def requests(self) -> list[Request]:
        """The requests, one for each image, checked."""
        requests = expand_requests(expand_folders(self._request_entries), self._request_seed)
        for request in requests:
            StainWish.parse(request.wishes)
        return requests

    def setup(self, stage: str) -> None:
        """Open the sources and check that the split has tiles, except for `predict`."""
        if stage == "predict":
            return
        name = {"fit": "train", "validate": "val"}.get(stage, "test")
        if not any(map(len, self.chosen[name])) and not (name == "test" and self._request_entries):
            slides = {tiles.slide(i) for tiles in self.opened for i in range(len(tiles))}
            raise DataError(
                f"the {name} split is empty: {len(slides)} slides or patients in all, splits={self.splits!r}; slides "
                "are never divided, so give more of them, or a larger fraction"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training split, `TileBatch` each; resumes in mid-epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Batches of the validation split in a fixed order; no loader, so no validation, if it is empty."""
        return self._loader("val", shuffle=False) if any(map(len, self.chosen["val"])) else []

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Batches of the test split if there is one, and after them the requests if there are any."""
        loaders = [self._loader("test", shuffle=False)] if any(map(len, self.chosen["test"])) else []
        return [*loaders, self.predict_dataloader()] if self._request_entries else loaders

    def predict_dataloader(self) -> DataLoader[Any]:
        """Lists of `Request`."""
        if not self._request_entries:
            raise ConfigurationError("nothing to stain: add data.requests, such as [{folder: tiles/}]")
        return DataLoader(self.requests, batch_size=self.request_batch_size, collate_fn=list)  # type: ignore[arg-type]

    @cached_property
    def opened(self) -> list[TileSet]:
        """The opened pairs of each source; kept in memory once decoded, if they are small enough."""
        opened = [source.open() for source in self.sources]
        pixels = sum(math.prod(tiles.size(i)) for tiles in opened for i in range(len(tiles)))
        return [KeptTiles(tiles) for tiles in opened] if 7 * pixels <= self.cache_limit_mb * 1e6 else opened

    @cached_property
    def chosen(self) -> dict[str, list[NDArray[np.int64]]]:
        """Split -> for each source, places of its images."""
        divided = [divide_tiles(tiles, self.splits, self.seed) for tiles in self.opened]
        if self.limit is not None:
            generator = np.random.default_rng(self.seed)
            divided = [
                {name: np.sort(generator.permutation(places)[: self.limit]) for name, places in parts.items()}
                for parts in divided
            ]
        return {name: [parts[name] for parts in divided] for name in SPLITS}

    @cached_property
    def brown_threshold(self) -> float:
        """Concentration of brown from which on tissue is stained: as given, of the checkpoint, or Otsu's."""
        if self.given_threshold is not None:
            return self.given_threshold
        return choose_threshold(self._read_some(), FLOOR)

    def state_dict(self) -> dict[str, Any]:
        """The threshold, which is part of what the masks are."""
        return {"brown_threshold": self.brown_threshold} if self.sources else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the threshold of a checkpoint, unless one was given."""
        if self.given_threshold is None and "brown_threshold" in state_dict:
            self.given_threshold = float(state_dict["brown_threshold"])
            self.__dict__.pop("brown_threshold", None)

    def tiles(self, split: str) -> TileDataset:
        """The tiles of a split."""
        brown = self.masks == "brown"
        maker = partial(make_mask, threshold=self.brown_threshold, smoothing=self.smoothing) if brown else None
        return TileDataset(
            self.opened, self.chosen[split], self.tile, maker, math.ceil(4 * self.smoothing), self.seed
        )

    def _read_some(self) -> Iterator[Picture]:
        places = [(tiles, int(i)) for tiles, part in zip(self.opened, self.chosen["train"], strict=True) for i in part]
        order = np.random.default_rng(self.seed).permutation(len(places))[:THRESHOLD_TILES]
        for place in order.tolist():
            tiles, index = places[place]
            yield tiles.read(index).ihc

    def _loader(self, split: str, shuffle: bool) -> DataLoader[Any]:
        dataset = self.tiles(split)
        trainer = self.trainer
        sampler = EpochBatchSampler(
            np.ones(len(dataset), dtype=np.int64), self.batch_size, shuffle=shuffle, bucket=False, seed=self.seed,
            num_replicas=1 if trainer is None else trainer.world_size,
            rank=0 if trainer is None else trainer.global_rank,
        )
        sampler.draws = shuffle and self.augment
        return ResumableDataLoader(
            dataset, sampler=sampler, batch_size=None, num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0, pin_memory=torch.cuda.is_available(),
            multiprocessing_context="spawn" if self.num_workers else None,
        )
