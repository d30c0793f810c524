"""Off-policy estimators of a policy's value, with intervals (numpy).

With rho_t = target / propensity of the arm drawn at step t, w_t = rho_1 ... rho_t, R the reward of
the run, q and v an outcome model's prediction for the arm drawn and for the target's arms:

    IPS    mean w_T R                                      Horvitz & Thompson, JASA 47:663, 1952
    SNIPS  sum w_T R / sum w_T                             Swaminathan & Joachims, NeurIPS 2015
    DR     mean v_1 + sum_t w_t (v_{t+1} - q_t), v_{T+1} = R    per decision: Jiang & Li, ICML 2016

The outcome model is fitted on other runs than those it predicts (Chernozhukov et al., Econometrics
Journal 21:C1, 2018), so DR is unbiased however wrong the model is. Weights are clipped at CLIP;
how many were is part of every result.

What could not have been drawn has no estimate. The point takes the outcome model's word for it,
the interval takes nobody's: there it fails at the low end and succeeds at the high one (Manski,
American Economic Review 80:319, 1990). Of a difference of two policies only what one would do more
often than the other is unknown: what both would do alike cancels (its continuation is taken to be
worth the same under both).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from agentgym_daemon.learning.arrays import Floats
from agentgym_daemon.learning.evaluation.logged import Log

CLIP = 50.0
"""Largest weight of a run; more would let a single one decide."""
FOLDS = 5
_RIDGE = 1.0
_LEAST_APART = 0.05
"""Added to the mean squared difference of weights: few runs of a version may show none."""


@dataclass(frozen=True, slots=True)
class Terms:
    """(N,) independent terms, one per run, whose means are a value and its two extremes."""

    low: Floats  # what could not have been drawn fails
    value: Floats
    high: Floats  # ... succeeds


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value or a difference of values with its interval."""

    value: float
    low: float
    high: float
    error: float  # standard error of the value
    n: int


def estimate(terms: Terms, confidence: float = 0.95) -> Estimate:
    """The mean of the terms, with a two-sided interval."""
    n = len(terms.value)
    if n < 2:
        return Estimate(math.nan, -math.inf, math.inf, math.inf, n)
    t = quantile(confidence, n - 1)
    return Estimate(
        value=float(terms.value.mean()),
        low=float(terms.low.mean()) - t * standard_error(terms.low),
        high=float(terms.high.mean()) + t * standard_error(terms.high),
        error=standard_error(terms.value),
        n=n,
    )


def standard_error(terms: Floats) -> float:
    """Of the mean of independent terms."""
    return float(terms.std(ddof=1)) / math.sqrt(len(terms))


def weights(log: Log) -> Floats:
    """(S,) cumulative weights within each run, clipped."""
    return np.minimum(_unclipped(log), CLIP)


def clipped(log: Log) -> float:
    """Share of the steps whose weight was clipped."""
    return float((_unclipped(log) > CLIP).mean())


def outside(log: Log) -> float:
    """Probability that a run of the target leaves what could be drawn."""
    return float(_leaked(log, weights(log)).mean())


def _unclipped(log: Log) -> Floats:
    rho = np.log(np.maximum(log.target, 1e-300)) - np.log(log.propensity)
    total = np.cumsum(rho)
    before = np.concatenate(([0.0], total))[log.start[:-1]]
    out: Floats = np.exp(total - np.repeat(before, np.diff(log.start)))
    return out


def ips(log: Log) -> Terms:
    """Inverse propensity scoring."""
    w = weights(log)
    terms = _final(log, w) * log.reward
    return _with_outside(log, w, terms)


def snips(log: Log) -> Terms:
    """Self-normalised: terms linearised around the estimate (delta method)."""
    w = weights(log)
    last, leaked = _final(log, w), _leaked(log, w)
    # Of all weight, what leaked is a part: the rest estimates the value of what stayed inside.
    total, inside = float(last.mean()), 1.0 - float(leaked.mean())
    if total <= 0.0:
        nothing = np.full(len(log), math.nan)
        return Terms(nothing, nothing, nothing)
    value = float((last * log.reward).mean()) / total
    terms = inside * (value + last / total * (log.reward - value))
    return _with_outside(log, w, terms)


def difference(estimator: Callable[[Log], Terms], one: Log, other: Log) -> Terms:
    """Of the difference of two values on the same runs."""
    mine, theirs = estimator(one), estimator(other)
    more, less = _apart(one, other)
    inside = mine.low - theirs.low
    share = _by_logger(one, other)
    return Terms(
        share * (inside - less), share * (mine.value - theirs.value), share * (inside + more)
    )


def _by_logger(one: Log, other: Log) -> Floats:
    """(N,) how much each run counts, 1 on average: less where a version decided that is far away.

    The runs of every version estimate the same difference, with a variance that grows with the
    square of the weights; they are joined by its inverse (Agarwal et al., KDD 2017). It is taken
    from the weights alone: by the rewards it would prefer the versions that were lucky.
    """
    apart = np.add.reduceat((weights(one) - weights(other)) ** 2, one.start[:-1])
    count = np.bincount(one.logger)
    trust = 1.0 / (np.bincount(one.logger, apart) / np.maximum(count, 1) + _LEAST_APART)
    share: Floats = trust[one.logger] / trust[one.logger].mean()
    return share


def _apart(one: Log, other: Log) -> tuple[Floats, Floats]:
    """(N,) how much more, and how much less, of what could not be drawn one log's target does."""
    more, less = np.zeros(len(one.target)), np.zeros(len(one.target))
    befores = _before(one, weights(one)), _before(other, weights(other))
    for step, (mine, theirs) in enumerate(zip(one.astray, other.astray, strict=True)):
        for act in mine.keys() | theirs.keys():
            apart = befores[0][step] * mine.get(act, 0.0) - befores[1][step] * theirs.get(act, 0.0)
            more[step] += max(apart, 0.0)
            less[step] += max(-apart, 0.0)
    start = one.start[:-1]
    return np.add.reduceat(more, start), np.add.reduceat(less, start)


def doubly_robust(log: Log) -> Terms:
    """Doubly robust, per decision."""
    w = weights(log)
    model = outcome_model(log)
    following = np.append(model.meant[1:], 0.0)
    following[log.start[1:] - 1] = log.reward
    corrections = w * (following - model.taken)
    terms = model.meant[log.start[:-1]] + np.add.reduceat(corrections, log.start[:-1])
    return _with_outside(log, w, terms, model)


@dataclass(frozen=True, slots=True)
class Model:
    """(S,) predicted rewards, each by a fit on other runs."""

    taken: Floats  # of the arm that was drawn
    meant: Floats  # summed over the target's arms that could be drawn
    beyond: Floats  # summed over those that could not


def outcome_model(log: Log) -> Model:
    """Predictions of the reward, fitted across folds of runs."""
    run, reward = log.run, np.repeat(log.reward, np.diff(log.start))
    fold = run % FOLDS
    out = Model(*(np.zeros(len(run)) for _ in range(3)))
    for k in range(FOLDS):
        inside, outside = fold == k, fold != k
        weight = _fit(log.taken[outside], reward[outside])
        # Not clipped to [0, 1]: `meant` must be the mean of `taken` over the target's arms.
        out.taken[inside] = log.taken[inside] @ weight
        out.meant[inside] = log.meant[inside] @ weight
        out.beyond[inside] = np.clip(log.beyond[inside] @ weight, 0.0, log.outside[inside])
    return out


def _fit(x: Floats, y: Floats) -> Floats:
    """Ridge regression; the prior is that the reward is what the policy's estimate says."""
    prior = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    gram = x.T @ x + _RIDGE * np.eye(x.shape[1])
    out: Floats = prior + np.linalg.solve(gram, x.T @ (y - x @ prior))
    return out


def _with_outside(log: Log, w: Floats, terms: Floats, model: Model | None = None) -> Terms:
    model = model or outcome_model(log)
    before = _before(log, w)
    imputed = np.add.reduceat(before * model.beyond, log.start[:-1])
    return Terms(terms, terms + imputed, terms + _leaked(log, w))


def _leaked(log: Log, w: Floats) -> Floats:
    """(N,) terms of the probability that a run of the target leaves what could be drawn."""
    out: Floats = np.add.reduceat(_before(log, w) * log.outside, log.start[:-1])
    return out


def _before(log: Log, w: Floats) -> Floats:
    """(S,) the weight of the run up to, and without, each step."""
    out = np.concatenate(([1.0], w[:-1]))
    out[log.start[:-1]] = 1.0
    return out


def _final(log: Log, w: Floats) -> Floats:
    """(N,) weight of each run's last step."""
    return w[log.start[1:] - 1]


def effective_size(log: Log) -> float:
    """Kish's effective sample size of the runs' weights."""
    w = _final(log, weights(log))
    squares = float((w**2).sum())
    return float(w.sum()) ** 2 / squares if squares else 0.0


def quantile(confidence: float, freedom: int) -> float:
    """Two-sided quantile of Student's t (Cornish-Fisher; Abramowitz & Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    first = (z**3 + z) / 4.0
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96.0
    return z + first / freedom + second / freedom**2
