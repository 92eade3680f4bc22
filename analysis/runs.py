"""One tidy table of runs: checked columns, named groups, and a sentence for everything that was left out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.groups import find_groups, settle_horizons
from analysis.objectives import add_objective
from analysis.rates import join_near_rates, note_missing
from analysis.tables import SHORT_NAMES, list_columns
from harness.checks import closest
from harness.config import say_count
from harness.records import ENDED, STATUSES

NEEDED = ("batch_size", "optimizer.lr", "loss")
LARGEST_LOSS = 1e100  # beyond it no training is meant, and squares overflow
LARGEST_WHOLE = 2**53  # the largest whole number up to which floats hold them all
MEANS_DONE = ("finished", "completed", "complete", "success", "succeeded", "ok")  # as other trackers say it


@dataclass(frozen=True)
class Runs:
    """Ended runs of one sweep.

    Attributes:
        frame: one row a run that is done or diverged; a run is told apart by groups, batch_size,
            optimizer.lr, seed. Its column OBJECTIVE is what cells are compared by (objectives.py).
        groups: columns that vary beyond batch size, learning rate and seed.
        protocol: the protocol, or several joined by a comma.
        notes: what was left out, merged or assumed, one sentence each.
    """

    frame: pd.DataFrame
    groups: tuple[str, ...]
    protocol: str
    notes: tuple[str, ...]


def tidy_runs(frame: pd.DataFrame, source: str = "the table") -> Runs:
    """Check a table of runs and find its groups.

    Needed: batch_size, optimizer.lr (or lr), loss. Without seed every run has seed 0, without protocol it is
    "unknown", without status a run is done if its loss is finite and diverged if not.

    Raises: ValueError, one line, for a missing column, text where a number is due, or no finished run.
    """
    notes: list[str] = []
    frame = frame.rename(columns={k: v for k, v in SHORT_NAMES.items() if v not in frame.columns})
    require_columns(frame, source)
    if frame.empty:
        raise ValueError(f"{source} has no runs: it needs one row a run")
    frame = frame.copy()
    for column in ("batch_size", "optimizer.lr", "loss", "seed"):
        if column in frame.columns:
            frame[column] = to_numbers(frame[column], source, may_be_empty=column == "loss")
    frame["protocol"] = frame["protocol"].fillna("unknown") if "protocol" in frame.columns else "unknown"
    check_positive(frame, source)
    frame["batch_size"] = frame["batch_size"].astype(int)
    frame["seed"] = frame["seed"].astype(int) if "seed" in frame.columns else 0
    frame["optimizer.lr"] = [float(f"{value:.9g}") for value in frame["optimizer.lr"]]
    frame["status"] = settle_status(frame, source, notes)
    ended = frame[frame["status"].isin(ENDED)]
    dropped = frame["status"].value_counts()
    for status in ("failed", "running"):
        if count := int(dropped.get(status, 0)):
            notes.append(f"{count} {status} {'run is' if count == 1 else 'runs are'} left out")
    if not (ended["status"] == "done").any():
        counts = ", ".join(f"{count} {status}" for status, count in dropped.items())
        raise ValueError(f"{source} has no finished runs ({counts}): an optimum needs runs with status done")
    ended = ended.assign(loss=ended["loss"].where(ended["status"] == "done", np.inf))
    groups = find_groups(ended, notes)
    ended = settle_horizons(ended, groups, notes)
    ended = join_near_rates(ended, groups, notes)
    ended = merge_duplicates(ended, [*groups, "batch_size", "optimizer.lr", "seed"], notes)
    note_missing(ended, groups, notes)
    ended = add_objective(ended, source)
    protocol = ", ".join(sorted(str(value) for value in ended["protocol"].unique()))
    return Runs(ended, groups, protocol, tuple(notes))


def require_columns(frame: pd.DataFrame, source: str) -> None:
    """Raise for a needed column that the table lacks, with the nearest name and the cure."""
    short = {full: name for name, full in SHORT_NAMES.items()}
    for column in NEEDED:
        if column not in frame.columns:
            word = short.get(column, column)
            names = [str(name) for name in frame.columns]
            holding = [name for name in names if word in name.lower()]
            hint = f" (did you mean {' or '.join(holding[:3])}?)" if holding else closest(word, names)
            raise ValueError(
                f"{source} has no column {column!r}{hint}: its columns are "
                f"{list_columns(frame)}; name the right one with --columns {word}=COLUMN"
            )


def to_numbers(column: pd.Series, source: str, may_be_empty: bool) -> pd.Series:
    """A column as numbers; raises for text, and for an empty cell where none may be."""
    if pd.api.types.is_bool_dtype(column) or column.map(lambda value: isinstance(value, bool | np.bool_)).any():
        raise ValueError(f"{source}: {column.name} holds true and false, which are no numbers: name the right column")
    numbers = pd.to_numeric(column, errors="coerce")
    bad = numbers.isna() & column.notna() & (column.astype(str).str.lower() != "nan")
    if not may_be_empty:
        bad |= numbers.isna()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        value = column.iloc[row]
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:37]}..."
        what = "is empty" if pd.isna(value) else f"is {shown}, which is no number"
        raise ValueError(f"{source}, run {row + 1}: {column.name} {what}: correct the cell or drop the row")
    return numbers.astype(float)


def check_positive(frame: pd.DataFrame, source: str) -> None:
    """Raise for a learning rate that is not positive, or a batch size or seed that is no whole number."""
    lr, batch_size = frame["optimizer.lr"], frame["batch_size"]
    if (~np.isfinite(lr) | (lr <= 0)).any():
        value = lr[~np.isfinite(lr) | (lr <= 0)].iloc[0]
        raise ValueError(f"{source}: optimizer.lr={value:g} is not a number above zero: correct or drop the row")
    wrong = ~np.isfinite(batch_size) | (batch_size < 1) | (batch_size % 1 != 0) | (batch_size > LARGEST_WHOLE)
    if wrong.any():
        value = batch_size[wrong].iloc[0]
        raise ValueError(f"{source}: batch_size={value:g} is not a whole number above zero: correct the row")
    odd = (frame["seed"] % 1 != 0) | (frame["seed"].abs() > LARGEST_WHOLE) if "seed" in frame.columns else None
    if odd is not None and odd.any():
        value = frame["seed"][odd].iloc[0]
        raise ValueError(f"{source}: seed={value:g} is not a whole number: correct or drop the row")


def settle_status(frame: pd.DataFrame, source: str, notes: list[str]) -> pd.Series:
    """Status of every run: as given, or from the loss where none is given. A done run has a finite loss."""
    finite = np.isfinite(frame["loss"]) & (frame["loss"].abs() <= LARGEST_LOSS)
    if huge := int((np.isfinite(frame["loss"]) & ~finite).sum()):
        notes.append(f"{say_count(huge, 'loss is', 'losses are')} beyond {LARGEST_LOSS:g}: taken as diverged")
    if frame["loss"][finite].nunique() == 1 and finite.sum() > 1:
        notes.append(f"all {int(finite.sum())} losses are the same: is {source}'s column loss the one that is meant?")
    from_loss = pd.Series(np.where(finite, "done", "diverged"), index=frame.index)
    if "status" not in frame.columns:
        if empty := int(frame["loss"].isna().sum()):
            notes.append(f"{say_count(empty, 'run has', 'runs have')} no loss and no status: taken as diverged")
        return from_loss
    given = frame["status"].where(frame["status"].notna(), from_loss).astype(str)
    for word in given.unique():
        if word not in STATUSES:
            raise ValueError(
                f"{source}: status={word!r} is not one of {', '.join(STATUSES)}"
                f"{' (did you mean done?)' if word.lower() in MEANS_DONE else closest(word, STATUSES)}: "
                "rename the values, or leave the column out and status follows from the loss"
            )
    contradicting = (given == "done") & ~finite
    if contradicting.any():
        count = say_count(int(contradicting.sum()), "run says done but has", "runs say done but have")
        notes.append(f"{count} no finite loss: taken as diverged")
    return given.mask(contradicting, "diverged")


def merge_duplicates(frame: pd.DataFrame, keys: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """Keep the last of several runs with one configuration, and say so, with the largest disagreement."""
    repeated = frame.duplicated(list(keys), keep=False)
    if not repeated.any():
        return frame
    spread, disagreeing = 0.0, 0
    for _, rows in frame[repeated].groupby(list(keys), dropna=False):
        finite = rows["loss"][np.isfinite(rows["loss"])]
        if 0 < len(finite) < len(rows):
            disagreeing += 1  # one diverged, the other did not
        elif len(finite) and finite.max() - finite.min() > 1e-9 * abs(finite.min()):
            disagreeing += 1
            spread = max(spread, finite.max() - finite.min())
    kept = frame.drop_duplicates(list(keys), keep="last")
    text = (
        f"{say_count(len(frame) - len(kept), 'run repeats', 'runs repeat')} a configuration: the last of each is used"
    )
    if disagreeing:
        text += f"; {disagreeing} of them disagree" + (f", by up to {spread:.3g} in the loss" if spread else "")
    notes.append(text)
    return kept
