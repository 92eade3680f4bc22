"""A transformer written out in numpy, position by position and head by head: the oracle of model=gpt.

Shapes: T positions, D width, K width of a head, V symbols.
"""

from collections.abc import Mapping
from math import erf

import numpy as np

EPS, BASE = 1e-6, 10_000.0


def logits_of(
    params: Mapping[str, np.ndarray], symbols_T: np.ndarray, *, num_heads: int, activation: str, qk_norm: bool
) -> np.ndarray:
    """(T, V) for one window."""
    table = params["embedding.weight"]
    x_TD = table[symbols_T]
    depth = 1 + max(int(name.split(".")[1]) for name in params if name.startswith("blocks."))
    for i in range(depth):
        p = {name.removeprefix(f"blocks.{i}."): value for name, value in params.items()}
        x_TD = x_TD + attend(p, rms(x_TD) * p["attention_norm.weight"], num_heads, qk_norm)
        x_TD = x_TD + feed_forward(p, rms(x_TD) * p["layer_norm.weight"], activation)
    return (rms(x_TD) * params["norm.weight"]) @ params.get("head.weight", table).T


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)


def attend(p: Mapping[str, np.ndarray], x_TD: np.ndarray, num_heads: int, qk_norm: bool) -> np.ndarray:
    width = x_TD.shape[1] // num_heads
    heads = []
    for h in range(num_heads):
        rows = slice(h * width, (h + 1) * width)
        q_TK, k_TK, v_TK = (x_TD @ p[f"attention.{name}.weight"][rows].T for name in ("query", "key", "value"))
        if qk_norm:
            q_TK, k_TK = rms(q_TK), rms(k_TK)
        out_TK = np.zeros_like(v_TK)
        for t in range(len(x_TD)):
            scores = np.array([turn(q_TK[t], t) @ turn(k_TK[s], s) for s in range(t + 1)]) / np.sqrt(width)
            weights = np.exp(scores - scores.max())
            out_TK[t] = weights @ v_TK[: t + 1] / weights.sum()
        heads.append(out_TK)
    return np.concatenate(heads, axis=1) @ p["attention.out.weight"].T


def turn(x_K: np.ndarray, position: int) -> np.ndarray:
    """Entries j and j + K/2 as a complex number, turned by position * BASE^(-2 j / K)."""
    half = len(x_K) // 2
    turned = (x_K[:half] + 1j * x_K[half:]) * np.exp(1j * position * BASE ** (-2 * np.arange(half) / len(x_K)))
    return np.concatenate([turned.real, turned.imag])


def feed_forward(p: Mapping[str, np.ndarray], x_TD: np.ndarray, activation: str) -> np.ndarray:
    up = x_TD @ p["layer.up.weight"].T
    if activation == "swiglu":
        gate = x_TD @ p["layer.gate.weight"].T
        hidden = gate / (1 + np.exp(-gate)) * up
    else:
        hidden = up * np.array([[0.5 * (1 + erf(z / np.sqrt(2))) for z in row] for row in up])
    return hidden @ p["layer.down.weight"].T
