"""Own columns, binned anew in a review: the same steps as before the gate, for one feature and other rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from party_agent.dataset import Column, Table, column_name
from party_agent.screening import lost_split_findings, prebin_column
from protocols.binning.prebins import PreBinning, floor_rows
from protocols.binning.review import ONE_BIN, Rebinned
from protocols.binning.rules import Method, rule_of
from protocols.errors import DataError
from protocols.fixed_point import IntArray
from protocols.recipe import FeatureRules, Recipe, feature_rules

_OWN_BINS, _MERGED = ("splits", "groups"), ("method", "trend", "max_bins")
_INSTEAD = {
    **dict.fromkeys(_OWN_BINS, (*_OWN_BINS, *_MERGED)),
    **dict.fromkeys(_MERGED, _OWN_BINS),
    "missing": ("missing_with",),
    "missing_with": ("missing",),
    "special": ("special_with",),
    "special_with": ("special",),
}


class RawColumns:
    """`protocols.binning.review.OwnColumns` of a table.

    Args: training: the training rows in common order; party: whose section of the recipe counts; check_method: raises
        if the contract does not allow a method of merging.
    """

    def __init__(self, training: Table, recipe: Recipe, party: str, check_method: Callable[[str], None]) -> None:
        section = recipe.columns_of(party)
        self._columns = {column.name: column for column in training.columns}
        self._rules = {column_name(name): rules for name, rules in section.features.items()}
        self._keep = {column_name(name) for name in section.keep}
        self._binning = recipe.binning
        self._check_method = check_method
        self._floor = floor_rows(len(training.ids), recipe.binning.floor_rows, recipe.binning.floor_share)

    def rebin(self, feature: str, before: FeatureRules | None, given: Mapping[str, Any]) -> Rebinned:
        """See `OwnColumns.rebin`."""
        column = self._column(feature)
        rules = changed_rules(before or self._rules.get(feature, FeatureRules()), given)
        binning = prebin_column(column, rules, self._binning, self._floor)
        if binning is None:
            raise DataError(
                ONE_BIN,
                f"under these rules '{feature}' has no two bins of {self._floor} training rows",
                "ask for fewer or larger bins",
            )
        rule = rule_of(self._binning, rules, binning, keep=feature in self._keep)
        if rule.method != Method.SPLITS:
            self._check_method(rule.method)
        notes = lost_split_findings(column, binning, rules, self._floor)
        return Rebinned(binning, rules, rule, binning.codes(column.values), tuple(note.sentence for note in notes))

    def codes(self, binning: PreBinning) -> IntArray:
        """See `OwnColumns.codes`."""
        return binning.codes(self._column(binning.feature).values)

    def _column(self, feature: str) -> Column:
        return self._columns[feature]


def changed_rules(before: FeatureRules, given: Mapping[str, Any]) -> FeatureRules:
    """The rules of a feature with the keys in `given` changed; what cannot stand beside them goes.

    Raises: RecipeError: as `load_recipe`.

    >>> changed_rules(FeatureRules(splits=(1.0, 2.0), missing="riskiest"), {"max_bins": 4})
    FeatureRules(method=None, trend=None, max_bins=4, min_bin_share=None, splits=(), groups=(), missing='riskiest', \
missing_with=None, special=None, special_with=None)
    """
    gone = {key for name in given for key in _INSTEAD.get(name, ())}
    stays = {key: value for key, value in before.model_dump(mode="json").items() if key not in gone}
    return feature_rules(stays | dict(given))
