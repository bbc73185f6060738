"""Accuracy by shot and intervals, against brute force and against what they promise."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from priors_shared.episodes import count_earlier
from priors_shared.statistics import accuracy_by_shot, compare_paired, mean_confidence_interval


def test_interval_of_three_numbers_by_hand():
    # mean 2, std 1, t(0.975, 2) = 4.302653
    interval = mean_confidence_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2
    assert interval.std == 1
    assert interval.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert interval.n == 3


def test_interval_needs_values_and_has_no_bounds_for_one():
    with pytest.raises(ValueError, match="no values"):
        mean_confidence_interval([])
    with pytest.raises(ValueError, match="confidence"):
        mean_confidence_interval([1.0, 2.0], confidence=95.0)
    single = mean_confidence_interval(torch.tensor([3.0]))
    assert single.mean == 3
    assert math.isnan(single.low)


def test_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    accuracies = random.binomial(50, 0.8, size=(2000, 100)) / 50  # 2000 studies of 100 episodes
    intervals = [mean_confidence_interval(study) for study in accuracies]
    covered = np.mean([i.low <= 0.8 <= i.high for i in intervals])
    assert 0.93 < covered < 0.97  # four standard errors of a coverage of 95 %


def simulated(random, batch, ways=5, steps=25):
    """Streams whose episodes differ in difficulty: steps of an episode are correlated."""
    labels = torch.from_numpy(random.integers(ways, size=(steps, batch)))
    skill = torch.from_numpy(random.beta(4, 1, size=batch))
    correct = torch.from_numpy(random.random((steps, batch))) < skill
    return correct, count_earlier(labels, ways)


def test_accuracy_by_shot_against_brute_force():
    correct, seen = simulated(np.random.default_rng(1), batch=40)
    result = accuracy_by_shot(correct, seen, max_shots=4)
    assert result.episodes == 40
    for shot in range(5):
        hits = [
            bool(correct[t, b]) for b in range(40) for t in range(25) if int(seen[t, b]) == shot
        ]
        assert int(result.views[shot]) == len(hits)
        assert float(result.mean[shot]) == pytest.approx(np.mean(hits), abs=1e-6)


def test_accuracy_by_shot_is_the_plain_interval_when_episodes_weigh_the_same():
    random = np.random.default_rng(2)
    labels = torch.from_numpy(random.permuted(np.tile(np.arange(5).repeat(3), (60, 1)), axis=1)).T
    correct = torch.from_numpy(random.random((15, 60)) < 0.7)
    seen = count_earlier(labels, 5)
    result = accuracy_by_shot(correct, seen, max_shots=2)
    for shot in range(3):
        per_episode = ((seen == shot) & correct).sum(0) / 5
        plain = mean_confidence_interval(per_episode)
        assert float(result.mean[shot]) == pytest.approx(plain.mean, abs=1e-6)
        assert float(result.low[shot]) == pytest.approx(plain.low, abs=1e-5)


def test_accuracy_by_shot_covers_although_steps_of_an_episode_are_correlated():
    random = np.random.default_rng(3)
    truth, covered, naive = 0.8, [], []
    for _ in range(400):
        result = accuracy_by_shot(*simulated(random, batch=100), max_shots=3)
        covered.append(bool(result.low[1] <= truth <= result.high[1]))
        p, n = float(result.mean[1]), int(result.views[1])
        naive.append(abs(p - truth) <= 1.96 * math.sqrt(p * (1 - p) / n))
    assert 0.91 < np.mean(covered) < 0.99
    assert np.mean(naive) < np.mean(covered)  # counting steps as draws promises too much


def test_a_shot_that_never_occurs_is_nan():
    correct, seen = simulated(np.random.default_rng(4), batch=5)
    result = accuracy_by_shot(correct, seen, max_shots=30)
    assert int(result.views[30]) == 0
    assert math.isnan(float(result.mean[30]))


def test_paired_comparison_finds_a_small_difference_that_unpaired_noise_hides():
    random = np.random.default_rng(5)
    difficulty = random.normal(0.7, 0.2, 50)
    a, b = difficulty + 0.02 + random.normal(0, 0.01, 50), difficulty
    found = compare_paired(a, b)
    assert found.difference.mean == pytest.approx(np.mean(a - b))
    assert found.p_t == pytest.approx(stats.ttest_1samp(a - b, 0).pvalue)
    assert found.p_t < 1e-6
    assert found.p_wilcoxon < 1e-6
    assert stats.ttest_ind(a, b).pvalue > 0.2
    assert found.bootstrap_low > 0
    # With 50 pairs the two intervals nearly agree.
    assert found.bootstrap_low == pytest.approx(found.difference.low, abs=1e-3)
    assert found == compare_paired(a, b)


def test_paired_comparison_is_silent_when_there_is_nothing():
    random = np.random.default_rng(6)
    p = [compare_paired(*random.normal(size=(2, 20)), resamples=50).p_t for _ in range(200)]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.11
    same = compare_paired([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert same.p_t == same.p_wilcoxon == 1
    with pytest.raises(ValueError, match="two pairs"):
        compare_paired([1.0], [1.0])
    with pytest.raises(ValueError, match="two pairs"):
        compare_paired([1.0, 2.0], [1.0])
