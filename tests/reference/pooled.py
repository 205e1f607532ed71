"""The plaintext twin: what one party would compute on pooled data, written from the specification.

WOE and IV from plain counts; L2-regularised logistic regression by damped Newton in doubles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def counts(codes: Integers, label: Integers, bins: int) -> tuple[list[int], list[int]]:
    """Rows and bads of each bin, by going through the rows."""
    rows, bads = [0] * bins, [0] * bins
    for code, y in zip(codes.tolist(), label.tolist(), strict=True):
        rows[code] += 1
        bads[code] += y
    return rows, bads


def woe(rows: Sequence[int], bads: Sequence[int]) -> list[float]:
    """ln(share of goods / share of bads) of each bin, rounded to 4 decimals, clipped to +-8."""
    n, total = sum(rows), sum(bads)
    exact = [math.log(((r - b) / (n - total)) / (b / total)) for r, b in zip(rows, bads, strict=True)]
    return [max(-8.0, min(8.0, round(value, 4))) for value in exact]


def information_value(rows: Sequence[int], bads: Sequence[int]) -> float:
    """sum (share of goods - share of bads) WOE, rounded to 3 decimals."""
    n, total = sum(rows), sum(bads)
    shares = [((r - b) / (n - total), b / total) for r, b in zip(rows, bads, strict=True)]
    return round(sum((good - bad) * math.log(good / bad) for good, bad in shares), 3)


def objective(w: Floats, x: Floats, y: Integers, l2: float, weights: Floats | float = 1.0) -> float:
    """Summed log loss, each row times its weight, plus l2/2 |w|^2 without the intercept, the first column of x."""
    z = x @ w
    return float(np.sum(weights * (np.logaddexp(0, z) - y * z)) + 0.5 * l2 * np.sum(w[1:] ** 2))


def damped_newton(
    x: Floats,
    y: Integers,
    l2: float,
    *,
    weights: Floats | float = 1.0,
    tolerance: float = 1e-11,
    most: int = 200,
) -> Floats:
    """The minimiser of `objective`: Newton steps, each halved until the objective falls enough (Armijo).

    Raises: ArithmeticError: no convergence.
    """
    penalty = np.full(x.shape[1], l2)
    penalty[0] = 0.0
    w = np.zeros(x.shape[1])
    w[0] = math.log(y.mean() / (1 - y.mean()))
    for _ in range(most):
        p = 1 / (1 + np.exp(-(x @ w)))
        gradient = x.T @ (weights * (p - y)) + penalty * w
        hessian = (x.T * (weights * p * (1 - p))) @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        if np.abs(step).max() < tolerance:
            return w
        now, length = objective(w, x, y, l2, weights), 1.0
        rounding = 1e-13 * abs(now)
        while length > 1e-8:
            if objective(w - length * step, x, y, l2, weights) <= now + rounding - 1e-4 * length * gradient @ step:
                break
            length /= 2
        w = w - length * step
    raise ArithmeticError("the twin did not converge")


def inflation(x: Floats, column: int) -> float:
    """VIF of a column: 1 / (1 - R^2) of its least-squares regression on the others and an intercept."""
    others = np.column_stack([np.ones(len(x)), np.delete(x, column, axis=1)])
    y = x[:, column]
    residual = y - others @ np.linalg.lstsq(others, y, rcond=None)[0]
    return float(((y - y.mean()) ** 2).sum() / max((residual**2).sum(), 1e-300))


def screened_across(
    x: Floats, iv: Sequence[int], owners: Sequence[str], largest_correlation: float, largest_vif: float
) -> list[int]:
    """Columns that stay by docs/binning.md, from pooled rows: correlation first, then VIF; a party keeps 3."""
    correlation = np.abs(np.corrcoef(x, rowvar=False))
    stays: list[int] = []
    waiting = sorted(range(len(iv)), key=lambda j: -iv[j])
    for j in list(waiting):
        if not any(correlation[j, k] > largest_correlation for k in stays):
            stays.append(j)
            waiting.remove(j)
    for j in waiting:
        if [owners[k] for k in stays].count(owners[j]) < 3:
            stays.append(j)
    while True:
        columns = sorted(stays)
        factors = {j: inflation(x[:, columns], place) for place, j in enumerate(columns)}
        high = [j for j in columns if factors[j] > largest_vif and [owners[k] for k in columns].count(owners[j]) > 3]
        if not high:
            return columns
        top = max(factors[j] for j in high)
        stays.remove(min((j for j in high if factors[j] > 0.999999 * top or factors[j] > 1e9), key=lambda j: iv[j]))
