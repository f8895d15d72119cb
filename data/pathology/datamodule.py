"""The data module of paired tiles: sources to batches, requests, and the brown threshold of the training split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from polydit.data.batching import EpochBatchSampler
from polydit.data.splitting import SplitDataModule, Splits, check_splits
from polydit.platform.errors import ConfigurationError
from polydit.platform.requests import Request, expand_requests

from .brown import FLOOR, choose_threshold, make_mask
from .dataset import KeptTiles, TileDataset
from .splitting import divide_tiles
from .tiles import Picture, TileSet, TileSource
from .wishes import StainWish, expand_folders

THRESHOLD_TILES = 500
"""Most tiles of the training split, drawn by seed, that the brown threshold is chosen from."""


class TilePairDataModule(SplitDataModule):
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

    nothing_asked = "nothing to stain: add data.requests, such as [{folder: tiles/}]"

    @cached_property
    def requests(self) -> list[Request]:
        """The requests, one for each image, checked."""
        requests = expand_requests(expand_folders(self._request_entries), self._request_seed)
        for request in requests:
            StainWish.parse(request.wishes)
        return requests

    def describe_empty(self) -> str:
        """How much there is, and what to do where a split got nothing of it."""
        slides = {tiles.slide(i) for tiles in self.opened for i in range(len(tiles))}
        return (
            f"{len(slides)} slides or patients in all, splits={self.splits!r}; slides are never divided, so give more "
            "of them, or a larger fraction"
        )

    @cached_property
    def opened(self) -> list[TileSet]:
        """The opened pairs of each source; kept in memory once decoded, if they are small enough."""
        opened = [source.open() for source in self.sources]
        pixels = sum(math.prod(tiles.size(i)) for tiles in opened for i in range(len(tiles)))
        return [KeptTiles(tiles) for tiles in opened] if 7 * pixels <= self.cache_limit_mb * 1e6 else opened

    def divide(self, items: Any) -> dict[str, NDArray[np.int64]]:
        """Split -> places of one source's tiles."""
        return divide_tiles(items, self.splits, self.seed)

    def open_split(self, split: str) -> Dataset[Any]:
        """The tiles of a split."""
        return self.tiles(split)

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

    def make_sampler(self, items: Sized, shuffle: bool) -> EpochBatchSampler:
        """Batches that say the epoch too, where training draws something for each of the tiles."""
        sampler = EpochBatchSampler(**self.sampling(items, shuffle))
        sampler.draws = shuffle and self.augment
        return sampler
