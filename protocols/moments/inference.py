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
    """Pearson correlations of the features, the intercept left out; shape (D - 1, D - 1).

    Centred in integers, so that no digit is lost to the means.
    Raises: ModelError MOMENTS_SINGULAR: a feature is constant. LocalProtocolError MOMENTS_KIND.
    """
    _require_kind(moments, MomentKind.PLAIN)
    gram, ones = moments.gram, moments.gram[0][0]
    size = range(1, len(gram))
    centred = [[gram[i][j] * ones - gram[0][i] * gram[0][j] for j in size] for i in size]
    if any(row[i] <= 0 for i, row in enumerate(centred)):
        raise _singular()
    spread = [math.sqrt(row[i]) for i, row in enumerate(centred)]
    matrix = np.array([[v / (spread[i] * spread[j]) for j, v in enumerate(row)] for i, row in enumerate(centred)])
    np.fill_diagonal(matrix, 1.0)
    return matrix


def variance_inflation(moments: Moments) -> FloatArray:
    """VIF of each feature, 1 / (1 - R^2) of its regression on all others and an intercept; shape (D - 1,).

    It is the diagonal of the inverse correlation matrix.
    Raises: as `correlation`; ModelError MOMENTS_SINGULAR: a feature is a combination of others.
    """
    return np.diag(_inverse(correlation(moments))).copy()


def _inverse(matrix: FloatArray) -> FloatArray:
    """The inverse of a symmetric positive definite matrix, scaled to a unit diagonal first.

    Raises: ModelError MOMENTS_SINGULAR.
    """
    diagonal = np.diag(matrix)
    if not np.all(diagonal > 0):
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
