"""The kernel gives the numbers that gmpy2 gives, at every size, at the edges, in every lane."""

from __future__ import annotations

import random

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import montgomery
from protocols.montgomery import FixedBase, Lanes, Portable

pytestmark = pytest.mark.skipif(montgomery.kernel is None, reason="no kernel on this machine")

SIZES = (8, 51, 52, 53, 102, 104, 512, 1023, 1024, 2048, 3072, 4096, 6144, 7900)


def numbers(bits: int, count: int, seed: int) -> tuple[mpz, list[mpz]]:
    """An odd modulus of so many bits, and numbers below it: the ends first, then random ones."""
    draw = random.Random(seed)
    modulus = mpz(draw.getrandbits(bits) | 1 | 1 << (bits - 1))
    edges = [mpz(0), mpz(1), modulus - 1, modulus // 2, (mpz(1) << (bits - 1)) - 1]
    return modulus, (edges + [mpz(draw.randrange(int(modulus))) for _ in range(count)])[:count]


def lanes(modulus: mpz) -> Lanes:
    assert montgomery.kernel is not None
    return Lanes(modulus, montgomery.kernel)


@pytest.mark.parametrize("bits", SIZES)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 30])
def test_powers_are_those_of_gmpy2(bits: int, count: int) -> None:
    modulus, bases = numbers(bits, count, seed=bits + count)
    draw = random.Random(count)
    for size in (1, 20, 64, min(bits, 700)):
        exponents = [draw.getrandbits(size) for _ in bases]
        exponents[:2] = [0, 1][: len(exponents)]
        assert lanes(modulus).powers(bases, exponents) == Portable(modulus).powers(bases, exponents)
    for exponent in (0, 1, 2, 255, 256, draw.getrandbits(min(bits, 700))):
        assert lanes(modulus).power(bases, exponent) == Portable(modulus).power(bases, exponent)


@given(st.sampled_from(SIZES), st.integers(0, 60), st.integers(1, 12), st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_products_of_groups_are_those_of_gmpy2(bits: int, count: int, groups: int, seed: int) -> None:
    modulus, items = numbers(bits, count, seed)
    labels = np.random.default_rng(seed).integers(0, groups, count)
    ours, theirs = lanes(modulus).rows(items), Portable(modulus).rows(items)
    assert ours.numbers() == items
    first, second = ours.grouped(labels, groups), theirs.grouped(labels, groups)
    assert first.numbers() == second.numbers()
    halves = np.arange(groups) % 2
    assert first.grouped(halves, 2).numbers() == second.grouped(halves, 2).numbers()


@pytest.mark.parametrize("sizes", [[20_000], [0, 20_000, 1], [9_000, 9_000], [1] * 50, [0] * 9 + [333]])
def test_large_groups_are_multiplied_in_pieces(sizes: list[int]) -> None:
    modulus, items = numbers(104, 7, seed=3)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = [items[2 + i % 5] for i in range(len(labels))]
    expected = Portable(modulus).rows(rows).grouped(labels, len(sizes)).numbers()
    assert lanes(modulus).rows(rows).grouped(labels, len(sizes)).numbers() == expected


@pytest.mark.parametrize("bits", SIZES)
@pytest.mark.parametrize("count", [1, 8, 300])
def test_fixed_base_powers_are_those_of_gmpy2(bits: int, count: int) -> None:
    assert montgomery.kernel is not None
    modulus, (*_, generator) = numbers(bits, 6, seed=bits)
    draw = random.Random(bits)
    for length in (1, 8, 9, 65, 250):
        exponents = [0, 1, (1 << length) - 1, *(draw.getrandbits(length) for _ in range(count))][:count]
        table = FixedBase(modulus, generator, length, montgomery.kernel)
        assert table.powers(exponents) == [gmpy2.powmod(generator, e, modulus) for e in exponents]


def test_what_the_kernel_cannot_do_is_gmpy2s() -> None:
    for modulus in (mpz(10), mpz(1) << 64, mpz(3) ** 5100, mpz(1)):
        assert isinstance(montgomery.modulus_of(modulus), Portable)
        assert montgomery.fixed_base(modulus, mpz(3), 64) is None
    assert isinstance(montgomery.modulus_of(mpz(2) ** 89 - 1), Lanes)


def test_the_kernel_refuses_what_does_not_fit_together() -> None:
    engine = montgomery.kernel
    assert engine is not None
    modulus, items = numbers(128, 6, seed=5)
    own = lanes(modulus)
    data = own.to_bytes(items)
    rows = engine.rows(*own.field, data)
    index = np.arange(6, dtype=np.int64)
    table = engine.table(*own.field, data[:16], 2)
    for call in (
        lambda: engine.rows(b"\2" + bytes(15), own.field[1], data),
        lambda: engine.rows(own.field[0], own.field[1][:-1], data),
        lambda: engine.rows(b"", b"", data),
        lambda: engine.rows(b"\xff" * 2000, b"\1" * 2000, b""),
        lambda: engine.rows(*own.field, data[:-1]),
        lambda: engine.numbers(*own.field, rows[:-8]),
        lambda: engine.powers(*own.field, data[:-1], b"\1", 1),
        lambda: engine.powers(*own.field, data, b"\1\1", 1),
        lambda: engine.powers(*own.field, data, b"", 0),
        lambda: engine.products(*own.field, rows, index + 1, index + 1),
        lambda: engine.products(*own.field, rows, index - 1, index + 1),
        lambda: engine.products(*own.field, rows, index, index),
        lambda: engine.products(*own.field, rows, index, (index + 1)[::-1].copy()),
        lambda: engine.products(*own.field, rows, index, index + 2),
        lambda: engine.table(*own.field, data[:15], 2),
        lambda: engine.table(*own.field, data[:16], 0),
        lambda: engine.fixed_base(*own.field, table[:-8], b"\1\1"),
        lambda: engine.fixed_base(*own.field, table, b"\1\1\1"),
        lambda: engine.fixed_base(*own.field, b"", b"\1\1"),
    ):
        with pytest.raises(ValueError, match=r"wrong length|modulus|segments|out of range"):
            call()
