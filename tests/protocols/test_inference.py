"""Standard errors, tests, correlations and VIF from opened moments, against statsmodels on the pooled rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.outliers_influence import variance_inflation_factor

from protocols.errors import LocalProtocolError, ModelError
from protocols.fixed_point import FloatArray
from protocols.moments.inference import (
    Covariance,
    coefficient_tests,
    correlation,
    covariance,
    variance_inflation,
)
from protocols.moments.label_owner import Moments
from protocols.moments.layout import MomentKind, WorkingResponse
from protocols.moments.run import run
from tests.protocols.test_moments import permissions_of
from tests.reference.pooled import damped_newton
from tests.simulator import KEY_BITS, ROWS, Job, seeded


def opened(job: Job, logits: FloatArray | None = None) -> Moments:
    working = None if logits is None else WorkingResponse.of_fit(logits, job.stages.data.label)
    permissions, bounds = permissions_of(job.parties), job.stages.data.bounds()
    return run(
        job.parties, job.tables, job.rows, seeded(5), permissions, bounds, working=working, minimum_key_bits=KEY_BITS
    )


def statsmodels_fit(job: Job) -> Any:
    return sm.Logit(job.stages.data.label, job.pooled_design()).fit(disp=0, tol=1e-12, maxiter=100)


@pytest.mark.parametrize("decimals", [12, 2], ids=["exact logits", "logits rounded to 0.01"])
def test_standard_errors_wald_p_values_and_intervals_equal_those_of_statsmodels(job: Job, decimals: int) -> None:
    fit = statsmodels_fit(job)
    moments = opened(job, np.round(job.pooled_design() @ fit.params, decimals))
    tests = coefficient_tests(fit.params, covariance(moments))
    tolerance = 1e-5 if decimals == 12 else 1e-3
    np.testing.assert_allclose(tests.standard_errors, fit.bse, rtol=tolerance)
    np.testing.assert_allclose(tests.z, fit.tvalues, rtol=tolerance)
    np.testing.assert_allclose(tests.p_values, fit.pvalues, rtol=100 * tolerance, atol=1e-12)
    np.testing.assert_allclose(np.stack([tests.low, tests.high], axis=1), fit.conf_int(), rtol=tolerance, atol=1e-3)
    wide = coefficient_tests(fit.params, covariance(moments), level=0.99)
    np.testing.assert_allclose(np.stack([wide.low, wide.high], axis=1), fit.conf_int(alpha=0.01), rtol=0.01, atol=1e-3)


def test_the_quadratic_approximation_has_its_optimum_at_the_fit(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    x, y = job.pooled_design(), job.stages.data.label
    for l2 in (0.0, 3.0):
        beta = damped_newton(x, y, l2)
        moments = opened(job, x @ beta)
        penalty = np.diag([0.0, *[l2] * (len(beta) - 1)])
        step = np.linalg.solve(moments.matrix + penalty, moments.response_vector)
        np.testing.assert_allclose(step, beta, atol=1e-6)


def test_penalised_covariances_equal_their_formulas_on_pooled_rows(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    x, l2 = job.pooled_design(), 4.0
    z = x @ damped_newton(x, job.stages.data.label, l2)
    moments = opened(job, z)
    p = 1 / (1 + np.exp(-z))
    h = (x.T * (p * (1 - p))) @ x
    penalised = np.linalg.inv(h + np.diag([0.0, *[l2] * (len(h) - 1)]))
    curvature, sandwich = (np.sqrt(np.diag(covariance(moments, l2, form))) for form in Covariance)
    np.testing.assert_allclose(curvature, np.sqrt(np.diag(penalised)), rtol=1e-5)
    np.testing.assert_allclose(sandwich, np.sqrt(np.diag(penalised @ h @ penalised)), rtol=1e-5)
    assert (sandwich[1:] < curvature[1:]).all()
    np.testing.assert_allclose(
        covariance(moments, 0.0, Covariance.SANDWICH), covariance(moments, 0.0, Covariance.CURVATURE), rtol=1e-6
    )


def test_correlations_and_vif_equal_those_on_pooled_rows(job: Job) -> None:
    x = job.pooled_design()
    moments = opened(job)
    np.testing.assert_allclose(correlation(moments), np.corrcoef(x[:, 1:], rowvar=False), atol=1e-12)
    expected = [variance_inflation_factor(x, j) for j in range(1, x.shape[1])]
    np.testing.assert_allclose(variance_inflation(moments), expected, rtol=1e-9)


def made(columns: FloatArray, kind: MomentKind = MomentKind.PLAIN) -> Moments:
    """Moments of columns at 2^16, the intercept's in front."""
    x = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    units = np.rint(x * (1 << 16)).astype(np.int64).astype(object)
    weight = 1 << 24 if kind is MomentKind.WEIGHTED else 1
    gram = tuple(tuple(int(v) * weight for v in row) for row in (units.T @ units).tolist())
    return Moments(kind, len(columns), tuple(("p", j) for j in range(x.shape[1])), gram)


def test_nearly_equal_columns_have_the_vif_of_statsmodels_and_equal_ones_none() -> None:
    random_state = np.random.default_rng(1)
    a, b = np.round(256 * random_state.normal(size=(2, ROWS))) / 256
    near = np.round(np.stack([a, b, a + 0.01 * b + 0.003 * random_state.normal(size=ROWS)], axis=1) * 65536) / 65536
    x = np.concatenate([np.ones((ROWS, 1)), near], axis=1)
    expected = [variance_inflation_factor(x, j) for j in range(1, 4)]
    assert max(expected) > 1e4
    np.testing.assert_allclose(variance_inflation(made(near)), expected, rtol=1e-6)
    for columns in (np.stack([a, a], axis=1), np.stack([a, b, a + b], axis=1), np.stack([a, np.ones(ROWS)], axis=1)):
        with pytest.raises(ModelError, match="MOMENTS_SINGULAR"):
            variance_inflation(made(columns))
    repeated = made(np.stack([a, a], axis=1), MomentKind.WEIGHTED)
    with pytest.raises(ModelError, match="MOMENTS_SINGULAR"):
        covariance(repeated)
    assert np.isfinite(covariance(repeated, l2=1.0)).all()


def test_the_wrong_kind_of_moments_and_a_level_out_of_range_are_refused() -> None:
    plain = made(np.random.default_rng(2).normal(size=(50, 2)))
    with pytest.raises(LocalProtocolError, match="MOMENTS_KIND"):
        covariance(plain)
    with pytest.raises(LocalProtocolError, match="MOMENTS_KIND"):
        _ = plain.response_vector
    with pytest.raises(LocalProtocolError, match="MOMENTS_KIND"):
        correlation(replace(plain, kind=MomentKind.WEIGHTED))
    with pytest.raises(LocalProtocolError, match="LEVEL_INVALID"):
        coefficient_tests(np.ones(1), np.ones((1, 1)), level=1.0)
