"""Oracle: the same formulas written out with numpy, scale invariance, and counts by hand."""

import numpy as np
import pytest
import torch

from harness.models import make_model

SHAPE = {"context": 3, "num_symbols": 7, "num_outputs": 5}


def arrays(module):
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


@pytest.fixture
def symbols():
    return torch.randint(0, 7, (4, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", [False, True])
def test_ngram_is_its_formula(symbols, norm):
    torch.manual_seed(0)
    module = make_model({"name": "ngram", "embedding": 2, "hidden": 6, "norm": norm}, **SHAPE).double()
    p = arrays(module)
    hidden = p["embedding.weight"][symbols.numpy()].reshape(4, 6) @ p["hidden.weight"].T + p["hidden.bias"]
    if norm:
        hidden = hidden / np.sqrt((hidden**2).mean(1, keepdims=True) + np.finfo(np.float64).eps)
    expected = np.tanh(hidden) @ p["output.weight"].T + p["output.bias"]
    np.testing.assert_allclose(module(symbols).detach().numpy(), expected, rtol=1e-12)
    assert sum(a.size for a in p.values()) == 7 * 2 + 6 * 6 + 6 + 5 * 6 + 5


def test_norm_makes_the_hidden_matrix_scale_invariant(symbols):
    module = make_model({"name": "ngram", "embedding": 2, "hidden": 6, "norm": True}, **SHAPE).double()
    before = module(symbols)
    with torch.no_grad():
        module.hidden.weight *= 3
        module.hidden.bias *= 3
    torch.testing.assert_close(module(symbols), before, rtol=1e-10, atol=1e-12)


def test_mlp_is_its_formula(symbols):
    module = make_model({"name": "mlp", "hidden": 6, "depth": 2}, **SHAPE).double()
    p = arrays(module)
    x = np.eye(7)[symbols.numpy()].reshape(4, 21)
    for layer in ("layers.0", "layers.2"):
        x = np.maximum(x @ p[f"{layer}.weight"].T + p[f"{layer}.bias"], 0)
    expected = x @ p["layers.4.weight"].T + p["layers.4.bias"]
    np.testing.assert_allclose(module(symbols).detach().numpy(), expected, rtol=1e-12)
    assert sum(a.size for a in p.values()) == 21 * 6 + 6 + 6 * 6 + 6 + 6 * 5 + 5


def test_an_unknown_model_is_told():
    with pytest.raises(ValueError, match="did you mean ngram"):
        make_model({"name": "ngra"}, **SHAPE)
