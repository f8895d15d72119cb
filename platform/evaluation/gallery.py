"""Galleries: what a domain shows of its samples in the report."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..requests import Sample

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class GalleryItem:
    """One sample as the report shows it.

    Args:
        title: short name, one line.
        caption: what is worth reading beside it; line breaks are kept, long words wrap.
        figure: a plotly figure to turn or zoom, or a still picture: PNG bytes, or SVG markup (trusted: it goes into the
            page as it is).
        poster: SVG markup of a still picture of a plotly figure (trusted as well), shown while the figure is out of
            view, on paper and where the browser lacks WebGL; empty: none.
    """

    title: str
    caption: str
    figure: Figure | bytes | str
    poster: str = ""


class Gallery(ABC):
    """Turns samples of one kind into things to look at.

    Args:
        limit: at most this many samples are shown, drawn at random (seeded) from all of that kind; each adds about
            0.1 MB to the page.
    """

    title: str = "Samples"
    """Heading in the report."""

    packages: tuple[str, ...] = ()
    """Distributions of the domain whose versions the report states."""

    alone: int | None = None
    """Of the shown samples, how many get a card of their own; None: all. Fewer where an overview shows them already."""

    def __init__(self, limit: int = 12) -> None:
        if limit < 1:
            raise ValueError(f"a gallery's limit must be at least 1, not {limit}; leave the gallery out to show none")
        self.limit = limit

    @abstractmethod
    def accepts(self, sample: Sample) -> bool:
        """Whether this gallery shows samples of this kind."""

    def overview(self, samples: list[Sample]) -> tuple[bytes, str] | None:
        """All shown samples in one PNG above their cards, such as a grid, and its caption; None, the default: none."""
        return None

    @abstractmethod
    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        """One item for each sample, in their order; a broken sample is shown as far as it can be, never left out."""


class SampleSelection:
    """A uniform random choice of at most `limit` samples from a stream of unknown length (reservoir sampling).

    Samples are not picked by hand or by quality, and a long run is not held in memory for the sake of a few pictures.

    Args:
        limit: how many to keep.
        seed: seed of the choice.
    """

    def __init__(self, limit: int, seed: int = 0) -> None:
        self.limit = limit
        self.count = 0
        self._random = random.Random(seed)
        self._kept: list[tuple[int, Sample]] = []

    def offer(self, index: int, sample: Sample) -> None:
        """Take part in the choice with the sample at position `index` of the run."""
        self.count += 1
        if len(self._kept) < self.limit:
            self._kept.append((index, sample))
            return
        place = self._random.randrange(self.count)
        if place < self.limit:
            self._kept[place] = (index, sample)

    def chosen(self) -> list[tuple[int, Sample]]:
        """(position in the run, sample) of those chosen, in the order of the run."""
        return sorted(self._kept, key=lambda entry: entry[0])
