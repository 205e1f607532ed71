"""Stepwise selection by BIC or AIC on the quadratic approximation of the log-likelihood, from moments alone.

Source: Lawless & Singhal, Efficient screening of nonnormal regression models, Biometrics 1978: with the weights of one
fit, the deviance of every sub-model is nearly that of a weighted least squares, so that one matrix serves a search.
Learns: nothing; the moments are in the hands of whoever searches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import numpy as np

from protocols.errors import ModelError, RecipeError
from protocols.fixed_point import FloatArray

WIDTH = 20  # models of a size that a search follows

Direction = Literal["forward", "backward", "both"]


class Criterion(Enum):
    """What a parameter costs, in units of twice the log-likelihood."""

    AIC = "aic"
    BIC = "bic"

    def per_parameter(self, rows: int) -> float:
        """2 for AIC, ln n for BIC."""
        return 2.0 if self is Criterion.AIC else math.log(rows)


@dataclass(frozen=True)
class Moments:
    """Weighted second moments at the end of one fit, over all its columns; the first column is the intercept.

    curvature: X^T W X, shape (d, d), W = p (1 - p); score: X^T W v, shape (d,), v = z + (y - p) / (p (1 - p)) the
    working response; features: alias of each column after the first; owners: party by alias; rows: n.
    """

    curvature: FloatArray = field(repr=False)
    score: FloatArray = field(repr=False)
    features: tuple[str, ...]
    owners: Mapping[str, str]
    rows: int

    def __post_init__(self) -> None:
        columns = len(self.features) + 1
        sound = self.curvature.shape == (columns, columns) and self.score.shape == (columns,)
        if not sound or not set(self.features) <= set(self.owners) or not np.isfinite(self.curvature).all():
            raise RecipeError("MOMENTS_INVALID", "the moments do not fit the features they are said to be of")


@dataclass(frozen=True)
class SearchRules:
    """direction: forward from the forced features, backward from all, or both; criterion; least: features that each
    party keeps (PROTOCOLS.md section 3, "Guards"); forced: aliases that stay; l2: penalty of each feature.
    """

    direction: Direction = "both"
    criterion: Criterion = Criterion.BIC
    least: int = 3
    forced: frozenset[str] = frozenset()
    l2: float = 0.0


class QuadraticSearch:
    """Sub-models of one fit, compared by twice the loss on the quadratic approximation plus a cost a parameter."""

    def __init__(self, moments: Moments, rules: SearchRules) -> None:
        self._moments = moments
        self._rules = rules
        self._cost = rules.criterion.per_parameter(moments.rows)
        self._known: dict[frozenset[str], float] = {}

    def value(self, model: frozenset[str]) -> float:
        """The criterion of a model, up to a constant that all models of these moments share.

        Twice the quadratic loss, w^T A w - 2 b^T w, at w = (A + lambda I)^-1 b over the model's columns.
        Raises: ModelError: SEARCH_SINGULAR: columns that are collinear without a penalty.
        """
        if model not in self._known:
            columns = [0, *(j for j, name in enumerate(self._moments.features, start=1) if name in model)]
            curvature = self._moments.curvature[np.ix_(columns, columns)]
            penalty = np.diag([0.0] + [self._rules.l2] * (len(columns) - 1))
            score = self._moments.score[columns]
            try:
                fitted = np.linalg.solve(curvature + penalty, score)
            except np.linalg.LinAlgError as error:
                raise ModelError(
                    "SEARCH_SINGULAR",
                    "the features are collinear and no penalty tells them apart",
                    "raise the L2 weight",
                ) from error
            self._known[model] = float(fitted @ curvature @ fitted - 2 * score @ fitted) + self._cost * len(columns)
        return self._known[model]

    def best(self) -> frozenset[str]:
        """The best model met in steps of one feature, down from all features, up from the forced ones, or both.

        Each step keeps the `WIDTH` best models of its size, so that one choice too early leads nowhere wrong. Of equal
        models the one whose aliases come first.
        """
        met: list[frozenset[str]] = []
        if self._rules.direction != "forward":
            met += self._descend({frozenset(self._moments.features)}, self._smaller)
        if self._rules.direction != "backward":
            met += self._descend({self._rules.forced & set(self._moments.features)}, self._larger)
        return min(filter(self._allowed, met), key=self._rank)

    def _descend(
        self, models: set[frozenset[str]], steps: Callable[[frozenset[str]], Iterator[frozenset[str]]]
    ) -> list[frozenset[str]]:
        """The best models of each size, as far as the steps lead."""
        met: list[frozenset[str]] = []
        while models:
            kept_models = sorted(models, key=self._rank)[:WIDTH]
            met += kept_models
            models = {other for model in kept_models for other in steps(model)}
        return met

    def _smaller(self, model: frozenset[str]) -> Iterator[frozenset[str]]:
        for name in model - self._rules.forced:
            if self._allowed(model - {name}):
                yield model - {name}

    def _larger(self, model: frozenset[str]) -> Iterator[frozenset[str]]:
        for name in set(self._moments.features) - model:
            yield model | {name}

    def _rank(self, model: frozenset[str]) -> tuple[float, list[str]]:
        return (self.value(model), sorted(model))

    def _allowed(self, model: frozenset[str]) -> bool:
        """Whether every party keeps enough of its features."""
        owners = [self._moments.owners[name] for name in self._moments.features]
        kept_by = [self._moments.owners[name] for name in model]
        return all(kept_by.count(owner) >= min(self._rules.least, owners.count(owner)) for owner in set(owners))


def criterion_of(log_likelihood: float, features: int, rows: int, criterion: Criterion) -> float:
    """-2 log L plus the cost of the features and the intercept, of an exact fit.

    >>> round(criterion_of(-100.0, 3, 1000, Criterion.BIC), 3)
    227.631
    """
    return -2 * log_likelihood + criterion.per_parameter(rows) * (features + 1)


def dropped_by_party(model: frozenset[str], owners: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The aliases of each party that a model leaves out."""
    left: dict[str, list[str]] = {party: [] for party in owners.values()}
    for name in sorted(owners):
        if name not in model:
            left[owners[name]].append(name)
    return {party: tuple(names) for party, names in left.items()}


def kept(dropped: Mapping[str, Sequence[str]], owners: Mapping[str, str]) -> frozenset[str]:
    """The aliases that a model keeps."""
    gone = {name for names in dropped.values() for name in names}
    return frozenset(name for name in owners if name not in gone)
