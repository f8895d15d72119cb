"""DiffPose's condition: candidate sets of joints to an embedding that knows no order among candidates.

Shape legend: B batch, J joints, C candidates, F centres of an axis, D width of a joint's token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polydit.data.pose.skeleton import HEATMAP_JOINTS
from polydit.platform.conditioning import Axis
from polydit.platform.errors import ConfigurationError


class PlaceCode(nn.Module):
    """Code of a place: for each axis, cos² of the distance to `centres` centres on [-1, 1], within its first zero.

    About four of an axis's channels differ from zero, so that sums of codes stay a picture of where candidates are.

    Args:
        centres: F.
    """

    centres: Tensor

    def __init__(self, centres: int = 64) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-1, 1, centres), persistent=False)
        self.rate = math.pi * centres / 8

    def forward(self, places: Tensor) -> Tensor:
        """[..., 2 F] of places [..., 2]."""
        phase = (places[..., None] - self.centres.to(places.dtype)) * self.rate
        # Held at the first zero, where the square is below 1e-14, a cosine says nothing of what lies beyond.
        return phase.clamp(-math.pi / 2, math.pi / 2).cos().square().flatten(-2)


class HeatmapEncoder(nn.Module):
    """Tokens of joints from their candidates, as in DiffPose (Holmquist and Wandt, ICCV 2023, arXiv:2211.16487).

    The code of each candidate's place, times its likelihood, goes through a linear map; candidates are summed, joints
    get an embedding of their own, and a transformer encoder lets them see each other.

    Args:
        joints: J.
        centres: F; D is twice this.
        depth: layers of the encoder.
        heads: of its attention.
        feedforward: width of its hidden layers.
        dropout: of its attention, hidden layers and outputs, in training.
    """

    def __init__(
        self, joints: int = len(HEATMAP_JOINTS), centres: int = 64, depth: int = 4, heads: int = 4,
        feedforward: int = 512, dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.width, self.joints = 2 * centres, joints
        self.code = PlaceCode(centres)
        self.projection = nn.Linear(self.width, self.width)
        self.joint = nn.Embedding(joints, self.width)
        layer = nn.TransformerEncoderLayer(self.width, heads, feedforward, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        for parameter in self.encoder.parameters():  # else all layers begin as copies of one
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, candidates: Tensor) -> Tensor:
        """Tokens [B, J, D] of candidates [B, J, C, 3]: x, y and likelihood.

        Raises:
            ConfigurationError: if there are other joints than this encoder was made for.
        """
        if candidates.ndim != 4 or candidates.shape[1] != self.joints or candidates.shape[3] != 3:
            raise ConfigurationError(
                f"the encoder was made for candidates [B, {self.joints}, C, 3] and was given {tuple(candidates.shape)}"
            )
        candidates = candidates.to(self.projection.weight.dtype)
        # The map is linear, so that the weighted sum may go before it; its bias then counts once for each candidate.
        summed = (candidates[..., None, :, 2] @ self.code(candidates[..., :2])).squeeze(-2)
        tokens = nn.functional.linear(summed, self.projection.weight) + candidates.shape[2] * self.projection.bias
        return self.encoder(tokens + self.joint.weight)


class HeatmapAxis(Axis):
    """Heatmaps by their candidates [B, J, C, 3]: one vector, as the published denoiser reads it, or a token a joint.

    Args:
        width: D of the vector or of each token; 2048 in the published model.
        tokens: whether the condition is a token for each joint, for attention.
        encoder: makes tokens of candidates; None: the published one.
        dropout: probability that training withholds all heatmaps, so that guidance has a null to compare with.
    """

    def __init__(
        self, width: int, tokens: bool = False, encoder: HeatmapEncoder | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__(width, dropout)
        self.encoder = encoder or HeatmapEncoder()
        self.role = "tokens" if tokens else "vector"
        size = self.encoder.width * (1 if tokens else self.encoder.joints)
        self.projection = nn.Linear(size, width)
        self.null.requires_grad_(dropout > 0)  # never seen, it would count as a weight that learns nothing

    def is_known(self, labels: Tensor) -> Tensor:
        """[B], or [B, J] of tokens: heatmaps that were not given have NaN for places."""
        known = labels.isfinite().flatten(1).all(dim=1)
        return known[:, None].expand(-1, labels.shape[1]) if self.role == "tokens" else known

    def embed(self, labels: Tensor) -> Tensor:
        """[B, D], or [B, J, D] of tokens."""
        tokens = self.encoder(labels.nan_to_num(0.0))
        return self.projection(tokens if self.role == "tokens" else tokens.flatten(1))

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """NaN, one candidate a joint."""
        return torch.full((batch_size, self.encoder.joints, 1, 3), math.nan, device=device)
