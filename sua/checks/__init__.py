"""Checks of student code (notebooks/assignments): each raises an AssertionError that names the likely mistake.

A check calls the student's function on fresh random cases beside sua's own. Where the two differ it tries the known
mistakes: the one that returns what the student's function returned is named. A check that passes is silent.
"""

from .a1 import auroc, divergence, entropy, softmax
from .a2 import bound, counterexample, excused_move, of_world, rare_rewording
from .a3 import collapse, decomposition, detection, error_rates, mixture, sister_world, verdict
from .a4 import (certify, error_free_items, log_probabilities, mixing_share, naive_threshold, p_value, removable,
                 repaired_terms, share_broken, sua_tr_terms, upper_limit)
from .shared import compare, distributions, score

__all__ = ["auroc", "bound", "certify", "collapse", "compare", "counterexample", "decomposition", "detection",
           "distributions", "divergence", "entropy", "error_free_items", "error_rates", "excused_move",
           "log_probabilities", "mixing_share", "mixture", "naive_threshold", "of_world", "p_value", "rare_rewording",
           "removable", "repaired_terms", "score", "share_broken", "sister_world", "softmax", "sua_tr_terms",
           "upper_limit", "verdict"]
