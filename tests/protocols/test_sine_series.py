"""The sigmoid as a sine series: its error, its table, its known answers, and that no processor may differ."""

from __future__ import annotations

import json
from pathlib import Path

import gmpy2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError
from protocols.fixed_point import LOGIT_BITS, RESIDUAL_BITS, SHARE_BITS, Ring
from protocols.logistic.residual import label_offset, opened_phase, residual_share
from protocols.logistic.sine_series import (
    HALF_RANGE,
    NARROW,
    TABLE_BITS,
    WIDE,
    coefficients,
    harmonics,
    phase_bits,
    rounded_shift,
    series_constants,
)
from tests.reference.fit_sine_series import fit

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sine_series.json").read_text())
PERIODS = (NARROW, WIDE)


@pytest.mark.parametrize(("period", "terms"), [(NARROW, 20), (WIDE, 40)])
def test_the_committed_table_is_what_the_script_fits(period: int, terms: int) -> None:
    fitted = np.rint(fit(period, HALF_RANGE[period], terms) * 2**TABLE_BITS)
    assert np.abs(fitted - coefficients(period)).max() <= 1
    assert len(coefficients(period)) == terms


@pytest.mark.parametrize("period", PERIODS)
def test_the_series_is_within_two_millionths_of_the_sigmoid(period: int) -> None:
    u = np.linspace(-HALF_RANGE[period], HALF_RANGE[period], 20_001)
    phases = (np.rint(u * 2**LOGIT_BITS).astype(np.int64) % (period << LOGIT_BITS)).astype(np.uint32)
    sines, _ = harmonics(phases, period)
    series = (coefficients(period)[:, None] / 2**TABLE_BITS * sines / 2**TABLE_BITS).sum(axis=0)
    assert np.abs(series + 0.5 - 1 / (1 + np.exp(-u))).max() < 2.1e-6
    assert np.abs(coefficients(period)).max() < 0.64 * 2**TABLE_BITS


@pytest.mark.parametrize("case", VECTORS["harmonics"], ids=lambda case: f"period {case['period']}")
def test_harmonics_have_their_known_answers(case: dict[str, list[list[int]]]) -> None:
    period = int(case["period"])  # type: ignore[call-overload]
    sines, cosines = harmonics(np.array(case["phases"], dtype=np.uint32), period)
    assert sines.tolist() == case["sines"]
    assert cosines.tolist() == case["cosines"]


@pytest.mark.parametrize("case", VECTORS["series_constants"], ids=lambda case: f"period {case['period']}")
def test_series_constants_have_their_known_answers(case: dict[str, list[list[int]]]) -> None:
    period = int(case["period"])  # type: ignore[call-overload]
    sines, cosines = series_constants(np.array(case["deltas"], dtype=np.uint32), period)
    assert sines.tolist() == case["sines"]
    assert cosines.tolist() == case["cosines"]


@settings(deadline=None)
@given(st.sampled_from(PERIODS), st.lists(st.integers(0, (1 << 31) - 1), min_size=1, max_size=4))
def test_harmonics_are_within_2_to_the_minus_28_of_the_true_ones(period: int, drawn: list[int]) -> None:
    phases = np.array(drawn, dtype=np.uint32)
    sines, cosines = harmonics(phases, period)
    with gmpy2.context(precision=100):
        unit = 2 * gmpy2.const_pi() / (1 << phase_bits(period))
        for k in range(len(sines)):
            for i, phase in enumerate(drawn):
                angle = unit * ((k + 1) * phase)
                assert abs(int(sines[k, i]) - gmpy2.sin(angle) * 2**TABLE_BITS) < 4
                assert abs(int(cosines[k, i]) - gmpy2.cos(angle) * 2**TABLE_BITS) < 4


def test_a_rounded_shift_rounds_halves_up() -> None:
    assert rounded_shift(np.array([-3, -2, -1, 0, 1, 2, 3]), 1).tolist() == [-1, -1, 0, 0, 1, 1, 2]


def test_another_period_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="PERIOD_INVALID"):
        coefficients(48)


@pytest.mark.parametrize("period", PERIODS)
def test_shares_of_the_residual_add_up_to_sigmoid_minus_label(period: int) -> None:
    rng = np.random.default_rng(3)
    ring = Ring(76)
    z = rng.uniform(-HALF_RANGE[period], HALF_RANGE[period], 500)
    label = rng.integers(0, 2, 500)
    z_phase = (np.rint(z * 2**LOGIT_BITS).astype(np.int64) % (period << LOGIT_BITS)).astype(np.uint32)
    mask = rng.integers(0, 1 << phase_bits(period), 500, dtype=np.uint64).astype(np.uint32)
    parts = [z_phase - mask - np.uint32(77), np.full(500, 77, dtype=np.uint32)]
    delta = opened_phase(parts, period)
    sines, cosines = harmonics(mask, period)
    values = ring.from_int64(rounded_shift(np.concatenate([sines, cosines]), TABLE_BITS - SHARE_BITS))
    at_owner = ring.random(rng.bytes(ring.stream_bytes(values.shape[:2])), values.shape[:2])
    owner = ring.add(residual_share(delta, at_owner, period, ring), label_offset(label, ring))
    holder = residual_share(delta, ring.subtract(values, at_owner), period, ring)
    residual = np.array(ring.to_integers(ring.add(owner, holder)), dtype=float) / 2**RESIDUAL_BITS
    assert np.abs(residual - (1 / (1 + np.exp(-z)) - label)).max() < 1e-5
