"""What this machine is and has. Free of torch."""

import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path


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


def available_memory() -> int:
    """Bytes that can be taken without swapping, as far as the system tells."""
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def is_out_of_memory(error: Exception) -> bool:
    """torch tells want of memory as a RuntimeError (a GPU's is a kind of it) with a text."""
    words = ("out of memory", "can't allocate memory", "cannot allocate memory")
    told = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return told or isinstance(error, MemoryError)
