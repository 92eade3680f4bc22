"""`python -m harness sweep=NAME [overrides]`: compose -> sweep -> plan -> launch -> draw."""

import hashlib
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it found, and it is told in one line here

import hydra
from omegaconf import DictConfig
from rich.console import Console

from harness.compose import (
    MISTAKES,
    compose_once,
    describe_options,
    explain,
    read_chosen,
    read_typed,
    register_sweeps,
)
from harness.config import CONF_DIR, ROOT, SWEEPS_DIR, TRACKER_MODES, check_choice, check_limits, match_types, say_count
from harness.launch import Detached, read_request, train_missing
from harness.launchers import LAUNCHERS, known_clusters
from harness.launchers.jobs import cancel_jobs
from harness.launchers.local import warm_up
from harness.measure import COMPILE
from harness.overrides import check_overrides
from harness.records import (
    count_measured,
    count_weights,
    keep_question,
    read_attempts,
    read_ended,
    read_mirrored,
    read_records,
    read_summaries,
)
from harness.rounds import Round, describe_round, describe_spent, next_round, spots_of
from harness.store import StoreError, writable_folder
from harness.sweep import Sweep, describe_repeats, make_sweep
from harness.trackio_mirror import check_installed

if TYPE_CHECKING:
    from analysis.summary import Summary

HELP = """Train what a sweep lacks, fit laws to all of it, draw it.

  python -m harness sweep=smoke                            a sweep of seconds
  python -m harness sweep=lr_vs_bs                         the main job
  python -m harness sweep=lr_vs_bs dry_run=true            what it would cost; starts nothing
  python -m harness sweep=lr_vs_bs 'sweep.grid.seed=[0,1,2]'   another axis in place of one of the sweep's
  python -m harness optimizer=sgd optimizer.lr=0.5         one run
  --config-dir DIR    your own YAML: DIR/sweep/NAME.yaml, DIR/model/NAME.yaml, ...
  --cfg job           all values, composed;  --hydra-help  Hydra's own flags"""


MIRRORS = {"wandb": "harness.mirror", "trackio": "harness.trackio_mirror"}  # tracker -> the process that mirrors
OWN_NAME = "single"  # of runs without a sweep, see conf/config.yaml


def run(settings: dict[str, Any], sweep: Sweep) -> int:
    """Train what is missing of a sweep and draw it; 0 when every run ended, 1 when one failed."""
    folder = writable_folder("runs_dir", settings["runs_dir"], sweep.name)
    writable_folder("figures_dir", settings["figures_dir"])
    if sweep.question and not (SWEEPS_DIR / f"{sweep.name}.yaml").exists():
        keep_question(folder, sweep.question)
    again = is_again(settings)
    from analysis.summary import to_payload  # here, while the workers' server imports torch: later it would wait

    if sweep.adaptive is not None:
        sweep = look_ahead(sweep, folder).sweep
    wanted = choose_wanted(settings, sweep)
    missing = again or bool(set(wanted.runs) - read_ended(folder))
    if not missing:
        count = say_count(len(sweep.runs), "run is", "runs are")
        print(f"{sweep.name}: {'all ' * (len(sweep.runs) > 1)}{count} done, nothing to train")
    with mirroring(folder, settings["tracker"], missing=missing):
        asked = name_rounds(settings, sweep)
        by_rounds = asked is not None
        begin = missing and (again or not by_rounds)
        failed = train_missing(settings, wanted, folder, again=again, asked=asked) if begin else 0
        if by_rounds and not failed:
            sweep, failed = train_rounds(settings, sweep, folder)
        figures, said = draw_sweep(settings, sweep, folder)
        if said is not None and settings["tracker"]["name"] != "none" and sweep.name != OWN_NAME:
            write_summary_run(to_payload(said, figures), folder, settings["tracker"])
    if settings["save_weights"] and (lacking := len(wanted.runs) - count_weights(folder, wanted.runs)) and not failed:
        text = f"{say_count(lacking, 'run was', 'runs were')} trained before without save_weights and"
        text += f" {'has' if lacking == 1 else 'have'} none"
        print(f"{text}: refresh=true trains again and saves them", file=sys.stderr)
    for option in ("noise_scale", "per_tensor", "memory"):
        if not settings["metrics"][option] or failed:
            continue
        lacking = len(wanted.runs) - count_measured(folder, wanted.runs, option)
        if lacking:
            text = f"{lacking} runs were trained before without metrics.{option} and have none"
            print(f"{text}: refresh=true trains again and measures them", file=sys.stderr)
    if failed:
        print(f"{say_count(failed, 'run')} did not end; the same command trains what is missing", file=sys.stderr)
    return 1 if failed else 0


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


def draw_sweep(settings: dict[str, Any], sweep: Sweep, folder: Path) -> "tuple[list[Path], Summary | None]":
    """Figure, table of optima, laws and verdicts of exactly the composed runs.

    Returns: the figures, and what was said, None where there was nothing to say.
    """
    from analysis.analyse import analyse_runs
    from analysis.answer import print_answer, write_answer
    from analysis.answers import choose_answer
    from analysis.report import print_report
    from analysis.summary import summarise_analysis, summarise_answer
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
            return paths, summarise_answer(answer, composed)
        analysis = analyse_runs(name, composed, sweep.question)
        print_report(analysis)
        sys.stdout.flush()
        paths = write_figure(analysis, out)[:1]
        print(paths[0], flush=True)
    except ValueError as error:
        # Runs that all diverged, or failed, are a result too: say what is not drawn, and why
        print(f"no figure: {error}")
        return [], None
    try:
        further = [path for path in write_further(analysis, out) if path.suffix == ".png"]
        print("".join(f"{path}\n" for path in further), end="")
        paths += further
    except StoreError:
        raise
    except Exception as error:  # the answer stands without its further figures
        print(f"no further figures: {type(error).__name__}: {error}")
    return paths, summarise_analysis(analysis, composed)


def write_summary_run(content: dict[str, Any], folder: Path, tracker: dict[str, Any]) -> None:
    """Write the W&B run NAME-summary for the mirror, by a process of its own, unless W&B was told the same before."""
    project, entity = str(tracker["project"]), str(tracker["entity"] or "")
    same = {"id": f"{content['sweep']}-summary", "project": project, "entity": entity}
    written = [entry for entry in read_summaries(folder) if same.items() <= entry.items()]
    if written and written[-1]["sha256"] == content["content_sha256"]:
        return
    command = [sys.executable, "-m", "harness.summary_run", str(folder), project, entity]
    done = subprocess.run(command, input=json.dumps(content), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        print(f"no W&B summary run: {last}; the same command tries again", file=sys.stderr)


def name_figure(sweep: Sweep) -> str:
    """The sweep's name; runs that are of none are named by themselves, so that no other command's figure is lost."""
    if sweep.name != OWN_NAME:
        return sweep.name
    ids = sorted(sweep.runs)
    return f"{sweep.name}-{ids[0] if len(ids) == 1 else hashlib.sha256(' '.join(ids).encode()).hexdigest()[:12]}"


@contextmanager
def mirroring(folder: Path, tracker: dict[str, Any], *, missing: bool) -> Iterator[None]:
    """While the body runs, a process of its own sends to the tracker what is published; after it, it gets to finish."""
    sends, place = tracker["name"] != "none", {"wandb": "W&B"}.get(tracker["name"], tracker["name"])
    has_all = tracker["name"] == "wandb" and not read_attempts(folder) - read_mirrored(folder)
    options = [str(tracker.get(key) or "") for key in ("mode", "project", "entity")]
    command = [sys.executable, "-m", MIRRORS.get(tracker["name"], ""), str(folder), *options]
    if not sends or (has_all and not missing):
        before = read_summaries(folder)
        yield
        told = "W&B has them already" if sends else "none were sent to W&B (tracker=none)"
        print(f"records: {folder}; {told}", flush=True)
        if sends and read_summaries(folder) != before:  # another analysis of the same runs
            subprocess.run(command, stdin=subprocess.DEVNULL)
        return
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        yield
    finally:
        print(f"records: {folder}", flush=True)  # the mirror says where it sends them
        process.stdin.close()
    with Console().status(f"sending what is left to {place}"):
        code = process.wait()
    if code not in ((0, 1) if tracker["name"] == "wandb" else (0,)):  # 1: W&B's has said what is not there yet
        print(f"the {place} mirror ended with code {code}; send again: {shlex.join(command)}", file=sys.stderr)


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
    check_limits({key: settings[key] for key in ("metrics", "launcher")})
    check_choice("launcher.name", settings["launcher"]["name"], LAUNCHERS)
    if settings["tracker"]["name"] == "wandb":
        check_choice("tracker.mode", settings["tracker"]["mode"], TRACKER_MODES)
    if settings["tracker"]["name"] == "trackio":
        check_installed()
    check_choice("launcher.device", settings["launcher"]["device"], ("auto", "cpu", "cuda"))
    check_choice("launcher.compile", settings["launcher"]["compile"], COMPILE)
    cancel = settings["launcher"].get("cancel", False)
    if cancel and settings["dry_run"]:
        raise ValueError("launcher.cancel=true and dry_run=true: harness.status lists the jobs; leave one of them out")
    if not settings["dry_run"] and settings["launcher"]["name"] == "local":
        warm_up()
    with Console(stderr=True).status("laying out the runs"):  # half a second for every choice of groups
        sweep = make_sweep(compose)
    if cancel:
        count = cancel_jobs(Path(settings["runs_dir"]) / sweep.name, known_clusters())
        print(f"{sweep.name}: {say_count(count, 'stack was', 'stacks were')} cancelled; what is done stays")
        return 0
    for text in notes:
        print(text)
    for text in describe_repeats(settings["sweep"]["grid"]):
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
        return run(settings, sweep)
    except Detached as left:
        print(left)
        return 1 if left.failed else 0


def tell(error: Exception) -> int:
    print(f"error: {explain(error)}", file=sys.stderr)
    return 2


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def main(_: DictConfig) -> None:
    # Inside Hydra, since it prints more than a line about an error that leaves this function
    try:
        code = execute()
    except MISTAKES as error:
        code = tell(error)
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        # Whoever read the output is gone (`| head`): finished stacks are kept, and there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def cli() -> int:
    """Exit code: 0, 1 when a run failed, 2 on a mistake of the user's, 130 when interrupted, 143 by SIGTERM."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP + "\n" + describe_options())
        return 0
    if {"-m", "--multirun"} & set(sys.argv[1:]):
        return tell(ValueError("--multirun is not used here: give an axis, e.g. sweep.grid.optimizer.lr=[0.1,0.2]"))
    elsewhere = [text for text in sys.argv[1:] if text.startswith("launcher=") and text != "launcher=local"]
    if not elsewhere and all("=" in text and not text.startswith(("-", "dry_run=")) for text in sys.argv[1:]):
        warm_up()  # before all else: it takes three seconds
    register_sweeps(sys.argv[1:])
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except MISTAKES as error:
        return tell(error)
    except KeyboardInterrupt as ending:
        print("\ninterrupted: all that was trained is kept; the same command goes on from there", file=sys.stderr)
        return 143 if ending.args == (signal.SIGTERM,) else 130
    return 0


def interrupt(number: int, frame: object) -> None:
    """SIGTERM, of a scheduler or a shutdown, ends the command as Ctrl-C does: workers save what they have."""
    raise KeyboardInterrupt(signal.Signals(number))


if __name__ == "__main__":
    sys.exit(cli())
