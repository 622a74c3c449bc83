"""Models: anything with `predict_proba(inputs) -> (N, C)` probabilities, and ways to get one.

`callable` wraps a function, `encoder` a sequence classifier of transformers, `choice` a causal language model that
chooses among options, `remote` one behind an API, with prompts and readings in `letters` and `verbalised`; `orbit` and
`debiasing` wrap any of them, to answer by the mean over an input's variants or without a bias towards options. `load`
finds weights in a folder, a mirror or the hub, `tiny` makes small untrained ones, and `common` has what they share.
Free-form answers are in `sua.generation`.
"""
