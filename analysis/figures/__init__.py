"""The figures, by name: each takes an Analysis and a Style and returns a matplotlib figure."""

from collections.abc import Callable

from matplotlib.figure import Figure

from analysis.analyse import Analysis
from analysis.figures.curves import draw_curves
from analysis.figures.epsilon import draw_epsilon, has_epsilon
from analysis.figures.extrapolation import draw_extrapolation, has_extrapolation
from analysis.figures.groups import draw_groups
from analysis.figures.histories import draw_histories, has_histories
from analysis.figures.noise_scale import draw_noise_scales, has_noise_scales
from analysis.figures.optimizers import draw_optimizers, has_optimizers
from analysis.figures.optimum import MAX_COLOURS, draw_optimum
from analysis.figures.slopes import draw_slopes, has_protocols
from analysis.figures.steps_examples import draw_steps_examples, has_steps
from analysis.figures.style import Style

FIGURES: dict[str, Callable[[Analysis, Style], Figure]] = {
    "optimum": draw_optimum,
    "groups": draw_groups,
    "curves": draw_curves,
    "eps": draw_epsilon,
}


def choose_figure(analysis: Analysis) -> Callable[[Analysis, Style], Figure]:
    """The main figure: rows of optimizers where these are more than colours, else that of the analysis' name."""
    many = len(analysis.groups) > MAX_COLOURS and has_optimizers(analysis)
    return draw_optimizers if many else FIGURES[analysis.figure]


# written as NAME-FIGURE beside the figure of a sweep: whether the runs have the data, and how
FURTHER: dict[str, tuple[Callable[[Analysis], bool], Callable[[Analysis, Style], Figure]]] = {
    "curves": (has_histories, draw_histories),
    "eps": (lambda analysis: has_epsilon(analysis) and analysis.figure != "eps", draw_epsilon),
    "noise_scale": (has_noise_scales, draw_noise_scales),
    "extrapolation": (has_extrapolation, draw_extrapolation),
    "optimum": (lambda analysis: analysis.figure == "eps", draw_optimum),
    "optimizers": (lambda a: has_optimizers(a) and len(a.groups) <= MAX_COLOURS, draw_optimizers),
    "slopes": (has_protocols, draw_slopes),
    "steps-examples": (has_steps, draw_steps_examples),
}
