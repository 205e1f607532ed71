"""Places in the queue, as agents know them: the queue's epoch and a row's number in one integer below 2^53.

A lab that was restored from a backup gives numbers out again. An agent that names a place of another epoch, or one past
the end of its queue, is ahead of this database: it is told to read its queue again from the start, which changes
nothing that it has decided (nonces, event numbers). The end of the queue shows by itself; once the lab has given out
more numbers than the agent had seen, only a new epoch does (`concordat restored`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

_NUMBER_BITS = 32
_EPOCHS = 1 << 21


@dataclass(frozen=True)
class QueueEnd:
    """Where one agent's queue stands. highest: of its rows, 0 if there is none."""

    epoch: int
    highest: int

    def place(self, number: int) -> int:
        """What an agent is told of row `number`."""
        return (self.epoch << _NUMBER_BITS) + number

    def number(self, place: int) -> int | None:
        """The row that an agent has read up to; None if it must read again. A place of a lab that had no epochs is a
        bare number, and so is 0, the place of an agent that has read nothing.
        """
        epoch, number = divmod(place, 1 << _NUMBER_BITS)
        return number if epoch in (0, self.epoch) and number <= self.highest else None


def another_epoch(former: int) -> int:
    """A random epoch, not the former one."""
    return 1 + (former + secrets.randbelow(_EPOCHS - 2)) % (_EPOCHS - 1)
