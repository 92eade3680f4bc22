"""A figure of many small panels on one page, with one legend a row."""

import textwrap
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import (
    NARROW,
    Style,
    measure_caption,
    measure_heading,
    place_legend,
    write_caption,
    write_heading,
)  # fmt: skip

WIDTH = 11.0  # of a page, inches before the style's scale
LEFT, RIGHT, GAP, HEIGHT, BETWEEN = 0.9, 1.95, 0.68, 1.5, 0.85


def lay_out_grid(count: int, columns: int, title: str, caption: str, style: Style) -> tuple[Figure, list[list[Axes]]]:
    """Rows of small panels; lengths in inches before the style's scale.

    Args:
        count: of panels.
        columns: of them in a row; 2 in a narrow style.
    """
    width, columns = (NARROW, min(columns, 2)) if style.narrow else (WIDTH, columns)
    rows, title = -(-count // columns), textwrap.fill(title, int(9.5 * (style.scale * width - 0.3)))
    panel = (width - LEFT - RIGHT - (columns - 1) * GAP) / columns
    above, below = measure_heading(title, style), 0.6 + measure_caption(caption, width, style)
    height = above + rows * HEIGHT + (rows - 1) * BETWEEN + below
    fig = Figure(figsize=(style.scale * width, style.scale * height))
    write_heading(fig, title, style)
    write_caption(fig, caption, style)
    grid = []
    for row in range(rows):
        bottom = height - above - HEIGHT - row * (HEIGHT + BETWEEN)
        lefts = [LEFT + i * (panel + GAP) for i in range(min(columns, count - row * columns))]
        grid.append([fig.add_axes((x / width, bottom / height, panel / width, HEIGHT / height)) for x in lefts])
    return fig, grid


def share_legend(row: Sequence[Axes], handles: Sequence[Artist]) -> None:
    """One legend to the right of a row, each label once."""
    place_legend(row[-1], "", list({handle.get_label(): handle for handle in handles}.values()))
