"""The KKRT intersection between two parties, as two halves without messages: the receiver learns what is common.

The *receiver* places each id in one of three bins; by oblivious transfer it gets a pseudorandom tag of that id and bin,
and the *sender*, who can make the tag of any id and bin, sends the tags of its ids in all three. Each tag of the sender
carries a *handle*, the place of its id in a secret order, under a pad that only a party with the tag has: so a receiver
can name a common id without saying in which bin it had it.

Source: Kolesnikov, Kumaresan, Rosulek, Trieu, CCS 2016; docs/protocols/kkrt.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from protocols.errors import LocalProtocolError
from protocols.fixed_point import IntArray
from protocols.messages import require
from protocols.psi.oprf_engine import (
    CHUNK_BINS,
    HASHES,
    KEY_BYTES,
    ROW_BYTES,
    ByteArray,
    Codes,
    Columns,
    Noise,
    Texts,
    all_different,
    bins_of,
    digests,
    place,
    segment_of,
    tag_bytes,
    tags,
)
from protocols.sharing import Entropy, keystream

HANDLE_BYTES = 4
CHUNK_ENTRIES = 1 << 18
MOST_RESTARTS = 40
_MOST_EQUAL = 4  # tags that begin with the same 64 bits; by chance no three do, at any size


@dataclass(frozen=True)
class Terms:
    """What both know. receiver, sender: how many ids they bring; seed: 32 bytes drawn together, of this run."""

    receiver: int
    sender: int
    seed: bytes = field(repr=False)

    @property
    def segment(self) -> int:
        """Bins of a segment."""
        return segment_of(self.receiver)

    @property
    def entry_bytes(self) -> int:
        """Of a tag and a handle."""
        return tag_bytes(self.receiver, self.sender) + HANDLE_BYTES

    @property
    def bins(self) -> int:
        """In all."""
        return HASHES * self.segment

    def salt(self, restart: int) -> bytes:
        """Of the digests, for each attempt to place the ids."""
        return keystream(self.seed, f"kkrt/digest/{restart}", 32)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """First bin of each chunk, and how many rows travel for it: a multiple of 64."""
        for first in range(0, self.bins, CHUNK_BINS):
            yield first, -(-min(CHUNK_BINS, self.bins - first) // 64) * 64


class Receiver:
    """Places its ids, sends one row a bin, and finds its ids among the sender's tags."""

    def __init__(self, ids: Texts, terms: Terms, entropy: Entropy) -> None:
        """Raises: LocalProtocolError KKRT_PLACING: no attempt found a place for every id."""
        self._terms = terms
        self._entropy = entropy
        for restart in range(MOST_RESTARTS):
            items = digests(ids, terms.salt(restart))
            bins = place(items, terms.segment)
            if bins is not None:
                break
        else:
            raise LocalProtocolError("KKRT_PLACING", "the ids could not be placed in bins", "run the job again")
        self.restart = restart
        self._items, self._bins = items, bins
        taken = np.flatnonzero(bins >= 0)
        self._entry = np.empty((len(ids), terms.entry_bytes), dtype=np.uint8)
        require(len(taken) == len(ids))

    def rows(self, seeds: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
        """What the sender needs, chunk by chunk; own tags are made on the way. seeds: 448 pairs."""
        first_columns, second_columns = Columns([a for a, _ in seeds]), Columns([b for _, b in seeds])
        codes, size = Codes(self._terms.seed), self._terms.entry_bytes
        salt, noise = keystream(self._terms.seed, "kkrt/tag", 32), Noise(self._entropy(2 * KEY_BYTES))
        for first, count in self._terms.chunks():
            own = first_columns.rows(count)
            sent = own ^ second_columns.rows(count)
            bins = self._bins[first : first + CHUNK_BINS]
            filled = np.flatnonzero(bins >= 0)
            items = bins[filled]
            words = noise.rows(count)
            words[filled] = codes.rows(self._items[items])
            self._entry[items] = tags(salt, own, filled + first, bytes(ROW_BYTES), None, first, size)
            yield (sent ^ words).tobytes()

    def matched(self, entries: ByteArray) -> tuple[IntArray, IntArray]:
        """Own places of the ids that the sender has, ascending, and the handle of each.

        Args: entries: the sender's, shape (3 n, entry bytes), sorted.
        Raises: RemoteProtocolError CHECK_FAILED: a handle out of range, or twice; tags that are not sorted, or agree in
            their first 64 bits more often than chance lets them.
        """
        tag = self._terms.entry_bytes - HANDLE_BYTES
        own_keys, keys = _keys(self._entry), _keys(entries)
        require(bool(np.all(keys[:-1] <= keys[1:])))
        order = np.argsort(own_keys)
        at = np.searchsorted(keys, own_keys[order])
        found, where = [], []
        for _ in range(_MOST_EQUAL):
            inside = at < len(keys)
            order, at = order[inside], at[inside]
            same = keys[at] == own_keys[order]
            order, at = order[same], at[same]
            whole = np.all(self._entry[order, :tag] == entries[at, :tag], axis=1)
            found.append(order[whole])
            where.append(at[whole])
            order, at = order[~whole], at[~whole] + 1  # the same 64 bits by chance: look further
        require(len(at) == 0)
        rows, places = np.concatenate(found), np.concatenate(where)
        pads = self._entry[rows, tag:] ^ entries[places, tag:]
        handles = np.ascontiguousarray(pads).view("<u4").reshape(-1).astype(np.int64)
        require(bool(np.all(handles < self._terms.sender)) and all_different(handles, self._terms.sender))
        ascending = np.argsort(rows)
        return rows[ascending], handles[ascending]


class Sender:
    """Makes the tags of its ids in all their bins.

    handles: own place of each handle, a secret order; handle_of: its inverse; digests: shape (n, 16); bins, items: of
    each id and hash, sorted by bin.
    """

    def __init__(self, ids: Texts, terms: Terms, restart: int, entropy: Entropy) -> None:
        require(0 <= restart < MOST_RESTARTS)
        self.terms = terms
        self.handles = _secret_order(len(ids), entropy)
        self.handle_of = np.empty(len(ids), dtype="<u4")
        self.handle_of[self.handles] = np.arange(len(ids), dtype="<u4")
        self.digests = digests(ids, terms.salt(restart))
        bins = bins_of(self.digests, terms.segment).reshape(-1).astype(np.uint32)
        order = np.argsort(bins).astype(np.uint32)
        self.bins = bins[order]
        self.items = order % np.uint32(len(ids))

    def work(self, seeds: Sequence[bytes], choices: bytes) -> Tagging:
        """What takes the receiver's chunks. seeds: 448, chosen by the bits of `choices`."""
        return Tagging(self, seeds, choices)


class Tagging:
    """The sender's tags, as the receiver's rows arrive; made by `Sender.work`."""

    def __init__(self, sender: Sender, seeds: Sequence[bytes], choices: bytes) -> None:
        self._sender = sender
        self._choices = choices
        self._secret = np.frombuffer(choices, dtype=np.uint8)
        terms = sender.terms
        self._columns, self._codes = Columns(seeds), Codes(terms.seed)
        self._salt = keystream(terms.seed, "kkrt/tag", 32)
        self._entries = np.empty((HASHES * terms.sender, terms.entry_bytes), dtype=np.uint8)
        self._done = 0

    def take(self, first: int, data: bytes) -> None:
        """The rows of the chunk of bins from `first` on, in order, as `Terms.chunks` has them."""
        sender = self._sender
        mine = self._columns.rows(len(data) // ROW_BYTES)
        rows = mine ^ (np.frombuffer(data, dtype=np.uint8).reshape(mine.shape) & self._secret)
        end = int(np.searchsorted(sender.bins, np.uint32(first + CHUNK_BINS)))  # of their type: else all are copied
        items = sender.items[self._done : end]
        codes = self._codes.of(sender.digests[items])
        bins = sender.bins[self._done : end].astype(np.int64)
        entries = self._entries[self._done : end]
        entries[:] = tags(self._salt, rows, bins, self._choices, codes, first, sender.terms.entry_bytes)
        entries[:, -HANDLE_BYTES:] ^= sender.handle_of[items][:, None].view(np.uint8)
        self._done = end

    def entries(self) -> ByteArray:
        """All tags and handles, sorted: nothing is left of the order of ids or bins."""
        require(self._done == len(self._entries))
        whole = self._entries.view(f"V{self._entries.shape[1]}").reshape(-1)  # moved as one, not byte by byte
        return whole[np.argsort(_keys(self._entries))].view(np.uint8).reshape(self._entries.shape)


def _secret_order(n: int, entropy: Entropy) -> IntArray:
    """A uniform order of 0..n-1, by sorting fresh 64-bit keys, drawn anew until no two are equal."""
    while True:
        keys = np.frombuffer(entropy(8 * n), dtype="<u8")
        order = np.argsort(keys)
        if np.all(np.diff(keys[order]) > 0):
            return order.astype(np.int64)


def _keys(entries: ByteArray) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The first 64 bits of each tag."""
    return np.ascontiguousarray(entries[:, :8]).view("<u8").reshape(-1)
