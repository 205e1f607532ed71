import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from protocols.binning.merging import chi_square, merge
from protocols.errors import DataError


@st.composite
def features(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Rows, bads (often none, or all) and the number of ordered bins of a feature of 1 to 20 pre-bins."""
    rows = draw(st.lists(st.integers(1, 400), min_size=1, max_size=20))
    bads = [draw(st.one_of(st.just(0), st.just(n), st.integers(0, n), st.integers(0, n // 20))) for n in rows]
    return rows, bads, draw(st.integers(0, len(rows)))


def totals(merge_map: tuple[int, ...], counts: list[int]) -> list[int]:
    return np.bincount(merge_map, weights=counts).astype(int).tolist()


@given(features(), st.integers(1, 10), st.sampled_from([0, 50, 200]))
def test_every_bin_meets_the_minimums_or_there_is_one_bin(
    feature: tuple[list[int], list[int], int], most: int, minimum_rows: int
):
    rows, bads, ordered = feature
    merge_map = merge(rows, bads, ordered, max_bins=most, minimum_rows=minimum_rows)
    merged_rows, merged_bads = totals(merge_map, rows), totals(merge_map, bads)
    assert len(merged_rows) <= most
    if len(merged_rows) > 1:
        assert min(merged_bads) >= 5
        assert min(r - b for r, b in zip(merged_rows, merged_bads, strict=True)) >= 5
        assert min(merged_rows) >= minimum_rows


@given(features())
def test_merge_maps_are_dense_and_grow_along_the_ordered_bins(feature: tuple[list[int], list[int], int]):
    rows, bads, ordered = feature
    merge_map = merge(rows, bads, ordered)
    assert len(merge_map) == len(rows)
    assert list(dict.fromkeys(merge_map)) == list(range(max(merge_map) + 1))
    assert list(merge_map[:ordered]) == sorted(merge_map[:ordered])


@given(features())
def test_neighbours_left_apart_differ_at_the_threshold(feature: tuple[list[int], list[int], int]):
    rows, bads, _ = feature
    merge_map = merge(rows, bads, len(rows))
    merged = list(zip(totals(merge_map, rows), totals(merge_map, bads), strict=True))
    assert all(chi_square(*left, *right) >= 3.84 for left, right in pairwise(merged))


@given(st.integers(1, 500), st.integers(1, 500), st.data())
def test_chi_square_is_that_of_the_contingency_table(rows_a: int, rows_b: int, data: st.DataObject):
    bads_a, bads_b = data.draw(st.integers(0, rows_a)), data.draw(st.integers(0, rows_b))
    ours = chi_square(rows_a, bads_a, rows_b, bads_b)
    if bads_a + bads_b in (0, rows_a + rows_b):
        assert ours == 0
    else:
        table = [[rows_a - bads_a, bads_a], [rows_b - bads_b, bads_b]]
        assert ours == pytest.approx(chi2_contingency(table, correction=False).statistic, abs=1e-9)


def test_neighbours_of_one_bad_rate_merge_and_others_do_not():
    assert merge([100, 100, 100, 100], [10, 11, 40, 41], 4) == (0, 0, 1, 1)


def test_too_many_bins_merge_the_nearest_first():
    assert merge([1000] * 4, [100, 150, 400, 600], 4, max_bins=3) == (0, 0, 1, 2)


def test_a_bin_without_bads_joins_its_neighbour_even_at_a_high_chi_square():
    assert merge([500, 500, 500], [0, 50, 200], 3) == (0, 0, 1)


def test_a_failing_bin_does_not_collapse_bins_that_pass():
    assert merge([1000, 1000, 1000, 30], [50, 100, 200, 30], 4) == (0, 1, 2, 2)


def test_categories_merge_by_bad_rate_wherever_they_stand():
    assert merge([200, 200, 200, 200], [80, 20, 82, 21], 0) == (0, 1, 0, 1)


def test_missing_stays_a_bin_when_it_can_and_joins_the_nearest_woe_when_it_cannot():
    assert merge([500, 500, 100], [20, 200, 25], 2) == (0, 1, 2)
    assert merge([500, 500, 60], [20, 200, 4], 2) == (0, 1, 0)
    assert merge([500, 500, 60], [20, 200, 60], 2) == (0, 1, 1)


def test_two_small_special_values_of_like_woe_make_a_bin_together():
    assert merge([500, 500, 60, 60], [20, 200, 57, 57], 2) == (0, 1, 2, 2)


def test_ordered_bins_make_room_for_a_missing_bin_that_stands():
    assert merge([1000] * 5, [50, 150, 300, 600, 90], 4, max_bins=3) == (0, 0, 1, 1, 2)


def test_special_values_beyond_the_cap_give_way():
    merge_map = merge([500, 500, 100, 110, 120], [20, 200, 25, 50, 75], 2, max_bins=3)
    assert max(merge_map) == 2


def test_a_feature_with_too_few_bads_becomes_one_bin():
    assert merge([500, 500], [4, 3], 2) == (0, 0)
    assert merge([500], [0], 1) == (0,)


@pytest.mark.parametrize(
    ("rows", "bads", "ordered"), [([], [], 0), ([10], [11], 1), ([0, 5], [0, 1], 2), ([5], [1, 1], 1), ([5], [1], 2)]
)
def test_counts_that_are_none_are_refused(rows: list[int], bads: list[int], ordered: int):
    with pytest.raises(DataError, match="COUNTS_INVALID"):
        merge(rows, bads, ordered)


def test_500_features_of_20_bins_merge_within_seconds():
    rng = np.random.default_rng(5)
    rows = np.full((500, 20), 1050)
    bads = rng.binomial(rows, rng.uniform(0.02, 0.1, size=(500, 20)))
    began = time.perf_counter()
    for row, bad in zip(rows, bads, strict=True):
        merge(row, bad, 18)
    assert time.perf_counter() - began < 3
