"""The process that mirrors: `python -m harness.mirror FOLDER [MODE [PROJECT [ENTITY]]]`.

Sends every record of a sweep's folder that W&B has not, and, while the command that started it trains, whatever is
published meanwhile, in a small share of the time. Training never waits for it. Online, a run counts as sent when the
server lists it with all its points, and runs in training are shown up to their newest checkpoint. Offline, each becomes
a directory of the client's. Both stand in the folder's log; called later with an account it sends what is only offline,
and the sweep's summary run. Of several on one folder one sends at a time.
"""

import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import wandb

from harness.checks import check_choice
from harness.config import TRACKER_MODES
from harness.following import NOT_YET, Starter, begin_following, check_folder, say_kept, sole_sender
from harness.leases import Held
from harness.outbox import Outbox
from harness.store import StoreError
from harness.summary_run import keep_summary
from harness.tracking import choose_mode
from harness.wandb_client import NoAnswer, hide_key, own_folder, read_mode

USAGE = f"""usage: python -m harness.mirror FOLDER [MODE [PROJECT [ENTITY]]], e.g. runs/smoke online
sends the runs of a sweep's folder that W&B lacks; MODE is one of {", ".join(TRACKER_MODES)}"""
POLL = 0.5  # seconds
SHARE = 0.05  # of the time before all is trained: a run costs some 45 ms of a core, which training lacks
SEND_EVERY = 15.0  # seconds between deliveries: each starts a process of the client
LIVE_EVERY = 60.0  # seconds between looks at runs in training
LONGEST_WAIT = 300.0  # seconds until the next try where nothing goes through
LAST_TRIES = 2  # without progress, when training has ended
BROKEN = 4  # exit code: it could not go on


def mirror(folder: Path, *, mode: str, project: str, entity: str | None, starter: Starter) -> bool:
    """Send what is missing until its starter is gone; returns whether nothing is left."""
    try:
        mode = choose_mode(mode)
    except NoAnswer as reason:
        print(f"{reason}; {say_kept(folder, project, entity)}", file=sys.stderr, flush=True)
        return False
    if mode == "disabled":
        print("W&B is disabled (WANDB_MODE=disabled): nothing is sent")
        return True
    with sole_sender(folder, "mirror", starter.closed) as other:
        if isinstance(other, Held):
            text = f"{other.holder} sends these runs to W&B just now"
            print(f"{text}; {say_kept(folder, project, entity)}", file=sys.stderr, flush=True)
            return False
        here = Outbox(folder, mode, project, entity)
        if mode == "online":
            while_training(here, starter)
            write_summary(here, starter.summary)
            done = finish(here)
        else:
            write_offline(here, starter)
            write_summary(here, starter.summary)
            done = True
        print(here.describe(), flush=True)
        return done


def write_offline(here: Outbox, starter: Starter) -> None:
    while True:
        last_look = starter.closed.is_set()
        here.look()
        for row in list(here.waiting.values()):
            began = time.monotonic()
            here.write(row)
            starter.trained.wait(share_of(time.monotonic() - began))
        if last_look:
            return
        starter.closed.wait(POLL)


def write_summary(here: Outbox, text: str) -> None:
    """The sweep's summary run, where there is one; runs are sent whatever becomes of it."""
    try:
        if text:
            keep_summary(json.loads(text), here.folder, project=here.project, entity=here.entity)
    except Exception as error:
        reason = hide_key(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
        print(f"no W&B summary run: {reason}; the same command tries again", file=sys.stderr, flush=True)


def while_training(here: Outbox, starter: Starter) -> None:
    """Send now and then; where nothing goes through the next try waits longer, and it is told once."""
    wait, told, closed = SEND_EVERY, False, starter.closed
    next_send, next_live = time.monotonic(), time.monotonic() + LIVE_EVERY
    while not closed.is_set():
        now = time.monotonic()
        if now >= next_send:
            here.look()
            if here.waiting and not here.send(closed.is_set) and not closed.is_set():
                wait = min(2 * wait, LONGEST_WAIT)
                if not told:
                    print(f"{here.why}; training goes on", file=sys.stderr, flush=True)
                    told = True
            else:
                wait = SEND_EVERY
            next_send = time.monotonic() + max(wait, share_of(time.monotonic() - now))
        elif now >= next_live and wait == SEND_EVERY:
            here.show_running(closed.is_set)
            next_live = time.monotonic() + max(LIVE_EVERY, share_of(time.monotonic() - now))
        closed.wait(POLL)


def share_of(took: float) -> float:
    """Seconds to wait after a delivery that took so long, so that training keeps the machine; not for ever."""
    return min(took / SHARE, LONGEST_WAIT)


def finish(here: Outbox) -> bool:
    """Training has ended: try again while something goes through; whether all arrived."""
    tries = 0
    here.refused = False
    while tries < LAST_TRIES and not here.refused:
        here.look()
        left = len(here.waiting)
        if not left or here.send():
            here.why = ""
            return here.send_summary()
        tries = 0 if len(here.waiting) < left else tries + 1
    here.look()
    return False


def check_arguments(arguments: list[str]) -> tuple[Path, str, str, str]:
    """Folder, mode, project and entity. Raises: ValueError for a mistake."""
    if not 1 <= len(arguments) <= 4:
        raise ValueError(USAGE)
    folder, mode, project, entity = (arguments + ["auto", "scaling-harness", ""][len(arguments) - 1 :])[:4]
    check_choice("MODE", mode, TRACKER_MODES)
    read_mode(mode)
    return check_folder(folder), mode, project, entity


def main() -> int:
    """Exit code: 0, 2 on a mistake of the user's, 3 where something is not at W&B yet, 4 where it cannot go on.

    Whatever the reason, it is told in a line.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE)
        return 0
    try:
        folder, mode, project, entity = check_arguments(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in ("CACHE", "DATA"):  # logs, and files on their way into an artifact: they would go to the home folder
        os.environ.setdefault(f"WANDB_{name}_DIR", str(own_folder().resolve() / name.lower()))
    try:
        done = mirror(folder, mode=mode, project=project, entity=entity or None, starter=begin_following())
    except (StoreError, ValueError, OSError, pa.ArrowException, wandb.Error) as error:
        text = hide_key(" ".join(f"{error}".split()))[:400] or type(error).__name__
        print(f"W&B: {text}; {say_kept(folder, project, entity or None)}", file=sys.stderr)
        return BROKEN
    return 0 if done else NOT_YET


if __name__ == "__main__":
    sys.exit(main())
