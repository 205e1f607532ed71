import math
from fractions import Fraction

import gmpy2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optbinning import OptimalBinning

from protocols.binning.weight_of_evidence import (
    WOE_LIMIT,
    EmptyBinError,
    feature_values,
    implied_bads,
    information_value,
    iv_units,
    unresolved_bins,
    weight_of_evidence,
    woe_units,
)


@st.composite
def counts(draw: st.DrawFn, largest: int = 3000) -> tuple[list[int], list[int]]:
    """Rows and bads of 2 to 8 bins, each with a good and a bad at least."""
    pairs = draw(st.lists(st.tuples(st.integers(1, largest), st.integers(1, largest)), min_size=2, max_size=8))
    return [good + bad for good, bad in pairs], [bad for _, bad in pairs]


def test_a_bin_safer_than_average_has_positive_woe():
    assert weight_of_evidence([90, 60], [10, 40])[0] > 0 > weight_of_evidence([90, 60], [10, 40])[1]


def test_woe_and_iv_equal_those_of_optbinning_in_sign_and_size():
    rng = np.random.default_rng(7)
    x = rng.normal(size=2000)
    y = (rng.random(2000) < 1 / (1 + np.exp(2 - x))).astype(int)
    table = OptimalBinning(dtype="numerical", user_splits=[-1, 0, 0.8]).fit(x, y).binning_table.build()
    rows = table["Count"].iloc[:-3].astype(int).to_numpy()
    bads = table["Event"].iloc[:-3].astype(int).to_numpy()
    assert len(rows) >= 3
    np.testing.assert_allclose(weight_of_evidence(rows - bads, bads), table["WoE"].iloc[:-3].astype(float), atol=1e-12)
    assert information_value(rows, bads) == pytest.approx(float(table["IV"].iloc[-1]), abs=1e-12)


@pytest.mark.parametrize(("good", "bad"), [([5, 0], [5, 5]), ([5, 5], [0, 5]), ([], [])])
def test_a_bin_without_goods_or_without_bads_is_refused_not_smoothed(good: list[int], bad: list[int]):
    rows = [g + b for g, b in zip(good, bad, strict=True)]
    for call in (weight_of_evidence, lambda g, b: woe_units(rows, b), lambda g, b: information_value(rows, b)):
        with pytest.raises(EmptyBinError) as caught:
            call(good, bad)
        assert caught.value.code == "EMPTY_BIN"


@given(counts(largest=10**6))
def test_units_are_the_nearest_integer_by_correctly_rounded_arithmetic(table: tuple[list[int], list[int]]):
    rows, bads = table
    n, total = sum(rows), sum(bads)
    with gmpy2.context(precision=200):
        exact = [
            int(gmpy2.rint(10_000 * gmpy2.log(gmpy2.mpq((r - b) * total, b * (n - total)))))
            for r, b in zip(rows, bads, strict=True)
        ]
    assert woe_units(rows, bads).tolist() == [max(-WOE_LIMIT, min(WOE_LIMIT, w)) for w in exact]


def test_units_are_clipped_on_both_sides():
    assert woe_units([10**6 + 1, 10**6 + 1], [1, 10**6]).tolist() == [WOE_LIMIT, -WOE_LIMIT]


@given(st.lists(st.integers(-WOE_LIMIT, WOE_LIMIT), min_size=1))
def test_feature_values_are_the_floor_of_the_exact_fraction(units: list[int]):
    exact = [math.floor(Fraction(65536 * w + 5000, 10000)) for w in units]
    assert feature_values(units).tolist() == exact
    assert max(abs(x) for x in exact) <= 8 << 16


@given(counts())
def test_iv_is_not_negative_and_its_units_are_within_half_a_thousandth(table: tuple[list[int], list[int]]):
    iv = information_value(*table)
    assert iv >= 0
    assert abs(iv_units(*table) - 1000 * iv) <= 0.5


def test_iv_of_a_single_bin_is_zero():
    assert information_value([100], [10]) == 0


@given(counts())
def test_honest_woe_always_implies_a_set_of_counts_that_holds_the_true_ones(table: tuple[list[int], list[int]]):
    rows, bads = table
    intervals = implied_bads(rows, woe_units(rows, bads).tolist(), sum(bads))
    assert intervals is not None
    assert all(low <= bad <= high for (low, high), bad in zip(intervals, bads, strict=True))


@given(counts(), st.data())
def test_every_implied_interval_is_exactly_the_counts_of_that_woe(
    table: tuple[list[int], list[int]], data: st.DataObject
):
    rows, bads = table
    n, total = sum(rows), sum(bads)
    units = woe_units(rows, bads).tolist()
    intervals = implied_bads(rows, units, total)
    assert intervals is not None
    index = data.draw(st.integers(0, len(rows) - 1))
    for bad in {intervals[index][0], intervals[index][1]}:
        ratio = (rows[index] - bad) * total / (bad * (n - total))
        assert max(-WOE_LIMIT, min(WOE_LIMIT, round(10_000 * math.log(ratio)))) == units[index]


@given(counts(largest=1000), st.data())
def test_one_bin_shifted_by_one_bad_is_inconsistent_where_counts_are_resolved(
    table: tuple[list[int], list[int]], data: st.DataObject
):
    rows, bads = table
    total = sum(bads)
    index = data.draw(st.integers(0, len(rows) - 1))
    honest = woe_units(rows, bads).tolist()
    assume(bads[index] + 1 < rows[index])
    assume(all(low == high for low, high in counts_by_trial(rows, honest, total)))
    forged = honest.copy()
    ratio = (rows[index] - bads[index] - 1) * total / ((bads[index] + 1) * (sum(rows) - total))
    forged[index] = round(10_000 * math.log(ratio))
    assert implied_bads(rows, forged, total) is None


def counts_by_trial(rows: list[int], units: list[int], total: int) -> list[tuple[int, int]]:
    """Counts of each bin that give its WOE, by trying all."""
    n = sum(rows)
    found = []
    for count, unit in zip(rows, units, strict=True):
        near = range(1, count) if count < 10_000 else range(count // 4, 2 * count // 5)
        able = [b for b in near if round(10_000 * math.log((count - b) * total / (b * (n - total)))) == unit]
        found.append((able[0], able[-1]))
    return found


def test_woe_between_two_whole_counts_is_inconsistent():
    rows, bads = [100, 200, 300], [10, 30, 60]
    units = woe_units(rows, bads).tolist()
    assert implied_bads(rows, units, 100) == [(10, 10), (30, 30), (60, 60)]
    assert implied_bads(rows, [units[0] + 7, *units[1:]], 100) is None


def test_honest_woe_with_another_total_is_inconsistent():
    rows, bads = [100, 200, 300], [10, 30, 60]
    assert implied_bads(rows, woe_units(rows, bads).tolist(), 101) is None


def test_large_bins_are_reported_as_unresolved():
    rows, bads = [10**6, 10**6], [300_000, 310_000]
    intervals = implied_bads(rows, woe_units(rows, bads).tolist(), 610_000)
    assert intervals is not None
    assert unresolved_bins(intervals) == 2


def test_a_large_bin_is_resolved_by_the_total_when_it_is_the_only_one():
    rows, bads = [10**6, 100], [300_000, 30]
    assert implied_bads(rows, woe_units(rows, bads).tolist(), 300_030) == [(300_000, 300_000), (30, 30)]


def test_unresolved_intervals_hold_all_counts_of_that_woe_and_total_and_no_other():
    rows, bads = [10**6] * 3, [300_000, 310_000, 320_000]
    units = woe_units(rows, bads).tolist()
    by_trial = counts_by_trial(rows, units, sum(bads))
    assert min(high - low for low, high in by_trial) > 10
    lows, highs = [low for low, _ in by_trial], [high for _, high in by_trial]
    assert implied_bads(rows, units, sum(bads)) == [
        (max(low, sum(bads) - sum(highs) + high), min(high, sum(bads) - sum(lows) + low)) for low, high in by_trial
    ]


def test_a_clipped_woe_leaves_an_interval_that_runs_to_the_end():
    rows, bads = [10**6, 10**6], [2, 500_000]
    intervals = implied_bads(rows, woe_units(rows, bads).tolist(), 500_002)
    assert intervals is not None
    assert intervals[0][0] == 1


@pytest.mark.parametrize("total", [0, 600, 700])
def test_totals_that_no_label_has_are_inconsistent(total: int):
    assert implied_bads([100, 200, 300], [0, 0, 0], total) is None
