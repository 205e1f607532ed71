"""How the pre-bins of one feature are to be merged: what its owner asks of the gate.

Source: PROTOCOLS.md section 2, step 2.4. A rule is set by the feature's owner (the recipe's default, or its own
section) and travels with the feature under its alias. It names no value, edge or column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from protocols.binning.prebins import PreBinning
from protocols.errors import RecipeError
from protocols.messages import Part
from protocols.recipe import Binning, FeatureRules

MAX_BINS = 20


class Method(StrEnum):
    """How neighbouring pre-bins become bins."""

    CHIMERGE = "chimerge"
    OPTIMAL = "optimal"
    QUANTILE = "quantile"
    SPLITS = "splits"  # the owner's own splits: merged only where a minimum demands it


class Trend(StrEnum):
    """How the bad rate of the bins goes along the values; `AUTO` is the better of ascending and descending."""

    NONE = "none"
    ASCENDING = "ascending"
    DESCENDING = "descending"
    AUTO = "auto"
    PEAK = "peak"
    VALLEY = "valley"


class Policy(IntEnum):
    """Where the pre-bin of a special value, or of missing, ends."""

    OWN = 0
    NEAREST = 1  # the bin of nearest WOE
    RISKIEST = 2  # the bin of lowest WOE


@dataclass(frozen=True)
class MergeRule(Part):
    """A rule as it travels: plain numbers and words, which `sound_for` checks.

    max_bins: most bins after merging. least_rows: rows of a bin after merging, at least. policies: a `Policy` for each
    pre-bin that is not ordered, in their order, or none: each is its own. keep: the owner wants it in the model
    although its IV is below the cut; it gives way to every bound that protects labels or rows.
    """

    method: str = Method.CHIMERGE.value
    trend: str = Trend.NONE.value
    max_bins: int = 8
    least_rows: int = 0
    policies: tuple[int, ...] = ()
    keep: bool = False

    def sound_for(self, bins: int, ordered_bins: int) -> bool:
        """Whether this is a rule, and one for a feature of so many pre-bins."""
        return (
            self.method in set(Method)
            and self.trend in set(Trend)
            and (self.trend == Trend.NONE or self.method == Method.OPTIMAL)
            and 2 <= self.max_bins <= MAX_BINS
            and self.least_rows >= 0
            and len(self.policies) in (0, bins - ordered_bins)
            and all(policy in set(Policy) for policy in self.policies)
        )


def rule_of(rules: Binning, own: FeatureRules, binning: PreBinning, *, keep: bool = False) -> MergeRule:
    """The rule of one feature, from the recipe and the owner's own section.

    Raises: RecipeError: RECIPE_OUT_OF_RANGE: a trend for a feature of a method that has none.
    """
    method = Method.SPLITS if own.splits or own.groups else Method(own.method or rules.method)
    if own.trend is not None and method is not Method.OPTIMAL:
        raise RecipeError(
            "RECIPE_OUT_OF_RANGE",
            f"the recipe gives column '{binning.feature}' a trend, and its method is not optimal",
            'set method = "optimal" for that column',
        )
    share = rules.min_bin_share if own.min_bin_share is None else own.min_bin_share
    first = binning.ordered_bins + len(binning.categories)  # before it: ordered pre-bins and categories
    special, missing = Policy[(own.special or rules.special).upper()], Policy[(own.missing or rules.missing).upper()]
    policies = [Policy.OWN] * len(binning.categories)
    policies += [special if index in binning.special_bins else missing for index in range(first, binning.bins)]
    return MergeRule(
        method=method.value,
        trend=Trend(own.trend or rules.trend).value if method is Method.OPTIMAL else Trend.NONE.value,
        max_bins=own.max_bins or rules.max_bins,
        least_rows=math.ceil(round(share * sum(binning.rows), 9)),
        policies=tuple(int(policy) for policy in policies) if any(policies) else (),
        keep=keep,
    )
