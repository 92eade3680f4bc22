"""Oracle: what was logged. The stand-in itself, asked by the real client: create, log, finish, resume, sync, read back.

It says what the client does with our reading of its server, and nothing about the real one.
"""

import json
import os
import subprocess
import sys

from tests.wandb_standin import KEY, Server, serve

CLIENT = """
import json, sys, wandb
from harness.tracking import LEAN
mode, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with wandb.init(id="r", project="p", mode=mode, resume="allow", config={"a": {"b": 1e-8}}, settings=LEAN) as run:
    for i in range(first, last):
        run.log({"x": i / 3}, step=2 * i)
    run.summary["told"] = last
if mode == "online":
    run = wandb.Api().run("me/p/r")
    both = run.history(pandas=False), run.scan_history()
    print(json.dumps([[[p["_step"], p["x"]] for p in points] for points in both]))
"""


def client(cwd, address, *command):
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(cwd), "WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "PYTHONWARNINGS": ""}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_is_made_gone_on_with_synced_and_read_back(tmp_path):
    server = Server()
    with serve(server) as address:
        for mode, first, last in (("online", 0, 3), ("offline", 3, 5)):
            out = client(tmp_path, address, "-c", CLIENT, mode, str(first), str(last))
            if mode == "online":
                assert json.loads(out.splitlines()[-1]) == [[[2 * i, i / 3] for i in range(3)]] * 2
        run = server.runs("me/p")["r"]
        assert json.loads(run.node["summaryMetrics"])["told"] == 3
        assert json.loads(run.node["config"])["a"]["value"] == {"b": 1e-8}
        (folder,) = (tmp_path / "wandb").glob("offline-run-*")
        client(tmp_path, address, "-m", "wandb", "beta", "sync", str(folder))
        assert [json.loads(line)["_step"] for line in run.history] == [0, 2, 4, 6, 8]
        assert json.loads(run.node["summaryMetrics"])["told"] == 5
        assert run.node["state"] == "finished"
        assert server.asked["RunResumeStatus"] == 2
