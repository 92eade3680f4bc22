"""Hydra: what a user typed -> composed values, and mistakes told in one line."""

import copy
import itertools
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from harness.checks import check_choice, closest
from harness.config import CONF_DIR, SWEEPS_DIR, describe_own_model

# What to give for a value that has no default
NEEDS = {
    "task.data": "task.data=MODULE:FUNCTION, a function of yours that returns training and held-out inputs and targets,"
    " and a model of your own: --config-dir DIR model=NAME for DIR/model/NAME.yaml (README, A module of your own)",
}
Composed = tuple[dict[str, Any], dict[str, Any]]
Compose = Callable[[Mapping[str, str]], Composed]
GROUPS = ("task", "model", "optimizer", "schedule", "protocol", "launcher", "tracker")


def register_sweeps(typed: Sequence[str]) -> None:
    """Make sweeps/*.yaml the config group `sweep`, and let sweep.grid take axes that it does not have yet.

    Hydra copies all that is registered whenever it composes: of sweeps that nothing typed names only the names are,
    but where a YAML of the user's own may build on any.
    """
    store = ConfigStore.instance()
    own = any(text.startswith(("--config-dir", "-cd", "--config-path", "-cp")) for text in typed)
    for path in sorted(SWEEPS_DIR.glob("*.yaml")):
        needed = own or any(path.stem in text for text in typed)
        node = OmegaConf.load(path) if needed else OmegaConf.create({})
        store.store(group="sweep", name=path.stem, node=node, package="_global_")
    grid = OmegaConf.create({"sweep": {"grid": {}}})
    OmegaConf.set_struct(grid.sweep.grid, False)
    store.store(name="open_grid", node=grid)


def compose_once() -> Compose:
    """compose, doing each choice once: it takes a few tenths of a second."""
    done: dict[frozenset[tuple[str, str]], Composed] = {}

    def call(chosen: Mapping[str, str]) -> Composed:
        key = frozenset(chosen.items())
        if key not in done:
            done[key] = compose(chosen)
        return copy.deepcopy(done[key])  # plain values, which callers change

    return call


def compose(chosen: Mapping[str, str]) -> Composed:
    """The values of the running command with some groups chosen anew, and the defaults of those choices.

    The defaults are the same groups alone: their keys and types are what the user's and the sweep's values are held
    against.

    Args:
        chosen: group -> option, over what the command line chooses.
    """
    typed = [text for text in read_typed() if text.partition("=")[0] not in chosen]
    anew = [f"{group}={option}" for group, option in chosen.items()]
    choices = {**HydraConfig.get().runtime.choices, **chosen}
    values = hydra.compose("config", overrides=[*typed, *anew])
    # Without the sweep, whose own keys would otherwise count as right
    defaults = hydra.compose("config", overrides=[f"{group}={choices[group]}" for group in GROUPS])
    plain_values = as_dict(OmegaConf.to_container(values, resolve=True, throw_on_missing=True))
    plain_defaults = as_dict(OmegaConf.to_container(defaults, resolve=True))
    # A sweep brings its own name and texts, and its axes are held against the run's values
    if choices.get("sweep") and plain_values["sweep"]["name"] == plain_defaults["sweep"]["name"]:
        raise ValueError(
            f"sweep={choices['sweep']} sets no sweep.name: add `name: {choices['sweep']}` under `sweep:` in its "
            "file, which begins with the line # @package _global_"
        )
    given = {text.lstrip("+").partition("=")[0] for text in typed}
    if "sweep.name" in given and "sweep.question" not in given:
        plain_values["sweep"]["question"] = None  # it was asked about the runs of another name
    plain_defaults["sweep"] = {key: plain_values["sweep"][key] for key in plain_defaults["sweep"]}
    return plain_values, plain_defaults


def read_typed() -> list[str]:
    """The overrides of the running command, KEY=VALUE."""
    return list(HydraConfig.get().overrides.task)


def read_chosen(group: str) -> str | None:
    """The option that the running command takes of a group."""
    option = HydraConfig.get().runtime.choices.get(group)
    return None if option is None else str(option)


def as_dict(container: object) -> dict[str, Any]:
    assert isinstance(container, dict), "a config's root is a mapping"
    return container


def explain(error: Exception) -> str:
    """One line with the cure for a mistake that Hydra or OmegaConf found."""
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: write KEY=VALUE, and lists in quotes, e.g. 'sweep.grid.seed=[0, 1]'"
    if "Ambiguous value for argument" in str(error):
        return "one key was given several values: give one, or an axis, e.g. 'sweep.grid.optimizer.lr=[0.1,0.2]'"
    if "override must be a string or a list. Got NoneType" in str(error):
        return "null is no choice of a group: leave the word out; without a sweep one run is trained"
    if missing := re.search(r"In '(.*)': Could not override '(.*)'\. No match", str(error)):
        place, group = missing.groups()
        return (
            f"{place}.yaml overrides /{group}, which is no group: there are {', '.join(GROUPS)}{closest(group, GROUPS)}"
        )
    if packaged := re.search(r"In '(.*)': Could not override '(\w+)@[\w.]+\.\2'", str(error)):
        return f"{packaged[1]}.yaml does not begin with the line # @package _global_: add it"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if group == "model" and ":" in option:
            return f"model={option}: {describe_own_model(option)}"
        try:
            check_choice(group, option, error.options)
        except ValueError as readable:
            return str(readable)
    if isinstance(cause, MissingMandatoryValue):
        key = cause.full_key or str(cause).rpartition(" ")[2]
        return f"{key} is not set: give {NEEDS.get(key, f'{key}=VALUE')}"
    if isinstance(cause, OmegaConfBaseException) and cause.key is not None:
        parent = cause.parent_node
        allowed = [str(key) for key in parent] if isinstance(parent, Mapping) else []
        if allowed:
            key = cause.full_key or str(cause.key)
            if key == "launcher.cancel":
                return f"{key} is of launcher=slurm; tasks of Ray end with their command: press Ctrl-C there"
            return f"{key} is not a key here{closest(str(cause.key), allowed)}; there are {', '.join(allowed)}"
    return " ".join(str(error).split())


MISTAKES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


def describe_options() -> str:
    """The options of every group with the comment that their files begin with, for --help."""
    lines = []
    for group in GROUPS:
        lines.append(f"\n{group}=")
        paths = sorted((CONF_DIR / group).glob("*.yaml"))
        lines += [describe_option(path.stem, first_comment(path.read_text())) for path in paths]
    lines.append("\nsweep=")
    for path in sorted(SWEEPS_DIR.glob("*.yaml")):
        sweep = OmegaConf.load(path)
        lines.append(describe_option(path.stem, f"{sweep.sweep.question} ({first_comment(path.read_text())})"))
    return "\n".join(lines)


def describe_option(name: str, text: str) -> str:
    """A name with what is to be said of it beside it, whole, in as many lines as that takes."""
    width = min(120, shutil.get_terminal_size((120, 24)).columns)
    return textwrap.fill(f"  {name:<20}{text}", width, subsequent_indent=" " * 22, break_long_words=False)


def first_comment(text: str) -> str:
    """The comment that a file begins with, all of its lines as one."""
    lines = [line for line in text.splitlines() if not line.startswith("# @")]
    return " ".join(line[2:] for line in itertools.takewhile(lambda line: line.startswith("# "), lines))
