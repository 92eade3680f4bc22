"""The styles of all figures: colours that the colour-blind can tell apart, logarithmic axes with readable ticks."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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

TOP, LINE = 0.12, 0.2  # inches above the question, and of a line of it
HEADLINE = 12  # points
FINDING = 0.38  # inches for the lines of the finding below it
NARROW = 7.5  # width of one panel with its legend, inches before the style's scale

COMMON = {
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "svg.hashsalt": "scaling-harness",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Style:
    """How figures look.

    Attributes:
        rc: matplotlib's settings.
        scale: of all lengths; sizes of text and lines stand in rc.
        caption: size of the caption line's text, points.
        heading: whether the question stands above the panels; a paper has its own caption.
        narrow: whether panels stand below one another instead of side by side.
        formats: of the files.
    """

    rc: Mapping[str, object]
    scale: float
    caption: float
    heading: bool
    narrow: bool
    formats: tuple[str, ...]


SCREEN = Style(
    {
        **COMMON, "figure.dpi": 100, "savefig.dpi": 150, "font.family": "DejaVu Sans", "font.size": 9,
        "axes.titlesize": 9.5, "axes.labelsize": 9, "grid.linewidth": 0.6, "legend.fontsize": 8,
        "legend.title_fontsize": 8.5, "legend.handlelength": 1.6, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "lines.linewidth": 1.4,
    },
    scale=0.85, caption=8, heading=True, narrow=False, formats=("png", "svg"),
)  # fmt: skip
# 6 inches wide, a page's column of text; text in a pdf stays text (TrueType), as publishers ask
PAPER = Style(
    {
        **COMMON, "figure.dpi": 100, "savefig.dpi": 300, "font.family": "DejaVu Serif", "font.size": 7.5,
        "mathtext.fontset": "dejavuserif", "axes.titlesize": 8, "axes.labelsize": 7.5, "axes.linewidth": 0.7,
        "grid.linewidth": 0.4, "legend.fontsize": 7, "legend.title_fontsize": 7, "legend.handlelength": 1.6,
        "xtick.labelsize": 7, "ytick.labelsize": 7, "lines.linewidth": 1.1, "pdf.fonttype": 42,
    },
    scale=6.0 / NARROW, caption=6.5, heading=False, narrow=True, formats=("png", "svg", "pdf"),
)  # fmt: skip
STYLES = {"screen": SCREEN, "paper": PAPER}


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


def lay_out(
    num_rows: int,
    title: str,
    caption: str,
    lefts: Sequence[float],
    style: Style,
    width: float = 13.2,
    panel_height: float = 3.1,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with panels of one size in rows, a title above and a caption below; the panels of a row one below the
    other in a narrow style. All lengths are inches, before the style's scale.

    Args:
        lefts: where each panel of a row begins.
    """
    if style.narrow and len(lefts) > 1:
        fig, panels = lay_out(num_rows * len(lefts), title, caption, lefts[:1], style, NARROW, panel_height)
        flat = [ax for row in panels for ax in row]
        return fig, [flat[i : i + len(lefts)] for i in range(0, len(flat), len(lefts))]
    title, panel, gap = fold(title, count_letters(style.scale * width, HEADLINE, bold=True)), (4.2, panel_height), 1.0
    above, below = measure_heading(title, style), 0.65 + measure_caption(caption, width, style)
    height = above + num_rows * panel[1] + (num_rows - 1) * gap + below
    fig = Figure(figsize=(style.scale * width, style.scale * height))
    write_heading(fig, title, style)
    write_caption(fig, caption, style)
    rows = []
    for row in range(num_rows):
        bottom = height - above - panel[1] - row * (panel[1] + gap)
        rows.append([fig.add_axes((x / width, bottom / height, panel[0] / width, panel[1] / height)) for x in lefts])
    return fig, rows


def measure_heading(title: str, style: Style) -> float:
    """Room above the first panel for its own title, the question and the finding, inches before the style's scale."""
    if not style.heading:
        return 0.35
    return (TOP + LINE * (1 + title.count("\n")) + FINDING) / style.scale + 0.3


def write_heading(fig: Figure, title: str, style: Style) -> None:
    """The question above the panels, where the style has it; it is the figure's first text."""
    if style.heading:
        width, height = fig.get_size_inches()
        fig.text(0.15 / width, 1 - TOP / height, title, va="top", fontsize=HEADLINE, color=INK, weight="bold")


def count_letters(inches: float, points: float, *, bold: bool = False) -> int:
    """How many letters of a size a line of a figure holds, less a margin."""
    return int((inches - 0.3) * (118 if bold else 134) / points)


def fold(text: str, letters: int) -> str:
    """Text in lines of so many letters."""
    return textwrap.fill(" ".join(text.split()), letters)


def fold_caption(text: str, width: float, style: Style) -> str:
    """Text in lines that a figure is wide enough for; width in inches before the style's scale."""
    return textwrap.fill(text, int(width * style.scale * 112 / style.caption))


def measure_caption(text: str, width: float, style: Style) -> float:
    """Room for the caption, inches before the style's scale."""
    lines = 1 + fold_caption(text, width, style).count("\n")
    return 0.06 + lines * 1.25 * style.caption / 72 / style.scale


def write_caption(fig: Figure, text: str, style: Style) -> None:
    """The caption at the foot of a figure, folded where it is too long."""
    width, height = fig.get_size_inches()
    fig.text(0.15 * style.scale / width, 0.06 * style.scale / height, fold_caption(text, width / style.scale, style),
             va="bottom", fontsize=style.caption, color=FAINT)  # fmt: skip


def place_legend(ax: Axes, title: str, handles: Sequence[Artist] | None = None) -> None:
    """A legend to the right of a panel, where it hides nothing."""
    lines = list(handles) if handles is not None else ax.get_legend_handles_labels()[0]
    legend = ax.legend(handles=lines, title=title, loc="center left", bbox_to_anchor=(1.01, 0.5))
    legend.set_alignment("left")


def name_loss_unit(frame: pd.DataFrame) -> str:
    """' (nats per byte)' where every run predicts bytes; nothing for tasks whose unit is not known."""
    tasks = set(frame["task.name"].unique()) if "task.name" in frame.columns else set()
    return " (nats per byte)" if tasks and tasks <= {"python_source", "text"} else ""
