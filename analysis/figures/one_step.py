"""Figures of probed checkpoints: measured best learning rates, every form as a line, and scores."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import (
    FAINT,
    HEADLINE,
    INK,
    NARROW,
    PALETTE,
    SCREEN,
    Style,
    count_letters,
    fold,
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
    "independent": PALETTE[3], "mean_field": PALETTE[4], "no_momentum": PALETTE[6], "article": PALETTE[5],
}  # fmt: skip
MEANING = {
    "sampled": "sampled: u.g / u.Hu", "third": "third: with the third derivative", "closed": "closed: SGD's",
    "correlated": "correlated noise", "independent": "independent coordinates", "mean_field": "mean field",
    "no_momentum": "without its momentum", "article": "article's soft sign",
}  # fmt: skip
PANEL, GAP, LEFT, RIGHT, BELOW = (3.0, 2.1), (0.75, 0.95), 0.95, 0.2, 0.6  # inches before the style's scale
COLUMNS = 3


def draw_forms(rows: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """A panel an optimizer of one checkpoint: measured optima with 95 % bars, and a line a form.

    Args:
        rows: of one checkpoint.
    """
    names = [name for name in SHOWN if (rows["probe.optimizer"] == name).any()]
    first = rows.iloc[0]
    keys = [key for key in ("task.name", "num_steps", "permute_samples") if key in rows.columns]
    checkpoint = label_checkpoint({key: first[key] for key in keys})
    errors = f"E[u.g] has an error above {MAX_ERROR:.0%} or η* one above {MAX_LR_ERROR:.0%}"
    caption = f"protocol one_step · {checkpoint} · bars: 95 % intervals · hollow: {errors}, not scored"
    columns = 1 if style.narrow else min(COLUMNS, len(names) + 1)
    lines = -(-(len(names) + 1) // columns)  # the legend takes a panel's place
    width = LEFT + columns * PANEL[0] + (columns - 1) * GAP[0] + RIGHT if columns > 1 else NARROW
    title = fold(title, count_letters(style.scale * width, HEADLINE, bold=True))
    above, below = measure_heading(title, style), BELOW + measure_caption(caption, width, style)
    height = above + lines * (PANEL[1] + GAP[1]) - GAP[1] + below
    fig = Figure(figsize=(style.scale * width, style.scale * height))
    write_heading(fig, title, style)
    write_caption(fig, caption, style)
    drawn: dict[str, Line2D] = {}
    places = [(LEFT + j * (PANEL[0] + GAP[0]), height - above - PANEL[1] - i * (PANEL[1] + GAP[1]))
              for i in range(lines) for j in range(columns)]  # fmt: skip
    for k, (name, (x, y)) in enumerate(zip(names, places, strict=False)):
        ax = fig.add_axes((x / width, y / height, PANEL[0] / width, PANEL[1] / height))
        drawn |= draw_optimizer(ax, rows[rows["probe.optimizer"] == name])
        ax.set_title(name)
        ax.set_xlabel("batch size" if k + columns >= len(names) else "")
        ax.set_ylabel("best learning rate η*" if k % columns == 0 else "")
    drawn = {form: drawn[form] for form in FORM_COLOURS if form in drawn}
    handles = [Line2D([], [], color=line.get_color(), ls=line.get_linestyle(), lw=line.get_linewidth() + 0.3,
                      alpha=line.get_alpha(), label=MEANING.get(form, form))
               for form, line in drawn.items()]  # fmt: skip
    handles.insert(0, Line2D([], [], color=INK, marker="o", ls="", ms=4, label="measured"))
    x, y = places[len(names)]
    legend = fig.legend(handles=handles, title="what predicts it (form)", loc="upper left",
                        bbox_to_anchor=(x / width - 0.02, (y + PANEL[1]) / height))  # fmt: skip
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
            wide = form == "sampled"  # beneath the others, which it lies under where it is right
            (lines[form],) = ax.plot(
                rows["probe.batch_size"], rows[column], dashes, color=colour, lw=3.5 if wide else 1.2,
                alpha=0.35 if wide else 1.0, zorder=2,
            )  # fmt: skip
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
    names = [pair for pair in names if pair[0] in SHOWN and pair[1] != "gauss_newton"]
    names.sort(key=lambda pair: list(dict.fromkeys(scores["optimizer"])).index(pair[0]))
    caption = (
        f"protocol one_step · {rows['run_id'].nunique()} checkpoints · predicted over measured best learning rate, "
        "median over batch sizes from 16 that are scored; no parameter is fitted · other optimizers and forms are in "
        "the JSON"
    )
    cell, left, right = (1.2, 0.27), 2.75, 0.3
    width = max(left + cell[0] * len(columns) + right, 7.5)
    title = fold(title, count_letters(style.scale * width, HEADLINE, bold=True))
    head = 0.16 * max(text.count(",") + 1 for text in columns) + 0.15
    above, below = measure_heading(title, style) + head, 0.1 + measure_caption(caption, width, style)
    height = above + cell[1] * len(names) + below
    fig = Figure(figsize=(style.scale * width, style.scale * height))
    write_heading(fig, title, style)
    write_caption(fig, caption, style)
    ax = fig.add_axes((left / width, below / height, cell[0] * len(columns) / width, cell[1] * len(names) / height))
    grid = np.full((len(names), len(columns)), np.nan)
    for _, row in scores.iterrows():
        if (row["optimizer"], row["form"]) in names:
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
