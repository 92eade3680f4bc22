"""Beside tests/wandb_standin.py, and as little W&B as that: what the client asks about views and reports.

Views are kept by their id; one without an id is made new, as W&B does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.wandb_standin import VIEWER, Server


@dataclass
class Views:
    """Saved views and reports of one project.

    Attributes:
        kept: by id: name, displayName, type, spec (a JSON text) and what else the client told.
    """

    kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [view for view in self.kept.values() if view["type"] == kind]

    def spec(self, kind: str) -> dict[str, Any]:
        """What the only view of a type holds."""
        (view,) = self.of_type(kind)
        content = json.loads(view["spec"])
        assert isinstance(content, dict)
        return content


def add_views(server: Server) -> Views:
    """Let a stand-in answer about views and reports."""
    views = Views()

    def upsert(v: Mapping[str, Any], server: Server) -> dict[str, Any]:
        name = v.get("id") or f"view{len(views.kept)}"
        inserted = name not in views.kept
        place = {"id": "p", "name": v["projectName"], "entityName": v["entityName"]}
        told = {key: value for key, value in v.items() if value is not None}
        views.kept[name] = {"description": "", **views.kept.get(name, {}), **told, "id": name}
        dates = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
        return {"upsertView": {"view": {**views.kept[name], **dates, "project": place}, "inserted": inserted}}

    def show(v: Mapping[str, Any], server: Server) -> dict[str, Any]:
        entity, project = v.get("entity") or v["entityName"], v.get("project") or v["name"]
        if f"{entity}/{project}" not in server.projects:
            return {"project": None}
        found = views.of_type(v.get("viewType") or "runs")
        if wanted := v.get("viewName"):
            found = [view for view in found if view["name"] == wanted]
        user = {"username": "me", "photoUrl": "", "email": ""}
        dates = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
        edges = [{"node": {**view, **dates, "user": user}, "cursor": view["id"]} for view in found]
        return {"project": {"allViews": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}}

    def list_projects(v: Mapping[str, Any], server: Server) -> dict[str, Any]:
        names = [place.partition("/") for place in server.projects]
        more = {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": {**VIEWER, "deletedAt": None}}
        edges = [
            {
                "node": {"id": f"p-{name}", "internalId": "1", "name": name, "entityName": entity, **more},
                "cursor": name,
            }
            for entity, _, name in names
        ]
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    server.answers |= {
        "UpsertView2": upsert, "upsertView": upsert, "View": show, "ProjectViews": show, "GetProjects": list_projects,
    }  # fmt: skip
    return views
