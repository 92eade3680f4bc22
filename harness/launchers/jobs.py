"""A sweep's jobs on clusters, as its folder and the clusters tell of them: to look at, and to cancel."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.launchers.placed import Cluster, Note, Placed, is_told, mark_told, read_notes


def find_jobs(folder: Path, clusters: Mapping[str, Cluster]) -> Iterator[tuple[Note, Placed]]:
    """The last job of every stack, of those that the cluster knows and nobody has told the end of."""
    for note in read_notes(folder).values():
        cluster = clusters.get(note.launcher)
        placed = cluster.recall(folder, note) if cluster is not None and not is_told(folder, note) else None
        if placed is not None:
            yield note, placed


def cancel_jobs(folder: Path, clusters: Mapping[str, Cluster]) -> int:
    """Cancel all jobs of a sweep that wait or run; what is done stays. Returns the number of their stacks."""
    going = [(note, placed) for note, placed in find_jobs(folder, clusters) if placed.ended() is None]
    for placed in {placed.id: placed for _, placed in going}.values():  # stacks may share a job
        placed.cancel()
    for note, _ in going:
        mark_told(folder, note)  # so that the training command submits it again
    return len(going)
