"""diffusers' diffusion transformer and ours compute the same."""

from __future__ import annotations

import pytest
import torch

from polydit.platform.denoisers.convert import SHARED, dit_from_diffusers

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def reference() -> object:
    from benchmarks.parity_dit import random_reference

    return random_reference(layers=2, heads=2, head_width=12, size=8, norm_eps=1e-6)


def test_predictions_agree(reference) -> None:  # type: ignore[no-untyped-def]
    from benchmarks.parity_dit import measure_deviation

    assert measure_deviation(reference, torch.float32, size=8)[0] < 1e-5


def test_what_cannot_be_converted_is_refused(reference) -> None:  # type: ignore[no-untyped-def]
    config, weights = dict(reference.config), reference.float().state_dict()
    with pytest.raises(ValueError, match="activation_fn is 'geglu' and only 'gelu-approximate'"):
        dit_from_diffusers({**config, "activation_fn": "geglu"}, weights)
    key = f"transformer_blocks.1.{SHARED}timestep_embedder.linear_1.bias"
    with pytest.raises(ValueError, match=r"block 1 has a timestep_embedder.linear_1.bias of its own"):
        dit_from_diffusers(config, {**weights, key: weights[key] + 1})
