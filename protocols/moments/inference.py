"""What follows from second moments: correlations, variance inflation, standard errors and tests of coefficients.

Source: McCullagh & Nelder, Generalized Linear Models (Fisher information X^T W X); Gray, JASA 1992 (penalised fits);
Belsley, Kuh & Welsch 1980 (variance inflation). Names and definitions are those of statsmodels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from statistics import NormalDist

import numpy as np

from protocols.errors import LocalProtocolError, ModelError
from protocols.fixed_point import FloatArray
from protocols.moments.label_owner import Moments
from protocols.moments.layout import MomentKind

MOST_INFLATION = 1e9  # a VIF from here on is said to be this: its feature repeats others, to the digits of a double
_LEAST_RECIPROCAL_CONDITION = 1e-12  # of the matrix with a unit diagonal: below, doubles leave no 4 digits


class Covariance(Enum):
    """Of a fit with L2 weight lambda, with H = X^T W X and H_l = H + diag(0, lambda, ..., lambda).

    CURVATURE: H_l^-1, the inverse curvature of the penalised log-likelihood (a posterior covariance under a normal
    prior). SANDWICH: H_l^-1 H H_l^-1, the sampling covariance of the penalised estimate about its own mean. Both are
    H^-1 at lambda = 0. Neither knows of the bias that a penalty brings, nor that features were selected.
    """

    CURVATURE = "curvature"
    SANDWICH = "sandwich"


@dataclass(frozen=True)
class CoefficientTests:
    """One entry a coefficient, in the order of the moments' columns (intercept first), shape (D,).

    z: estimate over standard error (Wald); p_values: two-sided, normal; low, high: confidence interval of `level`.
    """

    level: float
    estimates: FloatArray = field(repr=False)
    standard_errors: FloatArray = field(repr=False)
    z: FloatArray = field(repr=False)
    p_values: FloatArray = field(repr=False)
    low: FloatArray = field(repr=False)
    high: FloatArray = field(repr=False)


def covariance(moments: Moments, l2: float = 0.0, form: Covariance = Covariance.CURVATURE) -> FloatArray:
    """Covariance of the coefficients of a fit, from weighted moments at its optimum; shape (D, D).

    Args: l2: weight of the penalty in units of the summed loss; the intercept bears none.
    Raises: ModelError MOMENTS_SINGULAR; LocalProtocolError MOMENTS_KIND.
    """
    _require_kind(moments, MomentKind.WEIGHTED)
    information = moments.matrix
    penalty = np.full(len(information), l2)
    penalty[0] = 0.0
    inverse = _inverse(information + np.diag(penalty))
    return inverse if form is Covariance.CURVATURE else _symmetric(inverse @ information @ inverse)


def coefficient_tests(estimates: FloatArray, covariances: FloatArray, level: float = 0.95) -> CoefficientTests:
    """Wald tests and confidence intervals.

    Args: estimates: shape (D,); covariances: from `covariance`, shape (D, D).
    Raises: LocalProtocolError LEVEL_INVALID: the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise LocalProtocolError("LEVEL_INVALID", "a confidence level lies between 0 and 1")
    errors = np.sqrt(np.diag(covariances))
    z = estimates / errors
    p_values = np.array([math.erfc(abs(value) / math.sqrt(2)) for value in z.tolist()])
    reach = NormalDist().inv_cdf((1 + level) / 2) * errors
    return CoefficientTests(level, estimates, errors, z, p_values, estimates - reach, estimates + reach)


def correlation(moments: Moments) -> FloatArray:
    """Pearson correlations of the features, the intercept left out; shape (D - 1, D - 1). NaN: a feature is constant.

    Centred in integers, so that no digit is lost to the means.
    Raises: LocalProtocolError MOMENTS_KIND.
    """
    _require_kind(moments, MomentKind.PLAIN)
    gram, ones = moments.gram, moments.gram[0][0]
    size = range(1, len(gram))
    centred = [[gram[i][j] * ones - gram[0][i] * gram[0][j] for j in size] for i in size]
    spread = [math.sqrt(row[i]) if row[i] > 0 else math.nan for i, row in enumerate(centred)]
    matrix = np.array([[v / (spread[i] * spread[j]) for j, v in enumerate(row)] for i, row in enumerate(centred)])
    matrix[np.diag_indices_from(matrix)] = [math.nan if math.isnan(value) else 1.0 for value in spread]
    return matrix


def variance_inflation(moments: Moments) -> FloatArray:
    """VIF of each feature, 1 / (1 - R^2) of its regression on all others and an intercept; shape (D - 1,).

    It is the diagonal of the inverse correlation matrix.
    Raises: as `correlation`; ModelError MOMENTS_SINGULAR: a feature is constant, or a combination of others.
    """
    return np.diag(_inverse(correlation(moments))).copy()


def inflation_factors(correlation: FloatArray) -> FloatArray:
    """VIF of each feature, also where features repeat each other; shape (d,).

    The diagonal of the inverse, every eigenvalue taken as no less than 1e-12 of the largest: a feature outside of all
    exact dependencies has its true VIF, one inside has a huge one, which is stated as `MOST_INFLATION`, as that of a
    constant feature is.
    Args: correlation: of `correlation`, or a part of it; shape (d, d).

    >>> inflation_factors(np.array([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]])).round(4).tolist()
    [1.5625, 1.5625, 1.0]
    >>> inflation_factors(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).round(4).tolist()
    [1000000000.0, 1000000000.0, 1.0]
    """
    factors = np.full(len(correlation), MOST_INFLATION)
    varies = np.flatnonzero(~np.isnan(np.diag(correlation)))
    if len(varies):
        values, vectors = np.linalg.eigh(correlation[np.ix_(varies, varies)])
        floors = np.maximum(values, _LEAST_RECIPROCAL_CONDITION * values[-1])
        factors[varies] = np.minimum((vectors**2 / floors).sum(axis=1), MOST_INFLATION)
    return factors


def _inverse(matrix: FloatArray) -> FloatArray:
    """The inverse of a symmetric positive definite matrix, scaled to a unit diagonal first.

    Raises: ModelError MOMENTS_SINGULAR.
    """
    diagonal = np.diag(matrix)
    if not np.all(diagonal > 0):  # NaN included
        raise _singular()
    scale = np.sqrt(diagonal)
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    if values[0] <= _LEAST_RECIPROCAL_CONDITION * values[-1]:
        raise _singular()
    return _symmetric((vectors / values) @ vectors.T / np.outer(scale, scale))


def _symmetric(matrix: FloatArray) -> FloatArray:
    half: FloatArray = (matrix + matrix.T) / 2
    return half


def _require_kind(moments: Moments, kind: MomentKind) -> None:
    if moments.kind is not kind:
        raise LocalProtocolError("MOMENTS_KIND", f"this needs {kind.value} moments")


def _singular() -> ModelError:
    return ModelError(
        "MOMENTS_SINGULAR",
        "a feature is constant or, to 12 digits, a combination of others, so that no standard error exists",
        "leave out one of the features that repeat each other, or raise the L2 weight",
    )
