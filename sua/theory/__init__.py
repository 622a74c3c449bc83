"""The theory by machine: finite worlds where every quantity is a number, every bound as printed and as repaired.

`finite` has the worlds, the counterexamples and the random search, `statements` the bounds, `numbers` the constants and
the laws that need no world.
"""

from ..divergences import EXACT as DIVERGENCES
from .finite import COUNTEREXAMPLES, LOSSES, World, calibrated_pairs, grid_worlds, random_worlds, rational
from .numbers import (LAMBDA_ALARM, LAMBDA_JS, LAMBDA_TOP, LAMBDA_TV, LN2, TOLERANCE, binormal_auroc, binormal_lambda,
                      clarification_split, fano, js_cost, population_auroc, unseen_share)
