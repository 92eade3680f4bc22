"""Read a csv file of runs, and say in one line what is wrong with one that is no such file."""

import csv
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd

from analysis.messages import shorten

DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
HEAD = 65536  # bytes that are looked at before the file is parsed


def read_csv(path: Path) -> pd.DataFrame:
    """A comma-separated file in UTF-8 with one header line, a byte-order mark or none.

    Raises: ValueError, one line, for what is no text, other delimiters or encodings, repeated names and torn rows.
    """
    check_head(path)
    try:
        with warnings.catch_warnings():
            # pandas only warns when rows are longer than the header, and then shifts the columns
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # a column of mixed types is told by name later on, where a number is due
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            return pd.read_csv(path, index_col=False)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty: it needs a header line and one row a run") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text: save it as a csv file in UTF-8") from None
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        text = shorten(" ".join(str(error).split()))
        raise ValueError(f"{path} cannot be read as csv: {text}: correct the row, or quote what holds commas") from None


def check_head(path: Path) -> None:
    """Raise for a file that pandas would read as something else than it is."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as csv: {error.strerror}") from None
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path} is UTF-16 text: save it as a csv file in UTF-8")
    if b"\0" in head:
        raise ValueError(f"{path} is a binary file and no csv: give a csv or parquet file, a row a run")
    first = head.decode("utf-8-sig", errors="replace").lstrip().partition("\n")[0].rstrip("\r")
    if "," not in first:
        for delimiter, word in DELIMITERS.items():
            if delimiter in first:
                raise ValueError(
                    f"{path} separates its columns by {word}: save it with commas, and decimals with points"
                )
    try:
        names = next(csv.reader([first]), [])
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as csv: {error}") from None
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if repeated:
        raise ValueError(f"{path} has several columns {shorten(repeated[0])!r}: rename or delete all but one")
