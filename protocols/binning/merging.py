"""Merging pre-bins into the bins of the scorecard, from counts alone (label owner).

Source: PROTOCOLS.md section 2, step 2.4; Kerber 1992, ChiMerge: discretization of numeric attributes (AAAI-92), with a
cap on bins, least goods and bads of a bin, and unordered bins; `partition` for the optimal and the even merge. Plain
arithmetic in a fixed order: the same counts give the same map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from protocols.binning.partition import Segment, best_partition, information
from protocols.binning.prebins import IntArray
from protocols.binning.rules import Method, Policy, Trend
from protocols.errors import DataError

CHI_SQUARE_5_PERCENT = 3.84  # one degree of freedom


@dataclass
class _Bin:
    """Pre-bins merged so far, with their rows and bads."""

    members: list[int]
    rows: int
    bads: int
    ordered: bool
    policy: Policy = Policy.OWN

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
    method: Method = Method.CHIMERGE,
    trend: Trend = Trend.NONE,
    policies: Sequence[int] = (),
    threshold: float = CHI_SQUARE_5_PERCENT,
    max_bins: int = 8,
    min_goods: int = 5,
    min_bads: int = 5,
    minimum_rows: int = 0,
) -> tuple[int, ...]:
    """Merged bin of each pre-bin, dense from 0 in the order of the lowest pre-bin of each merged bin.

    Ordered pre-bins merge with neighbours only, and so do categories (no ordered pre-bin) once they are sorted by bad
    rate (ties: lower index):
    - chimerge: while a pair of neighbours has a chi-square below `threshold`, or there are too many, the pair of lowest
      chi-square merges; then, while one fails the minimums, the pair of lowest chi-square with a failing bin (ties: the
      lower pair).
    - optimal: the partition of most information value under `trend`, the minimums and `max_bins` (`best_partition`).
    - quantile: the partition of most even sizes into at most `max_bins`, whatever the labels (categories: the two
      smallest join while there are too many); then bins that fail the minimums merge as in chimerge.
    - splits: only bins that fail the minimums merge, as in chimerge, and `max_bins` does not count.
    An unordered pre-bin (special, missing) stays a bin if it meets the minimums and its policy is its own bin. Else it
    joins the bin of nearest WOE, which may be another unordered one, or of lowest WOE. Under a trend, what joins counts
    with the largest pre-bin of the bin it joins, and the partition is sought again: the trend holds in the end.
    Categories have no trend.

    The result has every bin above the minimums, or is one single bin: a feature that says nothing.

    Args: rows, bads: counts per pre-bin, shape (n_bins,); every row count positive. ordered_bins: the first so many are
        ordered. policies: a `Policy` for each of the others, or none. minimum_rows: least rows of a merged bin.
    Raises: DataError: counts that are none (bads above rows, empty bins, lengths that differ).
    """
    counts = [(int(n), int(k)) for n, k in zip(rows, bads, strict=False)]
    sound = len(rows) == len(bads) >= 1 and 0 <= ordered_bins <= len(counts) and max_bins >= 1
    sound &= len(policies) in (0, len(counts) - ordered_bins)
    if not sound or any(n <= 0 or not 0 <= k <= n for n, k in counts):
        raise DataError("COUNTS_INVALID", "counts of rows and bads per bin do not fit together")
    minimums = _Minimums(min_goods, min_bads, minimum_rows)
    most = len(counts) if method is Method.SPLITS else max_bins
    own = [Policy.OWN] * ordered_bins + [Policy(policy) for policy in policies or [0] * (len(counts) - ordered_bins)]
    parts = [_Bin([index], n, k, index < ordered_bins, own[index]) for index, (n, k) in enumerate(counts)]
    categories = ordered_bins == 0
    line = [part for part in parts if part.ordered or (categories and part.policy is Policy.OWN)]
    loose = [part for part in parts if part not in line]
    if not line:  # nothing but special values that are to join each other
        line, loose = parts, []
    if categories:
        line.sort(key=lambda part: (part.bads / part.rows, part.first))
        trend = Trend.NONE
    standing = sum(part.policy is Policy.OWN and minimums.met_by(part) for part in loose)
    room = max(1, most - standing)
    totals = sum(n for n, _ in counts), sum(k for _, k in counts)
    if method is Method.OPTIMAL:
        line, loose = _optimal(line, loose, trend, room, most, minimums, totals)
    elif method is Method.QUANTILE:
        line = _even(line, room, minimums, categories)
        _chimerge(line, 0.0, len(line), minimums)
    else:
        _chimerge(line, threshold if method is Method.CHIMERGE else 0.0, room, minimums)
    parts = line + loose
    _follow_policies(parts, loose)
    _join_nearest(parts, most, minimums)
    merge_map = [0] * len(counts)
    for merged, part in enumerate(sorted(parts, key=lambda part: part.first)):
        for member in part.members:
            merge_map[member] = merged
    return tuple(merge_map)


def _optimal(
    line: list[_Bin],
    loose: list[_Bin],
    trend: Trend,
    room: int,
    most: int,
    minimums: _Minimums,
    totals: tuple[int, int],
) -> tuple[list[_Bin], list[_Bin]]:
    """The best partition of `line`, and what of `loose` stays apart: with a trend, whatever joins is in `line`."""
    segments = _best(line, trend, room, minimums, totals)
    if segments is None or not loose or trend is Trend.NONE:
        return _joined(line, segments or [(0, len(line))]), loose
    merged = _joined(line, segments)
    staying = sorted((part for part in loose if part.policy is Policy.OWN and minimums.met_by(part)), key=_size)
    staying = staying[max(0, len(staying) - max(most - 1, 0)) :]
    homes = {id(part): _home(part, [*merged, *staying]) for part in loose if part not in staying}
    for part in [part for part in loose if part not in staying]:
        home = homes[id(part)]
        if not home.ordered:
            home.absorb(part)
            continue
        inside = [pre for pre in line if pre.first in home.members]
        max(inside, key=lambda pre: (pre.rows, -pre.first)).absorb(part)
    again = _best(line, trend, room, minimums, totals)
    return _joined(line, again or [(0, len(line))]), staying


def _best(
    line: Sequence[_Bin], trend: Trend, most: int, minimums: _Minimums, totals: tuple[int, int]
) -> list[Segment] | None:
    return best_partition(
        [part.rows for part in line],
        [part.bads for part in line],
        lambda n, k: information(n, k, *totals),
        lambda n, k: 0 < k < n and minimums.met_by(_Bin([], n, k, True)),
        most=most,
        trend=trend,
    )


def _even(line: list[_Bin], most: int, minimums: _Minimums, categories: bool) -> list[_Bin]:
    """Bins of sizes as even as can be, from the row counts alone."""
    if categories:
        parts = list(line)
        while len(parts) > 1 and (len(parts) > most or min(part.rows for part in parts) < minimums.rows):
            small, next_small = sorted(parts, key=_size)[:2]
            next_small.absorb(small)
            parts.remove(small)
        return sorted(parts, key=lambda part: (part.bads / part.rows, part.first))
    segments = best_partition(
        [part.rows for part in line],
        [part.bads for part in line],
        lambda n, k: -float(n * n),
        lambda n, k: n >= minimums.rows,
        most=most,
    )
    return _joined(line, segments or [(0, len(line))])


def _joined(line: Sequence[_Bin], segments: Sequence[Segment]) -> list[_Bin]:
    """New bins, one a segment."""
    merged = []
    for first, stop in segments:
        part = _Bin([], 0, 0, False)
        for item in line[first:stop]:
            part.absorb(item)
        merged.append(part)
    return merged


def _follow_policies(parts: list[_Bin], loose: Sequence[_Bin]) -> None:
    """Let those of `loose` that ask for it join the bin of nearest, or of lowest, WOE as it was before any of them."""
    leaving = [part for part in loose if part.policy is not Policy.OWN]
    homes = [part for part in parts if part not in leaving]
    for part, home in [(part, _home(part, homes)) for part in leaving] if homes else []:
        parts.remove(part)
        home.absorb(part)


def _home(part: _Bin, homes: Sequence[_Bin]) -> _Bin:
    """Where a bin that leaves goes; by its policy, and nearest where it would stay but cannot."""
    if part.policy is Policy.RISKIEST:
        return min(homes, key=lambda home: (_log_odds(home), home.first))
    return min(homes, key=lambda home: (abs(_log_odds(home) - _log_odds(part)), home.first))


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
        leaving = min(failing or [part for part in parts if not part.ordered], key=_size)
        parts.remove(leaving)
        _home(leaving, parts).absorb(leaving)


def _size(part: _Bin) -> tuple[int, int]:
    """Sort key, smallest first."""
    return part.rows, part.first


def _chi(left: _Bin, right: _Bin) -> float:
    return chi_square(left.rows, left.bads, right.rows, right.bads)


def _log_odds(part: _Bin) -> float:
    """Log odds of good; WOE but for a constant. The half added to both counts serves only to rank distances."""
    return math.log((part.rows - part.bads + 0.5) / (part.bads + 0.5))
