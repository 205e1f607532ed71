"""Figures of a model against scikit-learn and hand, and what their shared form keeps to itself."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from party_agent.scorecard import GradeTable, Scaling
from party_agent.validation import (
    Distribution,
    GradeRow,
    Validation,
    _grades_json,
    blurred,
    gains_of,
    population_stability,
    validate,
)
from protocols.errors import DataError

SCALING = Scaling()


def _model(n: int = 4000, seed: int = 1, mean: float = -2.5) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    logits = np.round(random.normal(mean, 1.1, n), 2)
    labels = (random.random(n) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    scores = np.round(SCALING.offset - SCALING.factor * logits).astype(np.int64)
    training = random.permutation(n) < 0.7 * n
    grades = GradeTable.of_training_scores(scores[training])
    return {"labels": labels, "logits": logits, "scores": scores, "is_training": training, "grades": grades}


MODEL = _model()
RESULT = validate(**MODEL)


def _part(name: str, training: bool) -> Any:
    return MODEL[name][MODEL["is_training"] == training]


@pytest.mark.parametrize("training", [True, False])
def test_auc_ks_and_losses_equal_scikit_learn_and_scipy(training: bool) -> None:
    metrics = (RESULT.train if training else RESULT.test).metrics
    y, z = _part("labels", training), _part("logits", training)
    p = 1 / (1 + np.exp(-z))
    assert metrics.n == y.size
    assert metrics.bads == y.sum()
    assert metrics.auc == pytest.approx(roc_auc_score(y, z), abs=1e-12)
    assert metrics.gini == pytest.approx(2 * roc_auc_score(y, z) - 1, abs=1e-12)
    assert metrics.ks == pytest.approx(ks_2samp(z[y == 1], z[y == 0]).statistic, abs=1e-12)
    assert metrics.brier == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    assert -metrics.log_likelihood / y.size == pytest.approx(log_loss(y, p), abs=1e-12)
    assert metrics.mean_pd == pytest.approx(p.mean(), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=4, max_size=80))
def test_ties_count_half_in_the_auc(rows: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in rows] + [0, 1])
    logits = np.array([float(z) for _, z in rows] + [0.0, 0.0])
    both = np.concatenate([labels, labels])
    result = validate(
        both,
        np.concatenate([logits, logits]),
        np.concatenate([-logits, -logits]).astype(np.int64),
        np.arange(both.size) < labels.size,
        GradeTable(("A",), ()),
    )
    assert result.test.metrics.auc == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    assert result.train.metrics == result.test.metrics
    assert result.psi == pytest.approx(0.0, abs=1e-12)


def test_the_ks_stands_where_the_classes_are_furthest_apart() -> None:
    metrics = RESULT.test.metrics
    y, scores = _part("labels", False), _part("scores", False)
    below = scores <= metrics.ks_score
    gap = below[y == 1].mean() - below[y == 0].mean()
    assert gap == pytest.approx(metrics.ks, abs=0.01)  # a score is the logit rounded to a point
    assert metrics.ks_share == pytest.approx(below.mean(), abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_neighbouring_points_of_a_curve_are_a_percent_and_twenty_rows_apart(seed: int) -> None:
    for n, mean in ((1000, -3.0), (9000, -1.0)):
        result = validate(**_model(n, seed, mean))
        for sample in (result.train, result.test):
            steps = np.diff([point.rows for point in sample.curve])
            assert steps.min() * sample.metrics.n >= max(0.01 * sample.metrics.n, 20) - 1e-6
            assert len(sample.curve) <= 101
            first, last = sample.curve[0], sample.curve[-1]
            assert (first.rows, first.bads, first.goods, first.score) == (0, 0, 0, None)
            assert (last.rows, last.bads, last.goods) == (1, 1, 1)
            assert np.diff([point.bads for point in sample.curve]).min() >= 0


def test_the_point_of_the_ks_is_on_the_thinned_curve() -> None:
    for sample in (RESULT.train, RESULT.test):
        gaps = [point.bads - point.goods for point in sample.curve]
        assert max(gaps) == pytest.approx(sample.metrics.ks, abs=1e-12)


def test_rows_of_one_logit_are_never_told_apart() -> None:
    n = 1000
    labels = (np.arange(n) % 7 == 0).astype(np.int64)
    logits = np.where(np.arange(n) % 2 == 0, -1.0, -2.0)
    both = np.concatenate([labels, labels])
    result = validate(
        both,
        np.concatenate([logits, logits]),
        np.full(2 * n, 500),
        np.arange(2 * n) < n,
        GradeTable(("A", "B"), (400,)),
    )
    assert [point.rows for point in result.test.curve] == [0.0, 0.5, 1.0]


def test_calibration_groups_hold_five_of_each_class_and_every_row() -> None:
    for sample in (RESULT.train, RESULT.test, validate(**_model(1200, 3, -4.0)).test):
        rows = sample.calibration
        assert all(row.bads >= 5 and row.n - row.bads >= 5 for row in rows)
        assert sum(row.n for row in rows) == sample.metrics.n
        assert sum(row.bads for row in rows) == sample.metrics.bads
        assert sum(row.tenths for row in rows) == 10
        assert np.diff([row.mean_pd for row in rows]).min(initial=1) > 0


def test_calibration_by_hand() -> None:
    n = 1000
    logits = np.repeat(np.linspace(-3, 0, 10), 100)
    p = 1 / (1 + np.exp(-logits))
    labels = np.zeros(n, dtype=np.int64)
    for tenth in range(10):
        labels[tenth * 100 : tenth * 100 + 5 * (tenth + 1)] = 1
    result = validate(
        np.concatenate([labels, labels]),
        np.concatenate([logits, logits]),
        np.zeros(2 * n, dtype=np.int64),
        np.arange(2 * n) < n,
        GradeTable(("A",), ()),
    )
    rows = result.test.calibration
    assert [row.bads for row in rows] == [5 * (tenth + 1) for tenth in range(10)]
    assert [row.mean_pd for row in rows] == pytest.approx([p[tenth * 100] for tenth in range(10)])


def test_population_stability_by_hand() -> None:
    expected = np.repeat(np.arange(10), 100)
    actual = np.concatenate([np.repeat(0, 150), np.repeat(np.arange(1, 9), 100), np.repeat(9, 50)])
    assert population_stability(expected, actual) == pytest.approx(0.05 * math.log(1.5) - 0.05 * math.log(0.5))
    assert population_stability(expected, expected) == 0


def test_population_stability_joins_a_group_that_one_sample_leaves_empty() -> None:
    shifted = population_stability(np.arange(1000), np.arange(500, 1000))
    assert math.isfinite(shifted)
    assert shifted > 0.25


def test_the_distribution_and_the_grades_hold_every_row() -> None:
    for sample in (RESULT.train, RESULT.test):
        counts = sample.distribution
        assert sum(counts.bads) == sum(row.bads for row in sample.grades) == sample.metrics.bads
        assert sum(counts.goods) == sample.metrics.n - sample.metrics.bads
        assert sum(row.n for row in sample.grades) == sample.metrics.n
        assert len(counts.edges) == len(counts.goods) + 1 <= 25
    rates = [row.bads / row.n for row in RESULT.train.grades]
    assert rates[0] < rates[-1]


def test_the_distribution_by_hand() -> None:
    edges = RESULT.test.distribution.edges
    scores, y = _part("scores", False), _part("labels", False)
    for index in range(1, len(edges) - 2):
        inside = (scores >= edges[index]) & (scores < edges[index + 1])
        assert RESULT.test.distribution.bads[index] == y[inside].sum()
    assert RESULT.test.distribution.goods[0] == ((scores < edges[1]) & (y == 0)).sum()


@given(st.lists(st.integers(0, 60), min_size=2, max_size=12))
def test_hidden_counts_cannot_be_found_by_subtraction(counts: list[int]) -> None:
    shown = blurred(counts)
    hidden = [count for count, cell in zip(counts, shown, strict=True) if isinstance(cell, str)]
    for count, cell in zip(counts, shown, strict=True):
        if isinstance(cell, str):
            assert count < int(cell[1:])
        else:
            assert cell == count >= 5
    if hidden and len(hidden) < len(counts):
        assert len(hidden) >= 2
        assert sum(hidden) >= 5


def test_one_small_count_takes_the_next_smallest_with_it() -> None:
    assert blurred([40, 3, 30, 12]) == [40, "<5", 30, "<20"]
    assert blurred([40, 0, 0, 12]) == [40, "<5", "<5", "<20"]
    assert blurred([40, 30, 12]) == [40, 30, 12]


def _grade(name: str, n: int, bads: int) -> GradeRow:
    return GradeRow(name, None, None, n, bads)


def test_an_empty_grade_hides_nothing_and_helps_to_hide_nothing() -> None:
    rows = [_grade("A", 0, 0), _grade("B", 90, 3), _grade("C", 80, 30), _grade("D", 70, 40)]
    cells = [row["test"] for row in _grades_json({"train": rows, "test": rows})]
    assert [cell["bads"] for cell in cells] == [0, "<5", "<50", 40]
    assert [cell["bad_rate"] for cell in cells] == [None, None, None, round(40 / 70, 4)]


def test_a_grade_of_bads_alone_withholds_the_column() -> None:
    rows = [_grade("A", 90, 30), _grade("B", 40, 40)]
    assert [row["train"]["bads"] for row in _grades_json({"train": rows, "test": rows})] == ["withheld", "withheld"]


def test_a_grade_with_fewer_than_five_borrowers_hides_their_number() -> None:
    rows = [_grade("A", 3, 0), _grade("B", 90, 20), _grade("C", 90, 30)]
    assert [row["test"]["n"] for row in _grades_json({"train": rows, "test": rows})] == ["<5", 90, 90]


def test_no_count_below_five_is_in_the_shared_form() -> None:
    result = validate(**_model(1500, 4, -4.0)).to_json()
    for sample in ("train", "test"):
        cells = [*result["distribution"][sample]["bads"], *result["distribution"][sample]["goods"]]
        cells += [row[sample]["bads"] for row in result["grades"]]
        assert any(isinstance(cell, str) for cell in cells)
        assert all(isinstance(cell, str) or cell >= 5 for cell in cells)


def test_the_exact_figures_stay_with_the_label_owner() -> None:
    counts = Distribution((0, 10, 20, 30), (50, 3, 60), (1, 7, 20))
    assert counts.goods == (50, 3, 60)
    assert counts.to_json() == {"edges": [0, 10, 20, 30], "goods": ["<100", "<5", 60], "bads": ["<5", "<10", 20]}


def test_the_shared_form_is_plain_json_of_four_decimals_and_counts_its_numbers() -> None:
    data = RESULT.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert set(data) == {"metrics", "curves", "gains", "calibration", "distribution", "grades"}
    assert data["metrics"]["test"]["auc"] == round(RESULT.test.metrics.auc, 4)
    text = json.dumps(data["curves"]["test"])
    assert RESULT.numbers() > 4 * text.count("rows")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"labels": MODEL["labels"][:-1]}, "VALIDATION_INVALID"),
        ({"labels": MODEL["labels"] * 2}, "VALIDATION_INVALID"),
        ({"logits": np.where(np.arange(4000) == 7, np.nan, MODEL["logits"])}, "VALIDATION_INVALID"),
        ({"scores": MODEL["scores"].astype(float)}, "VALIDATION_INVALID"),
        ({"is_training": MODEL["is_training"].astype(int)}, "VALIDATION_INVALID"),
        ({"labels": np.zeros(4000, dtype=np.int64)}, "ONE_CLASS"),
        ({"labels": MODEL["is_training"].astype(np.int64)}, "ONE_CLASS"),
    ],
)
def test_input_that_cannot_be_judged_is_refused(change: dict[str, Any], code: str) -> None:
    with pytest.raises(DataError) as caught:
        validate(**{**MODEL, **change})
    assert caught.value.code == code


def test_a_model_that_ranks_upside_down_is_reported_as_it_is() -> None:
    upside: Validation = validate(**{**MODEL, "logits": -MODEL["logits"]})
    assert upside.test.metrics.auc == pytest.approx(1 - RESULT.test.metrics.auc, abs=1e-12)
    assert upside.test.metrics.gini < 0


def test_out_of_time_rows_are_a_sample_of_their_own() -> None:
    random = np.random.default_rng(9)
    late = ~MODEL["is_training"] & (random.random(MODEL["labels"].size) < 0.4)
    result = validate(**MODEL, is_late=late)
    assert result.late is not None
    assert result.train.metrics == RESULT.train.metrics
    assert (result.late.metrics.n, result.late.metrics.bads) == (late.sum(), MODEL["labels"][late].sum())
    assert result.test.metrics.n == RESULT.test.metrics.n - late.sum()
    assert result.late.metrics.auc == pytest.approx(roc_auc_score(MODEL["labels"][late], MODEL["logits"][late]))
    assert result.psi_late == population_stability(MODEL["scores"][MODEL["is_training"]], MODEL["scores"][late])
    shared = result.to_json()
    assert {"train", "test", "out_of_time"} == shared["curves"].keys() == shared["gains"].keys()
    assert shared["metrics"].keys() == {"train", "test", "out_of_time", "psi", "psi_out_of_time"}
    assert all({"grade", "low", "high", "train", "test", "out_of_time"} == row.keys() for row in shared["grades"])


def test_a_row_that_trains_is_never_out_of_time_and_a_late_sample_needs_both_classes() -> None:
    with pytest.raises(DataError) as caught:
        validate(**MODEL, is_late=MODEL["is_training"])
    assert caught.value.code == "VALIDATION_INVALID"
    late = ~MODEL["is_training"] & (MODEL["labels"] == 0)
    with pytest.raises(DataError, match="test rows") as caught:
        validate(**MODEL, is_late=late)
    assert caught.value.code == "ONE_CLASS"


def test_gains_and_lift_equal_the_sorted_sample() -> None:
    y, z = _part("labels", False), _part("logits", False)
    riskiest = y[np.argsort(-z, kind="stable")]
    for row in gains_of(RESULT.test.calibration):
        caught = riskiest[: round(row.rows * y.size)].sum() / y.sum()
        assert row.caught == pytest.approx(caught, abs=1e-12)
        assert row.lift == pytest.approx(caught / row.rows, abs=1e-9)
    assert gains_of(RESULT.test.calibration)[-1].caught == 1.0
