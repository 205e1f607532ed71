"""The envelope of a frame on the wire, and the bounded queue in which frames wait for their turn.

The relay and the parties share this file and nothing else. A frame is addressed by job, sender and receiver; the relay
reads the envelope only, and passes on the very bytes it was given.

    version 1 | kind 1 | length 1, job | length 1, sender | length 1, receiver | payload

A receiver of length 0 is the relay itself, a sender of length 0 likewise.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from protocols.errors import LocalProtocolError, RemoteProtocolError

ENVELOPE_VERSION = 1
RELAY = ""
CHUNK_BYTES = 1 << 20
MAX_FRAME_BYTES = CHUNK_BYTES + 4096  # a chunk, its tag, its envelope

_CODE = re.compile(r"[A-Z][A-Z0-9_]{2,47}")


class Kind(IntEnum):
    """What a frame is for."""

    JOIN = 1  # party to relay: take my seat in this job
    LEAVE = 2  # party to relay: I have sent my last frame
    ABORT = 3  # party to relay and relay to party: the job ends with the code in the payload
    JOINED = 4  # relay to party: the named party (payload) has a seat; the first one is the receiver's own
    LEFT = 5  # relay to party: the named party sent its last frame
    LOST = 6  # relay to party: the named party's stream broke
    HELLO = 7  # party to party: versions and key share
    PROOF = 8  # party to party: signature over the transcript
    DATA = 9  # party to party: one sealed chunk
    SEALED_ABORT = 10  # party to party: an abort code the relay cannot forge


TO_RELAY = frozenset({Kind.LEAVE, Kind.ABORT})
FROM_RELAY = frozenset({Kind.ABORT, Kind.JOINED, Kind.LEFT, Kind.LOST})
BETWEEN_PARTIES = frozenset({Kind.HELLO, Kind.PROOF, Kind.DATA, Kind.SEALED_ABORT})


@dataclass(frozen=True)
class Envelope:
    """A frame taken apart; `payload` is a view into the frame, not a copy."""

    kind: Kind
    job: str
    sender: str
    receiver: str
    payload: memoryview


def encode_frame(kind: Kind, job: str, sender: str, receiver: str, *payload: bytes) -> bytes:
    """The bytes of one frame; the parts of the payload are joined with a single copy."""
    parts = [bytes((ENVELOPE_VERSION, kind))]
    for name in (job, sender, receiver):
        raw = name.encode()
        if len(raw) > 255:
            raise LocalProtocolError("NAME_TOO_LONG", "the name of a job or a party takes at most 255 bytes")
        parts += [bytes((len(raw),)), raw]
    return b"".join((*parts, *payload))


def decode_frame(frame: bytes) -> Envelope:
    """The frame's envelope and a view of its payload.

    Raises: RemoteProtocolError: FRAME_REJECTED: too long or malformed.
    """
    view = memoryview(frame)
    try:
        if len(view) > MAX_FRAME_BYTES or view[0] != ENVELOPE_VERSION:
            raise frame_rejected()
        kind = Kind(view[1])
        names, at = [], 2
        for _ in range(3):
            end = at + 1 + view[at]
            if end > len(view):
                raise frame_rejected()
            names.append(bytes(view[at + 1 : end]).decode())
            at = end
    except (IndexError, ValueError) as error:
        raise frame_rejected() from error
    return Envelope(kind, names[0], names[1], names[2], view[at:])


def frame_rejected() -> RemoteProtocolError:
    """The one error for a frame that is lost, repeated, reordered, altered, cut short or too long."""
    return RemoteProtocolError("FRAME_REJECTED", "a frame of a peer was altered, lost or out of order on its way")


def check_code(code: str) -> str:
    """`code`, if it has the form of an error code; nothing else may travel as the reason of an abort."""
    if not _CODE.fullmatch(code):
        raise LocalProtocolError("CODE_INVALID", "an abort carries an error code and nothing else")
    return code


def parse_code(payload: bytes | memoryview) -> str:
    """The abort code that a peer or the relay sent."""
    text = bytes(payload[:64]).decode("ascii", "replace")
    if len(payload) > 48 or not _CODE.fullmatch(text):
        raise frame_rejected()
    return text


class FrameQueue:
    """Frames in order, bounded by bytes; `put` waits for room. Urgent frames overtake the others, in their own order.

    Args: max_bytes: the length from which a waiting `put` waits; one frame more may be in it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._urgent: deque[bytes] = deque()
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, frame: bytes, *, wait: bool = True, urgent: bool = False) -> bool:
        """Add `frame`, waiting for room if `wait`; False if the queue was closed, and the frame is dropped."""
        with self._changed:
            while wait and not self._closed and self._bytes >= self._max_bytes:
                self._changed.wait()
            if self._closed:
                return False
            (self._urgent if urgent else self._frames).append(frame)
            self._bytes += len(frame)
            self._changed.notify_all()
            return True

    def __iter__(self) -> Iterator[bytes]:
        """The frames as they come, until the queue is closed and empty."""
        while (frame := self._take()) is not None:
            yield frame

    def _take(self) -> bytes | None:
        with self._changed:
            while not self._urgent and not self._frames:
                if self._closed:
                    return None
                self._changed.wait()
            frame = (self._urgent or self._frames).popleft()
            self._bytes -= len(frame)
            self._changed.notify_all()
            return frame

    @property
    def closed(self) -> bool:
        """True once nothing can be added any more."""
        return self._closed

    def discard(self) -> None:
        """Drop what waits, but for urgent frames."""
        with self._changed:
            self._frames.clear()
            self._bytes = sum(map(len, self._urgent))
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more frames; what is in the queue may still be taken out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
