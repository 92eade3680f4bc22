"""How a shape of runs is best trained on this machine: measured once, kept, and chosen from then on. Free of torch.

`runs_dir/.measured/KEY.jsonl` collects what is known of a shape on a machine, a line a fact:

    traced       seconds a run and step (null: too long to try), and bytes a run, at one width   measured beforehand
    alone        why runs cannot be stacked                                                     likewise
    stackable    a user's own code can be                                                       likewise
    compiled     seconds a run and step of compiled steps                     told by workers, as all below
    built        seconds of a build of machine code for one kind of stack
    unbuildable  why a build failed: not tried again by the same code; a full disk or want of memory is no reason
    recorded     seconds that stacks were trained in without machine code, and how many run-steps those were
"""

import hashlib
import importlib.metadata
import json
import multiprocessing
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import track

from harness.config import RunConfig
from harness.imports import has_own_code, own_code_sha256
from harness.machine import available_memory, describe_processor, has_compiler
from harness.plan import Choice, default_width, lay_stacks, name_program, program_of, shape_of
from harness.records import code_sha256
from harness.store import append_line, read_lines, subfolder

MEASURED = ".measured"
COMPILE = ("auto", "always", "never")
WORTH_MEASURING = 20_000  # run-steps of a shape; measuring takes 2 s, and 20,000 of the smallest model's take 4 s
COMPILED_WIDTH = 12  # of stacks of compiled steps on a CPU; 8 is as fast, 24 slower
GUESSED_SHARE = 0.4  # of the time of recorded steps that compiled ones take, until it is measured; .2 to .75 were seen
GUESSED_BUILD = 20.0  # seconds, until one was measured: the first in a folder takes 12 to 22, later ones about 7

OF_CODE = ("alone", "stackable", "unbuildable")  # facts that hold for one version of the code: the next asks again

Fact = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    device: str  # cpu | cuda
    workers: int  # that share its memory
    compile: str  # auto | always | never
    width: int | None  # the user's; None: as measured
    micro_batch: int | None
    memory_share: float  # of the free memory that stacks may fill
    memory: int = field(default_factory=available_memory)  # bytes that are free; of a GPU, what was measured counts


def choose_all(
    runs: Mapping[str, RunConfig], machine: Machine, runs_dir: Path, *, probe: bool = True
) -> dict[str, Choice]:
    """shape -> how its runs are trained; shapes of which nothing is known are measured first.

    Args:
        probe: measure; else go by what is known.
    """
    shapes: dict[str, list[tuple[str, RunConfig]]] = {}
    for name, config in runs.items():
        shapes.setdefault(shape_of(config), []).append((name, config))
    facts = {shape: read_facts(runs_dir, members[0][1], machine.device) for shape, members in shapes.items()}
    wanted = {shape: questions(members, facts[shape], machine) for shape, members in shapes.items()}
    unknown = [shape for shape in shapes if probe and wanted[shape]]
    measured = measure([(shapes[shape][0][1], wanted[shape]) for shape in unknown], machine, runs_dir)
    for shape, new in zip(unknown, measured, strict=True):
        for fact in new:
            note_fact(runs_dir, shapes[shape][0][1], machine.device, fact)
        facts[shape] = facts[shape] + new
    builds = [fact["seconds"] for known in facts.values() for fact in known if fact["what"] == "built"]
    build = statistics.median(builds) if builds else GUESSED_BUILD
    return {shape: choose(members, facts[shape], machine, build) for shape, members in shapes.items()}


def choose(members: Sequence[tuple[str, RunConfig]], facts: Sequence[Fact], machine: Machine, build: float) -> Choice:
    """One shape's choice.

    Machine code is built when the time that it would have saved so far, together with what it will save in this sweep,
    exceeds the time to build it: whatever comes, at most twice the time of the better choice is spent.

    Args:
        build: seconds that a build takes.
    """
    for fact in facts:
        if fact["what"] == "alone":
            return Choice(1, micro_batch=machine.micro_batch, alone=fact["reason"])
    traced = {fact["width"]: fact["seconds"] for fact in facts if fact["what"] == "traced" and fact["seconds"]}
    width = min(traced, key=lambda w: traced[w]) if traced else default_width(machine.device, members[0][1].batch_size)
    fits = width_that_fits(facts, machine)
    recorded = Choice(machine.width or min(width, fits), False, machine.micro_batch)
    compiled = Choice(
        machine.width or min(COMPILED_WIDTH if machine.device == "cpu" else width, fits), True, machine.micro_batch
    )
    if machine.compile == "always":
        return compiled
    if machine.compile == "never" or machine.device != "cpu" or not has_compiler():
        return recorded
    if any(fact["what"] == "unbuildable" for fact in facts):
        return recorded
    there = {fact["kind"] for fact in facts if fact["what"] == "built"}
    needed = {name_program(stack) for stack in lay_stacks(members, compiled)}
    builds = len(needed - there) + (not there)  # one more for the evaluation
    past = [fact for fact in facts if fact["what"] == "recorded"]
    spent = sum(fact["seconds"] for fact in past)
    now = traced[width] if traced else spent / sum(fact["run_steps"] for fact in past) if past else None
    if now is None:
        return recorded if builds else compiled
    then = min((fact["seconds"] for fact in facts if fact["what"] == "compiled"), default=GUESSED_SHARE * now)
    run_steps = len(members) * members[0][1].num_steps
    saved = run_steps * (now - then) + spent * (1 - then / now)
    return compiled if saved > build * builds and then < now else recorded


def width_that_fits(facts: Iterable[Fact], machine: Machine) -> int:
    """Runs whose stacks fit into the free memory, by the upper bound that was counted; at least one."""
    sizes = [fact["bytes"] for fact in facts if fact["what"] == "traced"]
    free = [fact["free_bytes"] for fact in facts if fact["what"] == "traced" and machine.device != "cpu"]
    available = min(free) if free else machine.memory / machine.workers
    return max(1, int(machine.memory_share * available / max(sizes))) if sizes else 10**6


def questions(members: Sequence[tuple[str, RunConfig]], facts: Sequence[Fact], machine: Machine) -> set[str]:
    """What is to be measured beforehand: of a user's code whether it stacks, of large jobs how fast."""
    known = {str(fact["what"]) for fact in facts}
    if "alone" in known:
        return set()
    first = members[0][1]
    wanted = {"stackable"} if has_own_code(first) and "stackable" not in known else set()
    decided = machine.width is not None and machine.compile != "auto"
    if "traced" not in known and not decided and len(members) * first.num_steps >= WORTH_MEASURING:
        wanted.add("traced")
    return wanted


def measure(asked: Sequence[tuple[RunConfig, set[str]]], machine: Machine, runs_dir: Path) -> list[list[Fact]]:
    """The facts of each shape, measured by as many processes at a time as will train; by one where all share a GPU."""
    if not asked:
        return []
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(machine.workers if machine.device == "cpu" else 1, mp_context=context) as pool:
        memory = machine.memory_share * machine.memory / machine.workers
        jobs = [
            pool.submit(probe_shape, config, machine.device, runs_dir, memory, questions) for config, questions in asked
        ]
        text = f"measuring {len(jobs)} shapes, once on this machine"
        return [facts_of(job) for job in track(jobs, description=text, transient=True)]


def facts_of(job: "Future[list[Fact]]") -> list[Fact]:
    """Nothing where the measuring process died: training, which halves what does not fit, will say more."""
    try:
        return job.result()
    except BrokenProcessPool:
        return []


def probe_shape(config: RunConfig, device: str, runs_dir: Path, memory: float, questions: set[str]) -> list[Fact]:
    """A child's first function; the import lies in it so that the launcher's own process needs no torch."""
    from harness.estimate import probe

    return probe(config, device, runs_dir, memory, questions)


def read_facts(runs_dir: Path, config: RunConfig, device: str) -> list[Fact]:
    found = read_lines(facts_path(runs_dir, config, device))
    return [fact for fact in found if fact["what"] not in OF_CODE or fact.get("code_sha256") == code_sha256()]


def note_fact(runs_dir: Path, config: RunConfig, device: str, fact: Fact) -> None:
    """Add what was learned about a shape on this machine. Raises: StoreError."""
    subfolder(runs_dir, MEASURED)
    if fact["what"] in OF_CODE:
        fact = {**fact, "code_sha256": code_sha256()}
    append_line(facts_path(runs_dir, config, device), fact)


def facts_path(runs_dir: Path, config: RunConfig, device: str) -> Path:
    """Of a shape, whatever its number of steps, on a kind of machine with one version of torch."""
    place = [device, describe_processor(), importlib.metadata.version("torch"), program_of(config)]
    if has_own_code(config):
        place.append(own_code_sha256(config))
    return runs_dir / MEASURED / f"{hashlib.sha256(json.dumps(place).encode()).hexdigest()[:16]}.jsonl"
