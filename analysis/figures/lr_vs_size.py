"""Figure of the best learning rate against width: loss by learning rate for each parametrization, and the optima."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import (
    INK,
    MARKERS,
    PALETTE,
    SCREEN,
    Style,
    lay_out,
    name_loss_unit,
    place_legend,
    use_round_numbers,
)


def draw_lr_vs_size(
    rows: pd.DataFrame,
    table: pd.DataFrame,
    exponents: dict[str, tuple[float, float, float]],
    title: str,
    style: Style = SCREEN,
) -> Figure:
    """A panel a parametrization with a colour a width, and one of the optima with a marker a parametrization.

    Args:
        rows, table, exponents: of analysis/lr_vs_size.py.
    """
    kinds = list(dict.fromkeys(table["parametrization"]))
    caption = (
        f"protocol {rows['protocol'].iloc[0]} · {len(rows)} runs of model gpt · curves: mean over seeds · right: best "
        "learning rates with 95 % intervals, hollow where at an edge of the grid; lines: fitted powers of width"
    )
    lefts = [0.75 + 5.2 * i for i in range(len(kinds) + 1)]
    fig, [[*panels, last]] = lay_out(1, title, caption, lefts, style, width=lefts[-1] + 6.7)
    colours = dict(zip(sorted(table["width"].unique()), PALETTE, strict=False))
    done = rows[rows["status"] == "done"]
    rates = done["optimizer.lr"]
    for ax, kind in zip(panels, kinds, strict=True):
        draw_losses(ax, done[done["model.parametrization"] == kind], table[table["parametrization"] == kind], colours)
        ax.set_title(kind)
        ax.set_ylabel(f"held-out loss{name_loss_unit(rows)}")
        use_round_numbers(ax.xaxis, rates.min() / 1.3, rates.max() * 1.3, most=6)
        ax.set_xlim(rates.min() / 1.3, rates.max() * 1.3)
    marks = dict(zip(kinds, MARKERS, strict=False))
    for kind in kinds:
        draw_optima(last, table[table["parametrization"] == kind], marks[kind], colours, exponents.get(kind))
    last.set_title("best learning rate")
    last.set_xlabel("width")
    last.set_ylabel("learning rate")
    widths = table["width"]
    use_round_numbers(last.xaxis, widths.min() / 1.3, widths.max() * 1.3, most=6)
    last.set_xlim(widths.min() / 1.3, widths.max() * 1.3)
    use_round_numbers(last.yaxis, *last.get_ylim(), most=6)
    handles = [Line2D([], [], color=colour, lw=2, label=f"width {width}") for width, colour in colours.items()]
    for kind in kinds:
        power = f"\nwidth^{exponents[kind][0]:.2f}" if kind in exponents else ""
        handles.append(Line2D([], [], color=INK, marker=marks[kind], ms=5, label=f"{kind}{power}"))
    place_legend(last, "", handles)
    return fig


def draw_losses(ax: Axes, done: pd.DataFrame, table: pd.DataFrame, colours: dict[int, str]) -> None:
    top = []
    for width, own in done.groupby("model.width"):
        curve = own.groupby("optimizer.lr")["loss"].mean()
        top.append(float(curve.quantile(0.75)))
        ax.plot(curve.index, curve, "-", lw=1, marker="o", ms=4, mfc="none", color=colours[int(str(width))])
    for _, cell in table[table["status"] == "interior"].iterrows():
        ax.plot(cell["lr"], cell["loss"], "x", ms=7, color=colours[cell["width"]])
    if top:
        bottom = float(done["loss"].min())
        ax.set_ylim(bottom - 0.1 * (max(top) - bottom), max(top) + 0.2 * (max(top) - bottom))
    ax.set_xlabel("learning rate")


def draw_optima(
    ax: Axes, table: pd.DataFrame, mark: str, colours: dict[int, str], exponent: tuple[float, float, float] | None
) -> None:
    ax.set_yscale("log")
    for _, cell in table.iterrows():
        located = cell["status"] == "interior" and np.isfinite(cell["low"]) and np.isfinite(cell["high"])
        error = [[cell["lr"] - cell["low"]], [cell["high"] - cell["lr"]]] if located else None
        colour = colours[cell["width"]]
        ax.errorbar(
            cell["width"], cell["lr"], yerr=error, fmt=mark, ms=6, color=colour, mfc=colour if located else "none"
        )
    used = table[table["status"] == "interior"]
    if exponent is not None and len(used):
        width, rate = np.log(used["width"].to_numpy(float)), np.log(used["lr"].to_numpy(float))
        across = np.array([width.min(), width.max()])
        ax.plot(np.exp(across), np.exp(rate.mean() + exponent[0] * (across - width.mean())), "-", lw=1.2, color=INK)
