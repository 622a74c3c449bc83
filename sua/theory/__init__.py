"""The theory by machine: finite worlds where every quantity is a number, every bound as printed and as repaired.

`world` has what can be asked of a world, `counterexamples` the named ones, `batches` many at once, `statements` the
bounds, `numbers` the constants and the laws that need no world.
"""

from ..divergences import EXACT as DIVERGENCES
from .batches import grid_worlds, random_worlds
from .counterexamples import COUNTEREXAMPLES, calibrated_pairs, rational
from .numbers import (LAMBDA_ALARM, LAMBDA_JS, LAMBDA_TOP, LAMBDA_TV, LN2, TOLERANCE, binormal_auroc, binormal_lambda,
                      clarification_split, fano, js_cost, population_auroc, unseen_share)
from .world import LOSSES, World
