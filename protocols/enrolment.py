"""Enrolment: the token that the lab prints, and the statement that ties an institution's two keys together.

The token carries the lab's address, a secret that is good once, and the fingerprint of the lab's certificate authority,
so that an institution knows the lab before it trusts a TLS connection to it. An institution signs one statement with
both its identity key (Ed25519) and its TLS key (EC P-256): neither can be enrolled by someone who holds only the other.

Source: docs/enrolment.md.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from protocols.errors import ContractViolationError, TransportError
from protocols.messages import SCHEMA_VERSION
from protocols.roles import COORDINATOR
from protocols.secure_channel import CHANNEL_VERSION

API_VERSION = 1
VERSION_HEADER = "Concordat-Version"
VERSIONS = f"{API_VERSION}.{SCHEMA_VERSION}.{CHANNEL_VERSION}"  # of the API, the messages and the channel
SIGNATURE_HEADER = "Concordat-Signature"

SECRET_BYTES = 32
FINGERPRINT_BYTES = 32
MAX_TOKEN_CHARACTERS = 600
_PREFIX = "concordat1"
_CHECK_BYTES = 4
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?):([0-9]{1,5})")
_STATEMENT_DOMAIN = b"concordat/enrolment/1\0"


@dataclass(frozen=True)
class EnrolmentToken:
    """What `concordat invite` prints. address: 'host:port'; secret, ca_fingerprint: 32 bytes.

    >>> token = EnrolmentToken("lab.example:8443", bytes(32), bytes(32))
    >>> EnrolmentToken.decode(token.encode()) == token
    True
    """

    address: str
    secret: bytes
    ca_fingerprint: bytes

    def encode(self) -> str:
        """One line of letters, digits, '.', '-' and '_'."""
        text = ".".join((_PREFIX, _text(self.address.encode()), _text(self.secret), _text(self.ca_fingerprint)))
        return f"{text}.{_text(_checksum(text))}"

    @classmethod
    def decode(cls, text: str) -> EnrolmentToken:
        """The token in `text`.

        Raises: TransportError: TOKEN_MALFORMED: not a token, or one that was cut or mistyped.
        """
        parts = text.split(".") if len(text) <= MAX_TOKEN_CHARACTERS and text.isascii() else []
        if len(parts) != 5 or parts[0] != _PREFIX:
            raise _malformed()
        try:
            address, secret, fingerprint, checksum = (_bytes(part) for part in parts[1:])
            token = cls(address.decode("ascii"), secret, fingerprint)
        except ValueError as error:
            raise _malformed() from error
        if checksum != _checksum(text.rpartition(".")[0]) or token.encode() != text:
            raise _malformed()
        if len(secret) != SECRET_BYTES or len(fingerprint) != FINGERPRINT_BYTES or not is_address(token.address):
            raise _malformed()
        return token

    def hash(self) -> str:
        """SHA-256 of the token's text in hex: all that the lab keeps of it."""
        return hashlib.sha256(self.encode().encode()).hexdigest()


def is_address(address: str) -> bool:
    """Whether `address` is 'host:port', an IPv6 host in brackets.

    >>> is_address("lab.example:8443"), is_address("[::1]:8443"), is_address("lab.example"), is_address("lab:99999")
    (True, True, False, False)
    """
    match = _ADDRESS.fullmatch(address)
    return match is not None and 0 < int(match[3]) < 65536


def host_of(address: str) -> str:
    """The host in 'host:port', without brackets."""
    return address.rpartition(":")[0].strip("[]")


def check_name(name: str) -> str:
    """`name`, if an institution can be called that.

    Raises: ContractViolationError: NAME_INVALID.
    """
    if not _NAME.fullmatch(name) or name == COORDINATOR:
        raise ContractViolationError(
            "NAME_INVALID",
            "a name is a small letter followed by at most 31 of a-z, 0-9, '_' and '-', and not 'coordinator'",
            "choose another name",
        )
    return name


def enrolment_statement(name: str, identity: bytes, tls_key: bytes, ca_fingerprint: bytes) -> bytes:
    """The bytes that both keys of an institution sign.

    Args: identity: raw Ed25519 public key, 32 bytes; tls_key: the TLS public key as DER SubjectPublicKeyInfo;
        ca_fingerprint: of the lab's authority, so that a statement made for one lab is worth nothing at another.
    """
    parts = (name.encode(), identity, tls_key, ca_fingerprint)
    return _STATEMENT_DOMAIN + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _checksum(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:_CHECK_BYTES]


def _malformed() -> TransportError:
    return TransportError(
        "TOKEN_MALFORMED", "this is not a token of `concordat invite`, or a part of it is missing", "copy all of it"
    )
