"""A policy as a system: what it learns, how it acts, and that an episode depends on its seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polydit.domains.robotics.codec import History
from polydit.domains.robotics.comparison import ComparisonEvaluator, measure_psnr
from polydit.domains.robotics.execution import Chunk, Controller, Execution
from polydit.domains.robotics.instructions import WordHashes, split_words
from polydit.domains.robotics.observations import CameraAxis, ConvolutionalEncoder, InstructionAxis, StateAxis
from polydit.domains.robotics.policy import Policy
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request

from .conftest import ACTIONS, HISTORY, HORIZON, STATES, WIDTH, make_batch, make_policy


def test_learns_actions_that_follow_from_the_state() -> None:
    system = make_policy(instruction=False).train()
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], 3e-3)
    generator = torch.Generator().manual_seed(0)
    for seed in range(250):
        loss = system.losses(make_batch(64, seed=seed), generator)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = make_batch(64, seed=10_000)
    histories = [{"state": state.numpy()} for state in held_out.observations["state"]]
    chunks = system.eval().propose(histories, [""] * 64, range(64), [None] * 64)
    error = float(np.abs(np.stack(chunks) - held_out.actions.numpy()).mean())
    guess = float(np.abs(held_out.actions.numpy() - held_out.actions.numpy().mean()).mean())
    assert error < 0.35 * guess, f"mean error {error:.3f}, of a constant {guess:.3f}"


def test_actions_past_the_end_of_a_demonstration_count_nothing() -> None:
    system, batch = make_policy(), make_batch()
    losses = [system.losses(batch, torch.Generator().manual_seed(0))["loss"]]
    batch.actions[0, HORIZON // 2 :] = 0.9
    losses.append(system.losses(batch, torch.Generator().manual_seed(0))["loss"])
    batch.actions[0, 0] += 0.5
    losses.append(system.losses(batch, torch.Generator().manual_seed(0))["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_cameras_instructions_and_states_all_tell(observation: dict[str, NDArray[np.float32]]) -> None:
    system = make_policy(("front", "wrist"))
    images = {name: np.full((HISTORY, 16, 16, 3), 40 * i, np.uint8) for i, name in enumerate(("front", "wrist"), 1)}
    history: History = {"state": observation["state"][None], **images}

    def answer(history: History, told: str = "open the drawer") -> NDArray[np.float32]:
        return system.propose([history], [told], [3], [None])[0]

    first = answer(history)
    assert first.shape == (HORIZON, ACTIONS) and np.array_equal(first, answer(history))
    assert not np.allclose(first, answer(history, "close the drawer"), atol=1e-5)
    assert not np.allclose(first, answer({**history, "state": 2 * history["state"]}), atol=1e-5)
    gradient = np.tile(np.arange(16, dtype=np.uint8)[None, :, None, None] * 9, (HISTORY, 1, 16, 3))
    assert not np.allclose(first, answer({**history, "wrist": gradient}), atol=1e-5)


def test_what_is_missing_or_of_another_robot_is_named(observation: dict[str, NDArray[np.float32]]) -> None:
    system = make_policy(("front",))
    with pytest.raises(DataError, match="looks at 'front', which is not among"):
        system.propose([{"state": observation["state"][None]}], [""], [0], [None])
    with pytest.raises(DataError, match="made for 3 values"):
        make_policy().propose([{"state": np.zeros((1, 5), np.float32)}], [""], [0], [None])
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match=r"'state': dimension 1 is (nan|inf)"):
            make_policy().propose([{"state": np.array([[0.0, value, 0.0]])}], [""], [0], [None])
    with pytest.raises(ConfigurationError, match="chunks of 4 actions and the codec has horizon 6"):
        batch = make_batch()
        make_policy().losses(
            replace(batch, actions=batch.actions[:, :4], action_mask=batch.action_mask[:, :4]), torch.Generator()
        )
    with pytest.raises(ConfigurationError, match="9 words, more than 8"):
        make_policy().losses(replace(make_batch(1), instructions=["a b c d e f g h i"]), torch.Generator())
    with pytest.raises(ConfigurationError, match=r"execution.steps 7 exceeds the codec's horizon 6"):
        make_policy(execution=Execution(steps=7))


def test_a_request_with_an_observation_is_answered_by_a_chunk(observation: dict[str, NDArray[np.float32]]) -> None:
    system = make_policy()
    wishes = {"observation": observation, "instruction": "reach"}
    samples = system.generate([Request(5, wishes), Request(6, wishes), Request(5, wishes)])
    assert samples[0].item.shape == (HORIZON, ACTIONS)
    assert np.array_equal(samples[0].item, samples[2].item) and not np.array_equal(samples[0].item, samples[1].item)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, HORIZON))
def test_a_situation_is_answered_alike_in_any_company(company: int, seen: int) -> None:
    system = make_policy()
    rng = np.random.default_rng(company)
    histories = [{"state": rng.normal(size=(seen, STATES)).astype(np.float32)} for _ in range(company)]
    together = system.propose(histories, ["reach"] * company, range(company), [None] * company)
    for i, history in enumerate(histories):
        np.testing.assert_allclose(system.propose([history], ["reach"], [i], [None])[0], together[i], atol=1e-5)


class Counting:
    """Proposes chunks that count on from the number it sees, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[float], list[Chunk | None]]] = []

    def __call__(
        self, histories: Sequence[History], instructions: Sequence[str], seeds: Sequence[int],
        guesses: Sequence[Chunk | None],
    ) -> list[Chunk]:
        now = [float(history["state"][-1, 0]) for history in histories]
        self.asked.append((now, list(guesses)))
        return [value + np.arange(4, dtype=np.float32)[:, None] for value in now]


def run(execution: Execution, steps: int) -> tuple[list[float], Counting]:
    propose = Counting()
    controller = Controller(propose, ("state",), 1, execution)
    controller.start(0, 7, "")
    actions = []
    for step in range(steps):
        actions.append(float(controller.decide([0], [{"state": np.array([10.0 * step], np.float32)}])[0, 0]))
    return actions, propose


def test_receding_horizon() -> None:
    actions, propose = run(Execution(steps=3), 7)
    assert actions == [0, 1, 2, 30, 31, 32, 60] and [now for now, _ in propose.asked] == [[0], [30], [60]]


def test_temporal_ensembling_weights_the_oldest_most() -> None:
    actions, _ = run(Execution(steps=1, ensemble=0.5), 5)
    said = [3.0, 12.0, 21.0, 30.0]  # of step 3, by the chunks of steps 0 to 3
    weights = np.exp(-0.5 * np.arange(4))
    assert actions[0] == 0 and actions[3] == pytest.approx(float(np.dot(said, weights) / weights.sum()))
    assert actions[4] == pytest.approx(float(np.dot([13.0, 22.0, 31.0, 40.0], weights) / weights.sum()))


def test_the_last_chunk_moved_on_is_the_guess() -> None:
    _, propose = run(Execution(steps=3, guess_from=2), 4)
    first, second = (guesses[0] for _, guesses in propose.asked)
    assert first is None and second is not None and second[:, 0].tolist() == [3, 3, 3, 3]
    _, propose = run(Execution(steps=1, guess_from=2), 2)
    second = propose.asked[1][1][0]
    assert second is not None and second[:, 0].tolist() == [1, 2, 3, 3]


def test_slots_that_decide_at_different_times_share_a_batch_and_nothing_else() -> None:
    propose = Counting()
    controller = Controller(propose, ("state",), 1, Execution(steps=2))
    controller.start(0, 1, "")
    see = [{"state": np.array([v], np.float32)} for v in (0.0, 100.0)]
    controller.decide([0], see[:1])
    controller.start(1, 2, "")
    assert controller.decide([0, 1], see)[:, 0].tolist() == [1.0, 100.0]
    assert [len(now) for now, _ in propose.asked] == [1, 1]
    assert controller.decide([0, 1], see)[:, 0].tolist() == [0.0, 101.0]


def test_options_out_of_range_are_refused() -> None:
    for options, message in (({"steps": 0}, "at least 1"), ({"steps": 2, "ensemble": 0.1}, "set steps to 1")):
        with pytest.raises(ConfigurationError, match=message):
            Execution(**options)  # type: ignore[arg-type]


def test_a_policy_is_a_function(observation: dict[str, NDArray[np.float32]]) -> None:
    system = make_policy(execution=Execution(steps=3))
    policy = system.policy("reach", seed=4)
    actions = [policy(observation) for _ in range(4)]
    assert actions[0].shape == (ACTIONS,)
    policy.start_episode()
    other = [policy(observation) for _ in range(4)]
    assert not np.array_equal(actions[0], other[0])
    again = Policy(system, "reach", seed=4)
    assert all(np.array_equal(a, again(observation)) for a in actions)


def test_words_by_hash() -> None:
    labels = WordHashes(64, 5)(["Open the DRAWER!", "", "the drawer"])
    assert labels.shape == (3, 3) and labels[0, 1:3].tolist() == labels[2, :2].tolist()
    assert (labels[1] == 0).all() and labels[2, 2] == 0 and WordHashes(64, 5)([""]).shape == (1, 1)
    assert split_words("pick-place-v3: 2 cups") == ["pick", "place", "v3", "2", "cups"]


def test_axes_give_tokens_and_nulls() -> None:
    state = StateAxis(WIDTH, STATES, HISTORY)
    labels = torch.randn(2, HISTORY, STATES)
    labels[0, 0] = torch.nan
    tokens = state(labels)
    assert tokens.shape == (2, HISTORY, WIDTH) and torch.equal(tokens[0, 0], state.null) and tokens.isfinite().all()
    camera = CameraAxis(WIDTH, history=2)
    images = torch.randint(0, 256, (3, 2, 20, 24, 3), dtype=torch.uint8)
    assert camera(images).shape == (3, 2, WIDTH)
    nothing = camera(camera.unknown(3, torch.device("cpu")))
    assert torch.equal(nothing, camera.null.expand(3, 1, WIDTH))
    cells = CameraAxis(WIDTH, lambda width: ConvolutionalEncoder(width, (8, 16), keypoints=False), history=2)
    assert cells(images).shape == (3, 2 * 5 * 6, WIDTH)
    words = InstructionAxis(WIDTH, buckets=10)
    told = torch.tensor([[3, 4, 0], [0, 0, 0]])
    assert words.real(told).tolist() == [[True, True, False], [True, False, False]]
    assert torch.equal(words(told)[1, 0], words.null)
    pooled = InstructionAxis(WIDTH, buckets=10, pooled=True)
    assert pooled.table is not None and pooled.real(told).tolist() == [[True], [True]]
    torch.testing.assert_close(pooled(told)[0, 0], pooled.table.weight[[2, 3]].mean(dim=0))
    assert torch.equal(pooled(told)[1, 0], pooled.null)
    with pytest.raises(ConfigurationError, match="give the one"):
        InstructionAxis(WIDTH, buckets=0)


def test_keypoints_say_where_things_are() -> None:
    encoder = ConvolutionalEncoder(4, (4,))
    encoder.layers = torch.nn.Sequential(torch.nn.AvgPool2d(1))
    encoder.projection = torch.nn.Identity()
    image = torch.full((1, 3, 9, 9), -20.0)
    image[0, 0, 2, 7] = 20.0
    x_y = encoder(image)[0, 0]
    assert x_y[0] == pytest.approx(0.75) and x_y[3] == pytest.approx(-0.5)
    assert x_y[1] == pytest.approx(0.0, abs=1e-6)


def test_held_out_windows_are_answered_and_compared() -> None:
    system, batch = make_policy(("front",)), make_batch(6, ("front",))
    first, again = system.reconstruct(batch), system.reconstruct(batch)
    assert first == again and len(first) == 6 and [each.steps for each in first] == [HORIZON // 2] + [HORIZON] * 5
    batch.actions[0, HORIZON // 2 :] = 0.9
    assert system.reconstruct(batch)[0] == first[0], "actions past the end count nothing"
    histories = [{name: values[i].numpy() for name, values in batch.observations.items()} for i in range(6)]
    chunk = system.propose(histories, batch.instructions, range(6), [None] * 6)[1]
    assert first[1].error == pytest.approx(float(np.abs(chunk - batch.actions[1].numpy()).mean()), rel=1e-4)
    batch.action_mask[2] = False
    evaluator = ComparisonEvaluator()
    evaluator.update(system.reconstruct(batch))
    numbers = evaluator.compute()
    assert set(numbers) == {"held_out/action_error"} and numbers["held_out/action_error"].count == 5
    assert evaluator.rows()[1]["steps"] == HORIZON and set(evaluator.descriptions()) >= set(numbers)


def test_peak_signal_to_noise_ratio_by_its_formula() -> None:
    image = np.full((1, 4, 4, 3), 100, np.uint8)
    assert measure_psnr(image, image) == 100.0
    assert measure_psnr(image + 16, image) == pytest.approx(20 * np.log10(255 / 16))
    assert measure_psnr(image, image + 100) == pytest.approx(20 * np.log10(255 / 100)), "bytes must not wrap around"
