"""Token embeddings: where tokens stand in space, and where an estimate of all fields says they belong."""

from __future__ import annotations

import torch

from polydit.platform.context import Context, estimate_of
from polydit.platform.denoisers import TokenEmbedding
from polydit.platform.state import Condition


def test_an_estimate_of_all_fields_is_read_where_the_points_stand_in_it() -> None:
    fields = {"position": 3, "element": 4, "valence": 1}
    embedding = TokenEmbedding(
        8, fields, {"self_condition": 8}, points="position", point_unit=2.0, estimate="self_condition"
    )
    state = {name: torch.randn(2, 5, size) for name, size in fields.items()}
    clean = {name: torch.randn(2, 5, size) for name, size in fields.items()}
    joined = torch.cat([clean[name] for name in sorted(clean)], dim=-1)
    context = Context(condition=Condition(channels={"self_condition": joined}))
    points = embedding.points(state, context)
    assert torch.equal(points["x"], 2 * state["position"])
    assert torch.equal(points[estimate_of("x")], 2 * clean["position"])


def test_an_estimate_of_points_alone_is_read_from_its_start() -> None:
    fields = {"element": 4, "position": 3}
    embedding = TokenEmbedding(8, fields, {"guess": 3}, points="position", estimate="guess")
    state = {name: torch.randn(2, 5, size) for name, size in fields.items()}
    guess = torch.randn(2, 5, 3)
    points = embedding.points(state, Context(condition=Condition(channels={"guess": guess})))
    assert torch.equal(points[estimate_of("x")], guess)
