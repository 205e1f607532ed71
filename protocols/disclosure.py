"""The disclosure ledger (PROTOCOLS.md section 8): what each party learned, counted as the job runs.

Every message type declares, per message, what its receiver learns that it could not compute before. `OPENED` lines are
information. `MASKED` lines are values that are uniform, or encrypted under a key the receiver does not hold, and so
tell nothing by themselves; they are kept so that a reader can account for every number that a party could open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from protocols.errors import ContractViolationError


class Nature(Enum):
    """Whether a line is information or only accounted for."""

    OPENED = "opened"
    MASKED = "masked"


@dataclass(frozen=True)
class Learned:
    """What one message gives its receiver. `numbers` counts values, not bytes."""

    what: str
    numbers: int
    nature: Nature = Nature.OPENED


@dataclass(frozen=True, order=True)
class Line:
    """One line of the statement: in `stage`, `to` learned `numbers` values of `what` from `source`."""

    to: str
    stage: str
    source: str
    what: str
    nature: str
    numbers: int


class Ledger:
    """The running account of one party: what it learned, and what it gave each peer to learn.

    Args: most_opened: the contract's cap on the opened numbers of one party in one job; journal: told of each
        addition before it is sent or used, so that an attempt that breaks off is still accounted for.

    >>> ledger = Ledger("bank")
    >>> ledger.add(to="bank", source="bureau", stage="bin", learned=[Learned("rows per pre-bin", 40)])
    >>> ledger.add(to="bank", source="bureau", stage="bin", learned=[Learned("rows per pre-bin", 2)])
    >>> [(line.what, line.numbers) for line in ledger.lines(to="bank")]
    [('rows per pre-bin', 42)]
    """

    def __init__(
        self, owner: str, most_opened: int | None = None, journal: Callable[[Line], None] | None = None
    ) -> None:
        self.owner = owner
        self._most_opened = most_opened
        self._journal = journal
        self._numbers: dict[tuple[str, str, str, str, str], int] = {}

    def add(self, *, to: str, source: str, stage: str, learned: Iterable[Learned]) -> None:
        """Add what one message, or several messages together, disclose.

        Raises: ContractViolationError: `to` would learn more numbers than the contract allows; nothing was sent.
        """
        for item in learned:
            if not item.numbers:
                continue
            line = Line(to, stage, source, item.what, item.nature.value, item.numbers)
            if self._journal is not None:
                self._journal(line)
            self.restore(line)
        if self._most_opened is not None and self.opened_to(to) > self._most_opened:
            raise ContractViolationError(
                "DISCLOSURE_CAP",
                "a party would learn more numbers than the contract allows",
                "offer fewer features or rows, or have every party sign an amended contract",
            )

    def has_room(self, to: str, learned: Iterable[Learned]) -> bool:
        """Whether `add` would take this without passing the cap."""
        more = sum(item.numbers for item in learned if item.nature is Nature.OPENED)
        return self._most_opened is None or self.opened_to(to) + more <= self._most_opened

    def restore(self, line: Line) -> None:
        """Add a line of the journal of an earlier attempt."""
        key = (line.to, line.stage, line.source, line.what, line.nature)
        self._numbers[key] = self._numbers.get(key, 0) + line.numbers

    def lines(self, *, to: str | None = None, source: str | None = None) -> tuple[Line, ...]:
        """The lines so far, sorted; optionally only those of one receiver or one source."""
        return tuple(
            sorted(
                Line(*key, numbers)
                for key, numbers in self._numbers.items()
                if (to is None or key[0] == to) and (source is None or key[2] == source)
            )
        )

    def opened_to(self, party: str) -> int:
        """How many opened numbers `party` has been given so far; the contract caps this."""
        return sum(n for key, n in self._numbers.items() if key[0] == party and key[4] == Nature.OPENED.value)


REPEATED = " (broken off and repeated)"  # ends the stage of a line from an attempt that was not carried on


def statement_hash(lines: Iterable[Line]) -> bytes:
    """SHA-256 of the canonical form of a statement; every party must arrive at the same one."""
    rows = [[x.to, x.stage, x.source, x.what, x.nature, x.numbers] for x in sorted(lines)]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()).digest()
