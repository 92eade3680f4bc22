"""What a sweep says as tables of plain values: fits, cells, verdicts, and weight RMS against its law."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.analyse import Analysis, clean
from analysis.claims import Verdict, show_measured
from analysis.groups import label_group
from analysis.objectives import OBJECTIVE
from analysis.weight_rms import predict_weight_rms

PREDICTED_FROM = ("schedule.name", "optimizer.weight_decay", "optimizer.name", "task.name", "num_steps", "weight_rms")


def tabulate(entries: object) -> pd.DataFrame:
    assert isinstance(entries, list)
    return pd.DataFrame(entries)


def tabulate_fits(entries: object) -> pd.DataFrame:
    """A row a law and parameter, with its interval, and the law's criteria beside each."""
    assert isinstance(entries, list)
    rows = []
    for entry in entries:
        rest = {name: x for name, x in entry.items() if name not in ("params", "notes", "law")}
        for name, estimate in entry["params"].items():
            rows.append({"law": entry["law"], "parameter": name, **estimate, **rest})
    return pd.DataFrame(rows)


def tabulate_verdicts(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A row a verdict; `measured` as the scoreboard shows it."""
    return pd.DataFrame(
        [
            {"claim": v.claim, "group": label_group(v.group), "protocol": v.protocol, "verdict": v.verdict,
             "measured": show_measured(v), "predicted": v.numbers.get("predicted"), "reason": v.reason, "rule": v.rule}
            for v in verdicts
        ]
    )  # fmt: skip


def tabulate_cells(analysis: Analysis) -> pd.DataFrame:
    """A row a group, batch size and learning rate: mean and standard deviation of what is compared over its seeds.

    The mean is of seeds that ended there; where one diverged or was censored it is empty.
    """
    runs = analysis.runs
    if not analysis.groups:
        return pd.DataFrame(columns=["group", "batch_size", "lr", "mean", "sd", "num_seeds", "num_diverged"])
    rows = []
    for values, own in runs.frame.groupby([*runs.groups, "batch_size", "optimizer.lr"], dropna=False):
        group = dict(zip(runs.groups, values[:-2], strict=True))
        losses = own[OBJECTIVE].to_numpy(float)
        finite = bool(np.isfinite(losses).all())
        sd = float(losses.std(ddof=1)) if finite and len(losses) > 1 else None
        rows.append({
            "group": label_group(group), "batch_size": int(own["batch_size"].iloc[0]),
            "lr": float(own["optimizer.lr"].iloc[0]), "mean": float(losses.mean()) if finite else None, "sd": sd,
            "num_seeds": len(losses), "num_diverged": int((own["status"] == "diverged").sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def tabulate_weight_rms(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a run and tensor: weight RMS against its law, which speaks of weight decay at a constant learning rate."""
    if not set(PREDICTED_FROM) <= set(frame.columns):
        return pd.DataFrame()
    rows = frame[(frame["status"] == "done") & (frame["schedule.name"] == "constant")]
    rows = rows[rows["optimizer.weight_decay"] > 0].reset_index(drop=True)
    if rows.empty:
        return pd.DataFrame()
    table = predict_weight_rms(rows)
    table["predicted"] = table["static"].fillna(table["equilibrium"])
    kept = [
        "run_id",
        "case",
        "optimizer",
        "tensor",
        "batch_size",
        "lr",
        "weight_decay",
        "predicted",
        "measured",
        "settled",
    ]
    return table[kept].dropna(subset=["predicted", "measured"]).reset_index(drop=True)


def to_rows(table: pd.DataFrame) -> list[list[object]]:
    """Rows of plain values; lists and mappings as text, since a column of W&B's has one type."""
    rows = clean(table.astype(object).where(table.notna(), None).to_numpy().tolist())
    assert isinstance(rows, list)
    return [[str(x) if isinstance(x, list | dict) else x for x in row] for row in rows]
