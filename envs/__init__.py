"""Simulators: making environments, experts that demonstrate, vectorised rollouts, video."""

from .environment import Environment, EnvironmentInfo
from .episodes import Episode, EpisodeRequest, Recording
from .experts import Expert, ExpertPolicy, list_expert_tasks, make_expert
from .factory import make
from .families import Family, list_environments
from .rendering import RenderingBackend, SceneRenderer, select_backend
from .rollouts import Policy, run_episodes
from .simulator import Field, SimulationError, Simulator

__all__ = [
    "Environment",
    "EnvironmentInfo",
    "Episode",
    "EpisodeRequest",
    "Expert",
    "ExpertPolicy",
    "Family",
    "Field",
    "Policy",
    "Recording",
    "RenderingBackend",
    "SceneRenderer",
    "SimulationError",
    "Simulator",
    "list_environments",
    "list_expert_tasks",
    "make",
    "make_expert",
    "run_episodes",
    "select_backend",
]
