"""A saved view and a report in W&B for one sweep: `python -m analysis.dashboard NAME`; repeated, it updates both."""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from analysis.analyse import analyse_runs
from analysis.answer import write_answer
from analysis.answers import choose_answer
from analysis.drawing import find_arrays, find_question
from analysis.plot import OneLineParser, select_tables
from analysis.summary import Summary, describe, summarise_analysis, summarise_answer
from analysis.write import publish, write_figure, write_further
from harness.wandb_client import NoAnswer, connect, failures_in_one_line, has_account, own_folder, read_mode

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

CURE = "pip install -c constraints.txt -e '.[dashboard]', in the clone"


def draw_summary(name: str, frame: pd.DataFrame, out: Path, runs: str | None) -> tuple[Summary, list[str]]:
    """Analyse and draw a sweep; what it says, and the names of its figures."""
    question = find_question(name, runs)
    if analyse := choose_answer(name, frame):
        answer = analyse(name, frame, question, find_arrays(name, runs))
        paths, said = write_answer(answer, out), summarise_answer(answer, frame)
    else:
        analysis = analyse_runs(name, frame, question)
        paths = [*write_figure(analysis, out), *write_further(analysis, out)]
        said = summarise_analysis(analysis, frame)
    return said, [path.stem for path in paths if path.suffix == ".png"]


def write_dashboard(summary: Summary, figures: Sequence[str], entity: str, project: str, out: Path) -> Path:
    """NAME-dashboard.json: view and report as W&B would get them, made without a server."""
    from analysis.panels import build_report, build_workspace

    view = build_workspace(summary, figures, entity, project)._to_model()
    report = build_report(summary, figures, "", "")._to_model()
    content = {
        "sweep": summary.sweep, "entity": entity, "project": project,
        "workspace": json.loads(view.model_dump_json(by_alias=True, exclude_none=True)),
        "report": json.loads(report.model_dump_json(by_alias=True, exclude_none=True)),
    }  # fmt: skip
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path = out / f"{summary.sweep}-dashboard.json"
    publish(path, lambda at: at.write_text(text, encoding="utf-8"))
    return path


def save_view(view: "ws.Workspace") -> str:
    """Make the view, or update the one of its name; sections that somebody added by hand stay. Returns: its address."""
    import wandb_workspaces.workspaces as ws

    from analysis.panels import name_part

    name = name_part("view", view.name)
    try:
        old = ws.Workspace.from_url(f"https://wandb.ai/{view.entity}/{view.project}?nw={name}")
    except ValueError as error:
        if "Workspace" not in str(error):
            raise  # no such project
        view._internal_name = f"nw-{name}-v"  # W&B takes the name that a client gives a view
        return str(view.save().url)
    ours = {section.name for section in view.sections}
    old.sections = [*view.sections, *(section for section in old.sections if section.name not in ours)]
    old.settings, old.runset_settings = view.settings, view.runset_settings
    return str(old.save().url)


def save_report(report: Any, api: Any) -> str:
    """Make the report, or update the one of its title. Returns: its address."""
    for other in api.reports(f"{report.entity}/{report.project}"):
        if other.display_name == report.title:
            report.id = other.id
            break
    return str(report.save().url)


def save_dashboard(summary: Summary, figures: Sequence[str], api: Any, entity: str, project: str) -> list[str]:
    """Send both; returns a line each.

    Raises: NoAnswer; ValueError for a project that is not there.
    """
    from analysis.panels import build_report, build_workspace

    with failures_in_one_line():
        view = save_view(build_workspace(summary, figures, entity, project))
        report = save_report(build_report(summary, figures, entity, project), api)
    return [f"view: {view}", f"report: {report}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, 1 where W&B does not answer, 2 on a mistake of the user's, told in a line."""
    parser = OneLineParser(prog="python -m analysis.dashboard", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="a sweep")
    parser.add_argument("--project", default="scaling-harness", help="of W&B; as tracker.project")
    parser.add_argument("--entity", default="", help="user or team; as tracker.entity")
    parser.add_argument("--runs", metavar="SOURCE", help="as of analysis/plot.py")
    parser.add_argument(
        "--out", type=Path, default=Path("figures"), metavar="DIR", help="figures and NAME-dashboard.json"
    )
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("wandb_workspaces") is None:
        parser.error(f"views and reports need wandb-workspaces: {CURE}")
    try:
        ((name, frame, sentence),) = select_tables([options.name], options.runs)
        print(sentence)
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_CACHE_DIR", str(own_folder().resolve() / "cache"))  # else in the home folder
        mode = read_mode("online")
        online = mode == "online" and has_account()
        api = connect(options.entity or None, options.project) if online else None
        with failures_in_one_line():
            entity = options.entity or (str(api.default_entity) if api else "")
        with Console(stderr=True).status(f"fitting and drawing {name}"):
            summary, figures = draw_summary(name, frame, options.out, options.runs)
        path = write_dashboard(summary, figures, entity, options.project, options.out)
        if api is None:
            why = "no W&B account (`wandb login`, or WANDB_API_KEY): with one"
            why = why if mode == "online" else f"W&B is {mode} (WANDB_MODE={os.environ['WANDB_MODE']}): online"
            what = f"a view and a report of {name} in {options.project}, with {describe(summary)}"
            print(f"{why} this makes {what}; as JSON: {path}")
            return 0
        lines = save_dashboard(summary, figures, api, entity, options.project)
        print("\n".join([*lines, str(path)]))
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except NoAnswer as error:
        print(str(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
