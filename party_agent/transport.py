"""A party's channel: one outbound gRPC stream to the relay, end-to-end encrypted links to every other member.

The relay is told apart by its certificate, the peers by the identities that the contract pins; the relay's word on who
a peer is counts for nothing. One thread reads the stream for as long as it lives, so that an abort is seen while the
party waits, and at its next send or receive while it computes.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from protocols.envelope import MAX_FRAME_BYTES, FrameQueue
from protocols.errors import ConcordatError, DataError, TransportError
from protocols.linked_channel import MAX_HELD_BYTES, SEND_QUEUE_BYTES, LinkedChannel
from protocols.secure_channel import Links, LinkTerms
from protocols.sharing import Entropy

METHOD = "/concordat.v1.Relay/Frames"
FLUSH_TIMEOUT_S = 30.0
RETRY_S = 0.2
KEEPALIVE_MS = 20_000

_REFUSALS = {
    "JOB_UNKNOWN": "the relay has no such job for this party",
    "ALREADY_CONNECTED": "another process of this party has its seat in the job",
    "MEMBER_REVOKED": "the lab has shut this institution out",
    "CERTIFICATE_SUPERSEDED": "a newer certificate of this institution has taken the place of this one",
    "CERTIFICATE_UNKNOWN": "the lab's register has no such certificate of this institution",
    "DATABASE_UNAVAILABLE": "the lab's database does not answer",
    "SENDER_REFUSED": "the relay refused a frame that does not fit this party's certificate",
}


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the authority that signs the relay's certificate, this party's certificate and its key."""

    ca: Path
    certificate: Path
    key: Path


class RelayChannel(LinkedChannel):
    """`protocols.session.Channel` over the relay. Returns once the relay has given this party its seat; the peers are
    waited for at the first `send` or `receive`, or in `wait_for_peers`.

    Args: address: 'host:port'; tls: certificates; me: this party's name, the common name of its certificate; identity:
        this party's key; peers: pinned identity keys of all other members, 'coordinator' among them; contract_hash: 32
        bytes; job, attempt: from the job document; roles: of every member, by name; connect_timeout_s: for the relay
        and all peers; receive_timeout_s: the longest silence of a peer that is waited for.
    Raises: TransportError: RELAY_UNREACHABLE, CERTIFICATE_REJECTED, JOB_UNKNOWN, ALREADY_CONNECTED.
    """

    def __init__(
        self,
        address: str,
        tls: TlsFiles,
        *,
        me: str,
        identity: Ed25519PrivateKey,
        peers: Mapping[str, Ed25519PublicKey],
        contract_hash: bytes,
        job: str,
        roles: Mapping[str, str],
        attempt: int = 1,
        connect_timeout_s: float = 60.0,
        receive_timeout_s: float = 600.0,
        max_held_bytes: int = MAX_HELD_BYTES,
        entropy: Entropy = os.urandom,
    ) -> None:
        links = Links(LinkTerms(me, job, attempt, contract_hash, roles, identity, peers), entropy)
        outbound = FrameQueue(SEND_QUEUE_BYTES)
        super().__init__(
            links,
            outbound,
            time.monotonic,
            connect_timeout_s=connect_timeout_s,
            receive_timeout_s=receive_timeout_s,
            max_held_bytes=max_held_bytes,
        )
        _check_name(tls, me)
        _check_relay(address, tls, self._connect_deadline)
        self._channel = grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(tls.ca.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()),
            options=[
                ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
                ("grpc.max_send_message_length", MAX_FRAME_BYTES),
                ("grpc.enable_http_proxy", 0),
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_MS // 2),
            ],
        )
        outbound.put(links.join(), urgent=True)
        self._call = self._channel.stream_stream(METHOD)(iter(outbound))
        self._reader = threading.Thread(target=self._read, name=f"relay-read-{job}", daemon=True)
        self._reader.start()
        try:
            self._wait_for_seat()
        except ConcordatError:
            self.close()
            raise

    def close(self) -> None:
        """Send what is queued, take leave of the relay and wait until it has taken all of it."""
        super().close()
        self._reader.join(FLUSH_TIMEOUT_S)
        self._call.cancel()
        self._reader.join(FLUSH_TIMEOUT_S)
        self._channel.close()

    def _wait_for_seat(self) -> None:
        with self._state:
            while not self._links.seated:
                self._links.check()
                remaining = self._connect_deadline - time.monotonic()
                if remaining <= 0 or self._outbound.closed:
                    raise _unreachable()
                self._state.wait(min(remaining, RETRY_S))

    def _read(self) -> None:
        try:
            for frame in self._call:
                self.deliver(frame)
        except grpc.RpcError as error:
            self._refused(error)
        self.ended(_unreachable())

    def _refused(self, error: Any) -> None:
        code = error.details() if error.code() is grpc.StatusCode.PERMISSION_DENIED else ""
        if code in _REFUSALS:
            with self._state:
                self._links.fail(
                    TransportError(code, _REFUSALS[code], "compare job, name and certificate with the lab")
                )
                self._state.notify_all()


def load_identity(path: Path) -> Ed25519PrivateKey:
    """The identity key in a PKCS #8 PEM file.

    Raises: DataError: IDENTITY_UNREADABLE.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _identity_unreadable() from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _identity_unreadable()
    return key


def _check_name(tls: TlsFiles, me: str) -> None:
    """A certificate of another name would be refused later, and less clearly."""
    try:
        certificate = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise _rejected("this party's certificate cannot be read") from error
    names = [item.value for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [me]:
        raise _rejected("this party's certificate is made out to another name")


def _check_relay(address: str, tls: TlsFiles, deadline: float) -> None:
    """Try TLS with the relay once, retrying while it cannot be reached.

    gRPC reports a refused certificate and a closed port alike; a plain TLS connection tells them apart. In TLS 1.3 the
    server judges the client's certificate after the client's handshake is done, hence the wait for its first byte (a
    gRPC server speaks first).
    """
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        context.load_cert_chain(tls.certificate, tls.key)
        context.set_alpn_protocols(["h2"])
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise _rejected("this party's certificate, key or authority cannot be used") from error
    while (remaining := deadline - time.monotonic()) > 0:
        try:
            with (
                socket.create_connection((host.strip("[]"), int(port)), timeout=remaining) as raw,
                context.wrap_socket(raw, server_hostname=host.strip("[]")) as secured,
            ):
                if secured.recv(1):
                    return
                raise _rejected("the relay closed the connection when it saw this party's certificate")
        except ssl.SSLCertVerificationError as error:
            raise _rejected("the relay's certificate is not signed by the authority this party trusts") from error
        except ssl.SSLError as error:
            raise _rejected("the relay did not accept this party's certificate") from error
        except ConnectionResetError as error:
            raise _rejected("the relay did not accept this party's certificate") from error
        except OSError:
            time.sleep(min(RETRY_S, remaining))
        except ValueError as error:
            raise _unreachable() from error
    raise _unreachable()


def _rejected(sentence: str) -> TransportError:
    return TransportError(
        "CERTIFICATE_REJECTED", sentence, "obtain certificates of one authority, made out to the names in the contract"
    )


def _unreachable() -> TransportError:
    return TransportError(
        "RELAY_UNREACHABLE",
        "the relay cannot be reached, or the connection to it ended",
        "check that the coordinator runs and that its address and port can be reached",
    )


def _identity_unreadable() -> DataError:
    return DataError("IDENTITY_UNREADABLE", "the identity key cannot be read", "make a new identity and have it pinned")
