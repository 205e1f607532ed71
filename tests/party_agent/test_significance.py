"""Errors and tests against their definitions written out, scipy, and repeated draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2, norm
from sklearn.metrics import roc_auc_score

from party_agent.significance import auc_difference, auc_error, hosmer_lemeshow, interval, ks_error, trend
from party_agent.validation import ranking_figures


def _sample(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.3).astype(np.int64)
    return labels, np.round(labels + random.normal(0, 1.0, n), 1)  # with ties


def _wins(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    gap = logits[labels == 1][:, None] - logits[labels == 0][None, :]
    return (gap > 0) + 0.5 * (gap == 0)


def test_the_error_of_an_auc_is_that_of_delong_written_out() -> None:
    labels, logits = _sample(150, 4)
    wins = _wins(labels, logits)
    bads, goods = wins.shape
    variance = wins.mean(axis=1).var(ddof=1) / bads + wins.mean(axis=0).var(ddof=1) / goods
    assert auc_error(labels, logits) == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_with_one_bad_the_error_is_hanley_and_mcneils() -> None:
    labels, logits = np.array([0, 0, 0, 0, 1]), np.array([0.1, 0.2, 0.3, 0.9, 0.5])
    a = roc_auc_score(labels, logits)
    expected = math.sqrt((a * (1 - a) + 3 * (2 * a * a / (1 + a) - a * a)) / 4)
    assert auc_error(labels, logits) == pytest.approx(expected, rel=1e-12)


def test_intervals_of_auc_and_ks_hold_the_truth_about_as_often_as_they_say() -> None:
    """Bads N(1.5, 1), goods N(0, 1): AUC = Phi(1.5 / sqrt 2), KS = 2 Phi(0.75) - 1, largest at one score only."""
    auc, ks = norm.cdf(1.5 / math.sqrt(2)), 2 * norm.cdf(0.75) - 1
    hits, ks_hits, draws = 0, 0, 300
    random = np.random.default_rng(8)
    for _ in range(draws):
        labels = np.repeat([1, 0], [400, 1600])
        logits = random.normal(0, 1, 2000) + 1.5 * labels
        found_auc, found_ks = ranking_figures(labels, logits)
        low, high = interval(found_auc, auc_error(labels, logits))
        hits += low <= auc <= high
        error = ks_error(float((logits[:400] > 0.75).mean()), float((logits[400:] > 0.75).mean()), 400, 1600)
        low, high = interval(found_ks, error)
        ks_hits += low <= ks <= high
    assert 0.91 <= hits / draws <= 0.99
    assert 0.87 <= ks_hits / draws <= 0.99


def test_the_error_of_an_auc_difference_is_that_of_delong_written_out() -> None:
    labels, first = _sample(120, 4)
    second = np.round(0.5 * first + np.random.default_rng(5).normal(0, 1.0, 120), 1)
    gap = _wins(labels, first) - _wins(labels, second)
    bads, goods = gap.shape
    variance = gap.mean(axis=1).var(ddof=1) / bads + gap.mean(axis=0).var(ddof=1) / goods
    difference, error = auc_difference(labels, first, second)
    assert difference == pytest.approx(roc_auc_score(labels, first) - roc_auc_score(labels, second), abs=1e-12)
    assert error == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_the_difference_of_a_model_to_itself_is_zero_without_error_and_one_bad_gives_none() -> None:
    labels, logits = np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.2, 0.9])
    assert auc_difference(labels, logits, logits) == (0.0, 0.0)
    assert auc_difference(np.array([0, 0, 0, 1]), logits, -logits) == (1.0, None)


def test_hosmer_lemeshow_is_the_chi_square_of_both_classes() -> None:
    """Over goods and bads of each group, sum (O - E)^2 / E: the same statistic, since E of goods is n - E of bads."""
    groups = [(120, 4, 0.03), (118, 9, 0.06), (125, 11, 0.11), (117, 30, 0.21)]
    expected = sum((o - n * p) ** 2 / (n * p) + (o - n * p) ** 2 / (n * (1 - p)) for n, o, p in groups)
    for estimated in (0, 2):
        trial = hosmer_lemeshow(groups, estimated)
        assert trial is not None
        assert (trial.statistic, trial.freedom) == (pytest.approx(expected), 4 - estimated)
        assert trial.p == pytest.approx(chi2.sf(expected, 4 - estimated))
    assert hosmer_lemeshow(groups[:2], 2) is None


def test_the_trend_is_the_correlation_of_grade_and_label() -> None:
    rows, bads = [300, 250, 0, 200, 90], [3, 9, 0, 12, 20]
    grade = np.repeat(range(5), rows)
    label = np.concatenate([np.repeat([1, 0], [b, n - b]) for n, b in zip(rows, bads, strict=True)])
    trial = trend(rows, bads)
    assert trial is not None
    assert trial.statistic == pytest.approx(math.sqrt(grade.size) * np.corrcoef(grade, label)[0, 1])
    assert trial.p == pytest.approx(norm.sf(trial.statistic))
    falling = trend(rows[::-1], bads[::-1])
    assert falling is not None
    assert falling.p > 0.999
    assert trend([100], [5]) is None
    assert trend([50, 50], [0, 0]) is None
