"""Scoring: label owner. Learns: total points a row (with one provider, its partial points); for validation, logits;
where the recipe opens them, each provider's points by dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from protocols.disclosure import Learned
from protocols.fixed_point import IntArray
from protocols.messages import require
from protocols.roles import Parties
from protocols.scoring.dimensions import DimensionPoints, require_sums
from protocols.scoring.messages import PART_BYTES, MaskedLogitParts, MaskedPoints, OpenDimensions
from protocols.session import Opened, Script, receive_each


@dataclass(frozen=True)
class Totals:
    """Per requested row, in the common order: the score, and where they were opened the logit in units of 0.01 and
    each provider's points by dimension."""

    points: IntArray
    logits: IntArray | None
    dimensions: Mapping[str, DimensionPoints] = field(default_factory=dict)


class ScoringOwner:
    """The label owner with its own partial points, base included, and for validation its partial logits (0.01).

    dimensions: whether the providers open their points by dimension.
    """

    def __init__(
        self,
        parties: Parties,
        *,
        request: str,
        points: IntArray,
        logits: IntArray | None = None,
        dimensions: bool = False,
    ) -> None:
        self._parties = parties
        self._request = request
        self._points = points
        self._logits = logits
        self._dimensions = dimensions

    def play(self) -> Script[Totals]:
        """Steps 2 to 4."""
        masked = len(self._parties.providers) > 1
        answers = yield from receive_each(self._parties.providers, MaskedPoints)
        require(all(a.request == self._request and a.masked == masked for a in answers.values()))
        points = _total(self._points, [answer.parts for answer in answers.values()])
        yield Opened((Learned("score per row", len(points)),))
        opened: dict[str, DimensionPoints] = {}
        if self._dimensions:
            messages = yield from receive_each(self._parties.providers, OpenDimensions)
            opened = {p: DimensionPoints.of(m, self._request, len(points)) for p, m in messages.items()}
            require_sums(opened, points - self._points)
        if self._logits is None:
            return Totals(points, None, opened)
        logits = yield from open_logits(self._parties, self._request, self._logits)
        return Totals(points, logits, opened)


def open_logits(parties: Parties, request: str, own: IntArray) -> Script[IntArray]:
    """Total logits of the rows in units of 0.01, shape (n,), from own partial ones and the providers'."""
    masked = len(parties.providers) > 1
    answers = yield from receive_each(parties.providers, MaskedLogitParts)
    require(all(answer.request == request and answer.masked == masked for answer in answers.values()))
    logits = _total(own, [answer.parts for answer in answers.values()])
    yield Opened((Learned("logit per row, rounded to 0.01", len(logits)),))
    return logits


def _total(own: IntArray, parts: Sequence[bytes]) -> IntArray:
    total = own.astype(np.int64)
    for part in parts:
        require(len(part) == PART_BYTES * len(own))
        total = total + np.frombuffer(part, dtype="<u4").astype(np.int64)
    total &= 0xFFFFFFFF
    signed: IntArray = np.where(total >> 31, total - (1 << 32), total)
    return signed
