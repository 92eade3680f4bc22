"""The answer of a sweep of probed checkpoints: scores, verdicts, figures and the committed table."""

from functools import partial
from pathlib import Path

import pandas as pd

from analysis.answer import Answer, Draw
from analysis.figures.noise_scale import draw_probed
from analysis.figures.one_step import draw_forms, draw_scores
from analysis.one_step import keys_of, label_checkpoint, score_forms, spread_probes
from analysis.probe_claims import check_probes
from harness.records import PROBES, probe_path


def analyse_probes(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Predict, score and judge.

    Args:
        folder: of the records, where the arrays are that closed forms are made from.
    Raises: ValueError where no checkpoint has ended.
    """
    rows = spread_probes(frame, folder)
    keys = keys_of(rows)
    title = question or sweep
    figures: dict[str, Draw] = {
        "": partial(draw_scores, rows, title), "noise_scale": partial(draw_probed, rows, frame, title),
    }  # fmt: skip
    for run, part in rows.groupby("run_id", sort=False):
        label = label_checkpoint({key: part[key].iloc[0] for key in keys}) if len(rows["run_id"].unique()) > 1 else run
        figures[str(label).replace(", ", "-").replace(" ", "-")] = partial(draw_forms, part, title)
    note = "median, worst: predicted over measured learning rate, batch sizes from 16 that are scored"
    runs = rows["run_id"].unique()
    if lacking := sum(folder is not None and not probe_path(folder, str(run)).exists() for run in runs):
        note += f"; {lacking} of {len(runs)} checkpoints lack their arrays in {PROBES}/, and the forms made from them"
    order = [*keys, "probe.optimizer", "probe.batch_size"]
    scores = label_scores(score_forms(rows, keys), keys)
    return Answer(
        sweep, title, "one_step", rows.sort_values(order, kind="stable"), scores, note, check_probes(rows), figures,
        label_checkpoint,
    )  # fmt: skip


def label_scores(scores: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Scores with one column, `checkpoint`, in place of those that tell checkpoints apart."""
    if scores.empty:
        return scores

    labels = [label_checkpoint({key: row[key] for key in keys}) for _, row in scores.iterrows()]
    labelled = scores.drop(columns=keys)
    labelled.insert(0, "checkpoint", labels)
    return labelled
