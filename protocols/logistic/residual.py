"""The residual, shared between `A` and `H_1`: from masked logits to additive shares of sigma(z) - y.

Source: PROTOCOLS.md section 3, steps 1 to 3. A holder sees only masked logits, whose sum delta = z - t is uniform; its
share of the residual is linear in its shares of sin(k t) and cos(k t) with public constants.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocols.fixed_point import RESIDUAL_BITS, IntArray, Ring, RingArray
from protocols.logistic.sine_series import phase_bits, series_constants


def opened_phase(masked: Sequence[NDArray[np.uint32]], period: int) -> NDArray[np.uint32]:
    """delta = sum_P (u_P - t_P) modulo the period, shape (n,)."""
    total = np.zeros_like(masked[0])
    for part in masked:
        total += part
    total &= np.uint32((1 << phase_bits(period)) - 1)
    return total


def residual_share(delta: NDArray[np.uint32], shares: RingArray, period: int, ring: Ring) -> RingArray:
    """One holder's share of sigma(z) - 1/2 at 2^40, shape (n, 3).

    shares: the holder's shares of sin(k t), then of cos(k t), shape (2 K, n, 3).
    sin(k z) = cos(k delta) sin(k t) + sin(k delta) cos(k t), z = delta + t.
    """
    sines, cosines = series_constants(delta, period)
    return ring.combine(np.concatenate([cosines, sines]), shares)


def label_offset(label: IntArray, ring: Ring) -> RingArray:
    """1/2 - y at 2^40: what A adds to its share."""
    return ring.from_int64((1 << (RESIDUAL_BITS - 1)) - (label << RESIDUAL_BITS))
