"""The log-likelihood of a fit, shared between `A` and `H_1`: the even half of log(1 + e^z) as a cosine series.

log(1 + e^z) - y z = s(z) + (1/2 - y) z, and s(z) = log(2 cosh(z / 2)) is even: sum_k a_k cos(2 pi k z / period), within
2e-7 on [-12, 12] (period 32, 20 terms) and 5e-7 on [-28, 28] (period 64, 40 terms). The shares of the residual give it
too, since cos(k z) = cos(k delta) cos(k t) - sin(k delta) sin(k t). The rest is linear in each party's weights.
Tables come from `tests/reference/fit_sine_series.py`. A holder learns nothing; who adds two shares learns the sum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocols.fixed_point import RESIDUAL_BITS, SHARE_BITS, IntArray, Ring, RingArray
from protocols.logistic.sine_series import NARROW, TABLE_BITS, WIDE, harmonics, rounded_shift

# fmt: off
_CONSTANT = {NARROW: 4303240070, WIDE: 8599254939}
_COEFFICIENTS = {
    NARROW: (
        -3283161238, 4807429, -226061345, -12057297, -23117898, -17453734, 8223131, -14040799, 9299236, -8289333,
        5346482, -3796257, 2224294, -1336380, 680107, -341924, 140887, -55562, 15314, -3889,
    ),
    WIDE: (
        -6871719891, 16777010, -688040809, 12125139, -201946039, 6655858, -75940944, 1972828, -30019190, -1234430,
        -10870513, -2973799, -2604096, -3575679, 772495, -3438854, 1870312, -2909569, 1936314, -2241453,
        1594080, -1595033, 1153492, -1054002, 756462, -646691, 453615, -366844, 248303, -190774,
        122870, -89705, 53912, -37317, 20236, -13254, 6030, -3780, 1143, -775,
    ),
}
# fmt: on


def softplus_coefficients(period: int) -> IntArray:
    """a_0 to a_K at 2^30, shape (K + 1,)."""
    return np.array((_CONSTANT[period], *_COEFFICIENTS[period]), dtype=np.int64)


def softplus_share(
    delta: NDArray[np.uint32], shares: RingArray, period: int, ring: Ring, rows: NDArray[np.bool_]
) -> RingArray:
    """One holder's share of s(z) - a_0 at 2^40, zero outside `rows`; shape (n, 3).

    delta, shares: as in `residual_share`.
    """
    sines, cosines = harmonics(delta[rows], period)
    a = softplus_coefficients(period)[1:, None]
    shift = 2 * TABLE_BITS - SHARE_BITS
    constants = np.concatenate([-rounded_shift(a * sines, shift), rounded_shift(a * cosines, shift)])
    per_row = np.zeros((len(rows), shares.shape[2]), dtype=np.uint32)
    per_row[rows] = ring.combine(constants, shares[:, rows])
    return per_row


def softplus_sum(shares: int, rows: float, period: int, ring: Ring, bits: int = RESIDUAL_BITS) -> float:
    """sum s(z) over `rows` rows, or the sum of w s(z) over rows whose weights sum to `rows`.

    shares: the sum of the two holders' shares of all rows at 2^bits. Headroom: n (|s| + a_0) 2^40 < 2^(l-1).
    """
    constant = int(softplus_coefficients(period)[0]) / (1 << TABLE_BITS)
    return ring.lift(shares) / (1 << bits) + rows * constant
