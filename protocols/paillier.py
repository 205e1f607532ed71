"""Paillier ciphertexts in batches: bytes with their checks, products per bin, sealing before they are sent.

`[[m]] = (1 + m N) r^N mod N^2`; products of ciphertexts encrypt sums. Every function here needs the public key only;
the key owner's side is `KeyPair`. Plaintexts are raw integers mod N: the fixed-point exponent is one public number of
the job, never a field of a ciphertext.

Source: docs/protocols/paillier.md; Paillier, EUROCRYPT 1999; PROTOCOLS.md sections 2 and 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice

import gmpy2
import numpy as np
from gmpy2 import mpz
from phe import PaillierPublicKey

from protocols.errors import LocalProtocolError
from protocols.fixed_point import IntArray
from protocols.messages import require
from protocols.montgomery import Rows, modulus_of
from protocols.paillier_key import (
    KeyPair,
    generate_key_pair,
    modulus_bytes,
    public_key_to_bytes,
    verify_public_key,
)
from protocols.sharing import Entropy, uniform_below

__all__ = [
    "CiphertextReader",
    "KeyPair",
    "accumulate",
    "add_plaintext",
    "ciphertext_bytes",
    "from_bytes",
    "generate_key_pair",
    "modulus_bytes",
    "public_key_to_bytes",
    "rerandomise",
    "seal",
    "to_bytes",
    "verify_public_key",
    "weighted_products",
]

_MOST_JOINED = 3
_DIGEST_BYTES = 16


def ciphertext_bytes(public: PaillierPublicKey) -> int:
    """Bytes of one ciphertext on the wire: twice the modulus."""
    return 2 * modulus_bytes(public)


def to_bytes(ciphertexts: Sequence[mpz], public: PaillierPublicKey) -> bytes:
    """Ciphertexts, little-endian, fixed width, one after the other."""
    width = ciphertext_bytes(public)
    return b"".join(c.to_bytes(width, "little") for c in ciphertexts)


def from_bytes(data: bytes, count: int, public: PaillierPublicKey) -> list[mpz]:
    """The `count` ciphertexts in `data`, checked as `CiphertextReader` does.

    Raises: RemoteProtocolError CHECK_FAILED.
    """
    reader = CiphertextReader(public, count)
    ciphertexts = reader.read(data)
    reader.finish()
    return ciphertexts


class CiphertextReader:
    """Reads a vector of ciphertexts that arrives in chunks.

    Each must be canonical, in (1, N^2) and coprime to N; the vector must hold `total` of them and no duplicate, in
    whichever chunk. Any failure is the one generic RemoteProtocolError, CHECK_FAILED.
    """

    def __init__(self, public: PaillierPublicKey, total: int) -> None:
        self._modulus = mpz(public.n)
        self._square = self._modulus**2
        self._width = ciphertext_bytes(public)
        self._total = total
        self._seen: set[bytes] = set()

    def read(self, data: bytes) -> list[mpz]:
        """The ciphertexts of the next chunk, a whole number of them."""
        count, rest = divmod(len(data), self._width)
        due = len(self._seen) + count
        require(rest == 0 and due <= self._total)
        items = [data[start : start + self._width] for start in range(0, len(data), self._width)]
        self._seen.update(hashlib.blake2b(item, digest_size=_DIGEST_BYTES).digest() for item in items)
        require(len(self._seen) == due)
        ciphertexts = [mpz.from_bytes(item, "little") for item in items]
        square, modulus, product = self._square, self._modulus, mpz(1)
        for c in ciphertexts:
            require(1 < c < square)
            product = product * c % modulus
        require(gmpy2.gcd(product, modulus) == 1)  # one common factor in any of them shows in the product
        return ciphertexts

    def finish(self) -> None:
        """Checks that all `total` ciphertexts have arrived."""
        require(len(self._seen) == self._total)


def accumulate(
    ciphertexts: Sequence[mpz],
    codes: IntArray,
    bins: Sequence[int],
    public: PaillierPublicKey,
) -> list[list[mpz]]:
    """Per feature and bin, the product mod N^2 of the ciphertexts of the rows in that bin; 1 for an empty bin.

    Rows are multiplied into the joint cells of two or three features at once, then cells into bins: fewer
    multiplications, the same products. They still carry the rows' randomness: `seal` before sending.

    Args:
        ciphertexts: n, one a row. codes: bin of each row, shape (n, F), column f in [0, bins[f]). bins: F counts.
    Raises: LocalProtocolError CODES_INVALID.
    """
    if codes.ndim != 2 or codes.shape != (len(ciphertexts), len(bins)):
        raise LocalProtocolError("CODES_INVALID", "bin codes need one row per ciphertext and one column per feature")
    if min(bins, default=1) < 1 or np.any(codes < 0) or np.any(codes >= np.asarray(bins, dtype=np.int64)):
        raise LocalProtocolError("CODES_INVALID", "a bin code is outside the bins of its feature")
    products: dict[int, list[mpz]] = {}
    rows = modulus_of(public.nsquare).rows(ciphertexts)
    for group in _joint_groups(len(ciphertexts), bins):
        cell_of_row = np.ravel_multi_index(tuple(codes[:, f] for f in group), tuple(bins[f] for f in group))
        _marginalise(rows.grouped(cell_of_row, _cell_count(group, bins)), group, bins, products)
    return [products[f] for f in range(len(bins))]


def weighted_products(
    products: Sequence[Sequence[mpz]], weights: Sequence[Sequence[int]], public: PaillierPublicKey
) -> list[mpz]:
    """For each feature j `prod_b products[j][b]^weights[j][b] mod N^2`, an encryption of the weighted sum.

    Args: weights: small integers, which may be negative; as many a feature as products.
    Source: PROTOCOLS.md section 3, offline (2): one small power a bin instead of one a row.
    """
    square = mpz(public.nsquare)
    bases = [product for bins in products for product in bins]
    flat = [weight for bins in weights for weight in bins]
    powers = iter(zip(modulus_of(square).powers(bases, [abs(weight) for weight in flat]), flat, strict=True))
    result = []
    for bins in products:
        above, below = mpz(1), mpz(1)
        for power, weight in islice(powers, len(bins)):
            if weight >= 0:
                above = above * power % square
            else:
                below = below * power % square
        result.append(above if below == 1 else above * gmpy2.invert(below, square) % square)
    return result


def add_plaintext(ciphertext: mpz, plaintext: int, public: PaillierPublicKey) -> mpz:
    """`[[m + plaintext]]` with the randomness of `[[m]]`; plaintext is taken mod N."""
    n = mpz(public.n)
    return ciphertext * (1 + plaintext % n * n) % (n * n)


def rerandomise(ciphertexts: Sequence[mpz], public: PaillierPublicKey, entropy: Entropy) -> list[mpz]:
    """Each ciphertext times its own `r^N`, `r` uniform among the units mod N: fresh encryptions of the same numbers."""
    n, square = mpz(public.n), mpz(public.nsquare)
    units = [_unit(n, entropy) for _ in ciphertexts]
    randomisers = modulus_of(square).power(units, int(n))
    return [c * r % square for c, r in zip(ciphertexts, randomisers, strict=True)]


def seal(products: Sequence[mpz], plaintexts: Sequence[int], public: PaillierPublicKey, entropy: Entropy) -> list[mpz]:
    """`[[m + plaintext]]` under fresh randomness, each: what may be sent back to the key owner.

    Source: PROTOCOLS.md section 2 (3).
    """
    added = [add_plaintext(c, m, public) for c, m in zip(products, plaintexts, strict=True)]
    return rerandomise(added, public, entropy)


def _unit(n: mpz, entropy: Entropy) -> mpz:
    while True:
        r = mpz(uniform_below(int(n), entropy))
        if gmpy2.gcd(r, n) == 1:
            return r


def _cell_count(group: Sequence[int], bins: Sequence[int]) -> int:
    count = 1
    for f in group:
        count *= bins[f]
    return count


def _joint_groups(n: int, bins: Sequence[int]) -> list[tuple[int, ...]]:
    """Features split into groups of at most three, fewest multiplications first counted as rows plus cells.

    Features are put in order of their number of bins; the best cut of that order is found by dynamic programming.
    """
    order = sorted(range(len(bins)), key=lambda f: bins[f])
    best: list[tuple[int, list[tuple[int, ...]]]] = [(0, [])]
    for end in range(1, len(order) + 1):
        options = []
        for size in range(1, min(_MOST_JOINED, end) + 1):
            group = tuple(order[end - size : end])
            cost, groups = best[end - size]
            options.append((cost + n + _marginal_cost(group, bins), [*groups, group]))
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def _marginal_cost(group: Sequence[int], bins: Sequence[int]) -> int:
    """Multiplications of `_marginalise`: each split of a group reads its cells twice."""
    if len(group) == 1:
        return 0
    half = len(group) // 2
    parts = (group[:half], group[half:])
    return 2 * _cell_count(group, bins) + sum(_marginal_cost(part, bins) for part in parts)


def _marginalise(cells: Rows, group: Sequence[int], bins: Sequence[int], products: dict[int, list[mpz]]) -> None:
    """Puts into `products` the products per bin of each feature of the group, from those per joint cell."""
    if len(group) == 1:
        products[group[0]] = cells.numbers()
        return
    half = len(group) // 2
    count = _cell_count(group[half:], bins)
    first, second = np.divmod(np.arange(_cell_count(group, bins)), count)
    _marginalise(cells.grouped(first, _cell_count(group[:half], bins)), group[:half], bins, products)
    _marginalise(cells.grouped(second, count), group[half:], bins, products)
