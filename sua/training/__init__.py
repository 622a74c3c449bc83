"""Training: `objectives` says what is minimised, `data` what is seen on the way, `trainer` does it."""
