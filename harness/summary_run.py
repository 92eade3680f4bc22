"""One W&B run a sweep with its analysis: tables, charts, figures, an artifact. `python -m harness.summary_run FOLDER`.

The process reads from its standard input what analysis/summary.py wrote as JSON, sends it as the run NAME-summary, and
notes its sha256 in the sweep's folder. Every version is one step of that run: the newest shows, older figures stay.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from harness.config import say_count
from harness.records import append_summary
from harness.tracking import LEAN, choose_mode

JOB_TYPE = "summary"
LINES = "wandb/lineseries/v0"  # W&B's own chart of many lines
FIGURES = "figures"


def name_summary(sweep: str) -> str:
    """The id of a sweep's summary run."""
    return f"{sweep}-{JOB_TYPE}"


def hash_content(content: Mapping[str, Any]) -> str:
    """sha256 of all that a summary says, the figures' bytes with it and not their paths."""
    plain = {key: value for key, value in content.items() if key != "figures"}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())
    for path in map(Path, content["figures"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def send_summary(content: Mapping[str, Any], *, group: str, mode: str, project: str, entity: str | None) -> str | None:
    """Send a summary as one W&B run, or go on with the run of that id.

    Args:
        content: sweep, question, protocol, text; tables as {name: {columns, data}}; charts as {key, title, x, y, data},
            where data are rows of x, line, y; figures, paths of png files; files, texts by name; provenance.
        group: the sweep whose runs it stands beside.
    Returns: address of the project; None where the run is kept on disk.
    """
    name = str(content["sweep"])
    texts = {**content["files"], "provenance.json": json.dumps(trace_files(content), indent=1) + "\n"}
    with wandb.init(
        id=name_summary(name),
        name=name_summary(name),
        project=project,
        entity=entity,
        group=group,
        job_type=JOB_TYPE,
        tags=[JOB_TYPE],
        notes=content["text"],
        config={key: content[key] for key in ("sweep", "question", "protocol")}
        | {"content_sha256": hash_content(content)},
        allow_val_change=True,
        resume="allow",
        reinit="create_new",
        mode=mode,  # type: ignore[arg-type]
        settings=LEAN,
    ) as run:
        values: dict[str, Any] = {key: draw_lines(chart) for chart in content["charts"] for key in [chart["key"]]}
        values |= {key: make_table(table["columns"], table["data"]) for key, table in content["tables"].items()}
        values |= {f"{FIGURES}/{path.stem}": wandb.Image(str(path)) for path in map(Path, content["figures"])}
        run.log(values, commit=True)
        counts: dict[str, int] = {}
        for row in content["tables"]["verdicts"]["data"] if "verdicts" in content["tables"] else ():
            word = dict(zip(content["tables"]["verdicts"]["columns"], row, strict=True))["verdict"]
            counts[word] = counts.get(word, 0) + 1
        run.summary.update({"verdict": counts, "num_runs": content["provenance"]["num_runs"]})
        artifact = wandb.Artifact(f"{name}-analysis", type="analysis", metadata=dict(content["provenance"]))
        for path, text in texts.items():
            with artifact.new_file(path, encoding="utf-8") as file:
                file.write(text)
        run.log_artifact(artifact)
        return run.project_url if mode == "online" else None


def trace_files(content: Mapping[str, Any]) -> dict[str, object]:
    """Code and counts of the runs, and a sha256 of every file and figure: names no host, path or user."""
    files = {name: text.encode() for name, text in content["files"].items()}
    files |= {path.name: path.read_bytes() for path in map(Path, content["figures"])}
    return {**content["provenance"], "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}


def make_table(columns: list[Any], data: list[Any]) -> wandb.Table:
    """Columns may hold numbers beside nothing, and numbers beside text."""
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def draw_lines(chart: Mapping[str, Any]) -> Any:
    """A custom chart by W&B's own preset, and the table KEY_table behind it."""
    fields = {"step": "x", "lineKey": "line", "lineVal": "y"}
    table = make_table(["x", "line", "y"], chart["data"])
    titles = {"title": f"{chart['title']} ({chart['y']})", "xname": chart["x"]}
    return wandb.plot_table(LINES, table, fields, titles)


def main() -> int:
    """Arguments: folder of records, mode, project, entity (may be empty)."""
    folder, mode, project, entity = sys.argv[1:5]
    content = json.load(sys.stdin)
    own = (Path(os.environ.get("WANDB_DIR", ".")) / "wandb").resolve()
    for name in (
        "CACHE",
        "DATA",
        "CONFIG",
        "ARTIFACT",
    ):  # what the client keeps beside a run would go to the home folder
        os.environ.setdefault(f"WANDB_{name}_DIR", str(own / name.lower()))
    mode = choose_mode(mode)
    if mode == "disabled":
        return 0
    name = name_summary(content["sweep"])
    group = Path(folder).name
    address = send_summary(content, group=group, mode=mode, project=project, entity=entity or None)
    append_summary(Path(folder), name, hash_content(content), mode, project, entity)
    count = say_count(len(content["figures"]), "figure")
    where = f"sent to {address}" if address else "kept offline beside the runs"
    print(f"W&B: summary run {name} with {len(content['tables'])} tables and {count} {where}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
