"""Sensitivity-Uncertainty Alignment: scores, training, abstention and theory. README.md has a first example.

Names load on first use where they need more than the core's packages, so that scoring saved predictions needs these
alone.
"""

import warnings
from importlib import import_module

warnings.filterwarnings("ignore", message="IProgress not found")  # text bars are what we want

from .extras import missing
from .predict import numerical_floor, predict
from .predictions import Predictions
from .scores import SCORES, score

__version__ = "0.2.0"

_HOME = {  # the module of each public name, which is the name itself where both are called alike
    "worlds": "tasks.worlds", "perturb": "perturb", "metrics": "metrics", "theory": "theory",
    "statements": "theory.statements", "regimes": "decide.regimes", "recorded": "tasks.recorded",
    "experiment": "study.experiment", "checks": "checks", "generation": "generation",
    "Task": "tasks", "load_task": "tasks",
    "load_model": "models.load", "CallableModel": "models.callable", "EncoderClassifier": "models.encoder",
    "EncoderChoice": "models.encoder", "ChoiceLM": "models.choice", "RemoteLM": "models.remote",
    "RemoteError": "models.remote", "OrbitModel": "models.orbit", "ContextualCalibration": "models.debiasing",
    "PriDe": "models.debiasing", "GenerativeLM": "generation", "Generations": "generation",
    "meaning_clusters": "generation", "GENERATION_SCORES": "generation", "generation_score": "generation",
    "SameText": "generation", "Entailment": "generation", "similarities": "generation",
    "Objective": "training.objectives", "OBJECTIVES": "training.objectives", "SUATrainer": "training.trainer",
    "train": "training.trainer",
    "AbstentionRule": "decide.abstention", "SelectiveModel": "decide.selective", "ABSTAIN": "decide.selective",
    "error_floor": "decide.certificates", "misalignment_test": "decide.certificates",
    "stability_certificate": "decide.certificates", "lambda_diagnosis": "decide.diagnosis",
    "orbit_calibration_error": "decide.miscalibration", "removable_risk": "decide.removable",
    "from_outputs": "outputs", "from_lm_eval": "outputs", "report_html": "report",
    "calibrate": "decide.probability", "ErrorProbability": "decide.probability", "reliability": "decide.probability",
    "answer_sets": "decide.sets",
}
__all__ = sorted([*_HOME, "Predictions", "predict", "numerical_floor", "SCORES", "score"])


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'sua' has no attribute {name!r}; public names: {', '.join(__all__)}")
    try:
        module = import_module(f".{_HOME[name]}", __name__)
    except ModuleNotFoundError as error:
        raise missing(error, f"sua.{name}") from None
    return module if _HOME[name].split(".")[-1] == name else getattr(module, name)


def __dir__():
    return __all__
