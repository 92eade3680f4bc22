"""What this machine is and has. Free of torch."""

import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")  # a container's limits; those of version 1 lie in folders of it
HUGE_PAGES = "glibc.malloc.hugetlb"
JOB_VARIABLE = "HARNESS_JOB"  # of a worker's environment, by which a cluster's job says what it is: provenance.job
# FLOPs a second of matrix products without sparsity, by the makers' data sheets; float32 without tensor cores, which is
# what torch takes unless it is told otherwise
PEAKS = {
    "A100": {"bfloat16": 312e12, "float32": 19.5e12},
    "H100": {"bfloat16": 989e12, "float32": 67e12},
    "H200": {"bfloat16": 989e12, "float32": 67e12},
}


@lru_cache(maxsize=1)
def describe_processor() -> str:
    """Its name and a hash of its abilities: machine code for another may not run here."""
    info = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    for line in info.read_text().splitlines() if info.exists() else []:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name") or platform.processor() or platform.machine()
    return f"{name} {hashlib.sha256(found.get('flags', '').encode()).hexdigest()[:8]}"


@lru_cache(maxsize=1)
def has_compiler() -> bool:
    """Whether the C++ compiler that machine code needs is there and starts."""
    try:
        asked = subprocess.run([os.environ.get("CXX", "g++"), "--version"], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def peak_flops(device: str, precision: str) -> float | None:
    """FLOPs a second that a device, by its name, could do in a precision; None where that is not known."""
    return next((peaks.get(precision) for name, peaks in PEAKS.items() if name in device), None)


def available_memory() -> int:
    """Bytes that can be taken without swapping, as far as the system tells, or a container's limit if that is less."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = read_numbers("memory.max") or read_numbers("memory/memory.limit_in_bytes")
    return min([free, *limit[:1]])


def huge_pages(tunables: str) -> str:
    """GLIBC_TUNABLES, which glibc reads when a process starts, with pages of 2 MB: .8 to .95 of the time of small ones.

    A user's own setting stays.
    """
    return tunables if HUGE_PAGES in tunables else f"{tunables}:{HUGE_PAGES}=1".lstrip(":")


def available_cores() -> int:
    """Cores this process may use, which in a container or a job is often fewer than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    old = [read_numbers(f"cpu/cpu.cfs_{word}_us") for word in ("quota", "period")]
    quota = read_numbers("cpu.max") or [number for numbers in old for number in numbers]
    return max(1, min(cores, quota[0] // quota[1])) if len(quota) == 2 and quota[0] > 0 else cores


def read_numbers(name: str) -> list[int]:
    """The numbers in a file of this process's control group; none where it is not there or says max."""
    try:
        return [int(word) for word in (CONTROL_GROUP / name).read_text().split()]
    except (OSError, ValueError):
        return []


def is_out_of_memory(error: Exception) -> bool:
    """torch tells want of memory as a RuntimeError (a GPU's is a kind of it) with a text."""
    words = ("out of memory", "can't allocate memory", "cannot allocate memory")
    told = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return told or isinstance(error, MemoryError)
