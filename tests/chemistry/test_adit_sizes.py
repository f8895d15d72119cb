"""Published parameter counts of ADiT's denoiser, built without memory."""

from __future__ import annotations

import pytest
import torch

from polydit.domains.chemistry.adit.sizes import SIZES, published_conditioner, published_denoiser
from polydit.platform.module import count_parameters


@pytest.mark.parametrize(("size", "millions"), [("S", 32.6), ("B", 129.7), ("L", 457)])
def test_published_parameter_counts(size: str, millions: float) -> None:
    """Published counts: 32.6 M, 129.7 M and 457 M with label tables."""
    with torch.device("meta"):
        denoiser, conditioner = published_denoiser(size), published_conditioner(size)
    depth, width, _ = SIZES[size]
    blocks = depth * (18 * width**2 + 15 * width)
    ends = (16 * width + width) + (256 * width + width + width**2 + width) + (2 * width**2 + 2 * width) + 8 * width + 8
    assert count_parameters(denoiser) == blocks + ends
    total = count_parameters(denoiser) + count_parameters(conditioner)
    assert count_parameters(conditioner) == (3 + 231) * width
    assert round(total / 1e6, 1 if millions < 200 else 0) == millions


def test_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="S, B, L"):
        published_denoiser("XXL")
