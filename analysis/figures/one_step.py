"""Figures of probed checkpoints: measured best learning rates, every form as a line, and scores."""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import (
    FAINT,
    INK,
    PALETTE,
    SCREEN,
    Style,
    measure_caption,
    measure_heading,
    use_round_numbers,
    write_caption,
    write_heading,
)
from analysis.one_step import MAX_ERROR, MAX_LR_ERROR, keys_of, label_checkpoint, score_forms, select_scored

SHOWN = ("sgd", "sgd_momentum_0.9", "signsgd", "softsign_0.03", "adam_0", "adam_0.9", "muon")
FORM_COLOURS = {
    "sampled": PALETTE[0], "third": PALETTE[2], "closed": PALETTE[1], "correlated": PALETTE[1],
    "independent": PALETTE[3], "mean_field": PALETTE[4], "no_momentum": PALETTE[3], "article": PALETTE[5],
}  # fmt: skip
PANEL, GAP, LEFT, RIGHT, BELOW = (2.1, 1.75), (0.55, 0.85), 0.75, 1.7, 0.6  # inches before the style's scale


def draw_forms(rows: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """A row a checkpoint, a column an optimizer: measured optima with 95 % bars, and a line a form."""
    keys = keys_of(rows)
    names = [name for name in SHOWN if (rows["probe.optimizer"] == name).any()]
    checkpoints = list(rows.groupby(keys, sort=False, dropna=False))
    protocol = f"protocol one_step · {rows['run_id'].nunique()} checkpoints · "
    errors = f"E[u.g] has an error above {MAX_ERROR:.0%} or η* one above {MAX_LR_ERROR:.0%}"
    caption = f"{protocol}bars: 95 % intervals · hollow: {errors}, not scored"
    width = LEFT + len(names) * (PANEL[0] + GAP[0]) + RIGHT
    above, below = measure_heading(title, style) + 0.2, BELOW + measure_caption(caption, width, style)
    height = above + len(checkpoints) * (PANEL[1] + GAP[1]) + below - GAP[1]
    fig = Figure(figsize=(style.scale * width, style.scale * height))
    write_heading(fig, title, style)
    write_caption(fig, caption, style)
    drawn: dict[str, Line2D] = {}
    for i, (values, group) in enumerate(checkpoints):
        values = values if isinstance(values, tuple) else (values,)
        for j, name in enumerate(names):
            x = LEFT + j * (PANEL[0] + GAP[0])
            y = height - above - PANEL[1] - i * (PANEL[1] + GAP[1])
            ax = fig.add_axes((x / width, y / height, PANEL[0] / width, PANEL[1] / height))
            drawn |= draw_optimizer(ax, group[group["probe.optimizer"] == name])
            heading = f"{label_checkpoint(dict(zip(keys, values, strict=True)))}\n" if j == 0 else ""
            ax.set_title(heading + name)
            ax.set_xlabel("batch size" if i == len(checkpoints) - 1 else "")
            ax.set_ylabel("best learning rate η*" if j == 0 else "")
    handles = [Line2D([], [], color=line.get_color(), lw=1.4, label=form) for form, line in drawn.items()]
    handles.insert(0, Line2D([], [], color=INK, marker="o", ls="", ms=4, label="measured"))
    legend = fig.legend(handles=handles, title="form", loc="upper right",
                        bbox_to_anchor=(1 - 0.1 / width, 1 - above / height))  # fmt: skip
    legend.set_alignment("left")
    return fig


def draw_optimizer(ax: Axes, rows: pd.DataFrame) -> dict[str, Line2D]:
    """One panel; returns a line a form."""
    known = rows[rows["probe.lr"].notna()]
    scored = set(select_scored(rows).index)
    lines = {}
    for form, colour in FORM_COLOURS.items():
        column = f"predicted.{form}"
        if column in rows.columns and rows[column].notna().any():
            dashes = "--" if form in ("independent", "mean_field", "article", "no_momentum") else "-"
            (lines[form],) = ax.plot(rows["probe.batch_size"], rows[column], dashes, color=colour, lw=1.1, zorder=2)
    for index, row in known.iterrows():
        half = np.exp(1.96 * row["probe.lr_se"])
        x, y = row["probe.batch_size"], row["probe.lr"]
        ax.plot([x, x], [y / half, y * half], "-", color=INK, lw=1.1, zorder=3)
        ax.plot(x, y, "o", ms=3.5, mfc=INK if index in scored else "white", mec=INK, zorder=4)
    ax.set_xscale("log")
    ax.set_xticks([1, 16, 256, 4096], ["1", "16", "256", "4096"])
    ax.minorticks_off()
    if len(known):
        low, high = float(known["probe.lr"].min()) / 4, float(known["probe.lr"].max()) * 8
        use_round_numbers(ax.yaxis, low, high, most=5, label="{:.2g}".format)
        ax.set_ylim(low, high)
    return lines


def draw_scores(rows: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """Median of predicted over measured, a row an optimizer and form, a column a checkpoint."""
    keys = keys_of(rows)
    scores = score_forms(rows, keys)
    scores["checkpoint"] = [label_checkpoint({key: row[key] for key in keys}) for _, row in scores.iterrows()]
    columns = list(dict.fromkeys(scores["checkpoint"]))
    names = list(dict.fromkeys(zip(scores["optimizer"], scores["form"], strict=True)))
    names.sort(key=lambda pair: list(dict.fromkeys(scores["optimizer"])).index(pair[0]))
    caption = (
        f"protocol one_step · {rows['run_id'].nunique()} checkpoints · predicted over measured best learning rate, "
        "median over batch sizes from 16 that are scored; no parameter is fitted"
    )
    cell, left, right = (0.95, 0.235), 2.6, 0.3
    width = max(left + cell[0] * len(columns) + right, 7.5)
    title = textwrap.fill(title, int(9 * width))
    head = 0.16 * max(text.count(",") + 1 for text in columns) + 0.15
    above, below = measure_heading(title, style) + head, 0.1 + measure_caption(caption, width, style)
    height = above + cell[1] * len(names) + below
    fig = Figure(figsize=(style.scale * width, style.scale * height))
    write_heading(fig, title, style)
    write_caption(fig, caption, style)
    ax = fig.add_axes((left / width, below / height, cell[0] * len(columns) / width, cell[1] * len(names) / height))
    grid = np.full((len(names), len(columns)), np.nan)
    for _, row in scores.iterrows():
        grid[names.index((row["optimizer"], row["form"])), columns.index(row["checkpoint"])] = row["median"]
    shown = np.clip(np.log2(grid), -3, 3)
    ax.imshow(shown, aspect="auto", cmap=mpl.colormaps["PuOr"], norm=TwoSlopeNorm(0, -3, 3))
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if abs(shown[i, j]) > 2 else INK
            ax.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize="small", color=colour)
    ax.set_xticks(range(len(columns)), [text.replace(", ", "\n") for text in columns])
    ax.set_yticks(range(len(names)), [f"{name}: {form}" for name, form in names])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for i in range(1, len(names)):
        if names[i][0] != names[i - 1][0]:
            ax.axhline(i - 0.5, color=FAINT, lw=0.8)
    return fig
