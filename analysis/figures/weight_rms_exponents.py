"""Figure of the exponents of weight RMS in lr and weight decay, a panel a network, a line a tensor."""

import textwrap

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import FAINT, PALETTE, SCREEN, Style, lay_out, place_legend

EXPONENTS = (("", "of lr", 0.5, PALETTE[0], "o"), ("weight_decay_", "of weight decay", -0.5, PALETTE[1], "s"))
SPACE = 0.15  # between the two exponents of a tensor
MOST = 8


def draw_exponents(fits: pd.DataFrame, tolerance: float, title: str, style: Style = SCREEN) -> Figure:
    """Exponents with 95 % intervals beside +1/2 and -1/2.

    Args:
        fits: a row a case and tensor, with the numbers of fit_exponents (analysis/weight_rms_claims.py).
        tolerance: half-width of the bands around +1/2 and -1/2.
    """
    cases = list(fits["case"].unique())[:MOST]
    caption = (
        "protocol fixed_steps · RMS = c lr^p weight_decay^q over a tensor's runs of AdamW, 95 % intervals · bands: "
        f"±1/2 within {tolerance:g}, as the random walk has it"
    )
    fig, grid = lay_out(-(-len(cases) // 2), textwrap.fill(title, 120), caption, (1.5, 8.2), style, width=15.5)
    axes = [ax for row in grid for ax in row]
    for ax, case in zip(axes, cases, strict=False):
        own = fits[fits["case"] == case].reset_index(drop=True)
        handles = []
        for i, (name, label, law, colour, marker) in enumerate(EXPONENTS):
            ax.axvspan(law - tolerance, law + tolerance, color=colour, alpha=0.15, lw=0)
            y = own.index + (i - 0.5) * 2 * SPACE
            value = own[f"{name}exponent"]
            ends = [value - own[f"{name}low"], own[f"{name}high"] - value]
            ax.errorbar(value, y, xerr=ends, fmt=marker, ms=4.5, color=colour, lw=1.2)
            handles.append(Line2D([], [], color=colour, marker=marker, ms=4.5, label=f"{label}\n(law {law:+g})"))
        ax.axvline(0, color=FAINT, lw=0.8)
        ax.set_xlim(-1.25, 1.25)
        ax.set_yticks(own.index, [textwrap.fill(name.replace(", ", ",\n"), 20) for name in own["tensor"]])
        ax.set_ylim(len(own) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.set_title(case)
        ax.set_xlabel("exponent of the RMS")
        # One a row, at its right: between two panels the names of the tensors need the room
        if any(ax is row[-1] for row in grid) or ax is axes[len(cases) - 1] or style.narrow:
            place_legend(ax, "exponent", handles)
    for ax in axes[len(cases) :]:
        ax.set_visible(False)
    return fig
