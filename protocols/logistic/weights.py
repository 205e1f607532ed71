"""Sample weights: the label owner's own, and how `A` and `H_1` weight what they share without showing a weight.

`A` has w, `H_1` its share s of a residual; they need shares of w s. From the dealer, who receives nothing: a (to `A`),
b (to `H_1`), alpha (to `A`) and beta = a b - alpha (to `H_1`). `H_1` gets w - a once, `A` gets s - b each time; then
a (s - b) + alpha and (w - a) s + beta sum to w s, all modulo 2^l.
Source: Beaver, CRYPTO 1991, with one factor fixed over the job; docs/protocols/logistic.md.
Learns: nothing; each message is uniform. The dealer together with `H_1` learns w.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocols.errors import DataError, LocalProtocolError
from protocols.fixed_point import (
    SAMPLE_WEIGHT_BITS,
    SAMPLE_WEIGHT_LIMIT,
    FloatArray,
    IntArray,
    RingArray,
    SlotLayout,
)
from protocols.logistic.dealer import factor_masks, product_masks, sum_factor_masks, weight_masks
from protocols.logistic.messages import CurvatureScale, MaskedFactors, MaskedWeights, ProductCorrections
from protocols.messages import require
from protocols.roles import COORDINATOR, Parties
from protocols.session import Script, receive, send
from protocols.spent import SpentIndices

_ONE = 1 << SAMPLE_WEIGHT_BITS
_LEAST = _ONE // 64
_LARGEST_EXPONENT = 12  # of the curvature: a row weighs less than 64 times the mean


@dataclass(frozen=True)
class SampleWeights:
    """The weight of each training row, in units of 2^-10, in [2^4, 2^16), with a mean of 1 to within a unit; (n,).

    What was rounded is the weight: every sum over the rows is taken with these.
    """

    units: IntArray = field(repr=False)

    def __post_init__(self) -> None:
        units = self.units
        sound = units.ndim == 1 and bool(np.all((units >= _LEAST) & (units < SAMPLE_WEIGHT_LIMIT)))
        if not sound or int(units.sum()) >= 2 * _ONE * len(units):
            raise LocalProtocolError("WEIGHTS_INVALID", "sample weights are not integers of the range they must have")

    @classmethod
    def of(cls, values: FloatArray) -> SampleWeights:
        """Weights of the training rows, divided by their mean and rounded; shape (n,).

        Raises: DataError: WEIGHT_RANGE: one is not positive, or not within a 64th and 64 times the mean.

        >>> SampleWeights.of(np.array([1.0, 1.0, 4.0])).values.tolist()
        [0.5, 0.5, 2.0]
        """
        mean = float(values.mean())
        sound = np.isfinite(values) & (values > 0)
        units = np.rint(np.where(sound, values, 0.0) / mean * _ONE) if mean > 0 else np.zeros(len(values))
        wrong = int(np.count_nonzero((units < _LEAST) | (units >= SAMPLE_WEIGHT_LIMIT)))
        if wrong:
            raise DataError(
                "WEIGHT_RANGE",
                f"the sample weight of {wrong:,} training rows is below a 64th of the mean or not below 64 times it",
                "trim the weights, and leave out rows that should not count",
            )
        return cls(units.astype(np.int64))

    @property
    def values(self) -> FloatArray:
        """The weights, of mean 1, shape (n,)."""
        result: FloatArray = self.units / _ONE
        return result

    @property
    def effective_rows(self) -> float:
        """(sum w)^2 / sum w^2: rows of equal weight that would give a mean the same variance (Kish 1965)."""
        return float(self.values.sum() ** 2 / (self.values**2).sum())

    def rate(self, label: IntArray) -> float:
        """The weighted bad rate; label: 0/1, shape (n,)."""
        return float(self.units[label == 1].sum() / self.units.sum())

    def curvature_exponent(self, label: IntArray) -> int:
        """The power of two nearest to what weights multiply p (1 - p) by, p the bad rate."""
        plain, weighted = float(label.mean()), self.rate(label)
        ratio = math.log2(weighted * (1 - weighted) / (plain * (1 - plain)))
        return max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, round(ratio)))


class Weighting:
    """One party's part in a weighted fit. weights: at the label owner."""

    def __init__(
        self, name: str, parties: Parties, layout: SlotLayout, spent: SpentIndices, weights: SampleWeights | None
    ) -> None:
        if (name == parties.label_owner) != (weights is not None):
            raise LocalProtocolError("ROLE_INVALID", "the label owner, and only the label owner, brings weights")
        if not layout.weighted:
            raise LocalProtocolError("RING_INVALID", "the rows were encrypted for a fit without weights")
        if weights is not None and len(weights.units) != layout.rows:
            raise LocalProtocolError("WEIGHTS_INVALID", "there is one sample weight a training row")
        self._name = name
        self._parties = parties
        self._rows = layout.rows
        self._ring = layout.ring
        self._spent = spent
        self._weights = weights
        self._own: RingArray | None = None if weights is None else self._ring.from_int64(weights.units)
        self._seed = b""
        self._fixed: RingArray | None = None  # a at A, w - a at H_1
        self._corrections: ProductCorrections | None = None  # of the newest batch, at H_1

    def begin(self, seed: bytes, label: IntArray | None) -> Script[float]:
        """`A` masks its weights for `H_1`, once a job, and tells all by what weights multiply the curvature."""
        self._seed = seed
        owner, holder = self._parties.share_holders
        if self._weights is not None and self._own is not None and label is not None:
            self._fixed = weight_masks(seed, self._rows, self._ring)
            self._spent.spend("weights", 0)
            masked = self._ring.subtract(self._own, self._fixed)
            yield from send(holder, MaskedWeights(self._ring.to_bytes(masked)))
            exponent = self._weights.curvature_exponent(label)
            yield from send(self._parties.providers, CurvatureScale(exponent))
            return 2.0**exponent
        if self._name == holder:
            message = yield from receive(owner, MaskedWeights)
            self._fixed = self._ring.from_bytes(message.shares, (self._rows,))
        scale = yield from receive(owner, CurvatureScale)
        require(abs(scale.exponent) <= _LARGEST_EXPONENT)
        return 2.0**scale.exponent

    def receive_corrections(self, batch: int, period: int) -> Script[None]:
        """At `H_1`: beta of a batch."""
        message = yield from receive(COORDINATOR, ProductCorrections)
        require(message.index == batch and message.period == period)
        self._corrections = message

    def weigh(self, share: RingArray) -> RingArray:
        """At `A`: w times what `A` alone knows, shape (n, 3)."""
        if self._own is None:
            raise LocalProtocolError("ROLE_INVALID", "only the label owner knows the weights")
        return self._ring.multiply(self._own, share)

    def weigh_shares(self, batch: int, period: int, share: RingArray) -> Script[RingArray]:
        """A holder's share of w d, row by row; share: its share of d, shape (n, 3). Once a batch."""
        if self._own is not None:
            product = yield from self._others_product(batch, factor=share)
            alpha = product_masks(self._seed, batch, period, self._rows, self._ring)
            return self._ring.add(product, alpha[: self._rows])
        masks = factor_masks(self._seed, batch, period, self._rows, self._ring)
        product = yield from self._own_product(batch, share, masks)
        beta = self._ring.from_bytes(self._corrections_of(batch).shares, (self._rows,))
        return self._ring.add(product, beta)

    def weigh_sum(self, batch: int, period: int, share: RingArray) -> Script[int]:
        """A holder's share of the sum of w d over the rows, in [0, 2^l), with masks of its own. Once a batch."""
        self._spent.spend("batch, weighted sum", batch)
        if self._own is not None:
            product = yield from self._others_product(batch, factor=share)
            last = product_masks(self._seed, batch, period, self._rows, self._ring)[self._rows :]
        else:
            masks = sum_factor_masks(self._seed, batch, period, self._rows, self._ring)
            product = yield from self._own_product(batch, share, masks)
            last = self._ring.from_bytes(self._corrections_of(batch).total, (1,))
        return self._ring.total(np.concatenate([product, last]))

    def total(self, rows: NDArray[np.bool_]) -> float:
        """At `A`: the sum of the weights of `rows`, shape (n,)."""
        if self._weights is None:
            raise LocalProtocolError("ROLE_INVALID", "only the label owner knows the weights")
        return float(self._weights.values[rows].sum())

    def _others_product(self, batch: int, factor: RingArray) -> Script[RingArray]:
        """At `A`: w times its own share, and a (s - b) of `H_1`'s."""
        message = yield from receive(self._parties.co_holder, MaskedFactors)
        require(message.index == batch)
        opened = self._ring.from_bytes(message.shares, (self._rows,))
        return self._ring.add(self.weigh(factor), self._ring.multiply(self._need_fixed(), opened))

    def _own_product(self, batch: int, share: RingArray, masks: RingArray) -> Script[RingArray]:
        """At `H_1`: open s - b to `A`; (w - a) s."""
        opened = self._ring.to_bytes(self._ring.subtract(share, masks))
        yield from send(self._parties.label_owner, MaskedFactors(batch, opened))
        return self._ring.multiply(self._need_fixed(), share)

    def _corrections_of(self, batch: int) -> ProductCorrections:
        if self._corrections is None or self._corrections.index != batch:
            raise LocalProtocolError("WRONG_MESSAGE", "the dealer's products of this batch are not here")
        return self._corrections

    def _need_fixed(self) -> RingArray:
        if self._fixed is None:
            raise LocalProtocolError("ROLE_INVALID", "only a share holder weights shares")
        return self._fixed
