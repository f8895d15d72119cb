"""The page of metrics outside chemistry names what the evaluators explain, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from polydit.domains.audio_video.alignment import AlignmentEvaluator
from polydit.domains.pathology.evaluation import StainEvaluator
from polydit.domains.pose.evaluation import PoseEvaluator
from polydit.domains.robotics.comparison import ComparisonEvaluator
from polydit.domains.robotics.evaluation import SuccessEvaluator
from polydit.domains.video.evaluation import ClipEvaluator
from polydit.domains.video.motion import BodiesEvaluator, MotionEvaluator
from polydit.domains.vision.evaluation.features import FeatureDistance
from polydit.domains.vision.evaluation.judgement import ClassifierJudgement
from polydit.domains.vision.evaluation.neighbours import NearestNeighbours
from polydit.domains.vision.evaluation.reconstruction import ImageReconstructionEvaluator
from polydit.domains.vision.evaluation.sliced import SlicedWasserstein

FIXED = (
    StainEvaluator, PoseEvaluator, ComparisonEvaluator, BodiesEvaluator, MotionEvaluator, FeatureDistance,
    NearestNeighbours, ImageReconstructionEvaluator, SlicedWasserstein,
)  # fmt: skip


def explained() -> set[str]:
    """Every name; evaluators that name their metrics by task are shown a row of one."""
    names = {name for kind in FIXED for name in kind.descriptions(kind.__new__(kind))}  # says it without a run
    for kind in (ClipEvaluator, AlignmentEvaluator):
        evaluator = kind()
        evaluator._rows = [{"task": "<task>"}]
        names |= set(evaluator.descriptions())
    judgement = ClassifierJudgement()
    judgement._sizes = [(16, 24), (24, 16)]
    names |= {name.replace("/16x24", "/<size>") for name in judgement.descriptions() if not name.endswith("/24x16")}
    names |= set(SuccessEvaluator().descriptions()) | {"success/<task>", "return/<task>"}
    return names


def test_explained_and_documented_metrics_are_the_same(root: Path) -> None:
    documented: set[str] = set()
    for line in (root / "docs/reference/metrics-domains.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            documented |= set(re.findall(r"`([^`]+)`", line.split("|")[1]))
    assert documented == explained()
