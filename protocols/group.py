"""Curve25519 as a group for blinding: hashing ids onto the curve (RFC 9380) and X25519 (RFC 7748).

A point is its u-coordinate alone, 32 bytes, little-endian. Hashing is not constant time: it runs on a party's own ids,
on its own machine, before any secret is involved. The secret scalar is only ever used inside X25519, which is.

Source: RFC 9380, suite curve25519_XMD:SHA-512_ELL2_NU_ (section 8.5), sections 5.2, 5.3.1, 6.7.1 and 7;
RFC 7748 section 5.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from gmpy2 import invert, legendre, mpz

from protocols.errors import LocalProtocolError, check_failed
from protocols.messages import require
from protocols.sharing import Entropy

SUITE = b"curve25519_XMD:SHA-512_ELL2_NU_"
POINT_BYTES = 32
SCALAR_BYTES = 32
FIELD_PRIME = 2**255 - 19

_P = mpz(FIELD_PRIME)
_J = mpz(486662)  # K t^2 = s^3 + J s^2 + s, with K = 1
_Z = mpz(2)  # a non-square of the field
_A24 = mpz(121666)  # (J + 2) / 4
_L = 48  # bytes hashed to one field element: ceil((255 + 128) / 8)
_LARGEST_DST = 255
_ZERO_BLOCK = hashlib.sha512(bytes(128))  # Z_pad, one input block, common to all messages


def hash_to_curve_x(message: bytes, dst: bytes) -> bytes:
    """The u-coordinate of `encode_to_curve(message)`, in the prime-order subgroup.

    Args: message: any length; dst: domain separation tag, 1 to 255 bytes.
    Returns: 32 bytes, little-endian.
    Raises: LocalProtocolError: the tag is empty or too long.

    >>> hash_to_curve_x(b"abc", b"QUUX-V01-CS02-with-curve25519_XMD:SHA-512_ELL2_NU_")[::-1].hex()
    '7c22950b7d900fa866334262fcaea47a441a578df43b894b4625c9b450f9a026'
    """
    return clear_cofactor(map_to_curve(hash_to_field(message, dst))).to_bytes(POINT_BYTES, "little")


def hash_to_field(message: bytes, dst: bytes) -> int:
    """`hash_to_field(message, 1)` over `expand_message_xmd` with SHA-512; an integer in [0, p).

    Source: RFC 9380 sections 5.2 and 5.3.1; 48 bytes need one output block, so b_1 is all of uniform_bytes.
    """
    if not 0 < len(dst) <= _LARGEST_DST:
        raise LocalProtocolError("DST_INVALID", "a domain separation tag has 1 to 255 bytes")
    dst_prime = dst + bytes([len(dst)])
    first = _ZERO_BLOCK.copy()
    first.update(message + _L.to_bytes(2, "big") + b"\0" + dst_prime)
    block = hashlib.sha512(first.digest() + b"\1" + dst_prime).digest()
    return int.from_bytes(block[:_L], "big") % FIELD_PRIME


def map_to_curve(u: int) -> int:
    """Elligator 2: the u-coordinate of a curve point for a field element.

    1 + Z u^2 is never zero: Z is not a square and -1 is, so -1/Z is not a square. The sign of the other coordinate,
    which the RFC fixes too, is not needed here.

    Source: RFC 9380 section 6.7.1.
    """
    x1 = -_J * invert(1 + _Z * u * u, _P) % _P
    gx1 = ((x1 + _J) * x1 + 1) * x1 % _P
    return int(x1 if legendre(gx1, _P) >= 0 else (-x1 - _J) % _P)


def clear_cofactor(x: int) -> int:
    """The u-coordinate of 8 Q for Q with u-coordinate `x`, by three doublings.

    Raises: LocalProtocolError: Q has low order (for a hashed message, with probability about 2^-252).
    Source: RFC 9380 section 8.5 (h_eff = 8); doubling of RFC 7748 section 5.
    """
    X, Z = mpz(x), mpz(1)
    for _ in range(3):
        plus, minus = (X + Z) ** 2 % _P, (X - Z) ** 2 % _P
        E = plus - minus
        X, Z = plus * minus % _P, E * (minus + _A24 * E) % _P
    if Z == 0:
        raise LocalProtocolError("POINT_OF_LOW_ORDER", "a message was hashed to a point of low order")
    return int(X * invert(Z, _P) % _P)


def check_points(data: bytes, max_count: int) -> list[bytes]:
    """The points in a peer's `data`, each 32 bytes, in order.

    Every point has exactly one accepted encoding: bit 255 clear and value below p.

    Raises: RemoteProtocolError: wrong length, more than `max_count`, an encoding that is not canonical, or a duplicate.
    """
    require(len(data) % POINT_BYTES == 0 and len(data) // POINT_BYTES <= max_count)
    points = [data[at : at + POINT_BYTES] for at in range(0, len(data), POINT_BYTES)]
    for point in points:
        require(point[-1] < 0x80)
        require(int.from_bytes(point, "little") < FIELD_PRIME)
    require(len(set(points)) == len(points))
    return points


class Blinder:
    """A fresh secret scalar, used for one run and one pair of parties; `blind` multiplies a point by it.

    The scalar is clamped as in RFC 7748: a multiple of the cofactor, so a low-order part of a peer's point vanishes.
    """

    def __init__(self, entropy: Entropy) -> None:
        self._scalar = X25519PrivateKey.from_private_bytes(entropy(SCALAR_BYTES))

    def blind(self, point: bytes) -> bytes:
        """The scalar times `point`, 32 bytes.

        Raises: RemoteProtocolError: the output is all zero (a point of low order).
        """
        try:
            return self._scalar.exchange(X25519PublicKey.from_public_bytes(point))
        except ValueError:
            raise check_failed() from None
