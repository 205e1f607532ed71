"""Where a job goes on: each party says how far it got, and all go on from the least.

Played first in every attempt, the first included, where it also shows a difference of versions before any data moves.
Learns: how far each peer got in an earlier attempt. Nothing about data.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols.errors import RemoteProtocolError
from protocols.messages import SCHEMA_VERSION, Control
from protocols.roles import Parties, Role
from protocols.session import Script, Step, receive_each, send

STAGE = "resume"


@dataclass(frozen=True)
class ResumePoint(Control):
    """The sender's completed stages, columns of the first pass that are spent, and gradients begun."""

    version: int
    completed: int
    columns: int
    gradients: int


STEPS = (Step("1", Role.PARTY, ResumePoint, to=Role.PARTY),)


def agree_on_resume_point(
    me: str, parties: Parties, completed: int, columns: int, gradients: int
) -> Script[ResumePoint]:
    """The common point: the fewest completed stages; the most columns and gradients that any party counts as spent.

    Raises: RemoteProtocolError: VERSION_MISMATCH.
    """
    own = ResumePoint(SCHEMA_VERSION, completed, columns, gradients)
    yield from send(parties.others(me), own)
    answers = yield from receive_each(parties.others(me), ResumePoint)
    points = [own, *answers.values()]
    if any(point.version != SCHEMA_VERSION for point in points):
        raise RemoteProtocolError(
            "VERSION_MISMATCH", "a peer speaks another version of the protocol", "bring all parties to one release"
        )
    return ResumePoint(
        SCHEMA_VERSION,
        min(point.completed for point in points),
        max(point.columns for point in points),
        max(point.gradients for point in points),
    )
