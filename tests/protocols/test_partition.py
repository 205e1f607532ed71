"""The best partition: against every partition there is, and against optbinning on real columns."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optbinning import OptimalBinning

from protocols.binning.merging import merge
from protocols.binning.partition import best_partition, information
from protocols.binning.prebins import FeatureKind, floor_rows, prebin
from protocols.binning.rules import Method, Policy, Trend
from protocols.binning.weight_of_evidence import information_value

Counts = tuple[list[int], list[int]]


@st.composite
def counts(draw: st.DrawFn, most: int = 8) -> Counts:
    rows = draw(st.lists(st.integers(2, 300), min_size=1, max_size=most))
    return rows, [draw(st.integers(0, n)) for n in rows]


def follows(rates: list[float], trend: Trend) -> bool:
    rising, falling = (all(sign * (b - a) >= 0 for a, b in pairwise(rates)) for sign in (1, -1))
    if trend in (Trend.PEAK, Trend.VALLEY):
        shapes = (Trend.ASCENDING, Trend.DESCENDING) if trend is Trend.PEAK else (Trend.DESCENDING, Trend.ASCENDING)
        return any(
            follows(rates[:at], shapes[0]) and follows(rates[at - 1 :], shapes[1]) for at in range(1, len(rates) + 1)
        )
    return {Trend.NONE: True, Trend.ASCENDING: rising, Trend.DESCENDING: falling, Trend.AUTO: rising or falling}[trend]


def every_partition(size: int) -> list[list[tuple[int, int]]]:
    return [list(pairwise([0, *cuts, size])) for bins in range(size) for cuts in combinations(range(1, size), bins)]


@settings(max_examples=150)
@given(counts(), st.sampled_from(list(Trend)), st.integers(1, 6), st.sampled_from([0, 60]))
def test_no_partition_under_the_same_rules_has_more_information(
    feature: Counts, trend: Trend, most: int, least_rows: int
) -> None:
    rows, bads = feature
    totals = sum(rows), sum(bads)

    def sound(n: int, k: int) -> bool:
        return k >= 5 and n - k >= 5 and n >= least_rows

    allowed = {}
    for way in every_partition(len(rows)):
        parts = [(sum(rows[a:b]), sum(bads[a:b])) for a, b in way]
        if len(way) <= most and all(sound(*part) for part in parts) and follows([k / n for n, k in parts], trend):
            allowed[tuple(way)] = sum(information(*part, *totals) for part in parts)
    found = best_partition(rows, bads, lambda n, k: information(n, k, *totals), sound, most=most, trend=trend)
    if found is None:
        assert not allowed
    else:
        assert allowed[tuple(found)] == pytest.approx(max(allowed.values()), abs=1e-9)


@given(
    counts(20), st.sampled_from([Trend.ASCENDING, Trend.DESCENDING, Trend.PEAK, Trend.VALLEY, Trend.AUTO]), st.data()
)
def test_the_trend_holds_in_the_end_whatever_joined(feature: Counts, trend: Trend, data: st.DataObject) -> None:
    rows, bads = feature
    ordered = data.draw(st.integers(1, len(rows)))
    policies = [data.draw(st.sampled_from(list(Policy))) for _ in rows[ordered:]]
    most = data.draw(st.integers(2, 8))
    merge_map = merge(rows, bads, ordered, method=Method.OPTIMAL, trend=trend, policies=policies, max_bins=most)
    n, k = (np.bincount(merge_map, weights=c).astype(int).tolist() for c in (rows, bads))
    assert len(n) <= most
    if len(n) > 1:
        assert min(k) >= 5
        assert min(np.subtract(n, k)) >= 5
        line = list(dict.fromkeys(merge_map[:ordered]))
        assert line == sorted(line)
        assert follows([k[b] / n[b] for b in line], trend)


# -- methods of `merge` ------------------------------------------------------------------------------------------------


def test_quantile_bins_are_even_and_do_not_look_at_the_labels() -> None:
    rows = [100, 300, 100, 100, 200, 100, 300]
    first = merge(rows, [20, 90, 30, 10, 50, 40, 60], 7, method=Method.QUANTILE, max_bins=3)
    again = merge(rows, [90, 10, 10, 90, 20, 9, 100], 7, method=Method.QUANTILE, max_bins=3)
    assert first == again == (0, 0, 1, 1, 1, 2, 2)


def test_quantile_categories_join_smallest_first() -> None:
    assert merge([400, 90, 80, 300], [40, 30, 30, 90], 0, method=Method.QUANTILE, max_bins=3) == (0, 1, 1, 2)


def test_quantile_bins_without_enough_bads_merge_all_the_same() -> None:
    assert merge([200] * 4, [2, 3, 60, 70], 4, method=Method.QUANTILE, max_bins=4) == (0, 0, 1, 2)


def test_own_splits_merge_only_where_a_minimum_demands_it() -> None:
    rows, bads = [100] * 10, [20, 20, 20, 2, 20, 21, 20, 20, 20, 20]
    merge_map = merge(rows, bads, 10, method=Method.SPLITS, max_bins=3)
    assert max(merge_map) == 8
    assert merge_map[3] in (merge_map[2], merge_map[4])


def test_categories_take_the_best_partition_of_their_bad_rates() -> None:
    assert merge([200] * 4, [80, 20, 82, 21], 0, method=Method.OPTIMAL, max_bins=2) == (0, 1, 0, 1)


@pytest.mark.parametrize("method", list(Method))
def test_a_policy_sends_missing_to_the_riskiest_or_the_nearest_bin_though_it_could_stand_alone(method: Method) -> None:
    rows, bads = [1000, 1000, 1000, 400], [50, 200, 500, 60]
    end = [merge(rows, bads, 3, method=method, policies=[policy]) for policy in Policy]
    assert end == [(0, 1, 2, 3), (0, 1, 2, 1), (0, 1, 2, 2)]


@pytest.mark.parametrize("method", list(Method))
def test_a_bin_without_bads_never_stands_alone(method: Method) -> None:
    merge_map = merge([300, 300, 300, 90], [0, 60, 150, 0], 3, method=method)
    assert merge_map == (0, 0, 1, 0)


def test_two_values_that_ask_for_the_riskiest_bin_do_not_join_each_other() -> None:
    assert merge([500, 500, 60, 60], [20, 200, 57, 57], 2, policies=[Policy.RISKIEST] * 2) == (0, 1, 1, 1)


# -- optbinning on the same pre-bins -----------------------------------------------------------------------------------

_TRENDS = {
    Trend.NONE: None,
    Trend.ASCENDING: "ascending",
    Trend.DESCENDING: "descending",
    Trend.AUTO: "auto_asc_desc",
    Trend.PEAK: "peak",
    Trend.VALLEY: "valley",
}


@pytest.mark.parametrize("trend", list(Trend))
def test_the_information_is_no_less_than_optbinnings_on_the_same_prebins(data_folder: Path, trend: Trend) -> None:
    table = pd.read_csv(data_folder / "uci_default" / "bank.csv")
    label = table["y"].to_numpy()
    compared = 0
    for column in table.columns[2:8]:
        values = table[column].to_numpy(dtype=np.float64)
        binning = prebin(values, FeatureKind.NUMERIC, column, floor=floor_rows(len(values)))
        if binning is None or binning.ordered_bins < 4:
            continue
        codes = binning.codes(values)
        rows, bads = np.bincount(codes), np.bincount(codes, weights=label).astype(int)
        least = round(0.05 * len(values))
        merge_map = merge(rows, bads, len(rows), method=Method.OPTIMAL, trend=trend, max_bins=5, minimum_rows=least)
        ours = information_value(np.bincount(merge_map, weights=rows), np.bincount(merge_map, weights=bads))
        peer = OptimalBinning(
            solver="cp",
            monotonic_trend=_TRENDS[trend],
            user_splits=[float(code) + 0.5 for code in range(len(rows) - 1)],
            max_n_bins=5,
            min_bin_size=least / len(values),
            min_bin_n_event=5,
            min_bin_n_nonevent=5,
        ).fit(codes.astype(float), label)
        if peer.status not in ("OPTIMAL", "FEASIBLE"):
            continue
        table_of_peer = peer.binning_table.build()
        theirs = float(table_of_peer.loc["Totals", "IV"])
        assert len(peer.splits) <= 4
        assert ours >= theirs - 1e-9, column
        compared += 1
    assert compared >= 3
