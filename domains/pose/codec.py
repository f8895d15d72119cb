"""The codec of poses: joints relative to the pelvis to a state and back, heatmaps to candidates.

Shape legend: B views, H hypotheses, J joints without the pelvis, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from polydit.data.pose.batch import PoseBatch
from polydit.data.pose.heatmaps import SIZE
from polydit.data.pose.skeleton import HEATMAP_JOINTS, JOINTS
from polydit.data.pose.wishes import HeatmapInput, PoseWishes
from polydit.platform.codec import Codec
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request
from polydit.platform.state import Layout, State

from .candidates import draw_candidates, uniform_of
from .hypotheses import PoseComparison, PoseHypotheses

FIELD = "pose"
AXIS = "heatmaps"


class PoseCodec(Codec):
    """The field ``pose`` [B, 16, 3]: all joints but the pelvis, relative to it, in tenths of a metre.

    The label ``heatmaps`` [B, 16, C, 3] holds candidates (see `draw_candidates`), drawn anew for every training step,
    and for every hypothesis from its own seed.

    Args:
        candidates: C, the highest pixel among them.
        scale: units of the state in a metre.
        joint_dropout: probability that training hides a joint's candidates, by a likelihood of 0.
    """

    def __init__(self, candidates: int = 32, scale: float = 10.0, joint_dropout: float = 0.1) -> None:
        super().__init__()
        if candidates < 1 or scale <= 0 or not 0 <= joint_dropout <= 1:
            raise ConfigurationError(
                f"candidates {candidates} must be at least 1, scale {scale} above 0 and joint_dropout {joint_dropout} "
                "a probability"
            )
        self.candidates, self.scale, self.joint_dropout = candidates, scale, joint_dropout

    def encode(self, batch: PoseBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Poses, and candidates drawn with the generator."""
        pose = self._state(batch)
        shape = (1, *batch.heatmaps.shape[:2], self.candidates - 1)
        uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        candidates = draw_candidates(self._maps(batch), uniform)[0]
        hidden = torch.rand(candidates.shape[:2], generator=generator, device=generator.device) < self.joint_dropout
        likelihood = candidates[..., 2:] * ~hidden.to(candidates.device)[..., None, None]
        labels = {AXIS: torch.cat([candidates[..., :2], likelihood], dim=-1)}
        return {FIELD: pose}, Layout({FIELD: tuple(pose.shape)}, labels=labels)

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Layout of requests that name ``heatmaps``; one hypothesis for each, `ask` makes it more."""
        inputs = [PoseWishes.parse(request.wishes).heatmaps for request in requests]
        question = Layout(
            {FIELD: (len(inputs), len(JOINTS) - 1, 3)}, seeds=tuple(request.seed for request in requests),
            extras={"heatmaps": torch.from_numpy(np.stack([each.maps for each in inputs])), "inputs": inputs},
        )
        return self.ask(question, question.seeds)

    def question(self, batch: PoseBatch) -> Layout:
        """What held-out views show, each with the seed of its place in the split."""
        return Layout(
            {FIELD: tuple(self._state(batch).shape)}, seeds=tuple(batch.index.tolist()),
            extras={"heatmaps": self._maps(batch)},
        )

    def ask(self, question: Layout, seeds: Sequence[int]) -> Layout:
        """The question with candidates drawn for each of k B hypotheses from its own seed."""
        heatmaps = question.extras["heatmaps"]
        size = question.batch_size
        uniform = uniform_of(seeds, heatmaps.shape[1], self.candidates - 1).unflatten(0, (-1, size))
        candidates = draw_candidates(heatmaps, uniform).flatten(0, 1)
        known = next(iter(question.labels.values()), heatmaps).device
        shapes = {name: (len(seeds), *shape[1:]) for name, shape in question.shapes.items()}
        return replace(question, shapes=shapes, labels={AXIS: candidates.to(known)}, seeds=tuple(seeds))

    def decode(self, state: State, layout: Layout) -> list[PoseHypotheses]:
        """One hypothesis for each request."""
        return self.gather([state], layout)

    def gather(self, answers: Sequence[State], layout: Layout) -> list[PoseHypotheses]:
        """All hypotheses of each request together."""
        poses = self._poses(answers)
        inputs: list[HeatmapInput] = layout.extras["inputs"]
        return [
            PoseHypotheses(each.name, poses[row], each.maps, each.pose) for row, each in enumerate(inputs)
        ]

    def compare(self, batch: PoseBatch, answers: Sequence[State], layout: Layout) -> list[PoseComparison]:
        """Held-out views beside their hypotheses."""
        poses, truth = self._poses(answers), batch.poses.float().cpu().numpy()
        exchanged, occluded = batch.exchanged.cpu().numpy(), batch.occluded.cpu().numpy()
        return [
            PoseComparison(clip, frame, poses[row], truth[row], exchanged[row], occluded[row])
            for row, (clip, frame) in enumerate(zip(batch.clips, batch.frames.tolist(), strict=True))
        ]

    def _state(self, batch: PoseBatch) -> Tensor:
        if batch.poses.shape[1:] != (len(JOINTS), 3):
            raise DataError(f"poses have shape {tuple(batch.poses.shape)}: give [B, {len(JOINTS)}, 3]")
        return self.scale * (batch.poses[:, 1:] - batch.poses[:, :1])

    def _maps(self, batch: PoseBatch) -> Tensor:
        expected = (len(batch), len(HEATMAP_JOINTS), SIZE, SIZE)
        if batch.heatmaps.shape != expected:
            raise DataError(f"heatmaps have shape {tuple(batch.heatmaps.shape)}: give {expected}")
        return batch.heatmaps

    def _poses(self, answers: Sequence[State]) -> np.ndarray:
        """[B, H, 17, 3] metres, the pelvis put back."""
        joints = torch.stack([state[FIELD].float() for state in answers], dim=1) / self.scale
        return torch.nn.functional.pad(joints, (0, 0, 1, 0)).cpu().numpy()
