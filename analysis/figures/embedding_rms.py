"""Figure of the size of embedding rows against the gap between hits, a panel an optimizer."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import INK, PALETTE, SCREEN, Style, lay_out, place_legend, short_number, use_round_numbers

MOST = 8


def draw_embedding_rms(table: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """RMS against gap, a colour a pair of lr and weight decay; circles at regular hits, crosses at random ones.

    Args:
        table: of analysis/embedding_rms.py.
    """
    names = list(table["optimizer"].unique())[:MOST]
    pairs = sorted({(lr, decay) for lr, decay in zip(table["lr"], table["weight_decay"], strict=True)})
    caption = (
        f"protocol fixed_steps · {table['run_id'].nunique()} runs on token_walk · lines: forms in the gap, dotted at "
        "random hits, dashed of Tiger's rows as they change within a gap"
    )
    fig, grid = lay_out(-(-len(names) // 2), title, caption, (0.8, 7.5), style, width=14.0)
    axes = [ax for row in grid for ax in row]
    for ax, name in zip(axes, names, strict=False):
        own = table[table["optimizer"] == name]
        own_pairs = [pair for pair in pairs if ((own["lr"] == pair[0]) & (own["weight_decay"] == pair[1])).any()]
        for (lr, decay), colour in zip(own_pairs, PALETTE, strict=False):
            for spacing, marker, line in (("regular", "o", "-"), ("random", "x", ":")):
                rows = own[(own["lr"] == lr) & (own["weight_decay"] == decay) & (own["spacing"] == spacing)]
                rows = rows.sort_values("gap")
                ax.plot(rows["gap"], rows["measured"], marker, ms=4.5, color=colour, mfc="none")
                ax.plot(rows["gap"], rows["predicted"], line, lw=1, color=colour)
                if rows["cycle"].notna().any():
                    ax.plot(rows["gap"], rows["cycle"], "--", lw=1, color=colour)
        ax.set_xscale("log")
        ax.set_yscale("log")
        gaps = sorted(own["gap"].unique())
        use_round_numbers(ax.xaxis, gaps[0] / 1.4, gaps[-1] * 1.4, most=6, label=short_number)
        use_round_numbers(ax.yaxis, *ax.get_ylim(), most=6, label=short_number)
        ax.set_title(name)
        ax.set_xlabel("steps between hits")
        ax.set_ylabel("RMS of the rows")
        handles = [
            Line2D([], [], color=colour, label=f"{lr:g}, {decay:g}")
            for (lr, decay), colour in zip(own_pairs, PALETTE, strict=False)
        ]
        handles += [Line2D([], [], color=INK, marker=m, ls="", ms=4.5, mfc="none", label=f"{text} hits")
                    for m, text in (("o", "regular"), ("x", "random"))]  # fmt: skip
        place_legend(ax, "lr, weight decay", handles)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    return fig
