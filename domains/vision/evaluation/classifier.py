"""A small classifier, trained on the training split alone, that judges what samples show.

Shape legend: B images, C channels, h, w height and width, D features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from polydit.data.vision.pictures import ImageBatch
from polydit.platform.errors import DataError

FEATURES = 64
"""D."""

MARGIN = 2
"""Pixels by which training images are shifted at most."""

LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Budget:
    """How long the classifier is trained.

    Args:
        steps: of the optimizer.
        batch_size: images in a step.
        seed: of weights, order and shifts.
    """

    steps: int = 600
    batch_size: int = 64
    seed: int = 0


class SmallClassifier(nn.Module):
    """A convolutional network of about a hundred thousand weights: five layers, two halvings, mean, two linear maps.

    Args:
        channels: C.
        classes: number of classes.
        width: channels of the first layer.
    """

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_layer(channels, width), *_layer(width, width, 2), *_layer(width, 2 * width),
            *_layer(2 * width, 2 * width, 2), *_layer(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, FEATURES), nn.SiLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D] and logits [B, classes] of images [B, C, h, w] uint8."""
        features = self.body(images.float() / 127.5 - 1)
        return features, self.head(features)

    @torch.no_grad()
    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D] and probabilities [B, classes], in parts."""
        found = [self(part) for part in images.split(256)]
        return torch.cat([f for f, _ in found]), torch.cat([logits for _, logits in found]).softmax(dim=1)


def train_classifier(images: Tensor, labels: Tensor, classes: int, budget: Budget) -> SmallClassifier:
    """A classifier of images [n, C, h, w] uint8 with labels [n], the same for the same seed.

    AdamW on one cycle; images are shifted by up to two pixels, never mirrored, for a mirrored digit is another.
    """
    generator = torch.Generator().manual_seed(budget.seed)
    order = torch.empty(0, dtype=torch.long)
    # Samples are judged in inference mode, whose tensors know no gradient.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        images, labels = images.clone(), labels.clone()
        model = SmallClassifier(images.shape[1], classes)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=budget.steps, cycle_momentum=False
        )
        for _ in range(budget.steps):
            if len(order) < budget.batch_size:
                order = torch.cat([order, torch.randperm(len(images), generator=generator)])
            chosen, order = order[: budget.batch_size], order[budget.batch_size :]
            _, logits = model(shift(images[chosen], generator))
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images moved by up to `MARGIN` pixels, each its own way, their border repeated."""
    height, width = images.shape[2:]
    margin = min(MARGIN, height // 8, width // 8)
    if margin < 1:
        return images
    padded = functional.pad(images.float(), (margin,) * 4, mode="replicate")
    tops, lefts = torch.randint(2 * margin + 1, (2, len(images)), generator=generator).tolist()
    moved = [
        image[:, top : top + height, left : left + width]
        for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(moved)


def gather(batches: Iterable[ImageBatch]) -> tuple[Tensor, Tensor]:
    """Images [n, C, h, w] and labels [n] of those that have a class.

    Raises:
        DataError: if there are none.
    """
    kept = [(batch.images[batch.labels >= 0], batch.labels[batch.labels >= 0]) for batch in batches]
    if not sum(len(labels) for _, labels in kept):
        raise DataError("no image has a class, so there is nothing to train a classifier on")
    return torch.cat([images for images, _ in kept]), torch.cat([labels for _, labels in kept])


def load_or_train(
    path: Path | None, images: Tensor, labels: Tensor, classes: int, budget: Budget
) -> SmallClassifier:
    """The classifier kept at `path` if it was trained on this, else a new one, which is kept there.

    Args:
        path: a safetensors file; None: nothing is kept.
        images, labels: training data.
        classes: number of classes.
        budget: of training.
    """
    key = _digest(images, labels, classes, budget)
    if path is not None and path.is_file():
        kept = _load(path, key, images.shape[1], classes)
        if kept is not None:
            return kept
    model = train_classifier(images, labels, classes, budget)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(weights, temporary, {"trained_on": key})
        temporary.replace(path)
    return model


def _load(path: Path, key: str, channels: int, classes: int) -> SmallClassifier | None:
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("trained_on") != key:
                return None
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError):
        return None  # a damaged copy is made anew
    with torch.random.fork_rng(devices=[]):
        model = SmallClassifier(channels, classes)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def _digest(images: Tensor, labels: Tensor, classes: int, budget: Budget) -> str:
    settings = [list(images.shape), classes, budget.steps, budget.batch_size, budget.seed, LEARNING_RATE, FEATURES]
    found = hashlib.blake2b(json.dumps(settings).encode(), digest_size=16)
    found.update(images.numpy().tobytes())
    found.update(labels.numpy().tobytes())
    return found.hexdigest()


def _layer(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU()]
