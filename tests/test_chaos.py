"""Four points of the kill -9 sweep: the lab, an agent and two jobs, at four stages. `make chaos` has all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import sweep

pytestmark = pytest.mark.process

POINTS = (("lab", "encrypt"), ("tax agent", "bin"), ("bureau job", "train"), ("bank job", "validate"))


def test_whatever_is_killed_the_job_ends_with_the_same_model_or_with_one_code_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    assert sweep(tmp_path, POINTS, said.append) == []
    assert len(said) == len(POINTS)
    assert sum(" OK " in line for line in said) >= 3, said
