"""Processes: the noising laws of fields."""

from .learnt_variance import LearntVarianceProcess
from .predictions import (
    EpsPrediction,
    PreconditionedPrediction,
    Prediction,
    VelocityPrediction,
    VPrediction,
    X0Prediction,
)
from .priors import CentredGaussianPrior, GaussianPrior, Prior
from .process import Process
from .schedules import (
    EDMSchedule,
    LinearFlowSchedule,
    Schedule,
    VariancePreservingSchedule,
    VPCosineSchedule,
    VPLinearSchedule,
    VPPolynomialSchedule,
)
from .tabulated import DDPMSchedule, TabulatedSchedule
from .time_sampling import LogitNormalTime, LogLogisticSigma, LogNormalSigma, StepTime, TimeSampling, UniformTime
from .weightings import (
    CleanUniformWeighting,
    ClippedWeighting,
    EDMWeighting,
    SigmoidWeighting,
    SNRWeighting,
    UniformWeighting,
    Weighting,
)

__all__ = [
    "CentredGaussianPrior",
    "CleanUniformWeighting",
    "ClippedWeighting",
    "DDPMSchedule",
    "EDMSchedule",
    "EDMWeighting",
    "EpsPrediction",
    "GaussianPrior",
    "LearntVarianceProcess",
    "LinearFlowSchedule",
    "LogLogisticSigma",
    "LogNormalSigma",
    "LogitNormalTime",
    "PreconditionedPrediction",
    "Prediction",
    "Prior",
    "Process",
    "SNRWeighting",
    "Schedule",
    "SigmoidWeighting",
    "StepTime",
    "TabulatedSchedule",
    "TimeSampling",
    "UniformTime",
    "UniformWeighting",
    "VPCosineSchedule",
    "VPLinearSchedule",
    "VPPolynomialSchedule",
    "VPrediction",
    "VariancePreservingSchedule",
    "VelocityPrediction",
    "Weighting",
    "X0Prediction",
]
