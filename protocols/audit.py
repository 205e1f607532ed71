"""The audit log: what an institution did, in signed entries, each bound to the one before. Byte by byte: docs/audit.md.

A log is text, one entry a line: the entry as JSON in one canonical form, a space, an Ed25519 signature in hex. An entry
names the SHA-256 of the line before it, so that a changed, moved, missing or inserted line shows, and the first one is
named. A log that was cut at its end is only shown by someone who knows that it was longer: the head (number and hash of
the last line, signed) is sealed in a file of its own, sent to the peers, and their receipts are kept.

Crash rule: `append` returns when the line and then the head are on disk. What lies behind the sealed head was never
acknowledged: one whole valid entry is adopted; bytes that do not make a line (no newline, or zeros where a block never
reached the disk) are torn, and cut off at the next append, which records that. Up to the sealed head
nothing is excused.

Entries hold counts, codes, names and hashes; never an id of a row, a label, a value or a key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.contract import fingerprint
from protocols.disclosure import Line, Nature, statement_hash
from protocols.errors import DataError, LocalProtocolError, RemoteProtocolError

MAX_LINE_BYTES = 4096  # newline included
MAX_DOCUMENT_BYTES = 1024  # an encoded head or receipt

_ENTRY_DOMAIN = b"concordat/audit-entry/1\0"
_HEAD_DOMAIN = b"concordat/audit-head/1\0"
_RECEIPT_DOMAIN = b"concordat/audit-receipt/1\0"
_START = "0" * 64  # the previous hash of the first entry
_LARGEST_INTEGER = (1 << 53) - 1
_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MAX_FIELDS = 16
_MAX_TEXT = 256

_KEEP = "keep the log and its head as evidence, and compare with the heads that the peers hold"


class Text(Enum):
    """The forms a text in an entry may have: none of them has room for a value of a row."""

    NAME = r"[a-z][a-z0-9_-]{0,31}"  # of an institution
    TERM = r"[a-z0-9][a-z0-9_.-]{0,63}"  # of a contract, job, stage, action, data set
    CODE = r"[A-Z][A-Z0-9_]{1,47}"
    HASH = r"[0-9a-f]{64}"
    SIGNATURE = r"[0-9a-f]{128}"


COUNT = int
_Form = Text | type[int]


class Kind(Enum):
    """What an entry records."""

    LOG_OPENED = "log opened"
    LOG_REPAIRED = "log repaired"
    CONTRACT_PROPOSED = "contract proposed"
    CONTRACT_SIGNED = "contract signed"
    CONTRACT_AMENDED = "contract amended"
    CONTRACT_SUSPENDED = "contract suspended"
    CONTRACT_RESUMED = "contract resumed"
    CONTRACT_REVOKED = "contract revoked"
    MODEL_SUBMITTED = "model submitted"
    MODEL_APPROVED = "model approved"
    MODEL_REJECTED = "model rejected"
    MODEL_LIVE = "model taken live"
    MODEL_RETIRED = "model retired"
    JOB_ACCEPTED = "job accepted"
    JOB_REFUSED = "job refused"
    JOB_STARTED = "job started"
    JOB_STAGE = "job stage"
    JOB_ENDED = "job ended"
    DISCLOSURE = "disclosure"
    ADMINISTRATION = "administration"
    HEAD_RECEIVED = "head received"
    HEAD_REFUSED = "head refused"


_CONTRACT: dict[str, _Form] = {"contract": Text.HASH, "contract_id": Text.TERM, "by": Text.NAME}
_MODEL: dict[str, _Form] = {
    "model": Text.HASH,
    "name": Text.TERM,
    "version": COUNT,
    "contract": Text.HASH,
    "by": Text.NAME,
}
_JOB: dict[str, _Form] = {"job": Text.TERM, "attempt": COUNT}
_HEAD_FIELDS: dict[str, _Form] = {
    "peer": Text.NAME,
    "sequence": COUNT,
    "hash": Text.HASH,
    "signature": Text.SIGNATURE,
}

# Fields of every kind: those an entry must have, then those it may have.
FORMS: Mapping[Kind, tuple[Mapping[str, _Form], Mapping[str, _Form]]] = {
    Kind.LOG_OPENED: ({"owner": Text.NAME, "identity": Text.HASH}, {}),
    Kind.LOG_REPAIRED: ({"bytes": COUNT, "cut": Text.HASH}, {}),
    Kind.CONTRACT_PROPOSED: (_CONTRACT, {}),
    Kind.CONTRACT_SIGNED: (_CONTRACT, {}),
    Kind.CONTRACT_AMENDED: (_CONTRACT | {"replaces": Text.HASH}, {}),
    Kind.CONTRACT_SUSPENDED: (_CONTRACT, {}),
    Kind.CONTRACT_RESUMED: (_CONTRACT, {}),
    Kind.CONTRACT_REVOKED: (_CONTRACT, {}),
    Kind.MODEL_SUBMITTED: (_MODEL, {}),
    Kind.MODEL_APPROVED: (_MODEL | {"part": Text.HASH, "data": Text.HASH}, {}),
    Kind.MODEL_REJECTED: (_MODEL, {}),
    Kind.MODEL_LIVE: (_MODEL, {}),
    Kind.MODEL_RETIRED: (_MODEL, {}),
    Kind.JOB_ACCEPTED: (_JOB | {"contract": Text.HASH, "document": Text.HASH}, {"by": Text.NAME}),
    Kind.JOB_REFUSED: (
        {"document": Text.HASH, "code": Text.CODE},
        {**_JOB, "contract": Text.HASH, "by": Text.NAME, "stage": Text.TERM},
    ),
    Kind.JOB_STARTED: (_JOB, {}),
    Kind.JOB_STAGE: (_JOB | {"stage": Text.TERM}, {"rows": COUNT}),
    Kind.JOB_ENDED: (_JOB | {"code": Text.CODE}, {"by": Text.NAME}),
    Kind.DISCLOSURE: (_JOB | {"statement": Text.HASH, "to": Text.NAME, "opened": COUNT, "masked": COUNT}, {}),
    Kind.ADMINISTRATION: (
        {"action": Text.TERM},
        {"subject": Text.TERM, "digest": Text.HASH, "count": COUNT, "code": Text.CODE, "by": Text.NAME},
    ),
    Kind.HEAD_RECEIVED: (_HEAD_FIELDS, {}),
    Kind.HEAD_REFUSED: (_HEAD_FIELDS | {"code": Text.CODE}, {}),
}


@dataclass(frozen=True)
class Event:
    """Something to record. `fields`: as `FORMS` says for its kind.

    Raises: LocalProtocolError: AUDIT_FIELD_INVALID: a field is missing, unknown, or not of its form.
    """

    kind: Kind
    fields: Mapping[str, int | str]

    def __post_init__(self) -> None:
        required, optional = FORMS[self.kind]
        forms = {**required, **optional}
        if not set(required) <= set(self.fields) <= set(forms):
            raise _field_invalid()
        for name, value in self.fields.items():
            form = forms[name]
            if isinstance(form, Text):
                right = isinstance(value, str) and re.fullmatch(form.value, value) is not None
            else:
                right = type(value) is int and 0 <= value <= _LARGEST_INTEGER
            if not right:
                raise _field_invalid()


@dataclass(frozen=True)
class Entry:
    """One line of a log. `time`: Unix seconds of its owner's clock; `previous`: SHA-256 of the line before, hex.

    `kind` is a text, not a `Kind`: an auditor reads logs of other versions too.
    """

    sequence: int
    time: int
    kind: str
    fields: Mapping[str, int | str]
    previous: str

    def body(self) -> bytes:
        """The bytes that are signed, after the domain: JSON, sorted keys, no spaces, ASCII, integers only."""
        return _canonical(
            {
                "fields": dict(self.fields),
                "kind": self.kind,
                "previous": self.previous,
                "sequence": self.sequence,
                "time": self.time,
            }
        )

    def line(self, key: Ed25519PrivateKey) -> bytes:
        """The line as it is stored, newline included."""
        body = self.body()
        return body + b" " + key.sign(_ENTRY_DOMAIN + body).hex().encode() + b"\n"


@dataclass(frozen=True)
class Head:
    """Where a log stood: number and hash of its last entry, signed by the log's owner. Hex throughout."""

    sequence: int
    hash: str
    signature: str

    @classmethod
    def sign(cls, sequence: int, line_hash: str, key: Ed25519PrivateKey) -> Head:
        """The head of a log whose last line is number `sequence`."""
        return cls(sequence, line_hash, key.sign(_head_bytes(sequence, line_hash)).hex())

    def is_of(self, identity: Ed25519PublicKey) -> bool:
        """Whether the owner of `identity` signed this head."""
        return _verifies(identity, self.signature, _head_bytes(self.sequence, self.hash))

    def encode(self) -> bytes:
        """The bytes to store and to send."""
        return _canonical({"hash": self.hash, "sequence": self.sequence, "signature": self.signature})

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """The head in `data`.

        Raises: RemoteProtocolError: AUDIT_HEAD_INVALID: not the canonical form of one.
        """
        record = _document(data, {"hash": _HASH, "sequence": None, "signature": _SIGNATURE})
        return cls(record["sequence"], record["hash"], record["signature"])


@dataclass(frozen=True)
class Receipt:
    """The word of `peer` that it saw `head` of the log of the identity with SHA-256 `log`."""

    peer: str
    log: str
    head: Head
    signature: str

    @classmethod
    def sign(cls, peer: str, head: Head, owner: Ed25519PublicKey, key: Ed25519PrivateKey) -> Receipt:
        """The receipt that `peer`, holder of `key`, gives for a head of the log of `owner`."""
        log = fingerprint(owner)
        return cls(peer, log, head, key.sign(_receipt_bytes(peer, log, head)).hex())

    def is_of(self, peer_identity: Ed25519PublicKey, owner: Ed25519PublicKey) -> bool:
        """Whether the peer with this identity gave it, for a head that `owner` signed."""
        right_log = self.log == fingerprint(owner) and self.head.is_of(owner)
        return right_log and _verifies(peer_identity, self.signature, _receipt_bytes(self.peer, self.log, self.head))

    def encode(self) -> bytes:
        """The bytes to store and to send."""
        return _canonical(
            {
                "hash": self.head.hash,
                "head_signature": self.head.signature,
                "log": self.log,
                "peer": self.peer,
                "sequence": self.head.sequence,
                "signature": self.signature,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """The receipt in `data`.

        Raises: RemoteProtocolError: AUDIT_HEAD_INVALID: not the canonical form of one.
        """
        record = _document(
            data,
            {
                "hash": _HASH,
                "head_signature": _SIGNATURE,
                "log": _HASH,
                "peer": re.compile(Text.NAME.value),
                "sequence": None,
                "signature": _SIGNATURE,
            },
        )
        head = Head(record["sequence"], record["hash"], record["head_signature"])
        return cls(record["peer"], record["log"], head, record["signature"])


# -- reading and verifying


@dataclass(frozen=True)
class Finding:
    """What is wrong, first of all at entry `sequence`. `code` is stable."""

    sequence: int
    code: str
    sentence: str

    def error(self) -> DataError:
        """The finding as an error."""
        return DataError(self.code, f"entry {self.sequence}: {self.sentence}", _KEEP)


@dataclass(frozen=True)
class Verification:
    """Of a whole log: how many entries hold, number and hash of the last of them, and the first thing that does not.

    last_hash: of the last entry that holds; 64 zeros when there is none. good_bytes: length of the entries that hold.
    """

    entries: int
    last_hash: str
    good_bytes: int
    finding: Finding | None

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.finding is None


def line_hash(line: bytes) -> str:
    """SHA-256 of a line without its newline, in hex: what the next entry and a head name."""
    return hashlib.sha256(line.removesuffix(b"\n")).hexdigest()


def parse_line(line: bytes) -> tuple[Entry, str]:
    """The entry and its signature, from a line with its newline; nothing is verified.

    Raises: DataError: AUDIT_ENTRY_MALFORMED.
    """
    if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
        raise _malformed()
    body, _, signature = line[:-1].rpartition(b" ")
    try:
        record = json.loads(body.decode("ascii"))
        text = signature.decode("ascii")
    except (ValueError, RecursionError) as error:
        raise _malformed() from error
    expected = {"fields", "kind", "previous", "sequence", "time"}
    if not isinstance(record, dict) or set(record) != expected or not _SIGNATURE.fullmatch(text):
        raise _malformed()
    if not (_is_count(record["sequence"]) and _is_count(record["time"]) and _is_fields(record["fields"])):
        raise _malformed()
    if not (_is_text(record["kind"], 64) and _is_text(record["previous"], 64) and _HASH.fullmatch(record["previous"])):
        raise _malformed()
    entry = Entry(**record)
    if entry.body() != body:
        raise _malformed()
    return entry, text


def verify_log(
    log: bytes, identity: Ed25519PublicKey, *, sealed: Head | None = None, witnesses: Iterable[Head] = ()
) -> Verification:
    """Check every entry, then that the log reaches the head its owner sealed and the heads that others hold.

    Args:
        identity: the pinned key of the log's owner. sealed: from the owner's head file, if it is at hand.
        witnesses: heads of this log from peers' logs and receipts; one that the owner never signed says nothing.
    """
    if sealed is None:
        return _verify(log, identity, witnesses, None)
    if not sealed.is_of(identity):
        return Verification(0, _START, 0, Finding(0, "AUDIT_HEAD_INVALID", "the sealed head is not the owner's"))
    return _verify(log, identity, (*witnesses, sealed), sealed.sequence + 1)


def _verify(log: bytes, identity: Ed25519PublicKey, heads: Iterable[Head], acknowledged: int | None) -> Verification:
    """`verify_log` for an owner who sealed so many entries; None: nobody says."""
    known: dict[int, set[str]] = {}
    for head in heads:
        if head.is_of(identity):
            known.setdefault(head.sequence, set()).add(head.hash)
    reached = max(known, default=-1)
    entries, previous, good = 0, _START, 0
    finding: Finding | None = None
    for line in _lines(log):
        finding = _check(line, entries, previous, identity)
        this = line_hash(line)
        if finding is None and known.get(entries, {this}) != {this}:
            finding = Finding(entries, "AUDIT_REWRITTEN", "its owner signed another entry at this place before")
        if finding is not None:
            break
        entries, previous, good = entries + 1, this, good + len(line)
    if finding is not None and entries == acknowledged and entries > reached and _is_torn(log[good:]):
        sentence = f"{len(log) - good} bytes of an entry that was never acknowledged"
        finding = Finding(entries, "AUDIT_TORN", sentence)
    elif finding is None and reached >= entries:
        sentence = f"it is missing: the log ends before it, and once reached entry {reached}"
        finding = Finding(entries, "AUDIT_TRUNCATED", sentence)
    elif finding is None and acknowledged is not None and entries > acknowledged + 1:
        sentence = "it was not sealed, nor was the one before: the sealed head is missing, or from an older copy"
        finding = Finding(acknowledged + 1, "AUDIT_HEAD_STALE", sentence)
    return Verification(entries, previous, good, finding)


def entries_of(log: bytes) -> Iterator[Entry]:
    """The entries of a log that was verified.

    Raises: DataError: AUDIT_ENTRY_MALFORMED.
    """
    for line in _lines(log):
        yield parse_line(line)[0]


def heads_received(log: bytes, peer: str) -> tuple[Head, ...]:
    """Every head of `peer` that a log holds, refused ones too: the witnesses against that peer's own log."""
    kinds = (Kind.HEAD_RECEIVED.value, Kind.HEAD_REFUSED.value)
    found = (entry.fields for entry in entries_of(log) if entry.kind in kinds and entry.fields.get("peer") == peer)
    heads = []
    for fields in found:
        sequence, last_hash, signature = (fields.get(name) for name in ("sequence", "hash", "signature"))
        if isinstance(sequence, int) and isinstance(last_hash, str) and isinstance(signature, str):
            heads.append(Head(sequence, last_hash, signature))
    return tuple(heads)


def check_peer_head(head: Head, identity: Ed25519PublicKey, known: Iterable[Head]) -> None:
    """Whether a peer's new head may follow the ones known: signed by it, never behind, never another hash in one place.

    A log that was cut and grew again passes here, and is found when it is shown: verify it with `known` as witnesses.

    Raises: RemoteProtocolError: AUDIT_HEAD_INVALID, AUDIT_ROLLED_BACK.
    """
    if not head.is_of(identity):
        raise _head_invalid()
    for older in known:
        behind = head.sequence < older.sequence
        if older.is_of(identity) and (behind or (head.sequence == older.sequence and head.hash != older.hash)):
            raise RemoteProtocolError(
                "AUDIT_ROLLED_BACK",
                "a peer's audit log is shorter than it was, or has another entry where one was",
                "ask the peer for an export of its log and verify it; its own signed heads are in this log",
            )


# -- writing


class Medium(Protocol):
    """Where one log and its sealed head lie. Every write is on disk when it returns; errors are coded."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep every other writer out, of this process and of others."""

    def size(self) -> int:
        """Bytes of the log; 0 when there is none."""

    def read(self, start: int = 0) -> bytes:
        """The log from byte `start`."""

    def append(self, data: bytes) -> None:
        """Add `data` at the end."""

    def cut(self, size: int) -> None:
        """Drop everything behind byte `size`."""

    def read_head(self) -> bytes | None:
        """The sealed head, None when there is none."""

    def write_head(self, data: bytes) -> None:
        """Replace the sealed head, whole or not at all."""


class AuditLog:
    """The log of one institution. Several processes may hold one on the same medium at once; nothing is cached.

    Args: owner: name of the institution. key: its identity. clock: Unix seconds.
    """

    def __init__(self, medium: Medium, owner: str, key: Ed25519PrivateKey, clock: Callable[[], int]) -> None:
        self._medium = medium
        self._owner = owner
        self._key = key
        self._identity = key.public_key()
        self._clock = clock

    def append(self, event: Event) -> Head:
        """Record `event`; it is on disk, and its head sealed, when this returns. Do what it records only then.

        Raises: DataError: with the first finding when the log does not hold up to its sealed head; AUDIT_UNWRITABLE,
            AUDIT_BUSY from the medium. An event whose append failed may or may not be found in the log later.
        """
        return self.append_all((event,))

    def append_all(self, events: Iterable[Event]) -> Head:
        """Record several events with no other process's entry between them.

        Raises: DataError: as `append`.
        """
        with self._medium.exclusive():
            head = self._settled()
            for event in events:
                head = self._write(event, head)
            return head

    def head(self) -> Head:
        """The head to send to peers; a log that is not there yet is opened.

        Raises: DataError: as `append`.
        """
        with self._medium.exclusive():
            return self._settled()

    def receive_head(self, peer: str, head: Head, identity: Ed25519PublicKey) -> Receipt:
        """Check a peer's head against all of its heads in this log, record it, and give the receipt to send back.

        Raises: RemoteProtocolError: AUDIT_HEAD_INVALID; AUDIT_ROLLED_BACK, recorded too. DataError: as `append`.
        """
        fields: dict[str, int | str]
        fields = {"peer": peer, "sequence": head.sequence, "hash": head.hash, "signature": head.signature}
        with self._medium.exclusive():
            own = self._settled()
            known = heads_received(self._medium.read(), peer)
            try:
                check_peer_head(head, identity, known)
            except RemoteProtocolError as error:
                if head.is_of(identity):
                    self._write(Event(Kind.HEAD_REFUSED, fields | {"code": error.code}), own)
                raise
            if head not in known:
                self._write(Event(Kind.HEAD_RECEIVED, fields), own)
        return Receipt.sign(self._owner, head, identity, self._key)

    def verify(self, witnesses: Iterable[Head] = ()) -> Verification:
        """Verify the whole log against its sealed head and `witnesses`; changes nothing.

        Raises: DataError: AUDIT_UNWRITABLE, AUDIT_BUSY.
        """
        with self._medium.exclusive():
            return verify_stored(self._medium, self._identity, witnesses)

    def _write(self, event: Event, head: Head | None) -> Head:
        sequence, previous = (head.sequence + 1, head.hash) if head else (0, _START)
        line = Entry(sequence, self._clock(), event.kind.value, event.fields, previous).line(self._key)
        self._medium.append(line)
        return self._seal(sequence, line_hash(line))

    def _seal(self, sequence: int, last_hash: str) -> Head:
        head = Head.sign(sequence, last_hash, self._key)
        self._medium.write_head(head.encode())
        return head

    def _settled(self) -> Head:
        """The head to go on from, after putting right what a crash left behind; opens the log if there is none.

        A log that ends in its sealed entry is taken as it is, whatever its length; otherwise all of it is verified.
        """
        medium = self._medium
        encoded = medium.read_head()
        if encoded is not None:
            sealed = _own_head(encoded)
            tail = medium.read(max(0, medium.size() - MAX_LINE_BYTES))
            last = tail[tail.rfind(b"\n", 0, max(0, len(tail) - 1)) + 1 :]
            if last.endswith(b"\n") and line_hash(last) == sealed.hash and sealed.is_of(self._identity):
                return sealed
        result = verify_stored(medium, self._identity)
        if result.finding is not None and result.finding.code != "AUDIT_TORN":
            raise result.finding.error()
        torn = medium.read(result.good_bytes)
        if torn:
            medium.cut(result.good_bytes)
        if result.entries:
            head = self._seal(result.entries - 1, result.last_hash)
        else:
            opened = {"owner": self._owner, "identity": fingerprint(self._identity)}
            head = self._write(Event(Kind.LOG_OPENED, opened), None)
        if torn:
            cut: dict[str, int | str] = {"bytes": len(torn), "cut": hashlib.sha256(torn).hexdigest()}
            head = self._write(Event(Kind.LOG_REPAIRED, cut), head)
        return head


def verify_stored(medium: Medium, identity: Ed25519PublicKey, witnesses: Iterable[Head] = ()) -> Verification:
    """Verify the log on `medium` against the sealed head there and `witnesses`. Hold `exclusive` against writers.

    Without a head file nothing was acknowledged: at most the one entry of a crash at the very start can lie there.
    """
    log, encoded = medium.read(), medium.read_head()
    if encoded is None:
        return _verify(log, identity, witnesses, 0)
    try:
        sealed = _own_head(encoded)
    except DataError as error:
        return Verification(0, _START, 0, Finding(0, error.code, error.message))
    return verify_log(log, identity, sealed=sealed, witnesses=witnesses)


def disclosure_events(job: str, attempt: int, lines: Iterable[Line]) -> tuple[Event, ...]:
    """The statement of a job, one event for each who learned something: its hash, numbers opened and accounted for."""
    statement = tuple(lines)
    digest = statement_hash(statement).hex()

    def numbers(to: str, nature: Nature) -> int:
        return sum(line.numbers for line in statement if line.to == to and line.nature == nature.value)

    def event(to: str) -> Event:
        totals = {"opened": numbers(to, Nature.OPENED), "masked": numbers(to, Nature.MASKED)}
        named: dict[str, int | str] = {"job": job, "attempt": attempt, "statement": digest, "to": to}
        return Event(Kind.DISCLOSURE, {**named, **totals})

    return tuple(event(to) for to in sorted({line.to for line in statement}))


# -- pieces


def _check(line: bytes, sequence: int, previous: str, identity: Ed25519PublicKey) -> Finding | None:
    """What is wrong with line number `sequence` after one of hash `previous`."""
    try:
        entry, signature = parse_line(line)
    except DataError as error:
        return Finding(sequence, error.code, error.message)
    if not _verifies(identity, signature, _ENTRY_DOMAIN + entry.body()):
        return Finding(sequence, "AUDIT_SIGNATURE_INVALID", "it was altered, or signed with another key")
    if entry.sequence != sequence:
        sentence = f"entry {entry.sequence} stands in its place: entries were taken out, put in, repeated or moved"
        return Finding(sequence, "AUDIT_ORDER_BROKEN", sentence)
    if entry.previous != previous:
        return Finding(sequence, "AUDIT_CHAIN_BROKEN", "it does not follow the entry before it")
    if not sequence and entry.fields.get("identity") != fingerprint(identity):
        return Finding(0, "AUDIT_SIGNATURE_INVALID", "the log was opened for another identity key")
    return None


def _lines(log: bytes) -> Iterator[bytes]:
    """Every line with its newline; the last may lack one."""
    start = 0
    while start < len(log):
        end = log.find(b"\n", start) + 1 or len(log)
        yield log[start:end]
        start = end


def _is_torn(tail: bytes) -> bool:
    """Whether these bytes can be what is left of one append: not a line, or one with zeros in it."""
    return 0 < len(tail) <= MAX_LINE_BYTES and (
        b"\n" not in tail or (b"\0" in tail and tail.find(b"\n") == len(tail) - 1)
    )


def _own_head(data: bytes) -> Head:
    try:
        return Head.decode(data)
    except RemoteProtocolError as error:
        raise DataError(error.code, "the sealed head is not one that was written here", _KEEP) from error


def _head_bytes(sequence: int, last_hash: str) -> bytes:
    return _HEAD_DOMAIN + _canonical({"hash": last_hash, "sequence": sequence})


def _receipt_bytes(peer: str, log: str, head: Head) -> bytes:
    return _RECEIPT_DOMAIN + _canonical({"hash": head.hash, "log": log, "peer": peer, "sequence": head.sequence})


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _document(data: bytes, forms: Mapping[str, re.Pattern[str] | None]) -> dict[str, Any]:
    """The flat JSON object in `data`, in canonical form: texts of the given forms, counts where the form is None."""
    try:
        record = json.loads(data.decode("ascii")) if len(data) <= MAX_DOCUMENT_BYTES else None
        if not isinstance(record, dict) or set(record) != set(forms) or _canonical(record) != data:
            raise _head_invalid()
    except (ValueError, RecursionError) as error:  # of _canonical too: NaN is read, and has no canonical form
        raise _head_invalid() from error
    for name, form in forms.items():
        value = record[name]
        if not (_is_count(value) if form is None else isinstance(value, str) and form.fullmatch(value)):
            raise _head_invalid()
    return record


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_INTEGER


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest and value.isascii() and value.isprintable()


def _is_fields(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MAX_FIELDS
        and all(_FIELD.fullmatch(name) for name in value)
        and all(_is_count(item) or _is_text(item, _MAX_TEXT) for item in value.values())
    )


def _verifies(identity: Ed25519PublicKey, signature: str, message: bytes) -> bool:
    try:
        identity.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _malformed() -> DataError:
    return DataError("AUDIT_ENTRY_MALFORMED", "it is not an entry in its canonical form", _KEEP)


def _head_invalid() -> RemoteProtocolError:
    return RemoteProtocolError("AUDIT_HEAD_INVALID", "a head of an audit log is not signed by its owner", _KEEP)


def _field_invalid() -> LocalProtocolError:
    return LocalProtocolError("AUDIT_FIELD_INVALID", "an entry holds the fields of its kind, each in its form")
