"""Heads of audit logs on their way between parties, through a lab that nobody has to believe.

The owner signs head, receiver and instant together. The lab cannot alter a notice, show it to another party, or pass
an old one off as new: of two notices of one owner the later one counts, and only a later one that is behind is held
against its owner. What the lab can do is to hold notices or receipts back, and that shows: the sender has no receipt,
the receiver no head (docs/audit.md).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.audit import Head, Text
from protocols.errors import RemoteProtocolError

MAX_NOTICE_BYTES = 2048
_DOMAIN = b"concordat/audit-notice/1\0"
_NAME = re.compile(Text.NAME.value)
_HEX = re.compile(Text.SIGNATURE.value)
_LARGEST = (1 << 53) - 1


@dataclass(frozen=True)
class HeadNotice:
    """The head of the log of `owner`, shown to `receiver`. issued_ms: Unix milliseconds of the owner's clock."""

    owner: str
    receiver: str
    issued_ms: int
    head: Head
    signature: str

    @classmethod
    def sign(cls, owner: str, receiver: str, issued_ms: int, head: Head, key: Ed25519PrivateKey) -> HeadNotice:
        """A notice by the holder of `key`."""
        return cls(owner, receiver, issued_ms, head, key.sign(_signed(owner, receiver, issued_ms, head)).hex())

    def verify(self, receiver: str, identity: Ed25519PublicKey) -> None:
        """Raise unless the owner of `identity` made this notice for `receiver`.

        Raises: RemoteProtocolError: AUDIT_NOTICE_INVALID.
        """
        try:
            signed = _signed(self.owner, self.receiver, self.issued_ms, self.head)
            identity.verify(bytes.fromhex(self.signature), signed)
        except InvalidSignature as error:
            raise _invalid() from error
        if self.receiver != receiver:
            raise _invalid()

    def encode(self) -> bytes:
        """The bytes to send."""
        return _canonical(
            {
                "head": self.head.encode().decode(),
                "issued_ms": self.issued_ms,
                "owner": self.owner,
                "receiver": self.receiver,
                "signature": self.signature,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> HeadNotice:
        """The notice in `data`.

        Raises: RemoteProtocolError: AUDIT_NOTICE_INVALID, AUDIT_HEAD_INVALID.
        """
        try:
            record = json.loads(data.decode("ascii")) if len(data) <= MAX_NOTICE_BYTES else None
        except (ValueError, RecursionError) as error:
            raise _invalid() from error
        if not isinstance(record, dict) or set(record) != {"head", "issued_ms", "owner", "receiver", "signature"}:
            raise _invalid()
        issued_ms = record["issued_ms"]
        if type(issued_ms) is not int or not 0 <= issued_ms <= _LARGEST:
            raise _invalid()
        forms = {"head": None, "owner": _NAME, "receiver": _NAME, "signature": _HEX}
        for name, form in forms.items():
            if not isinstance(record[name], str) or (form is not None and not form.fullmatch(record[name])):
                raise _invalid()
        if not record["head"].isascii() or _canonical(record) != data:
            raise _invalid()
        head = Head.decode(record["head"].encode())
        return cls(record["owner"], record["receiver"], issued_ms, head, record["signature"])


def _signed(owner: str, receiver: str, issued_ms: int, head: Head) -> bytes:
    head_text = head.encode().decode()
    return _DOMAIN + _canonical({"head": head_text, "issued_ms": issued_ms, "owner": owner, "receiver": receiver})


def _canonical(value: dict[str, str | int]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _invalid() -> RemoteProtocolError:
    return RemoteProtocolError(
        "AUDIT_NOTICE_INVALID", "a head of an audit log did not come from its owner, or was for another party"
    )
