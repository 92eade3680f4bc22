"""Which columns of a table set its runs apart beyond batch size, learning rate and seed."""

from collections.abc import Mapping

import pandas as pd

from harness.records import PER_TENSOR

CONFIG_PREFIXES = ("model.", "task.", "optimizer.", "schedule.")
CONFIG_NAMES = ("protocol", "precision", "target_loss", "target_examples", "eval_every", "eval_share", "smoothing")
HORIZONS = ("num_samples", "num_steps", "max_steps")
NOT_GROUPS = {
    "batch_size", "optimizer.lr", "seed", "run_id", "sweep", "status", "message", "loss", "train_loss",
    "num_params", "num_params_non_embedding", "flops_per_token", "grad_norm", "update_rms", "weight_rms",
    "noise_scale", "noise_scale_trace", "noise_scale_square",
    "noise_scale_hessian", "noise_scale_hessian_trace", "noise_scale_hessian_square", "noise_scale_update_rms",
    "steps_to_target", "samples_to_target", "censored",
    *HORIZONS,
}  # fmt: skip
MEASURED_PREFIXES = ("provenance.", "history.", "summary.", "memory.", *(f"{name}." for name in PER_TENSOR))


def find_groups(frame: pd.DataFrame, notes: list[str]) -> tuple[str, ...]:
    """Columns that vary beyond batch size, learning rate and seed, as few as tell the groups apart.

    Left aside, some with a note: a column that is settled by the groups already found; a number that moves
    one to one with the batch size or the learning rate (it follows them, as beta2 scaled with the batch size
    does); and a column outside the configuration whose values mostly come with fewer than 3 learning rates,
    which is a measurement. A number of samples or steps is a group only where one batch size has several.
    """
    groups: list[str] = []
    for column in order_candidates(frame):
        if groups and frame.groupby(groups, dropna=False)[column].nunique(dropna=False).max() <= 1:
            continue
        if not is_configuration(frame, column):
            notes.append(f"column {column} is taken as a measurement, not as a group")
            continue
        axis = find_axis_followed(frame, groups, column)
        if axis is not None:
            notes.append(f"{column} follows {axis}")
            continue
        groups.append(column)
    if "num_params" in frame.columns:
        # a table may tell its models apart by their size alone
        counts = frame.groupby([*groups, "batch_size"], dropna=False)["num_params"].nunique()
        if counts.max() > 1 and is_configuration(frame, "num_params"):
            groups.append("num_params")
    if frame["protocol"].eq("steps_to_target").any():
        return tuple(groups)  # there the number of steps is the outcome, and max_steps a bound on it
    done = frame[frame["status"] == "done"]
    # the horizon that was asked for has few values, the one that follows from it and the batch size has many
    for column in sorted(HORIZONS, key=lambda name: done[name].nunique() if name in done.columns else 0):
        if column in done.columns and done[column].notna().any():
            counts = done.groupby([*groups, "batch_size"], dropna=False)[column].nunique()
            if counts.max() > 1:
                groups.append(column)
    return tuple(groups)


def settle_horizons(frame: pd.DataFrame, groups: tuple[str, ...], notes: list[str]) -> pd.DataFrame:
    """Runs that ended early get the horizon of the done runs of their cell, which they were meant to reach.

    Where a cell has done runs of several horizons nothing tells which it was, and the run is left out, with a note.
    """
    cell = [*(g for g in groups if g not in HORIZONS), "batch_size"]
    for column in (g for g in groups if g in HORIZONS):
        done = frame["status"] == "done"
        known = frame[column].where(done).groupby([frame[name] for name in cell], dropna=False)
        fewest, most = known.transform("min"), known.transform("max")
        early = ~done & fewest.notna() & ~frame[column].isin(frame[column][done])
        sure = early & (fewest == most)
        frame = frame.assign(**{column: frame[column].mask(sure, most)})
        if lost := int((early & ~sure).sum()):
            notes.append(f"{lost} runs that diverged do not tell which {column} they were meant for, and are left out")
        frame = frame[~(early & ~sure)]
    return frame


def order_candidates(frame: pd.DataFrame) -> list[str]:
    """Columns that vary and may be groups: names first, then protocol and precision, then as in the table."""
    names = []
    for column in frame.columns:
        if column in NOT_GROUPS or str(column).startswith(MEASURED_PREFIXES):
            continue
        if (
            frame[column].map(pd.api.types.is_scalar).all()
            and len(frame[column].unique()) > 1
            and not is_off(frame[column])
        ):
            names.append(str(column))
    return sorted(names, key=lambda name: (not name.endswith(".name"), name not in ("protocol", "precision")))


def is_off(column: pd.Series) -> bool:
    """Whether an option is off in every run: false, or null in runs from before it came. Such runs are the same run."""
    return bool((column.isna() | (column.astype(str) == "False")).all())


def is_configuration(frame: pd.DataFrame, column: str) -> bool:
    """Whether a column was chosen before the run: by its name, or its values come with whole lr grids."""
    if column.startswith(CONFIG_PREFIXES) or column in CONFIG_NAMES:
        return True
    lrs_per_value = frame.groupby(column, dropna=False)["optimizer.lr"].nunique()
    return bool(lrs_per_value.median() >= min(3, frame["optimizer.lr"].nunique()))


def find_axis_followed(frame: pd.DataFrame, groups: list[str], column: str) -> str | None:
    """The axis, of 3 values or more, with which a number moves one to one inside every group."""
    if not pd.api.types.is_numeric_dtype(frame[column]) or pd.api.types.is_bool_dtype(frame[column]):
        return None
    for axis in ("batch_size", "optimizer.lr"):
        if frame[axis].nunique() < 3:
            continue
        forward = frame.groupby([*groups, axis], dropna=False)[column].nunique(dropna=False).max()
        backward = frame.groupby([*groups, column], dropna=False)[axis].nunique(dropna=False).max()
        if forward <= 1 and backward <= 1:
            return axis
    return None


def label_group(group: Mapping[str, object]) -> str:
    """A short label: names as they are, other columns as name=value, what does not apply left out."""
    parts = []
    short = [column.rsplit(".", 1)[-1] for column in group]
    for column, name in zip(group, short, strict=True):
        value = group[column]
        if value is None or value != value:
            continue
        if column.endswith(".name"):
            parts.append(str(value))
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(f"{name if short.count(name) == 1 else column}={text}")
    return ", ".join(parts) or (f"without {', '.join(group)}" if group else "")


def key_group(group: Mapping[str, object]) -> str:
    """What is the same for one group and no other; labels round and leave out."""
    return repr(sorted(group.items(), key=str))


def select_group(frame: pd.DataFrame, group: Mapping[str, object]) -> pd.DataFrame:
    """Rows of one group."""
    for column, value in group.items():
        frame = frame[frame[column].isna() if pd.isna(value) else frame[column] == value]  # type: ignore[call-overload]
    return frame


def read_constant(frame: pd.DataFrame, column: str) -> object | None:
    """The one value of a column, or None where it is absent, empty or varies."""
    if column not in frame.columns or len(frame[column].unique()) != 1:
        return None
    value = frame[column].iloc[0]
    return None if pd.isna(value) else value
