"""`dry_run=true`: runs, stacks, FLOPs, memory and an estimate of time, before anything is started."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from harness.checks import check_choice
from harness.config import say_count
from harness.estimate import estimate_stack
from harness.imports import has_own_code
from harness.launch import Request
from harness.machine import PEAKS
from harness.measure import choose_all
from harness.plan import Choice, Stack, make_plan, shape_of
from harness.stackable import why_alone
from harness.sweep import Sweep

MFU = 0.4  # share of a GPU's peak that is assumed, and said


def differing(choices: Sequence[Mapping[str, object]]) -> list[str]:
    """The keys that have not one value in all."""
    keys = dict.fromkeys(key for choice in choices for key in choice)
    return [key for key in keys if len({str(choice.get(key)) for choice in choices}) > 1]


def print_dry_run(settings: dict[str, Any], sweep: Sweep, request: Request) -> None:
    """What the command would train: stacks by shape with FLOPs, memory and time, and what is there already."""
    machine = request.machine
    device, workers = machine.device, machine.workers
    runs_dir = Path(settings["runs_dir"])
    choices = choose_all(sweep.runs, machine, runs_dir, probe=False)
    for shape, config in {shape_of(config): config for config in sweep.runs.values()}.items():
        if has_own_code(config) and (reason := why_alone(config, torch.device(device), runs_dir)):
            choices[shape] = Choice(1, alone=reason)
    plan = make_plan(sweep.name, sweep.runs, **request.options, choices=choices)
    ended = request.ended & set(sweep.runs)
    shapes: dict[str, list[Stack]] = {}
    for stack in plan.stacks:
        if (rest := stack.without(ended)).runs:
            shapes.setdefault(shape_of(rest.first), []).append(rest)
    models = differing([stacks[0].first.model for stacks in shapes.values()])
    table = Table("stacks", "runs", *(f"model.{key}" for key in models), "batch size", "steps", "optimizer", "FLOPs",
                  "MB a stack", "worker seconds")  # fmt: skip
    total_flops, seconds = 0.0, []
    torch.set_num_threads(1)
    console = Console(stderr=True)
    quiet, what = not console.is_terminal, "measuring a few steps of each shape"
    if quiet and shapes:
        print(f"{what}: {len(shapes)} of them", file=sys.stderr, flush=True)
    for stacks in track(shapes.values(), what, transient=True, console=console, disable=quiet):
        first, runs = stacks[0].first, sum(len(stack.runs) for stack in stacks)
        try:
            cost = estimate_stack(replace(stacks[0], compiled=False), torch.device(device), runs_dir)  # builds nothing
        except Exception as error:  # whatever a model or task raises
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(f"runs of model {first.model['name']} fail in their first step: {reason}") from error
        flops = cost.flops * runs / len(stacks[0].runs)
        total_flops += flops
        seconds.append(None if cost.seconds is None else cost.seconds * len(stacks))
        time = "too large to try" if seconds[-1] is None else f"{seconds[-1]:.1f}"
        table.add_row(
            str(len(stacks)), str(runs), *(str(first.model.get(key, "")) for key in models),
            str(first.batch_size), str(first.num_steps), str(first.optimizer["name"]),
            f"{flops:.2g}", f"{cost.bytes / 1e6:,.0f}", time,
        )  # fmt: skip
    if shapes:
        Console().print(table)
    for reason, count in Counter(s.alone for stacks in shapes.values() for s in stacks if s.alone).items():
        print(f"{say_count(count, 'run is', 'runs are')} trained one by one: {reason}")
    missing = len(sweep.runs) - len(ended)
    total_runs = say_count(len(sweep.runs), "run")
    print(f"{sweep.name}: {total_runs}, {len(ended)} done, {missing} to train; {total_flops:.3g} FLOPs")
    if missing and (name := settings["dry_run_device"]) is not None:
        print(describe_hours(str(name), total_flops, str(next(iter(sweep.runs.values())).precision)))
    elif missing and None in seconds:
        print(f"hours on a GPU: dry_run_device={' or '.join(PEAKS)}")
    if missing and None not in seconds:
        total = sum(x for x in seconds if x is not None) / workers
        print(f"about {total:.0f} s on {workers} {device} workers like this one, without start-up and evaluation")


def describe_hours(name: str, flops: float, precision: str) -> str:
    """How long so many FLOPs take on a GPU. Raises: ValueError for a GPU or a precision whose peak is not known."""
    check_choice("dry_run_device", name, PEAKS)
    peak = PEAKS[name].get(precision)
    if peak is None:
        text = f"dry_run_device={name} has no known peak in precision={precision}"
        raise ValueError(f"{text}: choose precision={' or '.join(PEAKS[name])}")
    hours = flops / (MFU * peak) / 3600
    return f"about {hours:.3g} hours of one {name}, at {MFU:.0%} of its {peak / 1e12:.3g} TFLOP/s in {precision}"
