"""Launchers: run the stacks of a plan somewhere, each by the same worker."""

from collections.abc import Mapping
from typing import Any

from harness.launchers.local import choose_device, launch_local
from harness.launchers.placed import Cluster
from harness.launchers.ray import launch_ray
from harness.launchers.slurm import check_options, check_slurm, count_gpus, launch_slurm, slurm_cluster
from harness.machine import available_cores

LAUNCHERS = {"local": launch_local, "slurm": launch_slurm, "ray": launch_ray}
ASKED_FOR = ("gpus_per_node", "gres", "num_gpus")  # options of clusters that may ask for GPUs


def known_clusters() -> dict[str, Cluster]:
    """Those whose jobs can be looked at and cancelled by what a sweep's folder says of them."""
    return {"slurm": slurm_cluster()}


def check_launcher(launcher: Mapping[str, Any]) -> None:
    """By what was typed alone. Raises: ValueError for options that a cluster would refuse."""
    if launcher["name"] == "slurm":
        check_options(launcher)


def check_cluster(launcher: Mapping[str, Any]) -> None:
    """Before runs are laid out that a cluster is to train. Raises: ValueError where it does not answer, or refuses."""
    if launcher["name"] == "slurm":
        check_slurm(launcher)


def choose_place(launcher: Mapping[str, Any]) -> tuple[str, int, int]:
    """cpu or cuda, how many GPUs this machine has, and workers at once on it; the host of a cluster may have none.

    Raises: ValueError for a device that is not there, or was not asked for.
    """
    if launcher["name"] == "local":
        device, num_devices = choose_device(launcher["device"])
        ranks = launcher["data_parallel"]
        if device == "cuda" and ranks > num_devices:
            text = f"launcher.data_parallel={ranks} needs as many GPUs, one a rank, and torch finds {num_devices}"
            raise ValueError(f"{text}: give launcher.data_parallel={num_devices}, or launcher.device=cpu")
        return device, num_devices, launcher["workers"] or max(1, (num_devices or available_cores()) // ranks)
    asked = [f"launcher.{key}" for key in ASKED_FOR if key in launcher]
    gpus = launcher["num_gpus"] if "num_gpus" in launcher else count_gpus(launcher)
    if launcher["device"] == "cuda" and not gpus:
        raise ValueError(f"launcher.device=cuda, but no GPU is asked for: give {' or '.join(asked)}")
    device = "cuda" if gpus and launcher["device"] != "cpu" else "cpu"
    return device, 0, available_cores() if device == "cpu" else 1
