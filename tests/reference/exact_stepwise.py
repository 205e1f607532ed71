"""Stepwise selection by exact fits alone: what a search on an approximation is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tests.reference.pooled import damped_newton

Floats = NDArray[np.float64]
Model = frozenset[int]


class ExactModels:
    """Logistic regressions on subsets of columns by Newton's method, each from the end of the one before.

    Args: x: shape (n, d), without an intercept; label: 0/1, shape (n,); l2: penalty of each column.
    """

    def __init__(self, x: Floats, label: NDArray[np.int64], l2: float = 0.0) -> None:
        self._x = np.column_stack([np.ones(len(label)), x])
        self._label = label
        self._l2 = l2
        self._last = np.zeros(self._x.shape[1])
        self._last[0] = math.log(label.mean() / (1 - label.mean()))
        self._bic: dict[Model, float] = {}

    def weights(self, model: Model) -> Floats:
        """Intercept first, in the order of the columns.

        Raises: ArithmeticError: no convergence.
        """
        columns = [0, *(j + 1 for j in sorted(model))]
        w = self._from_the_last(columns)
        if w is None:
            w = damped_newton(self._x[:, columns], self._label, self._l2, tolerance=1e-6)
        self._last[:] = 0.0
        self._last[columns] = w
        return w

    def _from_the_last(self, columns: list[int]) -> Floats | None:
        """Newton's method without damping, which is fast from a model nearby; None if it does not settle soon."""
        x, w = self._x[:, columns], self._last[columns].copy()
        penalty = np.full(len(columns), self._l2)
        penalty[0] = 0.0
        for _ in range(8):
            p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
            hessian = (x.T * (p * (1 - p))) @ x + np.diag(penalty)
            step = np.linalg.solve(hessian, x.T @ (p - self._label) + penalty * w)
            w -= step
            if np.abs(step).max() < 1e-4:  # the next one would be below 1e-7
                return w
            if np.abs(step).max() > 10:
                return None
        return None

    def bic(self, model: Model) -> float:
        """-2 log L plus ln n a parameter."""
        if model not in self._bic:
            w = self.weights(model)
            z = self._x[:, [0, *(j + 1 for j in sorted(model))]] @ w
            log_likelihood = float(self._label @ z - np.logaddexp(0, z).sum())
            self._bic[model] = -2 * log_likelihood + math.log(len(z)) * (len(model) + 1)
        return self._bic[model]


def exact_search(
    value: Callable[[Model], float],
    columns: int,
    direction: Literal["forward", "backward", "both"],
    allowed: Callable[[Model], bool] = lambda model: True,
) -> Model:
    """The end of a stepwise search: down from all columns; up from none, to the best allowed on the way; or, from both
    of these ends, one in or one out for as long as that is better, to the better of the two.
    """
    everything = frozenset(range(columns))

    def better(model: Model, neighbours: Callable[[Model], Iterable[Model]]) -> Model:
        while True:
            best = min(filter(allowed, neighbours(model)), key=value, default=model)
            if value(best) >= value(model):
                return model
            model = best

    def one_less(model: Model) -> list[Model]:
        return [model - {j} for j in model]

    def one_more(model: Model) -> list[Model]:
        return [model | {j} for j in everything - model]

    ends = []
    if direction != "forward":
        ends.append(better(everything, one_less))
    if direction != "backward":
        path: list[Model] = [frozenset()]
        while path[-1] != everything:
            path.append(min(one_more(path[-1]), key=value))
        ends.append(min(filter(allowed, path), key=value))
    if direction == "both":
        ends = [better(end, lambda model: one_less(model) + one_more(model)) for end in ends]
    return min(ends, key=value)
