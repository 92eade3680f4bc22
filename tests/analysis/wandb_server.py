"""A stand-in for W&B on loopback: answers what the client asks when it lists and fetches runs, and counts it."""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pandas as pd

from harness.config import nest

KEY = "a" * 40
LIGHT = {"projectId": 1, "tags": [], "sweepName": None, "group": None, "jobType": None, "commit": None,
         "readOnly": False, "description": None, "notes": None, "user": {"name": "x", "username": "x"}}  # fmt: skip


@dataclass
class Project:
    """One project of the server.

    Attributes:
        runs: as W&B's nodes, in the order of creation.
        fetched: ids of runs whose config was asked for, one list a request.
        broken_after: requests for configs that are answered before the server fails; None: it never does.
        refused: whether the key is refused.
    """

    runs: list[dict[str, Any]]
    fetched: list[list[str]] = field(default_factory=list)
    listings: int = 0
    broken_after: int | None = None
    refused: bool = False


def make_node(number: int, config: Mapping[str, Any], summary: Mapping[str, Any], state: str = "finished") -> dict:
    """A run as the server has it."""
    values = {key: {"value": value} for key, value in config.items()}
    time = f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z"
    return {
        "id": f"n{number}", "name": f"run{number:04d}", "displayName": f"run {number}", "state": state,
        "createdAt": time, "heartbeatAt": time, "historyLineCount": 20, "config": json.dumps(values),
        "summaryMetrics": json.dumps({**summary, "_step": 9, "_wandb": {"runtime": 3}}), "systemMetrics": None,
        "historyKeys": None, **LIGHT,
    }  # fmt: skip


def mirror_nodes(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Records as harness/tracking.py sends them: the nested config, and a summary with the outcome."""
    nodes = []
    for number, row in enumerate(frame.to_dict("records")):
        outcome = {name: row.pop(name) for name in ("loss", "status")}
        config = nest({name: value for name, value in row.items() if not name.startswith("provenance.")})
        nodes.append(make_node(number, config, {**outcome, "num_samples": row["num_samples"]}))
    return nodes


@contextmanager
def serve(projects: Mapping[str, Project]) -> Iterator[str]:
    """The address of a server with projects by ENTITY/PROJECT."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not self.path.endswith("/graphql"):
                self.send_error(404)
                return
            status, data = answer(json.loads(body), projects)
            text = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: Mapping[str, Any], projects: Mapping[str, Project]) -> tuple[int, dict[str, Any]]:
    """Status and content for one request."""
    operation = re.search(r"query\s+(\w+)", request["query"]).group(1)  # type: ignore[union-attr]
    if any(project.refused for project in projects.values()):
        return 401, {"errors": [{"message": "user is not logged in"}]}
    if operation == "Viewer":
        viewer = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        return 200, {"data": {"viewer": viewer}}
    assert operation == "Runs", operation
    v = request["variables"]
    project = projects.get(f"{v['entity']}/{v['project']}")
    if project is None:
        return 200, {"data": {"project": None}}
    full = "summaryMetrics" in request["query"]
    names = json.loads(v["filters"] or "{}").get("name", {}).get("$in")
    found = [run for run in project.runs if names is None or run["name"] in names]
    if full:
        if project.broken_after is not None and len(project.fetched) >= project.broken_after:
            return 400, {"errors": [{"message": "out of order"}]}
        project.fetched.append([run["name"] for run in found])
    else:
        project.listings += 1
    return 200, {"data": {"project": page(found, v, full)}}


def page(found: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], full: bool) -> dict[str, Any]:
    """One page of runs after a cursor."""
    start = int(variables.get("cursor") or 0)
    stop = min(start + variables["perPage"], len(found))
    heavy = () if full else ("config", "summaryMetrics", "systemMetrics", "historyKeys")
    edges = [
        {"node": {key: value for key, value in found[i].items() if key not in heavy}, "cursor": str(i + 1)}
        for i in range(start, stop)
    ]
    more = {"endCursor": str(stop), "hasNextPage": stop < len(found)}
    return {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": {"edges": edges, "pageInfo": more}}
