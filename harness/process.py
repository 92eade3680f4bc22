"""What a worker's process is: its threads and memory, and how it is asked to end."""

import ctypes
import os
import platform
import signal
import threading
from multiprocessing.connection import Connection

import torch

ORPHAN_GRACE = 10.0  # seconds for a checkpoint once the launcher is gone


def prepare_process(device: str) -> None:
    """Settings that a training process wants: one thread on a CPU, and memory that is kept instead of given back."""
    if device == "cpu":
        torch.set_num_threads(1)
        if platform.libc_ver()[0] == "glibc":
            # By default glibc returns every large block at once: page faults cost more than small models' steps do
            libc = ctypes.CDLL("libc.so.6")
            m_trim_threshold, m_mmap_threshold = -1, -3
            libc.mallopt(m_mmap_threshold, 1 << 30)
            libc.mallopt(m_trim_threshold, 1 << 30)


def end_on_signals(stop: threading.Event) -> None:
    """SIGTERM, SIGINT (Ctrl-C reaches launcher and workers alike) and SIGUSR2 ask to end after the step in hand.

    The last is what clusters send before a job's time is up.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda *_: stop.set())


def end_with(pipe: Connection, stop: threading.Event) -> None:
    """End soon after the other end of the pipe is gone, by whatever end; whatever comes asks for that. For a thread."""
    try:
        while True:
            pipe.recv_bytes()
            stop.set()
    except (EOFError, OSError):
        stop.set()
        threading.Event().wait(ORPHAN_GRACE)
        os._exit(1)
