"""What every claim says, in words, and whose it is. Numbers, rules and conditions stand in its function's docstring."""

from collections.abc import Iterable
from typing import NamedTuple


class Words(NamedTuple):
    says: str
    source: str


OWN = "this project"
KEXUE = "kexue.fm/archives/"
MCCANDLISH = "McCandlish et al., arXiv 1812.06162"


def describe_claims(claims: Iterable[str]) -> str:
    """A table in Markdown: claim | in words | source, each once, in the order of CLAIM_WORDS.

    Raises: KeyError for a claim that has no words.
    """
    met = set(claims)
    if unknown := sorted(met - set(CLAIM_WORDS)):
        raise KeyError(f"no words for {', '.join(unknown)}: give them an entry in CLAIM_WORDS")
    lines = ["| claim | in words | source |", "|---|---|---|"]
    lines += [f"| {name} | {words.says} | {words.source} |" for name, words in CLAIM_WORDS.items() if name in met]
    return "\n".join(lines) + "\n"


CLAIM_WORDS: dict[str, Words] = {
    # learning rate against batch size, in training
    "sde-slope": Words(
        "Below the noise scale the best learning rate grows as the batch size for SGD, as its root for Adam and signs",
        f"{KEXUE}10542; Malladi et al., arXiv 2205.10287",
    ),
    "plateau": Words(
        "The batch size at which the best learning rate levels off is a noise scale, and so the same for any horizon",
        f"{OWN}; the form is {MCCANDLISH}",
    ),
    "ema-batch": Words(
        "Momentum acts on the best learning rate as a batch (1 + beta1)/(1 - beta1) times as large", f"{KEXUE}11301"
    ),
    "eps-slope": Words(
        "Epsilon raises Adam's best learning rate by 1 + x outside the root, √(1 + x²) inside, x = eps √B / sigma",
        f"{KEXUE}10563",
    ),
    "hyperbola": Words(
        "Steps and samples to a target loss lie on a hyperbola, at the best constant learning rate of each batch size",
        f"{MCCANDLISH}; {KEXUE}10542, 11280",
    ),
    "hyperbola-greedy": Words(
        "They do at the learning rate that lowers the loss most in every step, for which it is derived",
        f"{MCCANDLISH}; {KEXUE}10542",
    ),
    "kappa": Words(
        "AdamW's best weight decay is the one at which lr × weight decay × steps is a constant",
        f"{KEXUE}11459; Wang & Aitchison, arXiv 2405.13698",
    ),
    "width-lr": Words(
        "With the standard parametrization Adam's best learning rate falls as 1 / width of a transformer",
        "Yang et al., arXiv 2203.03466",
    ),
    "mup": Words("With mup it is the same at every width", "Yang et al., arXiv 2203.03466"),
    # what settles in a run
    "upd-rms": Words(
        "The RMS of Adam's update is √((s + r)/(s + 1)), r = (1 - beta1)/(1 + beta1), s signal over noise",
        f"{KEXUE}11267, 11301",
    ),
    "upd-rms-exact": Words("It is the integral that holds for a second moment of finite memory too", OWN),
    "w-rms": Words(
        "AdamW's weights settle at an RMS of √(lr/(2 weight_decay)), with exponents 1/2 and -1/2 in a network too",
        f"{KEXUE}11307; Kosson et al., arXiv 2305.17212",
    ),
    "w-rms-snr": Words("With a steady drift they settle where signal and noise together put them", f"{KEXUE}11307"),
    "sign-rms": Words("Signum's weights settle where a sum of arcsines puts them, sign correlations and all", OWN),
    "sign-rms-ln2": Words("The sum of arcsines may be shortened to a form with ln 2", OWN),
    "sign-rms-article": Words(
        "Signum's weights settle where correlations beta1^k between signs put them", f"{KEXUE}11307"
    ),
    "lion-rms": Words("Lion's weights settle where the sum of arcsines of its two averages puts them", OWN),
    "rms-ode": Words("A recursion gives the RMS of AdamW's weights at every step of any schedule", OWN),
    "rms-mean-field": Words("A mean-field shortcut gives it as well", f"{KEXUE}11404"),
    "emb": Words(
        "Under signs rows of an embedding are larger the rarer their tokens: √tanh in their gap", f"{KEXUE}9736; {OWN}"
    ),
    "emb-tiger": Words("Under Tiger rows are larger the rarer their tokens, in proportion to their gap", OWN),
    "emb-tiger-cycle": Words("So they are by the form that knows how sizes change between hits", OWN),
    "emb-adam": Words("Under AdamW rows are smaller the rarer their tokens, by a form in their gap", OWN),
    "beta2": Words("The second moment is the sum of squared noise that the rule's weights say", f"{KEXUE}7302, 7387"),
    "beta2-update": Words("The RMS of the direction is the exact integral over these weights", OWN),
    "rank-one-noise": Words("A second moment of pure noise is off rank one by its sampling alone", OWN),
    "amos": Words("The RMS of weights under Amos follows a recursion of its lr and its decay", OWN),
    "amos-constant": Words("Amos holds the RMS of weights at the scale that they begin with", f"{KEXUE}9344"),
    "memory": Words("The final model remembers a batch as much as lr and weight decay left of it", f"{KEXUE}11459"),
    "uniform": Words("Under the schedule inverse_time it remembers every batch alike", f"{KEXUE}11459"),
    "memory-curvature": Words(
        "Beside weight decay curvature forgets, in proportion to the root of the batch size", OWN
    ),
    # one step from a frozen model
    "sampled-eta": Words("The best learning rate of one step is E[u.g]/E[u.H u] of sampled updates", f"{KEXUE}11260"),
    "third-eta": Words("With the third derivative along the update it is right within 12 %", OWN),
    "sgd-eta": Words(
        "SGD's is lr_max/(1 + B_noise/B), of measured gradient, curvature and noise", f"{MCCANDLISH}; {KEXUE}10542"
    ),
    "sign-eta": Words("SignSGD's is an exact integral over correlated Gaussian noise", f"{KEXUE}10542; {OWN}"),
    "adam-eta": Words("Adam's is a linear form with correlated noise", OWN),
    "sign-erf": Words("The mean sign of a gradient's entry is erf(mean over deviation / √2)", f"{KEXUE}10542"),
    "surge": Words(
        "SignSGD's best learning rate falls again at large batches, as independent coordinates would have it",
        f"{KEXUE}10542; arXiv 2405.14578",
    ),
    "dL-mono": Words(
        "A larger batch lets one step of signSGD, at its best learning rate, lower the loss further", f"{KEXUE}10542"
    ),
    "eps-moments": Words("The mean square of a soft sign is the article's rational form", f"{KEXUE}10563"),
    "eps-moments-exact": Words("The mean square of a soft sign is Faddeeva's form", OWN),
    "eps-sgd": Words("With a large epsilon a soft sign is SGD at the learning rate lr/eps", f"{KEXUE}10563"),
    "muon": Words("The mean of Muon's direction follows from singular values and independent noise", f"{KEXUE}11285"),
    "muon-scalar": Words("It follows from one noise scale for all singular values", f"{KEXUE}11285"),
    "muon-gram": Words("It follows from the measured Gram matrix of the noise", OWN),
    "adam-surge": Words("Adam's best learning rate peaks at B_simple (1 - beta1)/(3 beta1 - 1)", f"{KEXUE}11301"),
}
