"""Every bound of the paper as printed, and every bound that replaces it, as a function of a `sua.theory.World`.

A statement returns a chain of quantities, (...) or per input (..., N) or per pair (..., N, N), which, it claims, never
decreases. `PRINTED` holds those of arXiv 2604.20903v1 (quoted from secondary sources), with kappa = c_b = 0, which
every natural definition of the two allows in the counterexamples. `REPAIRED` holds those that are true; a docstring
gives the proof in a line, and the number of the theorem in this companion.

Notation: R risk, a = 1 - max p, G = 1 - sum p^2, m = margin, F = flip rate, S_D = E_{x'~Pi} D(p(x), p(x')), H = entropy
in nats, H_bits = H / ln 2. `needs` of a statement: "preserving" (p* constant on N(x)), "exchangeable" (the pair (x, x')
~ P Pi has a symmetric law, as after pooling x with its variants), "calibrated" (p = E[p*|p]).
"""

from .chain import Search, search, slack
from .formulations import REPAIRED  # Theorems 15 to 17 come after those of `repaired`
from .printed import PRINTED
