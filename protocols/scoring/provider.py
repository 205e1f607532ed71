"""Scoring: feature provider. Learns: nothing. Sends: partial sums, masked when there are two or more providers; its
points by dimension, if the recipe opens them."""

from __future__ import annotations

from protocols.errors import LocalProtocolError
from protocols.fixed_point import IntArray
from protocols.pair_masks import PairMasks, agree_on_masks
from protocols.roles import Parties
from protocols.scoring.dimensions import DimensionPoints
from protocols.scoring.messages import PART_BYTES, MaskedLogitParts, MaskedPoints
from protocols.session import Script, send
from protocols.sharing import Entropy
from protocols.spent import SpentIndices


class ScoringProvider:
    """A provider with the partial points of the requested rows, in the common order, shape (n,).

    logits: partial logits in units of 0.01, where a final model is validated; dimensions: the points by dimension,
    where the recipe opens them.
    """

    def __init__(
        self,
        name: str,
        parties: Parties,
        *,
        request: str,
        points: IntArray,
        entropy: Entropy,
        spent: SpentIndices,
        logits: IntArray | None = None,
        dimensions: DimensionPoints | None = None,
    ) -> None:
        self._name = name
        self._parties = parties
        self._request = request
        self._points = points
        self._logits = logits
        self._dimensions = dimensions
        self._entropy = entropy
        self._spent = spent

    def play(self) -> Script[None]:
        """Steps 1 to 4."""
        masks = yield from agree_on_masks(
            self._name, self._parties.providers, self._entropy, self._spent, summed_by_members=False
        )
        masked = len(self._parties.providers) > 1
        owner = self._parties.label_owner
        yield from send(owner, MaskedPoints(self._request, masked_parts(self._points, masks, "points"), masked))
        if self._dimensions is not None:
            yield from send(owner, self._dimensions.to_message(self._request))
        if self._logits is not None:
            yield from send(owner, MaskedLogitParts(self._request, masked_parts(self._logits, masks, "logits"), masked))


def masked_parts(values: IntArray, masks: PairMasks, purpose: str) -> bytes:
    """Values a row modulo 2^32 under masks that cancel in the sum over providers.

    Raises: LocalProtocolError: SCORE_RANGE.
    """
    if len(values) and abs(int(abs(values).max())) >> 24:
        raise LocalProtocolError("SCORE_RANGE", "a partial score is too large for the masked sum")
    drawn = masks.draw(purpose, 0, len(values), 8 * PART_BYTES)
    parts = [(value + mask) & 0xFFFFFFFF for value, mask in zip(values.tolist(), drawn, strict=True)]
    return b"".join(part.to_bytes(PART_BYTES, "little") for part in parts)
