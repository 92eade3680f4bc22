"""Probed checkpoints: a table with a row an optimizer and batch size, what every form predicts there, and how far off.

A column `predicted.FORM` holds the learning rate that a form gives, from the probe's record alone: no parameter is
fitted. Columns `probe.*` are what harness/probe.py measured.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from analysis.laws.moments import (
    sign_mean,
    signal_to_noise,
    softsign_square,
    softsign_square_article,
)
from analysis.laws.one_step import (
    Local,
    adam_independent,
    adam_linear,
    sgd_closed,
    sign_arcsine,
    sign_article,
    sign_correlated,
    sign_independent,
    sign_mean_field,
    softsign_article,
    softsign_independent,
)
from harness.records import PROBE_ROWS, probe_path

LISTS = [f"probe.{name}" for name in ("optimizer", "batch_size", *PROBE_ROWS)]
SAMPLED = ("sampled", "gauss_newton", "third")  # forms that follow from sampled updates
MAX_ERROR = 0.05  # of E[u.g], relative: a point is scored below it
MAX_LR_ERROR = 0.25  # standard error of ln lr, as well
MIN_BATCH = 16
OTHERS = ("model.name", "optimizer.name", "optimizer.lr", "batch_size", "precision", "pool_samples", "num_draws")

# optimizer as probed -> form -> beta1 of SGD's closed form, which needs the scales alone
SGD_FORMS: Mapping[str, Mapping[str, float]] = {
    "sgd": {"closed": 0.0}, "sgd_momentum_0.9": {"closed": 0.9, "no_momentum": 0.0},
}  # fmt: skip
# optimizer as probed -> form -> (checkpoint's arrays, batch size) -> learning rate
FORMS: Mapping[str, Mapping[str, Callable[[Local, float], float]]] = {
    "signsgd": {
        "correlated": sign_correlated, "arcsine": sign_arcsine, "independent": sign_independent,
        "article": sign_article, "mean_field": sign_mean_field,
    },
    **{
        f"softsign_{eps:g}": {
            "independent": partial(softsign_independent, eps=eps), "article": partial(softsign_article, eps=eps),
        }
        for eps in (0.001, 0.03, 1.0)
    },
    **{
        f"adam_{beta1:g}": {
            "correlated": partial(adam_linear, beta1=beta1), "independent": partial(adam_independent, beta1=beta1),
        }
        for beta1 in (0.0, 0.5, 0.9)
    },
}  # fmt: skip


def is_probed(frame: pd.DataFrame) -> bool:
    """Whether a table holds probed checkpoints."""
    return "probe.optimizer" in frame.columns


def spread_probes(frame: pd.DataFrame, folder: Path | None = None) -> pd.DataFrame:
    """A row an optimizer and batch size of every checkpoint, with `predicted.*`.

    Args:
        frame: records, whose probe columns are lists, or rows that are apart already, as a committed table has them.
        folder: of the records, where the arrays are; without it closed forms are those that the table brings.
    """
    done = frame[(frame["status"] == "done") & frame["probe.optimizer"].notna()].drop(
        columns=[name for name in frame.columns if name.startswith("history.")]
    )
    if done.empty:
        raise ValueError("no probed checkpoint has ended: train with protocol=one_step")
    if not isinstance(done["probe.optimizer"].iloc[0], str):
        done = done.explode(LISTS, ignore_index=True)
        done[LISTS[1:]] = done[LISTS[1:]].astype(float)
    rows = done.reset_index(drop=True)
    known = predict_from_samples(rows) | predict_from_scales(rows)
    rows = rows.assign(**{f"predicted.{name}": values for name, values in known.items()})
    if folder is not None:
        found = [predict_from_arrays(rows.loc[index], probe_path(folder, str(name)))
                 for name, index in rows.groupby("run_id").groups.items()]  # fmt: skip
        rows = rows.drop(columns=[name for name in found[0].columns if name in rows.columns]).join(pd.concat(found))
    order = [name for name in ("task.name", "permute_samples", "num_steps", "seed") if name in rows.columns]
    return rows.sort_values(order, kind="stable", ignore_index=True)


def predict_from_samples(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Learning rates from means over sampled updates: E[u.g]/E[u.H u], with G for H, and with the third derivative.

    d/dlr [-lr a + lr^2 b / 2 - lr^3 c / 6] = 0,    a = E[u.g], b = E[u.H u], c = the third derivative along u
    """
    a, b, g, c = (rows[f"probe.{name}"].to_numpy(float) for name in
                  ("overlap", "curvature", "curvature_gauss_newton", "third"))  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        root = b**2 - 2 * a * c
        third = np.where(root >= 0, 2 * a / (b + np.sqrt(np.maximum(root, 0))), np.nan)
        return {
            "sampled": np.where(b > 0, a / b, np.nan), "gauss_newton": np.where(g > 0, a / g, np.nan),
            "third": np.where(third > 0, third, np.nan),
        }  # fmt: skip


def predict_from_scales(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """SGD's closed forms, from gradient, noise and curvature of the whole checkpoint."""
    known = {name: rows[f"probe.{name}"].to_numpy(float) for name in ("grad_sq", "grad_curvature", "noise_curvature")}
    known["batch_size"] = rows["probe.batch_size"].to_numpy(float)
    known["pool_samples"] = rows["pool_samples"].to_numpy(float)
    found: dict[str, np.ndarray] = {}
    for optimizer, forms in SGD_FORMS.items():
        for form, beta1 in forms.items():
            other = found.get(form, np.full(len(rows), np.nan))
            found[form] = np.where(rows["probe.optimizer"] == optimizer, sgd_closed(**known, beta1=beta1), other)
    return found


def predict_from_arrays(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Closed forms of one checkpoint, and `check.*`: means of signs and squares, and Muon's overlap, form by form."""
    if not path.exists():
        return pd.DataFrame(index=rows.index)
    arrays = {
        name: values.astype(float) if values.dtype.kind == "f" else values for name, values in load_file(path).items()
    }
    local = Local(
        arrays["gradient"], arrays["pool_gradient"], arrays["variance"], arrays["columns"], arrays["probability"],
        arrays["hessian"], arrays["noise"],
    )  # fmt: skip
    found: list[dict[str, float]] = []
    for name, size in zip(rows["probe.optimizer"], rows["probe.batch_size"], strict=True):
        row = {f"predicted.{form}": predict(local, float(size)) for form, predict in FORMS.get(name, {}).items()}
        mean_N, square_N = (arrays.get(f"{what}.{name}.{int(size)}") for what in ("mean", "square"))
        found.append(row | {f"check.{key}": x for key, x in check_moments(local, name, size, mean_N, square_N, arrays)})
    return pd.DataFrame(found, index=rows.index)


def check_moments(
    local: Local, name: str, size: float, mean_N: np.ndarray | None, square_N: np.ndarray | None,
    arrays: Mapping[str, np.ndarray],
) -> list[tuple[str, float]]:  # fmt: skip
    """What was measured of an update's entries over what a form says of them; 1 where it is right.

    sign         sum_i mean_i erf_i / sum_i erf_i^2, of the mean sign of every entry
    square, square_article       sum_i of E[u_i^2] of a soft sign, by the exact form and by the article's
    muon_singular, muon_scalar, muon_gram     <E[u], G> of all matrices
    """
    if mean_N is None or square_N is None:
        return []
    a_N = signal_to_noise(local.pool_gradient_N, local.variance_N, size)
    noisy = local.variance_N > 0
    if name == "signsgd":
        mu_N = sign_mean(a_N)
        return [("sign", float(mean_N[noisy] @ mu_N[noisy] / (mu_N[noisy] @ mu_N[noisy])))]
    if name.startswith("softsign_"):
        eps = float(name.removeprefix("softsign_"))
        b_N = np.abs(signal_to_noise(np.full(len(a_N), eps), local.variance_N, size))[noisy]
        b_N = np.minimum(b_N, 1e12)
        forms = {"square": softsign_square, "square_article": softsign_square_article}
        return [(key, float(square_N[noisy].sum() / form(a_N[noisy], b_N).sum())) for key, form in forms.items()]
    if name == "muon":
        return list(check_muon(local, size, mean_N, arrays).items())
    return []


def check_muon(local: Local, size: float, mean_N: np.ndarray, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Measured overlap of the polar factor with the gradient over three predictions, summed over matrices.

        singular   sum_k s_k^2 / sqrt(s_k^2 + n sigma^2 / B)        n the larger side, sigma^2 the mean variance
        scalar     sum_k s_k / sqrt(1 + B_simple / B),   B_simple = m n sigma^2 / |G|^2
        gram       <G (G^T G + E[N^T N] / B)^(-1/2), G>             with the measured Gram matrix of the noise

    The Gram matrix is that of the smaller side: of a wide G, n < m, the form is <(G G^T + E[N N^T] / B)^(-1/2) G, G>,
    since a batch's own G^T G has rank n at most, and its mean more. NaN where arrays hold that of the larger side.

    Source: kexue.fm/archives/11285; the Gram form is this project's own.
    """
    total = dict.fromkeys(("muon_singular", "muon_scalar", "muon_gram"), 0.0)
    measured = 0.0
    for key in (key for key in arrays if key.startswith("place.")):
        start, n, m = (int(x) for x in arrays[key])
        part = slice(start, start + n * m)
        grad, variance = local.pool_gradient_N[part].reshape(n, m), local.variance_N[part].mean()
        measured += float((mean_N[part] * local.pool_gradient_N[part]).sum())
        s = np.linalg.svd(grad, compute_uv=False)
        total["muon_singular"] += float((s**2 / np.sqrt(s**2 + max(n, m) * variance / size)).sum())
        simple = n * m * variance / (grad**2).sum()
        total["muon_scalar"] += float(s.sum() / np.sqrt(1 + simple / size))
        total["muon_gram"] += overlap_by_gram(
            grad.T if n < m else grad, arrays[f"gram.{key.removeprefix('place.')}"] / size
        )
    return {key: measured / value for key, value in total.items()}


def overlap_by_gram(tall: np.ndarray, noise_gram: np.ndarray) -> float:
    """<G (G^T G + R)^(-1/2), G> of a matrix with no more columns than rows; NaN where R is not of its columns."""
    if len(noise_gram) != tall.shape[1]:
        return np.nan
    inner = tall.T @ tall + noise_gram
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    root = vectors / np.sqrt(np.maximum(values, 1e-12 * values.max())) @ vectors.T
    return float(((tall @ root) * tall).sum())


def select_scored(rows: pd.DataFrame) -> pd.DataFrame:
    """Points that count: batch sizes from MIN_BATCH, E[u.g] known to MAX_ERROR and ln lr to MAX_LR_ERROR."""
    known = rows["probe.overlap_se"].abs() < MAX_ERROR * rows["probe.overlap"].abs()
    return rows[known & (rows["probe.batch_size"] >= MIN_BATCH) & (rows["probe.lr_se"] < MAX_LR_ERROR)]


def score_forms(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Per checkpoint, optimizer and form: number of points, median and worst of predicted over measured."""
    scored = select_scored(rows)
    forms = [name for name in rows.columns if name.startswith("predicted.")]
    table = []
    for values, group in scored.groupby([*keys, "probe.optimizer"], sort=False, dropna=False):
        values = values if isinstance(values, tuple) else (values,)
        for form in forms:
            ratio = (group[form] / group["probe.lr"]).dropna().to_numpy(float)
            if len(ratio):
                worst = ratio[np.argmax(np.abs(np.log(ratio)))]
                table.append({
                    **dict(zip([*keys, "optimizer"], values, strict=True)), "form": form.removeprefix("predicted."),
                    "points": len(ratio), "median": float(np.median(ratio)), "worst": float(worst),
                })  # fmt: skip
    return pd.DataFrame(table)


def keys_of(rows: pd.DataFrame) -> list[str]:
    """The columns by which checkpoints differ."""
    usual = [name for name in ("task.name", "num_steps", "permute_samples", "seed") if varies(rows, name)] or [
        "num_steps"
    ]
    runs = rows.drop_duplicates("run_id")
    for name in OTHERS:  # only where they tell apart what the usual ones do not
        if len(runs) > len(runs[usual].drop_duplicates()) and varies(rows, name):
            usual.append(name)
    return usual if len(runs) == len(runs[usual].drop_duplicates()) else [*usual, "run_id"]


def varies(rows: pd.DataFrame, name: str) -> bool:
    return name in rows.columns and rows[name].nunique(dropna=False) > 1


def label_checkpoint(values: Mapping[str, object]) -> str:
    """A checkpoint in few words: task, step, whether samples were permuted."""
    words = {"task.name": "{}", "num_steps": "step {}", "seed": "seed {}"}
    parts = [words[name].format(value) for name, value in values.items() if name in words]
    parts += [f"{name}={value}" for name, value in values.items() if name in (*OTHERS, "run_id")]
    return ", ".join([*parts, "permuted"] if str(values.get("permute_samples")) == "True" else parts)
