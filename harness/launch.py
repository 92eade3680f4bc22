"""Train the runs of a sweep that did not end yet: lay a plan or take up the one that there is, and launch it."""

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.config import RunConfig, say_count
from harness.corpus import read_corpus
from harness.imports import has_own_code
from harness.launchers import LAUNCHERS, choose_place
from harness.launchers.placed import say_state
from harness.measure import Machine, choose_all
from harness.plan import Choice, Plan, check_shares, make_plan, shape_of
from harness.plan_file import name_request, newest_since, open_plan
from harness.progress import Display
from harness.records import read_ended, store_corpus
from harness.sweep import Sweep
from harness.unfinished import remove_ended


@dataclass(frozen=True)
class Request:
    """What a command asks for, and how much of it is there.

    Attributes:
        name: since -> name of the request, see harness/plan_file.py.
        since: from when on records count; None: all do.
        ended: run_ids whose records count.
    """

    options: dict[str, Any]
    machine: Machine
    num_devices: int
    name: Callable[..., str]
    since: str | None
    ended: set[str]


def read_request(
    settings: dict[str, Any], sweep: Sweep, folder: Path, *, again: bool, asked: Collection[str] | None = None
) -> Request:
    """See train_missing; it starts and writes nothing.

    Raises: ValueError for a device that is not there.
    """
    launcher = settings["launcher"]
    device, num_devices, workers = choose_place(launcher)
    options = {"device": device, "width": launcher["width"], "metrics": settings["metrics"]}
    options["save_weights"] = settings["save_weights"]
    if (ranks := launcher.get("data_parallel", 1)) > 1:
        options["data_parallel"] = ranks
        launcher = {**launcher, "compile": "never"}
    how = {name: launcher[name] for name in ("compile", "micro_batch", "memory_share")}
    name = partial(name_request, sweep.name, asked or sweep.runs, **options, **how)
    since = since_when(folder, sweep.runs, name) if again else None
    machine = Machine(device, workers, width=launcher["width"], **how)
    return Request(options, machine, num_devices, name, since, read_ended(folder, since))


def check_ranks(launcher: Mapping[str, Any], runs: Mapping[str, RunConfig]) -> None:
    """Raises: ValueError for runs that the ranks asked for cannot share."""
    if (ranks := launcher.get("data_parallel", 1)) > 1:
        check_shares(runs.values(), ranks, launcher["compile"])


class Detached(Exception):
    """Stacks wait or run without this command, which asked for that, or another command cancelled them.

    Attributes:
        untrained: whether there are runs that nobody trains now: they were cancelled, or failed.
    """

    def __init__(self, states: Mapping[str, int], cancelled: int, failed: int) -> None:
        said = []
        if states:
            count = say_count(sum(states.values()), "stack is", "stacks are")
            how = ", ".join(f"{number} {word}" for word, number in states.items())
            said.append(f"{count} left to the cluster ({how}): the same command later collects them")
        if cancelled:
            count = say_count(cancelled, "stack was", "stacks were")
            text = f"{count} cancelled, or told as failed, by another command"
            said.append(f"{text}: the same command trains what is missing")
        super().__init__("\n".join(said))
        self.untrained = bool(cancelled or failed)


def train_missing(
    settings: dict[str, Any], sweep: Sweep, folder: Path, *, again: bool, asked: Collection[str] | None = None
) -> int:
    """Launch the stacks with runs that did not end yet, or all of them again; returns how many runs failed.

    Args:
        asked: what names the request where its runs follow from results; None: its runs.
    """
    launcher = settings["launcher"]
    texts = {
        config.task["corpus_sha256"]: config.task for config in sweep.runs.values() if "corpus_sha256" in config.task
    }
    for task in texts.values():
        store_corpus(settings["runs_dir"], read_corpus(task))
    request = read_request(settings, sweep, folder, again=again, asked=asked)
    since, ended = request.since, request.ended

    def lay(runs: dict[str, RunConfig]) -> Plan:
        here = request.machine.device == "cpu" or request.num_devices > 0
        choices = choose_all(runs, request.machine, Path(settings["runs_dir"]), probe=here)
        choices |= {} if here else stackable_here(runs, Path(settings["runs_dir"]))
        return make_plan(sweep.name, runs, **request.options, since=since, choices=choices)

    path, plan = open_plan(folder, request.name(since=since), sweep.runs, ended, lay)
    waiting = [i for i, stack in enumerate(plan.stacks) if stack.without(ended).runs]
    for reason, count in Counter(plan.stacks[i].alone for i in waiting if plan.stacks[i].alone).items():
        print(f"{say_count(count, 'run is', 'runs are')} trained one by one: {reason}")
    pace = {"launcher": launcher, "num_devices": request.num_devices, "workers": request.machine.workers}
    queued: dict[int, str] = {}  # stack that waits or runs without this command -> how
    cancelled: set[int] = set()
    failed: dict[str, list[str]] = {}  # reason -> run_ids
    with (
        closing(LAUNCHERS[launcher["name"]](path, plan, waiting, **pace)) as launched,
        Display(plan, waiting, ended) as display,
    ):
        for stack, message in launched:
            display.show(stack, message)
            if "queued" in message:
                queued[stack] = message["queued"]
            if "cancelled" in message:
                cancelled.add(stack)
            for run, status, reason in message.get("ended", ()):
                if status == "failed":
                    failed.setdefault(reason, []).append(run)
    remove_ended(folder, read_ended(folder, since), since)
    for reason, runs in failed.items():
        print(f"{say_count(len(runs), 'run')} failed: {reason}", file=sys.stderr)
        print(f"  one of them alone: {command_for(runs[0])}", file=sys.stderr)
    count = sum(map(len, failed.values()))
    if queued or cancelled:
        raise Detached(Counter(map(say_state, queued.values())), len(cancelled), count)
    return count


def stackable_here(runs: Mapping[str, RunConfig], runs_dir: Path) -> dict[str, Choice]:
    """Shapes of a user's own code that cannot be stacked, tried on this host's processor: it has no GPU."""
    choices: dict[str, Choice] = {}
    for shape, config in {shape_of(config): config for config in runs.values()}.items():
        if has_own_code(config):
            import torch  # here, since most sweeps need it not

            from harness.stackable import why_alone

            if reason := why_alone(config, torch.device("cpu"), runs_dir):
                choices[shape] = Choice(1, alone=reason)
    return choices


def since_when(folder: Path, runs: Collection[str], name: Callable[..., str]) -> str:
    """From when on records count of runs that are trained again: the last time's, if not all ended since, or now.

    Args:
        name: since -> name of the request.
    """
    last = newest_since(folder, name)
    if last is not None and set(runs) - read_ended(folder, last):
        return last
    return datetime.now(UTC).isoformat(timespec="microseconds")


def command_for(run: str) -> str:
    """What was typed, for one run of it."""
    typed = [text for text in sys.argv[1:] if not text.startswith(("run_id=", "refresh="))]
    return shlex.join(["python", "-m", "harness", *typed, f"run_id={run}"])
