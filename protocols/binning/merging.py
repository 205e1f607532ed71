"""Merging pre-bins into the bins of the scorecard, from counts alone (label owner).

Source: PROTOCOLS.md section 2, step 2.4; Kerber 1992, ChiMerge: discretization of numeric attributes (AAAI-92).
Departures from the paper: a cap on bins, least goods and bads of a bin, unordered bins. Plain arithmetic in a fixed
order: the same counts give the same map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from protocols.binning.prebins import IntArray
from protocols.errors import DataError

CHI_SQUARE_5_PERCENT = 3.84  # one degree of freedom


@dataclass
class _Bin:
    """Pre-bins merged so far, with their rows and bads."""

    members: list[int]
    rows: int
    bads: int
    ordered: bool

    @property
    def first(self) -> int:
        return min(self.members)

    def absorb(self, other: _Bin) -> None:
        self.members += other.members
        self.rows += other.rows
        self.bads += other.bads
        self.ordered |= other.ordered


@dataclass(frozen=True)
class _Minimums:
    goods: int
    bads: int
    rows: int

    def met_by(self, part: _Bin) -> bool:
        return part.bads >= self.bads and part.rows - part.bads >= self.goods and part.rows >= self.rows


def chi_square(rows_a: int, bads_a: int, rows_b: int, bads_b: int) -> float:
    """Chi-square (one degree of freedom) of two bins against one common bad rate; 0 where a class is absent from both.

    >>> round(chi_square(100, 10, 60, 40), 2), chi_square(10, 0, 20, 0)
    (56.05, 0.0)
    """
    rows, bads = rows_a + rows_b, bads_a + bads_b
    spread = rows_a * rows_b * bads * (rows - bads)
    if spread == 0:
        return 0.0
    return rows * (rows_a * bads_b - rows_b * bads_a) ** 2 / spread


def merge(
    rows: IntArray | Sequence[int],
    bads: IntArray | Sequence[int],
    ordered_bins: int,
    *,
    threshold: float = CHI_SQUARE_5_PERCENT,
    max_bins: int = 8,
    min_goods: int = 5,
    min_bads: int = 5,
    minimum_rows: int = 0,
) -> tuple[int, ...]:
    """Merged bin of each pre-bin, dense from 0 in the order of the lowest pre-bin of each merged bin.

    Ordered pre-bins merge with neighbours only. While a pair of neighbours has a chi-square below `threshold`, or there
    are too many, the pair of lowest chi-square merges; then, while one fails the minimums, the pair of lowest
    chi-square with a failing bin (ties: the lower pair). An unordered pre-bin (special, missing) stays a bin if it
    meets the minimums; otherwise, smallest first, it joins the bin of nearest WOE, which may be another unordered one.
    Where no pre-bin is ordered (categories), they are sorted by bad rate (ties: lower index) and merged like ordered
    ones.

    The result has every bin above the minimums, or is one single bin: a feature that says nothing.

    Args: rows, bads: counts per pre-bin, shape (n_bins,); every row count positive. ordered_bins: the first so many are
        ordered. minimum_rows: least rows of a merged bin.
    Raises: DataError: counts that are none (bads above rows, empty bins, lengths that differ).
    """
    counts = [(int(n), int(k)) for n, k in zip(rows, bads, strict=False)]
    sound = len(rows) == len(bads) >= 1 and 0 <= ordered_bins <= len(counts) and max_bins >= 1
    if not sound or any(n <= 0 or not 0 <= k <= n for n, k in counts):
        raise DataError("COUNTS_INVALID", "counts of rows and bads per bin do not fit together")
    minimums = _Minimums(min_goods, min_bads, minimum_rows)
    parts = [_Bin([index], n, k, index < ordered_bins) for index, (n, k) in enumerate(counts)]
    if ordered_bins == 0:
        parts.sort(key=lambda part: (part.bads / part.rows, part.first))
        _chimerge(parts, threshold, max_bins, minimums)
    else:
        ordered, loose = parts[:ordered_bins], parts[ordered_bins:]
        standing = sum(minimums.met_by(part) for part in loose)
        _chimerge(ordered, threshold, max(1, max_bins - standing), minimums)
        parts = ordered + loose
        _join_nearest(parts, max_bins, minimums)
    merge_map = [0] * len(counts)
    for merged, part in enumerate(sorted(parts, key=lambda part: part.first)):
        for member in part.members:
            merge_map[member] = merged
    return tuple(merge_map)


def _chimerge(parts: list[_Bin], threshold: float, most: int, minimums: _Minimums) -> None:
    """Merge neighbours in place."""
    chi = [_chi(left, right) for left, right in pairwise(parts)]
    while chi:
        pairs: Sequence[int] = range(len(chi))
        if len(parts) <= most and min(chi) >= threshold:
            failing = [not minimums.met_by(part) for part in parts]
            pairs = [index for index in pairs if failing[index] or failing[index + 1]]
            if not pairs:
                return
        lowest = min(pairs, key=lambda index: (chi[index], index))
        parts[lowest].absorb(parts.pop(lowest + 1))
        del chi[lowest]
        if lowest > 0:
            chi[lowest - 1] = _chi(parts[lowest - 1], parts[lowest])
        if lowest < len(chi):
            chi[lowest] = _chi(parts[lowest], parts[lowest + 1])


def _join_nearest(parts: list[_Bin], most: int, minimums: _Minimums) -> None:
    """Let bins that fail the minimums, or are too many, join the bin of nearest WOE.

    Ordered bins fail here only when there is one of them left. Too many: the smallest unordered bin gives way.
    """
    while len(parts) > 1:
        failing = [part for part in parts if not minimums.met_by(part)]
        if not failing and len(parts) <= most:
            return
        leaving = min(failing or [part for part in parts if not part.ordered], key=lambda part: (part.rows, part.first))
        parts.remove(leaving)
        nearest = min(parts, key=lambda part: (abs(_log_odds(part) - _log_odds(leaving)), part.first))
        nearest.absorb(leaving)


def _chi(left: _Bin, right: _Bin) -> float:
    return chi_square(left.rows, left.bads, right.rows, right.bads)


def _log_odds(part: _Bin) -> float:
    """Log odds of good; WOE but for a constant. The half added to both counts serves only to rank distances."""
    return math.log((part.rows - part.bads + 0.5) / (part.bads + 0.5))
