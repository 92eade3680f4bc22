"""A function of tensors as the plain list of operations that it comes down to, and that list as machine code."""

import hashlib
import os
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from harness.machine import is_out_of_memory
from harness.overwriting import overwrite

COMPILED = ".compiled"  # folder of runs_dir
Function = Callable[..., list[Tensor]]
Note = Callable[[dict[str, Any]], None]


def record(
    function: Function,
    *,
    machine_code: Path | None = None,
    in_place: bool = False,
    by_content: bool = False,
    note: Note = lambda fact: None,
) -> Function:
    """`function` without the time that torch's transforms (vmap, grad) take anew at every call: about 1.5 ms a step.

    At the first call of each shape its operations are recorded, which takes as long as some 150 calls, and from then on
    called one after the other: the same operations in the same order, so the same bits. Nothing in `function` may
    depend on a tensor's values.

    Args:
        machine_code: file of the operations as machine code (the last bits may differ), built if it is not there; its
            name must tell the function, its shapes and the processor. For calls of one shape only.
        in_place: what the function returns are the next values of its first arguments, in their order: machine code
            writes them there.
        by_content: the name does not tell the function, as where it holds a user's code: its operations are added.
        note: told of a build, or that it failed: the recorded operations are taken then, and write in place likewise.
    """
    recorded: dict[tuple[torch.Size, ...], Function] = {}

    def call(*tensors: Tensor) -> list[Tensor]:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in recorded:
            # Recording calls the function: what it draws must not be missing from training's random numbers
            devices = [tensors[0].device] if tensors[0].is_cuda else []
            with torch.random.fork_rng(devices=devices):
                if machine_code is None:
                    graph = trace(function, tensors)
                    recorded[shapes] = graph if tensors[0].is_cuda else overwrite(graph, tensors)
                else:
                    assert not recorded, "machine code is for one shape"
                    recorded[shapes] = compile_function(
                        function, tensors, machine_code, in_place=in_place, by_content=by_content, note=note
                    )
        with torch.no_grad():
            return recorded[shapes](*tensors)

    return call


def trace(function: Function, tensors: tuple[Tensor, ...]) -> GraphModule:
    graph = make_fx(function, FASTER, "fake", _allow_non_fake_inputs=True)(*tensors)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def add_rows(grad: Tensor, indices: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool) -> Tensor:
    """The gradient of an embedding, the same sums in the same order; on a CPU torch's own takes two to five times as
    long.
    """
    if padding_idx >= 0 or scale_grad_by_freq or grad.is_cuda:
        return NotImplemented
    width = grad.shape[indices.dim() :].numel()
    index = indices.clone(memory_format=torch.contiguous_format).view(-1)  # whatever strides a later batch has
    rows = grad.new_zeros(num_weights, width).index_add(0, index, grad.reshape(-1, width))
    return rows.reshape(num_weights, *grad.shape[indices.dim() :])


FASTER = {torch.ops.aten.embedding_dense_backward.default: add_rows}  # operations replaced where steps are recorded


def compile_function(
    function: Function, tensors: tuple[Tensor, ...], path: Path, *, in_place: bool, by_content: bool, note: Note
) -> Function:
    """The function as machine code: loaded in milliseconds where it was built before, else built, once.

    On a CPU the whole of it becomes one library that is called without Python in between (AOTInductor), twice as fast
    at small batches as torch.compile's.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path.parent.resolve() / "inductor")  # not the home folder
    if tensors[0].device.type != "cpu":
        return replayed(trace(function, tensors), tensors)
    try:
        code = load_or_build(function, tensors, path, in_place=in_place, by_content=by_content, note=note)
    except Exception as error:  # of a compiler, a disk, an operation that cannot be compiled
        graph = trace(function, tensors)  # raises what is wrong with the function itself
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        note({"what": "unbuilt" if may_pass(error) else "unbuildable", "reason": reason})
        code = writing(graph) if in_place else graph

    def call(*tensors: Tensor) -> list[Tensor]:
        assert all(tensor.is_contiguous() for tensor in tensors), "machine code goes by the strides it was built with"
        made = code(*tensors)
        return list(tensors) if in_place else made

    return call


def replayed(graph: GraphModule, tensors: tuple[Tensor, ...]) -> Function:
    """The operations fused by torch.compile and, on a GPU, launched by one replay of a CUDA graph.

    What a replay gives lies in the graph's own memory, which the next one writes over: copies are given out.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        compiled = torch.compile(graph, dynamic=False, mode="reduce-overhead")
        compiled(*tensors)  # here, since only the first call compiles
    return lambda *tensors: [made.clone() for made in compiled(*tensors)]


def load_or_build(
    function: Function, tensors: tuple[Tensor, ...], path: Path, *, in_place: bool, by_content: bool, note: Note
) -> Function:
    """Raises: whatever the function, a compiler or a disk raise."""
    if by_content:
        path = path.with_stem(f"{path.stem}-{name_of(trace(function, tensors), tensors)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # a second worker waits for the build instead of doing it again
        loaded = load(path)
        if loaded is None:
            graph, began = trace(function, tensors), time.perf_counter()
            if in_place:
                own = tuple(tensor.clone() for tensor in tensors)  # tracing calls it, which writes into them
                build(trace(writing(graph), own), own, path)
            else:
                build(graph, tensors, path)
            note({"what": "built", "seconds": time.perf_counter() - began})
            loaded = load(path)
    assert loaded is not None, f"{path} was just built"
    return loaded


def may_pass(error: Exception) -> bool:
    """Whether a build failed by a disk or for want of memory: the next may succeed. (torch hands on texts.)"""
    words = ("[errno", "no space left", "killed signal")
    return isinstance(error, OSError) or is_out_of_memory(error) or any(word in str(error).lower() for word in words)


def writing(function: Function) -> Function:
    """`function` with what it returns written into its first arguments: half the traffic to memory once compiled."""

    def call(*tensors: Tensor) -> list[Tensor]:
        made = list(zip(tensors, function(*tensors), strict=False))
        # One that lies in an argument's memory (an optimizer's previous parameters) is read before that is written
        own = {tensor.untyped_storage()._cdata for tensor in tensors}
        made = [(old, new.clone() if new.untyped_storage()._cdata in own else new) for old, new in made]
        for old, new in made:
            old.copy_(new)
        return []

    return call


def load(path: Path) -> Function | None:
    """Machine code from its file, None where there is none; a damaged one is deleted, and built again."""
    if not path.exists():
        return None
    try:
        # What torch._inductor.aoti_load_package loads, without the trial compilations by which it compares processors
        # (0.3 to 1.3 s; the file's name tells the processor) and the JSON that it reads at every call
        loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1)
    except (RuntimeError, OSError):
        path.unlink(missing_ok=True)
        return None
    run: Callable[[list[Tensor]], list[Tensor]] = loader.boxed_run
    return lambda *tensors: run(list(tensors))


def name_of(graph: GraphModule, tensors: tuple[Tensor, ...]) -> str:
    """Names operations, the constants among them and the shapes that they are for."""
    digest = hashlib.sha256(graph.code.encode())
    digest.update(repr([(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]).encode())
    for name, constant in [*graph.named_buffers(), *graph.named_parameters()]:
        digest.update(f"{name} {constant.dtype} {tuple(constant.shape)}".encode())
        digest.update(constant.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def build(graph: GraphModule, tensors: tuple[Tensor, ...], path: Path) -> None:
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # one file to compile: no pool of helpers for it
    inductor.cpp.vec_isa_ok = True  # go by what the processor says: trial compilations take seven seconds
    temporary = path.parent / f".{uuid.uuid4().hex}.pt2"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        exported = torch.export.export(graph, tensors, strict=False)
        torch._inductor.aoti_compile_and_package(exported, package_path=str(temporary))
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.rename(path)
