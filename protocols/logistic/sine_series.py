"""The sigmoid as a sine series, in integers that are the same on every processor.

sigma(u) - 1/2 = sum_k c_k sin(2 pi k u / period), within 9e-7 on [-12, 12] (period 32, 20 terms) and within 2e-6 on
[-28, 28] (period 64, 40 terms). A phase is an integer modulo period 2^26, so that u and u + period coincide and a sum
of masked phases needs no truncation. Tables come from `tests/reference/fit_sine_series.py`; sines from correctly
rounded table values (gmpy2 mpfr) and integer products.
"""

from __future__ import annotations

import functools
from typing import Any

import gmpy2
import numpy as np
from numpy.typing import NDArray

from protocols.errors import LocalProtocolError
from protocols.fixed_point import LOGIT_BITS, SHARE_BITS, IntArray

TABLE_BITS = 30

NARROW, WIDE = 32, 64  # periods
HALF_RANGE = {NARROW: 12, WIDE: 28}
# fmt: off
_COEFFICIENTS = {
    NARROW: (
        650361438, -12729031, 148048284, -8056736, 41337309, 2240905, 5523457, 7534749, -4628533, 7233111,
        -5029372, 4537809, -2897003, 2048369, -1132675, 653856, -291788, 132511, -39432, 12236,
    ),
    WIDE: (
        675680277, -5367548, 205685708, -8690337, 103845554, -9304414, 58109343, -7868819, 33100654, -5482925,
        18420635, -3043601, 9629737, -1060969, 4435694, 283487, 1507569, 1018264, 5339, 1276643,
        -629832, 1222354, -775769, 1004497, -682144, 735633, -503760, 486460, -326014, 290893,
        -186530, 156221, -93452, 74187, -39787, 30309, -13398, 10166, -2828, 2592,
    ),
}
# fmt: on


def coefficients(period: int) -> IntArray:
    """c_k at 2^30, shape (K,), for k = 1..K.

    Raises: LocalProtocolError: the period is neither 32 nor 64.
    """
    if period not in _COEFFICIENTS:
        raise LocalProtocolError("PERIOD_INVALID", "the period of the series is 32 or 64")
    return np.array(_COEFFICIENTS[period], dtype=np.int64)


def phase_bits(period: int) -> int:
    """Bits of a phase: 31 for period 32, 32 for period 64."""
    return LOGIT_BITS + period.bit_length() - 1


def harmonics(phases: NDArray[np.uint32], period: int) -> tuple[IntArray, IntArray]:
    """sin and cos of 2 pi k phase / 2^phase_bits at 2^30, each of shape (K, n)."""
    bits = phase_bits(period)
    k = np.arange(1, len(coefficients(period)) + 1, dtype=np.int64)
    return sine_and_cosine((k[:, None] * phases.astype(np.int64)[None, :]) & ((1 << bits) - 1), bits)


def rounded_shift(values: IntArray, bits: int) -> IntArray:
    """values / 2^bits, halves rounded up."""
    result: IntArray = (values + (1 << (bits - 1))) >> bits
    return result


def series_constants(delta: NDArray[np.uint32], period: int) -> tuple[IntArray, IntArray]:
    """c_k sin(k delta) and c_k cos(k delta) at 2^20, each of shape (K, n): what multiplies the shares."""
    c = coefficients(period)[:, None]
    sines, cosines = harmonics(delta, period)
    shift = 2 * TABLE_BITS - SHARE_BITS
    return rounded_shift(c * sines, shift), rounded_shift(c * cosines, shift)


def sine_and_cosine(phases: IntArray, bits: int) -> tuple[IntArray, IntArray]:
    """sin and cos of 2 pi phase / 2^bits at 2^30 within 2^-28, for phases in [0, 2^bits), bits <= 32."""
    fine = phases << (32 - bits)
    tables = _tables()
    sine, cosine = (table[fine >> 21] for table in tables[0])
    for (table_sine, table_cosine), part in zip(tables[1:], ((fine >> 10) & 2047, fine & 1023), strict=True):
        s, c = table_sine[part], table_cosine[part]
        sine, cosine = (
            rounded_shift(sine * c + cosine * s, TABLE_BITS),
            rounded_shift(cosine * c - sine * s, TABLE_BITS),
        )
    return sine, cosine


@functools.cache
def _tables() -> tuple[tuple[IntArray, IntArray], ...]:
    """Sines and cosines at 2^30 of the phase's top 11 bits, middle 11 bits and low 10 bits (of 32)."""
    return (_table(2048, 21), _table(2048, 10), _table(1024, 0))


def _table(entries: int, shift: int) -> tuple[IntArray, IntArray]:
    with gmpy2.context(gmpy2.get_context(), precision=120, round=gmpy2.RoundToNearest):
        unit: Any = 2 * gmpy2.const_pi() / (1 << 32)
        angles = [unit * (j << shift) for j in range(entries)]
        scale = 1 << TABLE_BITS
        sines = np.array([int(gmpy2.rint(gmpy2.sin(angle) * scale)) for angle in angles], dtype=np.int64)
        cosines = np.array([int(gmpy2.rint(gmpy2.cos(angle) * scale)) for angle in angles], dtype=np.int64)
    return sines, cosines
