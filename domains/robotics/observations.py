"""Axes of a policy's conditioner: what it sees, feels and is told, as condition tokens.

Shape legend: B batch, T observation steps, S values of a state, h, w height and width of an image, M tokens, D width,
K features of an encoded word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from polydit.platform.conditioning import Axis
from polydit.platform.denoisers.positions import SinCosPosition
from polydit.platform.errors import ConfigurationError, require


class StateAxis(Axis):
    """A history of states [B, T, S], normalised by the codec: one token a step. NaN steps tell nothing.

    Args:
        size: S.
        history: T.
        dropout: probability that training hides the whole history.
    """

    role = "tokens"

    def __init__(self, width: int, size: int, history: int = 1, dropout: float = 0.0) -> None:
        super().__init__(width, dropout)
        self.size, self.history = size, history
        self.projection = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
        self.step = nn.Parameter(0.02 * torch.randn(history, width))

    def is_known(self, labels: Tensor) -> Tensor:
        """[B, T], where every value is a number."""
        return labels.isfinite().all(dim=-1)

    def embed(self, labels: Tensor) -> Tensor:
        """[B, T, D].

        Raises:
            ConfigurationError: if the labels have another history or size.
        """
        if labels.shape[1:] != (self.history, self.size):
            raise ConfigurationError(
                f"this policy was made for {self.history} steps of {self.size} values and was given "
                f"{tuple(labels.shape[1:])}: set `history` and `size` to those of the data"
            )
        return self.projection(labels.nan_to_num(0.0, 0.0, 0.0)) + self.step

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """NaN."""
        return torch.full((batch_size, self.history, self.size), math.nan, device=device)


class CameraAxis(Axis):
    """A history of camera images [B, T, h, w, 3] uint8, as tokens of an encoder.

    Args:
        encoder: builds, from the width, a module images [B, 3, h, w] in [-1, 1] -> tokens [B, m, D].
        history: T; a step embedding tells the steps apart.
        dropout: probability that training hides the camera.
    """

    role = "tokens"

    def __init__(
        self, width: int, encoder: Callable[[int], nn.Module] | None = None, history: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(width, dropout)
        self.history = history
        self.encoder = encoder(width) if encoder else ConvolutionalEncoder(width)
        self.step = nn.Parameter(0.02 * torch.randn(history, 1, width))

    def is_known(self, labels: Tensor) -> Tensor:
        """[B, 1]: an image was given; one of no pixels was not."""
        given = labels.numel() > 0
        return torch.full((labels.shape[0], 1), given, dtype=torch.bool, device=labels.device)

    def embed(self, labels: Tensor) -> Tensor:
        """[B, T m, D]."""
        if labels.numel() == 0:
            return self.null.expand(labels.shape[0], 1, -1)
        images = labels.flatten(0, 1).movedim(-1, 1).to(self.null.dtype) / 127.5 - 1
        tokens = self.encoder(images).unflatten(0, labels.shape[:2])
        return (tokens + self.step).flatten(1, 2)

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """Images without pixels."""
        return torch.zeros(batch_size, self.history, 0, 0, 3, dtype=torch.uint8, device=device)


class InstructionAxis(Axis):
    """An instruction as tokens: word labels [B, M] through a table, or encoded words [B, M, K] through a linear map.

    Args:
        buckets: number of word embeddings, as `WordHashes` counts them; 0 where words come encoded.
        features: K of encoded words; 0 where words come as labels.
        pooled: whether the words' mean is one token for the whole sentence; their order is then lost, unless the words
            came encoded.
        dropout: probability that training withholds the instruction, so that guidance has a null to compare with.

    Raises:
        ConfigurationError: if not exactly one of `buckets` and `features` is given.
    """

    role: Literal["vector", "channels", "tokens"] = "tokens"

    def __init__(
        self, width: int, buckets: int = 4096, features: int = 0, pooled: bool = False, dropout: float = 0.1
    ) -> None:
        super().__init__(width, dropout)
        self.pooled = pooled
        if (buckets > 0) == (features > 0):
            raise ConfigurationError(
                f"buckets {buckets} and features {features}: give the one that is as the instruction's labels are"
            )
        self.features = features
        self.table = nn.Embedding(buckets, width) if buckets else None
        self.projection = nn.Linear(features, width) if features else None
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=0.02)
        self.position = SinCosPosition(width)

    def real(self, labels: Tensor) -> Tensor:
        """[B, M], where there is a word; the first place of an empty sentence is, and holds the null."""
        found = self.is_known(labels).clone()
        found[:, 0] = True
        return found

    def is_known(self, labels: Tensor) -> Tensor:
        """[B, M], where there is a word; [B, 1] of a pooled sentence, whether there is any."""
        found = self._words(labels)
        return found.any(dim=1, keepdim=True) if self.pooled else found

    def embed(self, labels: Tensor) -> Tensor:
        """[B, M, D], or [B, 1, D] pooled."""
        if self.table is not None:
            tokens = self.table((labels - 1).clamp(min=0))
        else:
            assert self.projection is not None
            tokens = self.projection(labels.nan_to_num(0.0))
        if self.pooled:
            weight = self._words(labels)[..., None].to(tokens.dtype)
            return (tokens * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
        return tokens + self.position(tokens, None)

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """A sentence without words."""
        if self.table is not None:
            return torch.zeros(batch_size, 1, dtype=torch.long, device=device)
        return torch.full((batch_size, 1, self.features), math.nan, device=device)

    def _words(self, labels: Tensor) -> Tensor:
        return labels > 0 if self.table is not None else labels.isfinite().all(dim=-1)


class ConvolutionalEncoder(nn.Module):
    """A small image encoder trained with the policy: strided convolutions, then spatial soft-argmax or a token a cell.

    Group normalisation, since a policy's batches at rollout are not those of training.

    Args:
        width: D; supplied by the axis.
        channels: of the layers, each of which halves height and width.
        keypoints: True: every last channel becomes the place of its soft maximum, and all of them one token, which
            says where things are (Finn et al. 2016, arXiv:1509.06113, section IV-C); False: a token for every cell.
    """

    def __init__(self, width: int, channels: Sequence[int] = (32, 64, 128), keypoints: bool = True) -> None:
        super().__init__()
        sizes = [3, *channels]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(max(1, b // 16), b), nn.SiLU())
                for a, b in pairwise(sizes)
            )
        )
        self.keypoints = keypoints
        self.projection = nn.Linear(2 * channels[-1] if keypoints else channels[-1], width)
        self.position = SinCosPosition(width)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens [B, m, D] of images [B, 3, h, w]."""
        cells = self.layers(images)
        height, width = cells.shape[-2:]
        if not self.keypoints:
            tokens = self.projection(cells.flatten(2).transpose(1, 2))
            rows, columns = torch.arange(height, device=cells.device), torch.arange(width, device=cells.device)
            return tokens + self.position(tokens, torch.cartesian_prod(rows, columns)[None])
        weights = cells.flatten(2).float().softmax(dim=-1).unflatten(-1, (height, width))
        y = weights.sum(dim=3) @ torch.linspace(-1, 1, height, device=cells.device)
        x = weights.sum(dim=2) @ torch.linspace(-1, 1, width, device=cells.device)
        return self.projection(torch.cat([x, y], dim=1).to(cells.dtype))[:, None]


class PretrainedVision(nn.Module):
    """An image encoder of the transformers library, from a local folder; nothing is downloaded.

    Args:
        width: D; supplied by the axis.
        folder: what `AutoModel.from_pretrained` reads, such as a ViT or DINOv2.
        trainable: False freezes it; only the map to the width is then trained.
    """

    def __init__(self, width: int, folder: str, trainable: bool = False) -> None:
        super().__init__()
        transformers = require("transformers", "pretrained")
        try:
            model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{folder} holds no image encoder that transformers reads: {error}") from error
        self.model = getattr(model, "vision_model", model).requires_grad_(trainable)
        self.size = int(self.model.config.image_size)
        self.projection = nn.Linear(int(self.model.config.hidden_size), width)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens [B, m, D] of images [B, 3, h, w] in [-1, 1], resized to what the encoder was trained on."""
        resized = nn.functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return self.projection(self.model(pixel_values=resized).last_hidden_state)
