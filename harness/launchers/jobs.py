"""A sweep's jobs on clusters, as its folder and the clusters tell of them: to look at, and to cancel."""

from collections.abc import Mapping
from pathlib import Path

from harness.launchers.placed import Cluster, Note, Placed, is_told, mark_told, read_notes, unmark_told


def find_jobs(folder: Path, clusters: Mapping[str, Cluster]) -> list[tuple[Note, Placed]]:
    """The last job of every stack, of those that the cluster knows and nobody has told the end of."""
    found = []
    for note in read_notes(folder):
        cluster = clusters.get(note.launcher)
        placed = cluster.recall(folder, note) if cluster is not None and not is_told(folder, note) else None
        if placed is not None:
            found.append((note, placed))
    return found  # a list, so that a cluster knows of all before it is asked of the first


def cancel_jobs(folder: Path, clusters: Mapping[str, Cluster]) -> int:
    """Cancel all jobs of a sweep that wait or run; what is done stays. Returns the number of their stacks.

    Raises: NoCluster where the cluster does not take the order.
    """
    going = [(note, placed) for note, placed in find_jobs(folder, clusters) if placed.ended() is None]
    for note, _ in going:
        mark_told(folder, note)  # first: a command that waits is to know why they end, the next submits them again
    try:
        for launcher in {note.launcher for note, _ in going}:
            ids = {placed.id: None for note, placed in going if note.launcher == launcher}  # stacks may share a job
            clusters[launcher].cancel(list(ids))
    except BaseException:
        for note, _ in going:
            unmark_told(folder, note)
        raise
    return len(going)
