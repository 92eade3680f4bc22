"""What the final model remembers of each part of its run, against what weight decay and learning rate left of it."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answer import Answer
from analysis.figures.memory import draw_memory
from analysis.memory_claims import halve, judge_curvature, judge_memory, judge_uniform, show_rate
from analysis.memory_fit import Cell, fit_extra, fit_multiple
from analysis.weight_rms_path import follow_schedule, name_schedule
from harness.schedules import SCHEDULES

KEPT = ("run_id", "status", "protocol", "seed", "batch_size", "num_steps", "task.name", "model.name", "optimizer.name",
        "optimizer.lr", "optimizer.beta1", "optimizer.beta2", "optimizer.weight_decay", "loss", "task.dimension",
        "task.num_inputs", "task.power", "task.label_noise", "model.hidden", "model.depth",
        "num_samples", "precision")  # fmt: skip
BINS = {"memory.step": "bin.step", "memory.loss": "bin.loss", "memory.unseen_loss": "bin.unseen_loss"}


def analyse_memory(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Memory of every bin of every run beside the law's weight, and verdicts by task, batch size and schedule.

    Args:
        frame: records with the columns of metrics.memory, or rows with a bin each, as a committed table has them.
    Raises: ValueError where no run of AdamW with them has ended.
    """
    rows = frame[(frame["status"] == "done") & (frame["optimizer.name"] == "adamw")]
    if "bin.step" not in rows.columns and "memory.step" in rows.columns:
        rows = rows[rows["memory.step"].notna()]
        rows = rows.rename(columns=BINS).explode(list(BINS.values()), ignore_index=True)
    if rows.empty or "bin.step" not in rows.columns:
        raise ValueError("no run of optimizer=adamw metrics.memory=true has ended: sweep=memory has such runs")
    kept = [name for name in rows.columns if name in KEPT or str(name).startswith(("schedule.", "bin."))]
    rows = rows[kept].astype({"bin.step": int, "bin.loss": float, "bin.unseen_loss": float}).reset_index(drop=True)
    table = measure_bins(rows)
    cells = gather_seeds(table)
    title = question or sweep
    note = (
        "case: task, batch size; memory: loss on unseen samples less that on a bin's own, of the final model; multiple "
        "of weight decay that memory falls by (law: 1); ρ: what forgets beside weight decay, one for all schedules; "
        "first/second: memory of the first half of the run over that of the second"
    )
    verdicts = [*judge_memory(cells), *judge_uniform(cells), *judge_curvature(cells)]
    figures = {"": partial(draw_memory, table, cells, title)}
    return Answer(sweep, title, "fixed_steps", rows, score_memory(cells), note, verdicts, figures)


def measure_bins(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a run and bin: case (task and batch size), schedule, weight_decay, kappa, seed, step, share of the run,
    memory, and its noise from the scatter of the run's bins of unseen samples.
    """
    parts = []
    for run_id, own in rows.groupby("run_id", sort=False):
        run, own = own.iloc[0], own.sort_values("bin.step")
        lr_T, decay_T = follow_schedule(run)
        unseen = own["bin.unseen_loss"].to_numpy()
        ends = own["bin.step"].to_numpy()
        starts = np.concatenate([[0], ends[:-1]])
        part = pd.DataFrame({
            "run_id": run_id, "task.name": run["task.name"], "batch_size": int(run["batch_size"]),
            "schedule": name_schedule(run), "weight_decay": float(run["optimizer.weight_decay"]),
            "kappa": float(np.sum(lr_T * decay_T)), "seed": int(run["seed"]), "step": ends,
            "share": (starts + ends) / 2 / ends[-1], "memory": unseen.mean() - own["bin.loss"].to_numpy(),
            "noise": unseen.std(ddof=1), "beta1": float(run["optimizer.beta1"]),
        })  # fmt: skip
        for name, path_T in (("lr_T", lr_T), ("decay_T", decay_T)):
            part[name] = pd.Series([path_T] * len(own), dtype=object)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def gather_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """A row a task, batch size, schedule and weight decay: kappa and the Cell of its seeds."""
    lines = []
    keys = ["task.name", "batch_size", "schedule", "weight_decay"]
    for key, own in table.groupby(keys, sort=False):
        first, seeds = own.iloc[0], own["seed"].nunique()
        measured_SJ = own.pivot_table(index="seed", columns="step", values="memory")
        noise = float(np.sqrt((own.groupby("seed")["noise"].first() ** 2).mean()))
        names = tuple(int(seed) for seed in measured_SJ.index)
        cell = Cell(
            first["lr_T"], first["decay_T"], first["beta1"], names, measured_SJ.to_numpy(), noise, first["schedule"]
        )
        shares = np.sort(own["share"].unique())
        line = dict(zip(keys, key, strict=True))
        lines.append(line | {"kappa": first["kappa"], "seeds": seeds, "shares": shares, "cell": cell})
    cells = pd.DataFrame(lines)
    order = [list(SCHEDULES).index(name) if name in SCHEDULES else len(SCHEDULES) for name in cells["schedule"]]
    cells = cells.assign(order=order).sort_values(["task.name", "batch_size", "order", "kappa"], kind="stable")
    return cells.drop(columns="order").reset_index(drop=True)


def score_memory(cells: pd.DataFrame) -> pd.DataFrame:
    """A line a task, batch size, schedule and kappa; below, a line a task and batch size of all its schedules."""
    lines = []
    for _, row in cells.iterrows():
        cell = row["cell"]
        half = len(cell.measured_J) // 2
        lines.append({
            "case": name_case(row), "schedule": row["schedule"], "kappa": row["kappa"], "seeds": row["seeds"],
            "memory": cell.measured_J.mean(), "noise": cell.error,
            "correlation": float(np.corrcoef(cell.measured_J, cell.weights(cell.decay_T))[0, 1]),
            "multiple": show_rate(fit_multiple([cell])),
            "first/second": cell.measured_J[:half].sum() / cell.measured_J[half:].sum(),
            "law": halve(cell),
        })  # fmt: skip
    for _, own in cells.groupby(["task.name", "batch_size"], sort=False):
        line = {"case": name_case(own.iloc[0]), "schedule": "all, ρ added", "seeds": own["seeds"].max()}
        lines.append(line | {"multiple": f"ρ {show_rate(fit_extra(list(own['cell'])))}"})
    return pd.DataFrame(lines)


def name_case(row: pd.Series) -> str:
    return f"{row['task.name']}, {row['batch_size']}"
