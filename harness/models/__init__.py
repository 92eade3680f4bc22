"""Models: plain modules, written for one run. A stack calls them through torch.func.functional_call.

An entry takes its options from conf/model/NAME.yaml and, from the task, the shape of one input (`context` symbols out
of `num_symbols`, or a vector of `num_inputs`) and the number of outputs (`num_outputs`). `none` stands where a task
has its weights itself.
"""

from collections.abc import Callable

from torch import nn

from harness.checks import check_choice
from harness.config import Part
from harness.models.gpt import GPT
from harness.models.imported import make_imported_model
from harness.models.mlp import MLP
from harness.models.ngram import NGram
from harness.models.perceptron import Perceptron

MODELS: dict[str, Callable[..., nn.Module]] = {
    "ngram": NGram,
    "gpt": GPT,
    "mlp": MLP,
    "perceptron": Perceptron,
    "none": nn.Identity,
}


def make_model(config: Part, **shape: int) -> nn.Module:
    """The module that a config describes, with freshly drawn parameters."""
    if ":" in str(config["name"]):
        return make_imported_model(config, shape)
    check_choice("model.name", config["name"], MODELS)
    options = {key: value for key, value in config.items() if key != "name"}
    return MODELS[str(config["name"])](**shape, **options)


def names_of_embeddings(module: nn.Module) -> frozenset[str]:
    """Names of the parameters that are tables of embeddings, under the first name of those that have several (tied)."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return frozenset(name for name, parameter in module.named_parameters() if id(parameter) in tables)
