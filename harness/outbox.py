"""What of a sweep's folder W&B has and what is to be sent, by records, the mirror's log and the server's word."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.config import say_count
from harness.delivery import deliver, deliver_summary, mark_sent
from harness.following import name_command
from harness.records import append_mirrored, append_summary, read_mirrored_entries, read_summary
from harness.rows import identify_run, new_rows, points_of, rank_attempt
from harness.tracking import write_fragment
from harness.unfinished import read_running
from harness.wandb_client import NoAnswer, Refused, own_folder

MOST_LIVE = 500  # runs in training that are shown

Key = tuple[str, str]  # run_id and the time it ended


@dataclass
class Outbox:
    """What of a sweep's folder was sent to one W&B project and what is to be.

    Attributes:
        noted: attempts that are where this mode wants them.
        points: points of a run that its W&B fragments hold so far, by run_id.
        kept: offline directories with all points of an attempt.
        best: of a run the attempt that counts.
        waiting: rows to be sent, by W&B's name.
        count, summaries: runs, and summary runs, that went where this mode wants them.
        why: of the last failure, one line; refused: whether it is the key's.
    """

    folder: Path
    mode: str
    project: str
    entity: str | None
    noted: set[Key] = field(default_factory=set)
    points: dict[str, int] = field(default_factory=dict)
    kept: dict[Key, Path] = field(default_factory=dict)
    best: dict[str, tuple[bool, str]] = field(default_factory=dict)
    waiting: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: set[Path] = field(default_factory=set)
    count: int = 0
    summaries: int = 0
    why: str = ""
    refused: bool = False

    def __post_init__(self) -> None:
        for entry in read_mirrored_entries(self.folder, self.project, self.entity or ""):
            if self.mode != "online" or entry["mode"] != "offline":
                self.noted.add((entry["run_id"], entry["ended"]))
            self.points[entry["run_id"]] = max(entry.get("points", 0), self.points.get(entry["run_id"], 0))
            if entry.get("directory"):
                self.kept[entry["run_id"], entry["ended"]] = Path(entry["directory"])

    def look(self) -> None:
        """Take in what was published since the last look; what a better attempt has replaced is not sent.

        Raises: ValueError for a file that cannot be read.
        """
        for row in new_rows(self.folder, self.seen):
            rank = rank_attempt(row)
            if rank < self.best.get(row["run_id"], rank):
                continue
            self.best[row["run_id"]] = rank
            self.waiting.pop(identify_run(row), None)
            if (row["run_id"], row["provenance.ended"]) not in self.noted:
                self.waiting[identify_run(row)] = row

    def note(self, row: dict[str, Any], **more: Any) -> None:
        key = (row["run_id"], row["provenance.ended"])
        self.points[row["run_id"]] = max(len(points_of(row)), self.points.get(row["run_id"], 0))
        more |= {"points": self.points[row["run_id"]], "project": self.project, "entity": self.entity or ""}
        append_mirrored(self.folder, *key, self.mode, **more)
        self.noted.add(key)
        self.waiting.pop(identify_run(row))
        self.count += 1

    def write(self, row: dict[str, Any]) -> None:
        """Offline: a directory an attempt."""
        start = self.points.get(row["run_id"], 0)
        path = write_fragment(row, project=self.project, entity=self.entity, start=start)
        self.note(row, **({"directory": str(path.resolve())} if not start else {}))

    def send(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Online: whether everything arrived; else `why` says what is in the way.

        Args:
            stop: asked now and then whether the rest is left for another time.
        """
        self.why, self.refused = "", False
        rows = list(self.waiting.values())
        try:
            names = deliver(rows, project=self.project, entity=self.entity, kept=self.kept, stop=stop)
        except NoAnswer as reason:
            self.why, self.refused = str(reason), isinstance(reason, Refused)
            return False
        for name in sorted(names):
            row = self.waiting[name]
            places = {own_folder(), *(path.parent for (run, _), path in self.kept.items() if run == row["run_id"])}
            self.note(row)
            mark_sent(places, name)
        if self.waiting:
            self.why = "W&B does not list what it was sent"
        return not self.waiting

    def show_running(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Online: the points that runs in training have beyond those that the server has; stop: see send."""
        rows = [row for row in read_running(self.folder) if row["run_id"] not in self.best]
        rows = [row for row in rows if len(points_of(row)) > self.points.get(row["run_id"], 0)][:MOST_LIVE]
        try:
            names = deliver(rows, project=self.project, entity=self.entity, kept={}, stop=stop)
        except NoAnswer as reason:
            self.why = str(reason)
            return
        for row in rows:
            if identify_run(row) in names:
                self.points[row["run_id"]] = len(points_of(row))

    def send_summary(self) -> bool:
        """Online: the sweep's summary run, where one was written; whether none is left."""
        written = read_summary(self.folder, self.project, self.entity or "")
        if written is None or written.sent:
            return True
        sweep = written.id.removesuffix("-summary")
        try:
            there = deliver_summary(written, sweep, project=self.project, entity=self.entity)
        except NoAnswer as reason:
            self.why, self.refused = str(reason), isinstance(reason, Refused)
            return False
        if there:
            append_summary(self.folder, replace(written, sent=True), project=self.project, entity=self.entity or "")
            mark_sent([written.directory.parent], written.id)
            self.summaries += 1
            self.why = ""
        elif written.directory.is_dir():
            self.why = "W&B does not list its summary run and artifact"
        else:
            self.why = f"{written.directory} is gone; python -m harness sweep={sweep} writes its summary again"
        return there

    def describe(self) -> str:
        """A line on where runs went, and how they get further."""
        command = name_command(self.folder, self.project, self.entity)
        if self.mode != "online":
            entries = list(read_mirrored_entries(self.folder, self.project, self.entity or ""))
            kept, sent = (
                {entry["run_id"] for entry in entries if (entry["mode"] == "offline") == offline}
                for offline in (True, False)
            )
            written = read_summary(self.folder, self.project, self.entity or "")
            lie = [say_count(len(kept - sent), "run")] if kept - sent else []  # those of earlier commands too
            lie += ["the sweep's summary"] if written is not None and not written.sent else []
            if lie:
                return (
                    f"W&B: {' and '.join(lie)} kept offline in {own_folder()}; with an account `{command}` sends them"
                )
            return "W&B: it has all runs already" if sent else "W&B: no run has ended yet, so none is kept"
        runs = say_count(self.count, "run") + (" and the sweep's summary" if self.summaries else "")
        if not self.waiting and not self.why:
            return f"W&B: {runs} sent to {self.project}; tracker=none leaves W&B out"
        left = say_count(len(self.waiting), "run is", "runs are") if self.waiting else "its summary is"
        return f"W&B: {runs} sent, {left} not there yet ({self.why}); nothing is lost, `{command}` sends the rest"
