"""What a command asks for: its settings checked, and what of a sweep they mean."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.checks import check_choice, check_limits
from harness.config import say_count
from harness.launchers import LAUNCHERS, check_launcher
from harness.measure import COMPILE
from harness.records import count_measured, count_weights
from harness.sweep import Sweep
from harness.trackers import check_tracker

OWN_NAME = "single"  # of runs without a sweep, see conf/config.yaml


def check_settings(settings: dict[str, Any]) -> None:
    """Raises: ValueError for a value that is none of those that there are, or two that contradict each other."""
    launcher = settings["launcher"]
    check_limits({key: settings[key] for key in ("metrics", "launcher")})
    check_choice("launcher.name", launcher["name"], LAUNCHERS)
    check_tracker(settings["tracker"])
    check_choice("launcher.device", launcher["device"], ("auto", "cpu", "cuda"))
    check_choice("launcher.compile", launcher["compile"], COMPILE)
    if launcher.get("cancel", False) and settings["dry_run"]:
        raise ValueError("launcher.cancel=true and dry_run=true: harness.status lists the jobs; leave one of them out")
    check_launcher(launcher)


def is_again(settings: dict[str, Any]) -> bool:
    """Whether runs are trained although they ended."""
    return bool(settings["refresh"] or settings["run_id"] is not None)


def choose_wanted(settings: dict[str, Any], sweep: Sweep) -> Sweep:
    """The sweep, or of its runs the one that run_id names. Raises: ValueError where it has none of that name."""
    if settings["run_id"] is None:
        return sweep
    run = str(settings["run_id"])
    check_choice("run_id", run, sweep.runs)
    return replace(sweep, runs={run: sweep.runs[run]})


def name_rounds(settings: dict[str, Any], sweep: Sweep) -> list[str] | None:
    """What an adaptive sweep asks for, whose runs may change while they are trained again; else None."""
    return [repr(sweep.adaptive)] if sweep.adaptive is not None and settings["run_id"] is None else None


def name_figure(sweep: Sweep) -> str:
    """The sweep's name; runs that are of none are named by themselves, so that no other command's figure is lost."""
    if sweep.name != OWN_NAME:
        return sweep.name
    ids = sorted(sweep.runs)
    return f"{sweep.name}-{ids[0] if len(ids) == 1 else hashlib.sha256(' '.join(ids).encode()).hexdigest()[:12]}"


def tell_lacking(settings: dict[str, Any], sweep: Sweep, folder: Path) -> None:
    """Say which runs of a sweep were trained before without what is asked for now."""
    lacking = len(sweep.runs) - count_weights(folder, sweep.runs)
    if settings["save_weights"] and lacking:
        text = f"{say_count(lacking, 'run was', 'runs were')} trained before without save_weights and"
        text += f" {'has' if lacking == 1 else 'have'} none"
        print(f"{text}: refresh=true trains again and saves them", file=sys.stderr)
    for option in ("noise_scale", "per_tensor", "memory"):
        lacking = len(sweep.runs) - count_measured(folder, sweep.runs, option) if settings["metrics"][option] else 0
        if lacking:
            text = f"{lacking} runs were trained before without metrics.{option} and have none"
            print(f"{text}: refresh=true trains again and measures them", file=sys.stderr)
