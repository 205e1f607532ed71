"""What many tests share: where the real consortia are, and three whole jobs with small test keys, played once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.simulator import Job, Stages, consortium, play_job


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real consortia; the test is skipped where they are not."""
    folder = Path(os.environ.get("CONCORDAT_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real consortia at {folder}; set CONCORDAT_DATA")
    return folder


@pytest.fixture(scope="session")
def job_of() -> Callable[[int], Job]:
    """A whole job with so many providers, each number played once in a test run."""

    @cache
    def job(providers: int) -> Job:
        return play_job(Stages(consortium(providers), seed=f"job of {providers}"))

    return job


@pytest.fixture(scope="session", params=[1, 2, 3], ids=lambda k: f"k={k}")
def job(request: pytest.FixtureRequest, job_of: Callable[[int], Job]) -> Job:
    """A whole job with one, two and three providers."""
    return job_of(request.param)
