"""How the pre-bins of one feature are to be merged: what its owner asks of the gate.

Source: PROTOCOLS.md section 2, step 2.4. A rule is set by the feature's owner (the recipe's default, or its own
section) and travels with the feature under its alias. It names no value, edge or column.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from protocols.messages import Part

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
