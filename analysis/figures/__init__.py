"""The figures, by name: each takes an Analysis and returns a matplotlib figure."""

from collections.abc import Callable

from matplotlib.figure import Figure

from analysis.analyse import Analysis
from analysis.figures.curves import draw_curves
from analysis.figures.optimum import draw_optimum

FIGURES: dict[str, Callable[[Analysis], Figure]] = {
    "optimum": draw_optimum,
    "curves": draw_curves,
}
