"""Figure of the size of weights along training, a panel a schedule: points measured, lines predicted."""

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
    caption = (
        f"protocol fixed_steps · {table['run_id'].nunique()} runs of AdamW on random_walk · points measured, lines the "
        "exact recursion with no free parameter, × the mean-field shortcut at the end · κ = Σ lr weight_decay"
    )
    fig, grid = lay_out(-(-len(schedules) // 2), title, caption, (0.8, 7.5), style, width=14.0)
    axes = [ax for row in grid for ax in row]
    low = float(min(table["measured"].min(), table["predicted"].min()))
    high = float(max(table["measured"].max(), table["shortcut"].max()))
    for ax, schedule in zip(axes, schedules, strict=False):
        handles = []
        for (kappa, own), colour in zip(table[table["schedule"] == schedule].groupby("kappa"), PALETTE, strict=False):
            own = own.sort_values("step")
            ax.plot(own["step"], own["predicted"], "-", lw=1.2, color=colour)
            ax.plot(own["step"], own["measured"], "o", ms=3, color=colour, mfc="none")
            end = own.iloc[-1:]
            ax.plot(end["step"], end["shortcut"], "x", ms=7, mew=1.5, color=colour, clip_on=False)
            handles.append(Line2D([], [], color=colour, marker="o", ms=3, label=f"κ = {kappa:.2g}"))
        handles.append(Line2D([], [], color=INK, marker="x", ls="", label="shortcut"))
        place_legend(ax, "", handles)
        ax.set_title(schedule)
        ax.set_xlabel("step")
        ax.set_ylabel("RMS of the weights")
        ax.set_ylim(low / 1.15, high * 1.15)
        use_round_numbers(ax.yaxis, low / 1.15, high * 1.15, most=6, label=short_number)
    for ax in axes[len(schedules) :]:
        ax.set_visible(False)
    return fig
