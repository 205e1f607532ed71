"""A party's own columns in the fit: their values, bins, penalties, and the preconditioner of any one fit."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from protocols.binning.table import BinningTable
from protocols.errors import LocalProtocolError, ModelError
from protocols.fixed_point import FEATURE_BITS, FEATURE_LIMIT, FloatArray, IntArray

_ONE = 1 << FEATURE_BITS


class OwnDesign:
    """The columns of one party; the label owner's first is the intercept's, which no penalty and no plan touches.

    columns: X_P at 2^16, shape (n, d); bins: per column the bin of each row and the value of each bin.
    rate: the bad rate that the fit starts from, if another than the table's.
    """

    def __init__(self, table: BinningTable, *, intercept: bool, rate: float | None = None) -> None:
        self._start_rate = rate
        self._rate = table.bads / table.rows
        self.intercept = intercept
        self.aliases = tuple(feature.alias for feature in table.features)
        self.columns: IntArray = table.design
        if np.abs(self.columns).max() > FEATURE_LIMIT:
            raise LocalProtocolError("FEATURE_RANGE", "a feature value exceeds 8 in absolute value")
        self.bins = [(table.codes[:, j], feature.values) for j, feature in enumerate(table.features)]
        if intercept:
            ones = np.full((table.rows, 1), _ONE, dtype=np.int64)
            self.columns = np.concatenate([ones, self.columns], axis=1)
            self.bins.insert(0, (np.zeros(table.rows, dtype=np.int64), np.array([_ONE])))
        self._values = self.columns / _ONE
        self._curvature = self._rate * (1 - self._rate) * (self._values.T @ self._values)

    def scale_curvature(self, factor: float) -> None:
        """Take p (1 - p) times `factor` in every preconditioner: what sample weights make of it."""
        self._curvature = factor * self._curvature

    def active(self, dropped: Collection[str]) -> NDArray[np.bool_]:
        """Which columns are in a fit, shape (d,)."""
        kept = [alias not in dropped for alias in self.aliases]
        return np.array([True, *kept] if self.intercept else kept)

    def penalty(self, l2: float) -> FloatArray:
        """The L2 weight of each column, shape (d,)."""
        penalty = np.full(self.columns.shape[1], l2)
        if self.intercept:
            penalty[0] = 0.0
        return penalty

    def preconditioner(self, l2: float, share: float, active: NDArray[np.bool_]) -> FloatArray:
        """M_P = (p (1 - p) X_P^T X_P share + lambda I)^-1 over the active columns, zero elsewhere; shape (d, d).

        share: the fit's share of the rows; the excluded ones are a random choice that this party need not know.
        Raises: ModelError: TRACE_TOO_LARGE.
        """
        matrix = np.zeros_like(self._curvature)
        own = np.ix_(active, active)
        try:
            inverse = np.linalg.inv(share * self._curvature[own] + np.diag(self.penalty(l2)[active]))
        except np.linalg.LinAlgError as error:
            raise trace_too_large() from error
        matrix[own] = (inverse + inverse.T) / 2
        return matrix

    def signs(
        self, weights: FloatArray, gradient: FloatArray, l2: float, active: NDArray[np.bool_], tolerance: float
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Aliases in a fit whose coefficient is positive; aliases left out whose coefficient would be negative.

        The latter by the gradient, shape (d,), where it is well above what the tolerance leaves.
        """
        scale = np.sqrt(np.diag(self._curvature) + self.penalty(l2))
        positive = active & (weights > 0)
        inward = ~active & (gradient > 10 * tolerance * scale)
        first = int(self.intercept)
        columns = list(enumerate(self.aliases, start=first))
        return tuple(a for j, a in columns if positive[j]), tuple(a for j, a in columns if inward[j])

    def start(self) -> FloatArray:
        """w = 0, b = logit(p), p the bad rate, weighted if rows are."""
        start = np.zeros(self.columns.shape[1])
        rate = self._rate if self._start_rate is None else self._start_rate
        if self.intercept:
            start[0] = math.log(rate / (1 - rate))
        return start

    def logits(self, weights: FloatArray) -> FloatArray:
        """u_P = X_P w_P, shape (n,)."""
        logits: FloatArray = self._values @ weights
        return logits


def trace_too_large() -> ModelError:
    """The error of a preconditioner whose trace exceeds 50, in all."""
    return ModelError(
        "TRACE_TOO_LARGE",
        "the features are too collinear for this L2 weight: the preconditioner's trace exceeds 50",
        "raise the L2 weight (model.l2) or lower selection.maximum_correlation",
    )
