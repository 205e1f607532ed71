"""Arithmetic of the KKRT engine on arrays: digests, codes, cuckoo placing, turned bit matrices, tags.

By the C module where it was built, else by numpy and hashlib: the same bytes, more slowly.

Source: Kolesnikov, Kumaresan, Rosulek, Trieu, CCS 2016, sections 3 and 4; RFC 7693; docs/protocols/kkrt.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.fixed_point import IntArray

try:
    from protocols import _oprf

    loops: ModuleType | None = _oprf
except ImportError:  # no compiler when it was installed
    loops = None

ByteArray = npt.NDArray[np.uint8]

WIDTH = 448  # bits of a code word
ROW_BYTES = WIDTH // 8
DIGEST_BYTES = 16
HASHES = 3
KEY_BYTES = 16
CHUNK_BINS = 1 << 16

_SPARE_BINS = 48  # for small sets; large ones have 1.27 bins an item
_STATISTICAL_BITS = 40
_MOST_MOVES = 2000


@dataclass(frozen=True, eq=False)
class Texts:
    """Many short texts, one after the other. ends: int64, where each ends in `data`."""

    data: bytes
    ends: IntArray

    @classmethod
    def of(cls, ids: Sequence[str]) -> Texts:
        """The UTF-8 of ids of any length."""
        text = "".join(ids)
        data = text.encode()
        lengths = map(len, ids) if len(data) == len(text) else (len(item.encode()) for item in ids)
        return cls(data, np.cumsum(np.fromiter(lengths, np.int64, len(ids)), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)


def digests(texts: Texts, salt: bytes) -> ByteArray:
    """BLAKE2s of salt and text, 16 bytes, shape (n, 16). salt: 32 bytes."""
    if loops is not None:
        data = loops.digests(salt, texts.data, texts.ends)
    else:
        starts = np.concatenate([[0], texts.ends[:-1]]).tolist()
        data = b"".join(
            hashlib.blake2s(salt + texts.data[start:end], digest_size=DIGEST_BYTES).digest()
            for start, end in zip(starts, texts.ends.tolist(), strict=True)
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def segment_of(items: int) -> int:
    """Bins of each of the three segments for so many items of the receiver."""
    return -(-(127 * items + 100 * _SPARE_BINS) // (100 * HASHES))


def tag_bytes(receiver: int, sender: int) -> int:
    """Bytes with which a false match, over all pairs of an item and a tag, has probability below 2^-40; at least 8."""
    pairs = HASHES * max(receiver, 1) * max(sender, 1)
    return max(-(-(_STATISTICAL_BITS + (pairs - 1).bit_length()) // 8), KEY_BYTES // 2)


def bins_of(items: ByteArray, segment: int) -> IntArray:
    """The three bins of each item, shape (3, n), each in a segment of its own."""
    words = np.ascontiguousarray(items).view("<u4")[:, :HASHES].astype(np.uint64).T
    places = (words * np.uint64(segment)) >> np.uint64(32)
    return (places + (np.arange(HASHES, dtype=np.uint64) * np.uint64(segment))[:, None]).astype(np.int64)


def place(items: ByteArray, segment: int) -> IntArray | None:
    """The item in each bin, -1 for none, so that every item is in one of its three; None if one found no place."""
    if loops is not None:
        found = loops.place(np.ascontiguousarray(items), segment)
        return None if found is None else np.frombuffer(found, dtype=np.int32).astype(np.int64)
    bins = [-1] * (HASHES * segment)
    places = bins_of(items, segment).T.tolist()
    states = np.ascontiguousarray(items).view("<u4")[:, 3].tolist()
    used = [-1] * len(places)
    for item, state in enumerate(states):
        homeless, last = item, -1
        for moves in range(_MOST_MOVES + 1):
            free = next((k for k in range(HASHES) if bins[places[homeless][k]] < 0), None)
            if free is not None:
                bins[places[homeless][free]], used[homeless] = homeless, free
                break
            if moves == _MOST_MOVES:
                return None
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            k = (state >> 16) % HASHES
            if k == last:
                k = (k + 1) % HASHES
            bin_ = places[homeless][k]
            evicted, bins[bin_], used[homeless] = bins[bin_], homeless, k
            homeless, last = evicted, used[evicted]
    return np.array(bins, dtype=np.int64)


class Codes:
    """A pseudorandom code of 448 bits: four AES-128 permutations of a digest side by side, the last cut to 64 bits.

    Args: seed: 32 bytes of the run, which both parties drew together.
    """

    def __init__(self, seed: bytes) -> None:
        keys = (hashlib.sha256(b"concordat/kkrt/code/1\0" + bytes([k]) + seed).digest()[:KEY_BYTES] for k in range(4))
        self._ciphers = [Cipher(algorithms.AES(key), modes.ECB()) for key in keys]  # noqa: S305 -- a permutation

    def of(self, items: ByteArray) -> ByteArray:
        """Shape (4, n, 16) for items of shape (n, 16); the last 8 bytes of the last are not used."""
        data = np.ascontiguousarray(items).tobytes()
        parts = [cipher.encryptor().update(data) for cipher in self._ciphers]
        return np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(4, -1, DIGEST_BYTES)

    def rows(self, items: ByteArray) -> ByteArray:
        """The same as rows of 56 bytes."""
        return np.concatenate(list(self.of(items)), axis=1)[:, :ROW_BYTES]


class Columns:
    """448 streams of bits, each of a seed of its own, read in step, as rows of 448 bits.

    Args: seeds: 448 of 16 bytes.
    """

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self._streams = [Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor() for seed in seeds]

    def rows(self, count: int) -> ByteArray:
        """The next `count` rows, a multiple of 64, shape (count, 56). Source: NIST SP 800-38A (CTR)."""
        zeros = bytes(count // 8)
        return turned(b"".join(stream.update(zeros) for stream in self._streams))


class Noise:
    """Uniform rows. key: 32 bytes of a CSPRNG, used for nothing else. Source: NIST SP 800-38A (CTR)."""

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def rows(self, count: int) -> ByteArray:
        """Shape (count, 56), to be written to."""
        data = bytearray(self._stream.update(bytes(count * ROW_BYTES)))
        return np.frombuffer(data, dtype=np.uint8).reshape(count, ROW_BYTES)


def all_different(values: IntArray, bound: int) -> bool:
    """Whether no value comes twice. values: in [0, bound)."""
    seen = np.zeros(bound, dtype=np.bool_)
    seen[values] = True
    return int(seen.sum()) == len(values)


def turned(columns: bytes) -> ByteArray:
    """448 rows of bits as rows of 448, shape (n, 56). columns: 448 n / 8 bytes, n a multiple of 64."""
    if loops is not None:
        data = loops.turned(columns)
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, ROW_BYTES)
    bits = np.unpackbits(np.frombuffer(columns, dtype=np.uint8).reshape(WIDTH, -1), axis=1, bitorder="little")
    return np.packbits(bits.T, axis=1, bitorder="little")


def tags(
    salt: bytes, rows: ByteArray, bins: IntArray, secret: bytes, codes: ByteArray | None, first: int, size: int
) -> ByteArray:
    """BLAKE2s of the salt, `rows[b - first] XOR (code AND secret)` and the bin b, for each item; shape (n, size).

    Args: rows: of a chunk of bins from `first` on, shape (m, 56); bins: of each item; secret: 56 bytes; codes: of each
        item, shape (4, n, 16), or None for none.
    """
    if loops is not None:
        packed = b"" if codes is None else np.ascontiguousarray(codes)
        rows = np.ascontiguousarray(rows)
        data = loops.tags(salt, rows, np.ascontiguousarray(bins), secret, packed, first, size)
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
    taken = rows[bins - first]
    if codes is not None:
        taken = taken ^ (np.concatenate(list(codes), axis=1)[:, :ROW_BYTES] & np.frombuffer(secret, dtype=np.uint8))
    blocks = np.concatenate([taken, bins.astype("<u8")[:, None].view(np.uint8).reshape(len(bins), 8)], axis=1)
    prefix = salt + bytes(32)
    data = b"".join(hashlib.blake2s(prefix + block.tobytes(), digest_size=size).digest() for block in blocks)
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
