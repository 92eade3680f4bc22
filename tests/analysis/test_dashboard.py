"""Oracle: names in panels are those that the mirror and the summary run put into the client's own offline files; counts
of views and reports are the stand-in's (tests/view_standin.py), which is no W&B."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from matplotlib import get_configdir

from analysis.dashboard import main
from tests.test_summary_run import read_run, write_smoke
from tests.test_tracking import items, mirror, read_offline
from tests.view_standin import add_views
from tests.wandb_standin import KEY, Server, serve

PANELS = {
    "Run History Line Plot", "Scatter Plot", "Vega2", "Media Browser", "Markdown Panel",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the records of a small sweep and its summary run."""
    folder = tmp_path_factory.mktemp("place")
    write_smoke(folder / "runs" / "mine")
    return folder


@pytest.fixture(scope="module")
def server():
    found = Server()
    with serve(found):
        yield found


CALLS = """
import contextlib, io, json, sys
from analysis.dashboard import main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@contextmanager
def commands(place, server=None, key=KEY):
    """The command in a process of its own, since the client remembers server and key for as long as its process lives.

    Without a server: without an account. Gives: a function of its arguments and exit code -> its two outputs.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {
        "HOME": str(place / "home"),
        "NETRC": str(place / "none"),
        "WANDB_CACHE_DIR": str(place / "wandb" / "cache"),
        "MPLCONFIGDIR": get_configdir(),  # the list of fonts takes long to make
    }
    env |= {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": key} if server else {}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", CALLS], cwd=place, env=env, text=True, **pipes)

    def dashboard(*arguments, code=0):
        process.stdin.write(json.dumps([*arguments, "--runs", "runs"]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, process.stderr.read()
        got, out, err = json.loads(line)
        assert got == code, out + err
        assert key not in out + err
        assert "Traceback" not in err
        return out, err

    yield dashboard
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def dashboard(place, server):
    with commands(place, server) as found:
        yield found


def panels_of(workspace):
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def test_panels_name_what_was_sent(place):
    with commands(place) as dashboard:
        out, _ = dashboard("mine", "--project", "p")
        first = (place / "figures" / "mine-dashboard.json").read_bytes()
        dashboard("mine", "--project", "p")
    assert (place / "figures" / "mine-dashboard.json").read_bytes() == first
    assert out.count("\n") == 2  # where the table is from, and what it would do
    assert "no W&B account" in out
    content = json.loads((place / "figures" / "mine-dashboard.json").read_text())
    assert (content["project"], content["workspace"]["displayName"]) == ("p", "mine by batch size")
    path = next(path for path in mirror(place / "runs" / "mine", place) if "summary" not in path.name)
    sent = read_offline(path)
    curve = {name for r in sent if r.WhichOneof("record_type") == "history" for name in items(r.history.item)}
    config = {name for r in sent if r.WhichOneof("record_type") == "run" for name in items(r.run.config.update)}
    last: dict = {}
    for r in sent:
        if r.WhichOneof("record_type") == "summary":
            last |= items(r.summary.update)
    keys = set(read_run(place, "mine")["history"])
    panels = [panel for part in panels_of(content["workspace"]).values() for panel in part]
    assert {panel["viewType"] for panel in panels} <= PANELS
    for panel in panels:
        values = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            assert {values["xAxis"], *values["metrics"]} <= curve
            assert (values["groupAgg"], values["groupArea"]) == ("mean", "stddev")
        if panel["viewType"] == "Vega2":
            (query,) = values["userQuery"]["queryFields"]
            (table,) = (field for field in query["fields"] if field["name"] == "summaryTable")
            assert table["args"][0]["value"] in keys
        if panel["viewType"] == "Media Browser":
            assert set(values["mediaKeys"]) <= keys
        if panel["viewType"] == "Scatter Plot":
            assert values["xAxis"] == "config:optimizer.value.lr"  # nested: its first part holds the rest
            assert {"optimizer", "batch_size"} <= config
            assert values["yAxis"] == "summary:loss"
            assert "loss" in last
    assert {"Loss against learning rate", "Weight RMS", "Noise scale along training"} <= set(
        panels_of(content["workspace"])
    )
    (runs,) = content["workspace"]["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["batch_size.value", "optimizer.value.lr"]


def test_one_view_and_one_report_however_often(server, dashboard):
    views = add_views(server)
    server.project("me", "p")
    out, _ = dashboard("mine", "--project", "p")
    assert f"view: {server.address}/me/p?nw=" in out
    assert f"report: {server.address}/me/p/reports/" in out
    first = views.spec("project-view")
    section = first["section"]["panelBankConfig"]["sections"][0] | {"name": "By hand"}
    first["section"]["panelBankConfig"]["sections"].append(section)
    (view,) = views.of_type("project-view")
    view["spec"] = json.dumps(first)
    dashboard("mine", "--project", "p")
    assert len(views.of_type("project-view")) == len(views.of_type("runs")) == 1
    names = [part["name"] for part in views.spec("project-view")["section"]["panelBankConfig"]["sections"]]
    assert names[-1] == "By hand"
    assert names.count("Weight RMS") == 1
    report = views.spec("runs")
    text = "".join(block.get("content", "") for block in report["blocks"] if block["type"] == "markdown-block")
    assert "claim **sde-slope**" in text
    assert KEY not in json.dumps(list(views.kept.values()))


def test_what_goes_wrong_at_the_server_is_told_in_a_line(place, server, dashboard):
    add_views(server)
    _, nowhere = dashboard("mine", "--project", "nowhere", code=2)
    assert "me/nowhere" in nowhere
    with commands(place, server, "b" * 40) as others:
        _, wrong = others("mine", code=1)
    assert "W&B refuses the API key" in wrong
    server.cut = True
    _, cut = dashboard("mine", code=1)
    assert "W&B does not answer" in cut
    assert all(text.count("\n") == 1 for text in (nowhere, wrong, cut))


def test_mistakes_are_told_in_a_line(monkeypatch, capsys):
    assert main(["no_sweep"]) == 2
    assert "'no_sweep' is not one of the sweeps" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main(["mine", "--runs", "runs"])
    assert ended.value.code == 2
    assert "pip install -c constraints.txt -e '.[dashboard]'" in capsys.readouterr().err


def test_analysis_without_the_command_needs_no_client():
    code = "import sys, analysis.plot, analysis.dashboard, analysis.summary; print('wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
