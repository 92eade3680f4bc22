"""Figure of the size of weights along training, a panel a schedule: points measured, lines predicted."""

import textwrap

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import INK, PALETTE, SCREEN, Style, lay_out, place_legend, short_number, use_round_numbers


def draw_paths(table: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """RMS against step, a colour a kappa; crosses: the mean-field shortcut at the end.

    Args:
        table: of analysis/weight_rms_path.py.
    """
    schedules = list(table["schedule"].unique())[:6]
    kappas = sorted(table["kappa"].round(2).unique())
    colours = dict(zip(kappas, PALETTE, strict=False))
    caption = (
        f"protocol fixed_steps · {table['run_id'].nunique()} runs of AdamW on random_walk · points measured, lines the "
        "exact recursion with no free parameter, × the mean-field shortcut at the end · κ = Σ lr weight_decay"
    )
    fig, grid = lay_out(-(-len(schedules) // 2), textwrap.fill(title, 110), caption, (0.75, 5.95), style, width=12.8)
    axes = [ax for row in grid for ax in row]
    low = float(min(table["measured"].min(), table["predicted"].min()))
    high = float(max(table["measured"].max(), table["shortcut"].max()))
    for ax, schedule in zip(axes, schedules, strict=False):
        for kappa, own in table[table["schedule"] == schedule].groupby(table["kappa"].round(2)):
            own = own.sort_values("step")
            ax.plot(own["step"], own["predicted"], "-", lw=1.2, color=colours[kappa])
            ax.plot(own["step"], own["measured"], "o", ms=3, color=colours[kappa], mfc="none")
            ax.plot(
                own["step"].iloc[-1:],
                own["shortcut"].iloc[-1:],
                "x",
                ms=7,
                mew=1.5,
                color=colours[kappa],
                clip_on=False,
            )
        ax.set_title(schedule)
        ax.set_xlabel("step")
        ax.set_ylabel("RMS of the weights")
        ax.set_ylim(low / 1.15, high * 1.15)
        use_round_numbers(ax.yaxis, low / 1.15, high * 1.15, most=6, label=short_number)
    for ax in axes[len(schedules) :]:
        ax.set_visible(False)
    handles = [
        Line2D([], [], color=colour, marker="o", ms=3, label=f"κ = {kappa:g}") for kappa, colour in colours.items()
    ]
    handles.append(Line2D([], [], color=INK, marker="x", ls="", label="mean-field\nshortcut"))
    place_legend(axes[min(1, len(schedules) - 1)], "", handles)
    return fig
