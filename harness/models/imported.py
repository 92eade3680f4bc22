"""A user's own module, written for one run, by its import path: a class, or a function that returns a module."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from harness.config import Part
from harness.imports import load_import


def make_imported_model(config: Part, shape: Mapping[str, int]) -> nn.Module:
    """The module behind model.name=PACKAGE.MODULE:NAME, called with the config's other keys as keyword arguments.

    Of the words in which a task describes its inputs and outputs, those are passed that the signature names and the
    config does not set. `**kwargs` gets none of them: it usually hands them on to something that refuses them.

    Raises: ValueError when the options do not fit the signature, or what comes back is no module.
    """
    path = str(config["name"])
    make = load_import("model.name", path)
    options: dict[str, Any] = {key: value for key, value in config.items() if key != "name"}
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model.name={path!r} is neither a class nor a function that makes a module") from error
    named = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    options = {word: size for word, size in shape.items() if word in named} | options
    try:
        signature.bind(**options)
    except TypeError as error:
        offered = f"the task offers {', '.join(shape)}" if shape else "the task offers no sizes"
        takes = f"{path}{signature}"
        raise ValueError(f"model.name={path!r}: {error}: {takes} gets what model's YAML sets, and {offered}") from error
    module = make(**options)
    if not isinstance(module, nn.Module):
        raise ValueError(f"model.name={path!r} made a {type(module).__name__}, not a torch.nn.Module")
    return module
