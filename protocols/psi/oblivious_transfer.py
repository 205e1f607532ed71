"""Oblivious transfer of random seeds: 128 base transfers in a group, extended to 448 by symmetric cryptography.

The *chooser* ends with one seed of each pair, by its choice bits; the *offerer* with both and not with the bits. Roles
turn twice: in the base transfers the offerer of the extension chooses.

Both are semi-honest. Source: Chou and Orlandi, LATINCRYPT 2015 (base), in the group of squares modulo the prime
ffdhe3072 of RFC 7919; Ishai, Kilian, Nissim, Petrank, CRYPTO 2003 (extension).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import gmpy2
import numpy as np
from gmpy2 import mpz

from protocols.messages import require
from protocols.montgomery import Modulus, modulus_of
from protocols.psi.oprf_engine import KEY_BYTES, WIDTH, ByteArray
from protocols.sharing import Entropy

BASE = 128
ELEMENT_BYTES = 384
EXTENSION_BYTES = BASE * WIDTH // 8
_EXPONENT_BYTES = 36  # RFC 7919, A.2: at least 275 bits in this group
_GENERATOR = mpz(4)  # a square: it generates all of them
_E_BITS = 3072


@cache
def prime() -> mpz:
    """ffdhe3072: `2^3072 - 2^3008 + (floor(2^2942 e) + 2625351) 2^64 - 1`, whose half is prime too. RFC 7919, A.2."""
    with gmpy2.context(precision=_E_BITS + 64):
        e = gmpy2.exp(gmpy2.mpfr(1)) * (mpz(1) << 2942)
        digits = mpz(gmpy2.floor(e))
    return (mpz(1) << 3072) - (mpz(1) << 3008) + ((digits + 2625351) << 64) - 1


@cache
def _group() -> Modulus:
    return modulus_of(prime())


class BaseOfferer:
    """Offers 128 pairs of keys. session: what the run is bound to."""

    def __init__(self, session: bytes, entropy: Entropy) -> None:
        self._session = session
        self._exponent = int.from_bytes(entropy(_EXPONENT_BYTES), "little")
        self._own = _group().power([_GENERATOR], self._exponent)[0]

    def opening(self) -> bytes:
        """To the chooser."""
        return _element(self._own)

    def pairs(self, answers: bytes) -> list[tuple[bytes, bytes]]:
        """The keys, once the chooser has answered.

        Raises: RemoteProtocolError CHECK_FAILED: not 128 elements of the group.
        """
        elements = _elements(answers, BASE)
        powers = _group().power(elements, self._exponent)
        shift = gmpy2.invert(_group().power([self._own], self._exponent)[0], prime())
        own = self.opening()
        return [
            (
                _key(self._session, i, own, _element(b), power),
                _key(self._session, i, own, _element(b), power * shift % prime()),
            )
            for i, (b, power) in enumerate(zip(elements, powers, strict=True))
        ]


class BaseChooser:
    """Chooses one key of each pair. choices: 128 bits, as 16 bytes."""

    def __init__(self, session: bytes, opening: bytes, choices: bytes, entropy: Entropy) -> None:
        """Raises: RemoteProtocolError CHECK_FAILED: the opening is no element of the group."""
        (theirs,) = _elements(opening, 1)
        exponents = [int.from_bytes(entropy(_EXPONENT_BYTES), "little") for _ in range(BASE)]
        blinds = _group().powers([_GENERATOR] * BASE, exponents)
        chosen = [b * theirs % prime() if bit else b for b, bit in zip(blinds, bits(choices), strict=True)]
        self._sent = [_element(element) for element in chosen]
        keys = _group().powers([theirs] * BASE, exponents)
        self.keys = [
            _key(session, i, opening, sent, key) for i, (sent, key) in enumerate(zip(self._sent, keys, strict=True))
        ]

    def answers(self) -> bytes:
        """To the offerer."""
        return b"".join(self._sent)


def choose_extended(session: bytes, pairs: Sequence[tuple[bytes, bytes]], choices: bytes) -> tuple[bytes, list[bytes]]:
    """The chooser of the extension, who offered the base pairs.

    Args: choices: 448 bits, as 56 bytes.
    Returns: what the offerer needs, 7,168 bytes; and the seed it chose of each of 448 pairs.
    """
    columns = np.array([_stream(session, first) for first, _ in pairs])
    others = np.array([_stream(session, second) for _, second in pairs])
    sent = columns ^ others ^ np.frombuffer(choices, dtype=np.uint8)
    rows = _turned(columns)
    return sent.tobytes(), [_seed(session, j, row) for j, row in enumerate(rows)]


def offer_extended(session: bytes, keys: Sequence[bytes], choices: bytes, received: bytes) -> list[tuple[bytes, bytes]]:
    """The offerer of the extension, who chose `keys` of the base by the 128 bits of `choices`: 448 pairs of seeds.

    Raises: RemoteProtocolError CHECK_FAILED: the chooser's part has a wrong length.
    """
    require(len(received) == EXTENSION_BYTES)
    columns = np.array([_stream(session, key) for key in keys])
    chosen = np.array(bits(choices), dtype=np.uint8)[:, None]
    columns = columns ^ np.frombuffer(received, dtype=np.uint8).reshape(BASE, -1) * chosen
    secret = np.frombuffer(choices, dtype=np.uint8)
    return [(_seed(session, j, row), _seed(session, j, row ^ secret)) for j, row in enumerate(_turned(columns))]


def bits(data: bytes) -> list[int]:
    """Bits of bytes, least first."""
    return [int(bit) for bit in np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")]


def _turned(columns: ByteArray) -> ByteArray:
    return np.packbits(np.unpackbits(columns, axis=1, bitorder="little").T, axis=1, bitorder="little")


def _stream(session: bytes, key: bytes) -> ByteArray:
    """448 bits of a base key."""
    data = hashlib.shake_256(b"concordat/kkrt/extension/1\0" + session + key).digest(WIDTH // 8)
    return np.frombuffer(data, dtype=np.uint8)


def _seed(session: bytes, place: int, row: ByteArray) -> bytes:
    text = b"concordat/kkrt/seed/1\0" + session + place.to_bytes(4, "little") + row.tobytes()
    return hashlib.sha256(text).digest()[:KEY_BYTES]


def _key(session: bytes, place: int, opening: bytes, answer: bytes, power: mpz) -> bytes:
    text = b"concordat/kkrt/base/1\0" + session + place.to_bytes(4, "little") + opening + answer + _element(power)
    return hashlib.sha256(text).digest()


def _element(number: mpz) -> bytes:
    data: bytes = number.to_bytes(ELEMENT_BYTES, "little")
    return data


def _elements(data: bytes, count: int) -> list[mpz]:
    """Squares modulo the prime, not 0 or 1."""
    require(len(data) == count * ELEMENT_BYTES)
    numbers = [mpz.from_bytes(data[i : i + ELEMENT_BYTES], "little") for i in range(0, len(data), ELEMENT_BYTES)]
    for number in numbers:
        require(1 < number < prime())
        require(gmpy2.jacobi(number, prime()) == 1)
    return numbers
