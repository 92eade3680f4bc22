"""The seed noise that a command line borrows for a table with one seed: `--borrow SOURCE`."""

from collections.abc import Mapping

import pandas as pd

from analysis.seed_noise import SeedNoise, lend_noise
from analysis.tables import read_source, rename_columns

BORROW = "for one seed: take the seed variance of a committed sweep, a table, or any other SOURCE of runs"


def borrow_noise(source: str, columns: Mapping[str, str], borrower: pd.DataFrame) -> SeedNoise:
    """The noise of a source's runs; of `columns` those count that it has, since it may bear our names already."""
    frame, _ = read_source(source)
    names = {ours: theirs for ours, theirs in columns.items() if theirs in frame.columns}
    return lend_noise(rename_columns(frame, names, source), source, borrower)
