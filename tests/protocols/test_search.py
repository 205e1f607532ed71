"""Selection from moments against every sub-model fitted, and coefficients of one sign against a bounded optimiser."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.optimize import minimize

from protocols.binning.merging import merge
from protocols.binning.prebins import FeatureKind, floor_rows, prebin
from protocols.binning.weight_of_evidence import woe_units
from protocols.errors import ModelError, RecipeError
from protocols.logistic.directors import MOST_REFITS, SignConstrained, Stepwise
from protocols.logistic.plan import Director, Outcome, SignReport
from protocols.logistic.search import (
    Criterion,
    Direction,
    Moments,
    QuadraticSearch,
    SearchRules,
    criterion_of,
    kept,
)
from tests.reference.pooled import damped_newton

Floats = NDArray[np.float64]
L2 = 1.0


class Pooled:
    """WOE columns of two parties in one place, fitted model by model. columns: by party, shape (n, d)."""

    def __init__(self, columns: dict[str, Floats], label: NDArray[np.int64]) -> None:
        self.owners = {f"{party}.{j}": party for party, x in columns.items() for j in range(x.shape[1])}
        self.names = tuple(self.owners)
        self.x = np.concatenate([np.ones((len(label), 1)), *columns.values()], axis=1)
        self.y = label
        self.fits: dict[frozenset[str], tuple[Floats, float]] = {}

    def fit(self, model: frozenset[str]) -> tuple[Floats, float]:
        """Weights, zero where a feature is left out, and log-likelihood."""
        if model not in self.fits:
            columns = [0, *(j for j, name in enumerate(self.names, start=1) if name in model)]
            weights = np.zeros(self.x.shape[1])
            weights[columns] = damped_newton(self.x[:, columns], self.y, L2, tolerance=1e-8)
            z = self.x @ weights
            self.fits[model] = weights, float(np.sum(self.y * z - np.logaddexp(0, z)))
        return self.fits[model]

    def value(self, model: frozenset[str], criterion: Criterion = Criterion.BIC) -> float:
        return criterion_of(self.fit(model)[1], len(model), len(self.y), criterion)

    def moments(self, weights: Floats) -> Moments:
        z = self.x @ weights
        p = 1 / (1 + np.exp(-z))
        w = p * (1 - p)
        return Moments((self.x.T * w) @ self.x, self.x.T @ (w * z + self.y - p), self.names, self.owners, len(self.y))

    def play(self, director: Director) -> list[Outcome]:
        done: list[Outcome] = []
        while (plan := director.next_fit(done)) is not None:
            model = kept(plan.dropped, self.owners)
            weights, log_likelihood = self.fit(model)
            gradient = self.x.T @ (1 / (1 + np.exp(-self.x @ weights)) - self.y)
            columns = list(enumerate(self.names, start=1))
            signs = {
                party: SignReport(
                    tuple(a for j, a in columns if self.owners[a] == party and weights[j] > 0),
                    tuple(a for j, a in columns if self.owners[a] == party and a not in model and gradient[j] > 1e-6),
                )
                for party in set(self.owners.values())
            }
            done.append(Outcome(plan, 5, 1e-5, True, log_likelihood, len(self.y), signs))
        return done


@pytest.fixture(scope="module")
def uci(data_folder: Path) -> Pooled:
    """Five columns of each party of `uci_default`, every third row."""
    tables = [pd.read_csv(data_folder / "uci_default" / f"{p}.csv", dtype={"id": str}) for p in ("bank", "bureau")]
    bank, bureau = (table.drop_duplicates("id") for table in tables)
    rows = bank.merge(bureau, on="id").sort_values("id").iloc[::3]
    label = rows["y"].to_numpy(np.int64)
    wanted = {
        "bank": ["LIMIT_BAL", "EDUCATION", "AGE", "PAY_AMT1", "PAY_AMT4"],
        "bureau": ["PAY_0", "PAY_2", "PAY_4", "PAY_6", "BILL_AMT6"],
    }
    columns = {
        party: np.stack([_woe(rows[name].to_numpy(float), label) for name in names], axis=1)
        for party, names in wanted.items()
    }
    return Pooled(columns, label)


def _woe(values: Floats, label: NDArray[np.int64]) -> Floats:
    binning = prebin(values, FeatureKind.NUMERIC, "x", special=(), floor=floor_rows(len(label)))
    assert binning is not None
    codes = binning.codes(values)
    rows, bads = np.bincount(codes), np.bincount(codes, weights=label).astype(np.int64)
    merged = np.array(merge(rows, bads, len(rows)))[codes]
    units = woe_units(np.bincount(merged), np.bincount(merged, weights=label).astype(np.int64))
    values_: Floats = units[merged] / 1e4
    return values_


def every_model(pooled: Pooled, least: int) -> list[frozenset[str]]:
    own = [[name for name in pooled.names if pooled.owners[name] == party] for party in ("bank", "bureau")]
    parts = [[set(c) for k in range(least, len(p) + 1) for c in combinations(p, k)] for p in own]
    return [frozenset(a | b) for a in parts[0] for b in parts[1]]


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_stepwise_ends_within_two_units_of_every_model_fitted(uci: Pooled, direction: Direction) -> None:
    best = min(uci.value(model) for model in every_model(uci, 3))
    assert uci.value(frozenset(uci.names)) > best + 2  # else there is nothing to select
    weights: list[Floats] = []
    director = Stepwise(uci.owners, SearchRules(direction, l2=L2), lambda i: uci.moments(weights[i]))
    done = uci.play(_noting(director, uci, weights))
    assert len(done) - 1 <= MOST_REFITS
    assert uci.value(kept(done[director.chosen(done)].plan.dropped, uci.owners)) <= best + 2


def _noting(director: Stepwise, pooled: Pooled, weights: list[Floats]) -> Director:
    class Noting:
        def next_fit(self, done: list[Outcome]) -> object:
            weights[:] = [pooled.fit(kept(outcome.plan.dropped, pooled.owners))[0] for outcome in done]
            return director.next_fit(done)

        def chosen(self, done: list[Outcome]) -> int:
            return director.chosen(done)

    return Noting()  # type: ignore[return-value]


def test_the_quadratic_value_differs_by_little_from_the_criterion_near_the_fit(uci: Pooled) -> None:
    everything = frozenset(uci.names)
    search = QuadraticSearch(uci.moments(uci.fit(everything)[0]), SearchRules(l2=L2))
    for name in uci.names:
        exact = uci.value(everything - {name}) - uci.value(everything)
        assert search.value(everything - {name}) - search.value(everything) == pytest.approx(exact, abs=1, rel=0.2)


def test_the_criterion_is_that_of_statsmodels(uci: Pooled) -> None:
    result = sm.Logit(uci.y, uci.x).fit(disp=0)
    features = uci.x.shape[1] - 1
    assert criterion_of(result.llf, features, len(uci.y), Criterion.BIC) == pytest.approx(result.bic, rel=1e-12)
    assert criterion_of(result.llf, features, len(uci.y), Criterion.AIC) == pytest.approx(result.aic, rel=1e-12)


def test_a_search_keeps_three_features_of_each_party_and_those_that_are_forced(uci: Pooled) -> None:
    moments = uci.moments(uci.fit(frozenset(uci.names))[0])
    greedy = replace_cost(moments)
    for direction in ("forward", "backward", "both"):
        model = QuadraticSearch(greedy, SearchRules(direction, forced=frozenset({"bank.2"}))).best()
        assert "bank.2" in model
        assert sorted(uci.owners[name] for name in model) == ["bank"] * 3 + ["bureau"] * 3


def replace_cost(moments: Moments) -> Moments:
    """Moments of so many rows that no feature is worth its cost."""
    return Moments(moments.curvature, moments.score / 1e6, moments.features, moments.owners, moments.rows)


def test_collinear_columns_without_a_penalty_are_an_error_and_bad_moments_too() -> None:
    owners = {"a": "bank", "b": "bank"}
    twins = Moments(np.ones((3, 3)), np.ones(3), ("a", "b"), owners, 100)
    with pytest.raises(ModelError, match="SEARCH_SINGULAR"):
        QuadraticSearch(twins, SearchRules(least=0)).best()
    with pytest.raises(RecipeError, match="MOMENTS_INVALID"):
        Moments(np.ones((2, 2)), np.ones(3), ("a", "b"), owners, 100)


def bounded(pooled: Pooled) -> Floats:
    penalty = np.array([0.0, *[L2] * len(pooled.names)])

    def loss(w: Floats) -> tuple[float, Floats]:
        z = pooled.x @ w
        gradient = pooled.x.T @ (1 / (1 + np.exp(-z)) - pooled.y) + penalty * w
        return float(np.sum(np.logaddexp(0, z) - pooled.y * z) + 0.5 * penalty @ w**2), gradient

    limits = [(None, None), *[(None, 0.0)] * len(pooled.names)]
    found = minimize(loss, np.zeros(len(limits)), jac=True, bounds=limits, method="L-BFGS-B", tol=1e-14)
    result: Floats = found.x
    return result


@pytest.mark.parametrize("seed", range(4))
def test_coefficients_of_one_sign_are_those_of_the_bounded_optimum(seed: int) -> None:
    state = np.random.default_rng(seed)
    common = state.normal(size=(2000, 1))
    x = common + 0.35 * state.normal(size=(2000, 12))
    label = (state.random(2000) < 1 / (1 + np.exp(1 + x @ np.linspace(1.0, -0.5, 12) / 2))).astype(np.int64)
    pooled = Pooled({"bank": x[:, :6], "bureau": x[:, 6:]}, label)
    director = SignConstrained()
    done = pooled.play(director)
    weights = pooled.fit(kept(done[director.chosen(done)].plan.dropped, pooled.owners))[0]
    assert len(done) > 1
    assert np.abs(weights - bounded(pooled)).max() < 1e-3
