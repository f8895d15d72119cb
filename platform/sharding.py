"""Weights, gradients and optimizer states divided among processes, to train models that fit into none alone."""

from __future__ import annotations

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from .denoisers.blocks import DenoiserBlock
from .errors import ConfigurationError

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
            ConfigurationError: if weights are to be averaged.
        """
        assert self.model is not None and self.accelerator is not None
        refuse_averaging(trainer)
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        shard(self.model, self.device_mesh["data_parallel"])
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the weights of `model` among the processes of `mesh`: each block of a denoiser alone, then the rest."""
    for block in [part for part in model.modules() if isinstance(part, DenoiserBlock)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for step in STEPS:  # a trainer calls these, where torch expects `forward`
        register_fsdp_forward_method(model, step)


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
