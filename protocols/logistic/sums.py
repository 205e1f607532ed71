"""Sums over the parties, 128-bit integers at 2^64, each part under masks that cancel in the sum (PROTOCOLS.md 3.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from protocols.errors import ModelError
from protocols.logistic.lbfgs import PRODUCT_BITS, PRODUCT_LIMIT
from protocols.logistic.messages import INNER_PRODUCT_BYTES
from protocols.messages import require
from protocols.pair_masks import PairMasks

_SUM_BITS = 8 * INNER_PRODUCT_BYTES


class MaskedSums:
    """One party's parts of sums that open. With two parties the masks are zero: the sum gives the other part away."""

    def __init__(self, masks: PairMasks) -> None:
        self._masks = masks

    def parts(self, purpose: str, index: int, values: Sequence[int]) -> bytes:
        """This party's parts; a purpose and an index serve once."""
        masks = self._masks.draw(purpose, index, len(values), _SUM_BITS)
        parts = [(value + mask) % (1 << _SUM_BITS) for value, mask in zip(values, masks, strict=True)]
        return b"".join(part.to_bytes(INNER_PRODUCT_BYTES, "little") for part in parts)

    @staticmethod
    def open(own: bytes, others: Sequence[bytes], count: int) -> list[int]:
        """The sums of `count` parts of each party, signed."""
        require(all(len(part) == count * INNER_PRODUCT_BYTES for part in others))
        sums = []
        for i in range(count):
            piece = slice(i * INNER_PRODUCT_BYTES, (i + 1) * INNER_PRODUCT_BYTES)
            total = sum(int.from_bytes(part[piece], "little") for part in (own, *others)) % (1 << _SUM_BITS)
            sums.append(total - (1 << _SUM_BITS) if total >> (_SUM_BITS - 1) else total)
        return sums


def fixed(value: float) -> int:
    """A float at 2^64; scaling by a power of two is exact.

    Raises: ModelError: beyond 2^61.
    """
    if not abs(value) < PRODUCT_LIMIT:
        raise ModelError("NUMBERS_TOO_LARGE", "an inner product exceeds 2^61", "raise the L2 weight (model.l2)")
    return round(math.ldexp(value, PRODUCT_BITS))
