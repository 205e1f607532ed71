"""Live progress of a run on a terminal: one line a party (stage, what is counted, percent, expected time)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from protocols.recipe import Recipe

STAGES = ("connect", "read", "resume", "align", "encrypt", "bin", "train", "validate", "statement")  # of a training job
REVIEW_STAGE = "review"  # before training, where the recipe asks for it
SCREEN_STAGE = "screen"  # before training, where the recipe screens features across parties
INFERENCE_STAGE = "inference"  # before validation, where it does, or asks for standard errors
SCORE_STAGES = ("connect", "read", "resume", "align", "score", "statement")
_LINE_EVERY_S = 10.0
_BOUNDED = frozenset({"gradients"})  # counted against a budget, which is no forecast


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """The stages of a training job by this recipe."""
    screens, errors = recipe.screens_across, recipe.inference.standard_errors
    before = [*([REVIEW_STAGE] if recipe.binning.review_minutes else []), *([SCREEN_STAGE] if screens else [])]
    more = {"train": before, "validate": [INFERENCE_STAGE] if errors or screens else []}
    return tuple(name for stage in STAGES for name in (*more.get(stage, []), stage))


class Display:
    """Shows what the parties say; a table that is redrawn on a terminal, a line now and then elsewhere."""

    def __init__(self, parties: Sequence[str], *, quiet: bool, stages: Sequence[str] = STAGES) -> None:
        self._console = Console(stderr=True)
        self._quiet = quiet
        self._rows: dict[str, _Row] = {party: _Row(stages) for party in parties}
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._last_line = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_event(self, party: str, event: Mapping[str, Any]) -> None:
        """One line that a party's process has said."""
        if self._quiet or "stage" not in event:
            return
        with self._lock:
            entered = self._rows[party].take(event) or event["stage"] == REVIEW_STAGE  # which speaks seldom
            if self._live is None and (entered or time.monotonic() - self._last_line > _LINE_EVERY_S):
                self._last_line = time.monotonic()
                elapsed = time.monotonic() - self._begin
                self._console.print(
                    f"[{elapsed:6.1f} s] {party:<12} {self._rows[party]}", highlight=False, soft_wrap=True
                )

    def _table(self) -> Table:
        elapsed = _clock(time.monotonic() - self._begin)
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        table.add_column("party", no_wrap=True)
        table.add_column("stage", no_wrap=True, min_width=13)
        table.add_column("done", no_wrap=True, min_width=36)
        table.add_column("", justify="right", no_wrap=True, min_width=5)
        table.add_column(f"{elapsed} so far", no_wrap=True, min_width=14)
        for party, row in self._rows.items():
            table.add_row(party, row.place, row.counted, row.percent, row.expected)
        return table

    def __rich__(self) -> Table:
        """The table as it is now; drawn anew at every refresh, so that the clock runs between events."""
        with self._lock:
            return self._table()


class _Row:
    """Where one party is."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = stages
        self.stage = "starting"
        self._what = ""
        self._done = 0
        self._total = 0
        self._first = 0
        self._since = self._last = time.monotonic()

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take an event; True if a new stage begins."""
        stage, what = str(event["stage"]), str(event["what"])
        entered, now = stage != self.stage, time.monotonic()
        if entered:
            self._since, self._first = now, int(event["done"])
        elif what != self._what:  # what is counted now began when the last was said
            self._since, self._first = self._last, 0
        self._last = now
        self.stage, self._what = stage, what
        self._done, self._total = int(event["done"]), int(event["total"])
        return entered

    @property
    def counted(self) -> str:
        """What is done, of how many."""
        if not self._done:
            return self._what if self.stage == REVIEW_STAGE and self._what != "started" else ""
        if not self._total:
            return f"{self._done:,} {self._what}"
        if self._what in _BOUNDED:
            return f"{self._done:,} {self._what}, at most {self._total:,}"
        return f"{self._done:,} / {self._total:,} {self._what}"

    @property
    def percent(self) -> str:
        """Share done; nothing for a count whose total only bounds it."""
        if not self._done or not self._total or self._what in _BOUNDED:
            return ""
        return f"{100 * self._done / self._total:.0f} %"

    @property
    def expected(self) -> str:
        """Time left of what is being counted, at the pace since it began."""
        if not self._total or not self._first < self._done < self._total or self._what in _BOUNDED:
            return ""
        pace = (time.monotonic() - self._since) / (self._done - self._first)
        return f"{_clock(pace * (self._total - self._done))} left"

    @property
    def place(self) -> str:
        """The stage and its place in the job."""
        if self.stage not in self._stages:
            return self.stage
        return f"{self._stages.index(self.stage) + 1}/{len(self._stages)} {self.stage}"

    def __str__(self) -> str:
        return "  ".join(part for part in (self.place, self.counted, self.percent, self.expected) if part)


def _clock(seconds: float) -> str:
    """'42 s' or '3 min 05 s'."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
