"""How near generated images are to real ones, what a classifier takes them for, and whether they were seen before."""

from .evaluator import ImageEvaluator
from .features import FeatureDistance, TorchScriptFeatures
from .judgement import ClassifierJudgement
from .measure import Measure, References
from .neighbours import NearestNeighbours
from .reconstruction import ImageReconstructionEvaluator
from .sliced import SlicedWasserstein

__all__ = [
    "ClassifierJudgement",
    "FeatureDistance",
    "ImageEvaluator",
    "ImageReconstructionEvaluator",
    "Measure",
    "NearestNeighbours",
    "References",
    "SlicedWasserstein",
    "TorchScriptFeatures",
]
