"""Optimizers of one run, slow and obvious: sums over all gradients so far in place of recursions, SVD in place of
iterations, torch.optim where it has a part. Each is make(p, h) -> an object whose step() reads p.grad and moves p.
"""

import itertools
import math
from types import SimpleNamespace

import torch

SHAPES = {"wide": (2, 4), "bias": (3,), "kernel": (3, 2, 1), "table": (2, 3)}
FLAT = {"wide": (2, 4), "bias": (3,), "kernel": (3, 2), "table": (2, 3)}  # a kernel as first dimension x all others


def views(vector):
    """name -> the part of a vector that is its tensor."""
    pieces = torch.split(vector, [math.prod(shape) for shape in FLAT.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(FLAT.items(), pieces, strict=True)}


def weighted_mean(gradients, beta, power):
    weights = [beta ** (len(gradients) - 1 - s) for s in range(len(gradients))]
    return sum(w * g**power for w, g in zip(weights, gradients, strict=True)) / sum(weights)


def from_all_gradients(p, move):
    """move(past, name, w) -> what to subtract from a tensor, given its gradients so far."""
    past = []

    @torch.no_grad()
    def step():
        past.append({name: g.clone() for name, g in views(p.grad).items()})
        for name, w in views(p.detach()).items():
            w -= move([gradients[name] for gradients in past], name, w)

    return SimpleNamespace(step=step)


def rms(tensor):
    return float(tensor.square().mean().sqrt())


def lamb(p, h):
    def move(past, name, w):
        m, v = weighted_mean(past, h["beta1"], 1), weighted_mean(past, h["beta2"], 2)
        u = m / (v.sqrt() + h["eps"]) + h["weight_decay"] * w
        ratio = 1.0 if name == "bias" and not h["adapt_vectors"] else float(w.norm() / u.norm())
        return h["lr"] * ratio * u

    return from_all_gradients(p, move)


def tiger(p, h):
    """Every `accumulate` steps one step with the mean of as many gradients."""

    def move(past, name, w):
        k, beta = h["accumulate"], h["momentum"]
        if len(past) % k:
            return torch.zeros_like(w)
        means = [sum(past[i : i + k]) / k for i in range(0, len(past), k)]
        average = sum((1 - beta) * beta ** (len(means) - 1 - j) * g for j, g in enumerate(means))
        return h["lr"] * (0.5 if name == "bias" else rms(w)) * (average.sign() + h["weight_decay"] * w)

    return from_all_gradients(p, move)


def adax(p, h):
    def move(past, name, w):
        growth, t = 1 + h["beta2"], len(past)
        m = sum((1 - h["beta1"]) * h["beta1"] ** (t - 1 - i) * g for i, g in enumerate(past))
        v = sum(growth ** (t - 1 - i) * h["beta2"] * g**2 for i, g in enumerate(past)) / (growth**t - 1)
        return h["lr"] * (m / (v.sqrt() + h["eps"]) + h["weight_decay"] * w)

    return from_all_gradients(p, move)


def amos_article(p, h):
    """theta - alpha_t u - rho_t theta with u the gradient, kexue.fm/archives/9344."""
    sigma = {name: 0.5 if name == "bias" else rms(w) for name, w in views(p.detach()).items()}

    def move(past, name, w):
        t, lr, p0 = len(past) - 1, h["lr"], h["alignment"]
        damped = (lr * p0 * t + 1) ** -2 if h["damping"] == "inverse_square" else 1 / (2 * lr * p0 * t + 1)
        distance = math.sqrt(w.numel()) * sigma[name]
        return lr * distance / past[-1].norm() * damped * past[-1] + lr**2 / 2 * damped * w

    return from_all_gradients(p, move)


def eg(p, h):
    """torch.optim.SGD's own direction, times exp of gamma times the sum of products of successive gradients."""
    shadow, past = torch.nn.Parameter(torch.zeros_like(p)), []
    inner = torch.optim.SGD([shadow], lr=1.0, momentum=h["momentum"], nesterov=h["nesterov"])

    @torch.no_grad()
    def step():
        past.append(p.grad.clone())
        before = shadow.detach().clone()
        shadow.grad = p.grad.clone()
        inner.step()
        products = sum((a * b for a, b in itertools.pairwise(past)), torch.zeros_like(p))
        p.sub_(h["lr"] * (torch.exp(h["gamma"] * products) * (before - shadow) + h["weight_decay"] * p))

    return SimpleNamespace(step=step)


def polar(matrix):
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vt


def muon_stiefel(p, h):
    """Polar factors by SVD, tall matrices; torch.optim.AdamW for the rest."""
    w = views(p.detach())
    adamw = torch.optim.AdamW(
        [w["bias"], w["table"]],
        lr=h["lr"],
        betas=(h["beta1"], h["beta2"]),
        eps=h["eps"],
        weight_decay=h["weight_decay"],
    )
    average = {name: torch.zeros_like(w[name]) for name in ("wide", "kernel")}
    dual = {"wide": torch.zeros(2, 2).double(), "kernel": torch.zeros(2, 2).double()}

    def tall(name, matrix):
        return matrix.T if name == "wide" else matrix

    @torch.no_grad()
    def step():
        grads = views(p.grad)
        for name in ("bias", "table"):
            w[name].grad = grads[name].clone()
        adamw.step()
        for name in ("wide", "kernel"):
            beta = h["momentum"]
            average[name] = beta * average[name] + (1 - beta) * grads[name]
            direction = beta * average[name] + (1 - beta) * grads[name] if h["nesterov"] else average[name]
            matrix, g = tall(name, w[name]).clone(), tall(name, direction)
            g = g / torch.linalg.svdvals(g).square().mean().sqrt()
            for _ in range(h["dual_steps"]):
                phi = polar(g + matrix @ dual[name])
                dual[name] = dual[name] - h["dual_lr"] * (matrix.T @ phi + phi.T @ matrix)
            matrix -= h["lr"] * phi
            w[name].copy_(tall(name, polar(matrix) if h["retraction"] else matrix))

    return SimpleNamespace(step=step)
