"""Oracle: the lines that somebody reads who follows a sweep in a file."""

import pytest

from harness import progress
from harness.config import run_id
from harness.plan import make_plan
from harness.progress import Display


@pytest.fixture
def display(make_run, monkeypatch):
    """Where the clock stands still until it is told to go on; nothing is a terminal under pytest."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    configs = [make_run(optimizer={"lr": lr}) for lr in (0.1, 0.2)]
    runs = {run_id(config): config for config in configs}
    plan = make_plan("s", runs, device="cpu", width=1, metrics={"num_evals": 2, "num_examples": 16})
    found = Display(plan, [0, 1], set())
    found.go_on = lambda seconds: now.__setitem__(0, now[0] + seconds)
    return found


def test_while_nothing_changes_a_file_gets_a_line_in_five_minutes_only(display, capsys):
    def lines(*messages, seconds):
        display.go_on(seconds)
        for stack, message in messages:
            display.show(stack, message)
        return capsys.readouterr().out.splitlines()

    pending = (0, {"standing": "PENDING (Resources)"})
    waits = "0/2 runs, 0 samples/s; jobs: 1 pending (Resources)"
    assert lines(pending, seconds=11) == [waits]
    assert lines(pending, seconds=11) == []
    assert lines(pending, seconds=290) == [waits]
    running = (0, {"standing": "RUNNING on node7"})
    assert lines(running, seconds=5) == []  # it is told of soon enough
    assert lines(running, seconds=6) == ["0/2 runs, 0 samples/s; jobs: 1 running"]
    (line,) = lines((0, {"samples": 3230, "batch_size": 8, "best_loss": 2.5}), seconds=323)
    assert line.startswith("0/2 runs, 5 samples/s, best loss by batch size: 8: 2.500")
