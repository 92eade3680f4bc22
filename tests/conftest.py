"""Runs that many tests need."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.config import RunConfig, make_run_config
from harness.corpus import read_corpus

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunConfig]:
    """A small ngram run; parts are merged into the defaults, other keywords replace them."""
    defaults: dict[str, Any] = {
        "task": {"name": "python_source", "context": 8, "num_heldout": 2048},
        "model": {"name": "ngram", "embedding": 16, "hidden": 64, "norm": False},
        "optimizer": {"name": "adam", "lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
        "schedule": {"name": "linear", "warmup": 0.0},
        "protocol": "fixed_samples",
        "num_samples": 1024,
        "num_steps": None,
        "batch_size": 8,
        "seed": 0,
        "precision": "float32",
    }
    defaults["task"]["corpus_sha256"] = read_corpus(defaults["task"]).sha256

    def make(**changed: Any) -> RunConfig:
        values = dict(defaults)
        for key, value in changed.items():
            named = isinstance(value, dict) and "name" not in value
            values[key] = {**values.get(key, {}), **value} if named else value
        return make_run_config(values)

    return make
