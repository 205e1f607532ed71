"""The script that made the tables of `protocols.logistic.sine_series` and `.softplus`.

Run it by `python -m tests.reference.fit_sine_series`.
"""

from __future__ import annotations

import sys

import numpy as np

TABLE_BITS = 30


def fit(period: int, half_range: float, terms: int) -> np.ndarray:
    """Least-squares coefficients of sum_k c_k sin(2 pi k u / period) to sigma(u) - 1/2 on [-half_range, half_range]."""
    u = np.cos(np.pi * (np.arange(8000) + 0.5) / 16000) * half_range  # Chebyshev nodes: near-minimax at the ends
    design = np.sin(2 * np.pi * np.outer(u, np.arange(1, terms + 1)) / period)
    target = 1 / (1 + np.exp(-u)) - 0.5
    return np.linalg.lstsq(design, target, rcond=None)[0]


def error(coefficients: np.ndarray, period: int, half_range: float) -> float:
    """Largest absolute error on a fine grid."""
    u = np.linspace(-half_range, half_range, 200_001)
    k = np.arange(1, len(coefficients) + 1)
    return float(
        np.max(np.abs(np.sin(2 * np.pi * np.outer(u, k) / period) @ coefficients - (1 / (1 + np.exp(-u)) - 0.5)))
    )


def fit_softplus(period: int, half_range: float, terms: int) -> np.ndarray:
    """Least-squares a_0..a_K of sum_k a_k cos(2 pi k u / period) to log(1 + e^u) - u/2, an even function."""
    u = np.cos(np.pi * (np.arange(8000) + 0.5) / 16000) * half_range
    design = np.cos(2 * np.pi * np.outer(u, np.arange(terms + 1)) / period)
    return np.linalg.lstsq(design, np.logaddexp(0, u) - u / 2, rcond=None)[0]


def softplus_error(coefficients: np.ndarray, period: int, half_range: float) -> float:
    """Largest absolute error on a fine grid."""
    u = np.linspace(-half_range, half_range, 200_001)
    series = np.cos(2 * np.pi * np.outer(u, np.arange(len(coefficients))) / period) @ coefficients
    return float(np.abs(series - (np.logaddexp(0, u) - u / 2)).max())


if __name__ == "__main__":
    for period, half_range, terms in ((32, 12.0, 20), (64, 28.0, 40)):
        table = np.rint(fit(period, half_range, terms) * 2**TABLE_BITS).astype(int)
        worst = error(table / 2**TABLE_BITS, period, half_range)
        sys.stdout.write(f"period {period}, +-{half_range:g}, {terms} terms: error {worst:.2e}\n{table.tolist()}\n")
        table = np.rint(fit_softplus(period, half_range, terms) * 2**TABLE_BITS).astype(int)
        worst = softplus_error(table / 2**TABLE_BITS, period, half_range)
        sys.stdout.write(f"softplus, period {period}: error {worst:.2e}\n{table.tolist()}\n")
