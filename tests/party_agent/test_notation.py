"""Numbers and bins are written as people write them."""

from __future__ import annotations

import pytest

from party_agent.notation import bin_label, decimals, small


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("(-inf, 3.5]", "≤ 3.5"),
        ("(-0.18, 0.02]", "−0.18 – 0.02"),
        ("(84, inf)", "> 84"),
        ("{A, B}", "A, B"),
        ("(-inf, 2], missing", "≤ 2, missing"),
        ("missing", "missing"),
        ("-999", "-999"),
        ("{(1, 2], high}", "(1, 2], high"),
        ("{a, b}, missing, other", "a, b; missing; other"),
        ("(-inf, 1], (4, 8]", "≤ 1, 4 – 8"),
        ("(see note", "(see note"),
    ],
)
def test_bin_labels_read_as_people_write_them(label: str, words: str) -> None:
    assert bin_label(label).replace("\u00a0", " ") == words


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0"), (3.14e-5, "3.1 × 10⁻⁵"), (1e-4, "1 × 10⁻⁴"), (0.001, "0.001"), (0.5, "0.5")]
)
def test_small_differences_are_written_with_their_power_of_ten(value: float, words: str) -> None:
    assert small(value).replace("\u00a0", " ") == words


def test_what_rounds_to_nothing_has_no_sign() -> None:
    assert [decimals(value) for value in (-0.0004, 0.0004, -0.0, -0.0006, None)] == [
        "0.000",
        "0.000",
        "0.000",
        "−0.001",
        "–",
    ]
