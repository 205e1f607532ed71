"""Paillier: the batch engine against phe both ways, the law of its randomness, the key proof, the checks on bytes."""

from __future__ import annotations

import copy
import math
import os
import random
from collections import Counter
from collections.abc import Iterator

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from phe import PaillierPublicKey

from protocols import montgomery, paillier, paillier_key
from protocols.errors import LocalProtocolError, PrivacyError, RemoteProtocolError
from protocols.fixed_point import IntArray
from protocols.paillier import CiphertextReader, KeyPair
from protocols.paillier_key import CHALLENGES, ResidueGroup

BITS = 512
WIDTH = BITS // 8
CONTEXT = b"contract 7, job 3, bank"

integers = st.integers(-(1 << 600), 1 << 600)


@pytest.fixture(scope="module", params=["kernel", "gmpy2"], autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test here runs on both engines."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "gmpy2":
            patch.setattr(montgomery, "kernel", None)
        elif montgomery.kernel is None:
            pytest.skip("no kernel: no compiler at installation, or a processor without AVX-512 IFMA")
        yield


@pytest.fixture(scope="module")
def key(engine: None) -> KeyPair:
    return paillier.generate_key_pair(BITS, random.Random(20).randbytes, minimum_bits=BITS)


@pytest.fixture(scope="module")
def public(key: KeyPair) -> PaillierPublicKey:
    return key.public


def primes(key: KeyPair) -> tuple[mpz, mpz]:
    return mpz(key.private.p), mpz(key.private.q)


class TestKeyGeneration:
    def test_modulus_has_exactly_the_length_asked_for(self) -> None:
        for seed in range(12):
            made = paillier.generate_key_pair(256, random.Random(seed).randbytes, minimum_bits=256)
            assert int(made.public.n).bit_length() == made.key_bits == 256
            assert made.private.p.bit_length() == made.private.q.bit_length() == 128

    def test_p_minus_one_is_twice_fifteen_bits_times_a_large_prime(self, key: KeyPair) -> None:
        for p in primes(key):
            factors = factors_of_order(p)
            assert gmpy2.is_prime(p)
            assert factors[-1].bit_length() == BITS // 2 - 16
            assert ((p - 1) // (2 * factors[-1])).bit_length() == 15

    def test_generators_have_order_p_minus_one_and_nothing_less(self, key: KeyPair) -> None:
        for group in key._groups:
            p, g = group.prime, group.generator
            assert gmpy2.powmod(g, p - 1, p * p) == 1
            assert all(gmpy2.powmod(g, (p - 1) // factor, p * p) != 1 for factor in factors_of_order(p))

    def test_a_short_key_is_refused_unless_a_test_lowers_the_minimum(self) -> None:
        with pytest.raises(PrivacyError, match="KEY_TOO_SHORT"):
            paillier.generate_key_pair(1024, os.urandom)
        with pytest.raises(PrivacyError, match="KEY_TOO_SHORT"):
            paillier.verify_public_key(b"", b"", 1024, CONTEXT)

    def test_a_length_that_is_not_a_multiple_of_16_is_refused(self) -> None:
        for bits in (2056, 64):
            with pytest.raises(LocalProtocolError, match="KEY_SIZE_INVALID"):
                paillier.generate_key_pair(bits, os.urandom, minimum_bits=0)

    def test_a_key_pair_is_neither_printed_nor_serialised(self, key: KeyPair) -> None:
        assert repr(key) == "KeyPair(key_bits=512)"
        with pytest.raises(LocalProtocolError, match="KEY_NOT_SERIALISABLE"):
            copy.copy(key)


class TestAgainstPhe:
    @given(st.lists(integers, max_size=6))
    @settings(max_examples=25, deadline=None)
    def test_phe_decrypts_what_we_encrypt(self, key: KeyPair, plaintexts: list[int]) -> None:
        encrypted = key.encrypt(plaintexts, os.urandom)
        assert [key.private.raw_decrypt(int(c)) for c in encrypted] == [m % key.public.n for m in plaintexts]

    @given(st.lists(integers, max_size=6))
    @settings(max_examples=25, deadline=None)
    def test_we_decrypt_what_phe_encrypts(self, key: KeyPair, plaintexts: list[int]) -> None:
        encrypted = [mpz(key.public.raw_encrypt(m % key.public.n)) for m in plaintexts]
        assert key.decrypt(encrypted) == [m % key.public.n for m in plaintexts]

    def test_batches_longer_than_one_block_keep_their_order(self, key: KeyPair) -> None:
        plaintexts = range(paillier_key._BATCH + 5)
        assert key.decrypt(key.encrypt(iter(plaintexts), os.urandom)) == list(plaintexts)

    def test_a_2048_bit_key_works_and_is_accepted_by_default(self) -> None:
        made = paillier.generate_key_pair(2048, os.urandom)
        n = made.public.n
        edges = [0, 1, n - 1, n // 2, -1, n, int(made.private.p), int(made.private.q)]
        assert [made.private.raw_decrypt(int(c)) for c in made.encrypt(edges, os.urandom)] == [m % n for m in edges]
        assert made.decrypt([mpz(made.public.raw_encrypt(m % n)) for m in edges]) == [m % n for m in edges]
        modulus = paillier.public_key_to_bytes(made.public)
        assert paillier.verify_public_key(modulus, made.prove(CONTEXT), 2048, CONTEXT) == made.public


class TestRandomiserLaw:
    @pytest.mark.parametrize(("p", "q", "generator"), [(251, 241, 6), (1009, 983, 11)])
    def test_uniform_exponents_give_each_value_of_r_to_the_n_once(self, p: int, q: int, generator: int) -> None:
        group = ResidueGroup(mpz(p), mpz(q), gmpy2.powmod(generator, p, p * p))
        exponents = range(p - 1)
        ours = Counter(group.encryptions([mpz(0)] * (p - 1), exponents))
        assert ours == Counter(gmpy2.powmod(r, p * q, p * p) for r in range(1, p))

    @given(st.lists(st.tuples(st.integers(0), st.integers(0)), min_size=1, max_size=5))
    @settings(max_examples=25, deadline=None)
    def test_tables_give_the_powers_of_the_generator(self, key: KeyPair, pairs: list[tuple[int, int]]) -> None:
        for group in key._groups:
            p, square = group.prime, group.square
            exponents = [int(e % (p - 1)) for _, e in pairs] + [0, int(p - 2)]
            plaintexts = [m % p for m, _ in pairs] + [mpz(1), mpz(0)]
            assert group.encryptions(plaintexts, exponents) == [
                (1 + m * key.public.n) * gmpy2.powmod(group.generator, e, square) % square
                for m, e in zip(plaintexts, exponents, strict=True)
            ]

    def test_exponents_are_drawn_over_their_full_range_and_independently(self, key: KeyPair) -> None:
        p_group, q_group = key._groups
        drawn = [int(p_group.prime) - 2, int(q_group.prime) // 3]
        source = iter([e.to_bytes(WIDTH // 2, "little") for e in drawn])
        (c,) = key.encrypt([5], lambda size: next(source))
        for group, exponent in zip((p_group, q_group), drawn, strict=True):
            expected = (1 + 5 * key.public.n) * gmpy2.powmod(group.generator, exponent, group.square)
            assert c % group.square == expected % group.square

    def test_quadratic_characters_at_p_and_q_are_independent_coins(self, key: KeyPair) -> None:
        p, q = primes(key)
        encrypted = key.encrypt([0] * 800, random.Random(3).randbytes)
        counts = Counter((gmpy2.jacobi(c, p), gmpy2.jacobi(c, q)) for c in encrypted)
        assert len(counts) == 4
        assert all(abs(count - 200) < 60 for count in counts.values())  # five standard deviations

    def test_two_encryptions_of_one_number_differ_by_an_nth_residue(self, key: KeyPair) -> None:
        first, second, other = key.encrypt([42, 42, 43], os.urandom)
        assert first != second
        assert is_nth_residue(first * gmpy2.invert(second, key.public.nsquare), key)
        assert not is_nth_residue(first * gmpy2.invert(other, key.public.nsquare), key)

    def test_rerandomising_multiplies_by_the_nth_power_of_a_unit(self) -> None:
        toy = PaillierPublicKey(35)
        draws = iter([0, 5, 14, 40, 2])  # zero, two that are not units, one above the bound; 2 is the first to serve
        assert paillier.rerandomise([mpz(3)], toy, lambda size: bytes([next(draws)])) == [3 * pow(2, 35, 1225) % 1225]

    def test_the_same_sealed_request_twice_gives_different_bytes_and_one_plaintext(self, key: KeyPair) -> None:
        product = key.encrypt([7], os.urandom)[0]
        sealed = paillier.seal([product, product], [-10, -10], key.public, os.urandom)
        assert len({product, *sealed}) == 3
        assert key.decrypt(sealed) == [key.public.n - 3] * 2
        assert is_nth_residue(sealed[0] * gmpy2.invert(sealed[1], key.public.nsquare), key)


class TestHomomorphism:
    @given(st.data())
    @settings(max_examples=40, deadline=None)
    def test_joint_cells_give_the_direct_products_and_the_plain_sums(self, key: KeyPair, data: st.DataObject) -> None:
        bins = data.draw(st.lists(st.integers(1, 5), min_size=0, max_size=5))
        n = data.draw(st.integers(0, 30))
        rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
        codes = np.stack([rng.integers(0, b, n) for b in bins], axis=1) if bins else np.zeros((n, 0), np.int64)
        values = [int(v) for v in rng.integers(0, 1 << 40, n)]
        encrypted = key.encrypt(values, os.urandom)
        products = paillier.accumulate(encrypted, codes, bins, key.public)
        assert products == direct_products(encrypted, codes, bins, key.public)
        for f, count in enumerate(bins):
            sums = [sum(v for v, code in zip(values, codes[:, f], strict=True) if code == b) for b in range(count)]
            assert key.decrypt(products[f]) == sums

    def test_empty_bins_are_one(self, key: KeyPair) -> None:
        encrypted = key.encrypt([1, 2], os.urandom)
        products = paillier.accumulate(encrypted, np.array([[2, 0], [2, 0]]), [4, 1], key.public)
        assert [product == 1 for product in products[0]] == [True, True, False, True]

    @pytest.mark.parametrize(
        ("rows", "bins", "sizes"),
        [(21_000, [20] * 6, [2, 2, 2]), (21_000, [5] * 6, [3, 3]), (10, [20] * 3, [1, 1, 1]), (21_000, [8], [1])],
    )
    def test_features_are_joined_where_it_saves_multiplications(
        self, rows: int, bins: list[int], sizes: list[int]
    ) -> None:
        groups = paillier._joint_groups(rows, bins)
        assert [len(group) for group in groups] == sizes
        assert sorted(f for group in groups for f in group) == list(range(len(bins)))

    @pytest.mark.parametrize("codes", [np.array([[0], [2]]), np.array([[0], [-1]]), np.array([[0]]), np.array([0, 0])])
    def test_codes_outside_their_bins_or_of_another_shape_are_refused(self, key: KeyPair, codes: IntArray) -> None:
        with pytest.raises(LocalProtocolError, match="CODES_INVALID"):
            paillier.accumulate([mpz(2), mpz(3)], codes, [2], key.public)

    @given(st.lists(st.tuples(st.integers(0, 1 << 50), st.integers(-(1 << 20), 1 << 20)), max_size=6))
    @settings(max_examples=40, deadline=None)
    def test_a_weighted_product_encrypts_the_weighted_sum(self, key: KeyPair, pairs: list[tuple[int, int]]) -> None:
        encrypted = key.encrypt([value for value, _ in pairs], os.urandom)
        product = paillier.weighted_products([encrypted], [[weight for _, weight in pairs]], key.public)[0]
        assert key.decrypt([product]) == [sum(value * weight for value, weight in pairs) % key.public.n]

    @given(integers, integers)
    @settings(max_examples=40, deadline=None)
    def test_adding_a_plaintext_adds_it_mod_n(self, key: KeyPair, first: int, second: int) -> None:
        encrypted = key.encrypt([first], os.urandom)[0]
        assert key.decrypt([paillier.add_plaintext(encrypted, second, key.public)]) == [(first + second) % key.public.n]


class TestKeyProof:
    def verify(self, n: int, proof: bytes, context: bytes = CONTEXT, bits: int = BITS) -> PaillierPublicKey:
        return paillier.verify_public_key(n.to_bytes(WIDTH, "little"), proof, bits, context, minimum_bits=256)

    def test_a_good_key_is_accepted(self, key: KeyPair) -> None:
        assert self.verify(key.public.n, key.prove(CONTEXT)) == key.public
        assert CHALLENGES * 16 >= 128

    def test_a_proof_for_another_context_or_another_key_is_refused(self, key: KeyPair) -> None:
        other = paillier.generate_key_pair(BITS, os.urandom, minimum_bits=BITS)
        for n, proof, context in (
            (key.public.n, key.prove(CONTEXT), CONTEXT + b"2"),
            (key.public.n, other.prove(CONTEXT), CONTEXT),
            (other.public.n, key.prove(CONTEXT), CONTEXT),
        ):
            with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
                self.verify(n, proof, context)

    def test_every_challenge_is_checked(self, key: KeyPair) -> None:
        proof = key.prove(CONTEXT)
        for index in range(CHALLENGES):
            tampered = bytearray(proof)
            tampered[index * WIDTH] ^= 1
            with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
                self.verify(key.public.n, bytes(tampered))

    def test_a_modulus_that_shares_a_factor_with_phi_is_refused(self, key: KeyPair) -> None:
        assert best_proof(primes(key)) == key.prove(CONTEXT)  # the prover below is as good as one can be
        p = gmpy2.next_prime(mpz(1) << 200)
        q = next(c for c in (2 * k * p + 1 for k in range(3 << 109, (3 << 109) + 100_000)) if gmpy2.is_prime(c))
        for factors in ((p, q), (p, p, gmpy2.next_prime(mpz(1) << 111))):
            n = math.prod(int(factor) for factor in factors)
            assert n.bit_length() == BITS
            with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
                self.verify(n, best_proof(factors))

    @pytest.mark.parametrize(("factor", "accepted"), [(2, False), (3, False), (65_521, False), (65_537, True)])
    def test_a_factor_below_the_bound_is_refused(self, factor: int, accepted: bool) -> None:
        large = gmpy2.next_prime((mpz(3) << (BITS - 2)) // factor)
        while factor > 2 and (large - 1) % factor == 0:  # nothing but the small factor is wrong with this key
            large = gmpy2.next_prime(large)
        n = int(factor * large)
        assert n.bit_length() == BITS
        proof = best_proof((mpz(factor), large)) if factor > 2 else bytes(CHALLENGES * WIDTH)
        if accepted:
            assert self.verify(n, proof).n == n
        else:
            with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
                self.verify(n, proof)

    def test_a_modulus_one_bit_short_is_refused(self) -> None:
        p, q = gmpy2.next_prime(mpz(7) << 253), gmpy2.next_prime(mpz(7) << 252)
        n = int(p * q)
        assert n.bit_length() == BITS - 1
        assert self.verify(n, best_proof((p, q)), bits=BITS - 1).n == n
        with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
            self.verify(n, best_proof((p, q)))

    def test_encodings_of_another_width_are_refused(self, key: KeyPair) -> None:
        modulus, proof = paillier.public_key_to_bytes(key.public), key.prove(CONTEXT)
        for bad in ((modulus + b"\0", proof), (modulus[:-1], proof), (modulus, proof + b"\0"), (modulus, proof[:-1])):
            with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
                paillier.verify_public_key(*bad, BITS, CONTEXT, minimum_bits=BITS)

    def test_a_root_above_the_modulus_is_refused(self, key: KeyPair) -> None:
        n = key.public.n
        for attempt in range(1000):
            context = attempt.to_bytes(2, "little")
            proof = key.prove(context)
            shifted = int.from_bytes(proof[:WIDTH], "little") + n
            if shifted < 1 << BITS:
                with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
                    self.verify(n, shifted.to_bytes(WIDTH, "little") + proof[WIDTH:], context)
                return
        pytest.fail("no root small enough was found")


class TestCiphertextBytes:
    def test_bytes_read_back_as_sent_at_fixed_width(self, key: KeyPair) -> None:
        encrypted = [mpz(2), *key.encrypt(range(5), os.urandom)]
        data = paillier.to_bytes(encrypted, key.public)
        assert len(data) == 6 * paillier.ciphertext_bytes(key.public) == 6 * 2 * WIDTH
        assert data[: 2 * WIDTH] == (2).to_bytes(2 * WIDTH, "little")
        assert paillier.from_bytes(data, 6, key.public) == encrypted

    def test_a_number_that_is_not_a_canonical_unit_is_refused(self, key: KeyPair) -> None:
        n = mpz(key.public.n)
        good = key.encrypt(range(3), os.urandom)
        for bad in (mpz(0), mpz(1), n**2, n**2 + 1, n, 5 * n, n * (n - 1), *primes(key)):
            for vector in ([bad], [*good, bad], [bad, *good]):
                with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
                    paillier.from_bytes(paillier.to_bytes(vector, key.public), len(vector), key.public)

    def test_the_largest_unit_is_accepted(self, public: PaillierPublicKey) -> None:
        largest = [mpz(public.nsquare) - 1]
        assert paillier.from_bytes(paillier.to_bytes(largest, public), 1, public) == largest

    def test_a_duplicate_is_found_across_chunks(self, key: KeyPair) -> None:
        a, b, c = key.encrypt([1, 1, 1], os.urandom)
        reader = CiphertextReader(key.public, 4)
        reader.read(paillier.to_bytes([a, b], key.public))
        with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
            reader.read(paillier.to_bytes([c, a], key.public))

    def test_a_duplicate_within_a_chunk_is_found(self, key: KeyPair) -> None:
        a, b = key.encrypt([1, 1], os.urandom)
        with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
            paillier.from_bytes(paillier.to_bytes([a, b, a], key.public), 3, key.public)

    def test_a_vector_in_chunks_equals_the_vector_at_once(self, key: KeyPair) -> None:
        encrypted = key.encrypt(range(7), os.urandom)
        reader = CiphertextReader(key.public, 7)
        chunks = [encrypted[:3], [], encrypted[3:]]
        assert [reader.read(paillier.to_bytes(chunk, key.public)) for chunk in chunks] == chunks
        reader.finish()

    def test_too_many_too_few_or_a_broken_ciphertext_are_refused(self, key: KeyPair) -> None:
        data = paillier.to_bytes(key.encrypt(range(3), os.urandom), key.public)
        for bad, count in ((data, 2), (data, 4), (data[:-1], 3), (data + b"\0", 3), (b"", 1)):
            with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
                paillier.from_bytes(bad, count, key.public)


def factors_of_order(p: mpz) -> list[mpz]:
    """The primes dividing p - 1, the largest last, by trial division up to 2^15."""
    rest, factors = p - 1, []
    for divisor in range(2, 1 << 15):
        if rest % divisor == 0:
            factors.append(mpz(divisor))
            while rest % divisor == 0:
                rest //= divisor
    assert gmpy2.is_prime(rest)
    return [*factors, rest]


def is_nth_residue(c: mpz, key: KeyPair) -> bool:
    p, q = primes(key)
    return bool(gmpy2.powmod(c, (p - 1) * (q - 1), key.public.nsquare) == 1)


def direct_products(
    encrypted: list[mpz], codes: IntArray, bins: list[int], public: PaillierPublicKey
) -> list[list[mpz]]:
    products = [[mpz(1)] * count for count in bins]
    for c, row in zip(encrypted, codes, strict=True):
        for f, code in enumerate(row):
            products[f][code] = products[f][code] * c % public.nsquare
    return products


def best_proof(factors: tuple[mpz, ...]) -> bytes:
    """An N-th root of every challenge that has one, by whoever knows the factors; something wrong for the others."""
    n = phi = mpz(1)
    for prime in factors:
        phi *= prime if n % prime == 0 else prime - 1
        n *= prime
    while (common := gmpy2.gcd(phi, n)) != 1:
        phi //= common
    width = (int(n).bit_length() + 7) // 8
    root = gmpy2.invert(n, phi)
    challenges = paillier_key._challenges(n, width, CONTEXT)
    return b"".join(gmpy2.powmod(challenge, root, n).to_bytes(width, "little") for challenge in challenges)
