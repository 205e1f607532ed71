"""Private set intersection of large sets, one pair of parties: the script that both play.

Source: docs/protocols/kkrt.md; Kolesnikov, Kumaresan, Rosulek, Trieu, CCS 2016; `oprf.py`, `oblivious_transfer.py`.
Learns: the *receiver*, which of its own ids the other has; both, the size of the other's set. The label owner receives,
unless the only provider has fewer ids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from protocols.disclosure import Learned
from protocols.errors import LocalProtocolError
from protocols.fixed_point import IntArray
from protocols.messages import require
from protocols.psi import oblivious_transfer as transfer
from protocols.psi.messages import (
    POSITION_BYTES,
    BaseAnswers,
    BinRows,
    MatchedHandles,
    SeedReveal,
    SetOpening,
    TagEntries,
    TransferColumns,
)
from protocols.psi.oprf import CHUNK_ENTRIES, Receiver, Sender, Terms
from protocols.psi.oprf_engine import HASHES, ROW_BYTES, ByteArray, Texts, all_different
from protocols.session import Opened, Progress, Script, receive, send
from protocols.sharing import Entropy, permutation

_SEED_BYTES = 32
MOST_IDS = 30_000_000  # the code's bound, 3 n 2^-66.5 <= 2^-40, holds up to here; so do 32-bit places of bins


@dataclass(frozen=True, eq=False)
class Matched:
    """What a pair has in common, as one party knows it.

    size: ids that the peer brought; rows, names: at the label owner, own rows in ascending order and the number by
    which the provider knows each; at the provider, names is empty and row `rows[name]` is the one of that name.
    """

    size: int
    rows: IntArray
    names: IntArray


class Pair:
    """One party of one pair.

    Args: tag: what the run and the pair are bound to, equal at both; leads: whether this is the label owner; may_yield:
        whether the provider receives if it has fewer ids: only where there is one provider, since it learns what the
        pair has in common; max_ids: the largest set the peer may bring.
    """

    def __init__(
        self,
        ids: Texts,
        peer: str,
        tag: bytes,
        *,
        leads: bool,
        may_yield: bool,
        entropy: Entropy,
        max_ids: int,
    ) -> None:
        """Raises: LocalProtocolError SET_TOO_LARGE."""
        if len(ids) > MOST_IDS:
            raise LocalProtocolError("SET_TOO_LARGE", "more ids than the bounds of kkrt hold for", "align by ecdh")
        self._ids = ids
        self._peer = peer
        self._tag = tag
        self._leads = leads
        self._may_yield = may_yield
        self._entropy = entropy
        self._max_ids = min(max_ids, MOST_IDS)
        self._seed = entropy(_SEED_BYTES)

    def play(self) -> Script[Matched]:
        """Steps 0 to 5.

        Raises: RemoteProtocolError CHECK_FAILED.
        """
        own = SetOpening(len(self._ids), self._commitment(self._leads, self._seed))
        yield from send(self._peer, own)
        theirs = yield from receive(self._peer, SetOpening)
        require(0 < theirs.size <= self._max_ids and theirs.commitment != own.commitment)
        owner, provider = (own.size, theirs.size) if self._leads else (theirs.size, own.size)
        label_owner_receives = not (self._may_yield and provider < owner)
        receives = label_owner_receives == self._leads
        base = None if receives else transfer.BaseOfferer(self._tag, self._entropy)
        yield from send(self._peer, SeedReveal(self._seed, b"" if base is None else base.opening()))
        shown = yield from receive(self._peer, SeedReveal)
        require(len(shown.seed) == _SEED_BYTES and bool(shown.opening) == receives)
        require(theirs.commitment == self._commitment(not self._leads, shown.seed))
        seeds = (self._seed, shown.seed) if self._leads else (shown.seed, self._seed)
        joint = hashlib.sha256(b"concordat/kkrt/joint/1\0" + self._tag + b"".join(seeds)).digest()
        if base is None:
            terms = Terms(own.size, theirs.size, joint)
            return (yield from self._receive(terms, shown.opening))
        return (yield from self._send(Terms(theirs.size, own.size, joint), base))

    def _commitment(self, label_owners: bool, seed: bytes) -> bytes:
        who = b"label owner" if label_owners else b"provider"
        return hashlib.sha256(b"concordat/kkrt/commitment/1\0" + self._tag + who + b"\0" + seed).digest()

    # -- the receiver -----------------------------------------------------------------------------------------------

    def _receive(self, terms: Terms, opening: bytes) -> Script[Matched]:
        choices = self._entropy(transfer.BASE // 8)
        base = transfer.BaseChooser(self._tag, opening, choices, self._entropy)
        receiver = Receiver(self._ids, terms, self._entropy)
        yield from send(self._peer, BaseAnswers(base.answers(), receiver.restart))
        extension = yield from receive(self._peer, TransferColumns)
        pairs = transfer.offer_extended(self._tag, base.keys, choices, extension.columns)
        done = 0
        for rows in receiver.rows(pairs):
            yield from send(self._peer, BinRows(rows))
            done = min(done + len(rows) // ROW_BYTES, terms.bins)
            yield Progress("bins sent", done, terms.bins)
        rows_, handles = receiver.matched((yield from self._receive_entries(terms)))
        yield Opened((Learned("which of its own ids the sender holds", len(self._ids)),))
        if self._leads:
            return Matched(terms.sender, rows_, handles)
        # The order in which the label owner will name them must not be that of our file.
        order = permutation(len(rows_), self._entropy)
        yield from send(self._peer, MatchedHandles(handles[order].astype("<u4").tobytes()))
        return Matched(terms.sender, rows_[order], np.empty(0, dtype=np.int64))

    def _receive_entries(self, terms: Terms) -> Script[ByteArray]:
        total = HASHES * terms.sender
        entries = np.empty((total, terms.entry_bytes), dtype=np.uint8)
        done = 0
        while done < total:
            message = yield from receive(self._peer, TagEntries)
            count = min(CHUNK_ENTRIES, total - done)
            require(message.count == count and len(message.entries) == count * terms.entry_bytes)
            entries[done : done + count] = np.frombuffer(message.entries, dtype=np.uint8).reshape(count, -1)
            done += count
            yield Progress("tags received", done, total)
        return entries

    # -- the sender -------------------------------------------------------------------------------------------------

    def _send(self, terms: Terms, base: transfer.BaseOfferer) -> Script[Matched]:
        answers = yield from receive(self._peer, BaseAnswers)
        pairs = base.pairs(answers.answers)
        sender = Sender(self._ids, terms, answers.restart, self._entropy)
        choices = self._entropy(ROW_BYTES)
        columns, seeds = transfer.choose_extended(self._tag, pairs, choices)
        yield from send(self._peer, TransferColumns(columns))
        done = 0
        work = sender.work(seeds, choices)
        for first, count in terms.chunks():
            message = yield from receive(self._peer, BinRows)
            require(len(message.rows) == count * ROW_BYTES)
            work.take(first, message.rows)
            done = min(first + count, terms.bins)
            yield Progress("bins answered", done, terms.bins)
        entries = work.entries()
        for start in range(0, len(entries), CHUNK_ENTRIES):
            chunk = entries[start : start + CHUNK_ENTRIES]
            yield from send(self._peer, TagEntries(chunk.tobytes(), len(chunk)))
            yield Progress("tags sent", start + len(chunk), len(entries))
        if not self._leads:
            return Matched(terms.receiver, sender.handles, np.empty(0, dtype=np.int64))
        matched = yield from receive(self._peer, MatchedHandles)
        return self._named(terms, sender, matched.handles)

    def _named(self, terms: Terms, sender: Sender, data: bytes) -> Matched:
        require(len(data) % POSITION_BYTES == 0 and len(data) <= POSITION_BYTES * min(terms.sender, terms.receiver))
        handles = np.frombuffer(data, dtype="<u4").astype(np.int64)
        require(bool(np.all(handles < terms.sender)) and all_different(handles, terms.sender))
        rows = sender.handles[handles]
        ascending = np.argsort(rows)
        return Matched(terms.receiver, rows[ascending], ascending)
