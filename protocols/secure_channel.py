"""End-to-end encryption between two parties of a job, over a relay that neither trusts.

Source: PROTOCOLS.md section 7; docs/protocols/channels.md. `Handshake` and `SecureLink` are one link; `Links` is all of
one party's links as a machine over frames: frames that arrived go in, frames to send come out. Nothing here waits or
touches a socket: `protocols.linked_channel` adds the waiting, `party_agent.transport` and `coordinator.endpoint` the
pipe.

A frame's failure is one generic error, FRAME_REJECTED, whatever was wrong with it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.envelope import (
    BETWEEN_PARTIES,
    CHUNK_BYTES,
    RELAY,
    Envelope,
    Kind,
    check_code,
    decode_frame,
    encode_frame,
    frame_rejected,
    parse_code,
)
from protocols.errors import ConcordatError, LocalProtocolError, PeerAbortedError, RemoteProtocolError, TransportError
from protocols.messages import SCHEMA_VERSION
from protocols.sharing import Entropy

CHANNEL_VERSION = 1

_DOMAIN = b"concordat/link/1"
_VERSIONS = bytes((CHANNEL_VERSION, SCHEMA_VERSION))
_SHARE_BYTES = 32
_TAG_BYTES = 16
_MOST_FRAMES = 1 << 32  # under one key; NIST SP 800-38D allows this many with 96-bit nonces
_HEADER = struct.Struct(">BQ")  # last-frame flag, length of the whole message


@dataclass(frozen=True)
class LinkTerms:
    """What one party brings to its links, and what both ends of a link must agree on.

    contract_hash: 32 bytes; roles: of every member, by name; identity: this party's signing key; peers: the identity
    keys of the others, pinned from the contract, never taken from the network.
    """

    me: str
    job: str
    attempt: int
    contract_hash: bytes
    roles: Mapping[str, str]
    identity: Ed25519PrivateKey
    peers: Mapping[str, Ed25519PublicKey]

    def __post_init__(self) -> None:
        names = {self.me, *self.peers}
        if self.me in self.peers or not names <= set(self.roles) or len(self.contract_hash) != 32 or self.attempt < 1:
            raise LocalProtocolError("TERMS_INVALID", "a link needs the roles and identities of two different members")

    def context(self) -> bytes:
        """Contract, job and attempt, encoded so that no two contexts share their bytes."""
        return _VERSIONS + _fields(self.contract_hash, self.job.encode(), self.attempt.to_bytes(8, "big"))


class Handshake:
    """One end of a fresh key exchange: share out, share in, proof out, proof in, link.

    Both shares are signed by both ends together with contract, job, attempt, names, roles and identities, so that a
    share cannot be used again, in another job, by another party or in another role. The first sealed frame confirms the
    key.

    Args: terms: this party's; peer: the other end's name; entropy: source of the ephemeral key.
    Source: the signed Diffie-Hellman of ISO/IEC 11770-3 key agreement 7, without encrypted identities.
    """

    def __init__(self, terms: LinkTerms, peer: str, entropy: Entropy) -> None:
        self._terms = terms
        self._peer = peer
        self._private = X25519PrivateKey.from_private_bytes(entropy(_SHARE_BYTES))
        self._share = self._private.public_key().public_bytes_raw()
        self._peer_share: bytes | None = None

    def hello(self) -> bytes:
        """The first message: versions and share."""
        return _VERSIONS + self._share

    def on_hello(self, hello: bytes) -> bytes:
        """The proof that answers the peer's first message.

        Raises: RemoteProtocolError: VERSION_MISMATCH: the peer speaks another version; FRAME_REJECTED.
        """
        if len(hello) != len(_VERSIONS) + _SHARE_BYTES or self._peer_share is not None:
            raise frame_rejected()
        if hello[: len(_VERSIONS)] != _VERSIONS:
            raise RemoteProtocolError(
                "VERSION_MISMATCH", f"{self._peer} runs another version of the protocol", "install the same version"
            )
        self._peer_share = hello[len(_VERSIONS) :]
        if self._peer_share == self._share:
            raise frame_rejected()
        return self._terms.identity.sign(self._claim(self._terms.me))

    def on_proof(self, proof: bytes) -> SecureLink:
        """The link, if the peer's proof is by the identity that the contract names for it.

        Raises: RemoteProtocolError: HANDSHAKE_REJECTED: another key, contract, job, attempt, role or share.
        """
        if self._peer_share is None:
            raise frame_rejected()
        try:
            self._terms.peers[self._peer].verify(proof, self._claim(self._peer))
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(self._peer_share))
        except (InvalidSignature, ValueError) as error:  # ValueError: a share of small order
            raise RemoteProtocolError(
                "HANDSHAKE_REJECTED",
                f"{self._peer} does not prove the identity, contract and job that were agreed",
                "compare contract hash and identity fingerprints with the peer by telephone",
            ) from error
        salt = hashlib.sha256(self._transcript()).digest()
        return SecureLink(self._terms, self._peer, _Directions(secret, salt, self._terms.me, self._peer))

    def _claim(self, signer: str) -> bytes:
        return _DOMAIN + b"/proof\0" + _fields(signer.encode()) + self._transcript()

    def _transcript(self) -> bytes:
        """What both ends must have seen alike; the ends in the order of their names."""
        terms = self._terms
        ends = {
            terms.me: (terms.identity.public_key(), self._share),
            self._peer: (terms.peers[self._peer], self._peer_share or b""),
        }
        parts = []
        for name in sorted(ends):
            key, share = ends[name]
            parts += [name.encode(), terms.roles[name].encode(), key.public_bytes_raw(), share]
        return _DOMAIN + terms.context() + _fields(*parts)


class _Directions:
    """The four keys of a link: data and abort, out and in. HKDF-SHA256 over the secret, salted by the transcript."""

    def __init__(self, secret: bytes, salt: bytes, me: str, peer: str) -> None:
        def cipher(sender: str, receiver: str, purpose: bytes) -> AESGCM:
            info = _DOMAIN + b"/key\0" + _fields(sender.encode(), receiver.encode(), purpose)
            return AESGCM(HKDF(SHA256(), 32, salt, info).derive(secret))

        self.data_out, self.data_in = cipher(me, peer, b"data"), cipher(peer, me, b"data")
        self.abort_out, self.abort_in = cipher(me, peer, b"abort"), cipher(peer, me, b"abort")


@dataclass(frozen=True)
class Opened:
    """One chunk as its sender sealed it: is it the last, and how long is the whole message (bytes)."""

    chunk: bytes
    last: bool
    total: int


class SecureLink:
    """Sealing to and opening from one peer. The nonce is the frame counter, from 0, in each direction.

    Associated data: versions, contract hash, job, attempt, sender, receiver, stage, step, frame counter, last-frame
    flag, length of the message. An abort has a key and a counter of its own, so that it can overtake.
    """

    def __init__(self, terms: LinkTerms, peer: str, keys: _Directions) -> None:
        self._keys = keys
        me, other = terms.me.encode(), peer.encode()
        self._out = terms.context() + _fields(me, other)
        self._in = terms.context() + _fields(other, me)
        self._sent = 0
        self._received = 0
        self._abort_sent = False

    def seal(self, stage: str, step: str, chunk: bytes | memoryview, last: bool, total: int) -> tuple[bytes, bytes]:
        """The next frame: header and ciphertext, to be sent one after the other."""
        if self._sent >= _MOST_FRAMES:
            raise LocalProtocolError("LINK_SPENT", "a link has sealed as many frames as its key allows")
        header = _HEADER.pack(last, total)
        sealed = self._keys.data_out.encrypt(
            _nonce(self._sent), chunk, _associated(self._out, stage, step, self._sent, header)
        )
        self._sent += 1
        return header, sealed

    def open(self, stage: str, step: str, frame: bytes | memoryview) -> Opened:
        """The next chunk, which must belong to this stage and step.

        Raises: RemoteProtocolError: FRAME_REJECTED: not the next frame of the peer, whole and unaltered.
        """
        if len(frame) < _HEADER.size + _TAG_BYTES or self._received >= _MOST_FRAMES:
            raise frame_rejected()
        header = bytes(frame[: _HEADER.size])
        flag, total = _HEADER.unpack(header)
        try:
            chunk = self._keys.data_in.decrypt(
                _nonce(self._received),
                frame[_HEADER.size :],
                _associated(self._in, stage, step, self._received, header),
            )
        except InvalidTag as error:
            raise frame_rejected() from error
        self._received += 1
        return Opened(chunk, flag == 1, total)

    def seal_message(self, stage: str, step: str, payload: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The frames of a whole message, in chunks of `CHUNK_BYTES`; an empty message is one empty chunk."""
        view, total = memoryview(payload), len(payload)
        for at in range(0, max(total, 1), CHUNK_BYTES):
            yield self.seal(stage, step, view[at : at + CHUNK_BYTES], at + CHUNK_BYTES >= total, total)

    def seal_abort(self, code: str) -> bytes | None:
        """The one abort this link can carry; None the second time."""
        text = check_code(code).encode()
        if self._abort_sent:
            return None
        self._abort_sent = True
        return self._keys.abort_out.encrypt(_nonce(0), text, self._out)

    def open_abort(self, payload: bytes | memoryview) -> str:
        """The code in the peer's abort.

        Raises: RemoteProtocolError: FRAME_REJECTED.
        """
        try:
            return parse_code(self._keys.abort_in.decrypt(_nonce(0), payload, self._in))
        except InvalidTag as error:
            raise frame_rejected() from error


class Reassembly:
    """Puts the chunks of one message together; the limit is checked on the first one, before anything is kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._length = 0
        self._total = -1

    def add(self, opened: Opened) -> bytes | None:
        """The message, if `opened` was its last chunk.

        Raises: RemoteProtocolError: FRAME_REJECTED: longer than allowed, or not as long as announced.
        """
        if self._total < 0:
            self._total = opened.total
        self._length += len(opened.chunk)
        due = min(CHUNK_BYTES, self._total - self._length + len(opened.chunk))
        if (
            self._total > self._max_bytes
            or opened.total != self._total
            or len(opened.chunk) != due
            or opened.last != (self._length == self._total)
        ):
            raise frame_rejected()
        self._chunks.append(opened.chunk)
        return b"".join(self._chunks) if opened.last else None


class Links:
    """One party's links with all its peers, and what it knows of the others' presence. Not safe for threads.

    A failure is kept, not raised, when a frame arrives (`arrived` never raises on what a peer or the relay did); it is
    raised at the next `check` or `take`. The first one stays.
    """

    def __init__(self, terms: LinkTerms, entropy: Entropy) -> None:
        self.terms = terms
        self.failure: ConcordatError | None = None
        self.settled: str | None = None
        self.seated = False
        self.held_bytes = 0
        self.opened_frames = 0
        self._entropy = entropy
        self._handshakes: dict[str, Handshake] = {}
        self._links: dict[str, SecureLink] = {}
        self._inboxes: dict[str, deque[memoryview]] = {name: deque() for name in terms.peers}
        self._messages: dict[str, Reassembly] = {}
        self._left: set[str] = set()
        self._ended: ConcordatError | None = None

    # -- what arrives

    def arrived(self, frame: bytes) -> list[bytes]:
        """Take one frame from the pipe; the frames to send in answer."""
        try:
            envelope = decode_frame(frame)
            if envelope.job != self.terms.job or envelope.receiver != self.terms.me:
                raise frame_rejected()
            if envelope.sender == RELAY:
                return self._from_relay(envelope)
            if envelope.sender not in self.terms.peers or envelope.kind not in BETWEEN_PARTIES:
                raise frame_rejected()
            return self._from_peer(envelope)
        except ConcordatError as error:
            self.fail(error)
            return []

    def fail(self, error: ConcordatError) -> None:
        """End all links with `error`, unless they ended before."""
        self.failure = self.failure or error

    def end(self, error: ConcordatError) -> None:
        """The pipe ended: nothing more will arrive. What has arrived may still be taken; then `error` is raised."""
        self._ended = self._ended or error

    def _from_relay(self, envelope: Envelope) -> list[bytes]:
        if envelope.kind is Kind.ABORT:
            code = parse_code(envelope.payload)
            self.settled = self.settled or code
            raise _aborted(code)
        name = bytes(envelope.payload[:255]).decode("utf-8", "replace")
        if envelope.kind is Kind.JOINED and name == self.terms.me:
            self.seated = True
            return []
        if name not in self.terms.peers:
            raise frame_rejected()
        if envelope.kind is Kind.JOINED:
            return self._greet(name)
        if envelope.kind is Kind.LEFT:
            self._left.add(name)
            return []
        if envelope.kind is Kind.LOST:
            self.settled = self.settled or "PARTY_LOST"
            raise _lost(name)
        raise frame_rejected()

    def _from_peer(self, envelope: Envelope) -> list[bytes]:
        peer = envelope.sender
        if envelope.kind is Kind.HELLO:
            answers = self._greet(peer)
            proof = self._handshakes[peer].on_hello(bytes(envelope.payload))
            return [*answers, self._frame(Kind.PROOF, peer, proof)]
        if envelope.kind is Kind.PROOF:
            if peer in self._links or peer not in self._handshakes:
                raise frame_rejected()
            self._links[peer] = self._handshakes[peer].on_proof(bytes(envelope.payload))
            return []
        if peer not in self._links:
            raise frame_rejected()
        if envelope.kind is Kind.SEALED_ABORT:
            raise _aborted(self._links[peer].open_abort(envelope.payload))
        if self.failure is not None:  # nothing more will be read
            return []
        self._inboxes[peer].append(envelope.payload)
        self.held_bytes += len(envelope.payload)
        return []

    def _greet(self, peer: str) -> list[bytes]:
        """Our share, the first time the peer is heard of."""
        if peer in self._handshakes:
            return []
        self._handshakes[peer] = Handshake(self.terms, peer, self._entropy)
        return [self._frame(Kind.HELLO, peer, self._handshakes[peer].hello())]

    # -- what the party does

    def check(self) -> None:
        """Raise what ended the links, if anything did."""
        if self.failure is not None:
            raise self.failure

    def absent(self) -> tuple[str, ...]:
        """Peers that were never heard of, sorted."""
        return tuple(sorted(self.terms.peers.keys() - self._handshakes.keys()))

    def unlinked(self) -> tuple[str, ...]:
        """Peers without a finished handshake, sorted; the absent ones among them.

        Raises: TransportError: the pipe ended or a peer left before its handshake was finished.
        """
        missing = tuple(sorted(self.terms.peers.keys() - self._links.keys()))
        gone = [name for name in missing if name in self._left]
        if gone:
            raise _lost(gone[0])
        if missing and self._ended is not None:
            raise self._ended
        return missing

    def outgoing(self, to: str, stage: str, step: str, data: bytes) -> Iterator[bytes]:
        """The frames that carry `data`, sealed as they are taken.

        Raises: TransportError: PARTY_LOST: the peer has left. LocalProtocolError: no such link.
        """
        link = self._link(to)
        for header, sealed in link.seal_message(stage, step, data):
            if to in self._left:
                raise _lost(to)
            if self._ended is not None:
                raise self._ended
            yield self._frame(Kind.DATA, to, header, sealed)

    def take(self, sender: str, stage: str, step: str, max_bytes: int) -> bytes | None:
        """The next message of `sender`, or None while it is not complete.

        Raises: RemoteProtocolError: FRAME_REJECTED. PeerAbortedError. TransportError: PARTY_LOST and others.
        """
        self.check()
        link, inbox = self._link(sender), self._inboxes[sender]
        while inbox:
            frame = inbox.popleft()
            self.held_bytes -= len(frame)
            self.opened_frames += 1
            try:
                message = self._messages.setdefault(sender, Reassembly(max_bytes))
                complete = message.add(link.open(stage, step, frame))
            except RemoteProtocolError as error:
                self.fail(error)
                raise
            if complete is not None:
                del self._messages[sender]
                return complete
        if sender in self._left:
            raise _lost(sender)
        if self._ended is not None:
            raise self._ended
        return None

    def abort(self, code: str) -> list[bytes]:
        """The frames that end the job with `code`: to the relay, then sealed to every linked peer."""
        frames = [self._frame(Kind.ABORT, RELAY, check_code(code).encode())]
        for peer, link in sorted(self._links.items()):
            sealed = link.seal_abort(code)
            if sealed is not None:
                frames.append(self._frame(Kind.SEALED_ABORT, peer, sealed))
        return frames

    def join(self) -> bytes:
        """The first frame of a stream."""
        return self._frame(Kind.JOIN, RELAY)

    def leave(self) -> bytes:
        """The last frame of a stream."""
        return self._frame(Kind.LEAVE, RELAY)

    def _frame(self, kind: Kind, receiver: str, *payload: bytes) -> bytes:
        return encode_frame(kind, self.terms.job, self.terms.me, receiver, *payload)

    def _link(self, peer: str) -> SecureLink:
        try:
            return self._links[peer]
        except KeyError as error:
            raise LocalProtocolError("NO_LINK", "there is no link with a party of this name") from error


def _fields(*parts: bytes) -> bytes:
    """Length-prefixed concatenation: no two lists of parts have the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


def _associated(link: bytes, stage: str, step: str, counter: int, header: bytes) -> bytes:
    return link + _fields(stage.encode(), step.encode(), counter.to_bytes(8, "big"), header)


def _aborted(code: str) -> PeerAbortedError:
    return PeerAbortedError(code, "another party, or the coordinator, ended the job with this code", _SEE_PEER)


def _lost(name: str) -> TransportError:
    return TransportError(
        "PARTY_LOST", f"{name} left or lost its connection before the job was over", "see that party's log, then rerun"
    )


_SEE_PEER = "see the report of the party that raised it and docs/errors.md for this code"
