"""Correlated randomness: the coordinator deals it, the parties expand it.

Source: PROTOCOLS.md section 3, "Sigmoid". Per batch and row t = sum_P t_P, each t_P from the seed of its party; A's
shares of sin(k t) and cos(k t) come from A's seed, H_1's shares are sent as corrections.
Learns: the number of rows; per iteration the period of the series. Sends: seeds, corrections. Receives nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from protocols.fixed_point import SHARE_BITS, Ring, RingArray, SlotLayout
from protocols.logistic.messages import BatchRequest, Corrections, DealerSeed, TrainingSize
from protocols.logistic.sine_series import HALF_RANGE, TABLE_BITS, coefficients, harmonics, phase_bits, rounded_shift
from protocols.messages import require
from protocols.roles import Parties
from protocols.session import Progress, Script, receive, send
from protocols.sharing import SEED_BYTES, Entropy, keystream


class Dealer:
    """The coordinator's part in the fit. maximum_batches bounds how long it serves one job."""

    def __init__(self, parties: Parties, key_bits: int, entropy: Entropy, maximum_batches: int = 2_000) -> None:
        self._parties = parties
        self._key_bits = key_bits
        self._entropy = entropy
        self._maximum_batches = maximum_batches

    def play(self) -> Script[None]:
        """Seeds, then one batch of corrections a request, each index once."""
        label_owner, co_holder = self._parties.share_holders
        size = yield from receive(label_owner, TrainingSize)
        require(0 < size.rows < 1 << 27)
        ring = SlotLayout.of_job(size.rows, self._key_bits).ring
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
