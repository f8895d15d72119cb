"""The diffusion system on a domain made up here: two fields under two processes, labels, guidance, kept values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from polydit.platform.codec import Codec
from polydit.platform.conditioning import CategoricalAxis, Conditioner
from polydit.platform.denoisers import DiT, TimeEmbedding, TokenEmbedding, TokenHead
from polydit.platform.mixers import Attention
from polydit.platform.module import GenerativeModule, is_request_batch
from polydit.platform.objectives import Denoising, Objective, SideLoss
from polydit.platform.processes import LinearFlowSchedule, Process, VPCosineSchedule, VPrediction, X0Prediction
from polydit.platform.requests import Request, expand_requests
from polydit.platform.samplers import Ancestral, Euler
from polydit.platform.samplers.guidance import ClassifierFreeGuidance
from polydit.platform.state import Condition, Layout, State, masked_mean
from polydit.platform.systems.diffusion import HYPOTHESIS_STRIDE, DiffusionSystem

CENTRES = torch.tensor([[2.0, 0.0], [-2.0, 1.0]])
"""Where each of the two classes puts its first field; the second field is the negative of its first channel."""


class PointCodec(Codec):
    """Sets of points near their class's centre: fields ``a`` [B, N, 2] and ``b`` [B, N, 1]."""

    def encode(self, batch: Any, generator: torch.Generator) -> tuple[State, Layout]:
        labels, counts = batch
        mask = torch.arange(int(counts.max())) < counts[:, None]
        a = CENTRES[labels - 1][:, None].expand(-1, mask.shape[1], -1)
        a = (a + 0.1 * torch.randn(a.shape, generator=generator)) * mask[..., None]
        state = {"a": a, "b": -a[..., :1]}
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        return state, Layout(shapes, dict.fromkeys(state, mask), labels={"label": labels})

    def layout(self, requests: Sequence[Request]) -> Layout:
        counts = torch.tensor([request.wishes.get("points", 3) for request in requests])
        mask = torch.arange(int(counts.max())) < counts[:, None]
        shape = (len(requests), mask.shape[1])
        labels = {"label": torch.tensor([request.wishes.get("label", 0) for request in requests])}
        seeds = tuple(request.seed for request in requests)
        extras = {"keep": [request.wishes.get("keep") for request in requests]}
        return Layout({"a": (*shape, 2), "b": (*shape, 1)}, {"a": mask, "b": mask}, {}, labels, seeds, extras)

    def known(self, layout: Layout) -> tuple[State, State] | None:
        keep = layout.extras["keep"]
        if all(value is None for value in keep):
            return None
        values, kept = torch.zeros(layout.shapes["b"]), torch.zeros(layout.shapes["b"], dtype=torch.bool)
        for row, value in enumerate(keep):
            if value is not None:
                values[row, 0], kept[row, 0] = value, True
        return {"b": values}, {"b": kept}

    def decode(self, state: State, layout: Layout) -> list[Any]:
        joined = torch.cat([state["a"], state["b"]], dim=-1)
        return [row[mask] for row, mask in zip(joined, layout.masks["a"], strict=True)]


class Shrink(Objective):
    """Mean square of the prediction, to see that objectives are added with their weight."""

    wanted_taps = frozenset({"blocks.0"})

    def loss(self, denoising: Denoising) -> Tensor:
        assert denoising.context.taps["blocks.0"].shape[:2] == denoising.x_t["a"].shape[:2]
        return denoising.prediction["a"].square().mean()


class CleanError(Objective):
    """Squared error of the clean estimate, which for clean-data prediction is the denoising loss itself."""

    def loss(self, denoising: Denoising) -> Tensor:
        error = (denoising.clean_estimate("b") - denoising.x0["b"]).square()
        return masked_mean(error, denoising.mask("b"))


def make_system(**options: Any) -> DiffusionSystem:
    torch.manual_seed(0)
    fields = {"a": 2, "b": 1}
    denoiser = DiT(
        partial(TokenEmbedding, fields=fields, channels={"self_condition": 3}),
        partial(TokenHead, fields=fields),
        width=32,
        depth=2,
        mixer=partial(Attention, heads=2),
    )
    return DiffusionSystem(
        PointCodec(),
        denoiser,
        Process(LinearFlowSchedule(), X0Prediction()),
        options.pop("sampler", Euler(20)),
        Conditioner(32, {"label": partial(CategoricalAxis, num_classes=2)}),
        processes={"b": Process(VPCosineSchedule(), VPrediction())},
        **options,
    )


def make_batch(size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 3, (size,), generator=generator), torch.randint(1, 5, (size,), generator=generator)


@pytest.fixture(scope="module")
def trained() -> DiffusionSystem:
    """Trained for a minute's fraction on the two classes."""
    system = make_system(self_conditioning=0.5)
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):
        loss = system.losses(make_batch(), generator)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return system.eval()


@pytest.mark.parametrize("sampler", [Euler(20), Ancestral(40)], ids=["euler", "ancestral"])
def test_samples_land_on_the_asked_class_in_both_fields(trained: DiffusionSystem, sampler: Any) -> None:
    trained.sampler = sampler
    for label in (1, 2):
        samples = trained.generate(expand_requests([{"label": label, "count": 64}]))
        points = torch.cat([sample.item for sample in samples])
        torch.testing.assert_close(points[:, :2].mean(0), CENTRES[label - 1], atol=0.3, rtol=0)
        assert float(points[:, :2].std(0).max()) < 0.5
        assert float((points[:, 0] + points[:, 2]).abs().mean()) < 0.3


def test_a_guess_saves_steps_and_keeps_what_its_noise_leaves(trained: DiffusionSystem) -> None:
    """Unasked for a class, samples keep that of the guess while its noise is low, and skipped steps are not run."""
    trained.sampler = Euler(20)
    layout = trained.codec.layout(expand_requests([{"points": 4, "count": 32}]))
    guess = {"a": CENTRES[1].expand(32, 4, 2), "b": -CENTRES[1, :1].expand(32, 4, 1)}

    def share(state: State) -> float:
        return float((state["a"][..., 0].mean(dim=1) < 0).float().mean())

    calls = []
    run = trained.denoiser.register_forward_pre_hook(lambda *words: calls.append(1))
    near = trained.sample_state(layout, guess, start=16)["a"]
    assert len(calls) == 4
    run.remove()
    assert share({"a": near}) == 1.0 and share(trained.sample_state(layout)) < 0.9
    assert torch.equal(near, trained.sample_state(layout, guess, start=16)["a"])
    with pytest.raises(ValueError, match="start 20 must be one of the 20 levels"):
        trained.sample_state(layout, guess, start=20)
    with pytest.raises(ValueError, match="start 3 skips steps for which there is no guess"):
        trained.sample_state(layout, start=3)


def test_guidance_runs_its_branches_as_one_batch_and_weight_zero_forgets_the_label(trained: DiffusionSystem) -> None:
    trained.sampler = Euler(10)
    sizes = []
    handle = trained.denoiser.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0]["a"])))
    requests = expand_requests([{"label": 1, "count": 16}])
    try:
        trained.generate(requests)
        plain = trained.guidance
        trained.guidance = ClassifierFreeGuidance({"label": 0.0})
        forgetful = trained.generate(requests)
    finally:
        handle.remove()
    assert sizes == [16] * 10 + [32] * 10
    trained.guidance = plain
    for one, other in zip(forgetful, trained.generate(expand_requests([{"count": 16}])), strict=True):
        torch.testing.assert_close(one.item, other.item, atol=1e-4, rtol=1e-4)


def test_kept_values_are_kept_and_the_rest_follows(trained: DiffusionSystem) -> None:
    """Field b of the first point is held at its value for class 2, which tells an unlabelled sample its class."""
    trained.sampler = Euler(20)
    samples = trained.generate([Request(i, {"keep": 2.0, "points": 2}) for i in range(32)])
    assert all(float(sample.item[0, 2]) == 2.0 for sample in samples)
    firsts = torch.stack([sample.item[0, 0] for sample in samples])
    assert (firsts < 0).float().mean() > 0.9


def test_fields_keep_their_own_process() -> None:
    system = make_system()
    assert isinstance(system.process_of("a").schedule, LinearFlowSchedule)
    assert isinstance(system.process_of("b").schedule, VPCosineSchedule)
    losses = system.losses(make_batch(), torch.Generator().manual_seed(0))
    assert set(losses) == {"a", "b", "loss"}
    torch.testing.assert_close(losses["loss"], losses["a"] + losses["b"])


def test_objectives_are_added_with_their_weight() -> None:
    system = make_system(objectives={"shrink": Shrink(weight=7.0)})
    with torch.no_grad():
        for parameter in system.denoiser.parameters():
            parameter.add_(0.1)
    with torch.no_grad():
        losses = system.losses(make_batch(), torch.Generator().manual_seed(0))
    assert float(losses["shrink"]) > 0
    torch.testing.assert_close(losses["loss"], losses["a"] + losses["b"] + 7.0 * losses["shrink"])


def test_an_objective_sees_the_clean_estimate_of_each_field_by_its_own_process() -> None:
    v_prediction, clean = Process(VPCosineSchedule(), VPrediction()), Process(VPCosineSchedule(), X0Prediction())
    for process in (v_prediction, clean):
        system = make_system(objectives={"clean": CleanError()})
        system.processes["b"] = process
        torch.manual_seed(1)
        for parameter in system.denoiser.parameters():  # a fresh head predicts zero, whatever it sees
            parameter.data += 0.05 * torch.randn_like(parameter)
        losses = system.losses(make_batch(), torch.Generator().manual_seed(0))
        # the error of v is that of the clean estimate times the inverse of a gain, which is one for clean prediction
        assert losses["clean"].isfinite()
        assert torch.isclose(losses["clean"], losses["b"]) == (process is clean)


def test_a_side_loss_that_nobody_leaves_is_an_error() -> None:
    system = make_system(objectives={"balance": SideLoss("balance")})
    with pytest.raises(ValueError, match="no block left a side loss 'balance'"):
        system.losses(make_batch(), torch.Generator().manual_seed(0))


def test_self_conditioning_flips_one_coin_a_batch() -> None:
    system = make_system(self_conditioning=0.5)
    calls: list[bool] = []
    handle = system.denoiser.register_forward_pre_hook(
        lambda module, args: calls.append("self_condition" in args[2].channels)
    )
    for seed in range(200):
        system.losses(make_batch(2), torch.Generator().manual_seed(seed))
    handle.remove()
    second_passes = sum(calls)
    assert len(calls) == 200 + second_passes
    assert 70 < second_passes < 130


def test_losses_are_those_of_the_generator_alone() -> None:
    system = make_system(self_conditioning=0.5)
    one = system.losses(make_batch(), torch.Generator().manual_seed(3))["loss"]
    torch.rand(7)
    assert torch.equal(one, system.losses(make_batch(), torch.Generator().manual_seed(3))["loss"])
    assert not torch.equal(one, system.losses(make_batch(), torch.Generator().manual_seed(4))["loss"])


def test_padding_never_reaches_the_loss() -> None:
    """The same sets with two more padded tokens lose the same, noise apart, so compare where noise has no say."""
    system = make_system()
    labels, counts = make_batch(8)
    state, layout = system.codec.encode((labels, counts), torch.Generator().manual_seed(0))
    condition = Condition()
    longer = {name: torch.nn.functional.pad(value, (0, 0, 0, 2), value=9.0) for name, value in state.items()}
    masks = {name: torch.nn.functional.pad(mask, (0, 2)) for name, mask in layout.masks.items()}
    wide = Layout({name: tuple(value.shape) for name, value in longer.items()}, masks)
    with torch.no_grad():
        for parameter in system.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        t = torch.full((8,), 0.5)
        short = system.denoiser(state, t, condition, system.denoiser.context(layout))
        long = system.denoiser(longer, t, condition, system.denoiser.context(wide))
    for name in short:
        torch.testing.assert_close(long[name][:, :-2], short[name], atol=1e-6, rtol=1e-5)
        process = system.process_of(name)
        noise = torch.zeros_like(state[name])
        narrow_loss = process.loss(short[name], state[name], noise, t, layout.masks[name])
        wide_loss = process.loss(long[name], longer[name], torch.zeros_like(longer[name]), t, masks[name])
        torch.testing.assert_close(narrow_loss, wide_loss)


def test_module_tells_requests_from_data_and_counts_its_samples() -> None:
    module = GenerativeModule(make_system(sampler=Euler(2)))
    assert is_request_batch([Request(0)])
    assert not is_request_batch(make_batch())
    assert len(module.sample(count=3, points=2)) == 3
    assert len(module.test_step([Request(0), Request(1)], 0)) == 2


@pytest.mark.parametrize("count", [0, -1, "many"])
def test_requests_need_a_positive_count(count: Any) -> None:
    with pytest.raises(ValueError, match="positive integer"):
        expand_requests([{"count": count}])


def test_seeds_count_through_all_requests() -> None:
    requests = expand_requests([{"count": 2, "label": 1}, {"label": 2}], seed=5)
    assert [request.seed for request in requests] == [5, 6, 7]
    assert [request.wishes["label"] for request in requests] == [1, 1, 2]


class UnpaddedCodec(PointCodec):
    """Remembers the sizes of each batch, which must be alike, and makes no layout to know them."""

    pads = False

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[set[int]] = []

    def sizes(self, requests: Sequence[Request]) -> list[int]:
        return [request.wishes["points"] for request in requests]

    def layout(self, requests: Sequence[Request]) -> Layout:
        self.batches.append(set(self.sizes(requests)))
        return super().layout(requests)


def test_samples_that_cannot_be_padded_share_a_batch_with_their_size_alone() -> None:
    requests = [Request(seed, {"points": points}) for seed, points in enumerate([3, 5, 3, 2, 3])]
    system = make_system(sample_batch_size=2)
    system.codec = codec = UnpaddedCodec()
    samples = system.generate(requests)
    assert [len(sample.item) for sample in samples] == [3, 5, 3, 2, 3]
    assert codec.batches == [{2}, {3}, {3}, {5}]
    padded = make_system(sample_batch_size=5).generate(requests)
    for one, other in zip(samples, padded, strict=True):
        torch.testing.assert_close(one.item, other.item)


class AskingCodec(PointCodec):
    """Asks of held-out sets for the points of their label, and compares by the mean of the first field."""

    def question(self, batch: Any) -> Layout:
        _, layout = self.encode(batch, torch.Generator())
        return replace(layout, seeds=tuple(range(len(batch[0]))))

    def compare(self, batch: Any, answers: Sequence[State], layout: Layout) -> list[Any]:
        return [[float(answer["a"][row].sum()) for answer in answers] for row in range(len(batch[0]))]

    def known(self, layout: Layout) -> None:
        return None


def test_held_out_items_stand_beside_as_many_answers_as_asked_for() -> None:
    system = make_system(hypotheses=3)
    assert system.reconstruct(make_batch(4)) == [], "a codec that asks nothing is compared with nothing"
    asking = make_system(hypotheses=3)
    asking.codec = AskingCodec()
    torch.manual_seed(1)
    for parameter in asking.denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    found = asking.reconstruct(make_batch(4))
    assert len(found) == 4 and all(len(set(row)) == 3 for row in found)
    assert found == asking.reconstruct(make_batch(4))
    with pytest.raises(ValueError, match="at least 1"):
        make_system(hypotheses=0)


class DrawingCodec(AskingCodec):
    """Shows every hypothesis a label of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, ...]] = []

    def ask(self, question: Layout, seeds: Sequence[int]) -> Layout:
        layout = super().ask(question, seeds)
        self.asked.append(layout.seeds)
        return replace(layout, labels={"label": torch.tensor([1 + seed // HYPOTHESIS_STRIDE % 2 for seed in seeds])})


def test_hypotheses_run_together_and_may_each_see_their_own() -> None:
    found = {}
    for size in (4, 8, 100):
        system = make_system(hypotheses=3, sample_batch_size=size)
        system.codec = codec = DrawingCodec()
        torch.manual_seed(1)
        for parameter in system.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        found[size] = torch.tensor(system.reconstruct(make_batch(4)))
        asked = codec.asked
        assert [len(seeds) for seeds in asked] == {4: [4, 4, 4], 8: [8, 4], 100: [12]}[size]
        assert sorted(seed for seeds in asked for seed in seeds) == sorted(
            entry + number * HYPOTHESIS_STRIDE for entry in range(4) for number in range(3)
        )
    torch.testing.assert_close(found[8], found[4])
    torch.testing.assert_close(found[100], found[4])


def test_fields_may_have_noise_levels_of_their_own() -> None:
    fields = {"a": 2, "b": 1}
    seen: list[Any] = []

    def record(module: Any, given: Any) -> None:
        seen.append(given[1])

    system = make_system(separate_times=True, objectives={"clean": CleanError()})
    system.denoiser.time = TimeEmbedding(32, fields=list(fields))
    system.denoiser.register_forward_pre_hook(record)
    losses = system.losses(make_batch(), torch.Generator().manual_seed(0))
    assert set(seen[0]) == set(fields) and not torch.equal(seen[0]["a"], seen[0]["b"])
    assert all(value.isfinite() for value in losses.values())
    system.generate(expand_requests([{"label": 1, "size": 3}], 0))
    assert torch.equal(seen[-1]["a"], seen[-1]["b"])
