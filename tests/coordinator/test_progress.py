"""What the terminal shows while a job runs: which stage, how far, how long still."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from coordinator import progress
from coordinator.progress import SCORE_STAGES, STAGES, Display, stages_of
from protocols.recipe import Recipe, load_recipe


class Clock:
    """Time as the test sets it."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def event(stage: str, done: int = 0, total: int = 0, what: str = "started") -> dict[str, Any]:
    return {"stage": stage, "done": done, "total": total, "what": what}


def drawn(display: Display, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(display)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_the_table_shows_stage_rows_percent_and_time_left(clock: Clock) -> None:
    display = Display(("bank", "bureau"), quiet=False)
    display.on_event("bank", event("encrypt"))
    clock.now += 72
    display.on_event("bank", event("encrypt", 7_000, 21_000, "encrypted rows"))
    heading, bank, bureau = drawn(display)
    assert heading.endswith("1 min 12 s so far")
    place = f"{STAGES.index('encrypt') + 1}/{len(STAGES)}"
    counted = f"bank {place} encrypt 7,000 / 21,000 encrypted rows 33 % 2 min 24 s left"
    assert " ".join(bank.split()) == counted
    assert bureau.split() == ["bureau", "starting"]


def test_every_row_of_the_table_fits_a_narrow_terminal_on_one_line(clock: Clock) -> None:
    display = Display(("bank", "bureau", "tax"), quiet=False)
    display.on_event("tax", event("encrypt", 7_000, 21_000, "encrypted rows"))
    assert len(drawn(display, width=80)) == 4


def test_a_budget_is_no_forecast(clock: Clock) -> None:
    display = Display(("bank",), quiet=False)
    display.on_event("bank", event("train", 1, 474, "gradients"))
    clock.now += 5
    display.on_event("bank", event("train", 6, 474, "gradients"))
    assert "left" not in drawn(display)[1]
    assert "6 gradients, at most 474" in drawn(display)[1]
    assert "%" not in drawn(display)[1]


def test_a_scoring_job_counts_its_own_stages() -> None:
    display = Display(("bank",), quiet=False, stages=SCORE_STAGES)
    display.on_event("bank", event("score"))
    assert f"{SCORE_STAGES.index('score') + 1}/{len(SCORE_STAGES)} score" in drawn(display)[1]


def test_a_review_says_who_is_waited_for_and_until_when() -> None:
    display = Display(("bank",), quiet=False, stages=stages_of(load_recipe("[binning]\nreview_minutes = 5\n")))
    display.on_event("bank", event("review"))
    assert f"{STAGES.index('train') + 1}/{len(STAGES) + 1} review" in drawn(display)[1]
    assert "started" not in drawn(display)[1]
    display.on_event("bank", event("review", what="waiting for review at bureau until 14:05"))
    assert "waiting for review at bureau until 14:05" in drawn(display)[1]


def test_an_unknown_stage_is_shown_by_its_name() -> None:
    display = Display(("bank",), quiet=False)
    display.on_event("bank", event("polish"))
    assert drawn(display)[1].split() == ["bank", "polish"]


def test_without_a_terminal_every_stage_is_one_line_and_never_wraps(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display(("a-party-with-a-rather-long-name",), quiet=False)
    with display:
        display.on_event("a-party-with-a-rather-long-name", event("align"))
        clock.now += 20
        display.on_event(
            "a-party-with-a-rather-long-name", event("align", 3_000_000, 5_000_000, "ids of somebody else, blinded")
        )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "3,000,000 / 5,000,000 ids of somebody else, blinded  60 %" in lines[1]


def test_a_recipe_adds_the_stages_that_it_asks_for() -> None:
    plain = ("connect", "read", "resume", "align", "encrypt", "bin", "train", "validate", "statement")
    assert stages_of(Recipe()) == STAGES == plain
    errors = stages_of(load_recipe("[inference]\nstandard_errors = true"))
    assert errors == (*plain[:7], "inference", *plain[7:])
    screened = stages_of(load_recipe("[selection]\nmaximum_vif = 5.0"))
    assert screened == (*plain[:6], "screen", "train", "inference", *plain[7:])
