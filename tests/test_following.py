"""Oracle: what the operating system says of real processes whose starter is gone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from harness.config import ROOT
from harness.following import FOLLOWS

SENDING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def start(folder, text):
    (folder / "client.py").write_text(text)
    command = [sys.executable, "-m", "harness.following", "client", "an argument"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}, text=True, start_new_session=True, **pipes
    )


def lives(pid):
    """A child that was killed and nobody reaps is no life."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked up in /proc, which only Linux has")
def test_a_client_and_its_children_are_killed_when_their_starter_is_gone(tmp_path):
    with start(tmp_path, SENDING) as client:
        child = int(client.stdout.readline())
        assert client.poll() is None
        assert lives(child)
        client.stdin.close()
        assert client.wait(60) == -signal.SIGKILL
        until = time.monotonic() + 60
        while lives(child) and time.monotonic() < until:
            time.sleep(0.05)
        assert not lives(child)


@pytest.mark.parametrize("code", [0, 3])
def test_a_client_that_ends_by_itself_has_its_own_code_arguments_and_words(tmp_path, code):
    with start(tmp_path, f"import sys; print(sys.argv[1:]); sys.exit({code})") as client:
        assert client.wait(60) == code  # with its standard input open
        assert client.stdout.read() == "['an argument']\n"
        assert client.stderr.read() == ""


LISTENING = """
from harness.following import begin_following
starter = begin_following()
starter.trained.wait()
print("trained", starter.closed.is_set(), flush=True)
starter.closed.wait()
print(len(starter.summary), starter.summary[-3:])
"""


@pytest.mark.parametrize("follows", [True, False])
def test_what_its_command_says_is_heard_when_it_says_it(follows):
    """A summary is larger than a pipe takes at once."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **({FOLLOWS: "1"} if follows else {})}
    command, pipe = [sys.executable, "-c", LISTENING], subprocess.PIPE
    with subprocess.Popen(command, env=env, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as listening:
        if follows:
            listening.stdin.write("\n")
            listening.stdin.flush()
        assert listening.stdout.readline() == f"trained {not follows}\n"
        if follows:
            listening.stdin.write(300_000 * "x" + "end")
        listening.stdin.close()
        assert listening.stdout.read() == ("300003 end\n" if follows else "0 \n")
        assert listening.stderr.read() == ""
