"""Laws of normalisers: inverse of one another, unit scale, constants stay, statistics travel and are checked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polydit.platform.errors import CheckpointError, ConfigurationError, DataError
from polydit.platform.normalisers import FieldStatistics, Kind, Normaliser

KINDS: list[Kind] = ["standard", "range", "quantile"]


def measure(values: Tensor) -> FieldStatistics:
    values = values.double()
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
    return FieldStatistics(
        values.mean(0), values.std(0, correction=0), values.amin(0), values.amax(0), low, high, len(values)
    )


def make_values(seed: int, scale: float, offset: float, size: int) -> Tensor:
    return offset + scale * torch.randn(200, size, generator=torch.Generator().manual_seed(seed))


def prepare(kind: Kind, values: Tensor) -> Normaliser:
    normaliser = Normaliser(values.shape[1:], kind, "state")
    normaliser.prepare(measure(values))
    return normaliser


@given(
    st.sampled_from([*KINDS, "identity"]), st.integers(0, 99), st.floats(0.01, 1e3), st.floats(-1e2, 1e2),
    st.integers(1, 5),
)
def test_restore_undoes_normalise(kind: Kind, seed: int, scale: float, offset: float, size: int) -> None:
    values = make_values(seed, scale, offset, size)
    normaliser = prepare(kind, values)
    error = (normaliser.restore(normaliser.normalise(values)) - values).abs().max()
    assert error <= 1e-5 * (abs(offset) + 5 * scale)


def test_standard_has_mean_zero_and_deviation_one() -> None:
    values = make_values(0, 7.0, 3.0, 4)
    normalised = prepare("standard", values).normalise(values)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std(0, correction=0), torch.ones(4))


def test_range_reaches_minus_one_and_one() -> None:
    values = make_values(0, 7.0, 3.0, 4)
    normalised = prepare("range", values).normalise(values)
    torch.testing.assert_close(normalised.amin(0), -torch.ones(4))
    torch.testing.assert_close(normalised.amax(0), torch.ones(4))


def test_quantiles_ignore_an_outlier() -> None:
    values = make_values(0, 1.0, 0.0, 2)
    spoilt = values.clone()
    spoilt[0] = 1e4
    close, far = prepare("quantile", spoilt).normalise(values[1:]), prepare("range", spoilt).normalise(values[1:])
    assert close.std() > 0.3 and far.std() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [0.0, 3.7, -1e6])
def test_a_constant_dimension_is_zero_and_restored_whatever_comes(kind: Kind, constant: float) -> None:
    values = make_values(0, 1.0, 0.0, 3)
    values[:, 1] = constant + 1e-8
    normaliser = prepare(kind, values)
    moved = values + torch.tensor([0.0, 0.5, 0.0])
    assert (normaliser.normalise(moved)[:, 1] == 0).all()
    torch.testing.assert_close(normaliser.restore(torch.randn(5, 3))[:, 1], torch.full((5,), constant))


def test_shapes_of_more_than_one_dimension() -> None:
    values = torch.randn(50, 2, 3)
    normaliser = prepare("standard", values)
    assert normaliser.normalise(values.unflatten(0, (5, 10))).shape == (5, 10, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_travel_in_the_weights(kind: Kind, tmp_path: Path) -> None:
    values = make_values(0, 7.0, 3.0, 4)
    normaliser = prepare(kind, values)
    torch.save(normaliser.state_dict(), tmp_path / "weights.pt")
    fresh = Normaliser(4, kind, "state")
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(fresh.normalise(values), normaliser.normalise(values))
    assert torch.equal(fresh.restore(values), normaliser.restore(values))


@pytest.mark.parametrize("kind", KINDS)
def test_it_refuses_to_run_before_it_was_prepared(kind: Kind) -> None:
    normaliser = Normaliser(3, kind, "actions")
    for run in (normaliser.normalise, normaliser.restore):
        with pytest.raises(CheckpointError, match="normaliser of 'actions' has no statistics"):
            run(torch.zeros(2, 3))


def test_identity_needs_no_statistics() -> None:
    values = torch.randn(2, 3)
    assert torch.equal(Normaliser(3, "identity").normalise(values), values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_statistics_that_are_not_finite_name_field_and_dimension(kind: Kind, bad: float) -> None:
    values = make_values(0, 1.0, 0.0, 3)
    values[:, 2] = bad
    normaliser = Normaliser(3, kind, "state")
    with pytest.raises(DataError, match="state: the statistics of dimension 2 are not finite"):
        normaliser.prepare(measure(values))
    assert not normaliser.prepared


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(DataError, match=r"state: the data have shape \(3,\), the normaliser \(4,\)"):
        Normaliser(4, "standard", "state").prepare(measure(torch.randn(9, 3)))
    with pytest.raises(DataError, match=r"state: values of shape \(9, 2\) do not end in \(3,\)"):
        prepare("standard", torch.randn(9, 3)).normalise(torch.randn(9, 2))


def test_unknown_kinds_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not 'minmax'"):
        Normaliser(3, "minmax")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="must be positive, not 0"):
        Normaliser(0)


def test_quantiles_that_were_not_computed_are_asked_for() -> None:
    statistics = FieldStatistics(*torch.zeros(4, 3).unbind())
    with pytest.raises(DataError, match="needs quantiles"):
        Normaliser(3, "quantile").prepare(statistics)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_both_ways(kind: Kind) -> None:
    normaliser = prepare(kind, make_values(0, 2.0, 1.0, 3))
    values = torch.randn(4, 3, requires_grad=True)
    normaliser.restore(normaliser.normalise(values)).sum().backward()
    torch.testing.assert_close(values.grad, torch.ones(4, 3))
