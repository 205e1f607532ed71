"""Which aligned rows train, and in what order: a CSPRNG's choice, or in a simulation that of a seed."""

from __future__ import annotations

import hashlib

from protocols.sharing import Entropy, keystream


def seeded_rows(seed: int) -> Entropy:
    """A source of bytes that is the same for the same seed. It chooses rows; no key, mask or nonce comes from it."""
    key = hashlib.sha256(b"concordat/rows/1\0" + str(seed).encode()).digest()
    calls = 0

    def draw(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return keystream(key, f"rows/{calls}", size)

    return draw
