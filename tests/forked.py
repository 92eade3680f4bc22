"""Commands, each in a process forked from one that has imported what all of them import: most of their time.

`python tests/forked.py` reads a line of JSON for each command and prints its exit code.
"""

import json
import multiprocessing.forkserver
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Commands:
    """Runs `python ARGV`, one at a time."""

    def __init__(self, server: subprocess.Popen, scratch: Path) -> None:
        self.server, self.scratch = server, scratch

    def run(self, argv: list[str], folder: Path) -> Done:
        out, err = self.scratch / "out", self.scratch / "err"
        asked = {"argv": argv, "folder": str(folder), "out": str(out), "err": str(err)}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return Done(code, out.read_text(), err.read_text())


@contextmanager
def forking(scratch: Path) -> Iterator[Commands]:
    """Commands until the body ends.

    Args:
        scratch: a folder for what they print.
    """
    environment = {**os.environ, "MPLBACKEND": "agg"}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        yield Commands(server, scratch)  # after which its standard input is closed, and it ends


def serve() -> None:
    sys.path[0] = str(ROOT)
    import analysis.plot  # noqa: F401
    import harness.__main__  # noqa: F401

    # The server that workers are forked from starts with the first of them: most of these commands have none
    multiprocessing.forkserver.ensure_running = lambda: None
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if (child := os.fork()) == 0:
            os.chdir(asked["folder"])
            for number, path in enumerate([os.devnull, asked["out"], asked["err"]]):
                opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                os.dup2(opened, number)
                os.close(opened)
            return run(asked["argv"])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def run(argv: list[str]) -> None:
    """As `python ARGV` does it: `-m MODULE ...` or `FILE ...`. Raises: what the command does, SystemExit mostly."""
    if argv[0] == "-m":
        sys.argv, sys.path[0] = argv[1:], os.getcwd()
        del sys.modules[f"{argv[1]}.__main__"]  # it runs anew; what it imports is there
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent)
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    serve()
