"""Heads of audit logs shown to the other parties, and what they showed: after each job, each signature, and daily.

The lab carries notices and receipts and can only hold them back. What is due, sent and seen is kept in `heads/`, a file
a peer: `due/NAME` may be made by any process of the institution, everything else is the daemon's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from party_agent.store import Folder
from protocols.audit import AuditLog, Receipt
from protocols.audit_exchange import HeadNotice
from protocols.audit_files import ReceiptFile
from protocols.errors import ConcordatError, RemoteProtocolError

HEAD, RECEIPT = "head", "receipt"
HOURLY_S = 3_600
DAILY_S = 86_400
OVERDUE_S = 86_400  # no receipt for so long after a head was sent
SILENT_S = 2 * DAILY_S  # no head from a peer for so long


class HeadPort(Protocol):
    """What the exchange asks of the lab; `RestClient` is one."""

    def send_head(self, to: str, kind: str, document: str) -> None:
        """Deliver a notice or a receipt to the agent of `to`."""


class Pinned(Protocol):
    """Identity keys that were compared out of band; `PeerBook` is one."""

    def pinned(self, name: str) -> Ed25519PublicKey:
        """The key of `name`, or ContractViolationError."""


class HeadExchange:
    """Args: me: this institution's name; key: its identity; clock: Unix seconds."""

    def __init__(
        self,
        folder: Path,
        me: str,
        key: Ed25519PrivateKey,
        audit: AuditLog,
        peers: Pinned,
        lab: HeadPort,
        clock: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._root = folder / "heads"
        self._me = me
        self._key = key
        self._audit = audit
        self._peers = peers
        self._lab = lab
        self._clock = clock
        self._looked = 0

    def show_to(self, names: Iterable[str]) -> None:
        """Have our head shown to these parties with the daemon's next round."""
        for name in names:
            if name != self._me:
                Folder(self._root / "due").write(name, b"")

    def send_due(self, partners: Callable[[], Iterable[str]], refused: Callable[[str], None]) -> None:
        """Show our head to whom it is due, and to every partner that has not seen one today.

        Args: partners: members of contracts in force, looked up once an hour; refused: told the code when a head could
            not be sent for a reason that waiting does not mend.
        Raises: TransportError: LAB_UNREACHABLE; what is due stays so.
        """
        now = int(self._clock())
        if now - self._looked >= HOURLY_S:
            self._looked = now
            self.show_to(name for name in partners() if now - _number(self._read("sent", name), "at") >= DAILY_S)
        due = self._root / "due"
        for path in sorted(due.glob("[a-z]*")) if due.is_dir() else ():
            try:
                self._send(path, now)
            except ConcordatError as error:
                if error.code == "LAB_UNREACHABLE":
                    self.show_to((path.name,))
                    raise
                refused(error.code)

    def take(self, kind: str, data: bytes) -> None:
        """A notice or a receipt that has come.

        Raises: RemoteProtocolError: AUDIT_NOTICE_INVALID, AUDIT_NOTICE_STALE, AUDIT_HEAD_INVALID; AUDIT_ROLLED_BACK,
            which is in the audit log then. ContractViolationError: the peer is not verified. TransportError: the
            receipt did not go out.
        """
        if kind == RECEIPT:
            self._take_receipt(Receipt.decode(data))
            return
        notice = HeadNotice.decode(data)
        identity = self._peers.pinned(notice.owner)
        notice.verify(self._me, identity)
        if notice.issued_ms < _number(self._read("seen", notice.owner), "issued_ms"):
            raise RemoteProtocolError(
                "AUDIT_NOTICE_STALE", "a head of an audit log came after a later one of the same party"
            )
        Folder(self._root / "seen").write_json(notice.owner, {"issued_ms": notice.issued_ms, "at": int(self._clock())})
        receipt = self._audit.receive_head(notice.owner, notice.head, identity)
        self._lab.send_head(notice.owner, RECEIPT, receipt.encode().decode())

    def _take_receipt(self, receipt: Receipt) -> None:
        if not receipt.is_of(self._peers.pinned(receipt.peer), self._key.public_key()):
            raise RemoteProtocolError("AUDIT_HEAD_INVALID", "a receipt is not of the party that it names")
        receipts = ReceiptFile(self._folder)
        if receipt not in receipts.all():
            receipts.add(receipt)
        sent = self._read("sent", receipt.peer)
        if sent and receipt.head.sequence >= _number(sent, "open_sequence"):
            Folder(self._root / "sent").write_json(receipt.peer, {"at": _number(sent, "at")})

    def _send(self, path: Path, now: int) -> None:
        """The note that a receipt is owed comes first: a head that never arrives shows all the same."""
        name, sent = path.name, self._read("sent", path.name)
        head = self._audit.head()
        first = {"open_sequence": head.sequence, "open_since": now}
        owed = {key: _number(sent, key) for key in first} if "open_since" in sent else first
        Folder(self._root / "sent").write_json(name, {"at": now, **owed})
        path.unlink(missing_ok=True)
        self._peers.pinned(name)
        notice = HeadNotice.sign(self._me, name, int(self._clock() * 1000), head, self._key)
        self._lab.send_head(name, HEAD, notice.encode().decode())

    def _read(self, kind: str, name: str) -> dict[str, Any]:
        return _json(self._root / kind / name)


def exchange_warnings(folder: Path, now: int) -> list[str]:
    """What an exchange that is held back, or a peer that is silent, shows: sentences for `audit verify`."""
    root, found = folder / "heads", []
    for path in sorted((root / "sent").glob("[a-z]*")):
        sent = _json(path)
        since = _number(sent, "open_since")
        if since and now - since > OVERDUE_S:
            found.append(
                f"{path.name} has given no receipt for entry {_number(sent, 'open_sequence')} or a later one since "
                f"{_day(since)}: its agent is down, it refuses, or the lab holds messages back; ask by telephone"
            )
    for path in sorted((root / "seen").glob("[a-z]*")):
        seen = _number(_json(path), "at")
        if seen and now - seen > SILENT_S:
            found.append(f"no head of the log of {path.name} has come since {_day(seen)}; ask by telephone")
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _number(document: dict[str, Any], key: str) -> int:
    value = document.get(key, 0)
    return value if type(value) is int else 0


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
