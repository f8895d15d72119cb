"""What a classifier that knows nothing of the generator takes samples for.

Shape legend: n images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polydit.data.vision.fitting import resize_image
from polydit.data.vision.pictures import Picture, to_tensor
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.evaluation.evaluator import Histograms, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_distance, estimate_mean, estimate_share

from .classifier import Budget, SmallClassifier, gather, load_or_train
from .distances import Features, FrechetReference, find_within_manifold, spread_evenly
from .measure import Measure, References

RESAMPLES = 200
"""Of the bootstrap."""

Size = tuple[int, int]
"""Height and width in pixels."""

MOST_SIZES = 16
"""Samples of more sizes than this have no accuracy for each."""

FILE = "classifier.safetensors"
"""In the run folder."""


class ClassifierJudgement(Measure):
    """Accuracy of samples under a small classifier, and distances in its features.

    The classifier is trained on the training split when the first samples are judged, in half a minute for digits, and
    kept in the run folder. Read the accuracy beside its own on held-out images: samples cannot be told better than
    those. Where samples are of several sizes, there is an accuracy for each too, and beside it that of held-out images
    which went through this size.

    Args:
        steps: of its training, 64 images each.
        seed: of its training.
        most: training images that are read.
        keep: whether it is kept in the run folder, and found there.
    """

    def __init__(self, steps: int = 600, seed: int = 0, most: int = 20_000, keep: bool = True) -> None:
        if steps < 1 or most < 2:
            raise ConfigurationError(f"steps {steps} must be at least 1 and most {most} at least 2")
        self.budget, self.most, self.keep = Budget(steps=steps, seed=seed), most, keep
        self.model: SmallClassifier | None = None
        self.names: tuple[str, ...] = ()
        self.reset()

    def prepare(self, references: References) -> None:
        """Train the classifier, or find it, and look at the held-out images.

        Raises:
            DataError: if images have no classes, or a single one.
        """
        self.names = references.classes
        if len(self.names) < 2:
            raise DataError(f"the data have {len(self.names)} classes, and a classifier needs at least 2")
        path = None if references.folder is None or not self.keep else references.folder / FILE
        images, labels = gather(references.train(self.most))
        self.model = load_or_train(path, images, labels, len(self.names), self.budget)
        held_out, truth = gather(references.held_out())
        features, chances = self.model.judge(held_out)
        self._reference, self._images, self._truth = features.double().numpy(), held_out, truth
        self._held_out = estimate_share(int((chances.argmax(dim=1) == truth).sum()), len(truth))
        spread = torch.from_numpy(spread_evenly(references.limit, len(images)))
        self._real = self.model.judge(images[spread])[0].double().numpy()

    def reset(self) -> None:
        """Forget all samples."""
        self._features: list[Tensor] = []
        self._chances: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._sizes: list[Size] = []

    def see(self, pictures: Sequence[Picture]) -> None:
        """Note the sizes of samples."""
        self._sizes += [(picture.pixels.shape[0], picture.pixels.shape[1]) for picture in pictures]

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Judge samples."""
        assert self.model is not None
        features, chances = self.model.judge(images)
        self._features.append(features)
        self._chances.append(chances)
        self._labels.append(labels)

    def compute(self) -> dict[str, Estimate]:
        """Accuracy, confidence and distances, with those of real images beside them."""
        features = torch.cat(self._features).double().numpy()
        chances, labels = torch.cat(self._chances), torch.cat(self._labels)
        asked = labels >= 0
        right = (chances.argmax(dim=1) == labels)[asked]
        estimates = {
            "class/accuracy_on_real": self._held_out,
            "class/confidence": estimate_mean(chances.max(dim=1).values.numpy()),
            "class/frechet": self._frechet(features),
            "class/frechet_of_real": self._frechet(self._real[spread_evenly(len(features), len(self._real))]),
            "class/precision": _share(find_within_manifold(features, self._reference)),
            "class/recall": _share(find_within_manifold(self._reference, features)),
        }
        if bool(asked.any()):
            estimates["class/accuracy"] = estimate_share(int(right.sum()), int(asked.sum()))
        return estimates | self._compute_by_size(asked, chances.argmax(dim=1) == labels)

    def _compute_by_size(self, asked: Tensor, right: Tensor) -> dict[str, Estimate]:
        """Accuracy at each size, if there are several."""
        found = {}
        for size in self._distinct():
            own = torch.tensor([other == size for other in self._sizes]) & asked
            if bool(own.any()):
                name = _name_size(size)
                found[f"class/accuracy/{name}"] = estimate_share(int(right[own].sum()), int(own.sum()))
                found[f"class/accuracy_on_real/{name}"] = self._judge_real_at(size)
        return found

    def _judge_real_at(self, size: Size) -> Estimate:
        assert self.model is not None
        whole = (self._images.shape[2], self._images.shape[3])
        there = [resize_image(image.permute(1, 2, 0).numpy(), size) for image in self._images]
        images = torch.stack([to_tensor(resize_image(image, whole)) for image in there])
        right = self.model.judge(images)[1].argmax(dim=1) == self._truth
        return estimate_share(int(right.sum()), len(right))

    def _distinct(self) -> list[Size]:
        sizes = sorted(set(self._sizes))
        return sizes if 1 < len(sizes) <= MOST_SIZES else []

    def columns(self) -> list[Row]:
        """What each sample was taken for."""
        chances, labels = torch.cat(self._chances), torch.cat(self._labels)
        judged = chances.argmax(dim=1)
        return [
            {
                "judged_class": self.names[int(found)], "confidence": float(chance.max()),
                "as_asked": bool(found == label) if label >= 0 else None,
            }
            for found, chance, label in zip(judged, chances, labels, strict=True)
        ]

    def histograms(self) -> Histograms:
        """How sure the classifier is."""
        assert self.model is not None
        own = torch.cat(self._chances).max(dim=1).values.double().numpy()
        with torch.no_grad():
            logits = self.model.head(torch.from_numpy(self._reference).float())
        return {"confidence of the classifier": (own, logits.softmax(dim=1).max(dim=1).values.double().numpy())}

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {
            "class/accuracy": "share of samples that the classifier takes for the class that was asked for",
            "class/accuracy_on_real": "the same of held-out images: the classifier's own accuracy",
            "class/confidence": "mean probability of the class it decides for",
            "class/frechet": "Fréchet distance to held-out images in the classifier's features",
            "class/frechet_of_real": "the same of training images, as many as samples: the floor",
            "class/precision": "share of samples within the held-out images' neighbourhoods, in these features",
            "class/recall": "share of held-out images within the samples' neighbourhoods",
            **self._describe_sizes(),
        }

    def _describe_sizes(self) -> dict[str, str]:
        texts = {}
        for name in map(_name_size, self._distinct()):
            texts[f"class/accuracy/{name}"] = f"class/accuracy of samples of {name} pixels, height and width"
            texts[f"class/accuracy_on_real/{name}"] = f"the same of held-out images that were resized to {name} first"
        return texts

    def _frechet(self, features: Features) -> Estimate:
        return estimate_distance(features, FrechetReference(self._reference).measure, RESAMPLES)


def _name_size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _share(found: object) -> Estimate:
    flags = torch.as_tensor(found)
    return estimate_share(int(flags.sum()), len(flags))
