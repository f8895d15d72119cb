"""Mixtures of experts from a dense model: every expert starts as a copy of the feed-forward it stands for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .mixture import MixtureOfExperts


def upcycle_experts(model: nn.Module, dense: Mapping[str, Tensor], generator: torch.Generator) -> list[str]:
    """Load the weights of a dense model into one with mixtures of experts, in place (arXiv 2407.11633, section 3.3).

    Each expert gets the dense feed-forward that stood in its mixture's place, a router normal weights of standard
    deviation 0.02, and everything else its own weight; shared experts, which the dense model does not have, stay as
    they are. With weights that are not renormalised and K chosen experts the routed output is the dense one times the
    sum of their probabilities, which is less than one: upcycling does not preserve the function.

    Args:
        model: as the dense one, with `MixtureOfExperts` in place of some or all feed-forwards.
        dense: state dict of the dense model, whose feed-forwards are of the experts' class and size.
        generator: for the routers, on the device of the model.

    Returns:
        names of the mixtures.

    Raises:
        ConfigurationError: if there is no mixture, or weights are missing, left over or of another shape.
    """
    mixtures = {name: part for name, part in model.named_modules() if isinstance(part, MixtureOfExperts)}
    if not mixtures:
        raise ConfigurationError(f"{type(model).__name__} has no mixture of experts to fill: build it with some")
    weights = {key: value for key, value in dense.items() if not any(inside(key, name) for name in mixtures)}
    for name, mixture in mixtures.items():
        copied = {key.removeprefix(f"{name}."): value for key, value in dense.items() if inside(key, name)}
        for index in range(len(mixture.experts)):
            weights |= {f"{name}.experts.{index}.{key}": value for key, value in copied.items()}
    kept = {
        f"{name}.{key}": value
        for name, mixture in mixtures.items()
        for key, value in mixture.state_dict().items()
        if key.startswith(("router.", "shared."))
    }
    expected = {key: value.shape for key, value in model.state_dict().items()}
    found = {key: value.shape for key, value in {**weights, **kept}.items()}
    if found != expected:
        wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        raise ConfigurationError(
            f"the dense weights do not fit {len(wrong)} of the model's, such as {wrong[0]} ({found.get(wrong[0])} for "
            f"{expected.get(wrong[0])}): its feed-forwards must be of the experts' class and size, all else the same"
        )
    model.load_state_dict({**weights, **kept})
    for mixture in mixtures.values():
        for layer in mixture.router.modules():
            if isinstance(layer, nn.Linear):
                with torch.no_grad():
                    layer.weight.normal_(std=0.02, generator=generator)
    return list(mixtures)


def inside(key: str, name: str) -> bool:
    """Whether a weight belongs to the module of this name."""
    return key.startswith(f"{name}.")
