"""A stand-in for the W&B server on loopback. It is NOT W&B: only our reading of what the client, release 0.31, asks.

It keeps runs as the server does: a run is created or updated by its name, chunks of its history replace lines from
their offset on, and resuming tells how many lines there are. Faults are planted by its attributes. What the real
server does beyond that (limits, permissions, sampling, parquet exports) is not here, so no test against it proves that
the real one takes what we send; it shows what the real client does when it is answered, refused or cut off.
"""

import base64
import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests import artifact_standin
from tests.artifact_standin import Artifact

KEY = "a" * 40
USER = "me"  # whoever has the key, and the default entity
VIEWER = {
    "id": "u", "entity": USER, "username": USER, "name": USER, "email": "", "flags": "{}", "admin": False,
    "teams": {"edges": []}, "apiKeys": {"edges": []}, "defaultEntity": {"name": USER, "id": "e"},
}  # fmt: skip
HEAVY = ("config", "summaryMetrics", "systemMetrics", "historyKeys")
# of UpsertBucket: what the client calls it -> what the server answers
FIELDS = {
    "displayName": "displayName", "groupName": "group", "jobType": "jobType", "state": "state", "tags": "tags",
    "config": "config", "summaryMetrics": "summaryMetrics", "notes": "notes", "description": "description",
}  # fmt: skip


@dataclass
class Run:
    """One run: its node as the API lists it, and its lines of history, each JSON."""

    node: dict[str, Any]
    history: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Project:
    """One project.

    Attributes:
        runs: by name, in the order of creation.
        fetched: names of runs whose config was asked for, one list a request.
        listings: requests for names and states only.
        broken_after: requests for configs that are answered before they fail; None: they never do.
    """

    runs: dict[str, Run] = field(default_factory=dict)
    fetched: list[list[str]] = field(default_factory=list)
    listings: int = 0
    broken_after: int | None = None


@dataclass
class Server:
    """All projects, and what goes wrong.

    Attributes:
        projects: by ENTITY/PROJECT; one that is named by a new run is made.
        cut: while set, connections are closed without an answer.
        cut_after: requests until it cuts itself off; None: never. cutting: only those with this in path or body count.
        failures: statuses (500, 429) that the next requests get instead of an answer; the list is used up.
        failing: only requests with this in their path or operation fail; by default all.
        answers: operation -> function (variables, server) -> data, for what a test needs beyond what is here.
        asked: how often each operation was asked.
        refused: whether every key is refused; else only others than KEY are.
        keys: every key that was shown.
        artifacts: every version of every artifact, by id (tests/artifact_standin.py).
    """

    projects: dict[str, Project] = field(default_factory=dict)
    cut: bool = False
    cut_after: int | None = None
    cutting: str = ""
    failures: list[int] = field(default_factory=list)
    failing: str = ""
    answers: dict[str, Callable[[Mapping[str, Any], "Server"], dict[str, Any]]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    refused: bool = False
    keys: set[str] = field(default_factory=set)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    address: str = ""
    lock: Any = field(default_factory=threading.RLock)

    def runs(self, place: str) -> dict[str, Run]:
        return self.projects[place].runs

    def project(self, entity: str | None, name: str) -> Project:
        return self.projects.setdefault(f"{entity or USER}/{name}", Project())


def make_node(number: int, name: str = "") -> dict[str, Any]:
    """A run without content as the API lists it."""
    moment = f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z"
    name = name or f"run{number:04d}"
    return {
        "id": f"n-{name}", "name": name, "displayName": name, "state": "running", "createdAt": moment,
        "heartbeatAt": moment, "historyLineCount": 0, "config": "{}", "summaryMetrics": "{}", "systemMetrics": None,
        "historyKeys": None, "projectId": 1, "internalId": str(number), "tags": [], "sweepName": None, "group": None,
        "jobType": None, "commit": None, "readOnly": False, "description": None, "notes": None, "stopped": False,
        "user": {"name": USER, "username": USER},
    }  # fmt: skip


def plant_run(
    project: Project, config: Mapping[str, Any], summary: Mapping[str, Any], state: str = "finished", lines: int = 20
) -> Run:
    """Put a run there that nobody sent: nested config and summary as the server keeps them."""
    number = len(project.runs)
    node = make_node(number)
    values = {key: {"value": value} for key, value in config.items()}
    told = {**summary, "_step": 9, "_wandb": {"runtime": 3}}
    node |= {"config": json.dumps(values), "summaryMetrics": json.dumps(told), "state": state}
    node |= {"historyLineCount": lines}
    return project.runs.setdefault(node["name"], Run(node))


@contextmanager
def serve(server: Server) -> Iterator[str]:
    """The address of a server on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.read_body()
            if "/otel/" in self.path:  # what the client tells of itself
                self.reply(200, b"")
                return
            if not self.may_go_on(body):
                return
            if self.path.endswith("/graphql"):
                with server.lock:
                    self.reply(*answer(json.loads(body), server))
            elif found := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", self.path):
                with server.lock:
                    self.reply(200, take_stream(json.loads(body), server, *found.groups()))
            else:
                self.reply(404, {"error": "not found"})

        def do_PUT(self) -> None:
            body = self.read_body()
            if not self.may_go_on():
                return
            _, kind, *path = self.path.split("/")
            with server.lock:
                if kind == "storage":
                    entity, name, run, *path = path
                    server.project(entity, name).runs[run].files["/".join(path)] = body
                elif kind == "artifact":
                    artifact_standin.keep(server, path, body)
            self.reply(200, {})

        def do_GET(self) -> None:
            if self.may_go_on():
                _, kind, entity, name, run, *path = [*self.path.split("/"), *[""] * 5]
                files = server.runs(f"{entity}/{name}")[run].files if kind == "storage" else {}
                content = files.get("/".join(filter(None, path)))
                self.reply(200 if content is not None else 404, content if content is not None else {})

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def may_go_on(self, body: bytes = b"") -> bool:
            """Whether this request is answered; what goes wrong has been sent where it is not."""
            with server.lock:
                if server.cut_after is not None and server.cutting.encode() in self.path.encode() + body:
                    server.cut = server.cut or server.cut_after <= 0
                    server.cut_after -= 1
                cut, failure = server.cut, None
                if not cut and server.failures and server.failing in f"{self.path} {body[:200]!r}":
                    failure = server.failures.pop(0)
            if cut:
                self.close_connection = True
                self.connection.close()
                return False
            if failure:
                self.reply(failure, {"errors": [{"message": "planted"}], "error": "planted"})
                return False
            scheme, _, code = self.headers.get("Authorization", "").partition(" ")
            key = base64.b64decode(code).decode().partition(":")[2] if scheme == "Basic" else ""
            with server.lock:
                server.keys.add(key)
            if (server.refused or key != KEY) and not self.path.startswith(("/storage/", "/artifact/")):
                self.reply(401, {"errors": [{"message": "user is not logged in"}], "error": "user is not logged in"})
                return False
            return True

        def reply(self, status: int, data: Any) -> None:
            text = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: object) -> None:
            pass

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *arguments: object) -> None:
            """A client that was killed, or a connection that was cut: what a test asked for."""

    listener = Listener(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{listener.server_port}"
    try:
        yield server.address
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def answer(request: Mapping[str, Any], server: Server) -> tuple[int, dict[str, Any]]:
    """Status and content for one GraphQL request."""
    found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
    operation = found.group(1) if found else "ServerInfo" if "serverInfo" in request["query"] else ""
    server.asked[operation] = server.asked.get(operation, 0) + 1
    variables = request.get("variables") or {}
    if operation in server.answers:
        return 200, {"data": server.answers[operation](variables, server)}
    if operation == "Runs":
        return list_runs(request["query"], variables, server)
    if operation in ANSWERS:
        return 200, {"data": ANSWERS[operation](variables, server)}
    return 400, {"errors": [{"message": f"the stand-in knows no operation {operation!r}"}]}


def upsert_run(v: Mapping[str, Any], server: Server) -> dict[str, Any]:
    """Create a run or update it; what is not told stays."""
    entity = v.get("entity") or USER
    project = server.project(entity, v["project"])
    inserted = v["name"] not in project.runs
    number = sum(len(other.runs) for other in server.projects.values())
    run = project.runs.setdefault(v["name"], Run(make_node(number, v["name"])))
    run.node |= {theirs: v[ours] for ours, theirs in FIELDS.items() if v.get(ours) is not None}
    touch(run)
    place = {"id": "p", "name": v["project"], "entity": {"id": "e", "name": entity}}
    return {"upsertBucket": {"bucket": {**run.node, "project": place}, "inserted": inserted}}


def touch(run: Run) -> None:
    """The time of a run's last sign of life moves whenever it does."""
    run.node["heartbeatAt"] = f"2026-02-01T00:00:00.{time.monotonic_ns() % 10**9:09d}Z"


def tell_resume(v: Mapping[str, Any], server: Server) -> dict[str, Any]:
    entity = v.get("entity") or USER
    if f"{entity}/{v['project']}" not in server.projects:
        return {"model": None}
    run = server.project(entity, v["project"]).runs.get(v["name"])
    bucket = None
    if run is not None:
        told = {"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "wandbConfig": '{"t": 1}'}
        bucket = {**run.node, **told, "historyTail": json.dumps(run.history[-1:])}
    return {"model": {"id": "p", "name": v["project"], "entity": {"id": "e", "name": entity}, "bucket": bucket}}


def take_stream(body: Mapping[str, Any], server: Server, entity: str, name: str, run_name: str) -> dict[str, Any]:
    """Lines of history from an offset on, the newest summary, and whether that was all."""
    run = server.project(entity, name).runs[run_name]
    for file, chunk in (body.get("files") or {}).items():
        if file == "wandb-history.jsonl":
            start = chunk["offset"]
            run.history[start : start + len(chunk["content"])] = chunk["content"]
            run.node["historyLineCount"] = len(run.history)
        elif file == "wandb-summary.json":
            run.node["summaryMetrics"] = chunk["content"][-1]
    if body.get("complete"):
        run.node["state"] = "failed" if body.get("exitcode") else "finished"
    touch(run)
    return {"exitcode": None, "limits": {}}


def list_runs(query: str, v: Mapping[str, Any], server: Server) -> tuple[int, dict[str, Any]]:
    """One page of runs after a cursor."""
    project = server.projects.get(f"{v['entity']}/{v['project']}")
    if project is None:
        return 200, {"data": {"project": None}}
    full = "summaryMetrics" in query
    wanted = json.loads(v.get("filters") or "{}")
    names = wanted.get("name", {}).get("$in") if isinstance(wanted.get("name"), dict) else None
    found = [run.node for name, run in project.runs.items() if names is None or name in names]
    for key in ("group", "jobType", "state"):
        if isinstance(wanted.get(key), str):
            found = [node for node in found if node[key] == wanted[key]]
    if full:
        if project.broken_after is not None and len(project.fetched) >= project.broken_after:
            return 400, {"errors": [{"message": "out of order"}]}
        project.fetched.append([node["name"] for node in found])
    else:
        project.listings += 1
    start = int(v.get("cursor") or 0)
    stop = min(start + v["perPage"], len(found))
    kept = [{key: value for key, value in node.items() if full or key not in HEAVY} for node in found[start:stop]]
    edges = [{"node": node, "cursor": str(start + i + 1)} for i, node in enumerate(kept)]
    more = {"endCursor": str(stop), "hasNextPage": stop < len(found)}
    told = {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": {"edges": edges, "pageInfo": more}}
    return 200, {"data": {"project": told}}


def name_uploads(v: Mapping[str, Any], server: Server) -> dict[str, Any]:
    place = f"{server.address}/storage/{v['entity']}/{v['project']}/{v['run']}"
    files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in v["files"]]
    return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}


def find_run(v: Mapping[str, Any], server: Server) -> Run | None:
    project = server.projects.get(f"{v.get('entity') or USER}/{v.get('project')}")
    return project.runs.get(v.get("name") or v.get("runName") or v.get("run") or "") if project else None


def about_run(content: Callable[[Run], dict[str, Any]]) -> Callable[[Mapping[str, Any], Server], dict[str, Any]]:
    """An answer about one run of a project."""

    def tell(v: Mapping[str, Any], server: Server) -> dict[str, Any]:
        run = find_run(v, server)
        return {"project": {"internalId": "1", "run": None if run is None else content(run)}}

    return tell


def spell(line: str) -> dict[str, Any]:
    """A line of history with what JSON has no number for as a text: this answer is read by a strict parser."""
    values = json.loads(line, parse_constant=lambda word: word)
    assert isinstance(values, dict)
    return values


ANSWERS: dict[str, Callable[[Mapping[str, Any], Server], dict[str, Any]]] = {
    "Viewer": lambda v, server: {"viewer": VIEWER},
    "GetDefaultEntity": lambda v, server: {"viewer": VIEWER},
    "ServerInfo": lambda v, server: {"serverInfo": {"cliVersionInfo": {}, "features": []}},
    "ServerFeaturesQuery": lambda v, server: {"serverInfo": {"features": []}},
    "UpsertBucket": upsert_run,
    "RunResumeStatus": tell_resume,
    "CreateRunFiles": name_uploads,
    "Run": about_run(lambda run: run.node),
    "RunState": about_run(lambda run: {"state": run.node["state"]}),
    "ProjectInternalId": about_run(lambda run: run.node),
    "RunFullHistory": about_run(lambda run: {"history": run.history}),
    "RunHistoryKeys": about_run(
        lambda run: {
            "historyKeys": {"keys": {}, "lastStep": len(run.history), "sets": []},
            "historyLineCount": len(run.history),
        }
    ),
    "RunParquetHistory": about_run(
        lambda run: {"parquetHistory": {"parquetUrls": [], "liveData": [spell(line) for line in run.history]}}
    ),
    "HistoryPage": about_run(lambda run: {"history": run.history}),
    **artifact_standin.ANSWERS,
}
