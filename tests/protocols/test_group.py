"""Hashing to curve25519 against RFC 9380, and the checks on points that a peer sends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.group import (
    FIELD_PRIME,
    Blinder,
    check_points,
    clear_cofactor,
    hash_to_curve_x,
    hash_to_field,
    map_to_curve,
)

SUITE = json.loads((Path(__file__).parents[1] / "vectors" / "curve25519_elligator2.json").read_text())
VECTORS = pytest.mark.parametrize("vector", SUITE["vectors"], ids=lambda vector: repr(vector["msg"][:8]))

# The u-coordinates of order 1, 2, 4 and 8 on the curve and on its twist, below p.
LOW_ORDER = (
    0,
    1,
    FIELD_PRIME - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)


def point(value: int) -> bytes:
    return value.to_bytes(32, "little")


def on_curve(x: int) -> bool:
    """x^3 + 486662 x^2 + x is a square, by Euler's criterion."""
    return pow(x**3 + 486662 * x**2 + x, (FIELD_PRIME - 1) // 2, FIELD_PRIME) in (0, 1)


@VECTORS
def test_field_element_equals_the_rfc(vector: dict[str, Any]) -> None:
    assert hash_to_field(vector["msg"].encode(), SUITE["dst"].encode()) == int(vector["u[0]"], 16)


@VECTORS
def test_mapped_point_equals_the_rfc(vector: dict[str, Any]) -> None:
    assert map_to_curve(int(vector["u[0]"], 16)) == int(vector["Q.x"], 16)


@VECTORS
def test_cleared_point_equals_the_rfc(vector: dict[str, Any]) -> None:
    assert clear_cofactor(int(vector["Q.x"], 16)) == int(vector["P.x"], 16)


@VECTORS
def test_hash_to_curve_equals_the_rfc(vector: dict[str, Any]) -> None:
    expected = bytes.fromhex(vector["P.x"])[::-1]
    assert hash_to_curve_x(vector["msg"].encode(), SUITE["dst"].encode()) == expected


@given(st.integers(0, FIELD_PRIME - 1))
def test_every_field_element_maps_to_the_curve_and_not_to_its_twist(u: int) -> None:
    x = map_to_curve(u)
    assert 0 <= x < FIELD_PRIME
    assert on_curve(x)
    assert x == map_to_curve(-u % FIELD_PRIME)


def test_the_exceptional_field_element_zero_maps_as_the_rfc_says() -> None:
    # u = 0 gives x1 = -J, whose gx1 = -J is no square, so x2 = -x1 - J = 0: the point of order 2.
    assert not on_curve(FIELD_PRIME - 486662)
    assert map_to_curve(0) == 0


def test_a_point_of_low_order_cannot_be_the_hash_of_a_message() -> None:
    for value in LOW_ORDER:
        with pytest.raises(LocalProtocolError, match="POINT_OF_LOW_ORDER"):
            clear_cofactor(value)


def test_another_tag_gives_another_point() -> None:
    assert hash_to_curve_x(b"id", b"one") != hash_to_curve_x(b"id", b"two")


@pytest.mark.parametrize("tag", [b"", bytes(256)])
def test_an_empty_or_overlong_tag_is_refused(tag: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="DST_INVALID"):
        hash_to_curve_x(b"id", tag)


def test_blinding_equals_x25519_of_rfc_7748() -> None:
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    u = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = bytes.fromhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert Blinder(lambda size: scalar[:size]).blind(u) == expected


@given(st.binary(max_size=40))
def test_blinding_commutes(message: bytes) -> None:
    one, two = Blinder(os.urandom), Blinder(os.urandom)
    start = hash_to_curve_x(message, b"tag")
    assert two.blind(one.blind(start)) == one.blind(two.blind(start))


def test_the_scalar_is_read_once_from_the_entropy_and_is_as_long_as_it_must_be() -> None:
    sizes: list[int] = []

    def entropy(size: int) -> bytes:
        sizes.append(size)
        return os.urandom(size)

    blinder = Blinder(entropy)
    blinder.blind(hash_to_curve_x(b"id", b"tag"))
    assert sizes == [32]


@pytest.mark.parametrize("value", LOW_ORDER)
def test_a_point_of_low_order_is_refused_by_its_all_zero_output(value: int) -> None:
    with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
        Blinder(os.urandom).blind(point(value))


def test_good_points_come_back_in_order() -> None:
    points = [hash_to_curve_x(bytes([i]), b"tag") for i in range(5)]
    assert check_points(b"".join(points), 5) == points
    assert check_points(b"", 0) == []
    assert check_points(point(FIELD_PRIME - 1), 1) == [point(FIELD_PRIME - 1)]


@pytest.mark.parametrize(
    ("data", "max_count"),
    [
        (point(9)[:-1], 9),
        (point(9) + b"\0", 9),
        (point(9) + point(10), 1),
        (point(9) + point(10) + point(9), 9),
        (point(FIELD_PRIME), 9),
        (point(9 + FIELD_PRIME), 9),
        (point(9 + 2**255), 9),
        (point(2**255 - 1), 9),
    ],
    ids=["short", "long", "too many", "duplicate", "p", "second encoding", "bit 255", "largest below bit 255"],
)
def test_bad_points_end_in_the_generic_error(data: bytes, max_count: int) -> None:
    with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
        check_points(data, max_count)
