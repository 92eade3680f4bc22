"""Oracle: the layout in ARCHITECTURE.md. Imports go one way, analysis knows no torch, nothing dangerous is called."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# a file imports only what stands before it
ORDER = [
    "corpus", "protocols", "nested", "model_sizes", "checks", "config", "imports", "machine", "store", "log",
    "leases", "unfinished", "index", "records", "shards", "token_files", "sweep", "overrides", "rounds", "plan",
    "plan_file", "schedules", "parameters", "optimizers", "models", "tasks", "metrics", "noise_scale", "per_tensor",
    "autocorrelation", "groups", "overwriting", "recording", "lanes", "ranks", "attention", "program", "train",
    "results", "memory", "one_step", "curvature", "draws", "probe", "stackable", "checkpoint", "weights", "process",
    "estimate", "measure", "job", "torchrun", "worker", "rank", "rows", "following", "wandb_client", "tracking",
    "summary_run", "delivery", "outbox", "mirror", "trackio_mirror", "trackers", "launchers", "status", "progress",
    "launch", "dry_run", "request", "compose", "command", "__main__",
]  # fmt: skip

FREE_OF_TORCH = ["harness"] + [
    f"harness.{name}" for name in ("nested", "checks", "config", "records", "schedules", "wandb_client")
]


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


def test_architecture_shows_the_order() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().split("| harness | files, in order |")[1].split("\n\n")[0]
    cells = [line.split("|")[2] for line in table.splitlines()[2:]]
    assert [name.strip(" `") for cell in cells for name in cell.split(",")] == ORDER


def test_architecture_names_every_file_of_analysis() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().split("| analysis | files |")[1].split("\n\n")[0]
    names = {path.stem for path in (ROOT / "analysis").glob("*.py")} - {"__init__"}
    named = set(re.findall(r"[a-z_]+", table))
    assert {name for name in names if name not in named and not name.endswith(("_claims", "_fit"))} == set()


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", modules("harness"), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_harness_imports_only_what_stands_above(path: Path) -> None:
    own = path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")
    if own == "__init__":
        assert not imports_of(path)
        return
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "harness":
            assert ORDER.index(parts[1]) <= ORDER.index(own), f"{own} imports {parts[1]}, which stands below it"
        if parts[0] == "analysis":
            assert own == "__main__", f"harness/{own} imports analysis"


@pytest.mark.parametrize("path", modules("analysis"), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_analysis_imports_of_the_harness_only_what_is_free_of_torch(path: Path) -> None:
    for name in imports_of(path):
        assert name.split(".")[0] != "torch"
        if name.split(".")[0] == "harness":
            assert name in FREE_OF_TORCH


def test_analysis_and_composing_load_no_torch() -> None:
    code = "import sys, analysis.plot, harness.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("package", ["harness", "analysis", "scripts"])
def test_nothing_that_executes_data(package: str) -> None:
    for path in modules(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "__import__"), path
        assert not imports_of(path) & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, path
