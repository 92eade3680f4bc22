"""Models: plain modules, written for one run. A stack calls them through torch.func.functional_call.

An entry takes its options from conf/model/NAME.yaml and, from the task, the shape of one input (`context` symbols out
of `num_symbols`) and the number of logits (`num_outputs`).
"""

from collections.abc import Callable

from torch import nn

from harness.config import Part, check_choice
from harness.models.imported import make_imported_model
from harness.models.mlp import MLP
from harness.models.ngram import NGram

MODELS: dict[str, Callable[..., nn.Module]] = {"ngram": NGram, "mlp": MLP}


def make_model(config: Part, **shape: int) -> nn.Module:
    """The module that a config describes, with freshly drawn parameters."""
    if ":" in str(config["name"]):
        return make_imported_model(config, shape)
    check_choice("model.name", config["name"], MODELS)
    options = {key: value for key, value in config.items() if key != "name"}
    return MODELS[str(config["name"])](**shape, **options)
