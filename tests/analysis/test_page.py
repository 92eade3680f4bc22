"""Oracle: the contract of a page that needs nothing else, read with html.parser, and the sweep's own JSON."""

import base64
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from planting import plant_table

from analysis import page
from analysis.answer import Answer
from analysis.claims import Verdict
from analysis.page import link, make_page, write_index, write_page
from analysis.page_tables import hide_folders
from analysis.plot import main
from analysis.write import publish

HOSTILE = "<script>alert(1)</script> \"><img src=x onerror='alert(1)'> {{ 7 * 7 }} & Müller?"
VOID = ("meta", "img", "link", "br", "hr", "input")


class Reader(HTMLParser):
    """Tags in order with their attributes, and the text of every table's rows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.rows, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def check_alone(text):
    """Nothing is asked for over a network, nothing runs, and every picture has a text."""
    seen = Reader(text)
    for tag, attrs in seen.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attrs if name.startswith("on") or name in ("style", "srcset", "background")]
        if "src" in attrs:
            assert attrs["src"].startswith("data:image/")
            assert len(attrs["alt"]) > 20
        if "href" in attrs:
            assert tag == "a"
            assert re.match(r"#|https://(arxiv\.org/abs|kexue\.fm/archives)/[\d.]+$|[\w.%-]+\.html$", attrs["href"])
    style = "".join(re.findall("<style>(.*?)</style>", text, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    policy = next(a["content"] for tag, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    return seen


def check_verdicts(seen, content):
    """Every verdict of the JSON is a row of its own, with its numbers."""
    rows = list(seen.rows)
    for verdict in content["verdicts"]:
        numbers = [f"{name} {value:.4g}" for name, value in verdict["numbers"].items()
                   if value is not None and name != "predicted"]  # fmt: skip
        predicted = f"{verdict['numbers']['predicted']:.3g}"
        found = [row for row in rows if {verdict["claim"], verdict["verdict"], predicted} <= set(row)
                 and set(numbers) <= set(", ".join(row).split(", "))]  # fmt: skip
        assert found, verdict
        rows.remove(found[0])
        assert not verdict["reason"] or verdict["reason"] in found[0]


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A sweep of an optimum whose question, YAML and columns hold what must be escaped."""
    sweeps = tmp_path / "sweeps"
    sweeps.mkdir()
    text = f"sweep:\n  question: {json.dumps(HOSTILE)}\n  prediction: '<b>bold</b>'\n  source: arXiv 2205.10287 <i>\n"
    (sweeps / "planted.yaml").write_text(text)
    for module in ("analysis.page", "analysis.drawing", "analysis.answers"):
        monkeypatch.setattr(f"{module}.SWEEPS_DIR", sweeps)
    frame = plant_table(lambda b: 0.002 * b**0.5).assign(**{"task.name": "</td><script>x</script>"})
    frame = frame.assign(**{"task.path": "/home/me/texts"})
    frame.assign(**{"provenance.torch": "2.0<script>"}).to_csv(tmp_path / "planted.csv", index=False)
    return tmp_path


def test_a_page_of_an_optimum(hostile):
    out = hostile / "out"
    assert main(["--runs", str(hostile / "planted.csv"), "--out", str(out), "--html"]) == 0
    text = (out / "planted.html").read_text(encoding="utf-8")
    seen, content = check_alone(text), json.loads((out / "planted.json").read_text())
    check_verdicts(seen, content)
    assert HOSTILE in "".join(seen.words)
    assert "<b>bold</b>" in "".join(seen.words)
    assert ("a", {"href": "https://arxiv.org/abs/2205.10287"}) in seen.tags
    for optimum in content["optima"]:
        interval = f"{optimum['low']:.3g} to {optimum['high']:.3g}"
        shown = [str(optimum["batch_size"]), f"{optimum['lr']:.3g}", interval]
        assert any(row[:3] == shown and row[-1] == "interior" for row in seen.rows)
    laws = {row[0].removesuffix(" (best)") for row in seen.rows}
    assert {fit["law"] for fit in content["fits"]} <= laws
    pictures = [attrs["src"] for tag, attrs in seen.tags if tag == "img"]
    assert len(pictures) == len(list(out.glob("*.png"))) == 2
    kind, data = pictures[0].split(";base64,")
    assert kind == "data:image/svg+xml"
    assert base64.b64decode(data) == (out / "planted.svg").read_bytes()
    assert "planted: planted.csv" in seen.words  # the table that was taken, and not where it lies
    assert str(hostile) not in text
    assert "/home/me" not in text
    first = text
    assert main(["--runs", str(hostile / "planted.csv"), "--out", str(out), "--html"]) == 0
    assert (out / "planted.html").read_text(encoding="utf-8") == first


def test_a_page_of_records_with_curves(hostile):
    """Records have lists, which no committed table has."""
    frame = pd.read_csv(hostile / "planted.csv")
    curves = {"history.num_samples": [[8, 16]] * len(frame), "history.loss": [[3.0, x] for x in frame["loss"]]}
    frame.assign(**curves).to_parquet(hostile / "planted.parquet")
    assert main(["--runs", str(hostile / "planted.parquet"), "--out", str(hostile), "--html"]) == 0
    seen = check_alone((hostile / "planted.html").read_text())
    assert not [row for row in seen.rows if row[0].startswith("history.")]
    varied = {row[0]: row[1] for row in seen.rows if len(row) == 3}
    assert varied["batch_size"] == str(frame["batch_size"].nunique())
    assert varied["optimizer.lr"] == str(frame["optimizer.lr"].nunique())


def test_large_figures_are_shown_as_png(hostile, monkeypatch):
    monkeypatch.setattr(page, "MOST_VECTOR", 10)
    assert main(["--runs", str(hostile / "planted.csv"), "--out", str(hostile), "--html"]) == 0
    assert "data:image/png;base64," in (hostile / "planted.html").read_text()


def test_a_page_of_an_answer_and_an_index(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["weight_decay", "smoke", "--out", "out", "--html"]) == 0
    for name in ("weight_decay", "smoke"):
        text = (tmp_path / "out" / f"{name}.html").read_text()
        assert len(text) < 3e6
        seen = check_alone(text)
        check_verdicts(seen, content := json.loads((tmp_path / "out" / f"{name}.json").read_text()))
        assert content["question"] in "".join(seen.words)
        assert "# @package _global_" in "".join(seen.words)
    index = check_alone((tmp_path / "out/index.html").read_text())
    assert [row[0] for row in index.rows[1:]] == ["weight_decay", "smoke"]
    assert index.rows[1][2:] == ["", "1", "1"]
    assert ("a", {"href": "weight_decay.html"}) in index.tags


def test_folders_are_no_part_of_a_page():
    for text, shown in (
        ("t: /home/me/a b/t.csv, 3 runs", "t: a b/t.csv, 3 runs"),
        ("from ~/x/t.csv; C:\\Users\\me\\t.csv", "from t.csv; t.csv"),
        ("runs/s: 8/16 rows of wandb:me/p, sweeps/s.csv", "runs/s: 8/16 rows of wandb:me/p, sweeps/s.csv"),
    ):
        assert hide_folders(text) == shown


def test_a_page_that_cannot_be_written_is_told_with_the_cure(tmp_path):
    (tmp_path / "n.html").mkdir()
    with pytest.raises(ValueError, match="n.html cannot be written .*give another folder"):
        publish(tmp_path / "n.html", lambda path: path.write_text("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["n.html"]


def test_a_sweep_named_index_keeps_its_page_beside_the_index(tmp_path):
    rows = pd.DataFrame({"run_id": ["a"], "status": ["done"], "batch_size": [8], "optimizer.lr": [None]})
    pages = [make_page(Answer(name, "Why?", "fixed_steps", rows, rows, "", [], {}), rows, [], "t")
             for name in ("index", "Index", "indexed")]  # fmt: skip
    index = check_alone(write_index(pages, tmp_path).read_text())
    for page_, stem in zip(pages, ("index-sweep", "Index-sweep", "indexed"), strict=True):
        path = write_page(page_, tmp_path)
        assert path == tmp_path / f"{stem}.html"
        assert ("a", {"href": path.name}) in index.tags
    assert "Sweeps" in check_alone((tmp_path / "index.html").read_text()).words


def test_many_verdicts_and_numbers_that_are_none(tmp_path):
    verdicts = [
        Verdict("c<b>", "fixed_steps", {"k": i}, "refuted", {"predicted": 1.0, "ratio": i + 0.5, "low": float("nan")},
                "a <rule>", HOSTILE)
        for i in range(200)
    ]  # fmt: skip
    rows = pd.DataFrame({"run_id": ["a"], "status": ["done"], "batch_size": [8], "optimizer.lr": [None]})
    scores = pd.DataFrame({"<case>": ["<b>"], "value": [float("nan")]})
    answer = Answer("n", HOSTILE, "fixed_steps", rows, scores, "a note", verdicts, {})
    path = write_page(make_page(answer, rows, [], "the table"), tmp_path)
    seen = check_alone(path.read_text())
    assert sum("refuted" in row for row in seen.rows) == 200
    assert ["<b>", ""] in seen.rows
    assert "".join(seen.words).count("a <rule>") == 1


def test_links_are_of_what_is_cited_only():
    text = str(link("see kexue.fm/archives/10542, arXiv 2205.10287 & javascript:alert(1) <a href='x'>"))
    assert re.findall('href="(.*?)"', text) == ["https://kexue.fm/archives/10542", "https://arxiv.org/abs/2205.10287"]
    assert "<a href='x'>" not in text
