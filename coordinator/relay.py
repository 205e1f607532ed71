"""The relay: passes frames between the parties of a job and reads nothing but their envelopes.

One outbound bidirectional gRPC stream a process, mutual TLS, client certificates required. The sender on a frame must
be the common name of the stream's certificate, and sender and receiver must both have a seat in the job; whether that
very certificate, by its serial number, may still be used is asked when a stream is opened (`Admit`). Payloads are
encrypted end to end; they are neither logged nor stored, and wait in memory only, in bounded queues: a receiver that
reads slowly slows its senders down.

The relay is the one place that sees a job's events in an order, so it settles which abort code came first; from then on
every party, also one that joins later, is told that code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from cryptography import x509

from coordinator.certificates import CertificateFiles
from protocols.envelope import (
    BETWEEN_PARTIES,
    MAX_FRAME_BYTES,
    RELAY,
    TO_RELAY,
    Envelope,
    FrameQueue,
    Kind,
    check_code,
    decode_frame,
    encode_frame,
    parse_code,
)
from protocols.errors import ConcordatError, LocalProtocolError, RemoteProtocolError, TransportError
from protocols.roles import COORDINATOR

SERVICE, METHOD = "concordat.v1.Relay", "Frames"
QUEUE_BYTES = 16 << 20
MOST_STREAMS = 64
KEEPALIVE_MS = 20_000
CUT_S = 2.0  # a party that is shut out has so long to read why

Admit = Callable[[str, int], None]  # name and serial number of a client certificate; raises TransportError to refuse


def admit_all(name: str, serial: int) -> None:
    """Every certificate of the authority: for one that lives as long as the relay and issues what is used only."""


@dataclass(frozen=True)
class Traffic:
    """What one party of one job has put through the relay, envelopes included."""

    frames_sent: int = 0
    bytes_sent: int = 0
    frames_received: int = 0
    bytes_received: int = 0


@dataclass
class _Job:
    names: frozenset[str]
    seats: dict[str, FrameQueue] = field(default_factory=dict)
    certified: dict[str, Endpoint] = field(default_factory=dict)  # the seats that a certificate opened
    verdict: str | None = None


class Endpoint:
    """The relay's end of one seat: frames for the party come out of `inbound`, frames of the party go into `put`."""

    def __init__(self, relay: Relay, job: str, name: str, inbound: FrameQueue, serial: int | None = None) -> None:
        self.job = job
        self.name = name
        self.inbound = inbound
        self.serial = serial
        self.refusal: ConcordatError | None = None  # why the party was shut out
        self.cut: Callable[[], object] = lambda: None  # breaks the stream
        self._relay = relay

    def put(self, frame: bytes) -> bool:
        """Route one frame, waiting for room at its receiver; False when it was the party's last.

        Raises: TransportError: SENDER_REFUSED: not a frame that this party may send.
        """
        return self._relay.route(self, frame)

    def lose(self) -> None:
        """The party's stream broke; does nothing if it took leave before."""
        self._relay.vacate(self, lost=True)


class Relay:
    """Args: certificates: of the server; jobs: the names that have a seat, by job; queue_bytes: kept per receiver;
    admit: asked at the opening of each stream.
    """

    def __init__(
        self,
        certificates: CertificateFiles,
        jobs: Mapping[str, Collection[str]] | None = None,
        queue_bytes: int = QUEUE_BYTES,
        admit: Admit = admit_all,
    ) -> None:
        self.admit = admit
        self._certificates = certificates
        self._queue_bytes = queue_bytes
        self._jobs = {job: _Job(frozenset(names)) for job, names in (jobs or {}).items()}
        self._meter: dict[tuple[str, str], Traffic] = {}
        self._lock = threading.Lock()
        self._server: Any = None

    # -- life

    def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; the port, which the system chooses if 0 is asked for.

        Raises: TransportError: PORT_TAKEN.
        """
        files = self._certificates
        credentials = grpc.ssl_server_credentials(
            [(files.key.read_bytes(), files.certificate.read_bytes())],
            root_certificates=files.ca.read_bytes(),
            require_client_auth=True,
        )
        stream = grpc.stream_stream_rpc_method_handler(_Stream(self).serve)  # bytes in, bytes out: no serializer
        server = grpc.server(
            ThreadPoolExecutor(MOST_STREAMS, thread_name_prefix="relay"),
            handlers=[grpc.method_handlers_generic_handler(SERVICE, {METHOD: stream})],
            maximum_concurrent_rpcs=MOST_STREAMS,
            options=[
                ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
                ("grpc.max_send_message_length", MAX_FRAME_BYTES),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_MS // 2),
                ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
            ],
        )
        try:
            bound: int = server.add_secure_port(f"{host}:{port}", credentials)
        except RuntimeError as error:
            raise TransportError(
                "PORT_TAKEN", f"cannot listen on {host}:{port}", "choose another port, or 0 for a free one"
            ) from error
        server.start()
        self._server = server
        return bound

    def close(self, grace_s: float = 2.0) -> None:
        """Deliver what is queued, end every stream, stop listening."""
        with self._lock:
            queues = [queue for job in self._jobs.values() for queue in job.seats.values()]
        for queue in queues:
            queue.close()
        if self._server is not None:
            self._server.stop(grace_s).wait()

    # -- jobs

    def add_job(self, job: str, names: Collection[str]) -> None:
        """Open a job to the parties in `names`."""
        with self._lock:
            if job in self._jobs:
                raise LocalProtocolError("JOB_EXISTS", "the relay has a job of this name")
            self._jobs[job] = _Job(frozenset(names))

    def stop_job(self, job: str, code: str) -> str:
        """End a job for all its parties with `code`; the code it ends with, should another have come first."""
        with self._lock:
            return self._settle(job, check_code(code))

    def verdict(self, job: str) -> str | None:
        """The code the job was ended with, or None."""
        with self._lock:
            return self._jobs[job].verdict

    def present(self, job: str) -> frozenset[str]:
        """The parties that have their seat now."""
        with self._lock:
            return frozenset(self._jobs[job].seats)

    def meter(self) -> dict[tuple[str, str], Traffic]:
        """Frames and bytes by (job, party)."""
        with self._lock:
            return dict(self._meter)

    # -- seats

    def attach(self, job: str, name: str, serial: int | None = None) -> Endpoint:
        """Give `name` its seat: for the dealer, in this process, and for each stream that was admitted.

        serial: of the stream's certificate; None in this process.
        Raises: TransportError: JOB_UNKNOWN: no such job, or not one of its parties; ALREADY_CONNECTED.
        """
        with self._lock:
            state = self._jobs.get(job)
            if state is None or name not in state.names:
                raise TransportError("JOB_UNKNOWN", "the relay has no such job for this party", _ASK_OPERATOR)
            if name in state.seats:
                raise TransportError("ALREADY_CONNECTED", "this party has its seat in the job already", _ASK_OPERATOR)
            queue = FrameQueue(self._queue_bytes)
            self._tell(queue, job, name, Kind.JOINED, name)
            for other, seat in state.seats.items():
                self._tell(queue, job, name, Kind.JOINED, other)
                self._tell(seat, job, other, Kind.JOINED, name)
            state.seats[name] = queue
            if state.verdict is not None:
                self._tell(queue, job, name, Kind.ABORT, state.verdict, urgent=True)
            endpoint = Endpoint(self, job, name, queue, serial)
            if serial is not None:
                state.certified[name] = endpoint
            return endpoint

    def serials(self) -> frozenset[int]:
        """Of the certificates that have a seat now."""
        with self._lock:
            return frozenset(seat.serial for seat in self._certified() if seat.serial is not None)

    def shut_out(self, serials: Collection[int], why: ConcordatError) -> None:
        """End every stream of these certificates, and its job for all, with the code of `why`."""
        with self._lock:
            found = [seat for seat in self._certified() if seat.serial in serials]
            for seat in found:
                seat.refusal = why
                self._settle(seat.job, why.code)
        for seat in found:
            self.vacate(seat, lost=True)
            cutting = threading.Timer(CUT_S, seat.cut)
            cutting.daemon = True
            cutting.start()

    def _certified(self) -> list[Endpoint]:
        return [seat for job in self._jobs.values() for seat in job.certified.values()]

    def route(self, seat: Endpoint, frame: bytes) -> bool:
        """Pass on one frame of `seat`; False when it took leave. See `Endpoint.put`."""
        if seat.refusal is not None:
            raise seat.refusal
        try:
            envelope = decode_frame(frame)
        except RemoteProtocolError as error:
            raise _refused() from error
        if (envelope.job, envelope.sender) != (seat.job, seat.name):
            raise _refused()
        if envelope.receiver == RELAY and envelope.kind in TO_RELAY:
            return self._control(seat, envelope)
        with self._lock:
            state = self._jobs[seat.job]
            known = envelope.receiver in state.names and envelope.receiver != seat.name
            queue = state.seats.get(envelope.receiver)
        if not known or envelope.kind not in BETWEEN_PARTIES:
            raise _refused()
        if queue is not None:
            self.forward(queue, envelope, frame)
        return True

    def forward(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        """Put a checked frame into its receiver's queue, as the bytes it came in."""
        if queue.put(frame, urgent=envelope.kind is Kind.SEALED_ABORT, wait=envelope.kind is Kind.DATA):
            with self._lock:
                self._count(envelope.job, envelope.sender, sent=len(frame))
                self._count(envelope.job, envelope.receiver, received=len(frame))

    def vacate(self, seat: Endpoint, *, lost: bool) -> None:
        """Empty a seat and tell the others; a lost party ends the job."""
        with self._lock:
            state = self._jobs.get(seat.job)
            if state is None or state.seats.get(seat.name) is not seat.inbound:
                return
            del state.seats[seat.name]
            state.certified.pop(seat.name, None)
            for other, queue in state.seats.items():
                self._tell(queue, seat.job, other, Kind.LOST if lost else Kind.LEFT, seat.name, urgent=lost)
            if lost and state.verdict is None:
                state.verdict = "PARTY_LOST"
        seat.inbound.discard()
        seat.inbound.close()

    def _control(self, seat: Endpoint, envelope: Envelope) -> bool:
        if envelope.kind is Kind.LEAVE:
            self.vacate(seat, lost=False)
            return False
        try:
            code = parse_code(envelope.payload)
        except ConcordatError as error:
            raise _refused() from error
        with self._lock:
            first = self._jobs[seat.job].verdict
            if first is None:
                self._settle(seat.job, code)
            else:
                self._tell(seat.inbound, seat.job, seat.name, Kind.ABORT, first, urgent=True)
        return True

    def _settle(self, job: str, code: str) -> str:
        """Under the lock: the first code of a job stays and is told to everyone."""
        state = self._jobs[job]
        if state.verdict is None:
            state.verdict = code
            for name, queue in state.seats.items():
                self._tell(queue, job, name, Kind.ABORT, code, urgent=True)
        return state.verdict

    @staticmethod
    def _tell(queue: FrameQueue, job: str, to: str, kind: Kind, text: str, *, urgent: bool = False) -> None:
        queue.put(encode_frame(kind, job, RELAY, to, text.encode()), wait=False, urgent=urgent)

    def _count(self, job: str, name: str, sent: int = 0, received: int = 0) -> None:
        old = self._meter.get((job, name), Traffic())
        self._meter[job, name] = replace(
            old,
            frames_sent=old.frames_sent + (sent > 0),
            bytes_sent=old.bytes_sent + sent,
            frames_received=old.frames_received + (received > 0),
            bytes_received=old.bytes_received + received,
        )


class _Stream:
    """The gRPC shell of a seat: a thread of its own takes the party's frames, the handler's thread gives it its own."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def serve(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Serve one stream until the party takes leave, is refused or is lost."""
        refusals: list[ConcordatError] = []
        try:
            seat = self._seat(requests, context)
            seat.cut = context.cancel
            if not context.add_callback(seat.inbound.close):  # the stream is over already
                seat.inbound.close()
            pump = threading.Thread(target=self._pump, args=(requests, seat, refusals), daemon=True)
            pump.start()
            try:
                yield from seat.inbound
            finally:
                seat.lose()
            if seat.refusal is not None:
                refusals.append(seat.refusal)
        except ConcordatError as error:
            refusals.append(error)
        if refusals:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, refusals[0].code)

    def _seat(self, requests: Iterator[bytes], context: Any) -> Endpoint:
        shown = context.auth_context()
        names, certificates = shown.get("x509_common_name", ()), shown.get("x509_pem_cert", ())
        name = names[0].decode("utf-8", "replace") if len(names) == 1 else ""
        try:
            first = decode_frame(next(requests, b""))
        except RemoteProtocolError as error:
            raise _refused() from error
        if first.kind is not Kind.JOIN or first.sender != name or name == COORDINATOR or len(certificates) != 1:
            raise _refused()
        try:
            serial = x509.load_pem_x509_certificate(certificates[0]).serial_number
        except ValueError as error:
            raise _refused() from error
        self._relay.admit(name, serial)
        return self._relay.attach(first.job, name, serial)

    @staticmethod
    def _pump(requests: Iterator[bytes], seat: Endpoint, refusals: list[ConcordatError]) -> None:
        try:
            for frame in requests:
                if not seat.put(frame):
                    return
        except ConcordatError as error:
            refusals.append(error)
        except grpc.RpcError:
            pass  # the stream broke: below
        finally:
            seat.lose()


def _refused() -> TransportError:
    return TransportError("SENDER_REFUSED", "a frame does not fit the certificate it came with", _ASK_OPERATOR)


_ASK_OPERATOR = "ask the operator of the coordinator which jobs and names it serves"
