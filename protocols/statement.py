"""The statement of what each party learned: equal on all sides, and signed by all (PROTOCOLS.md section 8).

Each party tells the others its own account. A receiver checks the lines that it can vouch for (what it sent itself),
joins all accounts, and all compare and sign the hash of the whole.

Of what a break let through, sender and receiver may honestly know different numbers: a line is noted before its message
is sent, and the message may be lost. So the receiver's number is at most the sender's, and a claim to have learned more
than was sent is found out. A claim to have *sent* more than arrived cannot be: it looks like messages that were lost in
the break. It can only make the statement say that this peer disclosed more than it did, never less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from protocols.disclosure import REPEATED, Ledger, Line, statement_hash
from protocols.errors import RemoteProtocolError
from protocols.messages import Control, Part, require
from protocols.roles import COORDINATOR, Parties, Role
from protocols.session import Script, Step, receive_each, send

STAGE = "statement"
_MAX_LINES = 2_000


@dataclass(frozen=True)
class StatementLine(Part):
    """A `Line` on the wire."""

    to: str
    stage: str
    source: str
    what: str
    nature: str
    numbers: int


@dataclass(frozen=True)
class StatementPart(Control):
    """What the sender learned, and what the coordinator learned from it."""

    lines: tuple[StatementLine, ...]
    MAX_BYTES = _MAX_LINES * 512


@dataclass(frozen=True)
class StatementSeal(Control):
    """The hash of the whole statement, signed with the sender's identity key."""

    digest: bytes
    signature: bytes


STEPS = (
    Step("1", Role.PARTY, StatementPart, to=Role.PARTY),
    Step("2", Role.PARTY, StatementSeal, to=Role.PARTY),
)


@dataclass(frozen=True)
class Statement:
    """The joined lines, sorted; their hash; each party's signature of it."""

    lines: tuple[Line, ...]
    digest: bytes
    signatures: Mapping[str, bytes] = field(default_factory=dict)


def agree_on_statement(
    me: str,
    parties: Parties,
    ledger: Ledger,
    sign: Callable[[bytes], bytes],
    verify: Callable[[str, bytes, bytes], bool],
) -> Script[Statement]:
    """Exchange accounts, join them, sign the whole.

    Args: sign: signature of a digest under this party's identity; verify: (party, digest, signature) -> valid.
    Raises: RemoteProtocolError: a peer's account differs from what it was sent, or the joined statements differ.
    """
    others = parties.others(me)
    own = _account(ledger, me)
    yield from send(others, StatementPart(tuple(StatementLine(**vars(line)) for line in own)))
    parts = yield from receive_each(others, StatementPart)
    lines = list(own)
    for party, part in parts.items():
        account = [Line(**vars(line)) for line in part.lines]
        require(len(account) <= _MAX_LINES and account == sorted(set(account)))
        require(all(line.to == party or _given(line, party) for line in account))
        from_me = [line for line in account if line.to == party and line.source == me and not _repeated(line)]
        if from_me != [line for line in ledger.lines(to=party, source=me) if not _repeated(line)]:
            raise _differs()
        sent = {_key(line): line.numbers for line in ledger.lines(to=party, source=me)}
        arrived = [line for line in account if line.to == party and line.source == me and _repeated(line)]
        if any(line.numbers > sent.get(_key(line), 0) for line in arrived):
            raise _differs()
        lines += account
    lines = _joined(lines)
    digest = statement_hash(lines)
    signature = sign(digest)
    yield from send(others, StatementSeal(digest, signature))
    seals = yield from receive_each(others, StatementSeal)
    if any(seal.digest != digest or not verify(party, digest, seal.signature) for party, seal in seals.items()):
        raise _differs()
    signatures = {me: signature} | {party: seal.signature for party, seal in seals.items()}
    return Statement(tuple(sorted(lines)), digest, dict(sorted(signatures.items())))


def _account(ledger: Ledger, me: str) -> list[Line]:
    """What `me` learned, and what only it can vouch for: what it gave the coordinator, or gave before a break."""
    return sorted({*ledger.lines(to=me), *(line for line in ledger.lines(source=me) if _given(line, me))})


def _given(line: Line, party: str) -> bool:
    return line.source == party and (line.to == COORDINATOR or _repeated(line))


def _repeated(line: Line) -> bool:
    return line.stage.endswith(REPEATED)


def _joined(lines: list[Line]) -> list[Line]:
    """One line for each thing learned. Sender and receiver may differ on what a break let through: the more counts."""
    most: dict[tuple[str, str, str, str, str], int] = {}
    for line in lines:
        most[_key(line)] = max(most.get(_key(line), 0), line.numbers)
    return sorted(Line(*key, numbers) for key, numbers in most.items())


def _key(line: Line) -> tuple[str, str, str, str, str]:
    return (line.to, line.stage, line.source, line.what, line.nature)


def _differs() -> RemoteProtocolError:
    return RemoteProtocolError("STATEMENT_DIFFERS", "the parties' accounts of what was disclosed do not agree")
