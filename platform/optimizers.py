"""Optimizers that treat the matrices inside a network's blocks otherwise than the rest.

`GenerativeModule` hands every optimizer its parameters in two groups, told apart by ``kind``: ``"hidden"``, the
matrices inside blocks, and ``"other"``: embeddings, heads, norms, biases, modulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from .denoisers.blocks import DenoiserBlock


def group_parameters(module: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters of `module` in groups of kind ``"hidden"`` and ``"other"``; an empty group is left out."""
    blocks = [part for part in module.modules() if isinstance(part, DenoiserBlock)]
    hidden = {
        id(part.weight) for block in blocks for part in block.modules() if isinstance(part, nn.Linear)
    }
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in hidden], "kind": "hidden"},
        {"params": [p for p in trainable if id(p) not in hidden], "kind": "other"},
    ]
    return [group for group in groups if group["params"]]


class MuonAdamW(Optimizer):
    """Muon on the matrices inside blocks, AdamW on the rest, both as torch has them.

    Muon orthogonalises the momentum of each matrix, so that no direction of its update dominates. Its cost does not
    depend on the batch: with small batches of few tokens it can outweigh what the better steps save.

    Args:
        params: groups, as `group_parameters` makes them; those of kind ``"hidden"`` get Muon.
        lr: learning rate of AdamW.
        hidden_lr: learning rate of Muon; None: `lr`. Of an update the root mean square is 0.2 of it, as of AdamW's.
            A scheduler that sets rates takes one for each group, hidden first.
        betas: of AdamW.
        momentum: of Muon.
        weight_decay: decoupled, for all.

    Raises:
        ValueError: if no group is of kind ``"hidden"``.

    Source: Jordan et al. 2024, "Muon"; scale of the update: Liu et al. 2025 (arXiv:2502.16982, equation 4).
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        hidden_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        groups = [dict(group) for group in params]
        hidden = [group for group in groups if group.get("kind") == "hidden"]
        other = [group for group in groups if group.get("kind") != "hidden"]
        if not hidden:
            raise ValueError(f"none of {len(groups)} parameter groups is of kind 'hidden': use AdamW for this model")
        self._muon = Muon(
            hidden, lr if hidden_lr is None else hidden_lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = AdamW(other, lr, betas, weight_decay=weight_decay, fused=True) if other else None
        super().__init__([*self._muon.param_groups, *(self._adamw.param_groups if self._adamw else [])], {})
        self._share()

    def _share(self) -> None:
        """Let both parts work on this optimizer's groups and state, which is what schedulers and checkpoints see."""
        for part, kind in ((self._muon, True), (self._adamw, False)):
            if part is not None:
                part.param_groups = [group for group in self.param_groups if (group["kind"] == "hidden") == kind]
                part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step of both parts."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in (self._muon, self._adamw):
            if part is not None:
                part.step()
        return loss
