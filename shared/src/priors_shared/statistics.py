"""What a few-shot result needs: accuracy by shot, confidence intervals, paired comparisons.

Episodes are the independent draws; the steps of one episode are not. Every interval here treats
an episode (or a seed) as one observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Values = Sequence[float] | np.ndarray | Tensor


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; `n` observations, `std` their standard deviation."""

    mean: float
    low: float
    high: float
    std: float
    n: int

    @property
    def half_width(self) -> float:
        """The number behind the ±."""
        return (self.high - self.low) / 2


def mean_confidence_interval(values: Values, confidence: float = 0.95) -> Interval:
    """Mean over episodes (or seeds) and Student's t interval of it.

    values: one number per episode. One value alone has an interval without bounds (NaN).
    Raises ValueError without values or with a confidence outside 0 .. 1.
    """
    x = _vector(values)
    mean, std = float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else float("nan")
    reach = _t_quantile(confidence, len(x) - 1) * std / len(x) ** 0.5
    return Interval(mean=mean, low=mean - reach, high=mean + reach, std=std, n=len(x))


@dataclass(frozen=True)
class ShotAccuracy:
    """Accuracy at each number of earlier views of the class, 0 .. max_shots.

    mean, low, high: fractions; NaN where no class was seen that often.
    views: how many predictions each mean is over.
    """

    mean: Float[Tensor, " shots"]
    low: Float[Tensor, " shots"]
    high: Float[Tensor, " shots"]
    views: Int[Tensor, " shots"]
    episodes: int


def accuracy_by_shot(
    correct: Bool[Tensor, "time batch"],
    seen: Int[Tensor, "time batch"],
    max_shots: int,
    confidence: float = 0.95,
) -> ShotAccuracy:
    """k-shot accuracy (thesis A.1.3): over the steps whose class was seen k times before.

    correct: whether each prediction is right. seen: earlier views of each step's class
    (`OnlineEpisodes.seen`). The interval is over episodes: the mean is the ratio of two sums over
    episodes, and its variance the delta method's, so that unequal numbers of views are weighed
    right (i.i.d. label order). Concatenate batches along the second axis for one interval.
    """
    at_shot = torch.nn.functional.one_hot(seen.clamp(max=max_shots + 1), max_shots + 2)
    at_shot = at_shot[..., : max_shots + 1].to(torch.float64)  # (time, batch, shots)
    views = at_shot.sum(0)  # (batch, shots)
    hits = (at_shot * correct.unsqueeze(-1)).sum(0)
    total = views.sum(0)
    mean = hits.sum(0) / total
    episodes = correct.shape[1]
    error = ((hits - mean * views) ** 2).sum(0) * episodes / max(episodes - 1, 1)
    reach = _t_quantile(confidence, episodes - 1) * error.sqrt() / total
    return ShotAccuracy(
        mean=mean.float(),
        low=(mean - reach).clamp(min=0).float(),
        high=(mean + reach).clamp(max=1).float(),
        views=total.long(),
        episodes=episodes,
    )


@dataclass(frozen=True)
class PairedComparison:
    """a - b over pairs, with three readings of the same question: is the difference zero?

    difference: mean of a - b with its t interval. bootstrap_low, bootstrap_high: percentile
    interval. p_t, p_wilcoxon: two-sided; Wilcoxon's signed ranks assume no normal distribution.
    """

    difference: Interval
    bootstrap_low: float
    bootstrap_high: float
    p_t: float
    p_wilcoxon: float


def compare_paired(
    a: Values, b: Values, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedComparison:
    """Compare two learners on the same episodes (or seeds): a[i] and b[i] belong together.

    Deterministic for a seed. Raises ValueError unless there are as many a as b, and at least two.
    """
    from scipy import stats

    x, y = _vector(a), _vector(b)
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"need at least two pairs, got {len(x)} and {len(y)} values")
    difference = x - y
    draws = np.random.default_rng(seed)
    at_once = max(1, 5_000_000 // len(x))  # resamples held in memory together
    means = np.concatenate(
        [
            difference[draws.integers(len(x), size=(min(at_once, resamples - start), len(x)))].mean(
                1
            )
            for start in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    constant = bool((difference == difference[0]).all())  # the t statistic would divide by zero
    never = 1.0 if difference[0] == 0 else 0.0
    return PairedComparison(
        difference=mean_confidence_interval(difference, confidence),
        bootstrap_low=float(low),
        bootstrap_high=float(high),
        p_t=never if constant else float(stats.ttest_rel(x, y).pvalue),
        p_wilcoxon=1.0 if not difference.any() else float(stats.wilcoxon(difference).pvalue),
    )


def _vector(values: Values) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array.astype(np.float64).ravel()
    if not len(array):
        raise ValueError("no values: a mean needs at least one")
    return array


def _t_quantile(confidence: float, degrees: int) -> float:
    """How many standard errors the two-sided interval reaches; NaN without degrees of freedom."""
    from scipy import stats

    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(stats.t.ppf((1 + confidence) / 2, degrees)) if degrees > 0 else float("nan")
