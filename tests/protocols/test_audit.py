"""The audit log: each altered byte, each line out of place, each cut is found and named; a crash is told from both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.audit import (
    FORMS,
    MAX_LINE_BYTES,
    AuditLog,
    Entry,
    Event,
    Head,
    Kind,
    Receipt,
    Text,
    check_peer_head,
    disclosure_events,
    entries_of,
    heads_received,
    line_hash,
    parse_line,
    verify_log,
)
from protocols.contract import fingerprint
from protocols.disclosure import Line, statement_hash
from protocols.errors import ConcordatError, DataError, LocalProtocolError, RemoteProtocolError

NOW = 1_800_000_000
KEY = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\2" * 32)
IDENTITY = KEY.public_key()
VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "audit.json").read_text(encoding="utf-8"))


class PowerLossError(Exception):
    """The machine went off."""


class MemoryMedium:
    """A medium that can lose power: after `writes` more writes, the next one keeps only its first `kept` bytes."""

    def __init__(self) -> None:
        self.log = b""
        self.head: bytes | None = None
        self.writes: int | None = None
        self.kept = 0

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        yield

    def size(self) -> int:
        return len(self.log)

    def read(self, start: int = 0) -> bytes:
        return self.log[start:]

    def append(self, data: bytes) -> None:
        if self._off():
            self.log += data[: self.kept]
            raise PowerLossError
        self.log += data

    def cut(self, size: int) -> None:
        if self._off():
            raise PowerLossError
        self.log = self.log[:size]

    def read_head(self) -> bytes | None:
        return self.head

    def write_head(self, data: bytes) -> None:
        if self._off():
            raise PowerLossError
        self.head = data

    def _off(self) -> bool:
        if self.writes is None:
            return False
        self.writes -= 1
        return self.writes < 0


def job_event(number: int = 1) -> Event:
    return Event(Kind.JOB_STAGE, {"job": f"job-{number}", "attempt": 1, "stage": "align", "rows": 20916})


def open_log(medium: MemoryMedium, key: Ed25519PrivateKey = KEY, owner: str = "bank") -> AuditLog:
    return AuditLog(medium, owner, key, lambda: NOW)


def written(entries: int = 4) -> MemoryMedium:
    medium = MemoryMedium()
    for number in range(entries - 1):
        open_log(medium).append(job_event(number))
    return medium


def lines_of(medium: MemoryMedium) -> list[bytes]:
    return medium.log.splitlines(keepends=True)


def sealed_head(medium: MemoryMedium) -> Head:
    assert medium.head is not None
    return Head.decode(medium.head)


def found(medium: MemoryMedium) -> tuple[int, str] | None:
    finding = open_log(medium).verify().finding
    return (finding.sequence, finding.code) if finding else None


def code_of(call: Callable[[], object], kind: type[ConcordatError] = ConcordatError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return caught.value.code


SMALL = written()


# -- writing and reading


def test_what_was_recorded_reads_back_in_order_and_verifies() -> None:
    medium = written(4)
    assert [entry.kind for entry in entries_of(medium.log)] == ["log opened"] + ["job stage"] * 3
    assert [entry.fields.get("job") for entry in entries_of(medium.log)][1:] == ["job-0", "job-1", "job-2"]
    result = verify_log(medium.log, IDENTITY, sealed=sealed_head(medium))
    assert (result.sound, result.entries, result.last_hash) == (True, 4, sealed_head(medium).hash)


def test_a_log_opens_with_the_name_and_the_fingerprint_of_its_owner() -> None:
    opened = next(entries_of(SMALL.log))
    assert (opened.kind, opened.fields) == ("log opened", {"owner": "bank", "identity": fingerprint(IDENTITY)})


def test_the_known_answer_holds() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["private_key"]))
    log = b""
    for item in VECTOR["entries"]:
        entry = Entry(item["sequence"], item["time"], item["kind"], item["fields"], item["previous"])
        assert entry.body().decode() == item["signed_text"]
        line = entry.line(key)
        assert (line.decode(), line_hash(line)) == (item["line"] + "\n", item["hash"])
        log += line
    head = Head.sign(len(VECTOR["entries"]) - 1, VECTOR["entries"][-1]["hash"], key)
    assert head.encode().decode() == VECTOR["head"]
    peer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["peer_private_key"]))
    assert Receipt.sign("tax", head, key.public_key(), peer).encode().decode() == VECTOR["receipt"]
    assert verify_log(log, key.public_key(), sealed=head).sound


def test_every_kind_has_its_fields_and_only_those_in_their_form() -> None:
    samples: dict[Any, int | str] = {
        Text.NAME: "tax-office", Text.TERM: "pilot-1.a", Text.CODE: "OK", Text.HASH: "0" * 64,
        Text.SIGNATURE: "f" * 128, int: 7,
    }  # fmt: skip
    for kind, (required, optional) in FORMS.items():
        whole = {name: samples[form] for name, form in {**required, **optional}.items()}
        medium = MemoryMedium()
        open_log(medium).append(Event(kind, whole))
        assert list(entries_of(medium.log))[-1].fields == whole
        for name in required:
            less = {key: value for key, value in whole.items() if key != name}
            assert code_of(lambda kind=kind, less=less: Event(kind, less)) == "AUDIT_FIELD_INVALID"  # type: ignore[misc]
        more = whole | {"note": 1}
        assert code_of(lambda kind=kind, more=more: Event(kind, more)) == "AUDIT_FIELD_INVALID"  # type: ignore[misc]


@pytest.mark.parametrize(
    "value", ["911101001100001234567890X/7", "a b", "A", "job\n", "", -1, 1 << 53, True, 1.5, None]
)
def test_a_value_that_is_not_of_its_form_is_not_recorded(value: Any) -> None:
    for name in ("job", "rows"):
        fields = dict(job_event().fields) | {name: value}
        assert code_of(lambda fields=fields: Event(Kind.JOB_STAGE, fields), LocalProtocolError) == "AUDIT_FIELD_INVALID"  # type: ignore[misc]


def test_the_largest_event_fits_a_line() -> None:
    longest: dict[Any, int | str] = {
        Text.NAME: "a" * 32, Text.TERM: "a" * 64, Text.CODE: "A" * 48, Text.HASH: "0" * 64, Text.SIGNATURE: "f" * 128,
        int: (1 << 53) - 1,
    }  # fmt: skip
    for kind, (required, optional) in FORMS.items():
        event = Event(kind, {name: longest[form] for name, form in {**required, **optional}.items()})
        line = Entry((1 << 53) - 1, (1 << 53) - 1, kind.value, event.fields, "0" * 64).line(KEY)
        assert parse_line(line)[0].fields == event.fields


def test_the_disclosure_of_a_statement_is_its_hash_and_its_totals() -> None:
    lines = (
        Line("bank", "bin", "bureau", "rows per pre-bin", "opened", 40),
        Line("bank", "train", "bureau", "masked products", "masked", 900),
        Line("bureau", "align", "bank", "matches", "opened", 5),
        Line("bank", "align", "bureau", "matches", "opened", 2),
    )
    events = disclosure_events("job-1", 2, lines)
    totals = [(event.fields["to"], event.fields["opened"], event.fields["masked"]) for event in events]
    assert totals == [("bank", 42, 900), ("bureau", 5, 0)]
    assert {event.fields["statement"] for event in events} == {statement_hash(lines).hex()}


# -- tampering


@pytest.mark.parametrize("change", ["bit 0", "bit 5", "bit 7", "newline", "zero", "digit"])
def test_any_single_byte_altered_is_found_in_the_entry_it_belongs_to(change: str) -> None:
    alter: dict[str, Callable[[int], int]] = {
        "bit 0": lambda byte: byte ^ 1,
        "bit 5": lambda byte: byte ^ 32,
        "bit 7": lambda byte: byte ^ 128,
        "newline": lambda _: 10,
        "zero": lambda _: 0,
        "digit": lambda _: ord("7"),
    }
    place = 0
    sealed = sealed_head(SMALL)
    for number, line in enumerate(lines_of(SMALL)):
        for offset, byte in enumerate(line):
            new = alter[change](byte)
            if new != byte:
                log = bytearray(SMALL.log)
                log[place + offset] = new
                finding = verify_log(bytes(log), IDENTITY, sealed=sealed).finding
                assert finding is not None
                assert finding.sequence == number
                assert finding.code != "AUDIT_TORN"
        place += len(line)


def test_any_single_byte_of_the_sealed_head_altered_is_found() -> None:
    assert SMALL.head is not None
    for place in range(len(SMALL.head)):
        for flip in (1, 2, 32, 128):
            medium = MemoryMedium()
            medium.log, head = SMALL.log, bytearray(SMALL.head)
            head[place] ^= flip
            medium.head = bytes(head)
            assert found(medium) == (0, "AUDIT_HEAD_INVALID")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_piece_cut_out_put_in_or_overwritten_is_found(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SMALL.log)))
    end = data.draw(st.integers(start, len(SMALL.log)))
    piece = data.draw(st.binary(max_size=40))
    log = SMALL.log[:start] + piece + SMALL.log[end:]
    if log != SMALL.log:
        assert verify_log(log, IDENTITY, sealed=sealed_head(SMALL)).finding is not None


def test_a_cut_between_two_entries_is_found_by_the_sealed_head_by_a_peers_head_and_by_a_receipt() -> None:
    head = sealed_head(SMALL)
    receipt = Receipt.decode(Receipt.sign("tax", head, IDENTITY, OTHER).encode())
    for kept in range(4):
        log = b"".join(lines_of(SMALL)[:kept])
        assert verify_log(log, IDENTITY).sound  # nothing in the log itself can tell
        for result in (
            verify_log(log, IDENTITY, sealed=head),
            verify_log(log, IDENTITY, witnesses=[head]),
            verify_log(log, IDENTITY, witnesses=[receipt.head]),
        ):
            assert result.finding is not None
            assert (result.finding.sequence, result.finding.code) == (kept, "AUDIT_TRUNCATED")


def test_log_and_sealed_head_rolled_back_together_are_found_by_a_peers_head() -> None:
    medium = written(4)
    older_log, older_head = medium.log, medium.head
    newer = open_log(medium).append(job_event())
    medium.log, medium.head = older_log, older_head
    assert open_log(medium).verify().sound
    finding = open_log(medium).verify(witnesses=[newer]).finding
    assert finding is not None
    assert (finding.sequence, finding.code) == (4, "AUDIT_TRUNCATED")


def test_a_log_cut_and_grown_again_by_its_owner_is_found_by_a_peers_head() -> None:
    medium = written(4)
    witness = sealed_head(medium)
    rolled_back = written(3)
    for number in range(5):
        open_log(rolled_back).append(job_event(100 + number))
    assert open_log(rolled_back).verify().sound
    finding = open_log(rolled_back).verify(witnesses=[witness]).finding
    assert finding is not None
    assert (finding.sequence, finding.code) == (3, "AUDIT_REWRITTEN")


@pytest.mark.parametrize(
    ("order", "sequence"),
    [
        ([0, 2, 1, 3], 1), ([1, 0, 2, 3], 0), ([0, 1, 3, 2], 2),  # moved
        ([0, 1, 1, 2, 3], 2), ([0, 1, 2, 3, 3], 4), ([0, 1, 2, 3, 0], 4),  # repeated
        ([0, 2, 3], 1), ([1, 2, 3], 0), ([0, 1, 3], 2),  # missing
    ],
)  # fmt: skip
def test_entries_moved_repeated_or_missing_are_found(order: list[int], sequence: int) -> None:
    medium = MemoryMedium()
    medium.log, medium.head = b"".join(lines_of(SMALL)[place] for place in order), SMALL.head
    assert found(medium) == (sequence, "AUDIT_ORDER_BROKEN")


def test_an_entry_of_another_chain_of_the_same_owner_is_found() -> None:
    other = MemoryMedium()
    for number in range(3):
        open_log(other).append(job_event(50 + number))
    medium = MemoryMedium()
    medium.head = SMALL.head
    lines = lines_of(SMALL)
    medium.log = lines[0] + lines[1] + lines_of(other)[2] + lines[3]
    assert found(medium) == (2, "AUDIT_CHAIN_BROKEN")


def test_an_entry_inserted_under_another_key_is_found() -> None:
    lines = lines_of(SMALL)
    entry = Entry(2, NOW, "job stage", job_event().fields, line_hash(lines[1]))
    medium = MemoryMedium()
    medium.log, medium.head = b"".join([*lines[:2], entry.line(OTHER), *lines[2:]]), SMALL.head
    assert found(medium) == (2, "AUDIT_SIGNATURE_INVALID")


def test_a_whole_log_written_anew_under_another_key_is_found_at_its_first_entry() -> None:
    medium = MemoryMedium()
    open_log(medium, OTHER).append(job_event())
    finding = verify_log(medium.log, IDENTITY).finding
    assert finding is not None
    assert (finding.sequence, finding.code) == (0, "AUDIT_SIGNATURE_INVALID")


def test_a_log_continued_under_another_key_is_refused() -> None:
    medium = written(3)
    assert code_of(lambda: open_log(medium, OTHER).append(job_event()), DataError) == "AUDIT_HEAD_INVALID"


def test_a_log_without_its_sealed_head_is_found_and_not_continued() -> None:
    medium = written(3)
    medium.head = None
    assert found(medium) == (1, "AUDIT_HEAD_STALE")
    assert code_of(lambda: open_log(medium).append(job_event()), DataError) == "AUDIT_HEAD_STALE"


def test_a_sealed_head_from_an_older_copy_is_found() -> None:
    medium = written(3)
    older = medium.head
    for _ in range(2):
        open_log(medium).append(job_event())
    medium.head = older
    assert found(medium) == (4, "AUDIT_HEAD_STALE")


def test_nothing_is_appended_to_a_log_that_was_tampered_with_at_its_end() -> None:
    for log in (
        b"".join(lines_of(SMALL)[:-1]),
        SMALL.log[:-1],
        SMALL.log[:-9],
        SMALL.log[:-1] + b"x",
        SMALL.log[:-9] + b"12345678\n",
        b"",
    ):
        medium = MemoryMedium()
        medium.log, medium.head = log, SMALL.head
        with pytest.raises(DataError):
            open_log(medium).append(job_event())
        assert medium.log == log


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_as_a_log_end_in_a_finding(log: bytes) -> None:
    assert verify_log(log, IDENTITY).sound == (log == b"")


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"{}", b"[" * 1500, b"1" * 3000, b'{"fields":{},"kind":"x","previous":"00","sequence":0,"time":0}',
        b'{"fields":{"a":1.0},"kind":"x","previous":"%s","sequence":0,"time":0}' % (b"0" * 64),
        b'{"fields":{"a":NaN},"kind":"x","previous":"%s","sequence":0,"time":0}' % (b"0" * 64),
        b'{"fields":{"a":[1]},"kind":"x","previous":"%s","sequence":0,"time":0}' % (b"0" * 64),
        b'{"fields":{"a":1,"a":2},"kind":"x","previous":"%s","sequence":0,"time":0}' % (b"0" * 64),
        b'{"kind":"x","fields":{},"previous":"%s","sequence":0,"time":0}' % (b"0" * 64),
        b'{"fields":{},"kind":"x","previous":"%s","sequence":true,"time":0}' % (b"0" * 64),
    ],
)  # fmt: skip
def test_what_is_not_in_canonical_form_is_no_entry_even_when_signed(body: bytes) -> None:
    line = body + b" " + KEY.sign(b"concordat/audit-entry/1\0" + body).hex().encode() + b"\n"
    assert code_of(lambda: parse_line(line), DataError) == "AUDIT_ENTRY_MALFORMED"


# -- crashes


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_after_a_loss_of_power_at_any_write_and_byte_the_log_goes_on_and_verifies(entries: int) -> None:
    before = written(entries) if entries else MemoryMedium()
    longest = 500
    for writes in range(4):
        for kept in [*range(0, longest, 23), longest] if writes % 2 == 0 else [0]:
            medium = MemoryMedium()
            medium.log, medium.head = before.log, before.head
            medium.writes, medium.kept = writes, kept
            try:
                open_log(medium).append(job_event(7))
            except PowerLossError:
                acknowledged = False
            else:
                acknowledged = True
            medium.writes = None
            torn = found(medium)
            assert torn is None or torn[1] == "AUDIT_TORN"
            open_log(medium).append(job_event(8))
            assert found(medium) is None
            jobs = [entry.fields.get("job") for entry in entries_of(medium.log)]
            assert jobs[-1] == "job-8"
            assert not acknowledged or "job-7" in jobs
            repaired = [entry for entry in entries_of(medium.log) if entry.kind == "log repaired"]
            assert len(repaired) == (torn is not None)


def test_the_bytes_that_were_cut_off_are_counted_and_hashed_in_the_log() -> None:
    medium = written(3)
    medium.log += b'{"fields":{"att'
    assert found(medium) == (3, "AUDIT_TORN")
    open_log(medium).append(job_event())
    repair = list(entries_of(medium.log))[3]
    assert (repair.kind, repair.fields["bytes"]) == ("log repaired", 15)
    assert repair.fields["cut"] == line_hash(b'{"fields":{"att')


def test_a_tail_of_zeros_is_torn_and_a_line_of_garbage_or_too_long_a_tail_is_not() -> None:
    for tail, code in (
        (bytes(300), "AUDIT_TORN"),
        (b"{" + bytes(300) + b"\n", "AUDIT_TORN"),
        (b"{garbage}\n", "AUDIT_ENTRY_MALFORMED"),
        (bytes(MAX_LINE_BYTES + 1), "AUDIT_ENTRY_MALFORMED"),
        (b"\0\n\0\n", "AUDIT_ENTRY_MALFORMED"),
    ):
        medium = written(3)
        medium.log += tail
        assert found(medium) == (3, code)


def test_a_torn_tail_is_not_excused_when_a_peer_has_seen_the_log_longer() -> None:
    medium = written(3)
    older = medium.head
    newer = open_log(medium).append(job_event())
    medium.log, medium.head = medium.log[:-20], older
    assert found(medium) == (3, "AUDIT_TORN")
    finding = open_log(medium).verify(witnesses=[newer]).finding
    assert finding is not None
    assert (finding.sequence, finding.code) == (3, "AUDIT_ENTRY_MALFORMED")


# -- heads


def test_heads_are_received_recorded_once_and_receipted() -> None:
    mine, theirs = written(2), MemoryMedium()
    head = open_log(mine).head()
    for _ in range(2):
        receipt = open_log(theirs, OTHER, "tax").receive_head("bank", Head.decode(head.encode()), IDENTITY)
    assert heads_received(theirs.log, "bank") == (head,)
    assert heads_received(theirs.log, "bureau") == ()
    assert receipt.is_of(OTHER.public_key(), IDENTITY)
    assert not receipt.is_of(IDENTITY, IDENTITY)
    assert not receipt.is_of(OTHER.public_key(), OTHER.public_key())
    assert found(mine) is None


def test_a_peer_that_rolled_back_is_refused_and_the_evidence_recorded() -> None:
    peer, log = written(4), MemoryMedium()
    short = sealed_head(written(3))
    mine = open_log(log, OTHER, "tax")
    mine.receive_head("bank", sealed_head(peer), IDENTITY)
    assert code_of(lambda: mine.receive_head("bank", short, IDENTITY), RemoteProtocolError) == "AUDIT_ROLLED_BACK"
    assert [entry.kind for entry in entries_of(log.log)] == ["log opened", "head received", "head refused"]
    finding = verify_log(written(3).log, IDENTITY, witnesses=heads_received(log.log, "bank")).finding
    assert finding is not None
    assert finding.code == "AUDIT_TRUNCATED"


def test_two_heads_at_one_place_are_a_rewritten_log() -> None:
    first, second = Head.sign(5, "0" * 64, KEY), Head.sign(5, "1" * 64, KEY)
    check_peer_head(first, IDENTITY, [first])
    assert code_of(lambda: check_peer_head(second, IDENTITY, [first])) == "AUDIT_ROLLED_BACK"


def test_a_head_that_its_owner_did_not_sign_is_refused_and_accuses_nobody() -> None:
    log = MemoryMedium()
    forged = Head.sign(9, "0" * 64, OTHER)
    refused = code_of(lambda: open_log(log, OTHER, "tax").receive_head("bank", forged, IDENTITY))
    assert refused == "AUDIT_HEAD_INVALID"
    assert heads_received(log.log, "bank") == ()
    assert verify_log(SMALL.log, IDENTITY, witnesses=[forged]).sound


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(["hash", "sequence", "signature"]), st.integers() | st.text()).map(
        lambda d: json.dumps(d).encode()
    )
)
def test_any_bytes_as_a_head_or_receipt_end_in_a_code(data: bytes) -> None:
    assert code_of(lambda: Head.decode(data)) == "AUDIT_HEAD_INVALID"
    assert code_of(lambda: Receipt.decode(data)) == "AUDIT_HEAD_INVALID"
