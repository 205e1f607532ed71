"""One HTTP request, signed by the institution that sends it: who asks, for what, with which body, when, and only once.

    Concordat-Signature: v1 name=bank,time=1800000000,nonce=<32 hex>,signature=<128 hex>

The Ed25519 signature is over `"concordat/request/1" 0x00` and six lines, each ended by one newline: method, target
(path and query exactly as sent), SHA-256 of the body in hex, name, time, nonce. No line can hold a newline, so there is
one way to read them. The server knows the keys of its members, refuses clocks more than five minutes apart, and spends
each nonce once: last of all, so that nobody but the member itself can use up its nonces.

Source: issue 3, REST; docs/audit.md has the known answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.errors import LocalProtocolError, RemoteProtocolError, TransportError

HEADER_NAME = "Concordat-Signature"
CLOCK_SKEW_S = 300
NONCE_BYTES = 16
MAX_TARGET = 4096  # characters of path and query

_DOMAIN = b"concordat/request/1\0"
_METHOD = re.compile(r"[A-Z]{1,16}")
_TARGET = re.compile(rf"/[!-~]{{0,{MAX_TARGET - 1}}}")
_NAME = r"[a-z][a-z0-9_-]{0,31}"
_HEADER = re.compile(
    rf"v1 name=({_NAME}),time=(0|[1-9][0-9]{{0,11}}),nonce=([0-9a-f]{{32}}),signature=([0-9a-f]{{128}})"
)
_MAX_HEADER = 256
_NOBODY = Ed25519PublicKey.from_public_bytes(  # RFC 8032, 7.1, test 1: verified against for a name that has no key
    bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
)
_LARGEST_TIME = 10**12 - 1


class RequestNonces(Protocol):
    """The server's list of the nonces it has seen; it must outlive a restart of the server."""

    def spend(self, name: str, nonce: str, expires: int) -> bool:
        """Mark `nonce` of `name` as used before returning; False if it was. It may be forgotten after `expires`.

        Here, where the signature is known to be the member's, a server may also refuse a member that it has shut out.
        """


def sign_request(
    key: Ed25519PrivateKey, name: str, method: str, target: str, body: bytes, now: int, nonce: bytes
) -> str:
    """The value of the header `HEADER_NAME` for one request.

    Args:
        name: the institution's name in the lab. target: path and query, percent-encoded, as they go over the wire.
        now: Unix seconds. nonce: 16 fresh random bytes.

    Raises: LocalProtocolError: REQUEST_INVALID: a part of the request has no form that can be signed.
    """
    well_formed = re.fullmatch(_NAME, name) and _METHOD.fullmatch(method) and _TARGET.fullmatch(target)
    if not well_formed or len(nonce) != NONCE_BYTES or not 0 <= now <= _LARGEST_TIME:
        raise LocalProtocolError("REQUEST_INVALID", "method, target, name, time or nonce cannot be signed as they are")
    signature = key.sign(_signed_bytes(method, target, body, name, str(now), nonce.hex()))
    return f"v1 name={name},time={now},nonce={nonce.hex()},signature={signature.hex()}"


def verify_request(
    header: str,
    method: str,
    target: str,
    body: bytes,
    now: int,
    key_of: Callable[[str], Ed25519PublicKey | None],
    nonces: RequestNonces,
) -> str:
    """The name of the institution that signed this very request, now and for the first time.

    Who cannot sign learns nothing of who is a member: a name that is none is answered as a wrong signature is, after a
    verification that takes as long. What the server may log is the cause, MEMBER_UNKNOWN.

    Args:
        now: Unix seconds of the server. key_of: the pinned identity key of a member, None for a name that is none.

    Raises:
        RemoteProtocolError: SIGNATURE_INVALID: not a signature of a member of this name over this request;
            REQUEST_REPLAYED.
        TransportError: CLOCK_SKEW: signed more than five minutes from `now`; what `nonces` raises.
    """
    match = _HEADER.fullmatch(header) if len(header) <= _MAX_HEADER else None
    if match is None or not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
        raise _signature_invalid()
    name, time, nonce, signature = match.groups()
    key = key_of(name)
    try:
        (key or _NOBODY).verify(bytes.fromhex(signature), _signed_bytes(method, target, body, name, time, nonce))
        cause: Exception | None = None
    except InvalidSignature as error:
        cause = error
    if key is None:
        cause = TransportError("MEMBER_UNKNOWN", "no enrolled institution has this name", "see `concordat members`")
    if cause is not None:
        raise _signature_invalid() from cause
    signed_at = int(time)
    if abs(now - signed_at) > CLOCK_SKEW_S:
        raise TransportError(
            "CLOCK_SKEW",
            "the clocks of the institution and of the lab are more than five minutes apart",
            "set both clocks by NTP, then try again",
        )
    if not nonces.spend(name, nonce, signed_at + CLOCK_SKEW_S):
        raise RemoteProtocolError(
            "REQUEST_REPLAYED", "this very request was received before", "sign every request afresh, retries too"
        )
    return name


def _signed_bytes(method: str, target: str, body: bytes, name: str, time: str, nonce: str) -> bytes:
    lines = (method, target, hashlib.sha256(body).hexdigest(), name, time, nonce)
    return _DOMAIN + "".join(f"{line}\n" for line in lines).encode("ascii")


def _signature_invalid() -> RemoteProtocolError:
    return RemoteProtocolError(
        "SIGNATURE_INVALID",
        "the request is not signed by a member of the name it gives, or it was altered on the way",
        "check the name in the settings; compare the identity key's fingerprint with the one the lab has enrolled",
    )
