import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.binning.prebins import (
    FeatureKind,
    PreBinning,
    drop_indistinct,
    floor_rows,
    indistinct_pairs,
    prebin,
)
from protocols.errors import DataError

NUMERIC, CATEGORICAL = FeatureKind.NUMERIC, FeatureKind.CATEGORICAL

numbers = st.one_of(
    st.sampled_from([0.0, 1.0, 2.0, -1.0, -2.0, float("nan")]),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.integers(-20, 20).map(float),
)
columns = st.lists(numbers, min_size=1, max_size=300).map(lambda rows: np.array(rows, dtype=np.float64))
names = st.sampled_from(["A", "B", "C", "D", *[f"r{i}" for i in range(30)], None])
name_columns = st.lists(names, min_size=1, max_size=300).map(lambda rows: np.array(rows, dtype=object))
specials = st.sampled_from([(), (-1.0,), (-1.0, -2.0), (0.0, 7.0)])


def check(binning: PreBinning, values: np.ndarray, floor: int, most: int) -> None:
    codes = binning.codes(values)
    assert codes.shape == values.shape
    assert np.bincount(codes, minlength=binning.bins).tolist() == list(binning.rows)
    assert min(binning.rows) >= floor
    assert 2 <= binning.bins <= most
    assert binning.rows[binning.fallback] == max(binning.rows)
    labels = binning.labels()
    assert len(set(labels)) == binning.bins
    assert all(labels)


@given(columns, specials, st.integers(1, 40), st.integers(2, 20))
def test_every_numeric_row_is_in_exactly_one_bin_and_every_bin_above_the_floor(
    values: np.ndarray, special: tuple[float, ...], floor: int, most: int
):
    binning = prebin(values, NUMERIC, "x", special=special, max_prebins=most, floor=floor)
    if binning is not None:
        check(binning, values, floor, most)


@given(name_columns, st.sampled_from([(), ("A",), ("A", "zz")]), st.integers(1, 40), st.integers(2, 20))
def test_every_category_row_is_in_exactly_one_bin_and_every_bin_above_the_floor(
    values: np.ndarray, special: tuple[str, ...], floor: int, most: int
):
    binning = prebin(values, CATEGORICAL, "x", special=special, max_prebins=most, floor=floor)
    if binning is not None:
        check(binning, values, floor, most)


@given(columns, specials, st.integers(1, 40))
def test_ordered_bins_grow_with_the_value(values: np.ndarray, special: tuple[float, ...], floor: int):
    binning = prebin(values, NUMERIC, "x", special=special, floor=floor)
    if binning is not None and binning.ordered_bins:
        ordinary = np.sort(values[~np.isnan(values) & ~np.isin(values, special)])
        codes = binning.codes(ordinary)
        assert (np.diff(codes) >= 0).all()
        assert codes.size == 0 or codes.max() < binning.ordered_bins


@given(columns, st.integers(1, 40), st.lists(st.floats(allow_infinity=False), min_size=1))
def test_values_never_seen_in_training_have_a_bin(values: np.ndarray, floor: int, unseen: list[float]):
    binning = prebin(values, NUMERIC, "x", special=(-1.0,), floor=floor)
    if binning is not None:
        codes = binning.codes(np.array(unseen))
        assert ((codes >= 0) & (codes < binning.bins)).all()


@given(columns, specials, st.integers(1, 40), st.randoms(use_true_random=False))
def test_row_order_does_not_matter(values: np.ndarray, special: tuple[float, ...], floor: int, random):
    order = list(range(len(values)))
    random.shuffle(order)
    assert prebin(values, NUMERIC, "x", special=special, floor=floor) == prebin(
        values[order], NUMERIC, "x", special=special, floor=floor
    )


@given(st.one_of(columns, name_columns), st.integers(1, 40))
def test_pre_bins_survive_json_to_the_last_bit(values: np.ndarray, floor: int):
    kind = NUMERIC if values.dtype == np.float64 else CATEGORICAL
    binning = prebin(values, kind, "x", special=() if kind is CATEGORICAL else (-1.0,), floor=floor)
    if binning is not None:
        assert PreBinning.from_json(json.loads(json.dumps(binning.to_json()))) == binning


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [2.0, 1.0]},
        {"edges": [float("nan"), 1.0]},
        {"missing_bin": 9},
        {"fallback": -1},
        {"ordered_bins": 7},
        {"kind": "ordinal"},
        {"rows": None},
        {"special": [-1.0, -1.0], "special_bins": [0, 0]},
        {"categories": [["A"]]},
    ],
)
def test_a_damaged_model_file_is_refused(change: dict[str, object]):
    sound = prebin(np.repeat([1.0, 2.0, 3.0], 60), NUMERIC, "x", special=(-1.0,), floor=50)
    assert sound is not None
    with pytest.raises(DataError) as caught:
        PreBinning.from_json({**sound.to_json(), **change})
    assert caught.value.code == "PREBINS_INVALID"


def test_a_zero_inflated_count_has_zero_in_a_bin_of_its_own():
    rng = np.random.default_rng(1)
    values = np.concatenate([np.zeros(6000), rng.exponential(1000, 4000), -rng.exponential(10, 500)])
    binning = prebin(values, NUMERIC, "PAY_AMT1", floor=53)
    assert binning is not None
    code = binning.codes(np.array([0.0]))[0]
    assert binning.rows[code] == 6000
    assert binning.bins >= 15


def test_few_distinct_values_are_a_bin_each():
    binning = prebin(np.repeat(np.arange(7.0), [60, 70, 800, 55, 90, 100, 50]), NUMERIC, "x", floor=50)
    assert binning is not None
    assert binning.rows == (60, 70, 800, 55, 90, 100, 50)
    assert binning.labels()[:2] == ("(-inf, 0]", "(0, 1]")


def test_continuous_values_are_cut_into_equal_parts():
    binning = prebin(np.random.default_rng(2).normal(size=20_000), NUMERIC, "x", floor=100)
    assert binning is not None
    assert binning.bins == 20
    assert max(binning.rows) - min(binning.rows) <= 2


def test_a_bin_below_the_floor_joins_its_smaller_neighbour():
    binning = prebin(np.repeat([1.0, 2.0, 3.0], [90, 10, 60]), NUMERIC, "x", floor=50)
    assert binning is not None
    assert binning.edges == (1.0,)
    assert binning.rows == (90, 70)


def test_missing_and_special_values_have_bins_of_their_own_or_join_the_largest():
    values = np.concatenate(
        [np.repeat([1.0, 2.0], [100, 300]), np.full(60, np.nan), np.full(70, -1.0), np.full(3, -2.0)]
    )
    binning = prebin(values, NUMERIC, "x", special=(-1, -2), floor=50)
    assert binning is not None
    assert binning.rows == (100, 303, 70, 60)
    assert (binning.ordered_bins, binning.special_bins, binning.missing_bin, binning.fallback) == (2, (2, 1), 3, 1)
    assert binning.labels() == ("(-inf, 1]", "(1, inf), -2", "-1", "missing")


def test_missing_unseen_in_training_scores_in_the_largest_bin():
    binning = prebin(np.repeat([1.0, 2.0], [100, 300]), NUMERIC, "x", floor=50)
    assert binning is not None
    assert binning.codes(np.array([np.nan])).tolist() == [1]
    assert binning.labels()[1] == "(1, inf), missing"


def test_few_ordinary_values_join_the_largest_of_the_special_bins():
    values = np.concatenate([np.full(300, np.nan), np.full(100, -1.0), np.arange(5.0)])
    binning = prebin(values, NUMERIC, "x", special=(-1.0,), floor=50)
    assert binning is not None
    assert (binning.ordered_bins, binning.rows, binning.fallback) == (0, (100, 305), 1)
    assert binning.codes(np.array([2.0, 99.0])).tolist() == [1, 1]
    assert binning.labels() == ("-1", "missing, other")


def test_rare_categories_share_a_bin_and_unseen_ones_go_to_the_largest():
    values = np.array(["A"] * 200 + ["B"] * 100 + [f"r{i:02d}" for i in range(60)] + [None] * 10, dtype=object)
    binning = prebin(values, CATEGORICAL, "x", floor=50)
    assert binning is not None
    assert binning.rows == (210, 100, 60)
    assert binning.labels()[0] == "{A}, missing, other"
    assert binning.codes(np.array(["r07", "never", None, float("nan"), "B"], dtype=object)).tolist() == [2, 0, 0, 0, 1]


def test_a_column_with_one_bin_only_is_unusable():
    assert prebin(np.full(500, 3.0), NUMERIC, "x", floor=50) is None
    assert prebin(np.full(500, np.nan), NUMERIC, "x", floor=50) is None
    assert prebin(np.array([None] * 500, dtype=object), CATEGORICAL, "x", floor=50) is None
    assert prebin(np.arange(60.0), NUMERIC, "x", floor=50) is None


def test_infinite_numbers_and_categories_that_are_not_text_are_refused():
    with pytest.raises(DataError, match="VALUE_NOT_FINITE"):
        prebin(np.array([1.0, np.inf]), NUMERIC, "x", floor=1)
    with pytest.raises(DataError, match="CATEGORY_INVALID"):
        prebin(np.array(["A", 3], dtype=object), CATEGORICAL, "x", floor=1)


def test_labels_round_to_significant_digits_and_merge_into_one_interval():
    binning = PreBinning("x", NUMERIC, (1234.5678, 20000.0), 3, (), (-1.0,), (3,), 4, 0, (90, 60, 60, 60, 60))
    assert binning.labels(3)[:2] == ("(-inf, 1230]", "(1230, 20000]")
    assert binning.merged_labels((0, 0, 1, 1, 2)) == ("(-inf, 20000]", "(20000, inf), -1", "missing")
    assert binning.merged_labels((0, 1, 0, 0, 0), 2) == ("(-inf, 1200], (20000, inf), -1, missing", "(1200, 20000]")
    for wrong in ((0, 0, 1), (0, 0, 2, 2, 2)):
        with pytest.raises(DataError, match="MERGE_MAP_INVALID"):
            binning.merged_labels(wrong)


def test_the_floor_is_fifty_rows_or_half_a_percent_rounded_up():
    assert [floor_rows(n) for n in (1000, 10_000, 10_001, 20_800, 21_000)] == [50, 50, 51, 104, 105]


def test_pre_binning_150_000_rows_takes_milliseconds():
    values = np.random.default_rng(3).normal(size=150_000)
    began = time.perf_counter()
    prebin(values, NUMERIC, "x", floor=750)
    assert time.perf_counter() - began < 0.5


def sets_of(codes: np.ndarray, binning: PreBinning) -> list[frozenset[int]]:
    """Row sets of single bins, cumulative cuts and their complements, the slow way."""
    everything = frozenset(range(len(codes)))
    sets = [frozenset(np.flatnonzero(codes == index).tolist()) for index in range(binning.bins)]
    sets += [frozenset(np.flatnonzero(codes < cut).tolist()) for cut in range(1, binning.ordered_bins + 1)]
    proper = [rows for rows in sets if rows and rows != everything]
    return proper + [everything - rows for rows in proper]


def closest_by_sets(codes: np.ndarray, binnings: list[PreBinning], limit: int) -> dict[tuple[int, int], int]:
    closest = {}
    for first in range(len(binnings)):
        for second in range(first + 1, len(binnings)):
            distances = [
                len(a ^ b)
                for a in sets_of(codes[:, first], binnings[first])
                for b in sets_of(codes[:, second], binnings[second])
            ]
            least = min((distance for distance in distances if distance), default=limit + 1)
            if least <= limit:
                closest[first, second] = least
    return closest


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(60, 200), st.integers(1, 24))
def test_indistinct_pairs_are_those_found_by_comparing_every_two_sets(seed: int, n: int, limit: int):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 6, n).astype(float)
    table = []
    for _ in range(4):
        column = base.copy() if rng.random() < 0.6 else rng.normal(size=n).round(1)
        column[rng.choice(n, rng.integers(0, 12), replace=False)] = rng.choice([np.nan, -1.0, 2.0])
        table.append(column)
    binnings = [prebin(column, NUMERIC, "x", special=(-1.0,), max_prebins=6, floor=4) for column in table]
    kept = [(column, binning) for column, binning in zip(table, binnings, strict=True) if binning is not None]
    codes = np.stack([binning.codes(column) for column, binning in kept], axis=1)
    found = {(pair.first, pair.second): pair.rows for pair in indistinct_pairs(codes, [b for _, b in kept], limit)}
    assert found == closest_by_sets(codes, [b for _, b in kept], limit)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_after_dropping_no_two_features_are_in_conflict_and_none_was_dropped_without_one(seed: int):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=400)
    table = [base + rng.normal(scale=10.0 ** rng.uniform(-4, 0), size=400) for _ in range(6)]
    binnings = [prebin(column, NUMERIC, f"f{i}", floor=50) for i, column in enumerate(table)]
    sound = [binning for binning in binnings if binning is not None]
    codes = np.stack([binning.codes(column) for column, binning in zip(table, sound, strict=True)], axis=1)
    kept, reasons = drop_indistinct(codes, sound)
    assert sorted([*kept, *reasons]) == list(range(6))
    assert indistinct_pairs(codes[:, list(kept)], [sound[index] for index in kept]) == ()
    in_conflict = {index for pair in indistinct_pairs(codes, sound) for index in (pair.first, pair.second)}
    assert set(reasons) <= in_conflict


def test_of_three_features_the_one_in_conflict_with_both_goes():
    n = 600
    left, right = np.repeat([0.0, 1.0], n // 2), np.repeat([0.0, 1.0], n // 2)
    left[280:300] = 1.0  # 20 rows from the middle one
    right[300:320] = 0.0  # 20 rows from the middle one, 40 from the left one
    middle = np.repeat([0.0, 1.0], n // 2)
    binnings = [prebin(column, NUMERIC, name, floor=50) for column, name in ((left, "l"), (middle, "m"), (right, "r"))]
    sound = [binning for binning in binnings if binning is not None]
    codes = np.stack([b.codes(c) for b, c in zip(sound, (left, middle, right), strict=True)], axis=1)
    kept, reasons = drop_indistinct(codes, sound)
    assert kept == (0, 2)
    assert reasons == {1: "a bin or cut of it differs from one of 'l' in 20 rows"}


def test_identical_features_and_those_25_rows_apart_are_both_sent():
    base = np.repeat([0.0, 1.0], 300)
    shifted = base.copy()
    shifted[275:300] = 1.0
    binnings = [prebin(column, NUMERIC, "x", floor=50) for column in (base, base, shifted)]
    sound = [binning for binning in binnings if binning is not None]
    codes = np.stack([b.codes(c) for b, c in zip(sound, (base, base, shifted), strict=True)], axis=1)
    assert drop_indistinct(codes, sound) == ((0, 1, 2), {})


def conflicts(*table: np.ndarray) -> list[tuple[int, int, int]]:
    binnings = [prebin(column, NUMERIC, "x", special=(-1.0,), floor=50) for column in table]
    sound = [binning for binning in binnings if binning is not None]
    codes = np.stack([b.codes(column) for b, column in zip(sound, table, strict=True)], axis=1)
    return [(pair.first, pair.second, pair.rows) for pair in indistinct_pairs(codes, sound)]


def test_a_special_bin_is_compared_with_all_above_a_cut():
    rng = np.random.default_rng(4)
    gap = np.concatenate([rng.permutation(np.repeat([1.0, 2.0, np.nan], 200)), np.full(200, -1.0)])
    steps = np.concatenate([rng.permutation(np.repeat([1.0, 2.0, 3.0], 200)), np.repeat([4.0, 5.0], 100)])
    steps[:7] = 5.0
    assert conflicts(gap, steps) == [(0, 1, 7)]


def test_a_missing_bin_is_compared_with_all_that_have_no_ordinary_value():
    rng = np.random.default_rng(4)
    gap = np.concatenate([rng.permutation(np.repeat([1.0, 2.0, 3.0], 200)), np.full(200, np.nan)])
    codes = np.concatenate([rng.permutation(np.repeat([1.0, 2.0, 3.0], 200)), np.repeat([np.nan, -1.0], 100)])
    codes[:5] = -1.0
    assert conflicts(gap, codes) == [(0, 1, 5)]


def test_codes_of_other_pre_bins_are_refused():
    binning = prebin(np.repeat([0.0, 1.0], 60), NUMERIC, "x", floor=50)
    assert binning is not None
    for codes in (np.zeros((10, 3), dtype=np.int64), np.full((10, 2), 2), np.full((10, 2), -1)):
        with pytest.raises(DataError, match="PREBINS_INVALID"):
            indistinct_pairs(codes, [binning, binning])
