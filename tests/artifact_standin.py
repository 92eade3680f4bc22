"""The part of tests/wandb_standin.py about artifacts: our reading of what the client, release 0.31, asks. It is no W&B.

An artifact is made with the digest of its manifest, its files and the manifest are put to addresses that it names, and
committed it is the newest version of its collection. One of a known digest is the version that there is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.wandb_standin import Server


@dataclass
class Artifact:
    """One version.

    Attributes:
        files: their bytes by path; the manifest's stand in `manifest`.
    """

    id: str
    place: str
    collection: str
    type: str
    digest: str
    metadata: str
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""


def create(v: Mapping[str, Any], server: "Server") -> dict[str, Any]:
    told = v["input"]
    place = f"{told['entityName'] or 'me'}/{told['projectName']}"  # as of runs: no entity is the account's own
    (collection,) = told.get("artifactCollectionNames") or [told["artifactCollectionName"]]
    versions = [a for a in server.artifacts.values() if (a.place, a.collection) == (place, collection)]
    found = next((a for a in versions if a.digest == told["digest"]), None)
    if found is None:
        found = Artifact(
            f"a{len(server.artifacts)}", place, collection, told["artifactTypeName"], told["digest"],
            told.get("metadata") or "{}",
        )  # fmt: skip
        server.artifacts[found.id] = found
    whole = [a for a in versions if a.state == "COMMITTED"]
    newest = {"id": whole[-1].id, "versionIndex": len(whole) - 1} if whole else None
    sequence = {"id": f"c-{collection}", "latestArtifact": newest}
    return {"createArtifact": {"artifact": {"id": found.id, "state": found.state, "artifactSequence": sequence}}}


def name_manifest(v: Mapping[str, Any], server: "Server") -> dict[str, Any]:
    upload = f"{server.address}/artifact/{v['artifactID']}/manifest"
    file = {"id": "f", "uploadUrl": upload, "uploadHeaders": []}
    return {"createArtifactManifest": {"artifactManifest": {"id": f"m-{v['artifactID']}", "file": file}}}


def name_files(v: Mapping[str, Any], server: "Server") -> dict[str, Any]:
    edges = []
    for spec in v["input"]["artifactFiles"]:
        path = f"artifact/{spec['artifactID']}/file/{spec['name']}"
        node = {
            "storagePath": path, "uploadUrl": f"{server.address}/{path}", "uploadHeaders": [],
            "uploadMultipartUrls": None, "artifact": {"id": spec["artifactID"]},
        }  # fmt: skip
        edges.append({"node": node})
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def commit(v: Mapping[str, Any], server: "Server") -> dict[str, Any]:
    found = server.artifacts[v["artifactID"]]
    found.state = "COMMITTED"
    return {"commitArtifact": {"artifact": {"id": found.id, "digest": found.digest}}}


def keep(server: "Server", path: list[str], body: bytes) -> None:
    """Take what was put to an address of an artifact's."""
    name, kind, *rest = path
    if kind == "manifest":
        server.artifacts[name].manifest = body
    else:
        server.artifacts[name].files["/".join(rest)] = body


def show(v: Mapping[str, Any], server: "Server") -> dict[str, Any]:
    """The newest whole version of a collection."""
    place, (collection, _, alias) = f"{v['entity']}/{v['project']}", v["name"].partition(":")
    assert alias == "latest"
    whole = [
        a for a in server.artifacts.values()
        if (a.place, a.collection, a.state) == (place, collection, "COMMITTED")
    ]  # fmt: skip
    if not whole:
        return {"project": {"artifactCollectionMembership": None}}
    found, index = whole[-1], len(whole) - 1
    project = {"id": "p", "internalId": "1", "name": v["project"], "entity": {"name": v["entity"]}}
    date = "2026-01-01T00:00:00Z"
    artifact = {
        "__typename": "Artifact", "id": found.id, "versionIndex": index, "artifactType": {"name": found.type},
        "artifactSequence": {"__typename": "ArtifactSequence", "name": collection, "project": project},
        "description": None, "metadata": found.metadata, "ttlDurationSeconds": -1, "ttlIsInherited": True, "tags": [],
        "historyStep": None, "state": found.state, "size": sum(map(len, found.files.values())),
        "digest": found.digest, "digestAlgorithm": "MANIFEST_MD5", "commitHash": None,
        "fileCount": len(found.files), "createdAt": date, "updatedAt": date,
    }  # fmt: skip
    membership = {
        "__typename": "ArtifactCollectionMembership", "id": "m", "versionIndex": index, "createdAt": date,
        "aliases": [{"__typename": "ArtifactAlias", "id": "l", "alias": "latest"}], "artifact": artifact,
        "artifactCollection": {"__typename": "ArtifactSequence", "name": collection, "project": project},
    }  # fmt: skip
    return {"project": {"artifactCollectionMembership": membership}}


def read_metadata(artifact: Artifact) -> dict[str, Any]:
    content = json.loads(artifact.metadata)
    assert isinstance(content, dict)
    return content


ANSWERS = {
    "CreateArtifact": create,
    "CreateArtifactManifest": name_manifest,
    "CreateArtifactFiles": name_files,
    "CommitArtifact": commit,
    "UseArtifact": lambda v, server: {"useArtifact": {"artifact": {"id": v["input"]["artifactID"]}}},
    "ArtifactMembershipByName": show,
}
