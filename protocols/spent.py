"""One-time material: an index is marked spent before anything computed from it is sent (PROTOCOLS.md section 3)."""

from __future__ import annotations

from typing import Protocol

from protocols.errors import LocalProtocolError

FIRST_PASS_COLUMN = "column of pass one"  # kept over all attempts at a job
FURTHER_COLUMN = "column of a further pass"


class SpentIndices(Protocol):
    """A durable set of used indices; `party_agent.store` keeps it in a file and syncs before it returns."""

    def spend(self, kind: str, index: int) -> None:
        """Mark `index` of `kind` as used.

        Raises: LocalProtocolError("INDEX_SPENT"): it was used before. Two values under one mask would differ by the
            difference of what they hide.
        """


class MemorySpentIndices:
    """A set in memory: enough where a crash ends the job."""

    def __init__(self) -> None:
        self._spent: set[tuple[str, int]] = set()

    def spend(self, kind: str, index: int) -> None:
        """See `SpentIndices.spend`."""
        if (kind, index) in self._spent:
            raise index_spent()
        self._spent.add((kind, index))


class AttemptIndices:
    """The indices of one attempt at a job: those of material that the attempt made itself begin anew.

    Columns of the first pass belong to the job: they were made before the attempt and are checkpointed, so that one
    that an earlier attempt used stays spent.
    """

    def __init__(self, spent: SpentIndices, attempt: int) -> None:
        self._spent = spent
        self._attempt = attempt

    def spend(self, kind: str, index: int) -> None:
        """See `SpentIndices.spend`."""
        self._spent.spend(kind if kind == FIRST_PASS_COLUMN else f"{kind}, attempt {self._attempt}", index)


def index_spent() -> LocalProtocolError:
    """The error of a second use."""
    return LocalProtocolError(
        "INDEX_SPENT", "one-time material was about to be used twice", "start the job anew; nothing was sent"
    )
