"""A module as a program that ends with whoever started it: `python -m harness.launchers.tied MODULE [ARGUMENTS]`.

Its standard input is a pipe to which nobody writes: when it closes, the other process has ended, by whatever end. The
program then gets SIGTERM and some time.
"""

import os
import runpy
import signal
import sys
import threading
import time

from harness.launchers.local import GRACE


def end_with_parent() -> None:
    """For a thread."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(), whose lock would abort a process that ends by itself
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    del sys.argv[0]  # the module finds its name and arguments as if it had been started itself
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
