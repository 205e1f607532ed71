"""Messages of the intersection, in the order of docs/protocols/psi.md, and the table that enforces it."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.disclosure import Learned, Nature
from protocols.group import POINT_BYTES
from protocols.messages import Bounds, Message
from protocols.roles import Role
from protocols.session import Step

POSITION_BYTES = 4
_ENVELOPE = 64  # tags and lengths of protobuf, at most


@dataclass(frozen=True)
class BlindedIds(Message):
    """The sender's ids on the curve, blinded by its scalar of this run and pair, in fresh random order."""

    points: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (
            Learned("size of the sender's id set", 1),
            Learned("ids under the sender's blinding", len(self.points) // POINT_BYTES, Nature.MASKED),
        )

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.set_size * POINT_BYTES + _ENVELOPE


@dataclass(frozen=True)
class DoublyBlindedIds(Message):
    """The receiver's own blinded ids, blinded once more by the sender, in the order received."""

    points: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("which of its own ids the sender holds", len(self.points) // POINT_BYTES),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.set_size * POINT_BYTES + _ENVELOPE


@dataclass(frozen=True)
class CommonRows(Message):
    """The ids that all parties hold, as uint32 positions in the receiver's own `BlindedIds`, in the common order."""

    positions: bytes
    training_rows: int

    def learned(self) -> tuple[Learned, ...]:
        return (
            Learned("which of its own ids all parties hold", len(self.positions) // POSITION_BYTES),
            Learned("number of training rows", 1),
        )

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.set_size * POSITION_BYTES + _ENVELOPE


STEPS = (
    Step("1", Role.LABEL_OWNER, BlindedIds, to=Role.PROVIDER),
    Step("2", Role.PROVIDER, BlindedIds, to=Role.LABEL_OWNER),
    Step("3", Role.PROVIDER, DoublyBlindedIds, to=Role.LABEL_OWNER),
    Step("4", Role.LABEL_OWNER, CommonRows, to=Role.PROVIDER),
)
