"""How a recipe's estimation becomes a sequence of fits: what every party permits, what the label owner directs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from party_agent import artefacts
from party_agent.artefacts import Stored
from party_agent.checkpoint import Blobs
from protocols.binning.budget import label_budget
from protocols.binning.table import BinningTable
from protocols.errors import LabelLeakageError
from protocols.logistic.directors import CrossValidation
from protocols.logistic.party import Coefficients, FitSequence
from protocols.logistic.plan import Director, FitPlan, Outcome, SequenceRules
from protocols.recipe import Recipe
from protocols.roles import Parties
from protocols.row_account import RowAccount


@dataclass(frozen=True)
class Fitted:
    """The fit that is the model. l2: its penalty; record: of the sequence, for the own report, if there is one."""

    coefficients: Coefficients
    l2: float
    record: dict[str, Any] | None = field(default=None, repr=False)


def sequence_rules(recipe: Recipe) -> SequenceRules | None:
    """Which fits this party takes part in, by the recipe that it accepted; None: a single one."""
    rules = recipe.validation
    if not rules.folds:
        return None
    penalties = rules.penalties or (recipe.model.l2,)
    fits = len(penalties) * rules.folds + 1
    return SequenceRules(fits, penalties, folds=rules.folds, likelihoods=True)


def director_of(
    rules: SequenceRules | None, recipe: Recipe, bins: BinningTable, parties: Parties, labels: RowAccount
) -> Director | None:
    """The label owner's choice of fits. labels: what its training rows have paid for label counts.

    Raises: LabelLeakageError: LABEL_BUDGET.
    """
    if rules is None:
        return None
    cost = sum(count for party, count in bins.shape.items() if party != parties.label_owner)
    budget = label_budget(bins.rows, bins.bads, recipe.selection.label_budget_share)
    spent = float(labels.spent())
    if spent + rules.folds * cost > budget:
        raise LabelLeakageError(
            "LABEL_BUDGET",
            f"{rules.folds} folds would give {rules.folds * cost} more exact numbers about the label, {spent:g} are "
            f"given, and the budget of these rows is {budget:.1f}",
            "cross-validate with fewer folds or features, or with more rows",
        )
    return _Paid(CrossValidation(rules), labels, cost)


class _Paid:
    """A director whose folds the labels pay for, durably, before the first fit that leaves one out is asked for.

    Args: cost: exact label sums that a fold gives to all providers together.
    """

    def __init__(self, director: Director, labels: RowAccount, cost: float) -> None:
        self._director = director
        self._labels = labels
        self._cost = cost
        self._paid: set[int] = set()

    def next_fit(self, done: Sequence[Outcome]) -> FitPlan | None:
        """See `Director`."""
        plan = self._director.next_fit(done)
        if plan is not None and plan.fold is not None and plan.likelihood and plan.fold not in self._paid:
            self._labels.charge(self._cost)
            self._paid.add(plan.fold)
        return plan

    def chosen(self, done: Sequence[Outcome]) -> int:
        """See `Director`."""
        return self._director.chosen(done)


def fitted_of(sequence: FitSequence, rules: SequenceRules | None, recipe: Recipe) -> Fitted:
    """The model of a training, and the record of how it was chosen."""
    coefficients = sequence.fits[sequence.chosen]
    if rules is None:
        return Fitted(coefficients, recipe.model.l2)
    outcomes = sequence.outcomes
    l2 = rules.penalties[outcomes[sequence.chosen].plan.penalty]
    record = {
        "fits": len(sequence.fits),
        "gradients": sum(fit.gradients for fit in sequence.fits),
        "l2": l2,
        "cross_validation": _cross_validated(outcomes, rules),
    }
    return Fitted(coefficients, l2, record)


def _cross_validated(outcomes: tuple[Outcome, ...], rules: SequenceRules) -> dict[str, Any] | None:
    """Out-of-fold log-likelihood of each penalty, which the label owner alone knows."""
    if not rules.folds or any(outcome.log_likelihood is None for outcome in outcomes if outcome.plan.fold is not None):
        return None
    values = CrossValidation(rules).log_likelihoods(outcomes)
    return {
        "folds": rules.folds,
        "penalties": [{"l2": l2, "log_likelihood": value} for l2, value in zip(rules.penalties, values, strict=True)],
    }


def fitted_to(value: Fitted) -> Stored:
    """For a checkpoint."""
    header, blobs = artefacts.coefficients_to(value.coefficients)
    return {"coefficients": header, "l2": value.l2, "record": value.record}, blobs


def fitted_from(header: dict[str, Any], blobs: Blobs) -> Fitted:
    """Inverse of `fitted_to`."""
    return Fitted(artefacts.coefficients_from(header["coefficients"], blobs), header["l2"], header["record"])
