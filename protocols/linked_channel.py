"""A blocking channel over `Links`: `send` and `receive` for a role, `deliver` for whoever reads the pipe.

The same shell serves a party behind a socket (`party_agent.transport`) and the dealer inside the coordinator
(`coordinator.endpoint`), which must not import each other. It holds no socket and reads no clock: frames leave by a
queue, and the clock is an argument.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from protocols.envelope import FrameQueue, check_code
from protocols.errors import ConcordatError, PeerAbortedError, TransportError
from protocols.secure_channel import Links

Clock = Callable[[], float]

ABORT_ECHO_S = 2.0
MAX_HELD_BYTES = 512 << 20
SEND_QUEUE_BYTES = 8 << 20


class LinkedChannel:
    """`protocols.session.Channel` over links that are kept alive by another thread.

    The reader calls `deliver` for each frame. While the party computes and `max_held_bytes` wait unread, `deliver`
    waits, and so in the end do the senders; while the party itself waits to send or to receive, frames are always taken
    (two parties that send each other more than the cap would otherwise stand still), up to twice the cap.

    Args: links: the state; outbound: where frames leave; clock: seconds that never go back; connect_timeout_s: for all
        peers to be linked, from now; receive_timeout_s: the longest silence of a peer that is waited for.
    """

    def __init__(
        self,
        links: Links,
        outbound: FrameQueue,
        clock: Clock,
        *,
        connect_timeout_s: float,
        receive_timeout_s: float,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        self._links = links
        self._outbound = outbound
        self._clock = clock
        self._connect_deadline = clock() + connect_timeout_s
        self._receive_timeout_s = receive_timeout_s
        self._max_held_bytes = max_held_bytes
        self._state = threading.Condition()
        self._sending = threading.Lock()
        self._waiting = 0
        self._closing = False

    # -- for the role

    def send(self, to: str, stage: str, step: str, data: bytes) -> None:
        """Seal and queue `data` for `to`; waits while the queue is full. The first call waits for all peers.

        Raises: TransportError, PeerAbortedError: the job cannot go on.
        """
        self.wait_for_peers()
        with self._sending, self._attending():
            for frame in self._links.outgoing(to, stage, step, data):
                self.check()
                if not self._outbound.put(frame):
                    self.check()
                    raise TransportError("RELAY_UNREACHABLE", "the connection to the relay ended", _SEE_RELAY)
            self.check()

    def receive(self, sender: str, stage: str, step: str, max_bytes: int) -> bytes:
        """The next message of `sender`, which must belong to `stage` and `step` and be at most `max_bytes` long.

        Raises: TransportError: PEER_SILENT, PARTY_LOST, PARTY_ABSENT, RELAY_UNREACHABLE. PeerAbortedError: with the
            peer's code. RemoteProtocolError: FRAME_REJECTED.
        """
        self.wait_for_peers()
        with self._attending(), self._state:
            opened, deadline = self._links.opened_frames, self._clock() + self._receive_timeout_s
            while (message := self._links.take(sender, stage, step, max_bytes)) is None:
                if self._links.opened_frames != opened:  # a long message is on its way
                    opened, deadline = self._links.opened_frames, self._clock() + self._receive_timeout_s
                remaining = deadline - self._clock()
                if remaining <= 0:
                    raise TransportError(
                        "PEER_SILENT", f"{sender} sent nothing for {self._receive_timeout_s:g} seconds", _SEE_PEER
                    )
                self._state.wait(remaining)
            return message

    def wait_for_peers(self) -> None:
        """Wait until every peer is linked.

        Raises: TransportError: PARTY_ABSENT: some peers (named) did not connect in time. RemoteProtocolError:
            HANDSHAKE_REJECTED, VERSION_MISMATCH.
        """
        with self._attending(), self._state:
            while True:
                self._links.check()
                missing = self._links.unlinked()
                if not missing:
                    return
                remaining = self._connect_deadline - self._clock()
                if remaining <= 0:
                    absent = self._links.absent() or missing
                    raise TransportError(
                        "PARTY_ABSENT", f"did not connect in time: {', '.join(absent)}", "start that party, then rerun"
                    )
                self._state.wait(remaining)

    def check(self) -> None:
        """Raise what ended the job, if anything did; for a party that computes for long between messages."""
        with self._state:
            self._links.check()

    def abort(self, code: str) -> str:
        """End the job for everyone with `code`; the code that it ended with, should another have come first.

        The relay settles which of two codes came first; its answer is waited for, but not for long.
        """
        frames = [] if self._closing else self._abort_frames(check_code(code))
        self._outbound.discard()
        for frame in frames:
            self._outbound.put(frame, wait=False, urgent=True)
        deadline = self._clock() + ABORT_ECHO_S
        with self._attending(), self._state:
            while self._links.settled is None and not self._outbound.closed:
                remaining = deadline - self._clock()
                if remaining <= 0:
                    break
                self._state.wait(remaining)
            return self._links.settled or code

    def close(self) -> None:
        """Send what is queued, take leave, end. Overridden by what owns the pipe."""
        with self._state:
            self._closing = True
            self._state.notify_all()
        self._outbound.put(self._links.leave(), wait=False)
        self._outbound.close()

    def __enter__(self) -> LinkedChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; if the block raised, end the job for everyone with the error's code first."""
        if isinstance(error, ConcordatError):
            if not isinstance(error, PeerAbortedError):
                self.abort(error.code)
        elif error is not None:
            self.abort("INTERNAL_ERROR")
        self.close()

    # -- for the reader of the pipe

    def deliver(self, frame: bytes) -> None:
        """Take one frame from the pipe; waits while too much is unread and the party is busy."""
        with self._state:
            while self._links.held_bytes >= self._max_held_bytes and not self._waiting and not self._closing:
                if self._links.failure is not None:
                    break
                self._state.wait()
            if self._links.failure is None and self._links.held_bytes >= 2 * self._max_held_bytes:
                self._links.fail(
                    TransportError("INBOX_FULL", "more messages wait unread than memory is allowed for", _SEE_PEER)
                )
            answers = [] if self._closing else self._links.arrived(frame)
            failed = self._links.failure is not None
            self._state.notify_all()
        if failed:
            self._outbound.discard()  # a party that waits for room wakes up and sees the failure
        for answer in answers:
            self._outbound.put(answer, wait=False, urgent=True)  # a failure must not take a proof back

    def ended(self, error: ConcordatError) -> None:
        """The pipe ended. What has arrived can still be received; then `error` is raised."""
        with self._state:
            self._links.end(error)
            self._state.notify_all()
        self._outbound.close()

    def _abort_frames(self, code: str) -> list[bytes]:
        with self._state:
            return self._links.abort(code)

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """The party waits on the channel: the reader must not wait for the party."""
        with self._state:
            self._waiting += 1
            self._state.notify_all()
        try:
            yield
        finally:
            with self._state:
                self._waiting -= 1


_SEE_RELAY = "check that the coordinator runs and that its address and port can be reached"
_SEE_PEER = "see that party's log, then rerun"
