"""Randomness as an argument, and what is drawn from it: uniform integers, permutations, keyed streams.

`Entropy` is a source of bytes: `os.urandom` in production, handed in by the shell around a protocol. Nothing in
`protocols/` reaches for one itself, and only `tests/` may hand in a seeded one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.errors import LocalProtocolError

Entropy = Callable[[int], bytes]

SEED_BYTES = 32


def uniform_below(bound: int, entropy: Entropy) -> int:
    """An integer uniform in [0, bound), by rejection: no bias at all.

    Raises: LocalProtocolError: the bound is not positive, or the source keeps giving values above it.
    """
    if bound <= 0:
        raise LocalProtocolError("BOUND_INVALID", "a uniform integer needs a positive bound")
    bits = (bound - 1).bit_length()
    size = (bits + 7) // 8
    for _ in range(1000):
        value = int.from_bytes(entropy(size), "little") & ((1 << bits) - 1)
        if value < bound:
            return value
    raise LocalProtocolError("ENTROPY_BROKEN", "the source of randomness gave a thousand values above the bound")


def permutation(n: int, entropy: Entropy) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A uniform order of 0..n-1, by sorting fresh 128-bit keys (a tie has probability below n^2 / 2^129)."""
    keys = np.frombuffer(entropy(16 * n), dtype="<u8").reshape(n, 2)
    return np.lexsort((keys[:, 0], keys[:, 1])).astype(np.int64)


def keystream(seed: bytes, domain: str, size: int) -> bytes:
    """`size` bytes of AES-256-CTR under a key derived from `seed` and `domain`; a domain is used for one purpose once.

    Source: NIST SP 800-38A (CTR); key = SHA-256(seed, domain).
    """
    if len(seed) != SEED_BYTES:
        raise LocalProtocolError("SEED_INVALID", "a stream seed has 32 bytes")
    key = hashlib.sha256(b"concordat/keystream/1\0" + seed + domain.encode()).digest()
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))
