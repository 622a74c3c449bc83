"""What only notebooks and make need: experiments, the runner of stages, reports, the ledger of claims, downloads."""
