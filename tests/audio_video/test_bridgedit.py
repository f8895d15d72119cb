"""BridgeDiT: its laws, on tiny towers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polydit.domains.audio_video.bridgedit import BridgeDiT, check_sites
from polydit.platform.context import Context
from polydit.platform.errors import ConfigurationError
from polydit.platform.state import Condition, Layout, State

from .conftest import BANDS, FRAMES, SIZE, make_batch, make_model, make_system, make_towers

STEPS = 20


def draw_state(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        "video": torch.randn(2, FRAMES, 3, SIZE, SIZE, generator=generator),
        "sound": torch.randn(2, STEPS, BANDS, generator=generator),
    }


def run(model: BridgeDiT, state: State, shift: float = 0.0) -> State:
    seconds = {
        "video": (torch.arange(FRAMES) / 8.0 + shift).expand(2, -1),
        "sound": (torch.arange(STEPS) * 0.025).expand(2, -1),
    }
    layout = Layout({name: tuple(value.shape) for name, value in state.items()}, positions=seconds)
    return model(state, torch.tensor([0.2, 0.7]), Condition(), model.context(layout))


def alone(model: BridgeDiT, state: State) -> State:
    t = torch.tensor([0.2, 0.7])
    return {name: model.towers[name]({name: state[name]}, t, Condition(), Context())[name] for name in state}


def changed(before: State, after: State) -> dict[str, bool]:
    return {name: not torch.equal(before[name], after[name]) for name in before}


@pytest.mark.parametrize("positions", ["seconds", "index"])
def test_before_training_both_towers_are_as_they_were(positions: Any) -> None:
    model, state = make_model(bridges=False, positions=positions), draw_state()
    assert changed(alone(model, state), run(model, state)) == {"video": False, "sound": False}
    trained = make_model(positions=positions)
    assert changed(alone(trained, state), run(trained, state)) == {"video": True, "sound": True}


@pytest.mark.parametrize("field", ["video", "sound"])
def test_each_field_changes_the_other_unless_bridges_are_cut(field: str) -> None:
    model, state = make_model(), draw_state()
    other = {**state, field: draw_state(1)[field]}
    assert changed(run(model, state), run(model, other)) == {"video": True, "sound": True}
    model.cut = True
    assert changed(run(model, state), run(model, other)) == {name: name == field for name in state}
    separate = make_model(sites=[])
    assert changed(run(separate, state), run(separate, other)) == {name: name == field for name in state}


def test_seconds_matter_to_the_bridge_and_not_to_the_towers() -> None:
    model, state = make_model(), draw_state()
    assert changed(run(model, state), run(model, state, shift=0.1)) == {"video": True, "sound": True}
    by_index = make_model(positions="index")
    assert changed(run(by_index, state), run(by_index, state, shift=0.1)) == {"video": False, "sound": False}
    with pytest.raises(ConfigurationError, match="SoundClipCodec, or positions: index"):
        model(state, torch.tensor([0.2, 0.7]), Condition(), Context())


def test_patches_over_several_frames_stand_in_their_middle() -> None:
    model, state = make_model(tube=2), draw_state()
    seen: list[Tensor] = []
    model.bridges[0].register_forward_hook(lambda module, given, output: seen.append(given[0].positions))
    run(model, state)
    assert seen[0].shape == (2, 8) and torch.equal(seen[0][0], torch.tensor([0.0625, 0.3125]).repeat_interleave(4))


def test_only_bridges_and_first_blocks_learn() -> None:
    model = make_model(trained="bridges", first_blocks=(2, 1))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    prefixes = ("bridges.", "towers.video.blocks.0.", "towers.video.blocks.1.", "towers.sound.blocks.0.")
    assert names == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def test_both_towers_see_one_time_in_training() -> None:
    system = make_system()
    times: list[Tensor] = []
    for name in ("video", "sound"):
        system.denoiser.towers[name].time.register_forward_hook(lambda module, given, output: times.append(given[0]))
    for seed in range(3):
        system.losses(make_batch(seed=seed), torch.Generator().manual_seed(seed))
    assert len(times) == 6 and all(torch.equal(times[i], times[i + 1]) for i in (0, 2, 4))


def test_cost_of_towers_and_bridges() -> None:
    model = make_model()
    towers = model.towers["video"].cost(16) + model.towers["sound"].cost(STEPS)
    bridges = sum(bridge.cost((16, STEPS)) for bridge in model.bridges)
    assert model.cost_of((16, STEPS)) == towers + bridges


def test_sites() -> None:
    assert check_sites(None, 3, 3) == [(0, 0), (1, 1)]
    assert check_sites(None, 6, 3) == [(1, 0), (3, 1)]
    assert check_sites([[3, 2], [7, 5]], 12, 8) == [(3, 2), (7, 5)]
    for wrong in ([[3, 3]], [[1, 1], [1, 2]], [[-1, 0]]):
        with pytest.raises(ConfigurationError, match="rising order"):
            check_sites(wrong, 3, 3)
    with pytest.raises(ConfigurationError, match="unit is 0"):
        BridgeDiT(*make_towers(), heads=2, unit=0)
