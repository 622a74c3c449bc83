"""Perturbation kernels Pi(.|x): seeded samplers of inputs that mean the same, and an audit that they do.

No kernel negates, swaps in antonyms or deletes content words. The draws for an input depend on the seed and the input
alone, not on its neighbours. A new kernel of texts goes to `text`, one of how a question is put to `prompts`; by name
they are found in KERNELS.
"""

from ..inputs import LETTERS, Input, has_options, lettered, option_columns
from .audit import Audit, audit
from .kernel import RETRIES, Perturbation, given, mixture, on_first, repeats, variants
from .prompts import FRAMING, OPTION_ORDER, Formulations, Prompt, formulations, instructions
from .text import SURFACE, TYPOS, synonyms

KERNELS: dict[str, Perturbation] = {kernel.name: kernel for kernel in (TYPOS, SURFACE, FRAMING)}
