"""Weights, working responses and slots of the second moments: exact at their extremes, and bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.fixed_point import FEATURE_LIMIT, IntArray
from protocols.moments.layout import (
    LARGEST_WEIGHT,
    WEIGHT_BITS,
    ColumnLayout,
    MomentKind,
    WorkingResponse,
    exact_product,
    label_owner_layout,
    most_parts,
    pair_layout,
    provider_layout,
)
from tests.simulator import KEY_BITS, seeded


def test_the_working_response_is_the_quadratic_approximation_to_one_unit() -> None:
    z = np.linspace(-28, 28, 4001)
    label = (np.arange(4001) % 2).astype(np.int64)
    working = WorkingResponse.of_fit(z, label)
    p = 1 / (1 + np.exp(-z))
    unit = 1 << WEIGHT_BITS
    assert (working.weights % 2 == 1).all()
    assert working.weights.min() == 1
    assert working.weights.max() == LARGEST_WEIGHT
    assert np.abs(working.weights - p * (1 - p) * unit).max() <= 1
    assert np.abs(working.responses - (working.weights * z + (label - p) * unit)).max() <= 1


@pytest.mark.parametrize(
    ("weights", "responses"),
    [([2, 1], [0, 0]), ([-1, 1], [0, 0]), ([1 << 24, 1], [0, 0]), ([1, 1], [1 << 28, 0]), ([1, 1], [0])],
    ids=["even", "negative", "large", "response", "shape"],
)
def test_weights_that_are_even_or_out_of_range_are_refused(weights: list[int], responses: list[int]) -> None:
    with pytest.raises(LocalProtocolError, match="LOGITS_INVALID"):
        WorkingResponse(np.array(weights), np.array(responses))


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="LOGITS_INVALID"):
        WorkingResponse.of_fit(np.array([0.0, np.nan]), np.array([0, 1]))


# -- slots -------------------------------------------------------------------------------------------------------------

extreme = st.sampled_from([-FEATURE_LIMIT, -1, 0, 1, FEATURE_LIMIT])
columns_of = st.lists(st.lists(extreme, min_size=9, max_size=9), min_size=1, max_size=12)


@given(columns_of, st.sampled_from([384, KEY_BITS, 2048]), st.sampled_from(list(MomentKind)), st.booleans())
@settings(max_examples=60, deadline=None)
def test_sums_of_packed_rows_come_back_exactly_at_their_extremes(
    columns: list[list[int]], key_bits: int, kind: MomentKind, owner: bool
) -> None:
    n = len(columns[0])
    layout = (label_owner_layout if owner else provider_layout)(kind, len(columns), n, key_bits)
    scale = LARGEST_WEIGHT if kind is MomentKind.WEIGHTED else 1
    values: IntArray = np.array(columns, dtype=np.int64).T * scale
    if owner and kind is MomentKind.WEIGHTED:
        w, u = np.full((n, 1), scale), np.full((n, 1), -(1 << 27))
        values = np.concatenate([w, values, u], axis=1)
    x = [(-1) ** i * FEATURE_LIMIT for i in range(n)]
    found: list[int] = []
    for part, plaintexts in enumerate(layout.pack(values)):
        total = sum(a * b for a, b in zip(x, plaintexts, strict=True))
        mask = layout.mask(part, 1 << (key_bits - 1), seeded(part))
        assert 0 <= total + layout.offset(part) < 1 << layout.opened_bits(part)
        assert abs(total) << 64 < 1 << (key_bits - 1)
        found += layout.sums(part, total + layout.offset(part) + mask)
    assert found == (np.array(x, dtype=object) @ values.astype(object)).tolist()
    assert len(layout.parts) <= most_parts(layout.columns, n, key_bits)


def test_products_of_two_features_leave_room_below_the_next_column() -> None:
    layout = label_owner_layout(MomentKind.WEIGHTED, 10, 21_000, 3072)
    pair = pair_layout(21_000)
    assert len(layout.parts) == 1
    assert layout.parts[0][1].shift >= pair.opened_bits(0) > layout.parts[0][0].width
    assert layout.opened_bits(0) + 64 + 20 < 3072


def test_a_key_too_short_for_one_column_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="LAYOUT_INVALID"):
        ColumnLayout.of_columns([FEATURE_LIMIT], rows=1000, key_bits=128)


@given(st.lists(st.tuples(extreme, st.integers(-(1 << 62), 1 << 62)), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_exact_product_equals_python_integers(rows: list[tuple[int, int]]) -> None:
    a, b = (np.array([row[side] for row in rows], dtype=np.int64)[:, None] for side in (0, 1))
    assert exact_product(a, b) == [[sum(x * y for x, y in rows)]]


def test_a_sum_larger_than_the_rows_can_give_is_refused() -> None:
    layout = ColumnLayout.of_columns([FEATURE_LIMIT] * 2, rows=1200, key_bits=KEY_BITS)
    largest = layout.parts[0][1].bound
    assert layout.sums(0, layout.offset(0) + (largest << layout.parts[0][1].shift)) == [0, largest]
    with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
        layout.sums(0, layout.offset(0) + ((largest + 1) << layout.parts[0][1].shift))
