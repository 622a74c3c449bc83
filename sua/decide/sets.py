"""Answer sets: instead of abstaining, name several answers, of which the right one is one as often as promised.

Split conformal prediction (Vovk, Gammerman & Shafer 2005), computed by MAPIE.
"""

from __future__ import annotations

import warnings

import numpy as np

from ..extras import need
from ..inputs import expect, expect_seed
from ..predictions import Predictions
from .abstention import _expect_inside
from .probability import Given

METHODS = ("lac", "aps")
READ = ("p", "orbit")


def answer_sets(predictions: Predictions, calibration: Predictions, coverage: float = 0.9, method: str = "lac",
                on: str = "p", seed: int = 0) -> np.ndarray:
    """(N, C) bool, the answers in the set of each item.

    Where calibration and new items are exchangeable, P(label in set) >= coverage, on average over both draws; it says
    nothing about single inputs. Without ties it is at most coverage + 1 / (n + 1) for n calibration items.

    method : "lac", all answers of probability >= a threshold: the smallest sets on average (Sadinle, Lei & Wasserman,
        JASA 2019); may be empty. "aps", the most probable answers up to a total, the last one by a draw (Romano, Sesia
        & Candes, NeurIPS 2020): larger sets, whose coverage varies less between easy and hard inputs; may be empty too.
    on : the distribution that is read, "p" or the "orbit"'s mean over x and its K variants.
    seed : of the draws of "aps".

    calibration : labelled Predictions of other items, more than 1 / (1 - coverage), with the same classes. An option
    that an input lacks is in no set. ValueError for other arguments, too few items, items that are in both, and for
    "aps" where the calibration labels are of two kinds only, which MAPIE leaves to "lac".
    """
    expect(method in METHODS, lambda: f"method = {method!r}: choose one of {', '.join(METHODS)}")
    expect(on in READ, lambda: f"on = {on!r}: choose 'p', or 'orbit' for the mean over x and its variants")
    _expect_inside("coverage", coverage)
    expect_seed(seed)
    labels, classes = calibration.require("labels"), predictions.probs.shape[1]
    expect(calibration.probs.shape[1] == classes, lambda: f"calibration has {calibration.probs.shape[1]} classes, "
           f"predictions have {classes}: calibrate on the same label set")
    shared = set(calibration.ids.tolist()).intersection(predictions.ids.tolist())
    expect(not shared, lambda: f"calibration and new items share {len(shared)} ids ({min(shared)!r}, ...): the promise "
           "holds for new items; give different ids if these are different items")
    needed = int(max(1 / coverage, 1 / (1 - coverage))) + 1
    expect(len(labels) > needed, f"{len(labels)} calibration items: coverage {coverage:g} needs more than {needed}")

    kinds = len(np.unique(labels))
    expect(method == "lac" or kinds > 2, lambda: f"method = 'aps', but the calibration labels are of {kinds} kinds: "
           "take 'lac'")

    SplitConformalClassifier = need("mapie.classification").SplitConformalClassifier

    read = (lambda p: p.probs) if on == "p" else (lambda p: p.orbit.mean(1))
    conformal = SplitConformalClassifier(Given(classes), confidence_level=coverage, conformity_score=method,
                                         prefit=True, random_state=seed)
    with warnings.catch_warnings():  # classes that are no calibration label do no harm
        warnings.filterwarnings("ignore", ".*less labels than your training dataset")
        conformal = conformal.conformalize(read(calibration), labels)
    more = {"conformity_score_params": {"include_last_label": "randomized"}} if method == "aps" else {}
    found = conformal.predict_set(read(predictions), **more)[1][:, :, 0].astype(bool)
    counts = predictions.n_classes
    return found if counts is None else found & (np.arange(classes) < counts[:, None])
