"""Whether a lambda > 0 can help to rank errors, from labelled items: the binormal picture of the (S, H) plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from ..inputs import expect
from ..metrics import auroc
from ..theory.numbers import binormal_auroc, binormal_lambda
from .certificates import listed


@dataclass(frozen=True)
class LambdaDiagnosis:
    """The binormal picture of errors in the (S, H) plane; `bound` = the AUROC that no S - lambda H exceeds in it.

    The picture is a fit: scores on data may do better than `bound`, and the text says so where one of `auroc` does.
    d_s, d_h : shifts of S and H on errors, in within-class standard deviations; rho : within-class correlation.
    lam : best lambda in raw units, -inf for "rank by H", inf for "by -H"; interval : its bootstrap 95 % interval.
    auroc : {"S", "H", "S - H"}: measured.
    helps : True if the whole interval is > 0, False if it is <= 0, else None.
    """

    bound: float
    lam: float
    interval: tuple[float, float]
    helps: bool | None
    d_s: float
    d_h: float
    rho: float
    auroc: dict
    n: int
    errors: int
    assumptions: tuple[str, ...]

    def __str__(self):
        verdict = {True: "A lambda > 0 helps: at equal S, errors have lower entropy.",
                   False: "No lambda > 0 can help: at equal S, errors have no lower entropy. Use S, or add H to it.",
                   None: "Undecided: the data allow either sign of lambda."}[self.helps]
        measured = ", ".join(f"{name} {value:.3f}" for name, value in self.auroc.items())
        low, high = self.interval
        return (f"{verdict}\nBest lambda {self.lam:.3g}{self._limit()}, 95 % interval [{low:.3g}, {high:.3g}]; lambda "
                f"> 0 needs d_H < rho d_S: {self.d_h:.3f} against {self.rho * self.d_s:.3f} (d_S = {self.d_s:.3f}, "
                f"rho = {self.rho:.3f}).\nAUROC measured: {measured} ({self.errors} errors of {self.n} items). "
                f"Binormal picture: {self.bound:.3f} for the best lambda{self._misfit()}.\n" + listed(self.assumptions))

    def _limit(self):
        return {-np.inf: " (the limit: rank by H alone)", np.inf: " (the limit: rank by -H alone)"}.get(self.lam, "")

    def _misfit(self):
        best = max(self.auroc, key=self.auroc.get)
        return f", which {best} exceeds here, so that the picture fits these data badly" * (
            self.auroc[best] > self.bound + 0.005)


def lambda_diagnosis(S: ArrayLike, H: ArrayLike, is_error: ArrayLike, seed: int = 0,
                     resamples: int = 1000) -> LambdaDiagnosis:
    """Can S - lambda H with lambda > 0 rank errors better than S alone? (Theorems 13 and 14.)

    S, H : (N,) sensitivity and entropy (nats). is_error : (N,) bool. Binormal (LDA) estimate with the mean of the two
    within-class covariances; percentile bootstrap over items. lambda* > 0 iff d_H < rho d_S: entropy must be lower on
    errors than its correlation with S explains. A constant S has shift 0: only the sign of H remains to be told. Raises
    SingleClassError where there is no error or nothing else, ValueError for lengths that differ, a number that is not
    finite, a constant H, or fewer than two items of a class.
    """
    S, H = np.asarray(S, dtype=np.float64), np.asarray(H, dtype=np.float64)
    measured = {"S": auroc(is_error, S), "H": auroc(is_error, H), "S - H": auroc(is_error, S - H)}
    wrong, n = np.asarray(is_error).astype(bool), len(S)
    expect(min(wrong.sum(), n - wrong.sum()) >= 2, f"{wrong.sum()} errors among {n} items: a class needs two items")
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    counts = np.vstack([np.ones((1, n), dtype=int), counts])
    d_s, d_h, rho, unit = _binormal(*_spread(S, H), wrong, counts)
    lam = binormal_lambda(d_s, d_h, rho) * unit
    low, high = np.percentile(lam[1:][~np.isnan(lam[1:])], (2.5, 97.5), method="inverted_cdf")
    best = binormal_lambda(d_s[0], d_h[0], rho[0])
    ceiling = binormal_auroc(d_s[0], d_h[0], rho[0], best) if np.isfinite(best) else ndtr(abs(d_h[0]) / np.sqrt(2))
    helps = True if low > 0 else False if high <= 0 else None
    return LambdaDiagnosis(
        bound=float(ceiling),
        lam=float(lam[0]),
        interval=(float(low), float(high)),
        helps=helps,
        d_s=float(d_s[0]),
        d_h=float(d_h[0]),
        rho=float(rho[0]),
        auroc=measured,
        n=n,
        errors=int(wrong.sum()),
        assumptions=("(S, H) is near normal within errors and within right answers, with like covariances",
                     "items are independent; lambda is for other items than these, or it is chosen in-sample"),
    )


def _spread(S, H):
    """S and H less their means, exactly 0 where they differ by rounding alone; ValueError where no moments exist."""
    for name, values in (("S", S), ("H", H)):
        bad = np.flatnonzero(~np.isfinite(values))
        expect(not bad.size, lambda: f"{name}[{bad[0]}] = {values[bad[0]]}: means and deviations need finite numbers; "
               "measure S by a bounded divergence such as 'tv' or 'js'")
    S, H = ((v - v.mean()) * (np.ptp(v) > 1e-12 * np.abs(v).max()) for v in (S, H))
    expect(H.any(), "H is constant: S - lambda H ranks as S does for every lambda, so that there is none to find")
    return S, H


def _binormal(S, H, wrong, counts):
    """(d_S, d_H, rho, sd_S / sd_H), each (B,), on resamples given as counts (B, N); NaN where a class is gone."""
    def products(s, h):
        return np.stack([s**2, h**2, s * h], -1)

    shift, second = 0, 0
    for sign, rows in ((1, wrong), (-1, ~wrong)):
        weight = counts[:, rows] / np.where(counts[:, rows].any(1), counts[:, rows].sum(1), np.nan)[:, None]
        mean = weight @ np.stack([S[rows], H[rows]], -1)
        shift = shift + sign * mean
        second = second + (weight @ products(S[rows], H[rows]) - products(*mean.T)) / 2
    sd = np.sqrt(np.maximum(second[:, :2], np.finfo(float).tiny))
    return *(shift / sd).T, second[:, 2] / sd.prod(1), sd[:, 0] / sd[:, 1]
