"""Mechanisms as what a user would write into a recipe, and how one sees that they are at work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from polydit.platform.feedforwards import MixtureOfExperts, SwiGLU
from polydit.platform.norms import RMSNorm

PLATFORM = "polydit.platform."


def part(path: str, **options: Any) -> dict[str, Any]:
    """A part by class path below `polydit.platform`."""
    return {"class_path": PLATFORM + path, "init_args": options}


def denoiser(**options: Any) -> dict[str, Any]:
    """A change of the denoiser's options."""
    return {"denoiser": {"init_args": options}}


@dataclass(frozen=True)
class Mechanism:
    """A change of a system's options.

    Args:
        changes: merged into the options.
        slot: of the denoiser that must be there.
        holds: class of which the denoiser then has a module.
        loss: side loss that training then reports.
    """

    changes: dict[str, Any]
    slot: str = ""
    holds: type[nn.Module] | None = None
    loss: str = ""


def experts(router: str) -> Mechanism:
    """A mixture of experts under a router, and its balance."""
    mixture = part("feedforwards.MixtureOfExperts", experts=3, top_k=2, router=part(f"feedforwards.{router}"))
    balance = {"balance": part("objectives.SideLoss", name="balance", weight=0.01)}
    changes = denoiser(feedforward=mixture) | {"objectives": balance}
    return Mechanism(changes, "feedforward", MixtureOfExperts, "balance")


MECHANISMS = {
    "swiglu": Mechanism(denoiser(feedforward=part("feedforwards.SwiGLU")), "feedforward", SwiGLU),
    "experts by token": experts("TokenRouter"),
    "experts by noise": experts("NoiseRouter"),
    "rms norm": Mechanism(denoiser(norm=part("denoisers.RMSNorm")), "norm", RMSNorm),
    "one modulation for all blocks": Mechanism(denoiser(modulation=part("denoisers.AdaLNSingle")), "modulation"),
    "normed queries and keys": Mechanism(denoiser(mixer=part("mixers.Attention", heads=4, qk_norm="head")), "mixer"),
    "edm": Mechanism({
        "process": part(
            "processes.Process", schedule=part("processes.EDMSchedule"),
            prediction=part("processes.PreconditionedPrediction"), time_sampling=part("processes.LogNormalSigma"),
        ),
        "sampler": part("samplers.Heun", steps=3),
    }),
    "flow": Mechanism({
        "process": part(
            "processes.Process", schedule=part("processes.LinearFlowSchedule"),
            prediction=part("processes.VelocityPrediction"), time_sampling=part("processes.LogitNormalTime"),
        ),
        "sampler": part("samplers.Euler", steps=3),
    }),
    "ddpm": Mechanism({
        "process": part(
            "processes.Process", schedule=part("processes.VPLinearSchedule"), prediction=part("processes.EpsPrediction")
        ),
        "sampler": part("samplers.DDIM", steps=3),
    }),
    "guidance away from skipped blocks": Mechanism({
        "guidance": part("samplers.skip_guidance.SkipGuidance", blocks=[1]), "sampler": {"init_args": {"steps": 3}}
    }, "unbroken stack"),
}  # fmt: skip

CACHES = {
    "TaylorSeer": part("acceleration.TaylorSeer", interval=3, order=1, first_enhance=1),
    "CG-Taylor": part("acceleration.CGTaylor", threshold=1e6),
    "Delta-DiT": part("acceleration.DeltaDiT", interval=3, blocks=1),
}
