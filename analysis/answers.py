"""Kinds of answers to sweeps that are not about an optimum learning rate, by the word in their YAML, `sweep.answer`."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from analysis.amos import analyse_amos
from analysis.answer import Answer
from analysis.embedding_rms import analyse_embedding_rms
from analysis.lr_vs_size import analyse_lr_vs_size
from analysis.memory import analyse_memory
from analysis.one_step import is_probed
from analysis.probes import analyse_probes
from analysis.second_moment import analyse_second_moment
from analysis.update_rms import analyse_update_rms
from analysis.weight_decay import analyse_weight_decay
from analysis.weight_rms import analyse_weight_rms
from analysis.weight_rms_path import analyse_weight_rms_path
from harness.checks import check_choice
from harness.config import SWEEPS_DIR

Analyse = Callable[[str, pd.DataFrame, str, Path | None], Answer]  # (sweep, frame, question, folder of records)


def choose_answer(name: str, frame: pd.DataFrame, kind: str | None = None) -> Analyse | None:
    """How a table is analysed; None: by optimum learning rates.

    Args:
        kind: one of ANSWERS; None: what sweeps/NAME.yaml says, or what the columns say.
    Raises: ValueError for a kind that there is not.
    """
    path = SWEEPS_DIR / f"{name}.yaml"
    if kind is None and path.exists():
        kind = OmegaConf.select(OmegaConf.load(path), "sweep.answer")
    if kind is None:
        kind = "one_step" if is_probed(frame) else "optimum"
    check_choice("sweep.answer", kind, [*ANSWERS, "optimum"])
    return ANSWERS.get(kind)


ANSWERS: dict[str, Analyse] = {
    "amos": analyse_amos,
    "embedding_rms": analyse_embedding_rms,
    "lr_vs_size": analyse_lr_vs_size,
    "memory": analyse_memory,
    "one_step": analyse_probes,
    "second_moment": analyse_second_moment,
    "update_rms": analyse_update_rms,
    "weight_decay": analyse_weight_decay,
    "weight_rms": analyse_weight_rms,
    "weight_rms_path": analyse_weight_rms_path,
}
