"""What the label owner may do with a sequence of fits: cross-validate a penalty, keep signs sound, select features.

Each director is plain arithmetic on the fits done so far, so that a sequence can be followed and repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from protocols.errors import ModelError
from protocols.logistic.plan import FitPlan, Outcome, SequenceRules
from protocols.logistic.search import (
    Moments,
    QuadraticSearch,
    SearchRules,
    criterion_of,
    dropped_by_party,
    kept,
)

MOST_REFITS = 12


class CrossValidation:
    """Every penalty on every fold by warm starts, then one fit on all rows with the best penalty.

    The penalties run from the first to the last; the fits of one penalty share their curvature pairs, and a fold starts
    where it ended at the penalty before, moved as the first fold moved. The best penalty has the greatest out-of-fold
    log-likelihood; of equal ones, the greater penalty.
    """

    def __init__(self, rules: SequenceRules) -> None:
        self._penalties = rules.penalties
        self._folds = rules.folds

    def next_fit(self, done: Sequence[Outcome]) -> FitPlan | None:
        """See `Director`."""
        total = len(self._penalties) * self._folds
        if len(done) < total:
            return self._fold_fit(len(done))
        if len(done) > total:
            return None
        best = self.best(done)
        return FitPlan(penalty=best, plus=(best * self._folds,), best_effort=True)

    def chosen(self, done: Sequence[Outcome]) -> int:
        """See `Director`. Without the last fit there is no model.

        Raises: ModelError: NOT_CONVERGED.
        """
        if len(done) <= len(self._penalties) * self._folds or not done[-1].converged:
            raise ModelError(
                "NOT_CONVERGED",
                "the gradient budget was spent before the cross-validation and its last fit ended",
                "name fewer penalties or folds, or keep fewer features",
            )
        return len(done) - 1

    def best(self, done: Sequence[Outcome]) -> int:
        """The penalty's place in the recipe's list."""
        scores = self.log_likelihoods(done)
        return max(range(len(scores)), key=lambda i: (scores[i], self._penalties[i]))

    def log_likelihoods(self, done: Sequence[Outcome]) -> list[float]:
        """Out-of-fold log-likelihood of each penalty whose folds are all done."""
        values = [done[i].log_likelihood for i in range(min(len(done), len(self._penalties) * self._folds))]
        parts = [values[i : i + self._folds] for i in range(0, len(values), self._folds)]
        return [math.fsum(v for v in part if v is not None) for part in parts if len(part) == self._folds]

    def _fold_fit(self, index: int) -> FitPlan:
        penalty, fold = divmod(index, self._folds)
        plan = FitPlan(penalty, loose=True, fold=fold, likelihood=True, best_effort=True)
        first, before = penalty * self._folds, (penalty - 1) * self._folds
        if index == 0:
            return plan
        if fold == 0:
            return replace(plan, plus=(before,))
        if penalty == 0:
            return replace(plan, plus=(index - 1,), history=index - 1)
        return replace(plan, plus=(before + fold, first), minus=(before,), history=first)


class PenaltyPath:
    """One fit a penalty, each from the end of the one before; the model is the last."""

    def __init__(self, rules: SequenceRules) -> None:
        self._penalties = rules.penalties

    def next_fit(self, done: Sequence[Outcome]) -> FitPlan | None:
        """See `Director`."""
        if len(done) == len(self._penalties):
            return None
        return FitPlan(len(done), plus=(len(done) - 1,) if done else (), best_effort=bool(done))

    def chosen(self, done: Sequence[Outcome]) -> int:
        """See `Director`: the last that converged."""
        return _last_converged(done)


class SignConstrained:
    """The fit under 'no positive coefficient', by active sets: a higher WOE is safer, so a sound coefficient is not
    above zero.

    Coefficients above zero are left out; when there are none, features left out that would have a sound one come back.
    What is left fulfils the Kuhn-Tucker conditions of the constrained fit, which is convex, so the order does not
    matter. Source: Lawson & Hanson, Solving Least Squares Problems, chapter 23.
    """

    def __init__(self, penalty: int = 0) -> None:
        self._penalty = penalty

    def next_fit(self, done: Sequence[Outcome]) -> FitPlan | None:
        """See `Director`."""
        if not done:
            return FitPlan(self._penalty, signs=True)
        last = done[-1]
        positive = {party: report.positive for party, report in last.signs.items()}
        inward = {party: report.inward for party, report in last.signs.items()}
        if any(positive.values()):
            dropped = {p: (*last.plan.dropped.get(p, ()), *positive[p]) for p in positive}
        elif any(inward.values()):
            dropped = {p: tuple(a for a in last.plan.dropped.get(p, ()) if a not in inward[p]) for p in inward}
        else:
            return None
        seen = [{p: set(a) for p, a in outcome.plan.dropped.items() if a} for outcome in done]
        if {p: set(a) for p, a in dropped.items() if a} in seen:
            return None  # within the noise of the gradients the two sets are equally good
        return FitPlan(self._penalty, dropped=dropped, plus=(len(done) - 1,), signs=True, best_effort=True)

    def chosen(self, done: Sequence[Outcome]) -> int:
        """See `Director`: the last converged fit, which must be free of coefficients above zero.

        Raises: ModelError: NOT_CONVERGED.
        """
        sound = [
            i
            for i, outcome in enumerate(done)
            if outcome.converged and not any(report.positive for report in outcome.signs.values())
        ]
        if not sound:
            raise ModelError(
                "NOT_CONVERGED",
                "the gradient budget was spent before every coefficient had a sound sign",
                "exclude features that overlap, or keep fewer",
            )
        return sound[-1]


class Stepwise:
    """Search on the quadratic approximation, exact refit of its end, search again around that: until no better.

    The fit of all features only starts the search, and stops at the loose tolerance; where it proves the best, it is
    taken to its end last.

    Args: owners: party by alias, of all features; moments: of the fit that `next_fit` is asked after, or None where
        they do not open: then the search goes on with those of the first; exact: -2 log L of a fit plus its cost.
    """

    def __init__(
        self,
        owners: Mapping[str, str],
        rules: SearchRules,
        moments: Callable[[int], Moments | None],
        penalty: int = 0,
        most: int = MOST_REFITS,
    ) -> None:
        self._owners = dict(owners)
        self._rules = rules
        self._moments = moments
        self._penalty = penalty
        self._most = most
        self._search: QuadraticSearch | None = None

    def next_fit(self, done: Sequence[Outcome]) -> FitPlan | None:
        """See `Director`: first all features, then the end of each search that was not fitted yet."""
        if not done:
            return FitPlan(self._penalty, loose=True, likelihood=True)
        return self._end_of_search(done) or self._end_of_fit(done)

    def _end_of_search(self, done: Sequence[Outcome]) -> FitPlan | None:
        """An exact fit of what the next search ends with; None if it was fitted."""
        if len(done) > self._most:
            return None
        best = self.chosen(done)
        if best != len(done) - 1 and len(done) > 2:
            return None  # the last refit was no better than one before it
        moments = self._moments(len(done) - 1)
        if moments is not None:
            self._search = QuadraticSearch(moments, self._rules)
        if self._search is None:
            return None
        model = self._search.best()
        if model in [self._model(outcome) for outcome in done]:
            return None
        return FitPlan(
            self._penalty,
            dropped=dropped_by_party(model, self._owners),
            plus=(best,),
            likelihood=True,
            best_effort=True,
        )

    def _end_of_fit(self, done: Sequence[Outcome]) -> FitPlan | None:
        """The best fit taken on from the loose tolerance to its end; None if it was."""
        best = self.chosen(done)
        plan = done[best].plan
        return replace(plan, loose=False, plus=(best,), history=best, best_effort=True) if plan.loose else None

    def chosen(self, done: Sequence[Outcome]) -> int:
        """See `Director`: of the converged fits, that of the least criterion; of two of its features, the exact one.

        Raises: ModelError: NOT_CONVERGED.
        """
        ended = [i for i, outcome in enumerate(done) if outcome.converged and outcome.log_likelihood is not None]
        if not ended:
            raise ModelError("NOT_CONVERGED", "no fit of the selection ended within the gradient budget")
        model = self._model(done[min(ended, key=lambda i: (self._value(done[i]), i))])
        return min((i for i in ended if self._model(done[i]) == model), key=lambda i: (done[i].plan.loose, i))

    def _model(self, outcome: Outcome) -> frozenset[str]:
        return kept(outcome.plan.dropped, self._owners)

    def _value(self, outcome: Outcome) -> float:
        if outcome.log_likelihood is None:
            return math.inf
        features = len(self._model(outcome))
        return criterion_of(outcome.log_likelihood, features, outcome.rows, self._rules.criterion)


def _last_converged(done: Sequence[Outcome]) -> int:
    return max(i for i, outcome in enumerate(done) if outcome.converged)
