"""Sensitivity-Uncertainty Alignment: scores, training, abstention and theory. README.md has a first example.

Names that need torch or datasets load on first use, so that scoring saved predictions imports numpy alone.
"""

import warnings
from importlib import import_module

warnings.filterwarnings("ignore", message="IProgress not found")  # text bars are what we want

from .predict import Predictions, predict
from .scores import SCORES, score

__version__ = "0.1.0"

_HOME = {
    "Task": "tasks", "load_task": "tasks",
    "worlds": None, "perturb": None, "metrics": None, "theory": None, "statements": None, "regimes": None,
    "recorded": None, "experiment": None, "checks": None, "generation": None,
    "load_model": "models", "CallableModel": "models", "EncoderClassifier": "models", "EncoderChoice": "models",
    "ChoiceLM": "causal", "RemoteLM": "remote", "RemoteError": "remote", "GenerativeLM": "generation",
    "Generations": "generation", "meaning_clusters": "generation", "GENERATION_SCORES": "generation",
    "generation_score": "generation", "SameText": "generation", "Entailment": "generation",
    "similarities": "generation",
    "Objective": "objectives", "OBJECTIVES": "objectives", "SUATrainer": "training", "train": "training",
    "AbstentionRule": "abstention", "SelectiveModel": "abstention", "ABSTAIN": "abstention",
    "error_floor": "certificates", "misalignment_test": "certificates", "stability_certificate": "certificates",
    "lambda_diagnosis": "certificates", "orbit_calibration_error": "miscalibration", "removable_risk": "removable",
}
__all__ = sorted([*_HOME, "Predictions", "predict", "SCORES", "score"])


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'sua' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = import_module(f".{_HOME[name] or name}", __name__)
    return getattr(value, name) if _HOME[name] else value


def __dir__():
    return __all__
