"""Oracle: what the operating system says of real processes: exit codes, signals, and what they print."""

import os
import signal
import subprocess
import sys

import pytest

from harness.config import ROOT
from harness.launchers.ray_head import keep_on_loopback, run_head

ENDING = "import sys; print('began', flush=True); sys.exit(int(sys.argv[1]))"
WAITING = "import time; print('began', flush=True); time.sleep(60)"


def start(folder, text, *arguments):
    (folder / "program.py").write_text(text)
    command = [sys.executable, "-m", "harness.launchers.tied", "program", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}, text=True, **pipes)


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_program_that_ends_by_itself_has_its_own_code_and_says_no_more(tmp_path, code):
    process = start(tmp_path, ENDING, str(code))
    assert process.wait(60) == code  # with its standard input open
    assert process.stdout.read() == "began\n"
    assert process.stderr.read() == ""
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


def test_it_is_asked_to_end_when_whoever_started_it_is_gone(tmp_path):
    process = start(tmp_path, WAITING)
    assert process.stdout.readline() == "began\n"
    process.stdin.close()
    assert process.wait(60) == -signal.SIGTERM
    process.stdout.close()
    process.stderr.close()


def test_a_ray_that_does_not_start_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ValueError, match="Ray did not start on this machine"), run_head(1, None):
        pass


def test_rounds_of_one_command_use_one_token(monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    keep_on_loopback()
    token = os.environ["RAY_AUTH_TOKEN"]
    keep_on_loopback()
    assert os.environ["RAY_AUTH_TOKEN"] == token
    assert len(token) == 64
