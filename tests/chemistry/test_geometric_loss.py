"""Valences from distances, GFMDiff's codec and its geometric loss, on real molecules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.gfmdiff.codec import AtomPointCodec
from polydit.domains.chemistry.gfmdiff.geometric_loss import GeometricLoss
from polydit.domains.chemistry.valence import (
    bond_thresholds,
    count_valences,
    different_pairs,
    pair_distances,
    soften_valences,
)
from polydit.platform.context import Context
from polydit.platform.errors import ConfigurationError, DataError, UserError
from polydit.platform.objectives import Denoising
from polydit.platform.processes import EpsPrediction, Process, VPPolynomialSchedule, X0Prediction
from polydit.platform.requests import Request
from polydit.platform.state import State

METHANE = AtomicStructure(
    np.array([6, 1, 1, 1, 1]),
    1.087 / 3**0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float),
)
WATER = AtomicStructure(np.array([8, 1, 1]), np.array([[0, 0, 0], [0.958, 0, 0], [-0.24, 0.927, 0]]))
ETHENE = AtomicStructure(
    np.array([6, 6, 1, 1, 1, 1]),
    np.array([
        [0.667, 0, 0], [-0.667, 0, 0], [1.237, 0.923, 0], [1.237, -0.923, 0], [-1.237, 0.923, 0], [-1.237, -0.923, 0],
    ]),
)
HYDROGEN_CYANIDE = AtomicStructure(np.array([1, 6, 7]), np.array([[-1.065, 0, 0], [0, 0, 0], [1.156, 0, 0]]))
VALENCES = {
    "methane": (METHANE, [4, 1, 1, 1, 1]),
    "water": (WATER, [2, 1, 1]),
    "ethene": (ETHENE, [4, 4, 1, 1, 1, 1]),
    "hydrogen cyanide": (HYDROGEN_CYANIDE, [1, 4, 3]),
}
ELEMENTS = [1, 6, 7, 8, 9]


def measure(structure: AtomicStructure) -> tuple[Tensor, Tensor, Tensor]:
    """Distances, kinds and pairs of one molecule."""
    kinds = torch.tensor([[ELEMENTS.index(number) for number in structure.numbers]])
    mask = torch.ones_like(kinds, dtype=torch.bool)
    return pair_distances(torch.from_numpy(structure.positions)[None]), kinds, different_pairs(mask)


@pytest.mark.parametrize("name", VALENCES)
def test_molecules_at_rest_have_their_valences(name: str) -> None:
    structure, valences = VALENCES[name]
    distances, kinds, pairs = measure(structure)
    assert count_valences(distances, kinds, pairs, bond_thresholds(ELEMENTS)).tolist() == [valences]
    sure = torch.nn.functional.one_hot(kinds, 5).double()
    soft = soften_valences(distances, sure, pairs, bond_thresholds(ELEMENTS).double(), 0.005)
    torch.testing.assert_close(soft, torch.tensor([valences]).double(), rtol=0, atol=0.05)


def test_a_stretched_bond_takes_one_from_both_its_atoms() -> None:
    stretched = METHANE.positions.copy()
    stretched[1] *= 1 + 0.3 / 1.087
    distances, kinds, pairs = measure(AtomicStructure(METHANE.numbers, stretched))
    assert count_valences(distances, kinds, pairs, bond_thresholds(ELEMENTS)).tolist() == [[3, 0, 1, 1, 1]]


def test_coordinates_learn_near_thresholds_alone() -> None:
    _, kinds, pairs = measure(METHANE)
    sure, thresholds = torch.nn.functional.one_hot(kinds, 5).double(), bond_thresholds(ELEMENTS).double()
    for stretch, learns in ((0.0, False), (0.1, True), (0.6, False)):
        positions = torch.from_numpy(METHANE.positions.copy())[None]
        positions[0, 1] *= 1 + stretch / 1.087
        positions.requires_grad_()
        soften_valences(pair_distances(positions), sure, pairs, thresholds, 0.01).sum().backward()
        assert positions.grad is not None
        assert bool(positions.grad[0, 1].norm() > 1e-2) == learns


def make_state(structures: list[AtomicStructure]) -> tuple[AtomPointCodec, State, object]:
    codec = AtomPointCodec()
    state, layout = codec.encode(collate(structures), torch.Generator())
    return codec, state, layout


def test_molecules_come_back_from_the_state_centred() -> None:
    structures = [METHANE, ETHENE, HYDROGEN_CYANIDE]
    codec, state, layout = make_state(structures)
    for found, structure in zip(codec.decode(state, layout), structures, strict=True):  # type: ignore[arg-type]
        assert found.numbers.tolist() == structure.numbers.tolist()
        np.testing.assert_allclose(found.positions, structure.positions - structure.positions.mean(0), atol=1e-6)
    assert (state["valence"][1] * 10).round().squeeze().tolist() == [4, 4, 1, 1, 1, 1]
    assert not state["element"][0, 5:].any() and not state["position"][0, 5:].any()


def test_elements_asked_for_are_known_and_kept() -> None:
    codec = AtomPointCodec()
    codec.counts[1, 5] = 1
    layout = codec.layout([Request(0, {"elements": "CH4"}), Request(1, {})])
    known = codec.known(layout)
    assert known is not None
    values, keep = known
    assert keep["element"][0].all() and not keep["element"][1].any()
    assert (values["number"][0, :, 0] * 10).round().tolist() == [6, 1, 1, 1, 1]
    state = {name: torch.randn(shape) for name, shape in layout.shapes.items()}
    assert codec.decode(state, layout)[0].numbers.tolist() == [6, 1, 1, 1, 1]


def test_what_the_codec_cannot_hold_is_refused() -> None:
    codec = AtomPointCodec(["H", "O"])
    with pytest.raises(DataError, match="of number 6"):
        codec.encode(collate([WATER, METHANE]), torch.Generator())
    crystal = AtomicStructure(np.array([6]), np.zeros((1, 3)), np.eye(3) * 3)
    with pytest.raises(DataError, match="1 of 1 structures are crystals"):
        codec.encode(collate([crystal]), torch.Generator())
    with pytest.raises(UserError, match="domain: molecule"):
        codec.layout([Request(0, {"domain": "crystal", "num_atoms": 2})])
    with pytest.raises(UserError, match="this model knows H, O"):
        codec.known(codec.layout([Request(0, {"elements": "CH4"})]))


def denoise(state: State, layout: object, process: Process, estimate: State) -> Denoising:
    """A denoising at little noise whose clean estimate is `estimate`, each field's output a leaf with a gradient."""
    t = torch.full((state["position"].shape[0],), 0.05)
    noise = {name: torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) for name, x in state.items()}
    x_t = {name: process.corrupt(x, noise[name], t) for name, x in state.items()}
    alpha, sigma = process.schedule.alpha(t)[:, None, None], process.schedule.sigma(t)[:, None, None]
    outputs = estimate
    if isinstance(process.prediction, EpsPrediction):
        outputs = {name: (x_t[name] - alpha * estimate[name]) / sigma for name in estimate}
    outputs = {name: value.detach().clone().requires_grad_() for name, value in outputs.items()}
    return Denoising(outputs, x_t, state, t, layout, Context(), dict.fromkeys(state, process))  # type: ignore[arg-type]


@pytest.mark.parametrize("prediction", [EpsPrediction(), X0Prediction()])
def test_the_loss_of_the_truth_is_nothing_and_of_a_stretched_bond_something(prediction: object) -> None:
    _, state, layout = make_state([METHANE, ETHENE])
    process = Process(VPPolynomialSchedule(), prediction)  # type: ignore[arg-type]
    loss = GeometricLoss(softness=0.01)
    truth = loss.loss(denoise(state, layout, process, state))
    assert float(truth.detach()) < 1e-6
    stretched = {**state, "position": state["position"] * 1.25}
    denoising = denoise(state, layout, process, stretched)
    wrong = loss.loss(denoising)
    assert float(wrong.detach()) > 1e-3
    wrong.backward()
    assert denoising.prediction["valence"].grad.abs().max() > 0  # type: ignore[union-attr]


def test_soft_thresholds_teach_coordinates_and_the_released_ones_the_valence_alone() -> None:
    _, state, layout = make_state([METHANE, ETHENE])
    process = Process(VPPolynomialSchedule(), EpsPrediction())
    for source, teaches in (("clean", True), ("output", False)):
        denoising = denoise(state, layout, process, {**state, "position": state["position"] * 1.1})
        GeometricLoss(source=source).loss(denoising).backward()  # type: ignore[arg-type]
        moved = denoising.prediction["position"].grad
        assert (moved is not None and bool(moved.abs().max() > 0)) == teaches
        assert denoising.prediction["element"].grad is None
        assert denoising.prediction["valence"].grad.abs().max() > 0  # type: ignore[union-attr]


def test_the_released_loss_is_that_of_its_formula() -> None:
    """(((expected bonds + target) / 2 - predicted)²) times alpha, over two atoms by hand."""
    structure = AtomicStructure(np.array([6, 1]), np.array([[0, 0, 0], [1.09, 0, 0]], dtype=float))
    _, state, layout = make_state([structure])
    process = Process(VPPolynomialSchedule(), EpsPrediction())
    denoising = denoise(state, layout, process, state)
    found = GeometricLoss(source="output").loss(denoising)
    output = {name: value.detach() for name, value in denoising.prediction.items()}
    probability = output["element"][0].softmax(-1)
    apart = (output["position"][0, 0] - output["position"][0, 1]).norm()
    longest = bond_thresholds(ELEMENTS).amax(0)
    expected = (probability[0][:, None] * probability[1] * (apart < longest)).sum() * 4 * 0.1
    t = denoising.t
    alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
    target = (denoising.x_t["valence"][0, :, 0] - alpha * state["valence"][0, :, 0]) / sigma
    wanted = (alpha * ((expected + target) / 2 - output["valence"][0, :, 0]).square()).mean()
    torch.testing.assert_close(found, wanted)


def test_wrong_settings_name_the_fix() -> None:
    with pytest.raises(ConfigurationError, match="positive length"):
        GeometricLoss(softness=0.0)
    with pytest.raises(ConfigurationError, match="clean or output"):
        GeometricLoss(source="noise")  # type: ignore[arg-type]
