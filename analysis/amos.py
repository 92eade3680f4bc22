"""Whether Amos holds the RMS of weights at the scale that they start with, tensor by tensor."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answer import Answer
from analysis.claims import Verdict
from analysis.figures.amos import draw_amos
from analysis.judge import judge_every
from analysis.laws.amos import Array, amos_adaptive, amos_constant, amos_inverse_time
from analysis.laws.weight_rms_paths import weight_rms_path
from harness.records import PER_TENSOR

TOLERANCE = 0.05
COLUMN = "history.weight_rms."
WALK = "random_walk"
SCALE_OF_VECTORS = 0.5  # Amos's own, harness/optimizers/amos.py


def analyse_amos(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Measured RMS over the recursion's, and over the start, at every point of every matrix, and verdicts.

    Args:
        frame: records of runs with metrics.per_tensor, or rows with a point each, as a committed table has them.
    Raises: ValueError where no run of Amos with such metrics has ended.
    """
    rows = frame[(frame["status"] == "done") & (frame["optimizer.name"] == "amos")].reset_index(drop=True)
    if rows.empty or not ("point.step" in rows.columns or any(name.startswith(COLUMN) for name in rows.columns)):
        raise ValueError("no run of optimizer=amos with metrics.per_tensor=true has ended: sweep=amos has such runs")
    if "point.step" not in rows.columns:
        rows = spread_points(rows)
    table = predict_amos(rows)
    title = question or sweep
    note = (
        "recursion: measured over the recursion's RMS, the worst point; to start: RMS over that at first; loss: "
        "held-out. Embeddings are all rows, most of which are rarely hit"
    )
    figures = {"": partial(draw_amos, table, title)}
    return Answer(sweep, title, "fixed_steps", rows, score_amos(table), note, judge_amos(table), figures)


def spread_points(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows to commit: a point of a run each, columns point.step and point.TENSOR."""
    left_out = ("history.", *(f"{name}." for name in PER_TENSOR))  # once a point would be too much
    names = {name: f"point.{name.removeprefix(COLUMN)}" for name in rows.columns if name.startswith(COLUMN)}
    parts = []
    for _, run in rows.iterrows():
        curves = {new: run[old] for old, new in names.items() if np.ndim(run[old])}
        own = {name: run[name] for name in rows.columns if not name.startswith(left_out)}
        parts.append(pd.DataFrame({**own, "point.step": run["history.step"], **curves}))
    return pd.concat(parts, ignore_index=True)


def predict_amos(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a point and matrix: case, damping, momentum, lr, alignment, step, measured, predicted, start.

    Weights are measured before their step: after `step - 1` steps.
    """
    tensors = [name for name in rows.columns if name.startswith("point.") and name != "point.step"]
    parts = []
    for _, own in rows.groupby("run_id", sort=False):
        run = own.iloc[0]
        taken = own["point.step"].to_numpy(int) - 1
        for tensor in (name.removeprefix("point.") for name in tensors if own[name].notna().any()):
            start = find_start(run, tensor)
            if start is None:
                continue
            lr_T, rho_T = follow_amos(run, int(taken.max()) + 1, start)
            path_T = weight_rms_path(lr_T, rho_T / lr_T, start=start)
            parts.append(pd.DataFrame({
                "run_id": run["run_id"], "case": name_case(run, tensor), "walk": run["task.name"] == WALK,
                "damping": run["optimizer.damping"], "momentum": run["optimizer.momentum"], "lr": run["optimizer.lr"],
                "alignment": np.nan if run["optimizer.damping"] == "adaptive" else run["optimizer.alignment"],
                "loss": np.nan if run["task.name"] == WALK else run.get("loss", np.nan), "step": taken + 1,
                "measured": own[f"point.{tensor}"].to_numpy(float) / start, "predicted": path_T[taken] / start,
            }))  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    return table.assign(ratio=table["measured"] / table["predicted"])


def find_start(run: pd.Series, tensor: str) -> float | None:
    """RMS that a matrix is initialised with, exact on a walk, else torch's to 1 %; None for what has another scale.

        embedding N(0, 1): 1;    linear U(-a, a), a = inputs^(-1/2): a / sqrt(3)

    Source: torch.nn.Embedding, torch.nn.Linear.
    """
    if run["task.name"] == WALK:
        return float(run["task.start"]) if pd.notna(run.get("task.width")) else SCALE_OF_VECTORS
    inputs = {
        "embedding.weight": 1 / 3, "hidden.weight": run["task.context"] * run.get("model.embedding", np.nan),
        "output.weight": run.get("model.hidden", np.nan),
    }  # fmt: skip
    return float((3 * inputs[tensor]) ** -0.5) if tensor in inputs else None


def follow_amos(run: pd.Series, steps: int, scale: float) -> tuple[Array, Array]:
    """lr_t and rho_t of every step for a tensor of that scale."""
    lr, damping = float(run["optimizer.lr"]), run["optimizer.damping"]
    if damping == "adaptive":
        c_coef, d_coef = float(run["optimizer.c_coef"]), float(run["optimizer.d_coef"])
        return amos_adaptive(steps, alpha=lr, scale=scale, c_coef=c_coef, d_coef=d_coef)
    law = amos_constant if damping == "inverse_square" else amos_inverse_time
    return law(np.arange(steps), alpha=lr, cosine=float(run["optimizer.alignment"]), scale=scale)


def name_case(run: pd.Series, tensor: str) -> str:
    if run["task.name"] == WALK:
        return "pure noise"
    task = "text" if run["task.name"] in ("python_source", "text") else run["task.name"]
    return f"{task}, {tensor.removesuffix('.weight')}{', RMSNorm' if run.get('model.norm') else ''}"


def score_amos(table: pd.DataFrame) -> pd.DataFrame:
    """A line a run and matrix."""
    lines = []
    for (case, damping, momentum, lr, alignment), rows in table.groupby(
        ["case", "damping", "momentum", "lr", "alignment"], sort=False, dropna=False
    ):
        ratio = rows["ratio"].to_numpy(float)
        last = rows.sort_values("step").iloc[-1]
        lines.append({
            "case": case, "damping": damping, "momentum": momentum, "lr": lr, "alignment": alignment,
            "recursion": ratio[np.argmax(np.abs(np.log(ratio)))], "lowest to start": rows["measured"].min(),
            "last to start": last["measured"], "predicted": last["predicted"], "loss": last["loss"],
        })  # fmt: skip
    return pd.DataFrame(lines)


def judge_amos(table: pd.DataFrame) -> list[Verdict]:
    """Claims amos (the recursion) and amos-constant (RMS stays at its start), a verdict a case and damping.

    Valid when: gradients are noise that is independent in time, in many entries of one tensor.
    Source: kexue.fm/archives/9344 (constant); the recursion is this project's own.
    """
    verdicts = []
    for (case, damping), rows in table.groupby(["case", "damping"], sort=False):
        group = {"case": case, "optimizer.damping": damping}
        what = "RMS of weights over the recursion's"
        verdicts.append(judge_every("amos", "fixed_steps", group, rows["ratio"], TOLERANCE, what, "point"))
        what = "RMS of weights over that at first"
        verdicts.append(judge_every("amos-constant", "fixed_steps", group, rows["measured"], TOLERANCE, what, "point"))
    return verdicts
