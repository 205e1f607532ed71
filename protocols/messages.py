"""Wire format: frozen dataclasses in Python, protobuf (`concordat.proto`) on the wire.

A message class names its protobuf type by having its name, and its fields by having theirs. Integers that may exceed
64 bits and arrays travel as `bytes` of fixed width, whose length the receiver checks against the job before it reads
them. Signatures and transcripts are taken over the bytes as sent, never over a re-encoding.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from google.protobuf.message import DecodeError

from protocols import concordat_pb2
from protocols.disclosure import Learned
from protocols.errors import LocalProtocolError, RemoteProtocolError, check_failed

SCHEMA_VERSION = 1

M = TypeVar("M", bound="Message")


@dataclass(frozen=True)
class Bounds:
    """What this job's messages may measure at most; every limit on the wire follows from it.

    rows: rows of the aligned table; set_size: the largest id set a party may bring; features: the most features a
    party may bring; key_bytes: bytes of a Paillier modulus.
    """

    rows: int
    set_size: int
    features: int
    key_bytes: int


class Part:
    """A nested value of a message: a frozen dataclass with a protobuf type of the same name."""


class Message(Part):
    """A message between two parties.

    Subclasses are frozen dataclasses and say, beside their fields, how many bytes they may take and what the receiver
    learns from one (`learned`). A class without `learned` cannot be defined: silence about disclosure is an error.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.learned is Message.learned or _has_no_bound(cls):
            raise TypeError(f"{cls.__name__} must say what its receiver learns and how long it may be")

    def learned(self) -> tuple[Learned, ...]:
        """What the receiver learns from this message that it could not compute before."""
        raise NotImplementedError

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        """The longest encoding this job allows, in bytes; a longer one is refused before it is read."""
        raise NotImplementedError


def _has_no_bound(kind: type[Message]) -> bool:
    """Whether neither the class nor a parent below `Message` says how long it may be."""
    return not any("max_bytes" in vars(base) for base in kind.__mro__ if base is not Message)


class Control(Message):
    """A message that carries nothing about rows, keys or models."""

    MAX_BYTES: ClassVar[int] = 65_536

    def learned(self) -> tuple[Learned, ...]:
        return ()

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return cls.MAX_BYTES


@dataclass(frozen=True)
class StageEnd(Control):
    """Ends a stage between two parties: SHA-256 over all that the sender received and sent on this link."""

    transcript: bytes


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    data: bytes = _to_wire(message).SerializeToString()
    return data


def decode(kind: type[M], data: bytes) -> M:
    """The message of type `kind` in `data`.

    Raises: RemoteProtocolError: not a well-formed message of this type.
    """
    wire = _wire_type(kind.__name__)()
    try:
        wire.ParseFromString(data)
        message = _from_wire(kind, wire)
    except (DecodeError, ValueError, TypeError) as error:
        raise RemoteProtocolError("FRAME_REJECTED", "a message of a peer is malformed") from error
    if not isinstance(message, kind):
        raise LocalProtocolError("WRONG_MESSAGE", f"decoding {kind.__name__} gave another type")
    return message


def require(condition: bool) -> None:
    """Raise the one generic error of a failed check on a peer's message unless `condition` holds."""
    if not condition:
        raise check_failed()


def _wire_type(name: str) -> Any:
    try:
        return getattr(concordat_pb2, name)
    except AttributeError as error:
        raise LocalProtocolError("SCHEMA_MISSING", f"{name} has no type in concordat.proto") from error


def _to_wire(part: Part) -> Any:
    wire = _wire_type(type(part).__name__)()
    for name, (repeated, nested) in _fields(type(part)).items():
        value = getattr(part, name)
        if repeated:
            getattr(wire, name).extend([_to_wire(item) for item in value] if nested else value)
        elif nested:
            getattr(wire, name).CopyFrom(_to_wire(value))
        else:
            setattr(wire, name, value)
    return wire


def _from_wire(kind: type[Part], wire: Any) -> Part:
    values: dict[str, Any] = {}
    for name, (repeated, nested) in _fields(kind).items():
        value = getattr(wire, name)
        if repeated:
            values[name] = tuple(_from_wire(nested, item) if nested else item for item in value)
        else:
            values[name] = _from_wire(nested, value) if nested else value
    return kind(**values)


_FIELDS: dict[type[Part], dict[str, tuple[bool, type[Part] | None]]] = {}


def _fields(kind: type[Part]) -> dict[str, tuple[bool, type[Part] | None]]:
    """Name -> (repeated?, nested type or None) for each field of a message class."""
    if kind in _FIELDS:
        return _FIELDS[kind]
    if not dataclasses.is_dataclass(kind):
        raise LocalProtocolError("SCHEMA_MISSING", f"{kind.__name__} is not a dataclass")
    hints = typing.get_type_hints(kind)
    result: dict[str, tuple[bool, type[Part] | None]] = {}
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        repeated = typing.get_origin(hint) is tuple
        inner = typing.get_args(hint)[0] if repeated else hint
        result[item.name] = (repeated, inner if isinstance(inner, type) and issubclass(inner, Part) else None)
    _FIELDS[kind] = result
    return result
