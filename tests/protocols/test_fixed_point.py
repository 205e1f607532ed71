"""Ring arithmetic against Python's integers, the layout of slots, and the headroom that the specification asks for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.fixed_point import (
    FEATURE_BITS,
    FEATURE_LIMIT,
    LOGIT_BITS,
    RESIDUAL_BITS,
    STATISTICAL_BITS,
    Ring,
    SlotLayout,
    quantise_logits,
)

bits = st.integers(65, 96)
wide = st.integers(-(1 << 130), 1 << 130)


def signed(value: int, width: int) -> int:
    value %= 1 << width
    return value - (1 << width) if value >> (width - 1) else value


@given(bits, st.lists(st.tuples(wide, wide, wide), min_size=1, max_size=8))
def test_sums_and_differences_are_those_of_integers(width: int, triples: list[tuple[int, int, int]]) -> None:
    ring = Ring(width)
    a, b, c = (ring.from_integers(column) for column in zip(*triples, strict=True))
    assert ring.to_integers(ring.add(a, b, c)) == [signed(x + y + z, width) for x, y, z in triples]
    assert ring.to_integers(ring.subtract(a, b)) == [signed(x - y, width) for x, y, _ in triples]
    assert ring.to_integers(a, signed=False) == [x % (1 << width) for x, _, _ in triples]


@given(bits, st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=8))
def test_64_bit_integers_keep_value_and_sign(width: int, numbers: list[int]) -> None:
    ring = Ring(width)
    assert ring.to_integers(ring.from_int64(np.array(numbers, dtype=np.int64))) == [signed(x, width) for x in numbers]


@settings(deadline=None)
@given(bits, st.data())
def test_linear_combinations_are_those_of_integers(width: int, data: st.DataObject) -> None:
    ring = Ring(width)
    terms, rows = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    constants = data.draw(
        st.lists(
            st.lists(st.integers(-(1 << 24) + 1, (1 << 24) - 1), min_size=rows, max_size=rows),
            min_size=terms,
            max_size=terms,
        )
    )
    numbers = data.draw(st.lists(st.lists(wide, min_size=rows, max_size=rows), min_size=terms, max_size=terms))
    result = ring.combine(np.array(constants, dtype=np.int64), np.stack([ring.from_integers(row) for row in numbers]))
    expected = [signed(sum(constants[k][i] * numbers[k][i] for k in range(terms)), width) for i in range(rows)]
    assert ring.to_integers(result) == expected


def test_a_linear_combination_of_the_largest_terms_does_not_overflow() -> None:
    ring = Ring(96)
    top = (1 << 96) - 1
    for constant in ((1 << 24) - 1, -(1 << 24) + 1):
        result = ring.combine(
            np.full((127, 2), constant, dtype=np.int64), np.stack([ring.from_integers([top, top])] * 127)
        )
        assert ring.to_integers(result) == [signed(127 * constant * top, 96)] * 2


@settings(deadline=None)
@given(bits, st.data())
def test_feature_products_are_those_of_integers(width: int, data: st.DataObject) -> None:
    ring = Ring(width)
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    limits = st.integers(-FEATURE_LIMIT, FEATURE_LIMIT)
    features = data.draw(st.lists(st.lists(limits, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    vector = data.draw(st.lists(wide, min_size=rows, max_size=rows))
    result = ring.transpose_product(np.array(features, dtype=np.int64), ring.from_integers(vector))
    expected = [sum(row[j] * v for row, v in zip(features, vector, strict=True)) % (1 << width) for j in range(columns)]
    assert result == expected


@given(bits, st.lists(wide, min_size=1, max_size=6))
def test_bytes_are_of_fixed_width_and_come_back(width: int, numbers: list[int]) -> None:
    ring = Ring(width)
    array = ring.from_integers(numbers)
    data = ring.to_bytes(array)
    assert len(data) == len(numbers) * ((width + 7) // 8)
    assert data == b"".join((x % (1 << width)).to_bytes((width + 7) // 8, "little") for x in numbers)
    assert np.array_equal(ring.from_bytes(data, (len(numbers),)), array)


def test_bytes_of_another_length_or_beyond_the_ring_are_refused() -> None:
    ring = Ring(76)
    for data in (bytes(19), bytes(21), b"\xff" * 10 + bytes(10)):
        with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
            ring.from_bytes(data, (2,))


def test_random_elements_use_every_bit_of_the_ring_and_none_above() -> None:
    ring = Ring(70)
    array = ring.random(b"\xff" * ring.stream_bytes((2, 3)), (2, 3))
    assert ring.to_integers(array.reshape(-1, 3), signed=False) == [(1 << 70) - 1] * 6


@pytest.mark.parametrize("width", [64, 97])
def test_other_rings_are_refused(width: int) -> None:
    with pytest.raises(LocalProtocolError, match="RING_INVALID"):
        Ring(width)


# -- slots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key_bits", "slots"), [(3072, 17), (2048, 11)])
def test_slots_at_21_000_rows_are_those_of_the_specification(key_bits: int, slots: int) -> None:
    layout = SlotLayout.of_job(rows=21_000, key_bits=key_bits)
    assert (layout.ring_bits, layout.slots) == (76, slots)


@given(st.integers(1000, 2_000_000), st.sampled_from([2048, 3072, 4096, 8192]))
def test_no_sum_over_the_rows_can_leave_its_slot_or_the_plaintext(rows: int, key_bits: int) -> None:
    layout = SlotLayout.of_job(rows, key_bits)
    room = 1 << STATISTICAL_BITS
    largest_mask = (1 << layout.ring_bits) - 1
    assert rows * largest_mask * room <= 1 << layout.label_owner_slot
    product = rows * largest_mask * FEATURE_LIMIT
    assert product <= layout.product_offset
    assert (product + layout.product_offset) * room <= 1 << layout.co_holder_slot
    assert layout.slots * layout.co_holder_slot + STATISTICAL_BITS <= key_bits - 1
    assert layout.label_shift + rows.bit_length() + STATISTICAL_BITS <= key_bits - 1
    assert rows * FEATURE_LIMIT * (1 << RESIDUAL_BITS) < 1 << (layout.ring_bits - 1)  # a gradient and its sign


@given(st.lists(st.lists(st.integers(0, (1 << 76) - 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_digits_undo_packing_and_leave_out_what_stands_above(rows: list[list[int]]) -> None:
    layout = SlotLayout.of_job(rows=1200, key_bits=576)
    assert layout.slots == 3
    for slot in (layout.label_owner_slot, layout.co_holder_slot):
        packed = layout.pack(list(zip(*rows, strict=True)), slot)
        assert [layout.digits(value + (5 << (3 * slot)), slot) for value in packed] == rows


def test_a_key_without_room_for_three_slots_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="LAYOUT_INVALID"):
        SlotLayout.of_job(rows=1200, key_bits=560)


# -- logits ----------------------------------------------------------------------------------------------------------


@given(st.floats(-200, 200), st.sampled_from([32, 64]))
def test_a_phase_is_the_logit_to_26_bits_modulo_the_period(logit: float, period: int) -> None:
    (phase,) = quantise_logits(np.array([logit]), period).tolist()
    distance = (phase / 2**LOGIT_BITS - logit) % period
    assert min(distance, period - distance) <= 2.0 ** -(LOGIT_BITS + 1) + 1e-12
    assert 0 <= phase < period << LOGIT_BITS


def test_a_feature_of_8_is_the_largest() -> None:
    assert FEATURE_LIMIT == 8 * 2**FEATURE_BITS
