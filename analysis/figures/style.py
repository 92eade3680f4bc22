"""One style for every figure: colours that the colour-blind can tell apart, logarithmic axes with readable ticks."""

import textwrap
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito, "Color Universal Design": eight colours, the yellow left out since it is faint on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "#222222"
FAINT = "#888888"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "scaling-harness",
    "svg.fonttype": "path",
}


def shade(count: int) -> list[tuple[float, float, float, float]]:
    """Ordered colours, dark to light, for an ordered axis such as batch size."""
    positions = np.linspace(0.0, 0.88, count) if count > 1 else np.array([0.3])
    return [tuple(float(c) for c in mpl.colormaps["viridis"](p)) for p in positions]  # type: ignore[misc]


def use_log_lr(axis: Axis, low: float, high: float) -> None:
    """Log axis of learning rates with ticks at powers of two, written 2^k, few enough to read."""
    first, last = int(np.floor(np.log2(low))), int(np.ceil(np.log2(high)))
    stride = max(1, int(np.ceil((last - first) / 8)))
    ticks = [2.0**k for k in range(first, last + 1) if k % stride == 0]
    set_ticks(axis, ticks, lambda value, _: f"$2^{{{round(np.log2(value))}}}$")


def use_log_batch_size(axis: Axis, batch_sizes: Sequence[int]) -> None:
    """Log axis of batch sizes with plain numbers at the sizes that were run, thinned where there are many."""
    sizes = sorted(set(batch_sizes))
    stride = int(np.ceil(len(sizes) / 10))
    set_ticks(axis, [float(size) for size in sizes[::stride]], lambda value, _: f"{value:g}")


def use_exponential(ax: Axes) -> None:
    """Write e^y at round numbers on an axis of logarithms, as it stands."""
    ticks = round_numbers(*(float(x) for x in np.exp(ax.get_ylim())), most=10)
    ax.yaxis.set_major_locator(FixedLocator([float(np.log(value)) for value in ticks]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{np.exp(value):.4g}"))


def use_round_numbers(
    axis: Axis, low: float, high: float, *, most: int, label: Callable[[float], str] = "{:.4g}".format
) -> None:
    """A log axis from low to high with a few ticks at round numbers; left linear where low is not positive."""
    if low > 0:
        set_ticks(axis, round_numbers(low, high, most=most), lambda value, _: label(value))


def round_numbers(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers between two positive ones, evenly spread in log as far as they can be; at least 3 if possible."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found: list[float] = []
    for digits in (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 4, 5, 7),
        *(np.arange(1, 10, gap) for gap in (0.5, 0.1, 0.01)),
    ):
        values = [float(f"{digit * 10.0**power:.9g}") for power in powers for digit in digits]
        found = [value for value in values if low <= value <= high]
        if len(found) >= 3:
            break
    return found[:: max(1, -(-len(found) // most))]


def hide_labels(axis: Axis) -> None:
    """No numbers beside an axis that shares them with its neighbour's."""
    axis.set_tick_params(labelleft=False)


def short_number(value: float) -> str:
    """1500 -> 1.5k, 2000000 -> 2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def set_ticks(axis: Axis, ticks: Sequence[float], label: object) -> None:
    """Fixed ticks on a log axis, with no minor ticks between them."""
    (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)("log")
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(label))  # type: ignore[arg-type]


def lay_out(num_rows: int, title: str, lefts: Sequence[float], width: float = 13.2) -> tuple[Figure, list[list[Axes]]]:
    """A figure with panels of one size in rows, a title above and room for a line below. All lengths are
    inches.

    Args:
        lefts: where each panel of a row begins.
    """
    panel, gap = (4.2, 3.1), 0.95
    above, below = 0.75 + 0.2 * title.count("\n"), 0.85
    height = above + num_rows * panel[1] + (num_rows - 1) * gap + below
    fig = Figure(figsize=(width, height))
    fig.text(0.15 / width, 1 - 0.12 / height, title, va="top", fontsize=12, color=INK, weight="bold")
    rows = []
    for row in range(num_rows):
        bottom = height - above - panel[1] - row * (panel[1] + gap)
        rows.append([fig.add_axes((x / width, bottom / height, panel[0] / width, panel[1] / height)) for x in lefts])
    return fig, rows


def write_footer(fig: Figure, text: str) -> None:
    """The caption line at the foot of a figure, folded where it is too long."""
    folded = textwrap.fill(text, int(fig.get_figwidth() * 14))
    fig.text(0.15 / fig.get_figwidth(), 0.08 / fig.get_figheight(), folded, va="bottom", fontsize=8, color=FAINT)


def place_legend(ax: Axes, title: str, handles: Sequence[Artist] | None = None) -> None:
    """A legend to the right of a panel, where it hides nothing."""
    lines = list(handles) if handles is not None else ax.get_legend_handles_labels()[0]
    legend = ax.legend(handles=lines, title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=1.6)
    legend.set_alignment("left")
    legend.get_title().set_fontsize(8.5)


def name_loss_unit(frame: pd.DataFrame) -> str:
    """' (nats per byte)' where every run predicts bytes; nothing for tasks whose unit is not known."""
    tasks = set(frame["task.name"].unique()) if "task.name" in frame.columns else set()
    return " (nats per byte)" if tasks and tasks <= {"python_source", "text"} else ""
