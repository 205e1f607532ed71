"""Twelve words that two people can read to each other over the telephone: the fingerprint of an identity key.

The words are the first 132 bits of SHA-256 of the 32 bytes of the Ed25519 key, eleven bits a word, most significant
first; the number is the word's line in `fingerprint_words.txt`, from 0. Two words of the list differ by at least two
letters added, dropped or changed, so one letter misheard is never another word. 132 bits leave nobody a key with the
words of another: what is compared is the whole of it, never the first few words.

The list is part of the format: no line of it ever changes.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WORDS = 12
BITS_PER_WORD = 11

_LONGEST_SPOKEN = 1000


@cache
def word_list() -> tuple[str, ...]:
    """The 2048 words in the order of their numbers, which is alphabetical."""
    return tuple(files("protocols").joinpath("fingerprint_words.txt").read_text(encoding="ascii").split())


def words(identity: Ed25519PublicKey) -> tuple[str, ...]:
    """The twelve words of an identity key.

    >>> " ".join(words(Ed25519PublicKey.from_public_bytes(bytes(31) + b"\\1")))
    'tulip enrich random figure savings anvil gentle scale large code intact pasta'
    """
    digest = hashlib.sha256(identity.public_bytes_raw()).digest()
    number = int.from_bytes(digest, "big") >> (8 * len(digest) - WORDS * BITS_PER_WORD)
    shifts = range((WORDS - 1) * BITS_PER_WORD, -1, -BITS_PER_WORD)
    return tuple(word_list()[number >> shift & (1 << BITS_PER_WORD) - 1] for shift in shifts)


def matches(spoken: str, identity: Ed25519PublicKey) -> bool:
    """Whether `spoken` is all twelve words of `identity`, in order; capitals, commas and extra spaces do not matter."""
    if len(spoken) > _LONGEST_SPOKEN:
        return False
    return tuple(re.findall(r"[^\s,]+", spoken.lower())) == words(identity)
