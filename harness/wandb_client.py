"""The W&B client as everything here uses it: few retries, its files in one place, and its failures in one line.

The client's names for retries begin with x_ and may change between releases: they are named here only.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RETRIES, TIMEOUT = 4, 30  # of one request; seconds of it with its retries
KEY_CURE = "run `wandb login --relogin`, or set WANDB_API_KEY"
SERVERS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")  # defaults of clients, the second since 0.31
# what WANDB_MODE may say, older words of the client's too -> what it means
MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline"}
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
    if re.search(r"\b40[13]\b|not logged in|API key|permission denied", text, re.IGNORECASE):
        return Refused(f"W&B refuses the API key: {KEY_CURE}")
    return NoAnswer(f"W&B does not answer ({text[:200]}): the next call goes on from here")


def hide_key(text: str) -> str:
    """A text without what may be a key: the one that is set, and any word of 40 or more letters and digits."""
    key = os.environ.get("WANDB_API_KEY", "").strip()
    return re.sub(r"[A-Za-z0-9_]{40,}", "(hidden)", text.replace(key, "(hidden)") if key else text)


def read_mode(asked: str) -> str:
    """WANDB_MODE where it is set, by its name of today, else what was asked for: auto, online, offline or disabled.

    Raises: ValueError for another WANDB_MODE.
    """
    told = os.environ.get("WANDB_MODE", "").strip()
    if told and told not in MODES:
        raise ValueError(f"WANDB_MODE={told!r} is not one of {', '.join(MODES)}: set one of them, or unset it")
    return MODES[told] if told else asked


def may_have_account() -> bool:
    """Whether there seems to be a key, told in no time without the client: one in its settings file is not seen."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    own = os.environ.get("WANDB_BASE_URL")
    hosts = [re.escape(urlsplit(server).hostname or "") for server in ((own,) if own else SERVERS)]
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    texts = (path.read_text(errors="replace") for name in names if (path := Path(name).expanduser()).is_file())
    try:
        return any(re.search(rf"machine\s+({'|'.join(hosts)})\s", text) for text in texts)
    except OSError:
        return False  # a file that is not ours to read


def has_account() -> bool:
    """Whether the client finds a key, in the environment or where `wandb login` put it; no server is asked.

    Raises: Refused for a key that is none.
    """
    return log_in(verify=False)


def log_in(*, verify: bool) -> bool:
    """Whether the client finds a key; the server is asked whether it takes it where that is to be verified.

    Raises: NoAnswer.
    """
    # the client starts a process of its own and takes half a second to import: nothing else pays for it
    import wandb

    with failures_in_one_line():
        # as it comes the client repeats a request for minutes, and waits for that at exit
        asked = {name.lower(): value for name, value in few_retries().items() if "GRAPHQL" in name}
        waits: dict[str, Any] = {name.removeprefix("wandb_"): float(value) for name, value in asked.items()}
        wandb.setup(wandb.Settings(silent=True, **waits))
        try:
            return bool(wandb.login(prompt=False, verify=verify))
        except ValueError as error:  # of another length, or with other letters
            raise describe(ValueError(f"API key: {error}")) from None


def connect(entity: str | None = None, project: str | None = None) -> Any:
    """The client's Api.

    Raises: NoAnswer where there is no account or no server.
    """
    import wandb

    if not log_in(verify=True):
        raise Refused("there is no W&B account: run `wandb login`, or set WANDB_API_KEY")
    with failures_in_one_line():
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
