"""Hypotheses: the published chain finds what an oracle knows, and every hypothesis depends on its own seed alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polydit.data.pose.batch import PoseBatch
from polydit.data.pose.wishes import HeatmapInput, write_heatmaps
from polydit.domains.pose.diffpose import PoseMLP, published_process
from polydit.domains.pose.hypotheses import PoseComparison, PoseHypotheses
from polydit.platform.conditioning import Conditioner
from polydit.platform.context import Context
from polydit.platform.denoisers import Denoiser, DiT, LearntPosition, TokenEmbedding, TokenHead
from polydit.platform.errors import ConfigurationError, UserError
from polydit.platform.mixers import Attention, CrossAttention
from polydit.platform.requests import Request, expand_requests
from polydit.platform.state import Condition, State, Time, expand_time

from .conftest import make_axis, make_system


class Oracle(Denoiser):
    """Knows the pose, and so the noise."""

    def __init__(self, pose: Tensor) -> None:
        super().__init__()
        self.pose, self.process = torch.nn.Parameter(pose), published_process()
        self.largest = 0.0

    @property
    def streams(self) -> dict[str, str]:
        return {"x": "pose"}

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        assert isinstance(t, Tensor)
        x = x_t["pose"].double()
        alpha, sigma = (expand_time(level(t.double()), x) for level in
                        (self.process.schedule.alpha, self.process.schedule.sigma))
        pose = self.pose.repeat(len(x) // len(self.pose), 1, 1).double()
        noise = (x - alpha * pose) / sigma
        self.largest = max(self.largest, float(((x - sigma * noise) / alpha).abs().max()))
        return {"pose": noise.to(x_t["pose"].dtype)}

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        return 0


def test_the_chain_finds_the_pose_that_an_oracle_knows(batch: PoseBatch) -> None:
    system = make_system()
    system.denoiser = oracle = Oracle(system.codec.encode(batch, torch.Generator())[0]["pose"])
    found = system.reconstruct(batch)
    assert len(found) == len(batch)
    for each, truth in zip(found, batch.poses.numpy(), strict=True):
        assert isinstance(each, PoseComparison) and each.poses.shape == (3, 17, 3)
        assert np.abs(each.poses - truth).max() < 1e-4, "metres"
    assert oracle.largest < 30, "the limit was never reached"


def test_hypotheses_depend_on_their_seeds_alone(batch: PoseBatch) -> None:
    found = {
        size: np.stack([each.poses for each in make_system(sample_batch_size=size).reconstruct(batch)])
        for size in (1, 10, 1000)
    }
    np.testing.assert_allclose(found[10], found[1], atol=1e-4)
    np.testing.assert_allclose(found[1000], found[1], atol=1e-4)
    assert np.abs(found[1][:, 0] - found[1][:, 1]).max() > 0.1
    (alone,) = make_system().reconstruct(PoseBatch(
        batch.heatmaps[2:3], batch.poses[2:3], batch.exchanged[2:3], batch.occluded[2:3], batch.clips[2:3],
        batch.frames[2:3], batch.index[2:3],
    ))  # fmt: skip
    np.testing.assert_allclose(alone.poses, found[1][2], atol=1e-4)
    more = make_system(hypotheses=5).reconstruct(batch)
    np.testing.assert_allclose(more[2].poses[:3], found[1][2], atol=1e-4, err_msg="nested: more adds to fewer")


def test_every_hypothesis_sees_candidates_of_its_own(batch: PoseBatch) -> None:
    system = make_system()
    question = system.codec.question(batch)
    layout = system.codec.ask(question, [*question.seeds, *(seed + 100 for seed in question.seeds)])
    shown = layout.labels["heatmaps"].unflatten(0, (2, len(batch)))
    assert layout.shapes["pose"] == (10, 16, 3) and not torch.equal(shown[0], shown[1])
    torch.testing.assert_close(shown[0, ..., 0, :], shown[1, ..., 0, :])  # the peak is all hypotheses'
    again = system.codec.ask(question, question.seeds).labels["heatmaps"]
    torch.testing.assert_close(again, shown[0])


def test_requests_are_answered_by_sets_in_their_order(batch: PoseBatch) -> None:
    system = make_system()
    maps, poses = batch.heatmaps.numpy(), batch.poses.numpy()
    inputs = [HeatmapInput(f"view {i}", maps[i], poses[i] if i else None) for i in range(3)]
    entries = [{"heatmaps": inputs[0]}, {"heatmaps": inputs[1], "hypotheses": 7}, {"heatmaps": inputs[2]}]
    samples = system.generate(expand_requests(entries, seed=4))
    assert [sample.item.name for sample in samples] == ["view 0", "view 1", "view 2"]
    assert [len(sample.item.poses) for sample in samples] == [3, 7, 3]
    assert samples[0].item.truth is None and np.array_equal(samples[2].item.truth, poses[2])
    assert all(np.abs(sample.item.poses[:, 0]).max() == 0 for sample in samples), "the pelvis is the origin"
    (alone,) = make_system(sample_batch_size=2).generate([Request(6, entries[2])])
    np.testing.assert_allclose(alone.item.poses, samples[2].item.poses, atol=1e-4)
    (single,) = super(type(system), system).generate([Request(6, entries[2])])  # as any diffusion: one each
    np.testing.assert_allclose(single.item.poses[0], samples[2].item.poses[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["zeros", "one empty", "negative", "flat"])
def test_joints_that_are_never_seen_give_finite_poses(batch: PoseBatch, kind: str) -> None:
    maps = batch.heatmaps[0].clone()
    if kind == "one empty":
        maps[4] = 0
    else:
        maps[:] = {"zeros": 0.0, "negative": -0.3, "flat": 0.01}[kind]
    (sample,) = make_system().generate([Request(0, {"heatmaps": HeatmapInput(kind, maps.numpy())})])
    assert isinstance(sample.item, PoseHypotheses) and np.isfinite(sample.item.poses).all()
    assert np.abs(sample.item.poses).max() <= 3.0 + 1e-5, "metres, the published limit"


def test_a_file_by_its_path_and_its_mistakes(tmp_path: Path, batch: PoseBatch) -> None:
    system = make_system()
    write_heatmaps(tmp_path / "two.npz", [HeatmapInput("", maps) for maps in batch.heatmaps[:2].numpy()])
    (sample,) = system.generate([Request(0, {"heatmaps": str(tmp_path / "two.npz"), "frame": 1})])
    assert sample.item.name == "two.npz[1]"
    for wishes, message in (
        ({}, "names heatmaps"), ({"heatmaps": str(tmp_path / "two.npz")}, "2 frames"),
        ({"heatmaps": batch.heatmaps[:, :15].numpy()}, "one for each of"),
        ({"heatmaps": batch.heatmaps[0].numpy(), "hypotheses": 1.5}, "not 1.5"),
    ):
        with pytest.raises(UserError, match=message):
            system.generate([Request(0, wishes)])


def test_a_condition_that_does_not_fit_is_named(batch: PoseBatch) -> None:
    system = make_system(conditioner=Conditioner(24, {"heatmaps": make_axis}))
    with pytest.raises(ConfigurationError, match=r"a vector 'heatmaps' of 32 .*24"):
        system.losses(batch, torch.Generator())


def make_transformer() -> DiT:
    """The shared transformer over joints as tokens, which read the heatmaps' by cross-attention."""
    return DiT(
        partial(TokenEmbedding, fields={"pose": 3}, position=partial(LearntPosition, count=16)),
        partial(TokenHead, fields={"pose": 3}), width=32, depth=2, mixer=partial(Attention, heads=2),
        cross_attention=partial(CrossAttention, heads=2, axes=("heatmaps",)),
    )


@pytest.mark.parametrize("kind", ["perceptron", "transformer"])
def test_one_batch_can_be_learnt(batch: PoseBatch, kind: str) -> None:
    options: dict[str, Any] = {}
    if kind == "transformer":
        axis = partial(make_axis, tokens=True)
        options = {"denoiser": make_transformer(), "conditioner": Conditioner(32, {"heatmaps": axis})}
    system = make_system(**options).train()

    def measure() -> float:
        losses = [system.losses(batch, torch.Generator().manual_seed(1000 + i))["loss"] for i in range(20)]
        return float(torch.stack(losses).mean().detach())

    before = measure()
    optimizer = torch.optim.Adam(system.parameters(), lr=3e-3)
    for step in range(150):
        optimizer.zero_grad()
        system.losses(batch, torch.Generator().manual_seed(step))["loss"].backward()
        optimizer.step()
    assert not [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
    assert measure() < 0.7 * before
    assert np.isfinite(system.eval().reconstruct(batch)[0].poses).all()


def test_the_step_enters_as_its_number() -> None:
    model = PoseMLP(condition=4, width=8)
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.embedding.bias.zero_()
        model.embedding.weight[0, 48] = 1.0
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0][:, 0]))
    given = Condition({"heatmaps": torch.zeros(3, 4)})
    model({"pose": torch.zeros(3, 16, 3)}, torch.tensor([0.0, 0.5, 1.0]), given, Context())
    torch.testing.assert_close(seen[0], torch.tensor([0.0, 12.0, 24.0]))
