"""Samplers: the walks from noise to data."""

from .grids import Grid, KarrasGrid, ListedGrid, LogSNRGrid, StepGrid, UniformGrid
from .heun import Heun
from .one_stage import DDIM, Ancestral, DPMSolverPP2M, Euler, LearntAncestral
from .sampler import Denoise, DrawNoise, Sampler, SamplerState
from .stochastic import EulerMaruyama

__all__ = [
    "DDIM",
    "Ancestral",
    "DPMSolverPP2M",
    "Denoise",
    "DrawNoise",
    "Euler",
    "EulerMaruyama",
    "Grid",
    "Heun",
    "KarrasGrid",
    "LearntAncestral",
    "ListedGrid",
    "LogSNRGrid",
    "Sampler",
    "SamplerState",
    "StepGrid",
    "UniformGrid",
]
