"""Figure of scripts/coordinate_check.py: how far activations move in a few steps, against width."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import PALETTE, SCREEN, Style, lay_out, place_legend, use_round_numbers


def draw_coordinate_check(table: pd.DataFrame, conditions: str, style: Style = SCREEN) -> Figure:
    """A panel a parametrization, a colour a part of the model; solid: change since step 0, dotted: size at step 0.

    Args:
        table: parametrization, width, seed, step, part, rms and change of that script.
        conditions: how it was trained, for the caption.
    """
    last = int(table["step"].max())
    caption = (
        f"{conditions} · root mean square over entries, mean over seeds · solid: change over {last} steps, "
        "dotted: size before the first"
    )
    fig, [panels] = lay_out(
        1, "Do activations move by as much at every width?", caption, (0.85, 6.2), style, width=12.6
    )
    colours = dict(zip(table["part"].unique(), PALETTE, strict=False))
    mean = table.groupby(["parametrization", "part", "step", "width"])[["rms", "change"]].mean()
    shown = pd.concat([mean.xs(last, level="step")["change"], mean.xs(0, level="step")["rms"]])
    for ax, kind in zip(panels, table["parametrization"].unique(), strict=True):
        for part, colour in colours.items():
            moved, began = mean.loc[(kind, part, last), "change"], mean.loc[(kind, part, 0), "rms"]
            ax.plot(moved.index, moved, "-o", ms=4, lw=1.2, color=colour)
            ax.plot(began.index, began, ":", lw=1, color=colour)
        widths = table["width"]
        use_round_numbers(ax.xaxis, widths.min() / 1.3, widths.max() * 1.3, most=6)
        ax.set_xlim(widths.min() / 1.3, widths.max() * 1.3)
        use_round_numbers(ax.yaxis, shown.min() / 1.5, shown.max() * 1.5, most=6)
        ax.set_ylim(shown.min() / 1.5, shown.max() * 1.5)
        ax.set_title(str(kind))
        ax.set_xlabel("width")
        ax.set_ylabel("RMS of activations")
    place_legend(panels[-1], "", [Line2D([], [], color=c, label=part) for part, c in colours.items()])
    return fig
