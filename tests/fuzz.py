"""Fuzzing: every decoder against bytes that were made from valid ones and then damaged.

    python -m tests.fuzz --seconds 60            # every target; `make fuzz`
    python -m tests.fuzz --seconds 5 recipe api  # targets whose names begin so

A target takes bytes and must return, or raise a ConcordatError with a stable code, within bounds on time and memory.
Inputs come from a seeded generator (`mutated`); an input that failed once is kept in `REGRESSIONS` and tried first.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import tracemalloc
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import unquote

import duckdb
import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from phe import PaillierPublicKey

from coordinator.api import Notifier, RateLimit, build_api
from coordinator.front import NotTlsError, offered_protocols
from coordinator.lab import Lab, LabSettings
from coordinator.lab import read_settings as read_lab_settings
from party_agent import enrolment as joining
from party_agent import model
from party_agent.agent_store import read_settings as read_agent_settings
from party_agent.catalogue import CatalogueEntry, PublishedColumn, SignedEntry
from party_agent.checkpoint import Checkpoints
from party_agent.contract_draft import EXAMPLE, contract_of, read_draft
from party_agent.dataset import read_ids, read_table
from party_agent.dictionary import read_dictionary
from party_agent.enrolment import create_institution
from party_agent.local_policy import POLICY_FILE, read_policy
from party_agent.peers import PeerBook
from party_agent.rebinning import changed_rules
from party_agent.report_page import render_shared
from party_agent.rest_client import RestClient
from party_agent.review_desk import read_ask
from party_agent.scorecard import FeaturePoints, GradeTable, PointsTable, Scaling
from party_agent.store import Folder
from protocols import audit
from protocols.audit_exchange import HeadNotice
from protocols.binning import messages as binning
from protocols.binning.prebins import FeatureKind, PreBinning
from protocols.binning.review import Change
from protocols.binning.table import BinnedFeature
from protocols.contract import (
    Caps,
    Contract,
    DataSet,
    JobDocument,
    JobKind,
    Member,
    SignedContract,
    SignedJob,
    fingerprint,
)
from protocols.contract_state import ContractEvent, EventKind, SignedEvent
from protocols.disclosure import Ledger
from protocols.enrolment import VERSION_HEADER, VERSIONS, EnrolmentToken, enrolment_statement
from protocols.envelope import RELAY, Kind, decode_frame, encode_frame, parse_code
from protocols.errors import ConcordatError
from protocols.fixed_point import Ring
from protocols.group import Blinder, check_points, hash_to_curve_x
from protocols.logistic import messages as logistic
from protocols.messages import Bounds, Message, Part, StageEnd, _fields, decode, encode
from protocols.model_record import Act, ModelEvent, ModelRecord, PartLine, SignedModelEvent, state_of
from protocols.moments import messages as moments
from protocols.paillier import CiphertextReader
from protocols.paillier_key import CHALLENGES, verify_public_key
from protocols.psi import messages as psi
from protocols.recipe import FeatureRules, Recipe, load_recipe, recipe_from_canonical
from protocols.recipe_text import default_recipe_text
from protocols.resumption import STEPS as RESUMPTION_STEPS
from protocols.roles import COORDINATOR, Parties, Role
from protocols.rows import messages as rows
from protocols.scoring import messages as scoring
from protocols.secure_channel import Handshake, Links, LinkTerms, Reassembly, SecureLink
from protocols.session import Session, Step
from protocols.signed_request import HEADER_NAME, sign_request, verify_request
from protocols.statement import STEPS as STATEMENT_STEPS
from tests.party_agent.test_report import made_up_report

NOW = 1_800_000_000
CPU_S = 2.0  # of one call
HANG_S = 30.0  # wall time of one call, on a machine that does other work too
MEMORY_BYTES = 24 << 20  # of one call, besides MEMORY_FACTOR a byte of input
MEMORY_FACTOR = 200
GROWTH_BYTES = 64 << 20  # of the process, in the second half of a run
TRACED_EVERY = 8  # calls; tracing slows a call several times
LONGEST_INPUT = 1 << 20

KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i, name in enumerate(("bank", "bureau"), 1)}
LAB_KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
BOUNDS = Bounds(rows=2000, set_size=2000, features=20, key_bytes=64)
PARTIES = Parties("bank", ("bureau", "tax"))
_CODE = re.compile(r"[A-Z][A-Z0-9_]{2,47}")


class FuzzFailure(Exception):  # noqa: N818
    """A target broke its promise; `data` is the input."""

    def __init__(self, target: str, what: str, data: bytes) -> None:
        super().__init__(f"{target}: {what}; input ({len(data)} bytes): {data[:300]!r}")
        self.data = data


class _HangError(BaseException):
    """The alarm went off inside a call."""


@dataclass(frozen=True)
class Target:
    """A decoder. seeds: valid inputs; opaque: leading bytes that choose among decoders, no part of a document."""

    name: str
    call: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    opaque: int = 0


# -- one call ----------------------------------------------------------------------------------------------------------


def outcome(target: Target, data: bytes, *, trace: bool = False) -> str:
    """The code that `data` was refused with, or '' where it was read.

    Raises: FuzzFailure: another exception, too long, too much memory.
    """
    code = ""
    if trace:
        tracemalloc.start()
    begin = time.process_time()
    try:
        with _alarm():
            target.call(data)
    except ConcordatError as error:
        code = error.code
        if not _CODE.fullmatch(code) or not error.message or not error.remedy:
            raise FuzzFailure(target.name, "an error without code, sentence or remedy", data) from error
    except (Exception, _HangError) as error:
        raise FuzzFailure(target.name, f"{type(error).__name__}: {str(error)[:200]}", data) from error
    finally:
        spent = time.process_time() - begin
        peak = tracemalloc.get_traced_memory()[1] if trace else 0
        if trace:
            tracemalloc.stop()
    if spent > CPU_S * (5 if trace else 1):
        raise FuzzFailure(target.name, f"{spent:.1f} s of processor time", data)
    if peak > MEMORY_BYTES + MEMORY_FACTOR * len(data):
        raise FuzzFailure(target.name, f"{peak >> 20} MiB of memory", data)
    return code


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise _HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(target: Target, seconds: float, seed: str = "1") -> int:
    """Call `target` for so long; the number of calls.

    Raises: FuzzFailure.
    """
    rng = random.Random(f"{target.name}/{seed}")
    kept = [bytes(data) for data in REGRESSIONS.get(target.name, ())]
    for data in (*target.seeds, *kept):
        outcome(target, data, trace=True)
    begin, calls, settled = time.monotonic(), 0, 0
    while (elapsed := time.monotonic() - begin) < seconds:
        # Tracing itself makes the process grow, some 300 bytes each time: growth is measured in the half without it.
        outcome(target, mutated(rng, target, kept), trace=not settled and calls % TRACED_EVERY == 0)
        calls += 1
        if not settled and elapsed > seconds / 2:
            settled = _resident()
    gc.collect()
    if settled and (growth := _resident() - settled) > GROWTH_BYTES:
        raise FuzzFailure(target.name, f"the process grew by {growth >> 20} MiB in {calls} calls", b"")
    return calls


def _resident() -> int:
    """Bytes of memory of this process now (Linux), or its peak elsewhere."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -- damage ------------------------------------------------------------------------------------------------------------

_TOKENS = (
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\\ud800",
    b'"\\ud800"',
    b"\n",
    b"\r\n",
    b'"',
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"nan",
    b"inf",
    b"-1",
    b"1e999",
    b"1e308",
    b"9" * 19,
    b"9" * 400,
    b"9" * 5000,
    b"0x" + b"f" * 4000,
    b"0x" + b"f" * 6000,
    b"-" + b"9" * 310,
    b"1970-01-01",
    b"9999-12-31T23:59:60Z",
    b"0.0000000000000000000000000000000000000000000001",
    b"[" * 90,
    b"[" * 5000,
    b'{"a":' * 5000,
    b"[" * 600 + b"]" * 600,
    b"[" * 950 + b"]" * 950,
    b"a." * 600 + b"a = 1\n",
    b"a." * 5000 + b"a = 1\n",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff\x0f",
    b"\x80" * 12,
    b"\x0b" * 200,
    "\u2028é中\U0001f600".encode(),
)


def _nested(depth: int, leaf: Any = 0) -> Any:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**25, 10**400, 0.5, -0.0, 1e308, float("inf"),
    float("-inf"), float("nan"), "", "a", "a" * 300, "a" * 70_000, "\0", "\ud800", "é中", "../../x", "1", "0" * 64,
    "f" * 128, [], {}, [None], [[]], {"a": 1}, [0] * 3000, ["a"] * 300, _nested(50), _nested(400), _nested(900),
    {"schema": 1}, "2026-01-01", "NaN", "score", "coordinator", "bank",
)  # fmt: skip


def mutated(rng: random.Random, target: Target, more: Sequence[bytes] = ()) -> bytes:
    """A damaged copy of one of the target's valid inputs."""
    data = rng.choice((*target.seeds, *more))
    head, data = data[: target.opaque], data[target.opaque :]
    if target.opaque and rng.random() < 0.2:
        head = rng.randbytes(target.opaque)
    if data[:1] in (b"{", b"[") and rng.random() < 0.6:
        data = _damaged_document(rng, data)
    elif data:
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            data = rng.choice(_DAMAGE)(rng, data, target)[:LONGEST_INPUT]
    return head + data


def _damaged_document(rng: random.Random, data: bytes) -> bytes:
    """The JSON document in `data` with some values replaced, in canonical form again, so that later checks see it."""
    try:
        end = data.rindex(b"}") + 1 if data[:1] == b"{" else len(data)
        document, rest = json.loads(data[:end]), data[end:]
    except (ValueError, RecursionError):
        return data[:-1]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        document = _changed(rng, document)
    try:
        text = json.dumps(document, sort_keys=True, ensure_ascii=rng.random() < 0.5, separators=(",", ":"))
    except (ValueError, RecursionError):
        return data
    made = text.encode("utf-8", "surrogatepass") + rest
    return made if len(made) <= LONGEST_INPUT else data


def _changed(rng: random.Random, value: Any) -> Any:
    """`value` with one thing in it replaced, dropped, repeated or wrapped; goes down to a random depth."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        choice = rng.random()
        if choice < 0.08:
            return {key: item for key, item in value.items() if key != name}
        if choice < 0.14:
            return value | {rng.choice(("", "x", "\ud800", "a" * 300, name + "x")): rng.choice(_VALUES)}
        return value | {name: _changed(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        choice = rng.random()
        if choice < 0.1:
            return value[:place] + value[place + 1 :]
        if choice < 0.2:
            return value[:place] + [value[place]] * rng.choice((2, 30, 300)) + value[place:]
        return [*value[:place], _changed(rng, value[place]), *value[place + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.5:
        place = rng.randrange(len(value))
        return value[:place] + rng.choice(("", "\0", "\ud800", "é", "A", "0", " ", value)) + value[place + 1 :]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2**31, 2**64, -(2**63)))
    return rng.choice(_VALUES)


def _cut(rng: random.Random, data: bytes, _target: Target) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(rng: random.Random, data: bytes, _target: Target) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 1, 2, 8, 64)) :]


def _flip(rng: random.Random, data: bytes, _target: Target) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, data: bytes, _target: Target) -> bytes:
    place = rng.randrange(len(data) + 1)
    given = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", rng.randbytes(1))) * rng.choice((1, 1, 2, 4, 8, 64))
    return data[:place] + given + data[place + len(given) :]


def _insert(rng: random.Random, data: bytes, _target: Target) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(_TOKENS) + data[place:]


def _splice(rng: random.Random, data: bytes, target: Target) -> bytes:
    other = rng.choice(target.seeds)[target.opaque :]
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _repeat(rng: random.Random, data: bytes, _target: Target) -> bytes:
    start = rng.randrange(len(data) + 1)
    stop = min(len(data), start + rng.choice((1, 4, 16, 100, 1000)))
    times = min(rng.choice((2, 3, 20, 500)), 1 + 200_000 // max(stop - start, 1))
    return data[:start] + data[start:stop] * times + data[stop:]


def _token(rng: random.Random, data: bytes, _target: Target) -> bytes:
    """Another number or text in place of one."""
    found = list(re.finditer(rb'-?[0-9][0-9.e+-]*|"[^"\n]*"|(?<== )[^\n#]+', data))
    if not found:
        return _insert(rng, data, _target)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(_TOKENS) + data[match.end() :]


def _line(rng: random.Random, data: bytes, _target: Target) -> bytes:
    """Lines in another order, repeated, or one left out."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    choice = rng.randrange(3)
    if choice == 0:
        rng.shuffle(lines)
    elif choice == 1:
        lines.insert(rng.randrange(len(lines)), lines[place])
    else:
        del lines[place]
    return b"\n".join(lines)


_DAMAGE = (_cut, _drop, _flip, _flip, _overwrite, _insert, _splice, _repeat, _token, _token, _line)


# -- messages ----------------------------------------------------------------------------------------------------------

TABLES: tuple[Sequence[Step], ...] = (
    psi.STEPS, psi.KKRT_STEPS, rows.STEPS, binning.STEPS, binning.REVIEW_STEPS, logistic.STEPS, moments.SCREEN_STEPS,
    moments.FIT_STEPS, scoring.VALIDATE_STEPS, STATEMENT_STEPS, RESUMPTION_STEPS,
)  # fmt: skip


def message_kinds() -> tuple[type[Message], ...]:
    """Every concrete message class of the protocols, by name."""
    found: set[type[Message]] = set()
    waiting: list[type[Message]] = [Message]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("protocols.") and "__dataclass_fields__" in vars(kind):
            found.add(kind)
    return tuple(sorted(found, key=lambda kind: kind.__name__))


def sample(kind: type[Part], fill: int = 3) -> Any:
    """A message of this type with something in every field."""
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for name, (repeated, nested) in _fields(kind).items():
        hint = hints[name]
        inner = hint.__args__[0] if repeated else hint
        value: Any = sample(nested, fill) if nested else {int: fill, str: "bank", bytes: b"\1" * 8, bool: True}[inner]
        given[name] = (value,) * fill if repeated else value
    if kind is scoring.SharedReport:
        given["document"] = b'{"auc":{"train":0.71,"curve":[[0,0],[0.5,0.7],[1,1]]},"grades":["A","B"],"ok":true}'
    return kind(**given)


def _messages() -> Iterator[Target]:
    kinds = message_kinds()

    def read(data: bytes) -> None:
        kind = kinds[data[0] % len(kinds)] if data else StageEnd
        message = decode(kind, data[1:])
        message.learned()
        kind.max_bytes(BOUNDS)
        if isinstance(message, scoring.SharedReport):
            message.parsed()

    seeds = tuple(bytes([number]) + encode(sample(kind)) for number, kind in enumerate(kinds))
    yield Target("message", read, seeds, opaque=1)

    report = kinds.index(scoring.SharedReport)
    document = sample(scoring.SharedReport).document
    yield Target("shared-report", lambda data: read(bytes([report]) + encode(scoring.SharedReport(data))), (document,))

    documents = [json.dumps(made_up_report(opened=opened)).encode() for opened in (True, False)]
    yield Target("report-page", lambda data: render_shared(scoring.SharedReport(data).parsed()), tuple(documents))

    steps = [step for table in TABLES for step in table]
    everyone = (*PARTIES.all, COORDINATOR)

    def incoming(data: bytes) -> None:
        step = steps[data[0] % len(steps)] if data else steps[0]
        me, sender = next(
            (me, sender)
            for me in everyone
            for sender in everyone
            if me != sender and step.sender in PARTIES.seats(sender) and step.to in PARTIES.seats(me)
        )
        session = Session(me, PARTIES, "stage", (step,), BOUNDS, Ledger(me))
        session.incoming(sender, step.message, data[1:])
        session.transcript(sender)

    seeds = tuple(bytes([number]) + encode(sample(step.message)) for number, step in enumerate(steps))
    yield Target("session", incoming, seeds, opaque=1)


# -- numbers and points ------------------------------------------------------------------------------------------------


def _numbers() -> Iterator[Target]:
    ring = Ring(76)
    elements = ring.to_bytes(ring.from_integers([5, -3, 2**75 - 1, 0]))
    yield Target("ring", lambda data: ring.from_bytes(data, (4,)), (elements,))

    public = PaillierPublicKey(((1 << 255) - 19) * ((1 << 256) - 189))
    width = 2 * ((public.n.bit_length() + 7) // 8)
    sealed = b"".join((3 + 7**k).to_bytes(width, "little") for k in range(1, 5))

    def ciphertexts(data: bytes) -> None:
        reader = CiphertextReader(public, 4)
        middle = len(data) // 2 // width * width
        reader.read(data[:middle])
        reader.read(data[middle:])
        reader.finish()

    yield Target("ciphertexts", ciphertexts, (sealed,))

    modulus = public.n.to_bytes(64, "little")

    def key(data: bytes) -> None:
        verify_public_key(data[:64], data[64:], 511, b"context", minimum_bits=128)

    yield Target("paillier-key", key, (modulus + b"".join((9 + k).to_bytes(64, "little") for k in range(CHALLENGES)),))

    points = b"".join(hash_to_curve_x(bytes([k]), b"fuzz") for k in range(4))
    blinder = Blinder(lambda size: b"\5" * size)

    def blind(data: bytes) -> None:
        for point in check_points(data, 100)[:8]:
            blinder.blind(point)

    low_order = b"\0" * 32
    yield Target("points", blind, (points, points + low_order))


# -- frames ------------------------------------------------------------------------------------------------------------


def _terms(me: str) -> LinkTerms:
    peers = {name: key.public_key() for name, key in KEYS.items() if name != me}
    roles = {"bank": "label owner", "bureau": "feature provider"}
    return LinkTerms(me, "job-1", 1, b"c" * 32, roles, KEYS[me], peers)


def _handshakes() -> tuple[Handshake, Handshake]:
    return (
        Handshake(_terms("bank"), "bureau", lambda size: b"\3" * size),
        Handshake(_terms("bureau"), "bank", lambda size: b"\4" * size),
    )


def _linked() -> tuple[SecureLink, SecureLink]:
    left, right = _handshakes()
    left_proof, right_proof = left.on_hello(right.hello()), right.on_hello(left.hello())
    return left.on_proof(right_proof), right.on_proof(left_proof)


def _packed(parts: Sequence[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _unpacked(data: bytes) -> list[bytes]:
    parts, at = [], 0
    while at + 2 <= len(data) and len(parts) < 50:
        size = int.from_bytes(data[at : at + 2], "big")
        parts.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return parts


def _frames() -> Iterator[Target]:
    def envelope(data: bytes) -> None:
        read = decode_frame(data)
        if read.kind in (Kind.ABORT, Kind.SEALED_ABORT):
            parse_code(read.payload)

    seeds = (
        encode_frame(Kind.DATA, "job-1", "bank", "bureau", b"payload"),
        encode_frame(Kind.ABORT, "job-1", RELAY, "bank", b"CHECK_FAILED"),
        encode_frame(Kind.JOINED, "job-1", RELAY, "bank", b"bureau"),
    )
    yield Target("envelope", envelope, seeds)

    left, right = _handshakes()
    hello = right.hello()
    proof = right.on_hello(left.hello())

    def handshake(data: bytes) -> None:
        mine, _ = _handshakes()
        mine.on_hello(data[: len(hello)])
        mine.on_proof(data[len(hello) :])

    yield Target("handshake", handshake, (hello + proof,))

    def opened(data: bytes) -> None:
        link, _ = _linked()
        reassembly = Reassembly(1 << 20)
        for frame in _unpacked(data):
            if reassembly.add(link.open("s", "m", frame)) is not None:
                reassembly = Reassembly(1 << 20)

    def aborted(data: bytes) -> None:
        _linked()[0].open_abort(data)

    _, sender = _linked()
    sealed = [b"".join(sender.seal("s", "m", text, True, len(text))) for text in (b"hello", b"again")]
    yield Target("secure-link", opened, (_packed(sealed[:1]), _packed(sealed)))
    yield Target("sealed-abort", aborted, (_linked()[1].seal_abort("CHECK_FAILED") or b"",))

    def arrived(data: bytes) -> None:
        links = Links(_terms("bank"), lambda size: b"\3" * size)
        for frame in _unpacked(data):
            links.arrived(frame)
        links.check()
        links.take("bureau", "s", "m", 1 << 20)

    def to_bank(kind: Kind, sender: str, payload: bytes) -> bytes:
        return encode_frame(kind, "job-1", sender, "bank", payload)

    conversation = [
        to_bank(Kind.JOINED, RELAY, b"bank"),
        to_bank(Kind.JOINED, RELAY, b"bureau"),
        to_bank(Kind.HELLO, "bureau", hello),
        to_bank(Kind.PROOF, "bureau", proof),
        to_bank(Kind.DATA, "bureau", sealed[0]),
        to_bank(Kind.LEFT, RELAY, b"bureau"),
    ]
    stopped = [*conversation[:4], to_bank(Kind.SEALED_ABORT, "bureau", _linked()[1].seal_abort("DISK_FULL") or b"")]
    lost = [*conversation[:4], to_bank(Kind.LOST, RELAY, b"bureau")]
    yield Target("links", arrived, (_packed(conversation), _packed(stopped), _packed(lost)))

    def client_hello(data: bytes) -> None:
        try:
            offered_protocols(data)
        except NotTlsError:  # what it is meant to say
            return

    alpn = b"\0\x10\0\x0e\0\x0c\x02h2\x08http/1.1"
    body = b"\3\3" + b"r" * 32 + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(alpn).to_bytes(2, "big") + alpn
    whole = b"\1" + len(body).to_bytes(3, "big") + body
    record = b"\x16\3\1" + len(whole).to_bytes(2, "big") + whole
    if offered_protocols(record) != ("h2", "http/1.1"):
        raise ValueError("the sample of a ClientHello is not one")
    halves = [b"\x16\3\1" + len(half).to_bytes(2, "big") + half for half in (whole[:9], whole[9:])]
    yield Target("client-hello", client_hello, (record, b"".join(halves)))


# -- documents ---------------------------------------------------------------------------------------------------------


def contract() -> Contract:
    """A contract of the two parties of these tests, with data sets."""
    keys = {**KEYS, COORDINATOR: LAB_KEY}
    roles = {"bank": Role.LABEL_OWNER, "bureau": Role.PROVIDER, COORDINATOR: Role.COORDINATOR}
    return Contract(
        contract_id="contract-1",
        members=tuple(Member(n, roles[n].value, keys[n].public_key().public_bytes_raw().hex()) for n in roles),
        purpose="Überschuldung: ein Test",
        caps=Caps(),
        outputs=("scorecard",),
        valid_from=NOW - 60,
        valid_until=NOW + 86_400,
        datasets=(
            DataSet("bank", "loans", "id", "y", ("limit", "months")),
            DataSet("bureau", "history", "id", "", ("late", "open")),
        ),
    )


def signed_contract() -> SignedContract:
    """It, signed by everybody."""
    signed = SignedContract(contract(), ())
    for name, key in {**KEYS, COORDINATOR: LAB_KEY}.items():
        signed = signed.signed_by(name, key)
    return signed


def signed_job(name: str = "job-1") -> SignedJob:
    """A job under it."""
    digest, recipe = contract().hash().hex(), Recipe().canonical().decode()
    return JobDocument(digest, name, JobKind.TRAIN, recipe, "0" * 32, NOW - 10, NOW + 600).sign(KEYS["bank"])


def signed_event() -> SignedEvent:
    """One party's suspension of it."""
    return ContractEvent(contract().hash().hex(), "bank", EventKind.SUSPEND, 1, NOW, "übergangsweise").sign(
        KEYS["bank"]
    )


def model_record() -> ModelRecord:
    """A version of a model that was trained under it."""
    hashes = ("1" * 64, "2" * 64)
    return ModelRecord("sme", 1, contract().hash().hex(), "job-1", *hashes, "0.1.0", (("psi", 12), ("test_auc", 7421)))


def model_approval() -> SignedModelEvent:
    """One party's approval of it."""
    own = PartLine("3" * 64, "4" * 64, "0.1.0")
    return ModelEvent(model_record().hash(), "bank", Act.APPROVE, 1, NOW, "geprüft", own).sign(KEYS["bank"])


class _Unspent:
    def spend(self, *_given: object) -> bool:
        return True


def _documents() -> Iterator[Target]:
    agreed = contract()

    def read_contract(data: bytes) -> None:
        signed = SignedContract.decode(data)
        signed.contract.hash()
        signed.verify(NOW)

    def read_job(data: bytes) -> None:
        job = SignedJob.decode(data)
        recipe_from_canonical(job.document.recipe.encode())
        job.verify(agreed, NOW, _Unspent())

    yield Target("contract", read_contract, (signed_contract().encode(), SignedContract(agreed, ()).encode()))
    yield Target("job", read_job, (signed_job().encode(),))
    yield Target("event", lambda data: SignedEvent.decode(data).verify(agreed), (signed_event().encode(),))

    record = model_record()
    yield Target("model-record", lambda data: ModelRecord.decode(data).hash(), (record.encode(),))

    def model_event(data: bytes) -> None:
        state_of(record, agreed, [SignedModelEvent.decode(data)])

    yield Target("model-event", model_event, (model_approval().encode(),))

    def recipe_text(data: bytes) -> None:
        recipe = load_recipe(data.decode("utf-8", "surrogateescape"))
        recipe.check_parties(("bank", "bureau"))
        if recipe_from_canonical(recipe.canonical()) != recipe:
            raise ValueError("a recipe does not survive its canonical form")

    special = (
        b'[parties.bank]\ncategorical = ["code"]\nexclude = ["x"]\nspecial = { months = [-1, 2.5], code = ["9"] }\n'
    )
    yield Target("recipe", recipe_text, (default_recipe_text().encode(), special, b"[keys]\nbits = 2048\n"))
    yield Target(
        "recipe-canonical", recipe_from_canonical, (Recipe().canonical(), load_recipe(special.decode()).canonical())
    )

    column = PublishedColumn("Umsatz", "feature", "number", "under 1%", "1-5%", False)
    entry = CatalogueEntry("bank", "loans", "5k-10k", "2024-01", "2025-12", "under 1%", "not measured", (column,), NOW)
    identity = KEYS["bank"].public_key()
    yield Target(
        "catalogue",
        lambda data: SignedEntry.decode(data).verify("bank", identity),
        (entry.sign(KEYS["bank"]).encode(),),
    )

    token = EnrolmentToken("lab.example:8443", b"s" * 32, b"f" * 32).encode()
    yield Target(
        "token", lambda data: EnrolmentToken.decode(data.decode("utf-8", "surrogateescape")), (token.encode(),)
    )

    header = sign_request(KEYS["bank"], "bank", "GET", "/v1/members", b"", NOW, b"n" * 16)

    def request(data: bytes) -> None:
        given, _, target = data.partition(b"\n")
        verify_request(
            given.decode("latin-1"),
            "GET",
            target.decode("latin-1"),
            b"",
            NOW,
            lambda name: KEYS[name].public_key() if name in KEYS else None,
            _Unspent(),
        )

    yield Target("signed-request", request, (header.encode() + b"\n/v1/members",))
    yield from _audit_logs()


def _audit_logs() -> Iterator[Target]:
    identity = KEYS["bank"].public_key()
    previous, lines = "0" * 64, []
    for sequence in range(3):
        facts: dict[str, int | str] = (
            {"job": "job-1", "rows": 20916} if sequence else {"identity": fingerprint(identity)}
        )
        entry = audit.Entry(sequence, NOW, "job-stage", facts, previous)
        lines.append(entry.line(KEYS["bank"]))
        previous = audit.line_hash(lines[-1])
    head = audit.Head.sign(2, previous, KEYS["bank"])
    receipt = audit.Receipt.sign("bureau", head, identity, KEYS["bureau"])
    signature = b" " + b"a" * 128 + b"\n"

    def log(data: bytes) -> None:
        result = audit.verify_log(data, identity, sealed=head, witnesses=(head,))
        if result.finding is not None:
            raise result.finding.error()
        audit.heads_received(data, "bureau")

    yield Target("audit-line", audit.parse_line, tuple(lines))
    yield Target("audit-body", lambda data: audit.parse_line(data + signature), (lines[0].rpartition(b" ")[0],))
    yield Target("audit-log", log, (b"".join(lines),))
    yield Target("audit-head", lambda data: audit.Head.decode(data).is_of(identity), (head.encode(),))
    yield Target(
        "audit-receipt",
        lambda data: audit.Receipt.decode(data).is_of(KEYS["bureau"].public_key(), identity),
        (receipt.encode(),),
    )

    def notice(data: bytes) -> None:
        HeadNotice.decode(data).verify("bureau", identity)

    sent = HeadNotice.sign("bank", "bureau", 1_700_000_000_000, head, KEYS["bank"])
    yield Target("audit-notice", notice, (sent.encode(),))


# -- files -------------------------------------------------------------------------------------------------------------

_DICTIONARY_TOML = """\
[columns.turnover]
description = "年营业额"
type = "number"
unit = "CNY 10,000"
range = [0, 1e9]
special = [-1]

[columns.sector]
type = "code"
codes = ["A", "B", 3]
"""
_DICTIONARY_CSV = """\
name,description,type,unit,min,max,codes,special
turnover,"sales, a year",number,CNY,0,1e9,,-1
sector,,code,,,,A|B|3,
"""
_POLICY = """\
approval = "automatic"
kinds = ["train"]
most_jobs = 5
least_key_bits = 3072
least_intersection = 2000
allow_outputs = false
source = "loans"
split_seed = 7
"""
_DRAWN = random.Random(5)
_CSV = "id,y,months,code,ratio\n" + "".join(
    f"C{row:05d},{row % 7 == 0:d},{_DRAWN.randrange(99)},{_DRAWN.choice('AB')},{_DRAWN.random():.4f}\n"
    for row in range(60)
)


def _own_model() -> model.OwnModel:
    prebins = PreBinning(
        feature="months",
        kind=FeatureKind.NUMERIC,
        edges=(3.5, 9.0),
        ordered_bins=3,
        categories=(),
        special=(-1.0,),
        special_bins=(3,),
        missing_bin=4,
        fallback=4,
        rows=(60, 70, 80, 50, 55),
    )
    feature = BinnedFeature("a1", prebins, (0, 0, 1, 1, 1), (1200, -900), 230, (130, 185), (20, None))
    points = PointsTable(
        "bank", Scaling(), (FeaturePoints("months", "a1", ("low", "high"), (1200, -900), (12, -9)),), 600
    )
    return model.OwnModel("job-1", "0" * 64, (feature,), (0.8,), -2.1, points, 12, 1e-4)


def _files(folder: Path) -> Iterator[Target]:
    def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)

        def call(data: bytes) -> None:
            path.write_bytes(data)
            read(path)

        return call

    yield Target("dictionary-toml", in_file("dictionary.toml", read_dictionary), (_DICTIONARY_TOML.encode(),))
    yield Target("dictionary-csv", in_file("dictionary.csv", read_dictionary), (_DICTIONARY_CSV.encode(),))
    yield Target("policy", in_file(f"policy/{POLICY_FILE}", lambda path: read_policy(path.parent)), (_POLICY.encode(),))

    class Book:
        def pinned(self, name: str) -> Any:
            return (KEYS | {COORDINATOR: LAB_KEY}).get(name, Ed25519PrivateKey.generate()).public_key()

    own = KEYS["bank"].public_key().public_bytes_raw().hex()

    def draft(path: Path) -> None:
        contract_of(read_draft(path), "bank", own, Book()).hash()  # type: ignore[arg-type]

    simple = EXAMPLE.replace('"bureau", "tax"', '"bureau"').split("[datasets.bank]")[0]
    yield Target("contract-draft", in_file("draft.toml", draft), (EXAMPLE.encode(), simple.encode()))

    settings = b'name = "bank"\nlab = "lab.example:8443"\nca_fingerprint = "00"\n\n[database]\nurl_env = "URL"\n'
    yield Target("agent-settings", in_file("agent/agent.toml", lambda p: read_agent_settings(p.parent)), (settings,))
    lab = b'name = "test"\naddress = "127.0.0.1:8443"\nnames = ["lab.example"]\n\n[database]\nurl_env = "URL"\n'
    yield Target("lab-settings", in_file("lab-settings/lab.toml", lambda p: read_lab_settings(p.parent)), (lab,))

    recipe = Recipe()

    def table(path: Path) -> None:
        read_table(path, "id", "y", recipe, "bank")

    yield Target("csv", in_file("rows.csv", table), (_CSV.encode(), _CSV.replace(",", ";").encode()))
    yield Target("csv-ids", in_file("ids.csv", lambda path: read_ids(path, "id")), (_CSV.encode(),))
    parquets = []
    for compression in ("uncompressed", "snappy"):
        (folder / "whole.csv").write_bytes(_CSV.encode())
        whole = folder / f"whole-{compression}.parquet"
        with duckdb.connect() as connection:
            connection.execute(
                f"COPY (FROM '{folder}/whole.csv') TO '{whole}' (FORMAT parquet, COMPRESSION {compression})"
            )
        parquets.append(whole.read_bytes())
    yield Target("parquet", in_file("rows.parquet", table), tuple(parquets))

    models = Folder(folder / "model")
    model.write(models, _own_model())
    stored = (models.path / model.MODEL_FILE).read_bytes()

    def read_model(_path: Path) -> None:
        codes = model.read(models)
        codes.points.range()
        codes.points.to_json()

    yield Target("model", in_file(f"model/{model.MODEL_FILE}", read_model), (stored,))

    home = Folder(folder / "home")
    checkpoints = Checkpoints(home, Folder(folder / "job"), "job-1", b"context")
    checkpoints.save("align", {"rows": 3}, {"ids": b"abc"})
    saved = folder / "job" / "checkpoints" / "job-1" / "align.bin"
    yield Target(
        "checkpoint",
        in_file(str(saved.relative_to(folder)), lambda _path: checkpoints.load("align")),
        (saved.read_bytes(),),
    )

    def json_of(read: Callable[[Any], object]) -> Callable[[bytes], None]:
        def call(data: bytes) -> None:
            models.write("part.json", data)
            read(models.read_json("part.json"))

        return call

    own_model = _own_model()

    def encoded(document: Any) -> bytes:
        return json.dumps(document).encode()

    binned = own_model.features[0].binning
    yield Target("prebins", json_of(PreBinning.from_json), (encoded(binned.to_json()),))
    wish = {
        "number": "0123456789abcdef",
        "act": "change",
        "feature": "age",
        "given": {"splits": [1, 2.5], "special": "own"},
    }
    groups = wish | {"given": {"groups": [["A", "B"], ["C"]], "missing_with": "A"}}
    yield Target("review-ask", _ask, (encoded(wish), encoded(groups), encoded(wish | {"act": "accept"})))
    yield Target("points-table", json_of(PointsTable.from_json), (encoded(own_model.points.to_json()),))
    yield Target("grades", json_of(GradeTable.from_json), (encoded(GradeTable(("A", "B"), (600,)).to_json()),))


def _ask(data: bytes) -> None:
    wish = read_ask(data).wish
    if isinstance(wish, Change):
        changed_rules(FeatureRules(max_bins=4, missing="nearest"), wish.given)


# -- what a lab answers ------------------------------------------------------------------------------------------------


def _answers(folder: Path, lab: Lab) -> Iterator[Target]:
    answer = [b"", 200]
    client = RestClient("lab.example:8443", "", "bank", KEYS["bank"], context=joining.ssl.create_default_context())
    client._http.close()
    client._http = httpx.Client(
        base_url="https://lab.example:8443",
        transport=httpx.MockTransport(
            lambda _request: httpx.Response(
                int(answer[1]), headers={VERSION_HEADER: VERSIONS}, stream=httpx.ByteStream(answer[0])
            )
        ),
    )
    agent = folder / "answered"
    create_institution(agent, "bank")
    book = PeerBook.open(agent, lambda: NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    ca = lab.authority.pem

    def members() -> None:
        book.refresh(client.members(), "bank")
        for peer in book.all():
            _ = peer.words

    def enrolled() -> None:
        given = client.renew("csr")
        joining._identity_in(given)
        joining._checked_certificate(given, ca, "bank", key)

    calls: tuple[Callable[[], object], ...] = (
        members,
        enrolled,
        client.catalogue,
        client.health,
        client.authority,
        lambda: client.requests(0),
    )

    def call(data: bytes) -> None:
        number = data[0] if data else 0
        answer[0], answer[1] = data[1:], 409 if number > 127 else 200
        calls[number % len(calls)]()

    identity = KEYS["bureau"].public_key().public_bytes_raw().hex()
    listed = {
        "members": [{"name": "bureau", "identity": identity, "state": "active", "joined": NOW}],
        "coordinator": {"name": COORDINATOR, "identity": lab.identity_hex},
    }
    asked = {"number": 3, "kind": "job", "reference": "job-1", "attempt": 1, "code": None, "at": NOW, "document": "{}"}
    documents: tuple[dict[str, Any], ...] = (
        listed,
        {"certificate": ca, "ca": ca, "lab_identity": lab.identity_hex},
        {"datasets": [{"owner": "bank", "dataset": "loans", "document": "{}", "published": NOW}]},
        {"status": "ok", "version": VERSIONS, "time": NOW},
        {"ca": ca},
        {"requests": [asked], "next": 3},
    )
    refused = json.dumps({"code": "NOT_FOUND", "message": "no such page", "remedy": "see there"}).encode()
    seeds = tuple(bytes([number]) + json.dumps(document).encode() for number, document in enumerate(documents))
    yield Target("lab-answers", call, (*seeds, b"\xff" + refused), opaque=1)


# -- the lab's API -----------------------------------------------------------------------------------------------------


class FuzzedApi:
    """The API behind its gate, without a socket: every answer must be 200 or a coded error, and never 500."""

    def __init__(self, lab: Lab) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(b"\x11" * 32)
        self._lab = lab
        self._gate = build_api(lab, Notifier(), enrolment_limit=RateLimit(10**9, 1.0))
        self._loop = asyncio.new_event_loop()
        self.tls = ec.generate_private_key(ec.SECP256R1())
        self.enrolment = self._enrolment("bank", self._key)
        self.send("POST", "/v1/enrolment", json.dumps(self.enrolment).encode())

    def _enrolment(self, name: str, key: Ed25519PrivateKey) -> dict[str, str]:
        token = EnrolmentToken.decode(self._lab.invite(name))
        public = self.tls.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        own = key.public_key().public_bytes_raw()
        statement = enrolment_statement(name, own, public, token.ca_fingerprint)
        return {
            "token": token.encode(),
            "name": name,
            "identity": own.hex(),
            "csr": joining._certificate_request(name, self.tls),
            "identity_signature": key.sign(statement).hex(),
            "tls_signature": self.tls.sign(statement, ec.ECDSA(joining.hashes.SHA256())).hex(),
        }

    def contract(self) -> Contract:
        """A contract that this lab and its one member could sign."""
        agreed = contract()
        members = (
            Member("bank", Role.LABEL_OWNER.value, self._key.public_key().public_bytes_raw().hex()),
            agreed.members[1],
            Member(COORDINATOR, Role.COORDINATOR.value, self._lab.identity_hex),
        )
        now = int(time.time())
        return Contract(**(vars(agreed) | {"members": members, "valid_from": now - 60, "valid_until": now + 86_400}))

    def sign(self, agreed: Contract) -> str:
        """The member's signature."""
        return agreed.sign(self._key)

    def send(self, method: str, target: str, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()) -> int:
        """One signed request; its status.

        Raises: ValueError: an answer that none may be.
        """
        given = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        given.append((VERSION_HEADER.lower().encode(), VERSIONS.encode()))
        try:
            signature = sign_request(self._key, "bank", method, target, body, int(time.time()), os.urandom(16))
            given.append((HEADER_NAME.lower().encode(), signature.encode()))
        except ConcordatError:
            pass
        replaced = {name for name, _ in headers}
        raw_path, _, query = target.encode("latin-1").partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": unquote(raw_path.decode("latin-1")),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": [*(pair for pair in given if pair[0] not in replaced), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        status, answer = self._loop.run_until_complete(self._exchange(scope, body))
        if status != 200:
            told = json.loads(answer)
            if set(told) != {"code", "message", "remedy"} or not _CODE.fullmatch(told["code"]):
                raise ValueError(f"status {status} without a coded error")
            if status == 500 or told["code"] == "INTERNAL_ERROR":
                raise ValueError(f"status {status}, code {told['code']}")
        return status

    async def _exchange(self, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        status, parts, sent = [0], [], [False]

        async def receive() -> dict[str, Any]:
            if sent[0]:
                return {"type": "http.disconnect"}
            sent[0] = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self._gate(scope, receive, send)
        return status[0], b"".join(parts)

    def close(self) -> None:
        """End the loop."""
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def _api(api: FuzzedApi) -> Iterator[Target]:
    agreed = api.contract()
    digest = agreed.hash().hex()
    proposed = SignedContract(agreed, (("bank", api.sign(agreed)),)).encode().decode()
    recipe = Recipe().canonical().decode()
    issued = int(time.time())
    scoring = JobDocument(digest, "job-1", JobKind.SCORE, recipe, "1" * 32, issued, issued + 3600, model="train-1")
    job = scoring.sign(api._key)
    event = ContractEvent(digest, "bank", EventKind.SUSPEND, 1, issued, "x").sign(api._key)
    posts: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/v1/enrolment", dict(api.enrolment)),
        ("/v1/renewal", {"csr": api.enrolment["csr"]}),
        ("/v1/catalogue", {"dataset": "loans", "document": "{}"}),
        ("/v1/contracts", {"document": proposed}),
        (f"/v1/contracts/{digest}/signatures", {"signature": api.sign(agreed)}),
        (f"/v1/contracts/{digest}/events", {"document": event.encode().decode()}),
        ("/v1/jobs", {"document": job.encode().decode()}),
        ("/v1/models", {"record": "{}", "event": "{}"}),
        ("/v1/jobs/job-1/stop", {"attempt": 1}),
        ("/v1/jobs/job-1/reports", {"attempt": 1, "stage": "align", "code": "FILE_MISSING"}),
    )

    def body(data: bytes) -> None:
        target, _ = posts[data[0] % len(posts)] if data else posts[0]
        api.send("POST", target, data[1:])

    seeds = tuple(bytes([number]) + json.dumps(document).encode() for number, (_, document) in enumerate(posts))
    yield Target("api-body", body, seeds, opaque=1)

    def inner(data: bytes) -> None:
        """The document inside the body is damaged, not the body."""
        target, document = posts[(3, 5, 6)[data[0] % 3]] if data else posts[3]
        text = data[1:].decode("utf-8", "replace")
        api.send("POST", target, json.dumps(document | {"document": text}).encode())

    documents = tuple(bytes([number]) + posts[place][1]["document"].encode() for number, place in enumerate((3, 5, 6)))
    yield Target("api-document", inner, documents, opaque=1)

    def path(data: bytes) -> None:
        target = "/" + data.decode("latin-1").replace("wait", "w")
        api.send("GET", target)
        api.send("POST", target.replace("?", "%3f"), b"{}")

    places = (
        "v1/members",
        f"v1/contracts/{digest}",
        "v1/jobs/job-1?attempt=1",
        "v1/nothing",
        "v1/catalogue",
        "v1/jobs",
    )
    yield Target("api-path", path, tuple(place.encode() for place in places))

    def query(data: bytes) -> None:
        api.send("GET", "/v1/requests?wait=0&after=" + data.decode("latin-1").replace("wait", "w"))
        api.send("GET", "/v1/jobs/job-1?attempt=" + data.decode("latin-1"))

    yield Target("api-query", query, (b"0", b"1", b"9007199254740992", b"%30"))

    names = (HEADER_NAME, VERSION_HEADER, "Content-Length", "Content-Type", "Authorization")
    samples = (
        sign_request(api._key, "bank", "GET", "/v1/members", b"", issued, b"n" * 16),
        VERSIONS,
        "2",
        "application/json; charset=utf-8",
        "Bearer abc",
    )

    def header(data: bytes) -> None:
        name = names[data[0] % len(names)] if data else names[0]
        pair = (name.lower().encode(), data[1:].replace(b"\n", b" ").replace(b"\r", b" "))
        api.send("GET", "/v1/metrics" if name == "Authorization" else "/v1/members", b"", [pair])
        api.send("POST", "/v1/catalogue", b"{}", [pair])

    given = tuple(bytes([number]) + text.encode() for number, text in enumerate(samples))
    yield Target("api-header", header, given, opaque=1)


# -- all of them -------------------------------------------------------------------------------------------------------

# An input that once failed, by target. The comment says how.
_SURROGATE_EVENT = (
    b'{"event":{"contract_hash":"00","kind":"suspend","party":"bank","reason":"","sequence":1,"time":1},'
    b'"signature":"\\ud800"}'
)
_DEEP_REASON = (
    b'{"event":{"act":"submit","model":"%s","own":{"code":"","data":"","part":""},"party":"bank","reason":%s,'
    b'"sequence":1,"time":1},"signature":"%s"}' % (b"0" * 64, b"[" * 600 + b"]" * 600, b"0" * 128)
)
_NO_NUMBER_HEAD = b'{"hash":"' + b"0" * 64 + b'","sequence":2,"signature":NaN}'
_NO_NUMBER_RECEIPT = b'{"hash":"","head_signature":"","log":"","peer":"bank","sequence":NaN,"signature":""}'
_NO_NUMBER_NOTICE = b'{"head":NaN,"issued_ms":1,"owner":"bank","receiver":"bureau","signature":"' + b"0" * 128 + b'"}'
_DEEP_LIST = b"name = " + b"[" * 2000
_DEEP_KEY = b"a." * 5000 + b"a = 1\n"
_LONG_NUMBER = b"split_seed = " + b"9" * 5000
_INFINITE_BINS = b'{"feature":"a","kind":"numeric","edges":[' + b"9" * 400 + b'],"ordered_bins":2}'
_UNKNOWN_KIND_OF_KEY = (
    b'\1{"csr":"'
    b"-----BEGIN CERTIFICATE REQUEST-----\\n"
    b"MIHJMHECAQAwDzENMAsGA1UEAwwEYmFuazBZMBMGByqGSA49AgEGCCqGSM49AwEH\\n"
    b"A0IABKW9GyQN/JiLtIgBwPWPtmifFXZTSBALzmC6FGw2b/Ir8xW3cF/bMP0jKzTx\\n"
    b"yr5Zv3GpitAQDZr/zKk+tKPlee2gADAKBggqhkjOPQQDAgNIADBFAiEA04ycm/A0\\n"
    b"QEOMZL+xyxk5wv6uOEdf+3hsOQFVq4+UKcoCIEvGbYhIqpWxThV284hAYDTv0E6A\\n"
    b"5nx/w0ZI7wNyVnlf\\n"
    b"-----END CERTIFICATE REQUEST-----\\n"
    b'"}'
)
_UNKNOWN_VERSION = (
    b'\1{"csr":"'
    b"-----BEGIN CERTIFICATE REQUEST-----\\n"
    b"MIHKMHECASAwDzENMAsGA1UEAwwEYmFuazBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABLHdcZOi\\n"
    b"G08VL4EbfAkYtBakxO9MSlZtIScwN42nhoqix/MRGR6X8BwnB/Qlhxfh+XLxd4vS817culN7xYfb\\n"
    b"AR2gADAKBggqhkjOPQQDAgNJADBGAiEAzJbxJbt/kIQ9pp7MPVPAhyEfPtVB/Jrz9G97325qKlcC\\n"
    b"IQDXyukAhI8xsFIT3lyuceP4WzVKbyi9ZGK+byca98DV6A==\\n"
    b"-----END CERTIFICATE REQUEST-----\\n"
    b'"}'
)
REGRESSIONS: dict[str, tuple[bytes, ...]] = {
    # ValueError: a content-length of thousands of digits; UnsupportedAlgorithm, InvalidVersion: a strange request
    "api-header": (b"\xe3" + b"9" * 4999,),
    "api-body": (_UNKNOWN_KIND_OF_KEY, _UNKNOWN_VERSION),
    # UnicodeEncodeError; over the API an answer of 500
    "event": (_SURROGATE_EVENT,),
    "api-document": (b"\1" + _SURROGATE_EVENT,),
    # RecursionError: a text that is a list, nested
    "model-event": (_DEEP_REASON,),
    # ValueError: NaN is read and cannot be written
    "audit-head": (_NO_NUMBER_HEAD,),
    "audit-receipt": (_NO_NUMBER_RECEIPT,),
    "audit-notice": (_NO_NUMBER_NOTICE,),
    # ValueError, RecursionError, and time and memory that grow with the square of a key's parts
    "recipe": (b"[model]\nl2 = " + b"9" * 5000, b"[model]\nl2 = 0x" + b"f" * 6000, _DEEP_KEY),
    "dictionary-toml": (
        b"[columns.a]\nrange = [0, " + b"9" * 400 + b"]",
        b"[columns.a]\nspecial = [" + b"9" * 400 + b"]",
        b"[columns.a]\nrange = [0, " + b"9" * 5000 + b"]",
        _DEEP_KEY,
    ),
    "policy": (_DEEP_LIST, _DEEP_KEY, _LONG_NUMBER),
    "contract-draft": (_DEEP_LIST, _DEEP_KEY, _LONG_NUMBER),
    "agent-settings": (_DEEP_LIST, _DEEP_KEY, _LONG_NUMBER),
    "lab-settings": (_DEEP_LIST, _DEEP_KEY, _LONG_NUMBER),
    # OverflowError
    "prebins": (_INFINITE_BINS, _INFINITE_BINS.replace(b"9" * 400, b"1").replace(b":2", b":Infinity")),
    "points-table": (b'{"features":[],"scaling":{"pdo":' + b"9" * 400 + b'},"base_points":null,"party":"bank"}',),
    # RecursionError while numbers are counted, and in the reader of a stored model
    "shared-report": (
        b'{"a":' + b"[" * 600 + b"]" * 600 + b"}",
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
    ),
    "model": (b"[" * 5000,),
}


@contextmanager
def targets(folder: Path) -> Iterator[dict[str, Target]]:
    """Every target by name; files and databases in `folder`."""
    api_log = logging.getLogger("concordat.api")
    with ExitStack() as stack:
        stack.callback(api_log.setLevel, api_log.level)
        api_log.setLevel(logging.CRITICAL)
        lab = Lab.create(folder / "lab", LabSettings(name="test", address="127.0.0.1:8443"), time.time)
        stack.callback(lab.close)
        api = FuzzedApi(lab)
        stack.callback(api.close)
        found = (
            *_messages(),
            *_numbers(),
            *_frames(),
            *_documents(),
            *_files(folder / "files"),
            *_answers(folder, lab),
            *_api(api),
        )
        yield {target.name: target for target in found}


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; 0 if nothing was found."""
    parser = argparse.ArgumentParser(description="fuzz every decoder")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of the generator; printed when something is found")
    parser.add_argument("names", nargs="*", help="beginnings of the names of targets; all without")
    given = parser.parse_args(arguments)
    failures = 0
    with tempfile.TemporaryDirectory() as folder, targets(Path(folder)) as found:
        for name, target in found.items():
            if given.names and not name.startswith(tuple(given.names)):
                continue
            try:
                calls = run(target, given.seconds, given.seed)
                print(f"{name:18} {calls:9,} calls", flush=True)  # noqa: T201
            except FuzzFailure as failure:
                failures += 1
                print(f"{name:18} FAILED (seed {given.seed}): {failure}", flush=True)  # noqa: T201
                kept = Path("build/fuzz") / f"{name}.bin"
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(failure.data)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
