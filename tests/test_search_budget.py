"""A search whose gradients run out before its end: the model is the best fit so far, and the record says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from party_agent.estimation import fitted_of, sequence_rules, stepwise
from protocols.logistic.party import FitRules, FitSequence
from protocols.logistic.search import Moments
from protocols.recipe import Recipe
from tests.reference.pooled import damped_newton
from tests.simulator import Stages, consortium

L2 = 2.0
RECIPE = Recipe.model_validate({"model": {"search": "stepwise", "l2": L2}})
RULES = sequence_rules(RECIPE)


@dataclass
class Played:
    """A training by stepwise search, beside its pooled data."""

    tables: Any
    sequences: dict[str, FitSequence]
    pooled: NDArray[np.float64]  # the fit of all features on pooled columns, intercept first
    errors: NDArray[np.float64]  # its standard errors

    def weights(self, fit: int) -> NDArray[np.float64]:
        own = [self.sequences[name].fits[fit].weights for name in self.tables]
        return np.concatenate([[self.sequences["bank"].fits[fit].intercept], *own])


@dataclass(frozen=True)
class Pooled:
    """Moments of all features that did not open in the protocol."""

    moments: Moments


class Consortium:
    """Two parties; every training is one of its own on the same bins and masks."""

    def __init__(self, features: int, strength: float) -> None:
        self._data = consortium(1, rows=1800, features=features, levels=5, strength=strength)
        before = Stages(self._data, seed="search")
        self._rows = before.encrypt()
        self._tables = before.bin(self._rows)
        self._names = before.parties.all

    def search(self, most_gradients: int | None = None) -> Played:
        owners = {feature.alias: name for name in self._names for feature in self._tables[name].features}
        blocks = [self._tables[name].design / (1 << 16) for name in self._names]
        x, y = np.concatenate([np.ones((1800, 1)), *blocks], axis=1), self._data.label
        weights = damped_newton(x, y, L2)
        z = x @ weights
        p = 1 / (1 + np.exp(-z))
        w = p * (1 - p)
        curvature = (x.T * w) @ x
        moments = Moments(curvature, x.T @ (w * z + y - p), tuple(owners), owners, len(y))
        director = stepwise(RECIPE, owners, Pooled(moments))
        rules = FitRules(L2, max_gradients=most_gradients, sequence=RULES)
        stages = Stages(self._data, seed=f"at most {most_gradients}", rules=rules, director=director)
        errors = np.sqrt(np.diag(np.linalg.inv(curvature)))
        return Played(self._tables, stages.train_sequence(self._rows, self._tables, {}), weights, errors)


@pytest.fixture(scope="module")
def weak() -> Consortium:
    return Consortium(features=5, strength=0.2)


@pytest.fixture(scope="module")
def whole(weak: Consortium) -> Played:
    return weak.search()


def test_the_model_of_a_spent_budget_is_the_best_fit_so_far_and_the_record_says_so(
    weak: Consortium, whole: Played
) -> None:
    first, *later = whole.sequences["bank"].outcomes
    assert whole.sequences["bureau"].chosen == len(later) > 0
    assert all(sum(map(len, outcome.plan.dropped.values())) for outcome in later)
    labels = 1  # a column of label sums
    short = weak.search(first.gradients + labels + later[0].gradients - 1)
    for name, ended in short.sequences.items():
        assert [fit.converged for fit in ended.fits] == [True, False]
        fitted = fitted_of(name, ended, RULES, RECIPE, short.tables[name])
        assert fitted.record is not None
        assert (fitted.record["fits"], fitted.record["within_budget"]) == (2, False)
        assert [row["model"] for row in fitted.record["path"]] == [True, False]
        assert fitted.dropped == {}
        assert np.array_equal(fitted.coefficients.weights, ended.fits[0].weights)
    assert np.abs((short.weights(0) - short.pooled) / short.errors).max() < 0.1
    record = fitted_of("bank", whole.sequences["bank"], RULES, RECIPE, whole.tables["bank"]).record
    assert record is not None
    assert record["within_budget"]


def test_a_fit_of_all_features_that_no_other_beats_is_taken_to_its_end() -> None:
    played = Consortium(features=3, strength=0.5).search()  # the least: nothing may be left out
    for name, ended in played.sequences.items():
        assert [outcome.plan.loose for outcome in ended.outcomes] == [True, False]
        assert ended.chosen == 1
        record = fitted_of(name, ended, RULES, RECIPE, played.tables[name]).record
        assert record is not None
        assert record["within_budget"]
    assert np.abs(played.weights(0) - played.pooled).max() > 1e-4
    assert np.abs(played.weights(1) - played.pooled).max() < 5e-5
