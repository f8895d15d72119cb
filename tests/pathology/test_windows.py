"""Windows reach every pixel of every image, and their weights add up.

Shape legend: Y, X height and width of an image.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polydit.domains.pathology.windows import Windows
from polydit.platform.errors import ConfigurationError


@given(
    side=st.integers(1, 20), height=st.integers(0, 40), width=st.integers(0, 40),
    overlap=st.floats(0, 0.95), chunk=st.integers(1, 9),
)  # fmt: skip
def test_what_is_cut_and_blended_is_the_image(side: int, height: int, width: int, overlap: float, chunk: int) -> None:
    windows, shape = Windows(side, overlap), (side + height, side + width)
    image = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = windows.places(*shape)
    assert all(top + side <= shape[0] and left + side <= shape[1] for top, left in places)
    total, weight = torch.zeros_like(image), torch.zeros(shape, dtype=torch.float64)
    for start in range(0, len(places), chunk):
        some = places[start : start + chunk]
        windows.blend(windows.cut(image, some).unflatten(0, (2, -1)), some, total, weight)
    assert weight.min() > 0
    torch.testing.assert_close(total / weight, image)


@given(side=st.integers(2, 30), more=st.integers(0, 90), overlap=st.floats(0, 0.9))
def test_neighbours_overlap_by_as_much_as_asked(side: int, more: int, overlap: float) -> None:
    starts = [left for _, left in Windows(side, overlap).places(side, side + more)]
    assert starts[0] == 0 and starts[-1] == more and starts == sorted(set(starts))
    widest = max(1, side * (1 - overlap)) + 1  # starts are whole pixels
    assert all(second - first <= widest for first, second in pairwise(starts))


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="smaller than the windows of 8"):
        Windows(8).places(7, 20)
    for options in ({"side": 0}, {"side": 8, "overlap": 1.0}, {"side": 8, "overlap": -0.1}):
        with pytest.raises(ConfigurationError):
            Windows(**options)  # type: ignore[arg-type]
