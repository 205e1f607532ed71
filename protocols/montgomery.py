"""Batches of arithmetic modulo one odd number: by the C kernel where the processor has AVX-512 IFMA, else by gmpy2.

Both give the same numbers: nothing above this module can tell which was used, except by the clock.

Source: protocols/_ifma.c; docs/protocols/paillier.md, "The kernel".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import gmpy2
import numpy as np
from gmpy2 import mpz

from protocols.fixed_point import IntArray

try:
    from protocols import _ifma

    kernel: ModuleType | None = _ifma if _ifma.supported() else None
except ImportError:  # no compiler when it was installed
    kernel = None

WINDOW_BITS = 8
_LIMB_BITS = 52
_MOST_BITS = 7900  # of a modulus in the kernel
_PIECES = 32  # no piece of a group holds more than this part of the rows, so that all lanes have work


class Rows(Protocol):
    """A vector of numbers modulo m, in the form that its engine works with."""

    def grouped(self, groups: IntArray, count: int) -> Rows:
        """The product of each group, 1 for an empty one. groups: of each number, in [0, count)."""

    def numbers(self) -> list[mpz]:
        """In [0, m)."""


class Modulus(Protocol):
    """Arithmetic modulo an odd number m, on numbers in [0, m)."""

    def rows(self, numbers: Sequence[mpz]) -> Rows:
        """The numbers, ready to be multiplied."""

    def powers(self, bases: Sequence[mpz], exponents: Sequence[int]) -> list[mpz]:
        """`bases[i]^exponents[i]`; no exponent is negative."""

    def power(self, bases: Sequence[mpz], exponent: int) -> list[mpz]:
        """`bases[i]^exponent`, which is not negative."""


def engine_name() -> str:
    """What this machine computes with, in the words of a report."""
    return "AVX-512 IFMA" if kernel is not None else "gmpy2"


def modulus_of(modulus: int | mpz) -> Modulus:
    """The fastest engine that this processor has for this modulus."""
    number = mpz(modulus)
    if kernel is None or not _fits(number):
        return Portable(number)
    return Lanes(number, kernel)


@dataclass(frozen=True)
class PortableRows:
    """`Rows` of gmpy2."""

    values: Sequence[mpz]
    modulus: mpz

    def grouped(self, groups: IntArray, count: int) -> PortableRows:
        """See `Rows`."""
        products, modulus = [mpz(1)] * count, self.modulus
        for group, value in zip(groups.tolist(), self.values, strict=True):
            products[group] = products[group] * value % modulus
        return PortableRows(products, modulus)

    def numbers(self) -> list[mpz]:
        """See `Rows`."""
        return list(self.values)


class Portable:
    """`Modulus` by gmpy2, on any processor."""

    def __init__(self, modulus: mpz) -> None:
        self._modulus = modulus

    def rows(self, numbers: Sequence[mpz]) -> PortableRows:
        """See `Modulus`."""
        return PortableRows(numbers, self._modulus)

    def powers(self, bases: Sequence[mpz], exponents: Sequence[int]) -> list[mpz]:
        """See `Modulus`."""
        return [gmpy2.powmod(base, e, self._modulus) for base, e in zip(bases, exponents, strict=True)]

    def power(self, bases: Sequence[mpz], exponent: int) -> list[mpz]:
        """See `Modulus`."""
        return list(gmpy2.powmod_base_list(list(bases), exponent, self._modulus))


class Lanes:
    """`Modulus` by the kernel, eight numbers at a time. Nothing here is kept between calls but the modulus."""

    def __init__(self, modulus: mpz, engine: ModuleType) -> None:
        bits = modulus.bit_length()
        self.engine = engine
        self.width = (bits + 7) // 8
        limbs = max(2, -(-(bits + 2) // _LIMB_BITS))
        square = gmpy2.powmod(2, 2 * _LIMB_BITS * limbs, modulus)
        self.field = self.to_bytes([modulus]), self.to_bytes([square])

    def rows(self, numbers: Sequence[mpz]) -> LaneRows:
        """See `Modulus`."""
        return LaneRows(self.engine.rows(*self.field, self.to_bytes(numbers)), self)

    def powers(self, bases: Sequence[mpz], exponents: Sequence[int]) -> list[mpz]:
        """See `Modulus`. Takes as long for a small exponent as for the largest."""
        size = _bytes_of(max(exponents, default=0))
        packed = b"".join(int(e).to_bytes(size, "little") for e in exponents)
        return self.from_bytes(self.engine.powers(*self.field, self.to_bytes(bases), packed, size))

    def power(self, bases: Sequence[mpz], exponent: int) -> list[mpz]:
        """See `Modulus`."""
        size = _bytes_of(exponent)
        packed = int(exponent).to_bytes(size, "little")
        return self.from_bytes(self.engine.powers(*self.field, self.to_bytes(bases), packed, size))

    def to_bytes(self, numbers: Sequence[mpz]) -> bytes:
        """Fixed width, little-endian."""
        width = self.width
        return b"".join(number.to_bytes(width, "little") for number in numbers)

    def from_bytes(self, data: bytes) -> list[mpz]:
        """Inverse of `to_bytes`."""
        width = self.width
        return [mpz.from_bytes(data[start : start + width], "little") for start in range(0, len(data), width)]


@dataclass(frozen=True)
class LaneRows:
    """`Rows` of the kernel: limbs in Montgomery form."""

    data: bytes
    modulus: Lanes

    def grouped(self, groups: IntArray, count: int) -> LaneRows:
        """See `Rows`. Large groups are multiplied in pieces, and the pieces once more."""
        engine, field = self.modulus.engine, self.modulus.field
        order = np.argsort(groups, kind="stable").astype(np.int64)
        sizes = np.bincount(groups, minlength=count).astype(np.int64)
        piece = max(len(groups) // _PIECES, 2)
        pieces = -(-sizes // piece)
        lengths = np.full(int(pieces.sum()), piece, dtype=np.int64)
        lengths[np.cumsum(pieces)[pieces > 0] - 1] = (sizes - (pieces - 1) * piece)[pieces > 0]
        parts = engine.products(*field, self.data, order, np.cumsum(lengths))
        if len(lengths) == count and np.all(pieces == 1):
            return LaneRows(parts, self.modulus)
        return LaneRows(
            engine.products(*field, parts, np.arange(len(lengths), dtype=np.int64), np.cumsum(pieces)), self.modulus
        )

    def numbers(self) -> list[mpz]:
        """See `Rows`."""
        return self.modulus.from_bytes(self.modulus.engine.numbers(*self.modulus.field, self.data))


class FixedBase:
    """Powers of one generator by the kernel, from a table of its powers for each byte of the exponent.

    Args: modulus: odd; bits: of the longest exponent.
    Source: Brickell, Gordon, McCurley, Wilson, EUROCRYPT 1992.
    """

    def __init__(self, modulus: mpz, generator: mpz, bits: int, engine: ModuleType) -> None:
        self._lanes = Lanes(modulus, engine)
        self._windows = -(-bits // WINDOW_BITS)
        self._table = engine.table(*self._lanes.field, self._lanes.to_bytes([generator]), self._windows)

    def powers(self, exponents: Sequence[int]) -> list[mpz]:
        """The generator to each exponent; none is negative or longer than `bits`."""
        packed = b"".join(e.to_bytes(self._windows, "little") for e in exponents)
        return self._lanes.from_bytes(self._lanes.engine.fixed_base(*self._lanes.field, self._table, packed))


def fixed_base(modulus: mpz, generator: mpz, bits: int) -> FixedBase | None:
    """A table of powers; None where there is no kernel for this modulus."""
    return FixedBase(modulus, generator, bits, kernel) if kernel is not None and _fits(modulus) else None


def _fits(modulus: mpz) -> bool:
    return bool(modulus % 2) and 2 < modulus.bit_length() <= _MOST_BITS


def _bytes_of(number: int) -> int:
    return max((number.bit_length() + 7) // 8, 1)
