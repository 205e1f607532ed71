"""The gate's arithmetic: how many numbers a sparse label, or a sparse column, can stand before it can be solved for.

Source: PROTOCOLS.md section 2.5 (label budget) and section 3, "Guards" (rows, gradients, small bins). A vector of n
bits of which a share p is set carries n h(p) bits; a linear programme recovered it from about 0.6 n h(p) exact sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from protocols.binning.merging import CHI_SQUARE_5_PERCENT, merge
from protocols.binning.prebins import IntArray
from protocols.binning.rules import MergeRule, Method, Trend
from protocols.binning.weight_of_evidence import EmptyBinError, information_value, iv_units
from protocols.errors import DataError, LabelLeakageError, PrivacyError, SmallIntersectionError, check_failed

LABEL_BUDGET_SHARE = 1 / 8
LEAST_ROWS = 1000
ROWS_PER_FEATURE = 20
LEAST_GRADIENTS = 15
LEAST_FEATURES = 3  # of each party: with fewer, gradients and partial logits show columns
LARGEST_MINIMUM_SHARE = 0.05  # of n: small bins are merged up to here before features are dropped

Reason = Literal["iv", "constraints", "budget", "small bins"]


def entropy_bits(p: float) -> float:
    """Binary entropy h(p) in bits; h(0) = h(1) = 0.

    >>> entropy_bits(0.5), round(entropy_bits(0.05), 4)
    (1.0, 0.2864)
    """
    if not 0 <= p <= 1:
        raise DataError("SHARE_INVALID", "a share lies between 0 and 1")
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def label_budget(n: int, bads: int, share: float = LABEL_BUDGET_SHARE) -> float:
    """Most exact numbers about the label that may leave the label owner, n h(p) / 8 over these rows.

    >>> round(label_budget(6000, 300), 1)
    214.8
    """
    return n * entropy_bits(bads / n) * share


def label_cost(kept_bins: Sequence[int], dropped: int, *, weighted: bool = False) -> float:
    """F: merged bins - 1 for each kept provider feature, and a quarter for each told 'dropped'.

    weighted: in a fit with sample weights the label enters a gradient as X^T W y, which the bins do not give. Who
    guessed the weights could solve that sum for the weighted bads of the bins: a feature costs its bins twice.

    >>> label_cost([5, 3], 6), label_cost([5, 3], 6, weighted=True)
    (7.5, 13.5)
    """
    return (1 + weighted) * sum(bins - 1 for bins in kept_bins) + dropped / 4


def feature_limit(n: int, smallest_bin_rows: int) -> int:
    """Most features of one party, given the smallest merged bin of any other: floor(n h(q) / 12).

    >>> feature_limit(4000, 60)
    37
    """
    return math.floor(n * entropy_bits(smallest_bin_rows / n) / 12)


def known_sums(features: int, *, search: bool = False) -> int:
    """Sums of a provider's column with columns that it knows which exact moments give the label owner.

    With so many features of its own: 1 and X_A, and weighted w, w X_A, w y_w and the sum of its squares under w, the
    latter twice where a search opens moments of the fit of all features and then of the model
    (docs/protocols/moments.md, "Bounds").

    >>> known_sums(14), known_sums(14, search=True)
    (32, 49)
    """
    return 3 * features + 7 if search else 2 * features + 4


def least_bin_rows(n: int, features: int) -> int | None:
    """Least rows of the smallest bin of every other party with which a party may have so many features; None if none.

    >>> least_bin_rows(4000, 37), least_bin_rows(1200, 101)
    (60, None)
    """
    low, high = 1, n // 2
    if feature_limit(n, high) < features:
        return None
    while low < high:
        middle = (low + high) // 2
        if feature_limit(n, middle) >= features:
            high = middle
        else:
            low = middle + 1
    return low


def gradient_budget(n: int, features_per_party: Sequence[int]) -> int:
    """G, most gradients that each party may see: floor(n / (4 max_P d_P)).

    >>> gradient_budget(21000, [16, 12])
    328
    """
    return n // (4 * max(features_per_party))


def check_gradient_budget(n: int, features_per_party: Sequence[int]) -> int:
    """The gradient budget, if it is enough to train with.

    Raises: SmallIntersectionError: fewer than 15 gradients.
    """
    budget = gradient_budget(n, features_per_party)
    if budget < LEAST_GRADIENTS:
        raise SmallIntersectionError(
            "TOO_FEW_ROWS",
            f"{n} training rows allow {budget} gradients at {max(features_per_party)} features of one party, "
            f"and training needs {LEAST_GRADIENTS}",
            "use fewer features or more rows",
        )
    return budget


def check_gradients_left(budget: int, spent: int) -> int:
    """What earlier jobs and attempts on the same rows left of the gradient budget, if it is enough to train with.

    Raises: PrivacyError: fewer than 15 gradients.
    """
    left = budget - spent
    if left < LEAST_GRADIENTS:
        raise PrivacyError(
            "GRADIENT_BUDGET",
            f"the training rows allow {budget} gradients, {spent} are spent, and training needs {LEAST_GRADIENTS}",
            "train on rows that earlier jobs did not use, or with more rows or fewer features",
        )
    return left


def check_rows(n: int, features_total: int) -> None:
    """Guard before any key is made.

    Raises: SmallIntersectionError: n below 1,000, or below 20 times the features of all parties.
    """
    needed = max(LEAST_ROWS, ROWS_PER_FEATURE * features_total)
    if n < needed:
        raise SmallIntersectionError(
            "TOO_FEW_ROWS",
            f"{n} training rows in common are below the {needed} that {features_total} features need",
            "bring more rows in common or fewer features",
        )


@dataclass(frozen=True)
class Candidate:
    """A feature before the gate, as the label owner sees it: an alias and merged bins.

    party: its owner. merge_map: pre-bin -> merged bin. bin_rows, bin_bads: counts per merged bin. iv: exact, 0 if there
    is one bin only; iv_units: in 1e-3. keep: its owner wants it although its IV is below the cut. infeasible: it has
    one bin only because of its own trend or least bin size.
    """

    alias: str
    party: str
    merge_map: tuple[int, ...]
    bin_rows: tuple[int, ...]
    bin_bads: tuple[int, ...]
    iv: float
    iv_units: int
    keep: bool = False
    infeasible: bool = False


@dataclass(frozen=True)
class Choice:
    """What passes the gate.

    kept: by party, then alias: an order that shows no IV. dropped_by_reason: alias -> reason, for the label owner only.
    label_cost: F of these providers' features; budget: what F may be. remerged_minimum_rows: the largest minimum that
    merging small bins further needed, 0 if none.
    """

    kept: tuple[Candidate, ...]
    dropped_by_reason: dict[str, Reason]
    label_cost: float
    budget: float
    remerged_minimum_rows: int


def assess(
    alias: str,
    party: str,
    rows: IntArray | Sequence[int],
    bads: IntArray | Sequence[int],
    ordered_bins: int,
    *,
    rule: MergeRule | None = None,
    threshold: float = CHI_SQUARE_5_PERCENT,
    min_goods: int = 5,
    min_bads: int = 5,
    minimum_rows: int = 0,
) -> Candidate:
    """Merge a feature's pre-bins (`merge`) by its rule and compute its IV.

    Args: rows, bads: counts per pre-bin, shape (n_bins,). minimum_rows: of a bin, where the guard of small bins asks
        for more than the rule.
    Raises: EmptyBinError: the label is constant.
    """
    wanted = rule or MergeRule()

    def merged_by(rule: MergeRule) -> tuple[int, ...]:
        return merge(
            rows,
            bads,
            ordered_bins,
            method=Method(rule.method),
            trend=Trend(rule.trend),
            policies=rule.policies,
            threshold=threshold,
            max_bins=rule.max_bins,
            min_goods=min_goods,
            min_bads=min_bads,
            minimum_rows=max(rule.least_rows, minimum_rows),
        )

    merge_map = merged_by(wanted)
    free = replace(wanted, trend=Trend.NONE.value, least_rows=0)
    infeasible = max(merge_map) == 0 and free != wanted and max(merged_by(free)) > 0
    bin_rows, bin_bads = [0] * (max(merge_map) + 1), [0] * (max(merge_map) + 1)
    for merged, row_count, bad_count in zip(merge_map, rows, bads, strict=True):
        bin_rows[merged] += int(row_count)
        bin_bads[merged] += int(bad_count)
    if not 0 < sum(bin_bads) < sum(bin_rows):
        raise EmptyBinError
    return Candidate(
        alias=alias,
        party=party,
        merge_map=merge_map,
        bin_rows=tuple(bin_rows),
        bin_bads=tuple(bin_bads),
        iv=information_value(bin_rows, bin_bads),
        iv_units=iv_units(bin_rows, bin_bads),
        keep=wanted.keep,
        infeasible=infeasible,
    )


def choose_features(
    candidates: Sequence[Candidate],
    *,
    n: int,
    bads: int,
    minimum_iv: float,
    label_budget: float,
    own_party: str,
    remerge: Callable[[Candidate, int], Candidate],
    own_sums: Callable[[int], int] = lambda features: features,
    weighted: bool = False,
) -> Choice:
    """Which features pass the gate, with which bins; the same whatever the order of `candidates`.

    1. IV below `minimum_iv` is dropped, unless its owner wants it kept, but each party keeps its 3 of highest IV. What
       its own trend or least bin size leaves in one bin is dropped with that reason.
    2. While F of the providers' features exceeds `label_budget`, the one of lowest IV is dropped.
    3. Where a party has more features than n h(q) / 12 (q: smallest bin share of the others), small bins of the others
       are merged further, to at most 5 % of n; what that leaves too weak, or in one bin, is dropped. Then that party's
       features of lowest IV are dropped until it holds. Of the label owner's features `own_sums` counts.
    No party is left with fewer than 3 features, and none of them has one bin only. Of equal IV the one with fewer bins
    stays, then the lower alias (aliases are random).

    Args: n, bads: training rows and bads. label_budget: what is left of it on these rows. own_party: the label owner,
        whose features cost nothing. remerge: the candidate merged again with at least so many rows a bin. own_sums: how
        many sums of a column of another party with columns that it knows so many features give the label owner; more
        than the features where the recipe opens exact moments; weighted: whether the fit will have sample
        weights.
    Raises: DataError: a party has fewer than 3 features of two bins or more. LabelLeakageError: 3 features a provider
        exceed the label budget. SmallIntersectionError: step 3 cannot be met. RemoteProtocolError: an alias used twice.
    """
    if len({candidate.alias for candidate in candidates}) != len(candidates) or any(
        sum(candidate.bin_rows) != n or sum(candidate.bin_bads) != bads for candidate in candidates
    ):
        raise check_failed()
    gate = _Gate(candidates, n, minimum_iv, label_budget, own_party, own_sums, weighted)
    gate.drop_weak()
    gate.fit_label_budget()
    minimum_rows = gate.merge_small_bins(remerge)
    gate.drop_for_small_bins()
    gate.fit_label_budget()  # merging again can, rarely, leave a bin more: two that failed alone may pass together
    return Choice(
        kept=tuple(sorted(gate.kept.values(), key=lambda feature: (feature.party, feature.alias))),
        dropped_by_reason=dict(sorted(gate.dropped.items())),
        label_cost=gate.cost(),
        budget=label_budget,
        remerged_minimum_rows=minimum_rows,
    )


class _Gate:
    """The choice in the making: `kept` and `dropped` by alias."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        n: int,
        minimum_iv: float,
        label_budget: float,
        own_party: str,
        own_sums: Callable[[int], int],
        weighted: bool,
    ) -> None:
        self.kept = {candidate.alias: candidate for candidate in sorted(candidates, key=_strength)}
        self.dropped: dict[str, Reason] = {}
        self._parties = sorted({candidate.party for candidate in candidates})
        self._offered = sum(candidate.party != own_party for candidate in candidates)
        self._n, self._minimum_iv, self._label_budget, self._own_party = n, minimum_iv, label_budget, own_party
        self._own_sums = own_sums
        self._weighted = weighted

    def of(self, party: str) -> list[Candidate]:
        """Kept features of a party, strongest first."""
        return sorted((feature for feature in self.kept.values() if feature.party == party), key=_strength)

    def cost(self) -> float:
        bins = [len(feature.bin_rows) for feature in self.kept.values() if feature.party != self._own_party]
        return label_cost(bins, self._offered - len(bins), weighted=self._weighted)

    def drop_weak(self) -> None:
        for party in self._parties:
            features = self.of(party)
            usable = [feature for feature in features if len(feature.bin_rows) > 1]
            if len(usable) < LEAST_FEATURES:
                raise DataError(
                    "TOO_FEW_FEATURES",
                    f"party '{party}' has {len(usable)} features that tell goods from bads at all, and needs "
                    f"{LEAST_FEATURES}",
                    "that party adds columns, or leaves the job",
                )
            strong = [feature for feature in usable if self._strong(feature)]
            rest = [feature for feature in usable if not self._strong(feature)]
            chosen = strong + rest[: max(0, LEAST_FEATURES - len(strong))]
            for feature in features:
                if feature not in chosen:
                    self._drop(feature, "constraints" if feature.infeasible else "iv")

    def fit_label_budget(self) -> None:
        while self.cost() > self._label_budget:
            spare = self._spare(party for party in self._parties if party != self._own_party)
            if not spare:
                raise LabelLeakageError(
                    "LABEL_BUDGET",
                    f"{LEAST_FEATURES} features of each provider would give {self.cost():g} exact numbers about the "
                    f"label, and the budget is {self._label_budget:.1f}",
                    "bring more rows, or offer fewer features with fewer bins",
                )
            self._drop(max(spare, key=_strength), "budget")

    def merge_small_bins(self, remerge: Callable[[Candidate, int], Candidate]) -> int:
        """Step 3, first half. Returns the largest minimum of rows that was asked for."""
        largest = 0
        cap = math.floor(LARGEST_MINIMUM_SHARE * self._n)
        for party in self._parties:
            minimum = min(self._rows_needed(party), cap)
            for feature in reversed(self.of(party)):
                if min(feature.bin_rows) >= minimum:
                    continue
                merged = remerge(feature, minimum)
                spare = len(self.of(party)) > LEAST_FEATURES
                sound = len(merged.bin_rows) > 1 and min(merged.bin_rows) >= minimum
                if sound and (self._strong(merged) or not spare):
                    self.kept[feature.alias] = merged
                    largest = max(largest, minimum)
                elif spare:
                    self._drop(feature, "small bins")
        return largest

    def drop_for_small_bins(self) -> None:
        while True:
            crowded = [party for party in self._parties if self._sums(party) > self._limit(party)]
            if not crowded:
                return
            spare = self._spare(crowded)
            if not spare:
                raise SmallIntersectionError(
                    "TOO_FEW_ROWS",
                    f"{self._n} training rows are too few for {LEAST_FEATURES} features a party beside bins this small",
                    "bring more rows, or coarser features; or open no exact moments: no standard errors, search or "
                    "screening across parties",
                )
            self._drop(max(spare, key=_strength), "small bins")

    def _limit(self, party: str) -> int:
        others = [min(feature.bin_rows) for feature in self.kept.values() if feature.party != party]
        return feature_limit(self._n, min(others)) if others else self._sums(party)

    def _sums(self, party: str) -> int:
        """What counts against the limit: features, or the sums that these give the label owner."""
        features = len(self.of(party))
        return self._own_sums(features) if party == self._own_party else features

    def _rows_needed(self, party: str) -> int:
        """Rows that each bin of `party` needs for the sake of what the other parties' features tell of it."""
        sums = max((self._sums(other) for other in self._parties if other != party), default=0)
        least = least_bin_rows(self._n, sums)
        return self._n if least is None else least

    def _spare(self, parties: Iterable[str]) -> list[Candidate]:
        """Features of these parties that can go: those beyond a party's 3 strongest."""
        return [feature for party in parties for feature in self.of(party)[LEAST_FEATURES:]]

    def _strong(self, feature: Candidate) -> bool:
        return feature.keep or feature.iv >= self._minimum_iv

    def _drop(self, feature: Candidate, reason: Reason) -> None:
        del self.kept[feature.alias]
        self.dropped[feature.alias] = reason


def _strength(feature: Candidate) -> tuple[float, int, str]:
    """Sort key, strongest first."""
    return (-feature.iv, len(feature.bin_rows), feature.alias)
