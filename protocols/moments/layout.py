"""Integers of the second moments: weights, the working response, exact sums, and how columns share a plaintext.

Scale: a feature is an integer at 2^16 with |x| <= 2^19, weight and response are integers at 2^26. Everything after the
rounding of these is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from protocols.errors import LocalProtocolError
from protocols.fixed_point import FEATURE_BITS, FEATURE_LIMIT, STATISTICAL_BITS, FloatArray, IntArray
from protocols.messages import require
from protocols.sharing import Entropy, uniform_below

WEIGHT_BITS = 26  # weight 1 is 2^26; less where sample weights make larger ones
LARGEST_WEIGHT = (1 << (WEIGHT_BITS - 2)) - 1  # p (1 - p) <= 1/4; the largest odd integer below 2^24
LARGEST_RESPONSE = 1 << (WEIGHT_BITS + 1)  # |w z + y - p| < 2
_LIMB_BITS = 16
# Free bits above the sums: a product with two features instead of one may run over by 2^19, a mask may wrap at N with
# probability 2^-64, and there is a sign.
_RESERVE = STATISTICAL_BITS + FEATURE_LIMIT.bit_length() + 3


class MomentKind(Enum):
    """X^T X, or X^T W X and X^T W y_w with the weights and the working response of a fit."""

    PLAIN = "plain"
    WEIGHTED = "weighted"


@dataclass(frozen=True)
class WorkingResponse:
    """Weights w = p (1 - p), odd integers in [1, 2^24), and w y_w = w z + y - p, integers below 2^27; at 2^bits, (n,).

    With sample weights both are that much larger, and at fewer bits if they do not fit. Odd, because a ciphertext
    raised to an even power has Jacobi symbol 1 (docs/protocols/moments.md).
    """

    weights: IntArray = field(repr=False)
    responses: IntArray = field(repr=False)
    bits: int = WEIGHT_BITS

    def __post_init__(self) -> None:
        w, u = self.weights, self.responses
        sound = w.shape == u.shape and w.ndim == 1 and np.all((w >= 1) & (w <= LARGEST_WEIGHT) & (w % 2 == 1))
        if not sound or not np.all(np.abs(u) <= LARGEST_RESPONSE):
            raise LocalProtocolError("LOGITS_INVALID", "a weight is not odd or a working response out of range")

    @classmethod
    def of_fit(cls, logits: FloatArray, label: IntArray, sample_weights: FloatArray | None = None) -> WorkingResponse:
        """The quadratic approximation of the log-likelihood at `logits`, shape (n,); label: 0/1.

        Args: sample_weights: of the rows, where the fit has them; the scale follows from the largest, nothing else.
        Raises: LocalProtocolError LOGITS_INVALID: not one finite logit a label.
        """
        s = np.ones(label.shape) if sample_weights is None else sample_weights
        if not logits.shape == label.shape == s.shape or logits.ndim != 1 or not np.all(np.isfinite(logits)):
            raise LocalProtocolError("LOGITS_INVALID", "the working response needs one finite logit a label")
        bits = WEIGHT_BITS - max(0, math.ceil(math.log2(float(s.max()))))
        z = np.clip(logits, -40.0, 40.0)
        p = 1 / (1 + np.exp(-z))
        unit = float(1 << bits)
        weights = 2 * np.floor(s * p * (1 - p) * unit / 2).astype(np.int64) + 1
        weights = np.clip(weights, 1, LARGEST_WEIGHT)
        responses = np.rint(weights * z + s * (label - p) * unit).astype(np.int64)
        return cls(weights, responses, bits)


@dataclass(frozen=True)
class Slot:
    """Where the sum of one column times a feature stands: `width` bits from `shift` on; |sum| <= bound."""

    shift: int
    width: int
    bound: int


@dataclass(frozen=True)
class ColumnLayout:
    """How the columns of a key owner are spread over the ciphertexts of a row.

    rows: n; parts: for each ciphertext of a row its slots, in the order of the columns. A slot is as wide as the
    largest honest sum; between slots there is room only where `of_columns` was asked for it, and `mask` fills it.

    >>> layout = ColumnLayout.of_columns([FEATURE_LIMIT] * 3, rows=21_000, key_bits=3072)
    >>> [slot.width for slot in layout.parts[0]], layout.opened_bits(0)
    ([54, 54, 54], 162)
    """

    rows: int
    parts: tuple[tuple[Slot, ...], ...]

    @classmethod
    def of_columns(cls, magnitudes: Sequence[int], rows: int, key_bits: int, first_room: int = 0) -> ColumnLayout:
        """magnitudes: the largest absolute value in each column; first_room: bits kept for the first column at least.

        Raises: LocalProtocolError LAYOUT_INVALID: the key is too short for one column.
        """
        parts: list[list[Slot]] = []
        room = key_bits - 1 - _RESERVE
        for magnitude in magnitudes:
            bound = rows * magnitude * FEATURE_LIMIT
            width = (2 * bound).bit_length()
            if max(width, first_room) > room:
                raise LocalProtocolError("LAYOUT_INVALID", "the key is too short for this many rows")
            shift = max(parts[-1][-1].shift + parts[-1][-1].width, first_room) if parts else room
            if shift + width > room:
                parts.append([])
                shift = 0
            parts[-1].append(Slot(shift, width, bound))
        return cls(rows, tuple(tuple(part) for part in parts))

    @property
    def columns(self) -> int:
        """How many columns there are."""
        return sum(len(part) for part in self.parts)

    def opened_bits(self, part: int) -> int:
        """All bits that the sums of a part may take."""
        last = self.parts[part][-1]
        return last.shift + last.width

    def offset(self, part: int) -> int:
        """What makes every honest sum of a part positive."""
        return sum(slot.bound << slot.shift for slot in self.parts[part])

    def mask(self, part: int, modulus: int, entropy: Entropy) -> int:
        """Uniform wherever an honest sum has no bit, zero elsewhere: what keeps any other bit from being read.

        An honest sum never carries into it, since each digit stays in its slot.
        """
        ends = [slot.shift + slot.width for slot in self.parts[part]]
        above = uniform_below(modulus >> ends[-1], entropy) << ends[-1]
        gaps = [(end, slot.shift - end) for end, slot in zip(ends[:-1], self.parts[part][1:], strict=True)]
        return above + sum(uniform_below(1 << gap, entropy) << end for end, gap in gaps if gap)

    def pack(self, values: IntArray) -> list[list[int]]:
        """The plaintexts of a row for each part, signed; values: shape (n, columns)."""
        packed, first = [], 0
        for part in self.parts:
            columns = values[:, first : first + len(part)].tolist()
            first += len(part)
            packed.append([sum(v << slot.shift for v, slot in zip(row, part, strict=True)) for row in columns])
        return packed

    def sums(self, part: int, value: int) -> list[int]:
        """The signed sums in `value`, the opened bits of a plaintext with `offset` in it.

        Raises: RemoteProtocolError CHECK_FAILED: larger than n rows can give.
        """
        sums = [((value >> slot.shift) & ((1 << slot.width) - 1)) - slot.bound for slot in self.parts[part]]
        require(all(s <= slot.bound for s, slot in zip(sums, self.parts[part], strict=True)))
        return sums


def _label_owner_magnitudes(kind: MomentKind, features: int) -> list[int]:
    """Of the label owner's columns: its features; or the weight, its weighted features, the weighted response."""
    if kind is MomentKind.PLAIN:
        return [FEATURE_LIMIT] * features
    return [LARGEST_WEIGHT, *[LARGEST_WEIGHT * FEATURE_LIMIT] * features, LARGEST_RESPONSE]


def label_owner_layout(kind: MomentKind, features: int, rows: int, key_bits: int) -> ColumnLayout:
    """Of the label owner's columns; the weight stands lowest, with room for its sums over products of two features."""
    room = pair_layout(rows).opened_bits(0) if kind is MomentKind.WEIGHTED else 0
    return ColumnLayout.of_columns(_label_owner_magnitudes(kind, features), rows, key_bits, first_room=room)


def provider_layout(kind: MomentKind, features: int, rows: int, key_bits: int) -> ColumnLayout:
    """Of a provider's columns, with room for their weights where there are any."""
    magnitude = FEATURE_LIMIT * (LARGEST_WEIGHT if kind is MomentKind.WEIGHTED else 1)
    return ColumnLayout.of_columns([magnitude] * features, rows, key_bits)


def pair_layout(rows: int) -> ColumnLayout:
    """Where the weighted sum of products of two features of one provider stands: in the lowest slot, alone."""
    bound = rows * LARGEST_WEIGHT * FEATURE_LIMIT**2
    return ColumnLayout(rows, ((Slot(0, (2 * bound).bit_length(), bound),),))


def most_parts(columns: int, rows: int, key_bits: int) -> int:
    """Most ciphertexts a row that so many columns can take."""
    widest = pair_layout(rows).opened_bits(0)  # a weighted feature times a feature
    return -(-columns // max(1, (key_bits - 1 - _RESERVE) // widest))


def exact_product(a: IntArray, b: IntArray) -> list[list[int]]:
    """A^T B as Python integers. a: (n, d) with |a| <= 2^19; b: (n, e) of any int64; n < 2^27.

    Raises: LocalProtocolError TOO_MANY_ROWS.
    """
    if len(a) >> 27:
        raise LocalProtocolError("TOO_MANY_ROWS", "exact products need fewer than 2^27 rows")
    total = [[0] * b.shape[1] for _ in range(a.shape[1])]
    for shift in range(0, 64, _LIMB_BITS):
        limb = b >> shift
        if shift + _LIMB_BITS < 64:
            limb = limb & ((1 << _LIMB_BITS) - 1)  # the top limb keeps the sign
        if not limb.any():
            continue
        for i, row in enumerate((a.T @ limb).tolist()):
            for j, value in enumerate(row):
                total[i][j] += value << shift
    return total


def design_with_intercept(design: IntArray) -> IntArray:
    """[1, X] with the one at 2^16, like X."""
    ones = np.full((len(design), 1), 1 << FEATURE_BITS, dtype=np.int64)
    return np.concatenate([ones, design], axis=1)
