"""Whether DiffPose's hypotheses keep what a picture leaves open: against a regression, and a Gaussian around it.

One network, the published condition and denoiser in a smaller size, is trained twice on the same views for as many
steps: to denoise, and to say the pose outright (a blank in place of the noised pose and the step). Half of the people
are in doubt as a whole, left for right: their heatmaps have peaks at either place, of masses w and 1 - w, the true one
drawn accordingly. The Gaussian stands around the regression's answer, with the full covariance of its errors on the
validation split.

The network predicts v unless told otherwise: DiffPose's own eps starts from a level at which an error of eps is 500
times that of the pose, which its 700,000 steps of training mend and a few thousand do not.

    python benchmarks/pose_ambiguity.py --steps 4000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polydit.data.pose.batch import PoseBatch
from polydit.data.pose.cmu import CMUSource
from polydit.data.pose.datamodule import PoseDataModule
from polydit.data.pose.heatmaps import HeatmapRecipe
from polydit.data.pose.walking import WalkingSource
from polydit.domains.pose.codec import FIELD, PoseCodec
from polydit.domains.pose.diffpose import PoseMLP, published_guidance, published_process, published_sampler
from polydit.domains.pose.drawing import draw_still
from polydit.domains.pose.evaluation import PoseEvaluator
from polydit.domains.pose.heatmap_encoder import HeatmapAxis, HeatmapEncoder
from polydit.domains.pose.hypotheses import PoseHypotheses
from polydit.domains.pose.system import PoseSystem
from polydit.platform.conditioning import Conditioner
from polydit.platform.processes import VPrediction
from polydit.platform.state import Layout, State

Answers = Callable[[PoseBatch, Layout], list[State]]
"""Hypotheses for the views of a batch."""

METRICS = (
    "mpjpe/best_of_1", "mpjpe/best_of_5", "mpjpe/best_of_20", "mpjpe/best_of_200", "mpjpe/mean", "mpjpe/of_mean",
    "pa_mpjpe/best", "ece", "spread", "modes/near_truth", "modes/near_exchanged", "modes/both_found", "modes/either",
)  # fmt: skip


def make_system(width: int, hypotheses: int, seed: int, prediction: str = "v") -> PoseSystem:
    torch.manual_seed(seed)
    process = published_process()
    if prediction == "v":
        process.prediction = VPrediction()
    encoder = HeatmapEncoder(depth=2, feedforward=256)

    def axis(size: int) -> HeatmapAxis:
        return HeatmapAxis(size, encoder=encoder)

    return PoseSystem(
        codec=PoseCodec(), denoiser=PoseMLP(condition=width, width=width), process=process,
        sampler=published_sampler(), guidance=published_guidance(), conditioner=Conditioner(width, {"heatmaps": axis}),
        hypotheses=hypotheses, sample_batch_size=3200,
    )


def denoising_loss(system: PoseSystem, batch: PoseBatch, generator: torch.Generator) -> Tensor:
    return system.losses(batch, generator)["loss"]


def regress(system: PoseSystem, layout: Layout, generator: torch.Generator | None) -> Tensor:
    """The pose outright, in the state's unit."""
    blank = torch.zeros(layout.shapes[FIELD])
    assert system.conditioner is not None
    condition = system.conditioner.encode(layout.labels, len(blank), blank.device, generator)
    t = torch.zeros(len(blank))
    return system.denoiser({FIELD: blank}, t, condition, system.denoiser.context(layout))[FIELD]


def regression_loss(system: PoseSystem, batch: PoseBatch, generator: torch.Generator) -> Tensor:
    state, layout = system.codec.encode(batch, generator)
    return (regress(system, layout, generator) - state[FIELD]).square().mean()


def train(
    system: PoseSystem, data: PoseDataModule, loss_of: Callable[[PoseSystem, PoseBatch, torch.Generator], Tensor],
    steps: int, rate: float,
) -> None:
    optimizer = torch.optim.Adam(system.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05, cycle_momentum=False)
    system.train()
    loader = data.train_dataloader()
    step, start, total = 0, time.process_time(), 0.0
    while step < steps:
        for batch in loader:
            loss = loss_of(system, batch, torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step, total = step + 1, total + float(loss.detach())
            if step % 250 == 0 or step == steps:
                print(f"  step {step}: loss {total / 250:.4f}, {time.process_time() - start:.0f} s of CPU", flush=True)
                total = 0.0
            if step == steps:
                break
        loader.sampler.set_epoch(loader.sampler.epoch + 1)
    system.eval()


@torch.no_grad()
def answer_by_regression(system: PoseSystem, question: Layout) -> State:
    """One answer to each view: the mean over ten draws of candidates, as good as the regression gets."""
    seeds = [seed + 7_000_003 * draw for draw in range(10) for seed in question.seeds]
    layout = system.codec.ask(question, seeds)
    return {FIELD: regress(system, layout, None).unflatten(0, (10, -1)).mean(dim=0)}


def fit_covariance(system: PoseSystem, data: PoseDataModule) -> Tensor:
    """Cholesky factor [48, 48] of the covariance of the regression's errors on the validation split."""
    errors = []
    for batch in data.val_dataloader():
        answer = answer_by_regression(system, system.codec.question(batch))[FIELD]
        errors.append((system.codec.encode(batch, torch.Generator())[0][FIELD] - answer).flatten(1))
    stacked = torch.cat(errors).double()
    covariance = stacked.T @ stacked / len(stacked)
    return torch.linalg.cholesky(covariance + 1e-6 * torch.eye(len(covariance), dtype=torch.float64)).float()


def spread_normally(answer: State, factor: Tensor, hypotheses: int, seed: int) -> list[State]:
    """Hypotheses from a normal distribution around an answer."""
    generator = torch.Generator().manual_seed(seed)
    pose = answer[FIELD]
    noise = torch.randn(hypotheses, len(pose), factor.shape[0], generator=generator) @ factor.T
    return [{FIELD: pose + each.view_as(pose)} for each in noise]


def report(title: str, data: PoseDataModule, answers_of: Answers, codec: PoseCodec) -> dict[str, dict[str, str]]:
    """Metrics over all views and over those in doubt, as text."""
    sets = {"all views": PoseEvaluator(), "limbs in doubt": PoseEvaluator()}
    for batch in data.test_dataloader()[0]:
        question = codec.question(batch)
        found = codec.compare(batch, answers_of(batch, question), question)
        sets["all views"].update(found)
        sets["limbs in doubt"].update([each for each in found if each.exchanged.any()])
    table = {}
    for name, evaluator in sets.items():
        estimates = evaluator.compute()
        table[name] = {
            metric: f"{each.value:.3g} ({each.low:.3g} to {each.high:.3g}), {each.count}"
            for metric in METRICS if (each := estimates.get(metric)) is not None
        } | {"views": str(estimates["ece"].count)}
    print(f"  {title}: done", flush=True)
    return table


def draw(path: Path, system: PoseSystem, data: PoseDataModule, answers_of: Answers, count: int) -> None:
    """A page with the hypotheses of the first test views in doubt."""
    pictures: list[str] = []
    for batch in data.test_dataloader()[0]:
        question = system.codec.question(batch)
        for row, each in enumerate(system.codec.compare(batch, answers_of(batch, question), question)):
            if each.exchanged.any() and len(pictures) < count:
                item = PoseHypotheses(each.clip, each.poses, batch.heatmaps[row].numpy(), each.truth)
                pictures.append(f'<div style="display:inline-block;width:24%">{draw_still(item)}</div>')
        if len(pictures) == count:
            break
    path.write_text(f"<body>{''.join(pictures)}</body>", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--hypotheses", type=int, default=200)
    parser.add_argument("--views", type=int, default=128, help="test views")
    parser.add_argument("--cmu", default="", help="file of CMU motion capture; default: the built-in walking people")
    parser.add_argument("--prediction", choices=("v", "eps"), default="v")
    parser.add_argument("--pictures", type=Path, help="folder for pages with the hypotheses of a dozen views in doubt")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = CMUSource(options.cmu) if options.cmu else WalkingSource(80)
    data = PoseDataModule(
        [source], heatmaps=HeatmapRecipe(exchange=0.1, exchange_sides=0.5), batch_size=options.batch,
        test_batch_size=16, seed=options.seed,
        limit={"train": 10**9, "val": 512, "test": options.views},
    )
    systems = {}
    for name, loss_of in (("diffusion", denoising_loss), ("regression", regression_loss)):
        systems[name] = make_system(options.width, options.hypotheses, options.seed, options.prediction)
        parameters = sum(parameter.numel() for parameter in systems[name].parameters())
        print(f"{name}: {parameters:,} parameters", flush=True)
        train(systems[name], data, loss_of, options.steps, options.rate)
    diffusion, regression = systems["diffusion"], systems["regression"]
    with torch.no_grad():
        factor = fit_covariance(regression, data)
        answers: dict[str, Answers] = {
            "diffusion": lambda batch, question: diffusion.answer(question, options.hypotheses),
            "regression": lambda batch, question: [answer_by_regression(regression, question)],
            "Gaussian": lambda batch, question: spread_normally(
                answer_by_regression(regression, question), factor, options.hypotheses, int(batch.index[0])
            ),
        }
        tables = {name: report(name, data, answers_of, diffusion.codec) for name, answers_of in answers.items()}
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            for name, answers_of in answers.items():
                draw(options.pictures / f"{name}.html", diffusion, data, answers_of, 12)
    for part in ("all views", "limbs in doubt"):
        print(f"\n{part}: {tables['diffusion'][part]['views']}\n")
        print(f"| | {' | '.join(tables)} |\n|---|{'---|' * len(tables)}")
        for metric in METRICS:
            cells = [tables[name][part].get(metric, "") for name in tables]
            if any(cells):
                print(f"| {metric} | {' | '.join(cells)} |")
    print(f"\nCPU time {time.process_time() / 60:.1f} min; errors of a standing pose: ", end="")
    poses = np.concatenate([batch.poses.numpy() for batch in data.test_dataloader()[0]])
    print(f"{1000 * np.linalg.norm(poses - poses.mean(axis=0), axis=-1).mean():.0f} mm (mean pose of the test views)")


if __name__ == "__main__":
    main()
