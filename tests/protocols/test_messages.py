"""The wire: every message survives it, nothing else does, and every message says what it discloses."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import statement
from protocols.binning import messages as binning
from protocols.disclosure import Learned, Nature
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.logistic import messages as logistic
from protocols.messages import Bounds, Message, Part, StageEnd, decode, encode, require
from protocols.moments import messages as moments
from protocols.psi import messages as psi
from protocols.rows import messages as rows
from protocols.scoring import messages as scoring
from tests.simulator import Job

TABLES = (
    psi.STEPS,
    rows.STEPS,
    binning.STEPS,
    logistic.STEPS,
    moments.SCREEN_STEPS,
    moments.FIT_STEPS,
    scoring.VALIDATE_STEPS,
    statement.STEPS,
)
KINDS: list[type[Message]] = list(dict.fromkeys([StageEnd, *(step.message for table in TABLES for step in table)]))
SIGNED = {"woe", "points"}  # the fields that may be negative


def parts(kind: type[Part]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{item.name: values(item.name, hints[item.name]) for item in dataclasses.fields(kind)})


def values(name: str, hint: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(hint) is tuple:
        return st.lists(values(name, typing.get_args(hint)[0]), max_size=3).map(tuple)
    if isinstance(hint, type) and issubclass(hint, Part):
        return parts(hint)
    return {
        int: st.integers(-(1 << 31) if name in SIGNED else 0, (1 << 31) - 1),
        bytes: st.binary(max_size=40),
        str: st.text(max_size=10),
        bool: st.booleans(),
    }[hint]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_survives_the_wire(kind: type[Message]) -> None:
    @settings(max_examples=15, deadline=None)
    @given(parts(kind))
    def survives(message: Message) -> None:
        assert decode(kind, encode(message)) == message

    survives()


def outcome(kind: type[Message], data: bytes) -> tuple[str, Message | None]:
    try:
        return "", decode(kind, data)
    except RemoteProtocolError as error:
        return error.code, None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_bytes_that_are_no_message_are_refused_with_one_code(kind: type[Message]) -> None:
    @settings(max_examples=30, deadline=None)
    @given(st.binary(min_size=1, max_size=60))
    def refused_or_read(data: bytes) -> None:
        code, message = outcome(kind, data)
        assert code == "FRAME_REJECTED" or isinstance(message, kind)

    refused_or_read()
    with pytest.raises(RemoteProtocolError, match="FRAME_REJECTED"):
        decode(kind, b"\x0a\xff")  # field 1, 255 bytes to come, none there


def test_the_schema_has_a_type_for_every_message_with_the_same_fields() -> None:
    from protocols import concordat_pb2

    for kind in every_part(KINDS):
        wire = getattr(concordat_pb2, kind.__name__)
        assert set(wire.DESCRIPTOR.fields_by_name) == {item.name for item in dataclasses.fields(kind)}


def every_part(kinds: list[type[Message]]) -> Iterator[type[Part]]:
    pending: list[type[Part]] = list(kinds)
    while pending:
        kind = pending.pop()
        yield kind
        for hint in typing.get_type_hints(kind).values():
            inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
            if isinstance(inner, type) and issubclass(inner, Part):
                pending.append(inner)


def test_a_message_that_is_silent_about_disclosure_or_length_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="must say what its receiver learns"):

        @dataclass(frozen=True)
        class Silent(Message):
            @classmethod
            def max_bytes(cls, bounds: Bounds) -> int:
                return 1

    with pytest.raises(TypeError, match="how long it may be"):

        @dataclass(frozen=True)
        class Endless(Message):
            def learned(self) -> tuple[Learned, ...]:
                return ()


def test_a_message_without_a_type_in_the_schema_is_a_local_error() -> None:
    @dataclass(frozen=True)
    class Unknown(Message):
        def learned(self) -> tuple[Learned, ...]:
            return ()

        @classmethod
        def max_bytes(cls, bounds: Bounds) -> int:
            return 1

    with pytest.raises(LocalProtocolError, match="SCHEMA_MISSING"):
        encode(Unknown())


def test_every_message_of_a_job_fits_its_bound_and_no_bound_is_a_hundred_times_too_wide(job: Job) -> None:
    bounds = job.stages.data.bounds()
    kinds = {kind.__name__: kind for kind in KINDS}
    longest: dict[str, int] = {}
    for frame in job.stages.network.frames:
        longest[frame.step] = max(longest.get(frame.step, 0), len(frame.data))
    for step, length in longest.items():
        assert length <= kinds[step].max_bytes(bounds)
        if length > 1024:
            assert kinds[step].max_bytes(bounds) < 100 * length


def test_masked_parts_are_on_the_ledger_as_masked_and_plain_ones_as_opened() -> None:
    for kind, fields in (
        (logistic.PreconditionerTrace, {"part": bytes(16)}),
        (logistic.LogitRange, {"parts": bytes(32)}),
        (logistic.InnerProducts, {"index": 0, "parts": bytes(160)}),
        (scoring.MaskedPoints, {"request": "r", "parts": bytes(40)}),
        (scoring.MaskedLogitParts, {"request": "r", "parts": bytes(40)}),
    ):
        numbers = {"part": 1, "parts": len(fields.get("parts", b"")) // (4 if "request" in fields else 16)}
        for masked, nature in ((True, Nature.MASKED), (False, Nature.OPENED)):
            (line,) = kind(**fields, masked=masked).learned()  # type: ignore[arg-type]
            assert line.nature is nature
            assert line.numbers == (numbers["parts"] or 1)


def test_a_failed_check_has_one_code_and_one_sentence_whatever_failed() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        require(False)
    assert caught.value.code == "CHECK_FAILED"
    require(True)


def test_a_report_that_is_no_json_object_is_refused() -> None:
    for document in (b"", b"[1]", b"{", b"[" * 100_000):
        with pytest.raises(RemoteProtocolError, match="FRAME_REJECTED"):
            scoring.SharedReport(document).learned()
    (line,) = scoring.SharedReport(b'{"a": [1, 2.5, true, "x"], "b": {"c": 3}}').learned()
    assert line.numbers == 3
