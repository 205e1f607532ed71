"""The review of bins before training: what a modeller asks for, and when two versions of a feature lie too close.

Source: docs/protocols/binning.md, "Review". Two versions of one feature together are a finer partition: whoever knows
the counts of both knows sums over its cells. So every cell holds 25 rows or none (`check_rows_between`, at the owner of
the rows), and 5 goods and 5 bads where the label owner can tell (`label_cells`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from protocols.binning.prebins import INDISTINCT_ROWS, PreBinning, indistinct_pairs
from protocols.binning.rules import MergeRule
from protocols.binning.table import BinningTable
from protocols.disclosure import Learned
from protocols.errors import (
    ConcordatError,
    ContractViolationError,
    LabelLeakageError,
    PrivacyError,
    SmallIntersectionError,
)
from protocols.fixed_point import IntArray
from protocols.recipe import FeatureRules

LABEL_BUDGET, TOO_CLOSE, TOO_SMALL, ONE_BIN = "LABEL_BUDGET", "BINS_TOO_CLOSE", "BINS_TOO_SMALL", "BINS_NOT_TWO"
DISCLOSURE_CAP = "DISCLOSURE_CAP"
REFUSALS = (LABEL_BUDGET, TOO_CLOSE, TOO_SMALL, ONE_BIN, DISCLOSURE_CAP)
REFUSED_COST = 1 / 4  # of the label budget, as for a feature told 'dropped'


@dataclass(frozen=True)
class Accept:
    """The modeller agrees to the bins as they are."""


@dataclass(frozen=True)
class Change:
    """Other bins for one feature: an own one by name or, at the label owner, a provider's by alias.

    given: the keys of `protocols.recipe.FeatureRules` that are to change.
    """

    feature: str
    given: Mapping[str, Any]


Wish = Accept | Change


Room = Callable[[str, Sequence[Learned]], bool]  # whether so much more may open to a party under the contract


def no_cap(_to: str, _learned: Sequence[Learned]) -> bool:
    """Where no contract caps what opens."""
    return True


@dataclass(frozen=True)
class View:
    """What a modeller sees.

    table: the bins as they are; changed: features, with who asked; waiting: parties that have not accepted;
    seconds_left: until the review ends; sent: at a provider by own name, the pre-binnings that went to the label owner.
    """

    table: BinningTable
    changed: Mapping[str, str]
    waiting: tuple[str, ...]
    seconds_left: int
    sent: Mapping[str, tuple[PreBinning, ...]] = field(default_factory=dict)


class Desk(Protocol):
    """Where a party's modeller looks at the bins and says what she wants."""

    def next(self, *, wait: bool) -> Wish | None:
        """What she wants next; None if nothing, after a bounded time if `wait`, at once otherwise."""

    def answer(self, refusal: ConcordatError | None, notes: Sequence[str] = ()) -> None:
        """Whether the last wish was granted."""

    def show(self, view: View) -> None:
        """What she sees from now on."""

    def seconds_left(self) -> int:
        """Until the review ends, at the label owner; until this party has waited long enough, at a provider."""

    def words(self, waiting: Sequence[str], seconds_left: int) -> str:
        """A line on who is waited for, and until when."""


@dataclass(frozen=True)
class Rebinned:
    """New pre-bins of one own feature.

    rules: that its owner has set for it; codes: of each training row, shape (n,); notes: what its owner should know, a
    sentence each.
    """

    binning: PreBinning
    rules: FeatureRules
    rule: MergeRule
    codes: IntArray = field(repr=False)
    notes: tuple[str, ...] = ()


class OwnColumns(Protocol):
    """This party's raw columns, which can be binned anew."""

    def rebin(self, feature: str, before: FeatureRules | None, given: Mapping[str, Any]) -> Rebinned:
        """Pre-bins of an own feature under its rules (the recipe's, if None) with the changes in `given`.

        Raises: DataError, RecipeError, ContractViolationError: the rules do not fit the column, or are not allowed.
        """

    def codes(self, binning: PreBinning) -> IntArray:
        """The pre-bin of each training row, shape (n,)."""


@dataclass(frozen=True)
class Version:
    """One version of a provider's feature whose counts its owner was given, as the label owner knows it."""

    rows: tuple[int, ...]
    bads: tuple[int, ...]
    ordered_bins: int
    merge_map: tuple[int, ...]


def refusal_of(code: str) -> ConcordatError:
    """What a modeller reads; of why the label owner refused, a provider learns no more than this."""
    return {
        LABEL_BUDGET: LabelLeakageError(
            LABEL_BUDGET,
            "the label counts of another version would exceed the label budget of these rows",
            "accept the bins as they are, or ask for fewer bins",
        ),
        TOO_CLOSE: PrivacyError(
            TOO_CLOSE,
            "together with an earlier version of the feature the new bins would tell counts of too few rows, goods or "
            "bads",
            "use cut points or groups of an earlier version, or some farther from them",
        ),
        TOO_SMALL: SmallIntersectionError(
            TOO_SMALL,
            "a bin this small is too small beside so many features of another party",
            "ask for fewer or larger bins",
        ),
        ONE_BIN: PrivacyError(
            ONE_BIN,
            "under this rule the feature has no two bins of enough goods and bads",
            "ask for fewer or larger bins, or another trend",
        ),
        DISCLOSURE_CAP: ContractViolationError(
            DISCLOSURE_CAP,
            "a party would learn more numbers than the contract allows",
            "accept the bins as they are",
        ),
    }[code]


def check_rows_between(
    codes: IntArray, binning: PreBinning, own: Sequence[IntArray], others: Sequence[tuple[IntArray, PreBinning]]
) -> None:
    """Whether new pre-bins of a feature may be sent, as far as rows go.

    Args: codes: of each training row, shape (n,); own: earlier codes of the same feature, pre-bins of each version sent
        and the bins of all versions returned at once: every joint cell holds more than 24 rows or none; others: every
        version of another feature that was sent, under the rule of section 2.2.
    Raises: PrivacyError: BINS_TOO_CLOSE.
    """
    for earlier in own:
        cells = np.unique(np.stack([codes, earlier], axis=1), axis=0, return_counts=True)[1]
        if int(cells.min()) <= INDISTINCT_ROWS:
            raise refusal_of(TOO_CLOSE)
    for earlier, other in others:
        if indistinct_pairs(np.stack([codes, earlier], axis=1), [binning, other]):
            raise PrivacyError(
                TOO_CLOSE,
                f"a bin or cut of the new version differs from one of '{other.feature}' in fewer than 25 rows",
                "choose other cut points or groups",
            )


def joint_codes(columns: Sequence[IntArray]) -> IntArray:
    """The cell of each row in several partitions at once, shape (n,)."""
    codes: IntArray = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    return codes


def label_cells(versions: Sequence[Version], min_goods: int, min_bads: int) -> bool:
    """Whether every cell of these versions' bins, as far as the label owner can tell, holds goods and bads enough.

    It can tell for versions of the same pre-bins, and for cuts of one order where what is not ordered stayed the same.
    Where it cannot for all versions together it looks at each pair with the last.
    """
    atoms = _atoms(versions)
    if atoms is None and len(versions) > 2:
        return all(label_cells([earlier, versions[-1]], min_goods, min_bads) for earlier in versions[:-1])
    cells: dict[tuple[int, ...], tuple[int, int]] = {}
    for rows, bads, place in atoms or []:
        before = cells.get(place, (0, 0))
        cells[place] = (before[0] + rows, before[1] + bads)
    return all(n > INDISTINCT_ROWS and k >= min_bads and n - k >= min_goods for n, k in cells.values())


_Atom = tuple[int, int, tuple[int, ...]]  # rows, bads, and the bin in each version


def _atoms(versions: Sequence[Version]) -> list[_Atom] | None:
    """Sets of rows of known counts that every version's bins are unions of; None if they cannot be told."""
    last = versions[-1]
    if all((v.rows, v.bads, v.ordered_bins) == (last.rows, last.bads, last.ordered_bins) for v in versions):
        maps = zip(*(version.merge_map for version in versions), strict=True)
        return [(n, k, tuple(place)) for n, k, place in zip(last.rows, last.bads, maps, strict=True)]
    loose = [list(zip(v.rows, v.bads, strict=True))[v.ordered_bins :] for v in versions]
    if not all(v.ordered_bins for v in versions) or any(item != loose[-1] for item in loose):
        return None
    atoms: list[_Atom] = [
        (n, k, tuple(version.merge_map[version.ordered_bins + i] for version in versions))
        for i, (n, k) in enumerate(loose[-1])
    ]
    ends = [_ends(version) for version in versions]
    cuts = sorted({(0, 0), *(cut for own in ends for cut, _ in own)})
    for low, high in pairwise(cuts):
        place = tuple(next((b for cut, b in own if cut >= high), own[-1][1]) for own in ends)
        atoms.append((high[0] - low[0], high[1] - low[1], place))
    return atoms


def _ends(version: Version) -> list[tuple[tuple[int, int], int]]:
    """(rows and bads up to its end, bin) of each run of ordered pre-bins in one bin, in order."""
    found: list[tuple[tuple[int, int], int]] = []
    rows = bads = 0
    for index in range(version.ordered_bins):
        rows, bads = rows + version.rows[index], bads + version.bads[index]
        merged = version.merge_map[index]
        if found and found[-1][1] == merged:
            found.pop()
        found.append(((rows, bads), merged))
    return found
