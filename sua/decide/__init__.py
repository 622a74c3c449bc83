"""What to do with a score: abstain with a guarantee, certify without labels, sort items into the four regimes."""
