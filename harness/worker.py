"""One process, one stack: `python -m harness.worker PLAN STACK [DEVICE [CHECKPOINT [LEASE]]]`.

Takes the stack's lease, trains what its records lack, from a checkpoint where there is one, publishes the records, and
ends. SIGTERM, SIGINT and the end of whoever started it (its pipe closes) let it finish the step in hand, save a
checkpoint and give the lease back.

Exit code of the command: 0, 1 when runs failed or could not be written, 2 on a mistake in what was typed, 3 when there
is more to do than this process did: it was stopped, another holds the lease, or memory was short and the stack halved.
"""

import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from harness.checks import read_number
from harness.index import INDEX
from harness.job import Job, Lost, Report, train_job
from harness.leases import LEASES, Held, Lease, acquire, keep_alive, release
from harness.log import log_event
from harness.plan_file import read_stack
from harness.process import end_on_signals, end_with, prepare_process
from harness.ranks import Ranks
from harness.recording import COMPILED
from harness.records import WEIGHTS, count_attempts, read_ended
from harness.store import StoreError, remove_torn, unwritable
from harness.torchrun import run_ranks
from harness.unfinished import CHECKPOINTS

CHECKPOINT, LEASE = 120.0, 60.0  # seconds; launcher.checkpoint and launcher.lease
# Where writers that were killed leave temporary files, from a sweep's folder
TEMPORARY = (".", LEASES, CHECKPOINTS, WEIGHTS, INDEX, f"../{COMPILED}")


def run_stack(
    plan_path: Path, index: int, device: str, *, report: Report, stop: threading.Event, checkpoint: float, lease: float,
    ranks: Ranks | None = None,
) -> bool:  # fmt: skip
    """Train stack `index` of a plan and publish its records; True unless its runs failed or could not be written.

    A run that fails takes its stack with it: every run of it is recorded as failed, with the reason, and trained again
    next time.

    Args:
        report: takes the messages that harness/launchers/local.py lists.
        stop: set when training is to end after the step in hand.
        checkpoint: seconds between checkpoints.
        lease: seconds without a touch after which another's lease is stale.
        ranks: of a stack that several processes share, of which this is the first.

    Raises: RankLost.
    """
    plan, columns = read_stack(plan_path, index)
    planned, folder = plan.stacks[0], plan_path.parent
    taken: Lease | None = None
    done, lost = threading.Event(), threading.Event()
    try:
        got = acquire(folder, planned.name, planned.runs, lease)
        if isinstance(got, Held):
            report({"held": got.holder})
            return True
        taken, stale = got
        threading.Thread(target=keep_alive, args=(taken, lost.set, done), daemon=True).start()
        for former in stale:
            log_event(folder, "taken over", former.path.name.rpartition("-")[0], held_by=former.holder)
        # Only now, with the lease held: a former holder may have published a moment ago
        stack = planned.without(read_ended(folder, plan.since))
        attempt = count_attempts(folder, planned.name)
        for place in TEMPORARY:
            remove_torn(folder / place)
        job = Job(
            folder, plan, planned, stack, taken, attempt, torch.device(device), checkpoint, stop, lost, report, ranks
        )  # fmt: skip
        if stack.runs:
            return train_job(job, plan_path, index, columns)
        report({"elsewhere": len(planned.runs)})
        return True
    except (StoreError, ValueError) as error:  # the second for records that cannot be read
        report({"error": str(error)})
        return False
    except Lost:
        if folder.exists():
            report({"held": "another worker, which took over"})
            return True
        report({"error": str(unwritable(folder / "log.jsonl", FileNotFoundError()))})
        return False
    finally:
        done.set()
        if taken is not None:
            release(taken)


def run_any(plan_path: Path, index: int, device: str, **how: Any) -> bool:
    """run_stack, in this process or by as many ranks as the plan says."""
    ranks = read_stack(plan_path, index)[0].stacks[0].ranks
    if ranks == 1:
        return run_stack(plan_path, index, device, **how)
    return run_ranks(plan_path, index, torch.device(device).type, ranks, **how)


def work_for(plan_path: Path, index: int, device: str, pipe: Connection, checkpoint: float, lease: float) -> None:
    """Entry point of a launcher's child process: as the command, but it ends with its launcher."""
    stop = threading.Event()
    end_on_signals(stop)
    threading.Thread(target=end_with, args=(pipe, stop), daemon=True).start()
    prepare_process(device)

    def report(message: dict[str, Any]) -> None:
        try:
            pipe.send(message)
        except OSError:
            stop.set()  # the launcher is gone

    done = run_any(plan_path, index, device, report=report, stop=stop, checkpoint=checkpoint, lease=lease)
    sys.exit(0 if done else 1)


def main() -> int:
    if not 3 <= len(sys.argv) <= 6 or not sys.argv[2].isdecimal():
        usage = "python -m harness.worker PLAN STACK [DEVICE [CHECKPOINT [LEASE]]]"
        print(f"usage: {usage}, e.g. runs/smoke/plan-0123-0.json 0 cpu", file=sys.stderr)
        return 2
    plan_path, index = Path(sys.argv[1]), int(sys.argv[2])
    device, checkpoint, lease = sys.argv[3:] + ["", str(CHECKPOINT), str(LEASE)][len(sys.argv) - 3 :]
    try:
        seconds = {"checkpoint": read_number("checkpoint", checkpoint), "lease": read_number("lease", lease)}
        plan, _ = read_stack(plan_path, index)
    except IndexError:
        return tell(f"{plan_path} has no stack {index}")
    except (OSError, ValueError) as error:
        return tell(f"{plan_path} cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error))
    device = device or plan.device
    stop, more = threading.Event(), threading.Event()
    end_on_signals(stop)
    prepare_process(device)

    def report(message: dict[str, Any]) -> None:
        if {"held", "halved", "stopped"} & set(message):
            more.set()
        if "died" in message:
            print(f"error: {message['reason']}", file=sys.stderr)
        for kind in ("error", "warning", "held", "halved", "stopped"):
            if kind in message:
                print(f"{kind}: {message[kind]}", file=sys.stderr)
        for reason in {why for _, status, why in message.get("ended", ()) if status == "failed"}:
            print(f"failed: {reason}", file=sys.stderr)

    done = run_any(plan_path, index, device, report=report, stop=stop, **seconds)
    return 3 if more.is_set() else 0 if done else 1


def tell(mistake: str) -> int:
    print(f"error: {mistake}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
