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


_MOST_ENTRY = 40  # bytes of a tag and a handle


@dataclass(frozen=True)
class SetOpening(Message):
    """How many ids the sender brings, and a commitment to its part of the joint seed."""

    size: int
    commitment: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("size of the sender's id set", 1),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _ENVELOPE


@dataclass(frozen=True)
class SeedReveal(Message):
    """The seed that was committed to; from the party that will make the tags, its opening of the base transfers too."""

    seed: bytes
    opening: bytes

    def learned(self) -> tuple[Learned, ...]:
        return ()

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return len(cls.__name__) + 512


@dataclass(frozen=True)
class BaseAnswers(Message):
    """Which seed the receiver of the intersection chose of each of 128 pairs, under the group's law; and its salt."""

    answers: bytes
    restart: int

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("choices of oblivious transfers", len(self.answers) // 384, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 128 * 384 + _ENVELOPE


@dataclass(frozen=True)
class TransferColumns(Message):
    """The extension of 128 transfers to 448."""

    columns: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("choices of oblivious transfers", 448, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 128 * 56 + _ENVELOPE


@dataclass(frozen=True)
class BinRows(Message):
    """A row of 448 bits for each bin of a chunk: what the sender of tags needs, and cannot read."""

    rows: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("bins of ids under oblivious transfer", len(self.rows) // 56, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return (1 << 16) * 56 + _ENVELOPE


@dataclass(frozen=True)
class TagEntries(Message):
    """Tags of the sender's ids in all three bins of each, sorted, each with its handle under a pad; how many."""

    entries: bytes
    count: int

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("tags of the sender's ids", self.count, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return (1 << 18) * _MOST_ENTRY + _ENVELOPE


@dataclass(frozen=True)
class MatchedHandles(Message):
    """The ids that both hold, by the handles that came with their tags, in random order."""

    handles: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("which of its own ids the sender holds", len(self.handles) // POSITION_BYTES),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.set_size * POSITION_BYTES + _ENVELOPE


STEPS = (
    Step("1", Role.LABEL_OWNER, BlindedIds, to=Role.PROVIDER),
    Step("2", Role.PROVIDER, BlindedIds, to=Role.LABEL_OWNER),
    Step("3", Role.PROVIDER, DoublyBlindedIds, to=Role.LABEL_OWNER),
    Step("4", Role.LABEL_OWNER, CommonRows, to=Role.PROVIDER),
)

_BETWEEN = (
    ("0", SetOpening, "", False),
    ("0", SeedReveal, "", False),
    ("1", BaseAnswers, "", True),
    ("2", TransferColumns, "", True),
    ("3", BinRows, "bins", False),
    ("4", TagEntries, "tags", False),
)

KKRT_STEPS = (
    *(Step(n, Role.LABEL_OWNER, kind, Role.PROVIDER, loop, may) for n, kind, loop, may in _BETWEEN),
    *(Step(n, Role.PROVIDER, kind, Role.LABEL_OWNER, loop, may) for n, kind, loop, may in _BETWEEN),
    Step("5", Role.PROVIDER, MatchedHandles, to=Role.LABEL_OWNER, optional=True),
    Step("6", Role.LABEL_OWNER, CommonRows, to=Role.PROVIDER),
)

STEPS_OF = {"ecdh": STEPS, "kkrt": KKRT_STEPS}
