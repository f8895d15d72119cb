"""Experts that demonstrate: the controller of a task, and the policy that `run_episodes` takes to run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polydit.platform.errors import ConfigurationError

from .families import Expert, find_family, load_family

__all__ = ["Expert", "ExpertPolicy", "list_expert_tasks", "make_expert"]


@dataclass(frozen=True)
class ExpertPolicy:
    """Every episode is run by the expert of its task, beside its simulator: in the worker if there are workers.

    Args:
        noise: standard deviation of Gaussian noise that is added to what is executed, in action units, one number or
            one per entry; 0 for none. The record keeps the action that the expert chose as well, which is what a policy
            should learn from the states that noise leads to (DART, Laskey et al. 2017, arXiv 1703.09327).
        seed: of the noise, combined with the episode's, so that noise does not depend on how episodes are spread.
    """

    noise: float | tuple[float, ...] = 0.0
    seed: int = 0


def make_expert(spec: str) -> Expert:
    """The controller that solves a task.

    Args:
        spec: as for `polydit.envs.make`.

    Raises:
        ConfigurationError: if the task has none; the message names those that have.
    """
    family, task = find_family(spec)
    experts = family.experts()
    if task not in experts:
        prefix = spec.partition("/")[0]
        raise ConfigurationError(
            f"{spec} has no expert; {prefix} has experts for {', '.join(sorted(experts)) or 'no task'}. "
            "Every task of metaworld has one, and aloha/transfer_cube"
        )
    return experts[task]()


def list_expert_tasks(prefix: str) -> list[str]:
    """Specifications of a family's tasks that have an expert."""
    experts: Mapping[str, object] = load_family(prefix).experts()
    return sorted(f"{prefix}/{task}" for task in experts)
