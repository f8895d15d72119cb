"""What the distances between sets of images say of images whose quality is known.

    python benchmarks/image_distances.py --data ../shared/data/images [--count 1000]

Real held-out images of MNIST and CIFAR-10 (as JPEG), whole, blurred, noisy, paler, shifted in class, and few of them
over and over, are judged as if they were samples. A distance is good for something if it is low for real images, high
for noise, and grows with every degree of blur and noise.

Shape legend: n images, C channels, h, w height and width.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from polydit.data.vision.archives import ImageZip
from polydit.data.vision.datamodule import ImageDataModule
from polydit.data.vision.decoding import Decoder
from polydit.data.vision.idx import IdxFiles
from polydit.data.vision.pictures import Picture
from polydit.domains.vision.evaluation import ClassifierJudgement, ImageEvaluator, NearestNeighbours, SlicedWasserstein
from polydit.platform.requests import Request, Sample

SHOWN = (
    "image/sliced_wasserstein", "class/frechet", "class/accuracy", "class/precision", "class/recall",
    "neighbour/diversity", "neighbour/memorised",
)


def open_sets(folder: Path) -> dict[str, ImageDataModule]:
    """Data modules with a third held out to compare with and a third to be judged."""
    mnist = IdxFiles(*(str(folder / "mnist_t10k" / f"t10k-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1")))
    cifar = ImageZip(str(folder / "cifar10_jpg" / "test.zip"))
    return {
        "MNIST": ImageDataModule([mnist], size=28, decoder=Decoder(channels=1), splits=[0.6, 0.2, 0.2]),
        "CIFAR-10": ImageDataModule([cifar], size=32, splits=[0.6, 0.2, 0.2]),
    }


def spoil(images: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> images [n, C, h, w] uint8 and the classes they claim to be."""
    generator = np.random.default_rng(0)
    values = images.numpy().astype(np.float32)

    def make(changed: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(changed.clip(0, 255).round().astype(np.uint8)), labels

    found = {"real": (images, labels)}
    for sigma in (0.5, 1.0, 2.0):
        found[f"blurred by {sigma:g} pixels"] = make(gaussian_filter(values, (0, 0, sigma, sigma)))
    for level in (10, 30, 90):
        found[f"noise of {level} grey levels"] = make(values + generator.normal(0, level, values.shape))
    found["half the contrast"] = make(values.mean() + 0.5 * (values - values.mean()))
    found["nothing but noise"] = make(generator.uniform(0, 255, values.shape))
    found["another class"] = (images, (labels + 1) % 10)
    times = len(images) // 10
    found["10 images over and over"] = (images[:10].repeat(times, 1, 1, 1), labels[:10].repeat(times))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"))
    parser.add_argument("--count", type=int, default=1000, help="images that are judged, and compared with")
    parser.add_argument("--steps", type=int, default=800, help="of the classifier's training")
    options = parser.parse_args()
    for title, data in open_sets(options.data).items():
        classifier = ClassifierJudgement(steps=options.steps, keep=False)
        evaluator = ImageEvaluator(
            [SlicedWasserstein(resamples=20), classifier, NearestNeighbours()], limit=options.count
        )
        evaluator.prepare(data)
        batches = list(data.images("val").batches(256, options.count))
        images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
        print(f"\n{title}, {len(images)} images\n" + " | ".join(["", *SHOWN]))
        for name, (changed, claimed) in spoil(images, labels).items():
            evaluator.reset()
            pairs = zip(changed, claimed.tolist(), strict=True)
            evaluator.update([
                Sample(Request(i), Picture(image.permute(1, 2, 0).numpy(), label))
                for i, (image, label) in enumerate(pairs)
            ])
            found = evaluator.compute()
            chosen = [found[metric] for metric in SHOWN]
            cells = [f"{entry.value:.3f} ({entry.low:.3f} to {entry.high:.3f})" for entry in chosen]
            print(" | ".join([name, *cells]), flush=True)


if __name__ == "__main__":
    main()
