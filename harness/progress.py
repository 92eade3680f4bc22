"""What a person watches while runs are trained."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from harness.config import say_count
from harness.launchers.placed import say_state
from harness.plan import Plan

# Seconds between lines where there is no terminal to redraw, and between two that say the same
LINE_EVERY, SAME_EVERY = 10.0, 300.0


class Display:
    """Runs done, samples a second, time left, and the best loss so far for every batch size."""

    def __init__(self, plan: Plan, waiting: list[int], ended: set[str]) -> None:
        self.plan = plan
        stacks = [plan.stacks[i].without(ended) for i in waiting]
        self.num_runs = sum(len(stack.runs) for stack in stacks)
        self.best: dict[int, float | None] = dict.fromkeys(sorted({s.first.batch_size for s in stacks}))
        self.held: dict[int, str] = {}  # stacks that another launcher's worker trains -> who
        self.standing: dict[int, str] = {}  # stacks that a cluster trains -> how their jobs stand
        self.told: set[str] = set()  # warnings that were printed
        self.ended = 0
        self.samples = 0
        self.said: object = None  # what the last line told
        self.began = self.last_line = time.monotonic()
        self.console = Console()
        # The bar follows samples, which come steadily
        self.bar = Progress(
            TextColumn("[bold]{task.fields[sweep]}"), BarColumn(), TextColumn("{task.fields[ended]} of"),
            TextColumn("{task.fields[num_runs]} runs, {task.fields[rate]:,.0f} samples/s, left"), TimeRemainingColumn(),
            console=self.console,
        )  # fmt: skip
        self.total = sum(len(stack.runs) * stack.first.num_samples for stack in stacks)
        fields: dict[str, Any] = {"sweep": plan.sweep, "ended": 0, "num_runs": self.num_runs, "rate": 0.0}
        self.bar_task = self.bar.add_task("", total=self.total, **fields)
        self.live = Live(self.render(), console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        else:
            self.console.print(f"training {say_count(self.num_runs, 'run')} of {self.plan.sweep} ...")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def show(self, stack: int, message: Mapping[str, Any]) -> None:
        """Take in one message of a worker (see launchers/local.py)."""
        if "warning" in message and message["warning"] not in self.told:
            self.told.add(message["warning"])
            print(f"warning: {message['warning']}", file=sys.stderr)
        self.held.pop(stack, None)
        if "standing" in message:
            self.standing[stack] = message["standing"]
        elif message.keys() & {"ended", "elsewhere", "cancelled", "halved", "held", "queued", "stopped"}:
            self.standing.pop(stack, None)
        if "skipped" in message:
            self.total -= message["skipped"]
            self.bar.update(self.bar_task, total=self.total)
        if "held" in message:
            self.held[stack] = message["held"]
        if "samples" in message:
            self.samples += message["samples"]
            batch_size, loss = message["batch_size"], message["best_loss"]
            if loss is not None:
                best = self.best[batch_size]
                self.best[batch_size] = loss if best is None else min(best, loss)
        self.ended += sum(status != "failed" for _, status, _ in message.get("ended", ()))
        if self.console.is_terminal:
            self.live.update(self.render())
            return
        now, said = time.monotonic() - self.last_line, (self.ended, self.samples, self.elsewhere())
        if now > (SAME_EVERY if said == self.said else LINE_EVERY):
            self.last_line, self.said = time.monotonic(), said
            print(self.line(), flush=True)

    def rate(self) -> float:
        return self.samples / max(1e-9, time.monotonic() - self.began)

    def line(self) -> str:
        best = ", ".join(f"{size}: {loss:.3f}" for size, loss in self.best.items() if loss is not None)
        line = f"{self.ended}/{self.num_runs} runs, {self.rate():,.0f} samples/s"
        line += f", best loss by batch size: {best}" if best else ""
        return f"{line}; {elsewhere}" if (elsewhere := self.elsewhere()) else line

    def elsewhere(self) -> str:
        """Who trains what is waited for, and how a cluster's jobs stand."""
        states = Counter(map(say_state, self.standing.values()))
        said = [f"jobs: {', '.join(f'{count} {state}' for state, count in states.items())}"] if states else []
        if self.held:
            count = say_count(len(self.held), "stack is", "stacks are")
            said.append(f"{count} trained by {', '.join(sorted(set(self.held.values())))}")
        return "; ".join(said)

    def render(self) -> Group:
        self.bar.update(self.bar_task, completed=self.samples, ended=self.ended, rate=self.rate())
        table = Table("batch size", *map(str, self.best), box=None, pad_edge=False, header_style="dim")
        table.add_row("best loss so far", *("" if loss is None else f"{loss:.3f}" for loss in self.best.values()))
        return Group(self.bar, table, self.elsewhere())
