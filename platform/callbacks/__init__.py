"""What watches over every run: random state, averaged statistics, NaN, Ctrl-C and checkpoints.

The command line adds all of these; from Python, give them to ``Trainer(callbacks=...)``.
"""

from .averaging import AveragedStatistics
from .checkpointing import RunCheckpoint
from .seeding import StepSeeds
from .stopping import StopOnNaN, StopOnSignal, StoppedError

__all__ = ["AveragedStatistics", "RunCheckpoint", "StepSeeds", "StopOnNaN", "StopOnSignal", "StoppedError"]
