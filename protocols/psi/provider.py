"""Private set intersection: feature provider.

Source: docs/protocols/psi.md, docs/protocols/kkrt.md.
Learns: the size of the label owner's id set; which of its own ids all parties hold, and which of them are for training.
Sends: its blinded ids, and the label owner's, blinded once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
from protocols.psi.messages import POSITION_BYTES, BlindedIds, CommonRows, DoublyBlindedIds
from protocols.psi.oprf_engine import Texts, all_different
from protocols.roles import Parties
from protocols.session import Script, receive, send
from protocols.sharing import Entropy, permutation


class Provider:
    """`H_j`: answers the label owner's points; learns only the subset that all parties hold.

    Args: name: its name in `parties`; ids: canonical and distinct, in file order; context: contract hash and job id;
        entropy: a CSPRNG; minimum_intersection: rows that all parties must share; max_ids: the largest set the label
        owner may bring; engine: the same at every party.
    """

    def __init__(
        self,
        name: str,
        ids: Sequence[str],
        parties: Parties,
        context: Context,
        entropy: Entropy,
        minimum_intersection: int,
        max_ids: int = LARGEST_SET,
        engine: Engine = "ecdh",
    ) -> None:
        if name not in parties.providers:
            raise LocalProtocolError("PARTIES_INVALID", "no such feature provider in this job")
        check_own_ids(ids)
        self._name = name
        self._ids = ids
        self._label_owner = parties.label_owner
        self._alone = len(parties.providers) == 1
        self._context = context
        self._entropy = entropy
        self._minimum_intersection = minimum_intersection
        self._max_ids = max_ids
        self._engine = engine

    def play(self) -> Script[Alignment]:
        """All steps with the label owner.

        Raises: SmallIntersectionError: too few rows in common. RemoteProtocolError: a failed check.
        """
        named = yield from (self._by_ecdh() if self._engine == "ecdh" else self._by_kkrt())
        common = yield from receive(self._label_owner, CommonRows)  # (4)
        positions = self._check_positions(common, len(named.rows))
        check_size(len(positions), self._minimum_intersection)
        sizes = {self._label_owner: named.size, self._name: len(self._ids)}
        return Alignment(named.rows[positions], common.training_rows, {}, sizes)

    def _by_kkrt(self) -> Script[Matched]:
        pair = kkrt.Pair(
            Texts.of(self._ids),
            self._label_owner,
            dst(*self._context, (self._label_owner, self._name)),
            leads=False,
            may_yield=self._alone,
            entropy=self._entropy,
            max_ids=self._max_ids,
        )
        return (yield from pair.play())

    def _by_ecdh(self) -> Script[Matched]:
        blinder = Blinder(self._entropy)
        order = permutation(len(self._ids), self._entropy)
        tag = dst(*self._context, (self._label_owner, self._name))
        sent = yield from blind_ids(self._ids, order, tag, blinder)  # while the label owner blinds its own
        theirs = yield from receive(self._label_owner, BlindedIds)  # (1): before ours go out, so they cannot copy ours
        points = received_points(theirs.points, sent, self._max_ids)
        yield from send(self._label_owner, BlindedIds(b"".join(sent)))  # (2)
        doubly_theirs = yield from blind_points(points, blinder)
        yield from send(self._label_owner, DoublyBlindedIds(b"".join(doubly_theirs)))  # (3)
        return Matched(len(points), order, np.empty(0, dtype=np.int64))

    def _check_positions(self, common: CommonRows, named: int) -> IntArray:
        """Which of the `named` ids that the label owner knows from us: distinct, in range, and no more of them for
        training than there are.
        """
        require(len(common.positions) % POSITION_BYTES == 0)
        positions = np.frombuffer(common.positions, dtype="<u4").astype(np.int64)
        require(len(positions) <= named)
        require(bool(np.all(positions < named)))
        require(all_different(positions, named))
        require(common.training_rows <= len(positions))
        return positions
