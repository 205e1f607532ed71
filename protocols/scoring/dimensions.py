"""Points by dimension, a named group of features: a party's own, and a provider's where the contract opens them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protocols.fixed_point import IntArray
from protocols.messages import require
from protocols.scoring.messages import MOST_DIMENSIONS, PART_BYTES, OpenDimensions

_LONGEST_NAME = 200


@dataclass(frozen=True, eq=False)
class DimensionPoints:
    """points: of each row in each dimension, shape (n, len(names)); references: what reasons measure them against."""

    names: tuple[str, ...]
    points: IntArray
    references: IntArray

    def to_message(self, request: str) -> OpenDimensions:
        """What a provider sends."""
        return OpenDimensions(request, self.names, _bytes(self.points), _bytes(self.references))

    def qualified(self, party: str) -> tuple[str, ...]:
        """The dimensions' names among those of all parties: `party.name`, or the party's where all is in that one.

        >>> DimensionPoints(("bureau", "repayment"), np.zeros((0, 2)), np.zeros(2)).qualified("bureau")
        ('bureau.bureau', 'bureau.repayment')
        """
        return (party,) if self.names == (party,) else tuple(f"{party}.{name}" for name in self.names)

    @classmethod
    def of(cls, message: OpenDimensions, request: str, rows: int) -> DimensionPoints:
        """What a provider sent for so many rows.

        Raises: RemoteProtocolError: CHECK_FAILED: for another request, not one number a row and dimension, or names
            that are none or not distinct.
        """
        names = message.names
        require(message.request == request and 1 <= len(names) <= MOST_DIMENSIONS and len(set(names)) == len(names))
        require(all(name.isprintable() and 1 <= len(name) <= _LONGEST_NAME for name in names))
        require(len(message.points) == PART_BYTES * rows * len(names))
        require(len(message.references) == PART_BYTES * len(names))
        return cls(names, _integers(message.points).reshape(rows, len(names)), _integers(message.references))


def require_sums(dimensions: Mapping[str, DimensionPoints], points: IntArray) -> None:
    """Check that the providers' dimensions add up to their points, as the masked sum gave them, shape (n,).

    Raises: RemoteProtocolError: CHECK_FAILED.
    """
    total = sum((part.points.sum(axis=1) for part in dimensions.values()), np.zeros(len(points), dtype=np.int64))
    require(bool(np.array_equal(total, points)))


def grouped(points: IntArray, dimensions: Sequence[str]) -> tuple[tuple[str, ...], IntArray]:
    """Columns of one dimension added up: the dimensions in order of first appearance, and shape (n, that many).

    Args: points: shape (n, d); dimensions: of each column.

    >>> names, sums = grouped(np.array([[1, 2, 4]]), ("a", "b", "a"))
    >>> names, sums.tolist()
    (('a', 'b'), [[5, 2]])
    """
    names = tuple(dict.fromkeys(dimensions))
    member = np.array([[name == dimension for name in names] for dimension in dimensions], dtype=np.int64)
    return names, points @ member.reshape(len(dimensions), len(names))


def _bytes(values: IntArray) -> bytes:
    return values.astype("<i4").tobytes()


def _integers(data: bytes) -> IntArray:
    return np.frombuffer(data, dtype="<i4").astype(np.int64)
