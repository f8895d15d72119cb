"""What the metrics of chemistry mean, in a sentence each, for the report; in full in ``docs/reference/metrics.md``."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources


@cache
def describe_metrics() -> dict[str, str]:
    """Metric name -> its meaning, from ``tables/metrics.json``."""
    path = resources.files("polydit.domains.chemistry.tables").joinpath("metrics.json")
    meanings: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return meanings
