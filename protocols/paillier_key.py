"""Paillier key pairs: made so that the owner encrypts fast under the exact law, and proved sound to everyone else.

The key owner knows the factors of `p - 1`, hence a generator of the N-th residues mod `p^2` (a cyclic group of order
`p - 1`), likewise for `q`. Two independent uniform exponents and the Chinese remainder theorem then give `r^N mod N^2`
for a uniform unit `r`, exactly, at the price of a few table look-ups.

Source: Paillier, EUROCRYPT 1999 (scheme, decryption by CRT); Brickell, Gordon, McCurley, Wilson, EUROCRYPT 1992
(fixed-base tables); Goldberg, Reyzin, Sagga, Baldimtsi, ASIACRYPT 2019 (key proof); PROTOCOLS.md section 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

import gmpy2
from gmpy2 import mpz
from phe import PaillierPrivateKey, PaillierPublicKey

from protocols.errors import LocalProtocolError, PrivacyError
from protocols.messages import require
from protocols.montgomery import WINDOW_BITS, FixedBase, fixed_base, modulus_of
from protocols.sharing import Entropy, uniform_below

MINIMUM_BITS = 2048
FACTOR_BOUND_BITS = 16
CHALLENGES = -(-128 // FACTOR_BOUND_BITS)  # each is passed with probability below 2^-16 by a bad key

_COFACTOR_BITS = 15
_PRIMALITY_ROUNDS = 40  # Baillie-PSW, then 16 rounds of Miller-Rabin, in GMP
_SMALL_PRIMES = gmpy2.primorial(1 << FACTOR_BOUND_BITS)
_SIEVE_PRIMES = gmpy2.primorial(3000)
_BATCH = 512
_PROOF_DOMAIN = b"concordat/paillier-key/1\0"


class ResidueGroup:
    """The N-th residues mod `p^2`: a cyclic group of order `p - 1`, and a table of powers of its generator.

    An element is kept as `(u, s)`, meaning `u (1 + s p) mod p^2` with `u` and `s` below `p`. Slopes `s` add up when
    elements are multiplied, so a step costs one multiplication by a number half as long as the modulus. Windows are the
    bytes of the exponent: wider ones gain at most 6 % and need twice the memory (docs/protocols/paillier.md).
    """

    def __init__(self, prime: mpz, other: mpz, generator: mpz) -> None:
        """prime: p; other: q, so that N = p q; generator: of order p - 1 mod p^2."""
        self.prime = prime
        self.square = prime * prime
        self.other = other
        self.generator = generator
        self._windows = (prime.bit_length() + 7) // 8
        self._units: list[list[mpz]] = []
        self._slopes: list[list[mpz]] = []
        self._kernel: FixedBase | None = None

    def encryptions(self, plaintexts: Sequence[mpz], exponents: Sequence[int]) -> list[mpz]:
        """`(1 + m N) g^e mod p^2` for each plaintext m and exponent e; e in [0, p - 1)."""
        if not self._units and self._kernel is None:
            self._kernel = fixed_base(self.square, self.generator, self._windows * WINDOW_BITS)
        if self._kernel is not None:
            prime, other, square = self.prime, self.other, self.square
            powers = self._kernel.powers(exponents)
            return [(1 + m * other % prime * prime) * x % square for m, x in zip(plaintexts, powers, strict=True)]
        if not self._units:
            self._fill_tables()
        units = [mpz(1)] * len(exponents)
        slopes = [m * self.other for m in plaintexts]  # 1 + m N = 1 + (m q) p
        columns = zip(*(e.to_bytes(self._windows, "little") for e in exponents), strict=True)
        square = self.square
        for digits, unit, slope in zip(columns, self._units, self._slopes, strict=True):
            units = [u * unit[d] % square for u, d in zip(units, digits, strict=True)]
            slopes = [s + slope[d] for s, d in zip(slopes, digits, strict=True)]
        prime = self.prime
        return [u * (1 + s % prime * prime) % square for u, s in zip(units, slopes, strict=True)]

    def _fill_tables(self) -> None:
        base = self.generator
        for _ in range(self._windows):
            units, slopes = [mpz(1)], [mpz(0)]
            inverse_step = gmpy2.invert(base, self.prime)
            power, inverse = mpz(1), mpz(1)
            for _ in range(255):
                power = power * base % self.square
                inverse = inverse * inverse_step % self.prime
                units.append(power % self.prime)
                slopes.append(power // self.prime * inverse % self.prime)
            self._units.append(units)
            self._slopes.append(slopes)
            base = power * base % self.square


@dataclass(frozen=True, repr=False, eq=False)
class KeyPair:
    """A Paillier key pair of its owner, with what makes batches fast. Never printed or compared; it leaves its process
    only by `secret_bytes`, into an encrypted checkpoint.

    public, private: phe's key types; key_bits: exact length of N.
    """

    public: PaillierPublicKey
    private: PaillierPrivateKey
    key_bits: int
    _groups: tuple[ResidueGroup, ResidueGroup]

    def __repr__(self) -> str:
        return f"KeyPair(key_bits={self.key_bits})"

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("KEY_NOT_SERIALISABLE", "a key pair lives and dies in the process that made it")

    def secret_bytes(self) -> bytes:
        """p, q and their generators, fixed width: for a checkpoint that is encrypted before it touches a disk."""
        width = self.key_bits // 8
        parts = [number for group in self._groups for number in (group.prime, group.generator)]
        return b"".join(int(part).to_bytes(width, "little") for part in parts)

    @classmethod
    def from_secret_bytes(cls, data: bytes, key_bits: int) -> KeyPair:
        """Inverse of `secret_bytes`.

        Raises: LocalProtocolError KEY_DAMAGED: not a key pair of this length.
        """
        width = key_bits // 8
        p, g_p, q, g_q = (mpz.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(4))
        if len(data) != 4 * width or (p * q).bit_length() != key_bits or not (p.is_prime() and q.is_prime()):
            raise LocalProtocolError("KEY_DAMAGED", "a stored key pair is damaged", "start the job anew")
        public = PaillierPublicKey(int(p * q))
        groups = (ResidueGroup(p, q, g_p), ResidueGroup(q, p, g_q))
        return cls(public, PaillierPrivateKey(public, int(p), int(q)), key_bits, groups)

    def encrypt(self, plaintexts: Iterable[int], entropy: Entropy) -> list[mpz]:
        """Ciphertexts `(1 + m N) r^N mod N^2`, `r` uniform among the units mod N, one for each plaintext.

        Args: plaintexts: integers, taken mod N.
        """
        groups = self._groups
        p, q = groups
        lift = gmpy2.invert(p.square, q.square)
        result: list[mpz] = []
        for batch in _batches(plaintexts):
            exponents = [[uniform_below(int(group.prime) - 1, entropy) for group in groups] for _ in batch]
            at_p = p.encryptions([m % p.prime for m in batch], [pair[0] for pair in exponents])
            at_q = q.encryptions([m % q.prime for m in batch], [pair[1] for pair in exponents])
            result += [x + p.square * ((y - x) * lift % q.square) for x, y in zip(at_p, at_q, strict=True)]
        return result

    def decrypt(self, ciphertexts: Sequence[mpz]) -> list[int]:
        """Plaintexts in [0, N), by CRT. Ciphertexts are taken to have passed `CiphertextReader`."""
        p, q = self._groups
        at_p, at_q = (_decrypt_mod(ciphertexts, group) for group in (p, q))
        lift = gmpy2.invert(p.prime, q.prime)
        return [int(x + p.prime * ((y - x) * lift % q.prime)) for x, y in zip(at_p, at_q, strict=True)]

    def prove(self, context: bytes) -> bytes:
        """Proof that gcd(N, phi(N)) = 1, bound to `context`: the N-th root of each challenge, fixed width."""
        p, q = (group.prime for group in self._groups)
        modulus = p * q
        root_p, root_q = gmpy2.invert(modulus, p - 1), gmpy2.invert(modulus, q - 1)
        lift = gmpy2.invert(p, q)
        width = modulus_bytes(self.public)
        roots = []
        for challenge in _challenges(modulus, width, context):
            x, y = gmpy2.powmod(challenge, root_p, p), gmpy2.powmod(challenge, root_q, q)
            roots.append((x + p * ((y - x) * lift % q)).to_bytes(width, "little"))
        return b"".join(roots)


def generate_key_pair(key_bits: int, entropy: Entropy, *, minimum_bits: int = MINIMUM_BITS) -> KeyPair:
    """A fresh key pair with a modulus of exactly `key_bits` bits.

    Args: key_bits: a multiple of 16; minimum_bits: shorter keys are refused (only tests lower it).
    Raises: PrivacyError KEY_TOO_SHORT; LocalProtocolError KEY_SIZE_INVALID.
    """
    _refuse_short_key(key_bits, minimum_bits)
    if key_bits % 16 or key_bits < 128:
        raise LocalProtocolError("KEY_SIZE_INVALID", "a Paillier key has a multiple of 16 bits, and at least 128")
    p, g_p = _prime_and_generator(key_bits // 2, entropy)
    q, g_q = _prime_and_generator(key_bits // 2, entropy)
    while p == q:
        q, g_q = _prime_and_generator(key_bits // 2, entropy)
    public = PaillierPublicKey(int(p * q))
    private = PaillierPrivateKey(public, int(p), int(q))
    return KeyPair(public, private, key_bits, (ResidueGroup(p, q, g_p), ResidueGroup(q, p, g_q)))


def modulus_bytes(public: PaillierPublicKey) -> int:
    """Bytes of N on the wire."""
    return (int(public.n).bit_length() + 7) // 8


def public_key_to_bytes(public: PaillierPublicKey) -> bytes:
    """N, little-endian, fixed width; what `verify_public_key` takes as `modulus`."""
    return int(public.n).to_bytes(modulus_bytes(public), "little")


def verify_public_key(
    modulus: bytes, proof: bytes, key_bits: int, context: bytes, *, minimum_bits: int = MINIMUM_BITS
) -> PaillierPublicKey:
    """The peer's public key, once N has exactly `key_bits` bits, no factor below 2^16, and gcd(N, phi(N)) = 1.

    If a prime d divides both N and phi(N), at most one unit in d is an N-th residue; with d > 2^16, eight hashed
    challenges all have roots with probability below 2^-128 for each (N, context) tried.

    Args: modulus: N, little-endian, fixed width; proof: `CHALLENGES` numbers of that width; context: as in `prove`.
    Raises: PrivacyError KEY_TOO_SHORT; RemoteProtocolError CHECK_FAILED.
    Source: Goldberg, Reyzin, Sagga, Baldimtsi, ASIACRYPT 2019.
    """
    _refuse_short_key(key_bits, minimum_bits)
    width = (key_bits + 7) // 8
    require(len(modulus) == width and len(proof) == CHALLENGES * width)
    n = mpz.from_bytes(modulus, "little")
    require(n.bit_length() == key_bits)
    require(gmpy2.gcd(n, _SMALL_PRIMES) == 1)
    roots = [mpz.from_bytes(proof[start : start + width], "little") for start in range(0, len(proof), width)]
    for root, challenge in zip(roots, _challenges(n, width, context), strict=True):
        require(0 < root < n)
        require(gmpy2.powmod(root, n, n) == challenge)
    return PaillierPublicKey(int(n))


def _refuse_short_key(key_bits: int, minimum_bits: int) -> None:
    if key_bits < minimum_bits:
        raise PrivacyError(
            "KEY_TOO_SHORT",
            f"a Paillier key of {key_bits} bits is shorter than the least allowed, {minimum_bits}",
            "set the key size of the recipe to 3072, or to what the contract names",
        )


def _challenges(n: mpz, width: int, context: bytes) -> Iterator[mpz]:
    """`CHALLENGES` units mod n, uniform up to 2^-256, from SHAKE-256 of the domain, the context, n and a counter."""
    seed = _PROOF_DOMAIN + len(context).to_bytes(8, "little") + context + n.to_bytes(width, "little")
    found = counter = 0
    while found < CHALLENGES:
        digest = hashlib.shake_256(seed + counter.to_bytes(8, "little")).digest(width + 32)
        challenge = mpz.from_bytes(digest, "little") % n
        counter += 1
        if gmpy2.gcd(challenge, n) == 1:
            found += 1
            yield challenge


def _prime_and_generator(bits: int, entropy: Entropy) -> tuple[mpz, mpz]:
    """A prime `p = 2 c r + 1` above `2^(bits - 1/2)`, and `g = h^p mod p^2` of order `p - 1`."""
    least = gmpy2.isqrt(mpz(1) << (2 * bits - 1)) + 1  # two such primes give a product of exactly 2 * bits bits
    while True:
        r = _large_prime(bits - 1 - _COFACTOR_BITS, entropy)
        least_c = int(least // (2 * r)) + 1
        choices = (1 << _COFACTOR_BITS) - least_c
        for _ in range(choices):
            c = least_c + uniform_below(choices, entropy)
            p = 2 * c * r + 1
            if _is_prime(p):
                return p, _generator(p, [mpz(2), r, *_prime_factors(c)], entropy)


def _large_prime(bits: int, entropy: Entropy) -> mpz:
    """A prime uniform among those of `bits` bits whose top two bits are set."""
    while True:
        candidate = mpz(uniform_below(1 << (bits - 2), entropy)) | (mpz(3) << (bits - 2)) | 1
        if _is_prime(candidate):
            return candidate


def _is_prime(candidate: mpz) -> bool:
    return bool(gmpy2.gcd(candidate, _SIEVE_PRIMES) == 1 and gmpy2.is_prime(candidate, _PRIMALITY_ROUNDS))


def _prime_factors(c: int) -> list[mpz]:
    factors = []
    divisor = 2
    while divisor * divisor <= c:
        if c % divisor == 0:
            factors.append(mpz(divisor))
            while c % divisor == 0:
                c //= divisor
        divisor += 1
    return factors + ([mpz(c)] if c > 1 else [])


def _generator(p: mpz, factors: Sequence[mpz], entropy: Entropy) -> mpz:
    """`h^p mod p^2` of order p - 1, given the primes dividing p - 1.

    Its order divides p - 1 because the group has p (p - 1) elements; it is not a proper divisor because `h^p = h mod p`
    has the full order there.
    """
    while True:
        h = mpz(2 + uniform_below(int(p) - 3, entropy))
        if all(gmpy2.powmod(h, (p - 1) // factor, p) != 1 for factor in factors):
            return gmpy2.powmod(h, p, p * p)


def _batches(plaintexts: Iterable[int]) -> Iterator[list[int]]:
    iterator = iter(plaintexts)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _decrypt_mod(ciphertexts: Sequence[mpz], group: ResidueGroup) -> list[mpz]:
    """Plaintexts mod p: `c^(p-1) = 1 - m q p mod p^2`."""
    p, square = group.prime, group.square
    factor = gmpy2.invert(p - group.other % p, p)
    powers = modulus_of(square).power([c % square for c in ciphertexts], int(p) - 1)
    return [(power - 1) // p * factor % p for power in powers]
