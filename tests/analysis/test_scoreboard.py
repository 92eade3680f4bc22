"""Oracle: the committed sweeps' verdicts as their own reports give them."""

import io
import json

import pandas as pd
import pytest
from rich.console import Console

from analysis.analyse import analyse_runs
from analysis.claim_words import CLAIM_WORDS, describe_claims
from analysis.claims import CLAIMS
from analysis.probe_claims import PROBE_CLAIMS
from analysis.report import print_report
from analysis.scoreboard import COLUMNS, main, print_rows, write_row
from harness.config import SWEEPS_DIR


def test_the_scoreboard_holds_every_verdict_of_every_committed_sweep(tmp_path, capsys, monkeypatch):
    names = ("lr_vs_bs", "lr_vs_bs_sgd")
    for name in names:
        (tmp_path / f"{name}.csv").write_bytes((SWEEPS_DIR / f"{name}.csv").read_bytes())
    monkeypatch.setattr("analysis.scoreboard.SWEEPS_DIR", tmp_path)
    assert main(["--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "scoreboard.json").read_text())
    lines = (tmp_path / "out" / "scoreboard.md").read_text().splitlines()
    expected = [
        (name, verdict.claim, verdict.verdict, verdict.numbers["predicted"])
        for name in names
        for answer in analyse_runs(name, pd.read_csv(tmp_path / f"{name}.csv")).groups
        for verdict in answer.verdicts
    ]
    assert [(row["sweep"], row["claim"], row["verdict"], row["numbers"]["predicted"]) for row in content] == expected
    words, verdicts = (part.split("\n") for part in "\n".join(lines).split("\n\n## Verdicts\n\n"))
    assert len(verdicts) == len(expected) + 2
    assert [line.split(" | ")[0] for line in words[4:]] == ["| sde-slope"]
    assert all(name in said and verdict in said for name, _, verdict, _ in expected)


def test_every_claim_of_the_committed_verdicts_has_words_and_a_source():
    words, verdicts = (SWEEPS_DIR.parent / "docs" / "scoreboard.md").read_text().split("## Verdicts")
    claims = {line.strip("| ").split(" | ")[0] for line in verdicts.strip().splitlines()[2:]}
    assert {"w-rms", "sde-slope"} < claims <= set(CLAIM_WORDS)
    assert words == "## The claims in words\n\n" + describe_claims(claims) + "\n"
    assert {*CLAIMS, *PROBE_CLAIMS} <= set(CLAIM_WORDS)
    assert all(own.says and own.source for own in CLAIM_WORDS.values())
    with pytest.raises(KeyError, match="no words for new-claim"):
        describe_claims(["w-rms", "new-claim"])


def test_a_verdict_without_a_bounded_number_shows_none():
    verdict = analyse_runs("lr_vs_bs_sgd", pd.read_csv(SWEEPS_DIR / "lr_vs_bs_sgd.csv")).groups[0].verdicts[0]
    assert write_row("lr_vs_bs_sgd", verdict)[5:7] == ("-", "inconclusive")


def test_an_unwritable_folder_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("analysis.scoreboard.SWEEPS_DIR", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "file")])
    assert "is a file: give a folder" in capsys.readouterr().err


def test_a_table_that_cannot_be_analysed_is_told_in_one_line_and_the_others_are_judged(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("analysis.scoreboard.SWEEPS_DIR", tmp_path)
    (tmp_path / "bad.csv").write_text("batch_size,lr,loss\n8,0.1,nan\n")
    (tmp_path / "lr_vs_bs.csv").write_bytes((SWEEPS_DIR / "lr_vs_bs.csv").read_bytes())
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("bad.csv is left out: ")
    assert "\n" not in said.err.strip()
    assert "confirmed" in said.out


def test_a_narrow_terminal_shows_every_name_and_verdict_whole():
    rows = [("sde-slope", "lr_vs_bs_protocols", "protocol=fixed_samples, num_samples=32768", "fixed_samples", "0.5",
             "0.579 [0.416, 0.741]", "inconclusive", "2 parameters need at least 4 located batch sizes")]  # fmt: skip
    for width in (80, 200):
        print_rows(rows, Console(file=(said := io.StringIO()), width=width))
        text = said.getvalue()
        assert max(map(len, text.splitlines())) <= width
        assert all(text.count(word) >= 1 for word in (rows[0][0], rows[0][1], rows[0][6], "located batch"))
        assert (COLUMNS[-1] in text.splitlines()[0]) == (width == 200)


def test_a_report_tells_a_rule_once():
    analysis = analyse_runs("lr_vs_bs_horizon", pd.read_csv(SWEEPS_DIR / "lr_vs_bs_horizon.csv"))
    print_report(analysis, Console(file=(said := io.StringIO()), width=1000))
    rules = {verdict.rule for answer in analysis.groups for verdict in answer.verdicts}
    assert said.getvalue().count("rule: ") == len(rules) < sum(len(answer.verdicts) for answer in analysis.groups)
