"""The rule by which numbers confirm or contradict a claim.

A claim is a difference that shall be positive: of a learner and its rival, paired by seed, scene, split or task; or of
a number and a bound. With the 95 % interval of its mean (Student's t):

- `can't tell at this scale`, whatever the interval, with fewer than three pairs;
- `confirmed`: the interval lies above zero; for a claim of "no loss", above what it may lose;
- `contradicted`: it lies below that;
- else `can't tell at this scale`, where such pairs would confirm the difference that the thesis reports (of "no loss":
  no difference) in fewer than 80 of 100 repetitions, or where there is none to compare with;
- else `not confirmed`: the difference would have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from priors_shared.statistics import mean_confidence_interval

Verdict = Literal[
    "confirmed", "not confirmed", "contradicted", "can't tell at this scale", "not run"
]
ENOUGH_POWER = 0.8
ENOUGH_PAIRS = 3
"""Two may agree by luck, down to the digit, and have an interval of no width."""


@dataclass(frozen=True)
class Judgement:
    """A verdict, and what it rests on."""

    verdict: Verdict
    mean: float
    """of the difference"""
    low: float | None
    """of its 95 % interval; None for one pair"""
    high: float | None
    pairs: int
    power: float | None
    """probability that such pairs show the expected difference; None where none is expected or there is one pair"""


def judge(
    differences: Sequence[float], *, expected: float | None = None, margin: float = 0.0
) -> Judgement:
    """Judge the claim that the mean difference lies above -`margin`.

    Args:
        differences: one per pair, in the claim's favour where positive.
        expected: the difference that the thesis reports, positive.
        margin: what a claim of "no loss" may lose.
    """
    interval = mean_confidence_interval(differences)
    if interval.n == 1:
        return Judgement("can't tell at this scale", interval.mean, None, None, 1, None)
    if expected is None and margin > 0:
        expected = 0.0  # "no loss" means no difference
    power = None if expected is None else power_of(expected + margin, interval.std, interval.n)
    verdict: Verdict
    if interval.n < ENOUGH_PAIRS:
        verdict = "can't tell at this scale"
    elif interval.low > -margin:
        verdict = "confirmed"
    elif interval.high < -margin:
        verdict = "contradicted"
    elif power is None or power < ENOUGH_POWER:
        verdict = "can't tell at this scale"
    else:
        verdict = "not confirmed"
    return Judgement(verdict, interval.mean, interval.low, interval.high, interval.n, power)


def power_of(difference: float, std: float, pairs: int) -> float:
    """The probability that a two-sided paired t test at 5 % finds a mean `difference` of this spread."""
    from scipy import stats

    if std == 0:
        return 1.0 if difference else 0.05
    reach = float(stats.t.ppf(0.975, pairs - 1))
    shift = abs(difference) / (std / math.sqrt(pairs))
    # scipy's noncentral t is NaN far in its tail.
    missed = float(stats.nct.cdf(reach, pairs - 1, shift)) if shift < 30 else 0.0
    return 1.0 - missed
