"""Fixed-point numbers in the ring Z_{2^l}, vectorised, and the layout of the slots of a packed plaintext.

A ring array has shape (..., 3) and dtype uint32: little-endian limbs of 32 bits, the bits from l up always zero. Every
operation here is exact integer arithmetic: the same bytes on every processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import LocalProtocolError
from protocols.messages import require

FEATURE_BITS = 16  # f_x: a feature value x is the integer x 2^16
FEATURE_LIMIT = 8 << FEATURE_BITS  # |x| <= 8
SHARE_BITS = 20  # sin and cos, and the constants that multiply them
RESIDUAL_BITS = 2 * SHARE_BITS  # f_d
LOGIT_BITS = 26  # f_z
SAMPLE_WEIGHT_BITS = 10  # f_w: a sample weight of 1, the mean, is the integer 2^10
SAMPLE_WEIGHT_LIMIT = 64 << SAMPLE_WEIGHT_BITS  # no row weighs 64 times the mean or more
STATISTICAL_BITS = 64

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
RingArray = NDArray[np.uint32]

_LIMBS = 3
_LIMB_MASK = np.int64(0xFFFFFFFF)


class Ring:
    """Arithmetic modulo 2^bits, 64 < bits <= 96.

    >>> ring = Ring(76)
    >>> a, b = ring.from_integers([5, -3]), ring.from_integers([-7, 2**75])
    >>> ring.to_integers(ring.add(a, b))
    [-2, 37778931862957161709565]
    """

    def __init__(self, bits: int) -> None:
        if not 64 < bits <= 32 * _LIMBS:
            raise LocalProtocolError("RING_INVALID", "the ring must have 65 to 96 bits")
        self.bits = bits
        self.modulus = 1 << bits
        self.width = (bits + 7) // 8
        self._top_mask = np.int64((1 << (bits - 64)) - 1)

    def from_integers(self, values: Iterable[int]) -> RingArray:
        """Python integers of any size and sign, reduced; shape (n, 3)."""
        width = 4 * _LIMBS
        data = b"".join((value % self.modulus).to_bytes(width, "little") for value in values)
        return np.frombuffer(data, dtype="<u4").reshape(-1, _LIMBS).astype(np.uint32)

    def from_int64(self, values: IntArray) -> RingArray:
        """Signed 64-bit integers, sign extended; shape (..., 3)."""
        sums = np.stack([values & _LIMB_MASK, values >> 32, np.zeros_like(values)], axis=-1)
        return self._carry(sums)

    def to_integers(self, array: RingArray, *, signed: bool = True) -> list[int]:
        """Python integers in [-2^(l-1), 2^(l-1)), or in [0, 2^l) if not signed, of an array of shape (n, 3)."""
        data = np.ascontiguousarray(array, dtype="<u4").tobytes()
        size = 4 * _LIMBS
        values = [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
        return [self.lift(value) for value in values] if signed else values

    def lift(self, value: int) -> int:
        """The representative of `value` in [-2^(l-1), 2^(l-1))."""
        value %= self.modulus
        return value - self.modulus if value >> (self.bits - 1) else value

    def add(self, *terms: RingArray) -> RingArray:
        """The sum of arrays of one shape."""
        return self._carry(np.sum([term.astype(np.int64) for term in terms], axis=0))

    def subtract(self, a: RingArray, b: RingArray) -> RingArray:
        """a - b."""
        return self._carry(a.astype(np.int64) - b.astype(np.int64))

    def multiply(self, a: RingArray, b: RingArray) -> RingArray:
        """Row by row, a and b of shape (n, 3).

        >>> ring = Ring(76)
        >>> ring.to_integers(ring.multiply(ring.from_integers([-3, 2**70]), ring.from_integers([2**40, 2**10 - 1])))
        [-3298534883328, -1180591620717411303424]
        """
        left, right = (
            np.ascontiguousarray(x, dtype="<u4").view(np.uint16).reshape(len(x), 2 * _LIMBS).astype(np.int64)
            for x in (a, b)
        )
        halves = np.zeros((len(left), 2 * _LIMBS), dtype=np.int64)  # each below 6 * 2^32, then carried
        for k in range(2 * _LIMBS):
            halves[:, k] = np.sum(left[:, : k + 1] * right[:, k::-1], axis=1)
            if k:
                halves[:, k] += halves[:, k - 1] >> 16
        halves &= 0xFFFF
        return self._carry(halves[:, 0::2] + (halves[:, 1::2] << 16))

    def combine(self, constants: IntArray, arrays: RingArray) -> RingArray:
        """sum_k constants[k, i] * arrays[k, i]: constants (K, n) with |c| < 2^24 and K < 128, arrays (K, n, 3)."""
        total = np.zeros(arrays.shape[1:], dtype=np.int64)
        for k in range(len(constants)):
            total += constants[k, :, None] * arrays[k].astype(np.int64)
        return self._carry(total)

    def transpose_product(self, features: IntArray, vector: RingArray) -> list[int]:
        """X^T v mod 2^l. features (n, d) with |x| <= 2^19, vector (n, 3), n < 2^27. Returns d integers in [0, 2^l)."""
        if len(features) >> 27:
            raise LocalProtocolError("TOO_MANY_ROWS", "exact products need fewer than 2^27 rows")
        halves = np.ascontiguousarray(vector).view(np.uint16).reshape(len(vector), 2 * _LIMBS).astype(np.int64)
        sums = features.T @ halves
        return [sum(int(s) << (16 * j) for j, s in enumerate(row)) % self.modulus for row in sums]

    def total(self, array: RingArray) -> int:
        """The sum of the rows of an array of shape (n, 3), n < 2^27; in [0, 2^l)."""
        return self.transpose_product(np.ones((len(array), 1), dtype=np.int64), array)[0]

    def random(self, stream: bytes, shape: tuple[int, ...]) -> RingArray:
        """Uniform elements from `stream_bytes(shape)` uniform bytes."""
        array = np.frombuffer(stream, dtype="<u4").reshape(*shape, _LIMBS).astype(np.uint32)
        array[..., 2] &= np.uint32(self._top_mask)
        return array

    @staticmethod
    def stream_bytes(shape: tuple[int, ...]) -> int:
        """How many uniform bytes `random` takes for `shape`."""
        return 4 * _LIMBS * int(np.prod(shape))

    def to_bytes(self, array: RingArray) -> bytes:
        """Fixed width on the wire: ceil(l / 8) bytes an element, little-endian."""
        wide = np.ascontiguousarray(array, dtype="<u4").view(np.uint8).reshape(-1, 4 * _LIMBS)
        return wide[:, : self.width].tobytes()

    def from_bytes(self, data: bytes, shape: tuple[int, ...]) -> RingArray:
        """Inverse of `to_bytes`.

        Raises: RemoteProtocolError: another length, or a value of 2^l or more.
        """
        require(len(data) == self.width * int(np.prod(shape)))
        wide = np.zeros((int(np.prod(shape)), 4 * _LIMBS), dtype=np.uint8)
        wide[:, : self.width] = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.width)
        array = wide.view("<u4").astype(np.uint32)
        require(not bool(np.any(array[:, 2] > self._top_mask)))
        return array.reshape(*shape, _LIMBS)

    def _carry(self, sums: NDArray[np.int64]) -> RingArray:
        """Propagate carries of signed limb sums and reduce modulo 2^l."""
        result = np.empty(sums.shape, dtype=np.uint32)
        low = sums[..., 0]
        result[..., 0] = low & _LIMB_MASK
        middle = sums[..., 1] + (low >> 32)
        result[..., 1] = middle & _LIMB_MASK
        result[..., 2] = (sums[..., 2] + (middle >> 32)) & self._top_mask
        return result


@dataclass(frozen=True)
class SlotLayout:
    """How one plaintext holds T masks a row, and the label above them (PROTOCOLS.md sections 2 and 3).

    Bits: `ring_bits` l; `label_owner_slot` S_A holds a sum of n masks of l bits with 64 bits to spare;
    `co_holder_slot` S_H holds a sum of n products of a mask and a feature, shifted to be positive, with 64 bits to
    spare. weighted: whether rows have sample weights, for which the ring is f_w + 1 bits wider.

    >>> layout = SlotLayout.of_job(rows=21_000, key_bits=3072)
    >>> layout.ring_bits, layout.slots, SlotLayout.of_job(rows=21_000, key_bits=2048).slots
    (76, 17, 11)
    >>> weighted = SlotLayout.of_job(rows=21_000, key_bits=3072, weighted=True)
    >>> weighted.ring_bits, weighted.slots
    (87, 16)
    """

    rows: int
    key_bits: int
    ring_bits: int
    label_owner_slot: int
    co_holder_slot: int
    slots: int
    weighted: bool = False

    @classmethod
    def of_job(cls, rows: int, key_bits: int, *, weighted: bool = False) -> SlotLayout:
        """The layout that follows from the number of rows, the key length and whether rows are weighted.

        Raises: LocalProtocolError: no room for three slots.
        """
        n_bits = rows.bit_length()
        ring_bits = n_bits + FEATURE_BITS + 3 + RESIDUAL_BITS + 2
        if weighted:  # weights sum to less than n 2^(f_w + 1), so that a weighted sum needs no more
            ring_bits += SAMPLE_WEIGHT_BITS + 1
        label_owner_slot = ring_bits + n_bits + STATISTICAL_BITS
        co_holder_slot = ring_bits + FEATURE_BITS + 3 + n_bits + STATISTICAL_BITS + 1
        slots = min((key_bits - 2 - n_bits) // label_owner_slot, (key_bits - 65) // co_holder_slot)
        if slots < 3:
            raise LocalProtocolError("LAYOUT_INVALID", "the key is too short for this many rows")
        return cls(rows, key_bits, ring_bits, label_owner_slot, co_holder_slot, slots, weighted)

    @property
    def residual_bits(self) -> int:
        """Fraction bits of a residual, times its weight if there is one."""
        return RESIDUAL_BITS + (SAMPLE_WEIGHT_BITS if self.weighted else 0)

    @property
    def ring(self) -> Ring:
        """Z_{2^l}."""
        return Ring(self.ring_bits)

    @property
    def label_shift(self) -> int:
        """T S_A: the bit where the label stands."""
        return self.slots * self.label_owner_slot

    @property
    def product_offset(self) -> int:
        """2^(l + 19 + bitlen(n)), added to each slot of a product under H_1's key to make it positive."""
        return 1 << (self.ring_bits + FEATURE_BITS + 3 + self.rows.bit_length())

    def pack(self, columns: Sequence[Sequence[int]], slot: int) -> list[int]:
        """sum_t columns[t][i] 2^(t slot) for every row i."""
        return [sum(value << (t * slot) for t, value in enumerate(row)) for row in zip(*columns, strict=True)]

    def digits(self, value: int, slot: int) -> list[int]:
        """The T digits of `slot` bits of a plaintext; bits above them are left out."""
        mask = (1 << slot) - 1
        return [(value >> (t * slot)) & mask for t in range(self.slots)]


def quantise_logits(logits: FloatArray, period: int) -> NDArray[np.uint32]:
    """Partial logits as phases: u 2^26 modulo period 2^26, shape (n,). Scale: 26 bits."""
    scaled: Any = np.rint(logits * (1 << LOGIT_BITS)).astype(np.int64)
    phases: NDArray[np.uint32] = (scaled & ((period << LOGIT_BITS) - 1)).astype(np.uint32)
    return phases
