"""What the label owner could do alone: the same method on its own columns, for the sentence 'up from ... alone'."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from party_agent.dataset import Table
from party_agent.report import Baseline
from party_agent.validation import ranking_figures
from protocols.binning.table import BinningTable
from protocols.errors import LocalProtocolError
from protocols.fixed_point import FEATURE_BITS, FloatArray
from protocols.logistic.weights import SampleWeights


def own_columns(
    bins: BinningTable,
    table: Table,
    training: NDArray[np.bool_],
    test: NDArray[np.bool_],
    l2: float,
    weights: SampleWeights | None = None,
) -> Baseline:
    """AUC and KS on the test rows of a fit on the training rows, weighted or not, on the own model features alone."""
    if table.label is None:
        raise LocalProtocolError("ROLE_INVALID", "only the label owner has a baseline")
    columns = {column.name: column.values for column in table.columns}
    values = [f.values[f.codes(columns[f.name])] / (1 << FEATURE_BITS) for f in bins.features]
    x = np.column_stack([np.ones(len(table.ids)), *values])
    coefficients = fit(x[training], table.label[training], l2, None if weights is None else weights.values)
    logits = x[test] @ coefficients
    return Baseline(*ranking_figures(table.label[test], logits), logits)


def fit(x: FloatArray, label: NDArray[np.int64], l2: float, sample_weights: FloatArray | None = None) -> FloatArray:
    """Weights of a logistic regression whose first column, the intercept, is not penalised, by a damped Newton method.

    Minimises sum s (log(1 + exp(z)) - y z) + l2/2 |w|^2, s the sample weights or 1. x: shape (n, d); undamped steps
    fail on collinear columns.
    """
    s = np.ones(len(label)) if sample_weights is None else sample_weights
    penalty = np.full(x.shape[1], l2)
    penalty[0] = 0.0
    rate = float(np.average(label, weights=s))
    w = np.zeros(x.shape[1])
    w[0] = np.log(rate / (1 - rate))

    def loss(weights: FloatArray) -> float:
        z = x @ weights
        return float(s @ (np.logaddexp(0, z) - label * z) + 0.5 * penalty @ weights**2)

    for _ in range(100):
        p = 1 / (1 + np.exp(-(x @ w)))
        gradient = x.T @ (s * (p - label)) + penalty * w
        hessian = (x.T * (s * p * (1 - p))) @ x + np.diag(penalty)
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        size = 1.0
        while loss(w - size * step) > loss(w) - 1e-4 * size * float(gradient @ step) and size > 1e-8:
            size /= 2
        w = w - size * step
        if np.abs(size * step).max() < 1e-12:
            break
    return w
