"""Foreign names and values in a message: whatever a file holds, they stay short, printable and on one line."""

from collections.abc import Iterable

import pandas as pd

from harness.config import closest

LONGEST = 60  # characters of a foreign text that are shown


def shorten(value: object) -> str:
    """A foreign text as it may stand in a message."""
    text = "".join(c if c.isprintable() else "?" for c in str(value)[: LONGEST + 1])
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def list_columns(frame: pd.DataFrame, limit: int = 12) -> str:
    """The first names of a table's columns, for a message."""
    names = [shorten(name) for name in frame.columns[:limit]]
    return ", ".join(names) + (f" and {len(frame.columns) - limit} more" if len(frame.columns) > limit else "")


def nearest(word: str, names: Iterable[object]) -> str:
    """' (did you mean X?)' among the names of a foreign table; those too long to be a name are passed over."""
    return closest(shorten(word), [str(name) for name in names if len(str(name)) <= LONGEST])
