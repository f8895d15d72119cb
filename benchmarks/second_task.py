"""What the second task brings: StainDiffuser with it, without it, and with masks of other tiles, by the same steps.

    python benchmarks/second_task.py --folder runs/second_task --minutes 20

Synthetic tissue whose brown cells are told by texture alone (`polydit.data.pathology.builtin`), 300 training pairs of
64 pixels. Three arms, each with three seeds of data order, noise and weights:

- joint: stain and mask, masks made of the IHC image;
- stain only: no mask branch, everything else alike;
- permuted: stain and mask, the mask of another tile of the training split. It has the weights and the gradients of a
  second task but not its information; what is gained here is not the task's.

Equal steps, one test split, one set of sampling seeds. Every run saves its state when its time is up, and the script
goes on there when it is called again, so it can be run in pieces; finished runs are not repeated. Prints a table of
what is finished: Dice of the brown mask, correlation of the stained area, SSIM, and gains over "stain only" by seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor

from polydit.data.pathology.builtin import SyntheticTissue
from polydit.data.pathology.datamodule import TilePairDataModule
from polydit.data.pathology.dataset import TileDataset
from polydit.data.pathology.tiles import TilePair
from polydit.domains.pathology.evaluation import StainEvaluator
from polydit.platform.checkpoints import build
from polydit.platform.evaluation.callback import Evaluation, read_metrics
from polydit.platform.module import GenerativeModule

ARMS = ("joint", "stain_only", "permuted")
RECIPE = Path(__file__).resolve().parents[1] / "examples" / "pathology" / "demo.yaml"


class PermutedMasks(TileDataset):
    """Tiles whose mask is that of another tile, always the same one."""

    def _mask(self, number: int, index: int, pair: TilePair, top: int, left: int) -> Any:
        order = np.random.default_rng(self.seed).permutation(len(self.places))
        following = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        place = self.places.index((number, index, 0, 0))
        other_number, other, _, _ = self.places[following[place]]
        return super()._mask(other_number, other, self.sets[other_number].read(other), top, left)


class StudyTiles(TilePairDataModule):
    """The data of the study; `permuted` exchanges the masks of the training split.

    Args:
        pairs: training pairs.
        permuted: whether their masks are exchanged.
        seed: of the data order.
    """

    def __init__(self, pairs: int, permuted: bool, seed: int) -> None:
        source = SyntheticTissue(slides=20, tiles=pairs // 12, size=64, seed=7)
        super().__init__([source], tile=64, batch_size=16, splits=[0.6, 0.1, 0.3], seed=0)
        self.permuted, self.order_seed = permuted, seed

    def tiles(self, split: str) -> TileDataset:
        """The tiles of a split."""
        tiles = super().tiles(split)
        if self.permuted and split == "train":
            tiles.__class__ = PermutedMasks
        return tiles

    def train_dataloader(self) -> Any:
        """Batches in the order of this seed."""
        loader = super().train_dataloader()
        loader.sampler.seed = self.order_seed  # type: ignore[attr-defined]
        return loader


class Deadline(Callback):
    """Saves and stops a run whose time is up.

    Args:
        end: seconds of the monotonic clock.
        state: where to save. Within training, while the weights are still there beside their average.
    """

    def __init__(self, end: float, state: Path) -> None:
        self.end, self.state = end, state

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor | Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after this batch."""
        if time.monotonic() > self.end:
            trainer.save_checkpoint(self.state)
            trainer.should_stop = True


def make_model(arm: str, steps: int, weight: float) -> GenerativeModule:
    """The demo's model, with a mask branch or without."""
    recipe = yaml.safe_load(RECIPE.read_text())
    config = copy.deepcopy(recipe["model"])
    config["lr_scheduler"]["init_args"]["total_steps"] = steps
    system = config["system"]["init_args"]
    if arm == "stain_only":
        system["codec"]["init_args"]["segmentation"] = False
        system["denoiser"]["init_args"]["segmentation"] = False
    else:
        weights = {"class_path": "polydit.platform.objectives.LossWeight", "init_args": {"end": weight}}
        system["loss_weights"] = {"mask": weights}
    return build(config)


def run(arm: str, seed: int, folder: Path, arguments: argparse.Namespace, end: float) -> bool:
    """Train one run as far as time allows, and judge it if it is finished; whether it is."""
    seed_everything(seed, verbose=False)
    module = make_model(arm, arguments.steps, arguments.weight)
    data = StudyTiles(arguments.pairs, arm == "permuted", seed)
    options: dict[str, Any] = {
        "default_root_dir": folder, "logger": False, "enable_checkpointing": False, "devices": 1,
        "accelerator": arguments.accelerator, "enable_progress_bar": False, "enable_model_summary": False,
    }
    state = folder / "state.ckpt"
    callbacks = [EMAWeightAveraging(decay=0.995), Deadline(end, state)]
    trainer = Trainer(
        max_steps=arguments.steps, limit_val_batches=0, gradient_clip_val=1.0, callbacks=callbacks, **options
    )
    trainer.fit(module, data, ckpt_path=str(state) if state.exists() else None, weights_only=True)
    print(f"{arm}, seed {seed}: {trainer.global_step} of {arguments.steps} steps", flush=True)
    if trainer.global_step < arguments.steps:
        return False
    judge = Trainer(callbacks=[Evaluation([StainEvaluator()])], **options)
    judge.test(module, data, verbose=False)
    return True


def tabulate(folder: Path, seeds: list[int]) -> str:
    """What is finished, as a table in Markdown."""
    names = {"brown/dice": "Dice", "brown/area_correlation": "area correlation", "stain/ssim": "SSIM"}
    lines = [f"| arm | seed | {' | '.join(names.values())} |", "|---" * (2 + len(names)) + "|"]
    dice: dict[tuple[str, int], float] = {}
    for arm in ARMS:
        for seed in seeds:
            path = folder / f"{arm}-{seed}" / "metrics.json"
            if not path.exists():
                continue
            found = read_metrics(path)
            dice[arm, seed] = found["brown/dice"].value
            cells = [f"{found[name].value:.3f} ({found[name].low:.3f} – {found[name].high:.3f})" for name in names]
            lines.append(f"| {arm} | {seed} | {' | '.join(cells)} |")
    for arm in ("joint", "permuted"):
        gains = [dice[arm, seed] - dice["stain_only", seed] for seed in seeds
                 if (arm, seed) in dice and ("stain_only", seed) in dice]
        if gains:
            each = ", ".join(f"{gain:+.3f}" for gain in gains)
            lines.append(f"\n{arm} over stain_only, Dice by seed: {each}; mean {np.mean(gains):+.3f}")
    return "\n".join(lines)


def main() -> None:
    """Run what is not finished, seed by seed, so that each seed has all arms early."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/second_task"))
    parser.add_argument("--pairs", type=int, default=300, help="training pairs, a multiple of 12")
    parser.add_argument("--steps", type=int, default=2000, help="training steps of each run")
    parser.add_argument("--weight", type=float, default=1.0, help="weight of the mask's loss")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after about this long")
    parser.add_argument("--accelerator", default="auto")
    arguments = parser.parse_args()
    settings = {"pairs": arguments.pairs, "steps": arguments.steps, "weight": arguments.weight}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    known = arguments.folder / "settings.json"
    if known.exists() and json.loads(known.read_text()) != settings:
        parser.error(f"{known} has other settings, {known.read_text()}: give another folder")
    known.write_text(json.dumps(settings))
    end = time.monotonic() + 60 * arguments.minutes
    for seed in arguments.seeds:
        for arm in ARMS:
            folder = arguments.folder / f"{arm}-{seed}"
            if time.monotonic() < end and not (folder / "metrics.json").exists():
                run(arm, seed, folder, arguments, end)
    print(tabulate(arguments.folder, arguments.seeds))


if __name__ == "__main__":
    main()
