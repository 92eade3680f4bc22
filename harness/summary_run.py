"""One W&B run a sweep with its analysis, written as the client's own offline run; the mirror delivers it.

It is of what analysis/summary.py told as JSON: tables, charts, figures, texts for an artifact. A version is one step of
the run NAME-summary: the newest shows, older figures stay. What was written stands in the folder with its sha256, so
that the same is not written again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from harness.records import WrittenSummary, append_summary
from harness.tracking import LEAN
from harness.wandb_client import own_folder

JOB_TYPE = "summary"
ARTIFACT = "analysis"
LINES = "wandb/lineseries/v0"  # W&B's own chart of many lines
FIGURES = "figures"


def name_summary(sweep: str) -> str:
    """The id of a sweep's summary run."""
    return f"{sweep}-{JOB_TYPE}"


def name_artifact(sweep: str) -> str:
    return f"{sweep}-{ARTIFACT}"


def write_summary(content: Mapping[str, Any], *, group: str, project: str, entity: str | None) -> Path:
    """Write a summary as one offline run; delivered, it goes on with the run of that id.

    Args:
        content: sweep, question, protocol, text, content_sha256; tables as {name: {columns, data}}; charts as
            {key, title, x, y, data}, where data are rows of x, line, y; figures, paths of png files; files, texts by
            name; provenance.
        group: the sweep whose runs it stands beside.

    Returns: the directory.
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
        config={key: content[key] for key in ("sweep", "question", "protocol", "content_sha256")},
        allow_val_change=True,
        resume="allow",
        reinit="create_new",
        mode="offline",
        dir=str(own_folder().parent.resolve()),  # the client loses what it writes to a relative one
        settings=LEAN,
    ) as run:
        values: dict[str, Any] = {chart["key"]: draw_lines(chart) for chart in content["charts"]}
        values |= {key: make_table(table["columns"], table["data"]) for key, table in content["tables"].items()}
        values |= {f"{FIGURES}/{path.stem}": wandb.Image(str(path)) for path in map(Path, content["figures"])}
        run.log(values, commit=True)
        told = {"num_runs": content["provenance"]["num_runs"], "content_sha256": content["content_sha256"]}
        run.summary.update(count_verdicts(content["tables"]) | told)
        # what is the same file by file is the same artifact to W&B: the sha256 is in a file too, so each has its own
        told = {"content_sha256": content["content_sha256"]}
        artifact = wandb.Artifact(name_artifact(name), type=ARTIFACT, metadata={**content["provenance"], **told})
        for path, text in texts.items():
            with artifact.new_file(path, encoding="utf-8") as file:
                file.write(text)
        run.log_artifact(artifact)
        return Path(run.dir).parent


def count_verdicts(tables: Mapping[str, Any]) -> dict[str, int]:
    """How many verdicts are confirmed, refuted and inconclusive."""
    table = tables.get("verdicts", {"columns": [], "data": []})
    return Counter(dict(zip(table["columns"], row, strict=True))["verdict"] for row in table["data"])


def trace_files(content: Mapping[str, Any]) -> dict[str, object]:
    """Code and counts of the runs, and a sha256 of every file and figure: names no host, path or user."""
    files = {name: text.encode() for name, text in content["files"].items()}
    files |= {path.name: path.read_bytes() for path in map(Path, content["figures"])}
    told = {**content["provenance"], "content_sha256": content["content_sha256"]}
    return {**told, "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}


def make_table(columns: list[Any], data: list[Any]) -> wandb.Table:
    """Columns may hold numbers beside nothing, and numbers beside text."""
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def draw_lines(chart: Mapping[str, Any]) -> Any:
    """A custom chart by W&B's own preset, and the table KEY_table behind it."""
    fields = {"step": "x", "lineKey": "line", "lineVal": "y"}
    table = make_table(["x", "line", "y"], chart["data"])
    titles = {"title": f"{chart['title']} ({chart['y']})", "xname": chart["x"]}
    return wandb.plot_table(LINES, table, fields, titles)


def keep_summary(content: Mapping[str, Any], folder: Path, *, project: str, entity: str | None) -> None:
    """Write a summary and note in its sweep's folder where it lies."""
    directory = write_summary(content, group=folder.name, project=project, entity=entity)
    written = WrittenSummary(name_summary(content["sweep"]), content["content_sha256"], directory.resolve(), sent=False)
    append_summary(folder, written, project=project, entity=entity or "")
