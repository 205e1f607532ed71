"""What a job's process has said of itself, read from its folder: how far it is, and what it ended with.

The daemon reads these files and never speaks with the process: `output.jsonl` (a line a step) and `statement.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from party_agent.store import Folder, journal_path, read_journal
from protocols.audit import AuditLog, Event, Kind, disclosure_events
from protocols.disclosure import Ledger, Line
from protocols.errors import DataError

OUTPUT_FILE = "output.jsonl"
STAGES = (  # of a training job; "review", "screen" and "inference" where the recipe asks for them
    *("connect", "read", "resume", "align", "encrypt", "bin", "review", "screen", "train"),
    *("inference", "validate", "statement"),
)
SCORE_STAGES = ("connect", "read", "resume", "align", "score", "statement")
_STATEMENT_FILE = "statement.json"
_RECORDED_FILE = "recorded.json"
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class JobProgress:
    """Where a process stands. begun: its stages in their order, the last one going on; done of total, 0 if unknown."""

    begun: tuple[str, ...] = ()
    what: str = ""
    done: int = 0
    total: int = 0

    @property
    def stage(self) -> str:
        """The stage that goes on."""
        return self.begun[-1] if self.begun else ""

    @property
    def words(self) -> str:
        """The stage, and what it does.

        >>> JobProgress(("bin", "review"), "waiting for review at bureau until 14:05").words
        'stage review: waiting for review at bureau until 14:05'
        """
        return f"stage {self.stage}: {self.what}"

    @property
    def percent(self) -> int:
        """Of the whole job, each stage counted alike: a rough figure, which never goes back."""
        stages = SCORE_STAGES if "score" in self.begun else STAGES
        if self.stage not in stages:
            return 0
        within = min(self.done / self.total, 1.0) if self.total else 0.0
        return int(100 * (stages.index(self.stage) + within) / len(stages))


def read_progress(folder: Path) -> JobProgress:
    """What the process of the job in `folder` has said so far; a line cut short, or none of ours, is left out."""
    begun: list[str] = []
    last: dict[str, Any] = {}
    for line in _lines(folder / OUTPUT_FILE):
        stage = line.get("stage")
        if stage in STAGES or stage in SCORE_STAGES:
            last = line
            if stage not in begun:
                begun.append(stage)
    done, total = (value if type(value) is int else 0 for value in (last.get("done"), last.get("total")))
    return JobProgress(tuple(begun), str(last.get("what", ""))[:80], done, total)


class JobRecord:
    """Enters into the audit log what a job's process says. A crash in between may repeat an entry, and loses none."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def stages(self, folder: Folder, job: str, attempt: int, *, ended_well: bool = False) -> tuple[str, ...]:
        """Record the stages that have ended since the last call; which they are."""
        progress = read_progress(folder.path)
        ended = progress.begun if ended_well else progress.begun[:-1]
        before = self._before(folder, attempt)
        new = tuple(stage for stage in ended if stage not in before)
        if new:
            event = (Event(Kind.JOB_STAGE, {"job": job, "attempt": attempt, "stage": stage}) for stage in new)
            self._audit.append_all(event)
            folder.write_json(_RECORDED_FILE, {"attempt": attempt, "stages": [*before, *new]})
        return new

    def disclosures(self, folder: Folder, job: str, attempt: int, *, ended_well: bool) -> None:
        """Record what each party learned in all attempts so far: from the statement that all parties signed; of a job
        that broke off, from this party's own journal of what it learned and what it gave.

        Raises: DataError: STATEMENT_UNREADABLE; FOLDER_UNUSABLE.
        """
        lines = _statement(folder) if ended_well else _own_account(folder, job)
        self._audit.append_all(disclosure_events(job, attempt, lines))

    @staticmethod
    def _before(folder: Folder, attempt: int) -> list[str]:
        try:
            kept = json.loads((folder.path / _RECORDED_FILE).read_bytes())
            return [str(stage) for stage in kept["stages"]] if kept["attempt"] == attempt else []
        except (OSError, ValueError, KeyError, TypeError):
            return []


def _statement(folder: Folder) -> tuple[Line, ...]:
    try:
        return tuple(Line(**row) for row in json.loads((folder.path / _STATEMENT_FILE).read_bytes())["lines"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "STATEMENT_UNREADABLE", "the statement of a job that ended well is not in its folder", "run it again"
        ) from error


def _own_account(folder: Folder, job: str) -> tuple[Line, ...]:
    ledger = Ledger(job)
    for _, line in read_journal(journal_path(folder, job)):
        ledger.restore(line)
    return ledger.lines()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
    except OSError:
        return
    for row in text.splitlines():
        try:
            line = json.loads(row)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line
