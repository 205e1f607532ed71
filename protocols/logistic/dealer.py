"""Correlated randomness: the coordinator deals it, the parties expand it.

Source: PROTOCOLS.md section 3, "Sigmoid". Per batch and row t = sum_P t_P, each t_P from the seed of its party; A's
shares of sin(k t) and cos(k t) come from A's seed, H_1's shares are sent as corrections. Where rows are weighted, also
products of uniform masks (`weights`).
Learns: the number of rows; per iteration the period of the series. Sends: seeds, corrections. Receives nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from protocols.fixed_point import SHARE_BITS, Ring, RingArray, SlotLayout
from protocols.logistic.messages import (
    BatchRequest,
    Corrections,
    DealerSeed,
    ProductCorrections,
    TrainingSize,
)
from protocols.logistic.sine_series import HALF_RANGE, TABLE_BITS, coefficients, harmonics, phase_bits, rounded_shift
from protocols.messages import require
from protocols.roles import Parties
from protocols.session import Progress, Script, receive, send
from protocols.sharing import SEED_BYTES, Entropy, keystream


class Dealer:
    """The coordinator's part in the fit. maximum_batches bounds how long it serves one job; weighted: by the recipe."""

    def __init__(
        self,
        parties: Parties,
        key_bits: int,
        entropy: Entropy,
        maximum_batches: int = 2_000,
        *,
        weighted: bool = False,
    ) -> None:
        self._parties = parties
        self._key_bits = key_bits
        self._entropy = entropy
        self._maximum_batches = maximum_batches
        self._weighted = weighted

    def play(self) -> Script[None]:
        """Seeds, then one batch of corrections a request, each index once."""
        label_owner, co_holder = self._parties.share_holders
        size = yield from receive(label_owner, TrainingSize)
        require(0 < size.rows < 1 << 27)
        ring = SlotLayout.of_job(size.rows, self._key_bits, weighted=self._weighted).ring
        seeds = {party: self._entropy(SEED_BYTES) for party in self._parties.all}
        for party, seed in seeds.items():
            yield from send(party, DealerSeed(seed))
        for index in range(self._maximum_batches):
            request = yield from receive(label_owner, BatchRequest)
            if request.ended:
                return
            require(request.index == index and request.period in HALF_RANGE)
            shares = corrections(seeds, label_owner, index, request.period, size.rows, ring)
            yield from send(co_holder, Corrections(index, request.period, ring.to_bytes(shares)))
            if self._weighted:
                seed, other = seeds[label_owner], seeds[co_holder]
                products = product_corrections(seed, other, index, request.period, size.rows, ring)
                rows, total = ring.to_bytes(products[: size.rows]), ring.to_bytes(products[size.rows :])
                yield from send(co_holder, ProductCorrections(index, request.period, rows, total))
            yield Progress("batches of correlated randomness", index + 1, 0)
        require(False)


def phase_mask(seed: bytes, index: int, period: int, rows: int) -> NDArray[np.uint32]:
    """t_P of one batch: uniform phases, shape (n,)."""
    stream = keystream(seed, f"phase/{period}/{index}", 4 * rows)
    mask = np.uint32((1 << phase_bits(period)) - 1)
    return np.frombuffer(stream, dtype="<u4").astype(np.uint32) & mask


def expanded_shares(seed: bytes, index: int, period: int, rows: int, ring: Ring) -> RingArray:
    """A's shares of sin(k t), then of cos(k t), of one batch: uniform, shape (2 K, n, 3)."""
    shape = (2 * len(coefficients(period)), rows)
    return ring.random(keystream(seed, f"shares/{period}/{index}", ring.stream_bytes(shape)), shape)


def corrections(
    seeds: Mapping[str, bytes], label_owner: str, index: int, period: int, rows: int, ring: Ring
) -> RingArray:
    """H_1's shares of sin(k t), then of cos(k t), at 2^20, shape (2 K, n, 3)."""
    phase = np.zeros(rows, dtype=np.uint32)
    for seed in seeds.values():
        phase += phase_mask(seed, index, period, rows)
    phase &= np.uint32((1 << phase_bits(period)) - 1)
    sines, cosines = harmonics(phase, period)
    values = rounded_shift(np.concatenate([sines, cosines]), TABLE_BITS - SHARE_BITS)
    return ring.subtract(ring.from_int64(values), expanded_shares(seeds[label_owner], index, period, rows, ring))


def weight_masks(seed: bytes, rows: int, ring: Ring) -> RingArray:
    """a: what hides A's weights from H_1, from A's seed, once a job; shape (n, 3)."""
    return ring.random(keystream(seed, "weights", ring.stream_bytes((rows,))), (rows,))


def factor_masks(seed: bytes, index: int, period: int, rows: int, ring: Ring) -> RingArray:
    """b of one batch: what hides H_1's share of a residual from A, from H_1's seed; shape (n, 3)."""
    return ring.random(keystream(seed, f"factors/{period}/{index}", ring.stream_bytes((rows,))), (rows,))


def sum_factor_masks(seed: bytes, index: int, period: int, rows: int, ring: Ring) -> RingArray:
    """The same for H_1's share of what is summed over the rows in a log-likelihood."""
    return ring.random(keystream(seed, f"factors of a sum/{period}/{index}", ring.stream_bytes((rows,))), (rows,))


def product_masks(seed: bytes, index: int, period: int, rows: int, ring: Ring) -> RingArray:
    """alpha of one batch: A's shares of a b a row, and last of the sum of a b with the masks of a sum; (n + 1, 3)."""
    return ring.random(keystream(seed, f"products/{period}/{index}", ring.stream_bytes((rows + 1,))), (rows + 1,))


def product_corrections(seed: bytes, other: bytes, index: int, period: int, rows: int, ring: Ring) -> RingArray:
    """beta = a b - alpha: H_1's shares, in the order of `product_masks`; seed: A's, other: H_1's."""
    fixed = weight_masks(seed, rows, ring)
    products = ring.multiply(fixed, factor_masks(other, index, period, rows, ring))
    summed = ring.multiply(fixed, sum_factor_masks(other, index, period, rows, ring))
    total = ring.from_integers([ring.total(summed)])
    return ring.subtract(np.concatenate([products, total]), product_masks(seed, index, period, rows, ring))
