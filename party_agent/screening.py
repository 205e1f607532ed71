"""Which own columns a party brings to the gate, with which pre-bins, and how each is to be merged there.

No step here looks at a label or sends anything. Order of all steps of selection, each with a reason for each feature:
expert list, missing rate, single value, one bin, stability (here); nearly equal bins, information value and budgets (at
the gate); correlation inside the party; correlation and variance inflation across parties, from moments that the
contract opens (`across_parties`). A column to keep passes every cut here but for the floors of pre-bins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from party_agent.across_parties import ACROSS
from party_agent.dataset import Column, Finding, Table, as_code, column_name
from party_agent.report import OwnFeature
from party_agent.validation import stability_of_counts
from protocols.binning.prebins import FeatureKind, PreBinning, floor_rows, lost_splits, prebin
from protocols.binning.rules import MergeRule, rule_of
from protocols.binning.table import BinningTable, DroppedFeature
from protocols.errors import DataError
from protocols.fixed_point import IntArray
from protocols.recipe import Binning, FeatureRules, PartyColumns, Recipe, Special

EXPERT, MISSING, SINGLE, ONE_BIN, STABILITY = "expert list", "missing rate", "single value", "one bin", "stability"
FITS = "selection among fits"
STEPS = (EXPERT, MISSING, SINGLE, ONE_BIN, STABILITY, "nearly equal bins", "gate", "correlation", ACROSS, FITS)
_STEP_OF = {  # by how a reason begins; any other is the gate's
    "not sent": "nearly equal bins",
    "correlation": "correlation",
    ACROSS: ACROSS,
    "stepwise": FITS,
    "sign": FITS,
}


@dataclass(frozen=True)
class ScreenedOut:
    """A column that was left out before anything was sent: at which step, and why."""

    name: str
    step: str
    reason: str


@dataclass(frozen=True)
class PreBinned:
    """Own features before the gate: pre-binnings, their rules, and the pre-bin of each training row, shape (n, F)."""

    binnings: tuple[PreBinning, ...]
    rules: tuple[MergeRule, ...]
    codes: IntArray
    left_out: tuple[ScreenedOut, ...] = ()
    findings: tuple[Finding, ...] = ()


def screen(training: Table, test: Table, recipe: Recipe, party: str) -> PreBinned:
    """Own pre-bins on the training rows, of the columns that pass.

    Args: test: the other aligned rows, which only stability looks at.
    Raises: DataError: TOO_FEW_COLUMNS: fewer than 3 pass; RULE_OF_OTHER_KIND. RecipeError: RECIPE_OUT_OF_RANGE.
    """
    screening = _Screening(recipe, recipe.columns_of(party), len(training.ids))
    elsewhere = {column.name: column for column in test.columns}
    codes = []
    for column in training.columns:
        own = screening.prebin(column, elsewhere[column.name])
        if own is not None:
            codes.append(own)
    if len(codes) < 3:
        raise DataError(
            "TOO_FEW_COLUMNS",
            f"{len(codes)} columns pass the screening and have two bins of {screening.floor} rows on the common rows, "
            "and a party needs 3",
            "bring columns that vary more, or more rows, or loosen the cuts under [selection]",
        )
    return PreBinned(
        tuple(screening.binnings),
        tuple(screening.rules),
        np.stack(codes, axis=1),
        tuple(screening.left_out),
        screening.findings(),
    )


class _Screening:
    """The columns passed so far, and the others with their reasons."""

    def __init__(self, recipe: Recipe, section: PartyColumns, n: int) -> None:
        self._binning, self._selection = recipe.binning, recipe.selection
        self._own = {column_name(name): rules for name, rules in section.features.items()}
        self._keep = {column_name(name) for name in section.keep}
        self._drop = {column_name(name) for name in section.drop}
        self.floor = floor_rows(n, recipe.binning.floor_rows, recipe.binning.floor_share)
        self.binnings: list[PreBinning] = []
        self.rules: list[MergeRule] = []
        self.left_out: list[ScreenedOut] = []
        self._lost: list[Finding] = []

    def prebin(self, column: Column, test: Column) -> IntArray | None:
        """The pre-bin of each training row, shape (n,); None if the column is left out."""
        keep = column.name in self._keep
        reason = self._reason_before_bins(column, keep)
        if reason is not None:
            self._leave_out(column, *reason)
            return None
        own = self._own.get(column.name, FeatureRules())
        binning = prebin_column(column, own, self._binning, self.floor)
        if binning is None:
            self._leave_out(column, ONE_BIN, f"no two bins of {self.floor} training rows")
            return None
        codes = binning.codes(column.values)
        most = self._selection.maximum_psi
        if most is not None and not keep and len(test.values):
            both = [np.bincount(c, minlength=binning.bins) for c in (codes, binning.codes(test.values))]
            psi = stability_of_counts(*both)
            if psi > most:
                self._leave_out(column, STABILITY, f"PSI {psi:.3f} from training to test rows, above {most:g}")
                return None
        self.binnings.append(binning)
        self.rules.append(rule_of(self._binning, own, binning, keep=keep))
        self._lost += lost_split_findings(column, binning, own, self.floor)
        return codes

    def _reason_before_bins(self, column: Column, keep: bool) -> tuple[str, str] | None:
        if column.name in self._drop:
            return EXPERT, "on the list of columns to drop"
        if keep:
            return None
        rates = (
            (MISSING, column.missing_rate, self._selection.maximum_missing_rate),
            (SINGLE, _single_value_share(column), self._selection.maximum_single_value_share),
        )
        for step, rate, most in rates:
            if rate > most:
                return step, f"{rate:.1%} of the training rows, above {most:g}"
        return None

    def _leave_out(self, column: Column, step: str, reason: str) -> None:
        self.left_out.append(ScreenedOut(column.name, step, reason))

    def findings(self) -> tuple[Finding, ...]:
        """What the party should know of its columns."""
        single = sum(item.step == ONE_BIN for item in self.left_out)
        found = list(self._lost)
        if single:
            sentence = f"{single} columns have one bin only on the common rows and were left out."
            found.insert(0, Finding("COLUMN_SINGLE_BIN", single, sentence))
        return tuple(found)


def prebin_column(column: Column, own: FeatureRules, rules: Binning, floor: int) -> PreBinning | None:
    """Pre-bins of one column of training rows by its own rules; None if it has one bin only.

    Raises: DataError: RULE_OF_OTHER_KIND.
    """
    if own.groups if column.kind is FeatureKind.NUMERIC else own.splits:
        raise _other_kind(column)
    return prebin(
        column.values,
        column.kind,
        column.name,
        special=column.special,
        max_prebins=rules.max_prebins,
        floor=floor,
        splits=own.splits,
        groups=own.groups,
        missing_with=_value(column, own.missing_with),
        special_with=_value(column, own.special_with),
    )


def lost_split_findings(column: Column, binning: PreBinning, own: FeatureRules, floor: int) -> list[Finding]:
    """What of a column's own splits or groups its pre-bins do not have."""
    empty, small = lost_splits(binning, column.values, own.splits, own.groups)
    what = "splits" if own.splits else "groups"
    found = []
    if empty:
        sentence = f"{column.name}: {empty} of its own {what} have no training row on one side; dropped."
        found.append(Finding("SPLIT_EMPTY", empty, sentence))
    if small:
        sentence = f"{column.name}: {small} of its own {what} leave fewer than {floor} rows in a bin; merged."
        found.append(Finding("SPLIT_BELOW_FLOOR", small, sentence))
    return found


def findings_of_gate(prebinned: PreBinned, bins: BinningTable, infeasible: str) -> tuple[Finding, ...]:
    """What the answer of the gate says about own splits and, at the label owner, about rules that cannot be met.

    Args: infeasible: the gate's reason for a feature that its own rule leaves in one bin.
    """
    own = {b.feature for b, rule in zip(prebinned.binnings, prebinned.rules, strict=True) if rule.method == "splits"}
    found = []
    for feature in bins.features:
        merged = feature.binning.bins - len(feature.woe)
        if feature.name in own and merged:
            sentence = f"{feature.name}: {merged} of its own bins merged: too few goods, bads or rows for the gate."
            found.append(Finding("SPLIT_BELOW_MINIMUM", merged, sentence))
    names = [item.name for item in bins.dropped if item.reason == infeasible]
    names += [peer.alias for peers in bins.dropped_peers.values() for peer in peers if peer.reason == infeasible]
    found += [Finding("BINNING_INFEASIBLE", 1, f"{name}: {infeasible}; left out.") for name in names]
    return tuple(found)


def screening_of(left_out: Sequence[ScreenedOut], dropped: Sequence[DroppedFeature]) -> dict[str, Any]:
    """The part on screening of the party's own report: own features that went at each step, and why each did."""
    steps = [*left_out]
    for feature in dropped:
        step = _STEP_OF.get(feature.reason.split(":")[0], "gate")
        steps.append(ScreenedOut(feature.name, step, feature.reason))
    return {
        "counts": {step: sum(item.step == step for item in steps) for step in STEPS},
        "features": [asdict(item) for item in steps],
    }


def left_out_features(left_out: Sequence[ScreenedOut]) -> list[OwnFeature]:
    """The columns that were never sent, for the party's own report."""
    return [OwnFeature(item.name, "", "", False, f"{item.step}: {item.reason}") for item in left_out]


def _single_value_share(column: Column) -> float:
    """Share of the rows that the most frequent value, or missing, takes."""
    missing = column.missing
    counts = Counter(column.values[~missing].tolist())
    return max([int(missing.sum()), *counts.values()]) / max(len(missing), 1)


def _value(column: Column, value: Special | None) -> float | str | None:
    """A value of the recipe as this column holds it."""
    if value is None:
        return None
    if column.kind is FeatureKind.CATEGORICAL:
        return as_code(value)
    if isinstance(value, str):
        raise _other_kind(column)
    return float(value)


def _other_kind(column: Column) -> DataError:
    return DataError(
        "RULE_OF_OTHER_KIND",
        f"the recipe gives column '{column.name}' splits, groups or a value that do not fit its kind, "
        f"{column.kind.value}",
        "splits are for numbers and groups for categories; name a column of codes under categorical",
    )
