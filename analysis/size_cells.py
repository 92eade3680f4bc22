"""The cells of a table over model and data size: which of them are located, and what such a table may not hold."""

from dataclasses import replace

from analysis.cells import split_cells
from analysis.groups import HORIZONS
from analysis.laws.sizes import SIZES
from analysis.locate import locate
from analysis.optimum import Optimum, estimate_group
from analysis.runs import Runs


def find_size_optima(runs: Runs, source: str, notes: list[str]) -> list[Optimum]:
    """Optimum of every (num_params, num_samples, batch_size), these two in its group; only those that were located."""
    check_sizes(runs, source)
    located = [locate(cell) for cell in split_cells(replace(runs, groups=SIZES))]
    found = estimate_group(located)
    optima = [o for o in found if o.lifts or (o.status == "interior" and o.seeds)]
    if not optima:
        raise ValueError(f"{source} has no cell whose best learning rate lies inside its grid: widen the grid")
    several = [o for o in optima if len(o.seeds) > 1]
    kept = several or optima
    for o in found:
        cell = f"{describe_size(o)}, batch size {o.batch_size}"
        if not any(o is each for each in kept):
            notes.append(f"{cell} is left out: {o.note or o.status}")
        elif o.status != "interior":
            notes.append(f"{cell} counts for the loss and not for lr: {o.note or o.status}")
    return kept


def check_sizes(runs: Runs, source: str) -> None:
    """Raise where sizes are missing, something else varies, or the logarithm of a loss would be of no number."""
    for column in SIZES:
        if column not in runs.frame.columns or runs.frame[column].isna().any():
            raise ValueError(f"{source} does not tell {column} of every run: name it with --columns {column}=COLUMN")
    if (runs.frame["loss"] <= 0).any():
        raise ValueError(f"{source} has losses of 0 and less, and the laws are fitted to logarithms: drop those runs")
    models = [g for g in runs.groups if g.startswith("model.")]
    for column in models:
        per_size = runs.frame.groupby("num_params")[column].unique()
        if (shared := per_size[per_size.map(len) > 1]).size:
            values = sorted(map(str, shared.iloc[0]))
            raise ValueError(
                f"{source} has several models of num_params={shared.index[0]:g} ({column} {', '.join(values)}): "
                f"keep one of a size, e.g. by {column}={values[0]}"
            )
    rest = [g for g in runs.groups if g not in models and g != "num_params" and g not in HORIZONS]
    if rest:
        values = sorted(map(str, runs.frame[rest[0]].unique()))
        raise ValueError(f"{source} also varies {rest[0]}: choose one by {rest[0]}={values[0]}, of {', '.join(values)}")


def describe_size(optimum: Optimum) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(SIZES, sizes_of(optimum), strict=True))


def sizes_of(optimum: Optimum) -> tuple[float, ...]:
    return tuple(float(str(optimum.group[column])) for column in SIZES)
