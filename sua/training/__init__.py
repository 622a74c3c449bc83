"""Training: `objectives` says what is minimised, `trainer` does it."""
