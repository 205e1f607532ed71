"""Own splits, groups and named bins of a feature's owner; what missing, special and unseen values do in scoring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.binning.prebins import FeatureKind, floor_rows, lost_splits, prebin
from protocols.binning.rules import MergeRule, rule_of
from protocols.errors import RecipeError
from protocols.recipe import Binning, FeatureRules

NUMERIC, CATEGORICAL = FeatureKind.NUMERIC, FeatureKind.CATEGORICAL


def test_own_splits_are_the_edges_whatever_the_values() -> None:
    values = np.arange(1000.0)
    binning = prebin(values, NUMERIC, "x", floor=50, splits=[99.5, 300, 700])
    assert binning is not None
    assert (binning.edges, binning.rows) == ((99.5, 300.0, 700.0), (100, 201, 400, 299))
    assert lost_splits(binning, values, [99.5, 300, 700]) == (0, 0)


def test_a_split_outside_the_range_is_dropped_and_values_there_go_to_the_end_bin_in_scoring() -> None:
    values = np.arange(1000.0)
    binning = prebin(values, NUMERIC, "x", floor=50, splits=[-5.0, 500.0, 2000.0])
    assert binning is not None
    assert (binning.edges, lost_splits(binning, values, [-5.0, 500.0, 2000.0])) == ((500.0,), (2, 0))
    assert binning.codes(np.array([-99.0, 500.0, 501.0, 5000.0])).tolist() == [0, 0, 1, 1]


def test_a_split_that_leaves_too_few_rows_merges_that_bin_alone_with_its_smaller_neighbour() -> None:
    values = np.repeat([1.0, 2.0, 3.0, 4.0], [300, 49, 100, 400])
    binning = prebin(values, NUMERIC, "x", floor=50, splits=[1, 2, 3])
    assert binning is not None
    assert (binning.edges, binning.rows) == ((1.0, 3.0), (300, 149, 400))
    assert lost_splits(binning, values, [1, 2, 3]) == (0, 1)


@given(
    st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=400),
    st.lists(st.integers(-25, 25).map(float), min_size=1, max_size=19, unique=True).map(sorted),
    st.integers(1, 60),
)
def test_every_row_is_in_one_bin_above_the_floor_and_no_edge_is_invented(
    values: list[float], splits: list[float], floor: int
) -> None:
    column = np.array(values)
    binning = prebin(column, NUMERIC, "x", floor=floor, splits=splits)
    if binning is not None:
        assert set(binning.edges) <= set(splits)
        assert np.bincount(binning.codes(column), minlength=binning.bins).tolist() == list(binning.rows)
        assert min(binning.rows) >= floor
        assert sum(lost_splits(binning, column, splits)) == len(splits) - len(binning.edges)


def test_own_groups_are_bins_and_what_no_group_names_is_one_more() -> None:
    values = np.repeat(np.array(["A", "B", "C", "D", "E"], dtype=object), [200, 100, 90, 80, 30])
    groups = [["B", "A"], ["C"], ["E"], ["Z"]]
    binning = prebin(values, CATEGORICAL, "x", floor=50, groups=groups)
    assert binning is not None
    assert binning.categories == (("B", "A"), ("C",), ("D", "E", "Z"))
    assert binning.rows == (300, 90, 110)
    assert lost_splits(binning, values, groups=groups) == (1, 1)


def test_missing_and_special_values_share_the_bin_of_a_named_value() -> None:
    values = np.concatenate([np.repeat([1.0, 2.0, 3.0, -1.0], [200, 100, 150, 60]), np.full(70, np.nan)])
    binning = prebin(values, NUMERIC, "x", special=(-1.0,), floor=50, missing_with=1.5, special_with=3.0)
    assert binning is not None
    assert (binning.edges, binning.rows, binning.special_bins, binning.missing_bin) == (
        (1.0, 2.0),
        (200, 170, 210),
        (2,),
        1,
    )
    beside = prebin(values, NUMERIC, "x", special=(-1.0,), floor=50, missing_with=-1.0)
    assert beside is not None
    assert beside.missing_bin == beside.special_bins[0] == 3
    names = np.repeat(np.array(["A", "B", None], dtype=object), [100, 90, 20])
    category = prebin(names, CATEGORICAL, "x", floor=50, missing_with="B")
    assert category is not None
    assert (category.missing_bin, category.rows) == (1, (100, 110))


def test_a_special_code_absent_in_training_goes_to_the_largest_bin_or_to_the_named_one() -> None:
    values = np.repeat([1.0, 2.0, 3.0], [100, 300, 90])
    plain = prebin(values, NUMERIC, "x", special=(-9.0,), floor=50)
    named = prebin(values, NUMERIC, "x", special=(-9.0,), floor=50, special_with=3.0)
    assert plain is not None
    assert named is not None
    assert plain.rows == named.rows == (100, 300, 90)
    assert plain.codes(np.array([-9.0, np.nan])).tolist() == [1, 1]
    assert named.codes(np.array([-9.0, np.nan])).tolist() == [2, 1]


def test_a_feature_all_missing_in_training_says_nothing_and_has_no_bins() -> None:
    assert prebin(np.full(500, np.nan), NUMERIC, "x", floor=50, splits=[1.0, 2.0]) is None
    assert prebin(np.full(500, np.nan), NUMERIC, "x", floor=50, missing_with=1.0) is None


# -- the rule that travels ---------------------------------------------------------------------------------------------


def feature(special: tuple[float, ...] = (-1.0,)):
    values = np.concatenate([np.repeat([1.0, 2.0, -1.0], [900, 900, 100]), np.full(100, np.nan)])
    binning = prebin(values, NUMERIC, "x", special=special, floor=floor_rows(2000))
    assert binning is not None
    return binning


def test_an_owners_rule_goes_before_the_recipes_and_tells_no_policy_that_is_the_default() -> None:
    rules = Binning(method="optimal", trend="peak", max_bins=6, min_bin_share=0.0501)
    assert rule_of(rules, FeatureRules(), feature()) == MergeRule("optimal", "peak", 6, 101)
    own = FeatureRules(method="quantile", max_bins=3, missing="riskiest", special="nearest", min_bin_share=0.0)
    assert rule_of(rules, own, feature(), keep=True) == MergeRule("quantile", "none", 3, 0, (1, 2), True)
    assert rule_of(rules, FeatureRules(splits=(1.0,)), feature()).method == "splits"


def test_a_trend_for_a_method_without_one_is_refused() -> None:
    with pytest.raises(RecipeError, match="RECIPE_OUT_OF_RANGE"):
        rule_of(Binning(), FeatureRules(trend="peak"), feature())
