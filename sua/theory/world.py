"""Finite worlds, in which every quantity of the theory is an exact number.

Notation: P input law, Pi(x'|x) perturbation kernel, N(x) its support and x, p model, p* truth, f = argmax p. Entropies
and divergences in nats. The bounds themselves, printed and repaired, are in `sua.theory.statements`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable

import numpy as np
from numpy.typing import ArrayLike

from ..divergences import EXACT as DIVERGENCES, entropy
from .numbers import real

LOSSES: dict[str, Callable] = {
    "gibbs": lambda p: 1 - p,
    "zero_one": lambda p: 1 - one_hot(p),
    "brier": lambda p: 1 - 2 * p + (p**2).sum(-1, keepdims=True),
    "log": lambda p: -log(real(p)),
}


@dataclass(frozen=True, eq=False)
class World:
    """Inputs, kernel, model and truth; or a batch of worlds along leading axes.

    mass (..., N) = P, kernel (..., N, N) = Pi(column | row), p (..., N, C), truth (..., N, C) = p*. Floats, or
    Fractions for exact arithmetic (`rational` reads them from text). ValueError names a field that is no distribution.
    """

    mass: np.ndarray
    kernel: np.ndarray
    p: np.ndarray
    truth: np.ndarray

    def __post_init__(self):
        for name in ("mass", "kernel", "p", "truth"):
            value = np.asarray(getattr(self, name))
            total = real(value.sum(-1))
            off = total[~np.isclose(total, 1, rtol=0, atol=1e-9)]
            if off.size or (value < 0).any():
                raise ValueError(f"{name} {f'sums to {off[0]:.6g}' if off.size else f'holds {value.min():.6g}'}: give "
                                 "probabilities that sum to 1 over the last axis")
            object.__setattr__(self, name, value)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(...) expectation over x ~ P of values (..., N)."""
        return (self.mass * values).sum(-1)

    def pair_mean(self, values: np.ndarray) -> np.ndarray:
        """(..., N) expectation over x' ~ Pi(.|x) of values (..., N, N)."""
        return (self.kernel * np.where(self.kernel > 0, values, 0)).sum(-1)

    def sup(self, values: np.ndarray) -> np.ndarray:
        """(..., N) maximum over x' in N(x) of values (..., N, N) >= 0."""
        return np.where(self.neighbours, values, 0).max(-1)

    @property
    def neighbours(self) -> np.ndarray:
        return (self.kernel > 0) | np.eye(self.kernel.shape[-1], dtype=bool)

    def divergence(self, name: str = "tv") -> np.ndarray:
        """(..., N, N) D(p(x), p(x')) of all pairs."""
        return DIVERGENCES[name](self.p[..., :, None, :], self.p[..., None, :, :])

    def sensitivity(self, name: str = "tv") -> np.ndarray:
        return self.pair_mean(self.divergence(name))

    @property
    def entropy(self) -> np.ndarray:
        return entropy(self.p)

    @property
    def gini(self) -> np.ndarray:
        return 1 - (self.p**2).sum(-1)

    @property
    def doubt(self) -> np.ndarray:
        """a(x) = 1 - max p."""
        return 1 - self.p.max(-1)

    @property
    def margin(self) -> np.ndarray:
        top = np.sort(self.p, axis=-1)
        return top[..., -1] - top[..., -2]

    @property
    def flips(self) -> np.ndarray:
        """(..., N, N) bool: the answers at x and x' differ (argmax, the first of equal ones)."""
        answer = self.p.argmax(-1)
        return answer[..., :, None] != answer[..., None, :]

    @property
    def flip_rate(self) -> np.ndarray:
        return self.pair_mean(self.flips)

    def sua(self, lam: float = 1.0, name: str = "tv") -> np.ndarray:
        return self.sensitivity(name) - lam * self.entropy

    def risk(self, loss: str = "gibbs") -> np.ndarray:
        """(..., N) expected loss at x under p*(x)."""
        return (self.truth * np.where(self.truth > 0, LOSSES[loss](self.p), 0)).sum(-1)

    def mean_risk(self, loss: str = "gibbs") -> np.ndarray:
        """R_Pi."""
        return self.pair_mean(self.risk(loss)[..., None, :])

    def robust_risk(self, loss: str = "gibbs") -> np.ndarray:
        """R_rob."""
        return self.sup(self.risk(loss)[..., None, :])

    def tail_risk(self, alpha: float, loss: str = "gibbs") -> np.ndarray:
        """(..., N) mean risk in the worst alpha-fraction of Pi(.|x) (conditional value at risk)."""
        risk = np.broadcast_to(self.risk(loss)[..., None, :], self.kernel.shape)
        order = np.argsort(-risk, axis=-1)
        share = np.minimum(np.take_along_axis(self.kernel, order, -1).cumsum(-1), alpha)
        return (np.diff(share, axis=-1, prepend=0) * np.take_along_axis(risk, order, -1)).sum(-1) / alpha

    def calibrated(self, same: np.ndarray) -> np.ndarray:
        """(..., N, C) E[p* | cell], where same (..., N, N) says which inputs share a cell."""
        return cell_mean(self, same, self.truth)

    def calibration_error(self) -> np.ndarray:
        """E TV(p, E[p*|p]): canonical, the strongest notion."""
        same = (self.p[..., :, None, :] == self.p[..., None, :, :]).all(-1)
        return self.mean(DIVERGENCES["tv"](self.p, self.calibrated(same)))

    def classwise_error(self) -> np.ndarray:
        """sum_k E p_k |p_k - P(Y = k | p_k)|."""
        same = np.moveaxis(self.p[..., :, None, :] == self.p[..., None, :, :], -1, 0)
        share = np.stack([self.calibrated(s)[..., k] for k, s in enumerate(same)], -1)
        return self.mean((self.p * np.abs(self.p - share)).sum(-1))

    def ece(self, cells: ArrayLike | None = None) -> np.ndarray:
        """E |confidence - accuracy| within cells (..., N); default: one cell per value of the confidence."""
        gap = self.risk("zero_one") - self.doubt
        return self.mean(np.abs(cell_mean(self, self.same(cells), gap[..., None])[..., 0]))

    def same(self, cells: ArrayLike | None = None) -> np.ndarray:
        cells = self.p.max(-1) if cells is None else np.asarray(cells)
        return cells[..., :, None] == cells[..., None, :]

    @property
    def orbits(self) -> np.ndarray:
        """(..., N) the first input that can be reached: names the Pi-invariant group of x."""
        reach = self.neighbours | np.swapaxes(self.neighbours, -1, -2)
        for _ in range(reach.shape[-1].bit_length()):
            reach = (reach.astype(float) @ reach.astype(float)) > 0
        return reach.argmax(-1)

    @property
    def drift(self) -> np.ndarray:
        """(..., N) sup over N(x) of TV(p*(x), p*(x')); 0 iff the kernel is label-preserving."""
        return self.sup(DIVERGENCES["tv"](self.truth[..., :, None, :], self.truth[..., None, :, :]))

    @property
    def asymmetry(self) -> np.ndarray:
        """Largest |P(x, x') - P(x', x)|; 0 iff the pair is exchangeable."""
        joint = self.mass[..., None] * self.kernel
        return np.abs(joint - np.swapaxes(joint, -1, -2)).max((-1, -2))

    def smoothed(self, t: ArrayLike) -> World:
        """The world whose model is (1 - t) p + t / C; t (...)."""
        t = np.asarray(t)[..., None, None]
        return replace(self, p=(1 - t) * self.p + t / self.p.shape[-1])


def log(values: ArrayLike) -> np.ndarray:
    """Natural logarithm, -inf at 0."""
    with np.errstate(divide="ignore"):
        return np.log(values)


def one_hot(p: np.ndarray) -> np.ndarray:
    """(..., C) 1 at the answer, argmax of p (..., C), the first of equal ones, else 0."""
    return (p.argmax(-1)[..., None] == np.arange(p.shape[-1])).astype(int)


def cell_mean(world: World, same: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(..., N, C) mean over P of values (..., N, C) within the cell of each input."""
    weight = np.where(same, world.mass[..., None, :], 0)
    total = weight.sum(-1)
    values = np.where(world.mass[..., None] > 0, values, 0)  # they may be infinite where nothing ever falls
    return weight @ values / np.where(total > 0, total, 1)[..., None]
