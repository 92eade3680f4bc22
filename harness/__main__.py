"""`python -m harness sweep=NAME [overrides]`: compose -> sweep -> plan -> launch -> draw."""

import importlib.util
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it found, and it is told in one line here

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second of imports has nothing to save; cli sets the handler again

import hydra
from omegaconf import DictConfig
from rich.console import Console

from harness.command import cli, tell
from harness.compose import MISTAKES, compose_once, read_chosen, read_typed
from harness.config import CONF_DIR, ROOT, SWEEPS_DIR, match_types, say_count
from harness.launch import Detached, check_ranks, read_request, train_missing
from harness.launchers import check_cluster, known_clusters
from harness.launchers.jobs import cancel_jobs
from harness.launchers.local import warm_up
from harness.launchers.placed import NoCluster
from harness.overrides import check_overrides
from harness.records import keep_question, read_ended, read_records
from harness.request import (
    OWN_NAME,
    check_settings,
    choose_wanted,
    is_again,
    name_figure,
    name_rounds,
    tell_lacking,
)
from harness.rounds import Round, describe_round, describe_spent, next_round, spots_of
from harness.store import StoreError, writable_folder
from harness.sweep import Sweep, describe_cuts, describe_repeats, make_sweep
from harness.trackers import Mirror, choose_destination, mirroring

if TYPE_CHECKING:
    import pandas as pd

    from analysis.analyse import Analysis
    from analysis.answer import Answer


def run(settings: dict[str, Any], sweep: Sweep) -> int:
    """Train what is missing of a sweep and draw it; 0 when every run ended, 1 when one failed."""
    folder = writable_folder("runs_dir", settings["runs_dir"], sweep.name)
    writable_folder("figures_dir", settings["figures_dir"])
    if sweep.question and not (SWEEPS_DIR / f"{sweep.name}.yaml").exists():
        keep_question(folder, sweep.question)
    again = is_again(settings)
    import analysis.summary  # noqa: F401  here, while the workers' server imports torch: later drawing would wait

    if sweep.adaptive is not None:
        sweep = look_ahead(sweep, folder).sweep
    wanted = choose_wanted(settings, sweep)
    missing = again or bool(set(wanted.runs) - read_ended(folder))
    if missing:
        check_cluster(settings["launcher"])
    else:
        count = say_count(len(sweep.runs), "run is", "runs are")
        print(f"{sweep.name}: {'all ' * (len(sweep.runs) > 1)}{count} done, nothing to train")
    with mirroring(folder, settings["tracker"], missing=missing) as mirror:
        asked = name_rounds(settings, sweep)
        by_rounds = asked is not None
        begin = missing and (again or not by_rounds)
        failed = train_missing(settings, wanted, folder, again=again, asked=asked) if begin else 0
        if by_rounds and not failed:
            sweep, failed = train_rounds(settings, sweep, folder)
        mirror.say_trained()
        figures, said, composed = draw_sweep(settings, sweep, folder)
        sends = choose_destination(settings["tracker"]) != "disabled" and sweep.name != OWN_NAME
        if said is not None and composed is not None and sends:
            tell_wandb(said, composed, figures, mirror)
    if not failed:
        tell_lacking(settings, wanted, folder)
    if failed:
        print(f"{say_count(failed, 'run')} did not end; the same command trains what is missing", file=sys.stderr)
    return 1 if failed else 0


def look_ahead(sweep: Sweep, folder: Path) -> Round:
    """How far an adaptive sweep has come by its records."""
    from analysis.adaptive import propose

    return next_round(sweep, read_records(folder) if read_ended(folder) else None, propose)


def train_rounds(settings: dict[str, Any], sweep: Sweep, folder: Path) -> tuple[Sweep, int]:
    """Train an adaptive sweep round by round; returns it with all its runs, and how many failed."""
    from analysis.adaptive import Spot, describe_wide

    failed = 0
    while (now := look_ahead(sweep, folder)).added and not failed:
        print(describe_round(now.added), flush=True)
        failed = train_missing(settings, replace(sweep, runs=now.added), folder, again=False)
    assert sweep.adaptive is not None, "only such a sweep has rounds"
    spots = [Spot(*spot) for spot in spots_of(sweep.adaptive)]
    print(describe_spent(now.sweep) + describe_wide(spots, now.results, sweep.adaptive.tol))
    return now.sweep, failed


def draw_sweep(
    settings: dict[str, Any], sweep: Sweep, folder: Path
) -> "tuple[list[Path], Analysis | Answer | None, pd.DataFrame | None]":
    """Figure, table of optima, laws and verdicts of exactly the composed runs.

    Returns: the figures, what was said, None where there was nothing to say, and the runs.
    """
    from analysis.analyse import analyse_runs
    from analysis.answer import print_answer, write_answer
    from analysis.answers import choose_answer
    from analysis.report import print_report
    from analysis.write import write_figure, write_further

    out, name = Path(settings["figures_dir"]), name_figure(sweep)
    try:
        records = read_records(folder)
        composed = records[records["run_id"].isin(sweep.runs)]
        if analyse := choose_answer(sweep.name, composed, sweep.answer):
            answer = analyse(name, composed, sweep.question, folder)
            print_answer(answer)
            paths = [path for path in write_answer(answer, out) if path.suffix == ".png"]
            print("\n".join(map(str, paths)))
            return paths, answer, composed
        analysis = analyse_runs(name, composed, sweep.question)
        print_report(analysis)
        sys.stdout.flush()
        paths = write_figure(analysis, out)[:1]
        print(paths[0], flush=True)
    except ValueError as error:
        # Runs that all diverged, or failed, are a result too: say what is not drawn, and why
        print(f"no figure: {error}")
        return [], None, None
    try:
        further = [path for path in write_further(analysis, out) if path.suffix == ".png"]
        print("".join(f"{path}\n" for path in further), end="")
        paths += further
    except StoreError:
        raise
    except Exception as error:  # the answer stands without its further figures
        print(f"no further figures: {type(error).__name__}: {error}")
    return paths, analysis, composed


def tell_wandb(said: "Analysis | Answer", composed: "pd.DataFrame", figures: list[Path], mirror: Mirror) -> None:
    """Have the sweep's W&B summary run written; the sweep has ended well whatever becomes of that."""
    from analysis.summary import summarise, to_payload

    try:
        mirror.keep_summary(to_payload(summarise(said, composed), figures))
    except Exception as error:
        print(f"no W&B summary run: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)


def check_analysis() -> None:
    """Raises: ValueError when another package of that name would draw; better told before training than after."""
    found = importlib.util.find_spec("analysis")
    if found is None or found.origin != str(ROOT / "analysis" / "__init__.py"):
        where = found.origin or found.submodule_search_locations if found else None
        raise ValueError(f"the name analysis belongs to {where}, not to this project: run from another folder")


def execute() -> int:
    """The command, after Hydra has composed what was typed."""
    check_analysis()
    compose = compose_once()
    settings, defaults = compose({})
    notes = check_overrides(read_typed(), settings["sweep"], read_chosen("sweep"))
    settings = match_types(settings, defaults)
    check_settings(settings)
    cancel = settings["launcher"].get("cancel", False)
    if not settings["dry_run"] and settings["launcher"]["name"] == "local":
        warm_up()
    with Console(stderr=True).status("laying out the runs"):  # half a second for every choice of groups
        sweep = make_sweep(compose)
    check_ranks(settings["launcher"], sweep.runs)
    if cancel:
        folder = Path(settings["runs_dir"]) / sweep.name
        if not folder.is_dir():
            raise ValueError(f"no sweep of the name {sweep.name} is in {settings['runs_dir']}: nothing to cancel")
        count = cancel_jobs(folder, known_clusters())
        print(f"{sweep.name}: {say_count(count, 'stack was', 'stacks were')} cancelled; what is done stays")
        return 0
    for text in notes:
        print(text)
    for text in (
        *describe_repeats(settings["sweep"]["grid"]),
        *describe_cuts(settings, sweep.runs.values()),
    ):
        print(text, file=sys.stderr)
    if settings["dry_run"]:
        from harness.dry_run import print_dry_run  # here, since it needs torch

        if sweep.adaptive is not None:
            folder = Path(settings["runs_dir"]) / sweep.name
            sweep = look_ahead(sweep, folder).sweep
            print("adaptive: the runs so far and those of the next round; what follows depends on their results")
        wanted, folder = choose_wanted(settings, sweep), Path(settings["runs_dir"]) / sweep.name
        asked = name_rounds(settings, sweep)
        print_dry_run(settings, wanted, read_request(settings, wanted, folder, again=is_again(settings), asked=asked))
        return 0
    try:
        code = run(settings, sweep)
    except Detached as left:
        print(left)
        code = 1 if left.untrained else 0
    for text in notes:  # what was printed before training has scrolled away
        print(text)
    return code


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def main(_: DictConfig) -> None:
    # Inside Hydra, since it prints more than a line about an error that leaves this function
    try:
        code = execute()
    except MISTAKES as error:
        code = tell(error)
    except (StoreError, NoCluster) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        # Whoever read the output is gone (`| head`): finished stacks are kept, and there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    sys.exit(cli(main))
