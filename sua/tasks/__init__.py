"""Tasks: labelled inputs in named splits and one schema, from a generated world, a local mirror or the hub.

Columns of every split: `id`, `text` (and `text_pair` for pairs, `options` for multiple choice), `label`, and where they
are known `label_dist` (p*(y|x) or shares of human votes), `clarified` texts (one per reading) and their `weights`.
Splits: train, validation (to choose hyperparameters), calibration (to choose lambda, temperatures
and thresholds) and test (scored once).

`task` has the schema, `load` the registry of tasks by name, `hub` the sets of the Hugging Face hub and their mirrors,
`recorded` sets that are no training task, `worlds` the generators.
"""

from ..inputs import clarifications, inputs
from .hub import HUB_SETS, HUB_TASKS, MULTI_NLI, SNLI, HubSet, HubTask, hub_rows
from .load import load_task
from .task import SPLITS, Task
