"""The W&B client as everything here uses it: few retries, its files in one place, and its failures in one line.

The client's names for retries begin with x_ and may change between releases: they are named here only.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RETRIES, TIMEOUT = 4, 30  # of one request; seconds of it with its retries
KEY_CURE = "run `wandb login --relogin`, or set WANDB_API_KEY"
WAITS = {"retry_wait_min_seconds": 0.5, "retry_wait_max_seconds": 4}


class NoAnswer(Exception):
    """W&B did not answer, or not to us: why and what helps, in one line without the key."""


class Refused(NoAnswer):
    """There is no key, or W&B takes it not: asking again does not help."""


@contextmanager
def failures_in_one_line() -> Iterator[None]:
    """Raises: NoAnswer for what the client raises; errors of others go through."""
    try:
        yield
    except NoAnswer:
        raise
    except Exception as error:
        # what a failed request raises differs between releases of the client, and is not all public
        if type(error).__module__.partition(".")[0] not in ("wandb", "requests", "pydantic_core"):
            raise
        raise describe(error) from None


def describe(error: Exception) -> NoAnswer:
    """A failed request in one line."""
    text = hide_key(" ".join(str(error).split()))
    if any(word in text for word in ("401", "403", "not logged in", "API key", "permission")):
        return Refused(f"W&B refuses the API key: {KEY_CURE}")
    return NoAnswer(f"W&B does not answer ({text[:120]}): the next call goes on from here")


def hide_key(text: str) -> str:
    """A text without what may be a key: the one that is set, and any word of 40 or more letters and digits."""
    key = os.environ.get("WANDB_API_KEY", "").strip()
    return re.sub(r"[A-Za-z0-9_]{40,}", "(hidden)", text.replace(key, "(hidden)") if key else text)


def has_account() -> bool:
    """Whether the client finds a key, in the environment or where `wandb login` put it.

    Raises: NoAnswer for a key that is none.
    """
    import wandb

    with failures_in_one_line():
        try:
            return bool(wandb.login(prompt=False))
        except ValueError as error:  # of another length, or with other letters
            raise describe(ValueError(f"API key: {error}")) from None


def connect(entity: str | None = None, project: str | None = None) -> Any:
    """The client's Api.

    Raises: NoAnswer where there is no account or no server.
    """
    # the client starts a process of its own and takes half a second to import: nothing else pays for it
    import wandb

    with failures_in_one_line():
        # as it comes the client repeats a request for minutes, and waits for that at exit
        asked = {name.lower(): value for name, value in few_retries().items() if "GRAPHQL" in name}
        waits: dict[str, Any] = {name.removeprefix("wandb_"): float(value) for name, value in asked.items()}
        wandb.setup(wandb.Settings(silent=True, **waits))
        if not has_account():
            raise Refused("there is no W&B account: run `wandb login`, or set WANDB_API_KEY")
        overrides = {"entity": entity, "project": project}
        return wandb.Api(overrides={name: value for name, value in overrides.items() if value}, timeout=TIMEOUT)


def few_retries() -> dict[str, str]:
    """Environment of a client's process that does not repeat its requests for hours; what is set already holds."""
    kinds = ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    few = {f"WANDB_X_{kind}_{name.upper()}": str(seconds) for kind in kinds for name, seconds in WAITS.items()}
    few |= {f"WANDB_X_{kind}_RETRY_MAX": str(RETRIES) for kind in kinds}
    return few | {name: os.environ[name] for name in few if name in os.environ}


def own_folder() -> Path:
    """Where the client keeps what is offline: WANDB_DIR, else here, wandb in it."""
    return Path(os.environ.get("WANDB_DIR", ".")) / "wandb"
