"""How a recipe's estimation becomes a sequence of fits: what every party permits, what the label owner directs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from party_agent import artefacts
from party_agent.artefacts import Stored
from party_agent.checkpoint import Blobs, Checkpoints, pack_array, unpack_array
from protocols.binning.budget import label_budget
from protocols.binning.table import BinningTable
from protocols.errors import LabelLeakageError
from protocols.fixed_point import FloatArray
from protocols.logistic.directors import CrossValidation, SignConstrained, Stepwise
from protocols.logistic.party import Coefficients, FitSequence
from protocols.logistic.plan import Director, FitPlan, Outcome, SequenceRules, label_cost_of_fold
from protocols.logistic.search import Criterion, Moments, SearchRules, criterion_of
from protocols.moments.label_owner import Moments as OpenedMoments
from protocols.moments.of_fit import MomentsOfFit
from protocols.moments.screening import features_of
from protocols.recipe import Recipe
from protocols.roles import Parties
from protocols.row_account import RowAccount
from protocols.scoring.messages import LOGIT_UNITS
from protocols.session import Script

SEARCH = "search"
MOST_SIGN_FITS = 12
_SEARCH_STEP = 25  # units of 0.01 to which logits round that open for a search alone (ADR 18)


@dataclass(frozen=True)
class Fitted:
    """The fit that is the model. l2: its penalty; record: of the sequence, for the own report, if there is one;
    dropped: aliases that a selection left out, by party; at a provider, its own.
    """

    coefficients: Coefficients
    l2: float
    record: dict[str, Any] | None = field(default=None, repr=False)
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def sequence_rules(recipe: Recipe) -> SequenceRules | None:
    """Which fits this party takes part in, by the recipe that it accepted; None: a single one."""
    rules, model = recipe.validation, recipe.model
    if model.search != "none":
        return SequenceRules(model.most_refits + 2, (model.l2,), subsets=True, likelihoods=True)
    if model.sign_constraint:
        return SequenceRules(MOST_SIGN_FITS, (model.l2,), subsets=True, signs=True)
    if not rules.folds:
        return None
    penalties = rules.penalties or (model.l2,)
    fits = len(penalties) * rules.folds + 1
    return SequenceRules(fits, penalties, folds=rules.folds, likelihoods=True)


def director_of(
    rules: SequenceRules | None,
    recipe: Recipe,
    bins: BinningTable,
    parties: Parties,
    labels: RowAccount,
    search: Searched,
) -> Director | None:
    """The label owner's choice of fits.

    Args: labels: what its training rows have paid for label counts; search: where the moments of the first fit come.
    Raises: LabelLeakageError: LABEL_BUDGET. SmallIntersectionError: FOLDS_TOO_SMALL.
    """
    if rules is None:
        return None
    if recipe.model.search != "none":
        return stepwise(recipe, owners_of(bins, parties), search)
    if recipe.model.sign_constraint:
        return SignConstrained()
    rules.check(parties.label_owner, bins, parties.label_owner)  # what no budget mends is said first
    cost = label_cost_of_fold(bins)
    budget = label_budget(bins.rows, bins.bads, recipe.selection.label_budget_share)
    spent = float(labels.spent())
    if spent + rules.folds * cost > budget:
        raise LabelLeakageError(
            "LABEL_BUDGET",
            f"{rules.folds} folds would give {rules.folds * cost} more label counts, {spent:g} are given, and the "
            f"budget of these rows is {budget:.1f}",
            "cross-validate with fewer folds or features, or with more rows",
        )
    return _Paid(CrossValidation(rules), labels, cost)


def owners_of(bins: BinningTable, parties: Parties) -> dict[str, str]:
    """Party by alias of every model feature, in the order of the moments; as the label owner knows them."""
    return {feature.alias: feature.party for feature in features_of(bins, parties)}


def stepwise(recipe: Recipe, owners: Mapping[str, str], search: HasMoments) -> Stepwise:
    """The director of a stepwise search."""
    model = recipe.model
    rules = SearchRules(model.direction, Criterion(model.criterion), l2=model.l2)
    return Stepwise(owners, rules, lambda fit: search.moments if fit == 0 else None, most=model.most_refits)


class HasMoments(Protocol):
    """Where a search finds the moments of the fit of all features, once they are known."""

    @property
    def moments(self) -> Moments | None:
        """Of all features."""


class Searched:
    """The moments of the fit of all features, at the label owner: opened once, kept for a further attempt.

    Args: checkpoints: of the job; bins: that the moments are of.
    """

    def __init__(self, checkpoints: Checkpoints, bins: BinningTable) -> None:
        self._checkpoints = checkpoints
        self._of = artefacts.bins_identity(bins)
        self.moments: Moments | None = None
        if checkpoints.has(SEARCH):
            header, blobs = checkpoints.load(SEARCH)
            if header["of"] == self._of:
                curvature, score = unpack_array(blobs["curvature"]), unpack_array(blobs["score"])
                self.moments = Moments(curvature, score, tuple(header["owners"]), header["owners"], header["rows"])

    def keep(self, opened: OpenedMoments, owners: Mapping[str, str]) -> None:
        """Take over what opened."""
        self.moments = Moments(opened.matrix, opened.response_vector, tuple(owners), owners, opened.rows)
        blobs = {"curvature": pack_array(self.moments.curvature), "score": pack_array(self.moments.score)}
        self._checkpoints.save(SEARCH, {"of": self._of, "owners": dict(owners), "rows": opened.rows}, blobs)


def open_for_search(part: MomentsOfFit, search: Searched) -> Callable[[int, FloatArray], Script[None]]:
    """What is played after each fit of a search: after the first, moments open to the label owner, if it lacks them."""

    def after_fit(fit: int, partial: FloatArray) -> Script[None]:
        if fit:
            return
        logits = _SEARCH_STEP * np.rint(LOGIT_UNITS / _SEARCH_STEP * partial).astype(np.int64)
        if part.name != part.parties.label_owner:
            yield from part.follow(logits)
            return
        opened = yield from replace(part, willing=search.moments is None).lead(logits)
        if opened is not None:
            search.keep(opened, owners_of(part.table, part.parties))

    return after_fit


class _Paid:
    """A director whose folds the labels pay for, durably, before the first fit that leaves one out is asked for.

    Args: cost: of the label sums that a fold gives to all providers together (`label_cost_of_fold`).
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


def fitted_of(
    name: str, sequence: FitSequence, rules: SequenceRules | None, recipe: Recipe, bins: BinningTable
) -> Fitted:
    """The model of a training, and the record of how it was chosen. bins: of all features of the training."""
    coefficients = sequence.fits[sequence.chosen]
    if rules is None:
        return Fitted(coefficients, recipe.model.l2)
    outcomes = sequence.outcomes
    plan = outcomes[sequence.chosen].plan
    dropped = {party: tuple(aliases) for party, aliases in plan.dropped.items() if aliases}
    kept = [i for i, feature in enumerate(bins.features) if feature.alias not in dropped.get(name, ())]
    l2 = rules.penalties[plan.penalty]
    record = {
        "fits": len(sequence.fits),
        "gradients": sum(fit.gradients for fit in sequence.fits),
        "passes": sequence.fits[-1].passes,
        "l2": l2,
        "within_budget": all(fit.converged for fit in sequence.fits),
        "cross_validation": _cross_validated(outcomes, rules),
        "path": _path(outcomes, sequence.chosen, recipe, bins) if rules.subsets else None,
    }
    return Fitted(replace(coefficients, weights=coefficients.weights[kept]), l2, record, dropped)


def _path(outcomes: Sequence[Outcome], chosen: int, recipe: Recipe, bins: BinningTable) -> list[dict[str, Any]]:
    """The fits of a selection: what each left out and, where log-likelihoods opened to this party, its criterion."""
    total = sum(bins.shape.values())
    path = []
    for place, outcome in enumerate(outcomes):
        gone = sorted(alias for aliases in outcome.plan.dropped.values() for alias in aliases)
        value = None
        if outcome.log_likelihood is not None:
            rule = Criterion(recipe.model.criterion)
            value = criterion_of(outcome.log_likelihood, total - len(gone), outcome.rows, rule)
        path.append(
            {
                "left_out": gone,
                "log_likelihood": outcome.log_likelihood,
                "criterion": value,
                "gradients": outcome.gradients,
                "converged": outcome.converged,
                "loose": outcome.plan.loose,
                "model": place == chosen,
            }
        )
    return path


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
    rest = {"l2": value.l2, "record": value.record, "dropped": dict(value.dropped)}
    return {"coefficients": header} | rest, blobs


def fitted_from(header: dict[str, Any], blobs: Blobs) -> Fitted:
    """Inverse of `fitted_to`."""
    dropped = {party: tuple(aliases) for party, aliases in header["dropped"].items()}
    coefficients = artefacts.coefficients_from(header["coefficients"], blobs)
    return Fitted(coefficients, header["l2"], header["record"], dropped)
