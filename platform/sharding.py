"""Weights, gradients and optimizer states divided among processes, to train models that fit into none alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from .denoisers.blocks import DenoiserBlock
from .errors import ConfigurationError
from .storage import read_checkpoint
from .systems.system import System

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class ShardedStrategy(ModelParallelStrategy):
    """Fully sharded data parallelism (Zhao et al., arXiv:2304.11277) as torch's second generation has it.

    Every process holds a share of all weights and sees its own batches; the weights of one block are gathered at a
    time. A checkpoint is one whole file, as of any other run: `polydit.load` reads it, and training goes on from it in
    any number of processes. Lightning's own ``fsdp`` shards the model as one piece, cannot clip gradients by their
    norm, and refuses CPUs, where a run can be tried out.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Let every process be one of the data-parallel group."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Divide the model, then make the optimizer of its shares.

        Raises:
            ConfigurationError: if weights are to be averaged, or processes would not keep step.
        """
        assert self.model is not None and self.accelerator is not None
        refuse_averaging(trainer)
        refuse_uneven_passes(self.model)
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        shard(self.model, self.device_mesh["data_parallel"])
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state as an optimizer of whole weights has it; empty but in the first process."""
        assert self.model is not None
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(self.model, optimizer, options=options)
        return rename(state, {name: place for place, name in enumerate(self._names(optimizer))}) if state else {}

    def load_checkpoint(self, checkpoint_path: Path | str, weights_only: bool | None = None) -> dict[str, Any]:
        """Give every process its share of a file that each reads; sent round, as Lightning does, it never arrived."""
        assert self.model is not None
        checkpoint = read_checkpoint(Path(checkpoint_path), mmap=True)
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=whole)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            named = rename(state, dict(enumerate(self._names(optimizer))))
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=named, options=whole)
        return checkpoint

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Names of the parameters in the order in which the optimizer counts them."""
        assert self.model is not None
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def rename(state: Mapping[str, Any], keys: Mapping[Any, Any]) -> dict[str, Any]:
    """An optimizer's state with other keys for its parameters."""
    groups = [{**group, "params": [keys[key] for key in group["params"]]} for group in state["param_groups"]]
    return {"state": {keys[key]: value for key, value in state["state"].items()}, "param_groups": groups}


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the weights of `model` among the processes of `mesh`: each block of a denoiser alone, then the rest."""
    for block in [part for part in model.modules() if isinstance(part, DenoiserBlock)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for step in STEPS:  # a trainer calls these, where torch expects `forward`
        register_fsdp_forward_method(model, step)


def refuse_uneven_passes(model: nn.Module) -> None:
    """Refuse what would have one process gather weights while the others do not, and so wait for ever.

    Raises:
        ConfigurationError: naming what it is, and the fix.
    """
    system = getattr(model, "system", None)
    reason = system.uneven_passes() if isinstance(system, System) else ""
    if reason:
        raise ConfigurationError(f"sharded processes must run the network equally often, but {reason}")


def refuse_averaging(trainer: Trainer) -> None:
    """Refuse callbacks that keep a whole second model.

    Raises:
        ConfigurationError: naming the callback.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            raise ConfigurationError(
                f"{type(callback).__name__} averages whole weights, of which each of {trainer.world_size} processes "
                "has a share only: remove it from trainer.callbacks, or use trainer.strategy: ddp"
            )
