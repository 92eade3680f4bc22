"""Recorded operations that write over what nothing reads any more, instead of into fresh memory."""

from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
# an operation -> the same one that writes where it is told, and by which keyword; None: over its first argument
WRITERS: dict[Any, tuple[Any, str | None]] = {
    aten.add.Tensor: (aten.add.out, "out"),
    aten.mul.Tensor: (aten.mul.out, "out"),
    aten.div.Tensor: (aten.div.out, "out"),
    aten.relu.default: (aten.relu_.default, None),
    aten.threshold_backward.default: (aten.threshold_backward.grad_input, "grad_input"),
}
WORTH_IT = 4096  # numbers; smaller tensors cost what calling an operation costs


def overwrite(graph: Graph) -> int:
    """Change every operation of WRITERS that can to write over one of its arguments; returns how many were.

    Same kernels, same order, same bits; a tensor of R x B x D numbers less to bring in from memory for each. An
    argument can be written over where it was made within the graph, has the result's shape, type and layout, and
    neither it nor a view of it is read later or returned.
    """
    nodes = list(graph.nodes)
    last: dict[Node, int] = {}  # owner of memory -> the last node that reads it
    for i, node in enumerate(nodes):
        for arg in node.all_input_nodes:
            last[owner(arg)] = i
    changed = 0
    for i, node in enumerate(nodes):
        if node.op != "call_function" or node.target not in WRITERS:
            continue
        target, keyword = WRITERS[node.target]
        candidates = node.args[:1] if keyword != "out" else node.args
        for arg in candidates:
            if isinstance(arg, Node) and last[owner(arg)] == i and fits(arg, node):
                until = last.get(node, i)
                node.target = target
                node.kwargs = {**node.kwargs, keyword: arg} if keyword else node.kwargs
                last[owner(arg)] = until
                changed += 1
                break
    return changed


def owner(node: Node) -> Node:
    """The node that made the memory of this one: views and operations that write in place have their argument's."""
    while node.op == "call_function":
        target: Any = node.target
        schema = getattr(target, "_schema", None)
        if schema is not None and schema.is_mutable:
            written = next(iter(set(node.kwargs) & {"out", "grad_input"}), None)
            source = node.kwargs[written] if written else node.args[0]
        elif schema is None or target is aten._unsafe_view.default or target.is_view:  # no schema: getitem
            source = node.args[0]
        else:
            break
        if not isinstance(source, Node):
            break
        node = source
    return node


def fits(arg: Node, node: Node) -> bool:
    """Whether the result can lie where an argument lies."""
    old, new = arg.meta["val"], node.meta["val"]
    made = owner(arg)
    return (
        made.op == "call_function"
        and isinstance(made.meta["val"], torch.Tensor)
        and new.numel() >= WORTH_IT
        and (old.shape, old.dtype, old.device, old.stride()) == (new.shape, new.dtype, new.device, new.stride())
        and bool(old.is_contiguous())
        and made.meta["val"].numel() == old.numel()
    )
