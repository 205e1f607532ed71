"""Private set intersection: label owner.

Source: docs/protocols/psi.md, docs/protocols/kkrt.md; Meadows 1986 and Huberman, Franklin, Hogg 1999 (blinding by
Diffie-Hellman).
Learns: the size of each provider's id set, and which of its own ids each provider holds.
Sends: its blinded ids to each provider; then to each only the subset that all parties hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocols.errors import LocalProtocolError
from protocols.group import Blinder
from protocols.messages import require
from protocols.psi import kkrt
from protocols.psi.alignment import Alignment, Engine, IntArray
from protocols.psi.blinding import (
    LARGEST_SET,
    Context,
    blind_ids,
    blind_points,
    check_own_ids,
    check_size,
    dst,
    received_points,
)
from protocols.psi.kkrt import Matched
from protocols.psi.messages import BlindedIds, CommonRows, DoublyBlindedIds
from protocols.psi.oprf_engine import Texts
from protocols.roles import Parties
from protocols.session import Script, receive, send
from protocols.sharing import Entropy, permutation


@dataclass
class _Pair:
    """The label owner's side of one pair: its scalar, the order and the points it sent, and who holds what."""

    blinder: Blinder
    order: IntArray
    sent: list[bytes]


class LabelOwner:
    """`A`: intersects with every provider on its own, then tells each only what all hold.

    Args: ids: canonical and distinct, in file order; context: contract hash and job id; entropy: a CSPRNG; row_choice:
        draws the common order, a CSPRNG (None: `entropy`) except in simulations, where it may be seeded;
        training_share: in (0, 1], of the common rows that may train; minimum_intersection: rows that all must share;
        max_ids: the largest set a provider may bring; may_train: by own row, whether it may (None: all). The order
        tells a provider which rows train, and of the others nothing; engine: the same at every party.
    """

    def __init__(
        self,
        ids: Sequence[str],
        parties: Parties,
        context: Context,
        entropy: Entropy,
        row_choice: Entropy | None,
        training_share: float,
        minimum_intersection: int,
        max_ids: int = LARGEST_SET,
        may_train: npt.NDArray[np.bool_] | None = None,
        engine: Engine = "ecdh",
    ) -> None:
        check_own_ids(ids)
        if may_train is not None and may_train.shape != (len(ids),):
            raise LocalProtocolError("SHARE_INVALID", "which rows may train is not said for every row")
        if not 0 < training_share <= 1:
            raise LocalProtocolError("SHARE_INVALID", "the training share lies above 0 and is at most 1")
        self._ids = ids
        self._parties = parties
        self._context = context
        self._entropy = entropy
        self._row_choice = row_choice or entropy
        self._training_share = training_share
        self._minimum_intersection = minimum_intersection
        self._max_ids = max_ids
        self._may_train = may_train
        self._engine = engine

    def play(self) -> Script[Alignment]:
        """All steps with every provider.

        Raises: SmallIntersectionError: too few rows in common; no provider has been told which, but one that received
            by kkrt (docs/protocols/kkrt.md, Roles). RemoteProtocolError: a failed check.
        """
        found = yield from (self._by_ecdh() if self._engine == "ecdh" else self._by_kkrt())
        common = np.arange(len(self._ids), dtype=np.int64)
        for matched in found.values():
            common = np.intersect1d(common, matched.rows, assume_unique=True)
        check_size(len(common), self._minimum_intersection)
        # A uniform order makes its first rows a uniform sample; a file sorted by outcome would give the labels away.
        rows = common[permutation(len(common), self._row_choice)]
        able = np.arange(len(rows)) if self._may_train is None else np.flatnonzero(self._may_train[rows])
        training_rows = round(self._training_share * len(able))
        if self._may_train is not None:
            training, rest = rows[able[:training_rows]], np.delete(rows, able[:training_rows])
            # Drawn anew: rows that may not train would stand at the front of the rest.
            rows = np.concatenate([training, rest[permutation(len(rest), self._row_choice)]])
        for provider, matched in found.items():
            positions = matched.names[np.searchsorted(matched.rows, rows)].astype("<u4")
            yield from send(provider, CommonRows(positions.tobytes(), training_rows))  # (4)
        return Alignment(
            rows,
            training_rows,
            {provider: len(matched.rows) for provider, matched in found.items()},
            {self._parties.label_owner: len(self._ids)} | {provider: x.size for provider, x in found.items()},
        )

    def _by_kkrt(self) -> Script[dict[str, Matched]]:
        texts, found = Texts.of(self._ids), {}
        for provider in self._parties.providers:
            pair = kkrt.Pair(
                texts,
                provider,
                dst(*self._context, (self._parties.label_owner, provider)),
                leads=True,
                may_yield=len(self._parties.providers) == 1,
                entropy=self._entropy,
                max_ids=self._max_ids,
            )
            found[provider] = yield from pair.play()
        return found

    def _by_ecdh(self) -> Script[dict[str, Matched]]:
        pairs: dict[str, _Pair] = {}
        for provider in self._parties.providers:
            pairs[provider] = yield from self._send_own(provider)
        found = {}
        for provider, pair in pairs.items():
            found[provider] = yield from self._intersect(provider, pair)
        return found

    def _send_own(self, provider: str) -> Script[_Pair]:
        """(1): own ids under a scalar and in an order that no other provider sees."""
        blinder = Blinder(self._entropy)
        order = permutation(len(self._ids), self._entropy)
        tag = dst(*self._context, (self._parties.label_owner, provider))
        sent = yield from blind_ids(self._ids, order, tag, blinder)
        yield from send(provider, BlindedIds(b"".join(sent)))
        return _Pair(blinder, order, sent)

    def _intersect(self, provider: str, pair: _Pair) -> Script[Matched]:
        """(2), (3): blind the provider's points, and match them with own points that the provider blinded."""
        theirs = yield from receive(provider, BlindedIds)
        points = received_points(theirs.points, pair.sent, self._max_ids)
        doubly_theirs = yield from blind_points(points, pair.blinder)
        ours = yield from receive(provider, DoublyBlindedIds)
        doubly_ours = received_points(ours.points, pair.sent, len(pair.sent))
        require(len(doubly_ours) == len(pair.sent))
        row_of = dict(zip(doubly_ours, pair.order.tolist(), strict=True))
        place = {row_of[point]: position for position, point in enumerate(doubly_theirs) if point in row_of}
        rows = np.array(sorted(place), dtype=np.int64)
        return Matched(len(points), rows, np.array([place[row] for row in rows.tolist()], dtype=np.int64))
