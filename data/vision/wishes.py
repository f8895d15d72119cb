"""What can be asked of a model of images: a request's wishes, parsed and checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polydit.platform.errors import UserError
from polydit.platform.requests import Request, expand_requests

KEYS = ("class", "label", "size", "height", "width")

ALL = "all"
"""Stands for every class, one after the other."""


@dataclass(frozen=True)
class ImageWish:
    """One image.

    Args:
        label: number of the class from 0, or its name; None: not told.
        size: height and width in pixels; None: that of training.
    """

    label: int | str | None = None
    size: tuple[int, int] | None = None

    @staticmethod
    def parse(raw: Mapping[str, Any]) -> ImageWish:
        """A wish from a request's plain values.

        Raises:
            UserError: naming the wish, its limit and the fix.
        """
        for key in raw:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}, count and seed"
                raise UserError(f"unknown wish {key!r} in a request: {hint}")
        if "class" in raw and "label" in raw:
            raise UserError("a request has both class and label, which mean the same: give one")
        label = raw.get("class", raw.get("label"))
        if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
            raise UserError(f"class is a number from 0 or a name, not {label!r}")
        return ImageWish(label, _parse_size(_join_sides(raw)))

    def resolve(self, classes: Sequence[str]) -> int | None:
        """Number of the wanted class among these; None: not told.

        Raises:
            UserError: if there is no such class.
        """
        if self.label is None:
            return None
        if isinstance(self.label, str) and self.label in classes:
            return list(classes).index(self.label)
        if isinstance(self.label, int) and 0 <= self.label < len(classes):
            return self.label
        if not classes:
            raise UserError(f"class {self.label!r} was asked for, and this model knows no classes: leave class out")
        if isinstance(self.label, int):
            raise UserError(f"class {self.label} is not one of 0 to {len(classes) - 1}")
        near = difflib.get_close_matches(self.label, classes, 3) or list(classes[:10])
        raise UserError(f"no class is called {self.label!r}: there are {len(classes)}, such as {', '.join(near)}")


def expand_entries(entries: Sequence[Mapping[str, Any]], seed: int, classes: int) -> list[Request]:
    """Requests of configuration entries, one for each image.

    Args:
        entries: wishes with ``count`` (default 1) and ``seed``, that of the entry's first image; without it seeds count
            up from `seed` over all entries that have none. ``class: all`` stands for ``count`` images of each class.
        seed: of the first image.
        classes: number of classes that "all" stands for.

    Raises:
        UserError: if a count or a seed is no number, or all classes are asked for where there are none.
    """
    requests: list[Request] = []
    following = seed
    for entry in entries:
        rest = dict(entry)
        own = rest.pop("seed", None)
        if own is not None and (isinstance(own, bool) or not isinstance(own, int) or own < 0):
            raise UserError(f"a request's seed is a whole number from 0, not {own!r}")
        if rest.get("class") == ALL and not classes:
            raise UserError("class: all was asked for, and the data have no classes: leave class out")
        parts = [{**rest, "class": number} for number in range(classes)] if rest.get("class") == ALL else [rest]
        found = expand_requests(parts, following if own is None else own)
        following += len(found) if own is None else 0
        requests += found
    for request in requests:
        ImageWish.parse(request.wishes)
    return requests


def _join_sides(raw: Mapping[str, Any]) -> Any:
    sides = [raw.get(key) for key in ("height", "width")]
    if sides == [None, None]:
        return raw.get("size")
    if None in sides:
        raise UserError("a request has one of height and width: give both, or size for a square")
    if raw.get("size") is not None:
        raise UserError("a request has a size beside its height and width: give one or the other")
    return sides


def _parse_size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    parts = [value, value] if isinstance(value, int) else value
    good = isinstance(parts, list | tuple) and len(parts) == 2
    if not good or not all(isinstance(part, int) and not isinstance(part, bool) and part > 0 for part in parts):
        raise UserError(f"size is a number of pixels or [height, width], not {value!r}")
    return int(parts[0]), int(parts[1])
