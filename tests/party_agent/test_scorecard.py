"""Points, scores and grades: the arithmetic of the scale, and tables that refuse what is not theirs."""

from __future__ import annotations

import json
import math
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from party_agent.scorecard import (
    DEFAULT_CUT_QUANTILES,
    DEFAULT_GRADES,
    FeaturePoints,
    GradeTable,
    PointsTable,
    Scaling,
    base_points,
    pd_of_score,
    points_of,
    round_half_away,
    unrounded_points,
)
from protocols.binning.prebins import FeatureKind, PreBinning
from protocols.binning.table import BinnedFeature
from protocols.errors import DataError, RecipeError
from protocols.recipe import Recipe

SCALING = Scaling()


def _table(base: int | None = 520) -> PointsTable:
    return PointsTable(
        "bank",
        SCALING,
        (
            FeaturePoints("age", "bank-1", ("young", "old"), (-5000, 4000), (-12, 9)),
            FeaturePoints("行业", "bank-2", ("a", "b", "missing"), (-100, 0, 12_345), (0, 0, 31)),
        ),
        base,
    )


def _binned() -> BinnedFeature:
    binning = PreBinning("ratio", FeatureKind.NUMERIC, (0.5, 2.0), 3, (), (), (), 3, 0, (400, 300, 200, 100))
    return BinnedFeature("bank-1", binning, (0, 1, 1, 2), (-5000, 5000, 0), 184, (400, 500, 100), (40, 20, None))


@given(st.floats(-1e9, 1e9, allow_nan=False))
def test_halves_round_away_from_zero_like_decimal_arithmetic(value: float) -> None:
    exact = Decimal(value).quantize(Decimal(1), rounding=ROUND_HALF_UP)  # HALF_UP of decimal is away from zero
    assert round_half_away(np.array([value]))[0] == int(exact)


def test_base_score_means_base_odds_and_pdo_more_points_twice_the_odds() -> None:
    for score, odds in ((600, 50.0), (620, 100.0), (580, 25.0)):
        p = float(pd_of_score(score, SCALING))
        assert (1 - p) / p == pytest.approx(odds, rel=1e-12)


def test_points_by_hand() -> None:
    # factor = 20 / ln 2 = 28.8539; -28.8539 * -0.8 * 0.5 = 11.54, * -1.25 = -28.85
    (points,) = points_of(np.array([-0.8]), [np.array([5000, -12_500, 0])], SCALING)
    assert points.tolist() == [12, -29, 0]
    assert points.dtype == np.int64
    assert base_points(-3.0, SCALING) == round(487.1229 + 28.8539 * 3.0)


def test_a_safer_bin_earns_points_under_the_usual_negative_coefficient() -> None:
    (points,) = points_of(np.array([-1.0]), [np.array([-9000, 0, 9000])], SCALING)
    assert points[0] < points[1] == 0 < points[2]


@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=6),
    st.floats(-6, 2),
    st.integers(0, 2**32 - 1),
)
def test_the_score_is_the_logit_on_the_scale_to_half_a_point_a_term(
    weights: list[float], intercept: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    woe = [random.integers(-30_000, 30_000, 4) for _ in weights]
    codes = random.integers(0, 4, (20, len(weights)))
    points = points_of(np.array(weights), woe, SCALING)
    features = tuple(
        FeaturePoints(f"f{i}", f"p-{i}", tuple("abcd"), tuple(w.tolist()), tuple(p.tolist()))
        for i, (w, p) in enumerate(zip(woe, points, strict=True))
    )
    table = PointsTable("bank", SCALING, features, base_points(intercept, SCALING))
    values = np.column_stack([w[codes[:, i]] * 1e-4 for i, w in enumerate(woe)])
    logits = values @ np.array(weights) + intercept
    scores = table.partial_points(codes)
    assert np.abs(scores - (SCALING.offset - SCALING.factor * logits)).max() <= (len(weights) + 1) / 2 + 1e-6
    drift = (len(weights) + 1) / 2 / SCALING.factor + 1e-9
    implied = pd_of_score(scores, SCALING)
    assert np.all(np.abs(np.log(implied / (1 - implied)) - logits) <= drift + 1e-6)


def test_unrounded_points_show_which_bins_are_ties() -> None:
    weight = -0.5 / (SCALING.factor * 1e-4 * 5000)
    (exact,) = unrounded_points(np.array([weight]), [np.array([5000])], SCALING)
    assert exact[0] == pytest.approx(0.5)


def test_probabilities_at_absurd_scores_are_limits_not_overflows() -> None:
    with np.errstate(over="raise", invalid="raise"):
        assert pd_of_score(np.array([-20_000.0]), SCALING)[0] == 1.0
        assert 0 <= pd_of_score(np.array([20_000.0]), SCALING)[0] < 1e-200


@pytest.mark.parametrize(
    "values",
    [{"pdo": 0}, {"pdo": -20}, {"pdo": math.nan}, {"base_odds": 0}, {"base_odds": math.inf}, {"base_score": math.nan}],
)
def test_a_scale_that_does_not_rise_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(RecipeError) as caught:
        Scaling(**values)
    assert caught.value.code == "RECIPE_OUT_OF_RANGE"


@pytest.mark.parametrize("weights", [[1.0], [1.0, math.nan], [[1.0, 2.0]], [1.0, math.inf]])
def test_coefficients_that_do_not_fit_the_features_are_refused(weights: list[float]) -> None:
    with pytest.raises(DataError) as caught:
        points_of(np.array(weights), [np.array([0, 1]), np.array([2])], SCALING)
    assert caught.value.code == "COEFFICIENTS_INVALID"


def test_partial_points_add_the_base_at_the_label_owner_only() -> None:
    codes = np.array([[0, 0], [1, 2], [1, 1]])
    assert _table().partial_points(codes).tolist() == [508, 560, 529]
    assert _table(base=None).partial_points(codes).tolist() == [-12, 40, 9]
    assert _table().partial_points(np.zeros((0, 2), dtype=np.int64)).tolist() == []


@pytest.mark.parametrize(
    "codes",
    [[[0, 3]], [[-1, 0]], [[0]], [0, 1], [[0.0, 1.0]], [[0, 0, 0]]],
)
def test_a_code_that_is_no_bin_is_refused_and_never_wraps_around(codes: list[list[int]]) -> None:
    with pytest.raises(DataError) as caught:
        _table().partial_points(np.array(codes))
    assert caught.value.code == "BIN_CODES_INVALID"


def test_the_range_of_a_table_is_reached_by_its_worst_and_best_rows() -> None:
    assert _table().range() == (508, 560)


def test_a_points_table_survives_json() -> None:
    for table in (_table(), _table(base=None), _table(base=0)):
        assert PointsTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_a_broken_file_is_no_points_table() -> None:
    good = _table().to_json()
    bad = [
        {},
        {**good, "features": [{"name": "x", "alias": "y", "bins": []}]},
        {**good, "base_points": 1.5},
        {**good, "scaling": {"pdo": 20, "unknown": 1}},
        {**good, "features": good["features"] * 2},
        {**good, "features": [{**good["features"][0], "bins": [{"label": "a", "woe_units": "1", "points": 2}]}]},
    ]
    for data in bad:
        with pytest.raises(DataError) as caught:
            PointsTable.from_json(data)
        assert caught.value.code == "POINTS_TABLE_INVALID"


def test_default_grades_hold_their_shares_of_distinct_training_scores() -> None:
    scores = np.random.default_rng(1).permutation(2000)
    grades = GradeTable.of_training_scores(scores)
    assert grades.names == DEFAULT_GRADES
    counts = np.bincount(grades.positions(scores), minlength=7) / 2000
    assert np.cumsum(counts).tolist() == pytest.approx([*DEFAULT_CUT_QUANTILES, 1.0])


@given(st.lists(st.integers(300, 320), min_size=1, max_size=60))
def test_grades_are_ordered_and_none_is_lost_whatever_the_ties(values: list[int]) -> None:
    scores = np.array(values)
    grades = GradeTable.of_training_scores(scores)
    assert len(grades.bands()) == 7
    positions = grades.positions(np.sort(scores))
    assert np.all(np.diff(positions) <= 0)
    for name, low, high in grades.bands():
        inside = (scores >= (low if low is not None else -math.inf)) & (
            scores <= (high if high is not None else math.inf)
        )
        assert np.array_equal(grades.grade(scores) == name, inside)


def test_explicit_cuts_hold_their_lower_edge() -> None:
    grades = GradeTable(("A", "B", "C"), (620, 580))
    assert grades.grade(np.array([700, 620, 619, 580, 579])).tolist() == ["A", "A", "B", "B", "C"]
    assert grades.bands() == (("A", 620, None), ("B", 580, 619), ("C", None, 579))
    assert GradeTable.from_json(json.loads(json.dumps(grades.to_json()))) == grades


@pytest.mark.parametrize(
    ("names", "cuts"),
    [(("A", "B"), (1, 0)), (("A", "B", "C"), (1, 1)), (("A", "B", "C"), (1, 2)), (("A", "A"), (1,)), ((), ())],
)
def test_grades_that_do_not_fall_are_refused(names: tuple[str, ...], cuts: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        GradeTable(names, cuts)
    assert caught.value.code == "GRADES_INVALID"


@pytest.mark.parametrize("quantiles", [(0.5,), (0.5, 0.5), (0.6, 0.4), (0.0, 0.5), (0.5, 1.0), (0.5, math.nan)])
def test_quantiles_that_cut_no_grades_are_refused(quantiles: tuple[float, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        GradeTable.of_training_scores(np.arange(10), ("A", "B", "C"), quantiles)
    assert caught.value.code == "GRADES_INVALID"


def test_grades_without_scores_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        GradeTable.of_training_scores(np.array([], dtype=np.int64))
    assert caught.value.code == "NO_ROWS"


def test_the_defaults_are_those_of_the_recipe() -> None:
    section = Recipe().scorecard
    assert Scaling(section.pdo, section.base_score, section.base_odds) == SCALING
    assert (section.grades, section.cut_quantiles) == (DEFAULT_GRADES, DEFAULT_CUT_QUANTILES)


def test_a_table_is_built_from_the_artefacts_of_binning() -> None:
    table = PointsTable.of("bank", [_binned()], np.array([-0.8]), SCALING, intercept=-3.0)
    (feature,) = table.features
    assert (feature.name, feature.alias, table.base) == ("ratio", "bank-1", 574)
    assert feature.labels == _binned().labels()
    assert feature.points == (-12, 12, 0)
    assert PointsTable.of("tax", [], np.array([]), SCALING).base is None
