"""A sequence of fits in one training: what the recipe permits, what the label owner asks for next, what it may know.

Source: PROTOCOLS.md section 4 (folds) and section 3, "Guards". The label owner directs; every party checks each fit
against the recipe, which all of them hold, before it computes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from protocols.binning.budget import (
    LEAST_FEATURES,
    LEAST_GRADIENTS,
    LEAST_ROWS,
    ROWS_PER_FEATURE,
    feature_limit,
    gradient_budget,
)
from protocols.binning.table import BinningTable
from protocols.errors import LabelLeakageError, RecipeError, SmallIntersectionError
from protocols.fixed_point import FloatArray


@dataclass(frozen=True)
class SequenceRules:
    """From the recipe: which sequences of fits the label owner may ask for.

    fits: most fits; penalties: L2 weights that a fit may have; loose_tolerance: of sqrt(g^T M g), for fits that only
    serve a comparison; folds: into how many the rows are cut at random, 0 if none is ever left out; subsets: whether
    features may be left out; likelihoods: whether the log-likelihood of a fit opens to the label owner; signs: whether
    it is told which coefficients have the wrong sign.
    """

    fits: int
    penalties: tuple[float, ...] = (1.0,)
    loose_tolerance: float = 0.1
    folds: int = 0
    subsets: bool = False
    likelihoods: bool = False
    signs: bool = False

    def loose(self, rows: int) -> float:
        """The loose tolerance on so many training rows: an out-of-fold log-likelihood errs by about twice as much, in
        natural-log units, and is of the order of 0.1 a row or more, so that it is right to 1e-3 relative.
        """
        return min(self.loose_tolerance, 2e-5 * rows)

    def check(self, name: str, table: BinningTable, label_owner: str) -> None:
        """Bounds over the folds, before anything is sent (PROTOCOLS.md section 4).

        Each fit keeps the bounds of its own rows. The folds, all rows but one fold, and all rows are sums of k disjoint
        row sets, so that k sets count against n h(q) / 12. Each party checks for the columns whose bins it knows.
        Raises: SmallIntersectionError: FOLDS_TOO_SMALL. LabelLeakageError: LABEL_BUDGET.
        """
        if not self.folds:
            return
        rows = least_rows(table.rows, self.folds)
        total, most = sum(table.shape.values()), max(table.shape.values())
        if rows < max(LEAST_ROWS, ROWS_PER_FEATURE * total):
            raise self._too_small(f"each fit would have {rows} rows for {total} features")
        gradients = gradient_budget(rows, list(table.shape.values()))
        if gradients < LEAST_GRADIENTS:
            raise self._too_small(f"each fit would have {gradients} gradients at {most} features of one party")
        known = {party: min(min(peer.rows) for peer in peers) for party, peers in table.peers.items() if peers}
        known[name] = min(min(feature.rows) for feature in table.features)
        for owner, smallest in known.items():
            crowd = max(d for party, d in table.shape.items() if party != owner)
            limit = feature_limit(table.rows, smallest)
            if self.folds * crowd > limit:
                raise self._too_small(
                    f"{crowd} features of one party over {self.folds} row sets exceed the {limit} that a bin of "
                    f"{smallest} rows of another party stands"
                )
        given = self.folds * label_cost_of_fold(table)
        if name == label_owner and table.label_cost + given > table.label_budget:
            raise LabelLeakageError(
                "LABEL_BUDGET",
                f"{self.folds} folds would give {given} more label counts, binning gave "
                f"{table.label_cost:g}, and the budget is {table.label_budget:.1f}",
                "cross-validate with fewer folds or features, or with more rows",
            )

    def _too_small(self, reason: str) -> SmallIntersectionError:
        return SmallIntersectionError(
            "FOLDS_TOO_SMALL",
            f"cross-validation with {self.folds} folds is refused: {reason}",
            "fewer folds, fewer features, or more rows; or no cross-validation",
        )


@dataclass(frozen=True)
class FitPlan:
    """One fit of a sequence, as the label owner asks for it.

    penalty: index in `SequenceRules.penalties`; loose: stop at the loose tolerance; dropped: aliases left out, by
    party; fold: the fold left out, None for all rows; plus, minus: the fit starts at the sum of the ends of these
    earlier fits less those (none: the cold start); history: an earlier fit of the same penalty and features whose
    curvature pairs the fit goes on with; likelihood: open the log-likelihood over the fold left out, or over all rows;
    signs: report coefficients of the wrong sign; best_effort: a spent budget ends the sequence, not the job.
    """

    penalty: int = 0
    loose: bool = False
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fold: int | None = None
    plus: tuple[int, ...] = ()
    minus: tuple[int, ...] = ()
    history: int | None = None
    likelihood: bool = False
    signs: bool = False
    best_effort: bool = False


@dataclass(frozen=True)
class SignReport:
    """Aliases of one party after a fit. positive: coefficients above zero, where a higher WOE would be riskier; inward:
    features left out whose coefficient would be negative.
    """

    positive: tuple[str, ...] = ()
    inward: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What the label owner knows of a fit that ended.

    norm: sqrt(g^T M g); log_likelihood: over the fold left out, or over all rows; rows: how many that are; signs: by
    party; weights, intercept: its own.
    """

    plan: FitPlan
    gradients: int
    norm: float
    converged: bool
    log_likelihood: float | None = None
    rows: int = 0
    signs: Mapping[str, SignReport] = field(default_factory=dict)
    weights: FloatArray | None = field(default=None, repr=False)
    intercept: float | None = field(default=None, repr=False)


class Director(Protocol):
    """The label owner's choice of fits. Both answers follow from the fits done so far and nothing else."""

    def next_fit(self, done: Sequence[Outcome]) -> FitPlan | None:
        """The next fit, or None: the sequence is over."""

    def chosen(self, done: Sequence[Outcome]) -> int:
        """The fit that is the model."""


class SingleFit:
    """One fit of all features on all rows."""

    def next_fit(self, done: Sequence[Outcome]) -> FitPlan | None:
        """See `Director`."""
        return None if done else FitPlan()

    def chosen(self, done: Sequence[Outcome]) -> int:
        """See `Director`."""
        return 0


def label_cost_of_fold(table: BinningTable) -> int:
    """What the label sums of one fold give away, in the units of F (PROTOCOLS.md section 2.5); at the label owner.

    Who knows the rows of the fold can solve one exact sum of a feature for the bads of its bins there: WOE have 16
    bits, and a bin few bads. So a sum costs what its bins do.
    """
    return sum(len(peer.rows) - 1 for peers in table.peers.values() for peer in peers)


def least_rows(n: int, folds: int) -> int:
    """Rows of the smallest fit when the largest of `folds` equal folds is left out.

    >>> least_rows(17, 5)
    13
    """
    return n - -(-n // folds)


def fold_rows(n: int, folds: int, fold: int) -> int:
    """Rows of one fold: they differ by one at most.

    >>> [fold_rows(17, 5, fold) for fold in range(5)]
    [4, 4, 3, 3, 3]
    """
    return n // folds + (fold < n % folds)


def check_plan(plan: FitPlan, rules: SequenceRules, shape: Mapping[str, int], done: Sequence[FitPlan]) -> bool:
    """Whether the recipe permits a fit here. shape: model features by party, of those that the caller knows of."""
    earlier = range(len(done))
    named = [*plan.plus, *plan.minus, *([] if plan.history is None else [plan.history])]
    history = done[plan.history] if plan.history is not None and plan.history in earlier else None
    return (
        len(done) < rules.fits
        and 0 <= plan.penalty < len(rules.penalties)
        and all(fit in earlier for fit in named)
        and (plan.fold is None or 0 <= plan.fold < rules.folds)
        and (rules.subsets or not any(plan.dropped.values()))
        and all(shape[party] - len(set(aliases)) >= LEAST_FEATURES for party, aliases in plan.dropped.items())
        and (rules.likelihoods or not plan.likelihood)
        and (rules.signs or not plan.signs)
        and len(plan.plus) - len(plan.minus) == bool(plan.plus)
        and (plan.history is None or (history is not None and bool(plan.plus) and _same_model(plan, history)))
    )


def plan_refused() -> RecipeError:
    """The error of a director that asks for what the recipe does not permit."""
    return RecipeError(
        "PLAN_REFUSED",
        "the next fit of the sequence is not one that the recipe permits",
        "name more fits, penalties or folds in the recipe, or let features be left out",
    )


def _same_model(plan: FitPlan, other: FitPlan) -> bool:
    features = [{party: set(aliases) for party, aliases in p.dropped.items() if aliases} for p in (plan, other)]
    return plan.penalty == other.penalty and features[0] == features[1] and (plan.fold is None) == (other.fold is None)
