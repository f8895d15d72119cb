"""Requests: what a user asks `predict` for, one per sample, each with its own seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """One wanted sample.

    Args:
        seed: seed of this sample alone.
        wishes: what is asked for, in the words of the domain (``{"domain": "crystal", "composition": "TiO2"}``);
            a wish left out is drawn from the training distribution or left unconditioned by the domain's codec.
    """

    seed: int
    wishes: dict[str, Any] = field(default_factory=dict)

    def to(self, device: object) -> Request:
        """The request itself; Lightning, which moves batches to a device, takes no frozen dataclass apart."""
        return self


def expand_requests(entries: list[dict[str, Any]], seed: int = 0) -> list[Request]:
    """Requests from configuration entries; each may hold ``count`` (default 1) beside its wishes.

    Seeds count up from `seed` over all samples, so that any sample can be made again alone.

    Raises:
        ValueError: if a count is not a positive integer.
    """
    requests: list[Request] = []
    for entry in entries:
        wishes = dict(entry)
        count = wishes.pop("count", 1)
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"a request's count must be a positive integer, not {count!r}: {entry}")
        requests += [Request(seed + len(requests) + i, wishes) for i in range(count)]
    return requests


@dataclass(frozen=True)
class Sample:
    """A generated item beside the request it answers.

    Args:
        request: what was asked.
        item: the domain's own item (an `AtomicStructure`, an image, an action chunk).
    """

    request: Request
    item: Any

    def to(self, device: object) -> Sample:
        """The sample itself, as it is, for the reason given at `Request.to`."""
        return self
