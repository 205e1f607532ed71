"""Pre-bins of one party's own features: every row in exactly one bin, every bin above the floor.

Source: PROTOCOLS.md section 2, steps 2.2 (pre-bins, floor, indistinct sets); counts follow distinct values before they
follow quantiles, as zero-inflated counts need. Nothing here is sent: a party keeps its edges and categories; only the
number of rows of each bin travels, under an alias.

Bins of a feature are numbered: ordered numeric bins, groups of categories, special values, missing. A feature has one
`fallback` bin, its largest: groups below the floor, unseen categories, and a missing or special value that has no bin
of its own go there, in training and in scoring alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import DataError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
ObjectArray = NDArray[np.object_]

MAX_PREBINS = 20
INDISTINCT_ROWS = 24  # two sets of rows that differ in 1..24 rows would give those rows' labels away


class FeatureKind(Enum):
    """Whether values are ordered numbers or unordered names."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"


@dataclass(frozen=True)
class PreBinning:
    """The pre-bins of one feature: a total map from values to bins.

    feature: the party's own name of the column, never sent.
    edges: e_1 < ... < e_m, upper ends (inclusive) of all ordered bins but the last, which is open.
    ordered_bins: number of leading ordered bins, m + 1; 0 for a categorical feature, and for a numeric one of which
        only special values and missing have bins.
    categories: the names in each group of categories; group g is bin `ordered_bins + g`.
    special, special_bins: each declared special value and its bin. missing_bin: the bin of a missing value.
    fallback: the largest bin. rows: n_b in training, shape (n_bins,).
    """

    feature: str
    kind: FeatureKind
    edges: tuple[float, ...]
    ordered_bins: int
    categories: tuple[tuple[str, ...], ...]
    special: tuple[float | str, ...]
    special_bins: tuple[int, ...]
    missing_bin: int
    fallback: int
    rows: tuple[int, ...]

    def __post_init__(self) -> None:
        bins = range(len(self.rows))
        numeric = self.kind is FeatureKind.NUMERIC
        names = [name for group in self.categories for name in group]
        names += [value for value in self.special if isinstance(value, str)]
        sound = (
            len(self.edges) == max(self.ordered_bins - 1, 0)
            and all(math.isfinite(edge) for edge in self.edges)
            and all(low < high for low, high in pairwise(self.edges))
            and (not self.categories if numeric else self.ordered_bins == 0)
            and all(isinstance(value, float) is numeric for value in self.special)
            and len(set(self.special)) == len(self.special) == len(self.special_bins)
            and len(set(names)) == len(names)
            and self.ordered_bins + len(self.categories) <= len(self.rows)
            and all(index in bins for index in (*self.special_bins, self.missing_bin, self.fallback))
        )
        if not sound:
            raise DataError(
                "PREBINS_INVALID", "a stored set of pre-bins does not fit together", "restore the model file"
            )

    @property
    def bins(self) -> int:
        """Number of pre-bins."""
        return len(self.rows)

    def codes(self, values: FloatArray | ObjectArray) -> IntArray:
        """Bin of each row, shape (n,), each in 0..bins-1: every value has exactly one.

        Args: values: float64 with NaN for missing (numeric), or objects, str or None for missing (categorical).
        """
        if self.kind is FeatureKind.CATEGORICAL:
            return self._category_codes(values)
        numbers = np.asarray(values, dtype=np.float64)
        if self.ordered_bins:
            codes = np.searchsorted(np.array(self.edges, dtype=np.float64), numbers, side="left").astype(np.int64)
        else:
            codes = np.full(numbers.shape, self.fallback, dtype=np.int64)
        for value, index in zip(self.special, self.special_bins, strict=True):
            codes[numbers == value] = index
        codes[np.isnan(numbers)] = self.missing_bin
        return codes

    def _category_codes(self, values: FloatArray | ObjectArray) -> IntArray:
        bin_of: dict[object, int] = {name: index for index, group in enumerate(self.categories) for name in group}
        bin_of.update(zip(self.special, self.special_bins, strict=True))
        names = (self.missing_bin if _is_missing(name) else bin_of.get(name, self.fallback) for name in values)
        return np.fromiter(names, dtype=np.int64, count=len(values))

    def labels(self, digits: int | None = None) -> tuple[str, ...]:
        """What each bin holds, for a reader; numbers rounded to `digits` significant digits if given.

        >>> PreBinning("age", FeatureKind.NUMERIC, (30.0, 45.5), 3, (), (-1.0,), (3,), 1, 1, (60, 90, 70, 50)).labels()
        ('(-inf, 30]', '(30, 45.5], missing', '(45.5, inf)', '-1')
        """
        return self.merged_labels(range(self.bins), digits)

    def merged_labels(self, merge_map: Sequence[int], digits: int | None = None) -> tuple[str, ...]:
        """What each merged bin holds; `merge_map[b]` is the merged bin (dense from 0) of pre-bin b.

        Raises: DataError: the map is not one of these pre-bins.
        """
        if len(merge_map) != self.bins or set(merge_map) != set(range(max(merge_map, default=-1) + 1)):
            raise DataError("MERGE_MAP_INVALID", "a merge map does not belong to these pre-bins")
        return tuple(
            self._label({index for index in range(self.bins) if merge_map[index] == merged}, digits)
            for merged in range(max(merge_map) + 1)
        )

    def _label(self, members: set[int], digits: int | None) -> str:
        ends = ["-inf", *(_number(edge, digits) for edge in self.edges), "inf"]
        parts: list[str] = []
        for index in range(self.ordered_bins):
            if index in members and index - 1 not in members:
                last = index
                while last + 1 < self.ordered_bins and last + 1 in members:
                    last += 1
                parts.append(f"({ends[index]}, {ends[last + 1]}{']' if last + 1 < self.ordered_bins else ')'}")
        groups = [group for index, group in enumerate(self.categories, self.ordered_bins) if index in members]
        if groups:
            parts.append("{" + ", ".join(name for group in groups for name in group) + "}")
        parts += [
            value if isinstance(value, str) else _number(value, digits)
            for value, index in zip(self.special, self.special_bins, strict=True)
            if index in members
        ]
        if self.missing_bin in members:
            parts.append("missing")
        if self.fallback in members and self.ordered_bins == 0:
            parts.append("other")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for the party's own model file; `json` writes floats by repr, so the round trip is exact."""
        return {
            "feature": self.feature,
            "kind": self.kind.value,
            "edges": list(self.edges),
            "ordered_bins": self.ordered_bins,
            "categories": [list(group) for group in self.categories],
            "special": list(self.special),
            "special_bins": list(self.special_bins),
            "missing_bin": self.missing_bin,
            "fallback": self.fallback,
            "rows": list(self.rows),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> PreBinning:
        """Inverse of `to_json`.

        Raises: DataError: a field is missing or of the wrong type, or the fields do not fit together.
        """
        try:
            return cls(
                feature=str(stored["feature"]),
                kind=FeatureKind(stored["kind"]),
                edges=tuple(float(edge) for edge in stored["edges"]),
                ordered_bins=int(stored["ordered_bins"]),
                categories=tuple(tuple(str(name) for name in group) for group in stored["categories"]),
                special=tuple(value if isinstance(value, str) else float(value) for value in stored["special"]),
                special_bins=tuple(int(index) for index in stored["special_bins"]),
                missing_bin=int(stored["missing_bin"]),
                fallback=int(stored["fallback"]),
                rows=tuple(int(count) for count in stored["rows"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError("PREBINS_INVALID", "stored pre-bins cannot be read", "restore the model file") from error


def floor_rows(n: int, floor_rows: int = 50, floor_share: float = 0.005) -> int:
    """Least number of rows of a pre-bin: max(50, 0.5 % of n rounded up).

    >>> floor_rows(6000), floor_rows(21001)
    (50, 106)
    """
    return max(floor_rows, math.ceil(round(floor_share * n, 9)))


def prebin(
    values: FloatArray | ObjectArray,
    kind: FeatureKind,
    feature: str,
    *,
    special: Sequence[float | str] = (),
    max_prebins: int = MAX_PREBINS,
    floor: int,
    splits: Sequence[float] = (),
    groups: Sequence[Sequence[str]] = (),
    missing_with: float | str | None = None,
    special_with: float | str | None = None,
) -> PreBinning | None:
    """Pre-bins of one column of training rows; None if it has only one bin and so says nothing.

    Args: values: shape (n,), float64 with NaN missing, or objects (str, None missing). special: values with a bin of
        their own. max_prebins: most bins, special and missing among them. floor: least rows of each bin. splits:
        ascending upper ends that a numeric column is cut at, instead of quantiles; groups: of categories, each a bin,
        what no group names being one more. Of both, what is below the floor merges and nothing else. missing_with,
        special_with: a value whose bin missing, or every special value, shares instead of having one of its own.
    Raises: DataError: a number is infinite, or a category is not text.
    """
    special = tuple(dict.fromkeys(special))
    named = {index: special_with for index in range(len(special)) if special_with is not None}
    if missing_with is not None:
        named[len(special)] = missing_with
    if kind is FeatureKind.NUMERIC:
        return _prebin_numeric(
            np.asarray(values, dtype=np.float64), feature, special, max_prebins, floor, splits, named
        )
    return _prebin_categorical(values, feature, special, max_prebins, floor, groups, named)


def lost_splits(
    binning: PreBinning,
    values: FloatArray | ObjectArray,
    splits: Sequence[float] = (),
    groups: Sequence[Sequence[str]] = (),
) -> tuple[int, int]:
    """How many of a feature's own splits, or groups, its pre-bins do not have: no row on one side, below the floor.

    Args: binning: of `prebin` on these values, splits and groups.

    >>> values = np.repeat([1.0, 2.0, 3.0, 4.0], [80, 90, 10, 80])
    >>> lost_splits(prebin(values, FeatureKind.NUMERIC, "x", floor=50, splits=[1, 2, 3, 9]), values, [1, 2, 3, 9])
    (1, 1)
    """
    if binning.kind is FeatureKind.CATEGORICAL:
        present = Counter(values.tolist())
        lost_groups = [group for group in _without(groups, binning.special) if group not in binning.categories]
        empty = sum(not any(present[name] for name in group) for group in lost_groups)
        return empty, len(lost_groups) - empty
    numbers = np.asarray(values, dtype=np.float64)
    ordinary = numbers[~np.isnan(numbers) & ~np.isin(numbers, [v for v in binning.special if isinstance(v, float)])]
    rows = _rows_between(ordinary, splits)
    lost = [index for index, split in enumerate(splits) if split not in binning.edges]
    empty = sum(rows[index] == 0 or rows[index + 1] == 0 for index in lost)
    return empty, len(lost) - empty


def _without(groups: Sequence[Sequence[str]], special: Sequence[float | str]) -> list[tuple[str, ...]]:
    return [tuple(name for name in group if name not in special) for group in groups]


def _rows_between(values: FloatArray, splits: Sequence[float]) -> list[int]:
    """Rows of each bin that the splits make, shape (len(splits) + 1,)."""
    bins = np.searchsorted(np.asarray(splits, dtype=np.float64), values, side="left")
    return [int(count) for count in np.bincount(bins, minlength=len(splits) + 1)]


def _prebin_numeric(
    values: FloatArray,
    feature: str,
    special: tuple[float | str, ...],
    max_prebins: int,
    floor: int,
    splits: Sequence[float],
    named: Mapping[int, float | str],
) -> PreBinning | None:
    missing = np.isnan(values)
    if np.isinf(values).any():
        raise DataError("VALUE_NOT_FINITE", f"column '{feature}' has infinite values", "correct or empty those cells")
    codes_of_special = tuple(float(value) for value in special)
    ordinary = ~missing
    special_rows = []
    for value in codes_of_special:
        same = values == value
        special_rows.append(int(same.sum()))
        ordinary &= ~same
    loose = [*special_rows, int(missing.sum())]

    own = _own_bins(loose, named, floor, max_prebins - 1)
    if splits:
        ordered, edges = _rows_between(values[ordinary], splits), [float(split) for split in splits]
    else:
        distinct, counts = np.unique(values[ordinary], return_counts=True)
        cuts = _cuts(counts.astype(np.int64), max_prebins - len(own))
        ordered = np.add.reduceat(counts, [0, *cuts]).tolist() if len(counts) else []
        edges = [float(distinct[cut - 1]) for cut in cuts]
    _merge_small(ordered, edges, floor, max_prebins - len(own))
    stray = 0
    if len(ordered) == 1 and ordered[0] < floor:
        stray, ordered = ordered[0], []
    return _assemble(
        feature,
        FeatureKind.NUMERIC,
        edges=tuple(edges),
        ordered=ordered,
        groups=[],
        special=codes_of_special,
        loose=loose,
        own=own,
        stray=stray,
        named=named,
    )


def _prebin_categorical(
    values: FloatArray | ObjectArray,
    feature: str,
    special: tuple[float | str, ...],
    max_prebins: int,
    floor: int,
    wanted: Sequence[Sequence[str]],
    named: Mapping[int, float | str],
) -> PreBinning | None:
    counts: Counter[Any] = Counter(values.tolist())
    missing_rows = sum(counts.pop(name) for name in [name for name in counts if _is_missing(name)])
    if not all(isinstance(name, str) for name in (*counts, *special)):
        raise DataError("CATEGORY_INVALID", f"column '{feature}' has categories that are not text", "read it as text")
    loose = [*(counts.pop(name, 0) for name in special), missing_rows]
    own = _own_bins(loose, named, floor, max_prebins - 1)
    slots = max_prebins - len(own)
    sets: list[tuple[tuple[str, ...], int]] = [
        (names, sum(counts.pop(name, 0) for name in names)) for names in _without(wanted, special)
    ]
    by_frequency = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    single: list[tuple[tuple[str, ...], int]] = [((name,), count) for name, count in by_frequency]
    sets, rest = (sets, single) if wanted else (single, [])
    groups = [(names, count) for names, count in sets if count >= floor]
    rest += [(names, count) for names, count in sets if count < floor]
    if len(groups) > slots or (len(groups) == slots and sum(count for _, count in rest) >= floor):
        groups.sort(key=lambda item: -item[1])  # stable: frequencies are in this order already
        groups, rest = groups[: slots - 1], groups[slots - 1 :] + rest
    stray = sum(count for _, count in rest)
    if stray >= floor:
        groups.append((tuple(sorted(name for names, _ in rest for name in names)), stray))
        stray = 0
    return _assemble(
        feature,
        FeatureKind.CATEGORICAL,
        edges=(),
        ordered=[],
        groups=groups,
        special=special,
        loose=loose,
        own=own,
        stray=stray,
        named=named,
    )


def _own_bins(loose: Sequence[int], named: Mapping[int, float | str], floor: int, most: int) -> list[int]:
    """Which special values and missing (last) get a bin: those at or above the floor, the largest `most` of them.

    Those in `named` share the bin of another value.
    """
    able = [index for index, count in enumerate(loose) if count >= floor and index not in named]
    return sorted(sorted(able, key=lambda index: (-loose[index], index))[:most])


def _assemble(
    feature: str,
    kind: FeatureKind,
    *,
    edges: tuple[float, ...],
    ordered: list[int],
    groups: list[tuple[tuple[str, ...], int]],
    special: tuple[float | str, ...],
    loose: list[int],
    own: list[int],
    stray: int,
    named: Mapping[int, float | str],
) -> PreBinning | None:
    """Number the bins; what has no bin of its own (`stray` rows, small special values, missing) joins the largest.

    Those in `named` join the bin of the value they name: where that special value is, else by edges or groups.
    """
    rows = [*ordered, *(count for _, count in groups), *(loose[index] for index in own)]
    if len(rows) < 2:
        return None
    fallback = rows.index(max(rows))
    first = len(ordered) + len(groups)
    bins = [first + own.index(index) if index in own else fallback for index in range(len(loose))]
    placed: dict[float | str, int] = dict(zip(special, bins, strict=False))
    placed.update({name: len(ordered) + g for g, (names, _) in enumerate(groups) for name in names})
    for index, value in named.items():
        if value in placed:
            bins[index] = placed[value]
        elif ordered and not isinstance(value, str):
            bins[index] = int(np.searchsorted(np.array(edges), value, side="left"))
    rows[fallback] += stray
    for index, count in enumerate(loose):
        rows[bins[index]] += 0 if index in own else count
    return PreBinning(
        feature=feature,
        kind=kind,
        edges=edges,
        ordered_bins=len(ordered),
        categories=tuple(names for names, _ in groups),
        special=special,
        special_bins=tuple(bins[:-1]),
        missing_bin=bins[-1],
        fallback=fallback,
        rows=tuple(rows),
    )


def _cuts(counts: IntArray, slots: int) -> list[int]:
    """Where bins start (but the first) in the sorted distinct values with these counts; about `slots` bins.

    Few distinct values: each is a bin. Otherwise a value with at least 1/slots of the rows is a bin, and the values
    between such values are cut by quantiles, in proportion to their rows.
    """
    if len(counts) <= slots:
        return list(range(1, len(counts)))
    heavy = np.flatnonzero(counts * slots >= counts.sum())
    light_rows = int(counts.sum() - counts[heavy].sum())
    light_slots = max(slots - len(heavy), 1)
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    starts: set[int] = set()
    begin = 0
    for stop in (*heavy.tolist(), len(counts)):
        starts.update((begin, stop, stop + 1))
        segment = int(cumulative[stop] - cumulative[begin])
        if segment:
            parts = max(1, round(segment * light_slots / light_rows))
            targets = cumulative[begin] + np.arange(1, parts) * segment / parts
            starts.update(np.searchsorted(cumulative, targets, side="left").tolist())
        begin = stop + 1
    return sorted(start for start in starts if 0 < start < len(counts))


def _merge_small(rows: list[int], ends: list[float], floor: int, most: int) -> None:
    """Merge, in place, the smallest bin into its smaller neighbour until all reach the floor and at most `most` remain.

    Ties go to the lower bin. `ends[i]` is the end of bin i; the last bin has none.
    """
    while len(rows) > 1 and (min(rows) < floor or len(rows) > most):
        small = rows.index(min(rows))
        left = small > 0 and (small == len(rows) - 1 or rows[small - 1] <= rows[small + 1])
        first = small - 1 if left else small
        rows[first : first + 2] = [rows[first] + rows[first + 1]]
        del ends[first]


def _is_missing(name: object) -> bool:
    return name is None or (isinstance(name, float) and math.isnan(name))


def _number(value: float, digits: int | None) -> str:
    if digits is not None:
        value = float(f"{value:.{digits}g}")
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


@dataclass(frozen=True)
class IndistinctPair:
    """Two features (positions) with two sets of rows that differ in `rows` rows, the fewest of any such sets."""

    first: int
    second: int
    rows: int


def indistinct_pairs(
    codes: IntArray, binnings: Sequence[PreBinning], limit: int = INDISTINCT_ROWS
) -> tuple[IndistinctPair, ...]:
    """Pairs of features of which two sets of rows differ in 1 to `limit` rows.

    The sets of a feature are its single pre-bins, its cumulative cuts (the first j ordered bins) and the complements
    of both. The difference of the sums of two such sets would be the sum of those few rows' labels.

    Args: codes: bin of each row, shape (n, F), as `PreBinning.codes` gives them. binnings: F of them.
    Raises: DataError: codes and pre-bins do not belong together.
    Source: PROTOCOLS.md section 2.2. One contingency table C a pair; intersections are B_f C B_g^T, B membership.
    """
    n, features = codes.shape
    if features != len(binnings):
        raise DataError("PREBINS_INVALID", "codes and pre-bins of different features were compared")
    if features < 2 or n == 0:
        return ()
    width = max(binning.bins for binning in binnings)
    if codes.min() < 0 or any(codes[:, index].max() >= binning.bins for index, binning in enumerate(binnings)):
        raise DataError("PREBINS_INVALID", "a bin code lies outside its feature's pre-bins")
    columns = np.ascontiguousarray(codes.T, dtype=np.int64)
    members = np.zeros((features, 2 * width, width), dtype=np.float32)  # float32 is exact: counts stay below 2^24
    if n >= 1 << 24:
        members = members.astype(np.float64)
    for position, binning in enumerate(binnings):
        _fill_sets(members[position], binning)
    used: NDArray[np.bool_] = members.sum(axis=2) > 0
    sizes = np.stack(
        [sets @ np.bincount(column, minlength=width) for sets, column in zip(members, columns, strict=True)]
    )
    found: list[IndistinctPair] = []
    joint = np.empty(n, dtype=np.int64)
    for first in range(features - 1):
        scaled = columns[first] * width
        later = range(first + 1, features)
        tables = np.empty((len(later), width, width), dtype=members.dtype)
        for table, second in zip(tables, later, strict=True):
            np.add(scaled, columns[second], out=joint)
            table[:] = np.bincount(joint, minlength=width * width).reshape(width, width)
        common = np.matmul(np.matmul(members[first], tables), members[first + 1 :].transpose(0, 2, 1))
        differing = sizes[first][None, :, None] + sizes[first + 1 :, None, :] - 2 * common
        differing = np.minimum(differing, n - differing)  # against the complement
        real = used[first][None, :, None] & used[first + 1 :, None, :] & (differing >= 1)
        closest = np.where(real, differing, n).min(axis=(1, 2))
        found += [
            IndistinctPair(first, first + 1 + int(offset), int(closest[offset]))
            for offset in np.flatnonzero(closest <= limit)
        ]
    return tuple(found)


def _fill_sets(members: NDArray[np.floating[Any]], binning: PreBinning) -> None:
    """Membership of pre-bins in sets, shape (2 width, width): single bins, then cumulative cuts of two bins or more."""
    width = members.shape[1]
    members[range(binning.bins), range(binning.bins)] = 1
    for cut in range(2, binning.ordered_bins + 1):
        if cut < binning.bins:  # all bins together are all rows
            members[width + cut - 1, :cut] = 1


def drop_indistinct(
    codes: IntArray, binnings: Sequence[PreBinning], limit: int = INDISTINCT_ROWS
) -> tuple[tuple[int, ...], dict[int, str]]:
    """Positions of the features that may be sent, and why each of the others may not.

    While two features stay in conflict, the one with the most conflicts goes; of
    several the one with fewer pre-bins, then the later position.
    Returns: kept positions in order; reason by dropped position, for the party's own report.
    """
    pairs = indistinct_pairs(codes, binnings, limit)
    rivals: dict[int, dict[int, int]] = {}
    for pair in pairs:
        rivals.setdefault(pair.first, {})[pair.second] = pair.rows
        rivals.setdefault(pair.second, {})[pair.first] = pair.rows
    reasons: dict[int, str] = {}
    while rivals:
        worst = max(rivals, key=lambda index: (len(rivals[index]), -binnings[index].bins, index))
        against, rows = min(rivals[worst].items(), key=lambda item: (item[1], item[0]))
        reasons[worst] = f"a bin or cut of it differs from one of '{binnings[against].feature}' in {rows} rows"
        for other in rivals.pop(worst):
            del rivals[other][worst]
            if not rivals[other]:
                del rivals[other]
    return tuple(index for index in range(len(binnings)) if index not in reasons), reasons
