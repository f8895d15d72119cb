"""Every metric says in the report what it means, and no explanation is of a metric that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from polydit.domains.chemistry.evaluation.crystals import CrystalEvaluator
from polydit.domains.chemistry.evaluation.molecules import MoleculeEvaluator
from polydit.domains.chemistry.evaluation.posebusters import TESTS
from polydit.domains.chemistry.evaluation.reconstruction import ReconstructionEvaluator


def test_explained_and_documented_metrics_are_the_same(root: Path) -> None:
    documented: set[str] = set()
    group = ""
    for line in (root / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8").splitlines():
        cell = line.split("|")[1] if line.startswith("|") else ""
        names = re.findall(r"`([^`]+)`", cell)
        if names and names[0].endswith("/..."):
            group = names[0][: -len("...")]
        elif not cell:
            group = ""
        elif group:
            documented |= {group + name for name in names}
    documented.discard("molecules/posebusters/<test>")
    documented |= {f"molecules/posebusters/{test}" for test in TESTS}
    explained = MoleculeEvaluator().descriptions()
    assert set(explained) == documented
    assert all(len(text) < 90 and text.endswith(".") for text in explained.values())
    assert CrystalEvaluator().descriptions() == ReconstructionEvaluator().descriptions() == explained
