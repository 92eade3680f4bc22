"""Figure of runs without an axis of learning rates: held-out loss against the number of samples seen."""

import numpy as np
from matplotlib.figure import Figure

from analysis.analyse import Analysis
from analysis.figures.style import (
    PALETTE,
    SCREEN,
    Style,
    lay_out,
    name_loss_unit,
    place_legend,
    use_log_batch_size,
)
from analysis.groups import label_group

MAX_LABELS = 10


def draw_curves(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """A line a run; a colour for each combination of group, batch size and learning rate."""
    frame = analysis.runs.frame
    keys = [*analysis.runs.groups, "batch_size", "optimizer.lr"]
    shown = [key for key in keys if frame[key].nunique(dropna=False) > 1] or ["optimizer.lr"]
    fig, [[ax]] = lay_out(1, analysis.question, analysis.caption, (0.75,), style, width=7.5)
    ends = []
    for index, (values, rows) in enumerate(frame.groupby(shown, dropna=False)):
        colour, line = PALETTE[index % len(PALETTE)], ("-", "--", ":")[index // len(PALETTE) % 3]
        label = label_group(dict(zip(shown, values, strict=True))) if index < MAX_LABELS else None
        for _, run in rows.iterrows():
            samples, loss = (np.asarray(run[name], dtype=float) for name in ("history.num_samples", "history.loss"))
            seen = (samples > 0) & np.isfinite(loss)
            if not seen.any():
                continue
            text = f"{label} (diverged)" if label and run["status"] == "diverged" else label
            ax.plot(samples[seen], loss[seen], line, color=colour, label=text)
            ax.plot(samples[seen][-1], loss[seen][-1], "x" if run["status"] == "diverged" else "o", ms=4, color=colour)
            ends.append(float(samples[seen][-1]))
            label = None
    if not ends:
        raise ValueError(f"{analysis.sweep} has no finite loss in its histories: there is no learning curve to draw")
    last = max(ends)
    use_log_batch_size(ax.xaxis, [int(last / 2**k) for k in range(8)])
    ax.set_xlabel("training samples seen")
    ax.set_ylabel("held-out loss" + name_loss_unit(frame))
    place_legend(ax, "run" if len(frame) == 1 else "runs")
    return fig
