"""A user's own code by import path, PACKAGE.MODULE:NAME: checked before anything starts, loaded where it is used.

The check reads the source and runs none of it (packages around it aside), so a launcher needs no torch for it.
"""

import ast
import hashlib
import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.checks import closest
from harness.config import CONF_DIR, RunConfig

FORM = "PACKAGE.MODULE:NAME"


def check_imports(values: Mapping[str, Any]) -> None:
    """Raises: ValueError for an import path among composed values that leads nowhere, or options that do not fit it."""
    name = str(values["model"]["name"])
    own = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
    if ":" in name:
        check_import("model.name", name, {key for key in values["model"] if key != "name"})
        for key, value in values["model"].items():
            if isinstance(value, list):
                text = f"model.{key}={value} is a list: give a model's option as text, a number, true, false or null"
                raise ValueError(text)
    elif name not in own:
        there = f"one of {', '.join(own)}{closest(name, own)}"
        raise ValueError(f"model.name={name!r} is neither {there} nor an import path {FORM}")
    for key in ("loss", "data"):
        if values["task"].get(key) is not None:
            check_import(f"task.{key}", str(values["task"][key]))


def has_own_code(config: RunConfig) -> bool:
    """Whether a run's model, loss or data are a user's, of which nothing is known before it is tried."""
    return ":" in str(config.model["name"]) or any(config.task.get(key) is not None for key in ("loss", "data"))


def own_code_sha256(config: RunConfig) -> str:
    """Of the source files that a run's import paths name; what those import in turn is not looked at."""
    digest = hashlib.sha256()
    for path in (config.model["name"], config.task.get("loss"), config.task.get("data")):
        if path is not None and ":" in str(path):
            spec = importlib.util.find_spec(str(path).partition(":")[0])
            if spec is not None and spec.origin is not None:
                digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()


def split_path(setting: str, path: str) -> tuple[str, str]:
    """Module and name.

    Raises: ValueError for a path of another form.
    """
    module, colon, name = path.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ValueError(f"{setting}={path!r} is not an import path: write {FORM}, e.g. mymodels.nets:Net")
    return module, name


def check_import(setting: str, path: str, options: Iterable[str] = ()) -> None:
    """Raises: ValueError unless the path's module is there and, as far as its source tells, has the name, which takes
    these keyword arguments.
    """
    module, name = split_path(setting, path)
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    except Exception as error:  # whatever the package around it raises
        raise ValueError(
            f"{setting}={path!r}: importing the package of {module} failed: {first_line(error)}"
        ) from error
    if spec is None:
        where = f"neither in this folder ({os.getcwd()}) nor installed"
        raise ValueError(f"{setting}={path!r}: module {module} is {where}; run from the folder it lies in")
    if spec.origin is None or not spec.origin.endswith(".py"):
        return  # no source to read: the worker will tell
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except SyntaxError as error:
        raise ValueError(f"{setting}={path!r}: {spec.origin}, line {error.lineno}: {error.msg}") from error
    found = top_level_names(tree)
    if name not in found and not {"*", "__getattr__"} & set(found):
        near = closest(name, [other for other in found if not other.startswith("_")])
        raise ValueError(f"{setting}={path!r}: {spec.origin} has no {name}{near}")
    taken = keywords_of(found.get(name))
    for option in options:
        if taken is not None and option not in taken:
            takes = f"takes {', '.join(taken) or 'no options'}{closest(option, taken)}"
            raise ValueError(f"{setting.rpartition('.')[0]}.{option} is not an option of {path}, which {takes}")


def top_level_names(tree: ast.Module) -> dict[str, ast.AST]:
    """What a module's source defines or imports by name, also inside if and try."""
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        inner = ast.walk(node) if isinstance(node, ast.If | ast.Try | ast.With) else [node]
        for part in inner:
            if isinstance(part, ast.ClassDef | ast.FunctionDef):
                found[part.name] = part
            elif isinstance(part, ast.Import | ast.ImportFrom):
                found |= {alias.asname or alias.name.split(".")[0]: part for alias in part.names}
            elif isinstance(part, ast.Assign | ast.AnnAssign):
                targets = part.targets if isinstance(part, ast.Assign) else [part.target]
                found |= {target.id: part for target in targets if isinstance(target, ast.Name)}
    return found


def keywords_of(node: ast.AST | None) -> list[str] | None:
    """Keyword arguments of a function, or of a class's own __init__; None where the source does not tell."""
    if isinstance(node, ast.ClassDef) and not node.decorator_list:
        own = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        function, skip = (own[0], 1) if own else (None, 0)
    else:
        function, skip = node if isinstance(node, ast.FunctionDef) else None, 0
    if function is None or function.decorator_list or function.args.kwarg is not None:
        return None
    return [arg.arg for arg in [*function.args.args[skip:], *function.args.kwonlyargs]]


def load_import(setting: str, path: str) -> Any:
    """What an import path names.

    Raises: ValueError, in one line, when it cannot be imported.
    """
    module, name = split_path(setting, path)
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"{setting}={path!r} cannot be imported: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
