"""Taking the branch for the mask out of a trained StainDiffuser."""

from __future__ import annotations

import copy
from typing import Any

from polydit.platform.checkpoints import build
from polydit.platform.errors import ConfigurationError
from polydit.platform.module import GenerativeModule

from .denoiser import MASK


def remove_segmentation(module: GenerativeModule) -> GenerativeModule:
    """A model of the same weights without the branch for the mask, to be sampled and exported; stains are the same.

    Args:
        module: as `polydit.load` gives it.

    Raises:
        ConfigurationError: if the module has no configuration, or no such branch.
    """
    if module.config is None:
        raise ConfigurationError("a module put together by hand has no configuration: make it with polydit.load")
    config: dict[str, Any] = copy.deepcopy(module.portable_config() or {})
    system = config["system"]["init_args"]
    prefix = f"system.denoiser.branches.{MASK}."
    weights = module.state_dict()
    if not any(name.startswith(prefix) for name in weights):
        raise ConfigurationError("this model has no branch for a mask: nothing to take out")
    for part in ("denoiser", "codec"):
        system[part].setdefault("init_args", {})["segmentation"] = False
    for part in ("processes", "loss_weights"):
        if system.get(part):
            system[part] = {field: entry for field, entry in system[part].items() if field != MASK}
    smaller = build(config)
    unused = (prefix, f"system.loss_weights.{MASK}.")
    smaller.load_state_dict({name: value for name, value in weights.items() if not name.startswith(unused)})
    return smaller.eval()
