"""How well a law predicts what it was not fitted to: one batch size left out, and the larger half of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.fit import Fit, fit_law
from analysis.laws import LAWS, Law, Points
from analysis.optimum import Optimum


@dataclass(frozen=True)
class Score:
    """Errors of prediction, root mean square of ln(optimum / law).

    Attributes:
        left_out: each located batch size predicted from all others; NaN where they do not bear the law.
        extrapolated: the larger half of the located batch sizes predicted from the smaller half.
        drift: mean of ln(optimum / law) over that larger half: above 0 the optimum grows faster than the law says.
    """

    law: str
    left_out: float
    extrapolated: float
    drift: float


def score_fits(fits: Sequence[Fit], optima: Sequence[Optimum], *, robust: bool = False) -> tuple[Score, ...]:
    """Scores of all laws that could be fitted."""
    return tuple(score_fit(fit, optima, robust=robust) for fit in fits if not fit.refused)


def score_fit(fit: Fit, optima: Sequence[Optimum], *, robust: bool = False) -> Score:
    """Score one law.

        left_out = sqrt(mean_B ln^2(lr_B / law fitted without B)),    the same for the larger half

    Args:
        robust: how the fit was made, and so its refits are; what is missed still counts by its square.
    Valid when: errors of the optima are small beside those of the laws; their own noise is part of the score.
    Source: cross-validation, e.g. Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, chapter 7.
    """
    used = [o for o in optima if o.batch_size in fit.residuals]
    rest = [o for o in optima if o.batch_size not in fit.residuals]  # bounds and what is left out stay what they are
    law = LAWS[fit.law]
    near = start_at(law, fit)
    alone = [miss([near], [*(o for o in used if o is not one), *rest], [one], robust) for one in used]
    half = len(used) // 2
    # half of the cells may bear another minimum than all of them: the refit also starts where every fit does
    larger = miss([near, law], used[:-half], used[-half:], robust) if half else np.array([np.nan])
    return Score(fit.law, rms(np.concatenate(alone)), rms(larger), float(np.mean(larger)))


def start_at(law: Law, fit: Fit) -> Law:
    """The law with a fit's values as its only start: a refit without one cell does not have to search again."""

    def only(value: float) -> Callable[[Points, Points], list[float]]:
        return lambda batch_size, lr: [value]

    return replace(law, parameters=tuple(replace(p, starts=only(fit.params[p.name].value)) for p in law.parameters))


def miss(starts: Sequence[Law], known: Sequence[Optimum], unknown: Sequence[Optimum], robust: bool) -> np.ndarray:
    """ln(optimum / law) at the unknown cells, the law fitted to the known ones; NaN where these do not bear it.

    Args:
        starts: the one law, with all places from which a fit is to start.
    """
    fit = min((fit_law(law, known, robust=robust) for law in starts), key=lambda fit: fit.aicc)
    if fit.refused:
        return np.full(len(unknown), np.nan)
    batch_size, lr = (np.array([getattr(o, name) for o in unknown], dtype=float) for name in ("batch_size", "lr"))
    predicted = starts[0].predict(batch_size, **{name: estimate.value for name, estimate in fit.params.items()})
    errors: np.ndarray = np.log(lr) - np.log(predicted)
    return errors


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
