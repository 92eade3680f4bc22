"""Reads records: optima, laws, verdicts and figures. Never imports torch or the trainer."""
