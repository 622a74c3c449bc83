"""Trained models are found again by their recipe, so a change of code that ends in other weights needs a new number.

One short training per world, in float64, is compared with recorded probabilities. After a change that is meant, raise
RECIPE in sua/training/trainer.py and record anew: `python tests/training/test_golden.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from sua import OBJECTIVES, Objective, load_task, train
from sua.tasks import inputs
from sua.theory import LAMBDA_JS
from sua.training.trainer import RECIPE

RECORDED = Path(__file__).parents[1] / "fixtures" / "golden.json"
MANY_TERMS = Objective(k=1, augment=0.5, consistency=1.0, to_mean=True, divergence="js", alignment=1.0, lam=LAMBDA_JS,
                       batch_level=True, smoothing=0.1, confidence_penalty=0.3)
TRAININGS = {"topic": ("tiny", OBJECTIVES["sua_tr"]), "nli": ("tiny", OBJECTIVES["adversarial"]),
             "facts": ("tiny_llama", MANY_TERMS)}


def probabilities(world) -> list:
    """(3, C) of three test inputs and of a variant of each, after twenty steps."""
    model, objective = TRAININGS[world]
    task = load_task(world, {"train": 40, "validation": 1, "calibration": 1, "test": 3})
    kernel = task.perturbation(["synonyms", "wording"])
    trained, _ = train(model, task, objective, kernel, epochs=4, batch_size=8, learning_rate=0.005)
    asked = inputs(task["test"])
    rng = np.random.default_rng(0)
    return trained.predict_proba([*asked, *(kernel.sample(x, 1, rng)[0] for x in asked)]).round(9).tolist()


@pytest.mark.parametrize("world", TRAININGS)
def test_a_training_ends_where_it_ended(world):
    recorded = json.loads(RECORDED.read_text())
    assert recorded["recipe"] == RECIPE, f"RECIPE is new: record its trainings with `python {Path(__file__).name}`"
    largest = np.abs(np.subtract(probabilities(world), recorded[world])).max()
    assert largest < 1e-6, (f"a probability moved by {largest:.2g}: if that is meant, raise RECIPE and record anew "
                            "(head of this file); if not, a trained model would be taken for what the code does not "
                            "make")


if __name__ == "__main__":
    found = {world: probabilities(world) for world in TRAININGS}
    RECORDED.write_text(json.dumps({"recipe": RECIPE, **found}, indent=1))
