"""A function of tensors as the plain list of operations that it comes down to, and that list as machine code."""

import hashlib
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

COMPILED = ".compiled"  # folder of runs_dir
Function = Callable[..., list[Tensor]]


def record(
    function: Function,
    *,
    plain: bool = False,
    compiled_dir: Path | None = None,
    note_build: Callable[[float], None] = lambda seconds: None,
) -> Function:
    """`function` without the time that torch's transforms (vmap, grad) take anew at every call: about 1.5 ms a step.

    At the first call of each shape its operations are recorded, and from then on called one after the other: the same
    operations in the same order, so the same bits. Nothing in `function` may depend on a tensor's values.

    Args:
        plain: do not record after all, for functions that cannot be.
        compiled_dir: where to keep machine code; given, the operations are compiled (the last bits may differ).
        note_build: told the seconds of a build that was not there yet.
    """
    if plain:
        return torch.no_grad()(function)
    recorded: dict[tuple[torch.Size, ...], Function] = {}

    def call(*tensors: Tensor) -> list[Tensor]:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in recorded:
            graph = make_fx(function)(*tensors)
            graph.graph.eliminate_dead_code()
            graph.recompile()
            recorded[shapes] = (
                graph if compiled_dir is None else compile_graph(graph, tensors, compiled_dir, note_build)
            )
        with torch.no_grad():
            return recorded[shapes](*tensors)

    return call


def compile_graph(
    graph: GraphModule, tensors: tuple[Tensor, ...], folder: Path, note_build: Callable[[float], None]
) -> Function:
    """The graph as machine code: loaded from `folder` in milliseconds where it was built before, else built, once.

    On a CPU the whole graph becomes one library that is called without Python in between (AOTInductor), twice as fast
    at small batches as torch.compile's.
    """
    if tensors[0].device.type != "cpu":
        compiled: Function = torch.compile(graph, dynamic=False)
        return compiled
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name_of(graph, tensors)}.pt2"
    with FileLock(path.with_suffix(".lock")):  # a second worker waits for the build instead of doing it again
        if not path.exists():
            began = time.perf_counter()
            build(graph, tensors, path)
            note_build(time.perf_counter() - began)
    loaded: Function = torch._inductor.aoti_load_package(str(path))
    return loaded


def name_of(graph: GraphModule, tensors: tuple[Tensor, ...]) -> str:
    """Names the machine code: operations, constants, shapes, torch, and the processor that it is for."""
    digest = hashlib.sha256(graph.code.encode())
    for name, constant in [*graph.named_buffers(), *graph.named_parameters()]:
        digest.update(
            f"{name} {constant.dtype} {tuple(constant.shape)}".encode() + constant.detach().cpu().numpy().tobytes()
        )
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}".encode())
    digest.update(f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {sys.platform}".encode())
    return digest.hexdigest()[:16]


def build(graph: GraphModule, tensors: tuple[Tensor, ...], path: Path) -> None:
    import torch._inductor.config as inductor

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path.parent.resolve() / "inductor")  # not the home folder
    inductor.compile_threads = 1  # one file to compile: no pool of helpers for it
    temporary = path.parent / f".{uuid.uuid4().hex}.pt2"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        exported = torch.export.export(graph, tensors, strict=False)
        torch._inductor.aoti_compile_and_package(exported, package_path=str(temporary))
    temporary.rename(path)
