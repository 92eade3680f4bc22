"""What a sweep says as charts of lines: plain points, drawn by whoever shows them."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.analyse import Analysis

MOST_CHARTS = 12  # of loss against lr, one a group; the table `cells` has all groups


@dataclass(frozen=True)
class Chart:
    """Lines of one chart; both axes may be base-2 logarithms, since W&B's own chart of many lines has linear axes.

    Attributes:
        key: its name in W&B; the table behind it is KEY_table.
        points: columns x, line, y.
    """

    key: str
    title: str
    x: str
    y: str
    points: pd.DataFrame


def chart_optima(analysis: Analysis) -> list[Chart]:
    """Best learning rate against batch size and both ends of its interval, a line each, of cells that are located."""
    parts: list[tuple[float, str, float]] = []
    for answer in analysis.groups:
        label = f"{answer.label} " * bool(answer.label)
        for name in ("lr", "low", "high"):
            found = [(o.batch_size, getattr(o, name)) for o in answer.optima if o.status == "interior"]
            parts += [(np.log2(x), f"{label}{name}", np.log2(y)) for x, y in found if np.isfinite(y) and y > 0]
    points = pd.DataFrame(parts, columns=["x", "line", "y"])
    title = "Best learning rate against batch size, with its 95 % interval"
    return [Chart("optimum_by_batch_size", title, "log2 batch_size", "log2 lr", points)] if parts else []


def chart_losses(cells: pd.DataFrame, what: str) -> list[Chart]:
    """Loss against learning rate, seeds averaged, a line a batch size; a chart a group."""
    charts: dict[str, Chart] = {}
    for label, own in cells.dropna(subset=["mean"]).groupby("group", sort=False):
        if len(charts) == MOST_CHARTS:
            break
        key = "loss_by_lr" if cells["group"].nunique() == 1 else f"loss_by_lr_{name_key(str(label))}"
        key = key if key not in charts else f"{key}_{len(charts)}"
        lines = "batch_size " + own["batch_size"].astype(str)
        points = pd.DataFrame({"x": np.log2(own["lr"]), "line": lines, "y": own["mean"]}).reset_index(drop=True)
        title = f"{what} against learning rate{', ' * bool(label)}{label}, seeds averaged"
        charts[key] = Chart(key, title, "log2 lr", what, points)
    return list(charts.values())


def chart_weight_rms(table: pd.DataFrame) -> list[Chart]:
    """Measured against predicted RMS of weights, tensor by tensor, and the line on which both are the same."""
    if table.empty or not table["settled"].any():
        return []
    own = table[table["settled"]].sort_values("predicted", kind="stable")
    lines = own["case"] + ", " + own["optimizer"] + ", " + own["tensor"]
    points = pd.DataFrame({"x": np.log2(own["predicted"]), "line": lines, "y": np.log2(own["measured"])})
    ends = points["x"].iloc[[0, -1]]
    same = pd.DataFrame({"x": ends, "line": "predicted", "y": ends})
    points = pd.concat([same, points], ignore_index=True)
    title = "RMS of weights against its law"
    return [Chart("weight_rms_by_prediction", title, "log2 predicted", "log2 weight_rms", points)]


def name_key(label: str) -> str:
    """A label as letters, digits and underscores, which is what names in W&B's queries may have."""
    return re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_")
