"""The lab, running: front, relay, API and one dealer a job, behind one port; and the keeper that moves jobs along.

The keeper reads what agents reported: a job that all parties accepted is opened at the relay and dealt for; one that a
party refused, that failed, or whose contract or party was revoked, is ended for all with one code. The relay settles
which code came first.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any

import uvicorn

from coordinator.api import Notifier, build_api
from coordinator.certificates import CertificateFiles
from coordinator.dealing import start_dealer
from coordinator.front import Front
from coordinator.lab import Lab
from coordinator.member_register import member_revoked
from coordinator.registry import ACCEPTED, FAILED, FINISHED, REFUSED, JobRecord
from coordinator.relay import Admit, Relay
from coordinator.tables import JobState
from protocols.contract import Contract
from protocols.contract_state import ContractState, state_of
from protocols.errors import ConcordatError, LocalProtocolError, TransportError
from protocols.roles import COORDINATOR

KEEPER_INTERVAL_S = 0.5
HOUSEKEEPING_S = 3600.0
ABSENCE_S = 900.0  # a running job in which nobody has a seat
STOP_JOIN_S = 2.0
MOST_API_CONNECTIONS = 256
_LOGGER = "concordat"
log = logging.getLogger(f"{_LOGGER}.lab")


class LabRelay(Relay):
    """The relay of a lab: each certificate is looked up in the register; a later attempt of a job takes the place of an
    earlier.
    """

    def __init__(self, certificates: CertificateFiles, admit: Admit) -> None:
        super().__init__(certificates, admit=admit)

    def open_job(self, job: str, names: Collection[str]) -> None:
        """Open a job to the parties in `names`; an ended attempt of the same job gives way.

        Raises: LocalProtocolError: JOB_EXISTS: one that goes on.
        """
        self.forget_job(job)
        self.add_job(job, names)

    def forget_job(self, job: str) -> None:
        """Drop an ended job; does nothing to one that goes on."""
        with self._lock:
            state = self._jobs.get(job)
            if state is None or (state.verdict is None and state.seats):
                return
            for queue in state.seats.values():
                queue.close()
            del self._jobs[job]
            for key in [key for key in self._meter if key[0] == job]:
                del self._meter[key]

    def is_open(self, job: str) -> bool:
        """Whether the relay has this job."""
        with self._lock:
            return job in self._jobs


class LabServer:
    """Args: lab: loaded; keeper_interval_s: between looks at the registry when nothing wakes the keeper.

    Life: `start`, then `wait` until `stop` is asked for, then `close`.
    """

    def __init__(self, lab: Lab, *, keeper_interval_s: float = KEEPER_INTERVAL_S, absence_s: float = ABSENCE_S) -> None:
        self.lab = lab
        self.registry = lab.registry
        self._interval_s = keeper_interval_s
        self._absence_s = absence_s
        certificates = lab.server_certificate()
        self.relay = LabRelay(certificates, self.registry.admit)
        self._notifier = Notifier()
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._closed = False
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._dealers: dict[str, threading.Thread] = {}
        self._opened: dict[str, str] = {}  # job -> hash of the attempt that is open
        self._alone_since: dict[str, float] = {}
        self._contracts: dict[str, Contract] = {}
        self._housekept = 0.0
        self._database_down = False
        self._front: Front | None = None
        self._api = self._build_api(certificates)
        self._api_thread: threading.Thread | None = None
        self._began = time.monotonic()
        self.registry.on_change(self._notifier.wake)
        self.registry.on_change(self._awake.set)

    # -- life

    def start(self, host: str, port: int) -> int:
        """Listen; the port, which the system chooses if 0 is asked for.

        Raises: TransportError: PORT_TAKEN.
        """
        relay_port = self.relay.start()
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        api_port = listener.getsockname()[1]
        self._api_thread = threading.Thread(target=self._api.run, args=([listener],), name="api", daemon=True)
        self._api_thread.start()
        self._front = Front(relay_port, api_port)
        try:
            bound = self._front.start(host, port)
        except TransportError:
            self.close()
            raise
        self._keeper.start()
        log.info("started", extra={"fields": {"port": bound}})
        return bound

    def stop(self, *_signal: object) -> None:
        """Ask for the end; fit to be a signal handler."""
        self._stopping.set()
        self._awake.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the end was asked for."""
        return self._stopping.wait(timeout_s)

    def close(self) -> None:
        """End what runs, within ten seconds: jobs end with COORDINATOR_STOPPED. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        self._notifier.close()
        if self._keeper.is_alive():
            self._keeper.join(STOP_JOIN_S)
        self._end_all("COORDINATOR_STOPPED")
        self._api.should_exit = True
        if self._api_thread is not None:
            self._api_thread.join(2 * STOP_JOIN_S)
        self.relay.close()
        if self._front is not None:
            self._front.close()
        log.info("stopped", extra={"fields": {}})

    # -- jobs

    def stop_job(self, record: JobRecord, code: str) -> None:
        """End an attempt for all its parties, running or not."""
        self._end(record, code, stopped=True)
        self._awake.set()

    def look(self) -> None:
        """One look at every certificate in use and at every job that goes on.

        Raises: TransportError: DATABASE_UNAVAILABLE, DISK_FULL.
        """
        if revoked := self.registry.revoked_among(self.relay.serials()):
            self.relay.shut_out(revoked, member_revoked())
        going_on = self.registry.jobs_going_on()
        hashes = {record.hash for record in going_on}
        for job in [job for job, digest in list(self._opened.items()) if digest not in hashes]:
            self._let_go(job)
        for record in going_on:
            try:
                self._advance(record)
            except TransportError:
                raise
            except ConcordatError as error:
                self._end(record, error.code)

    def _advance(self, record: JobRecord) -> None:
        contract = self._contract(record)
        parties = contract.parties.all
        if (code := self._cause(record, contract)) is not None:
            self._end(record, code)
        elif record.state is JobState.SUBMITTED:
            if self.registry.now() >= record.signed.document.expires:
                self._end(record, "JOB_EXPIRED")
            elif set(parties) <= record.parties_at(ACCEPTED):
                self._open(record, contract)
        elif self._opened.get(record.signed.document.job) != record.hash:
            self._end(record, "RELAY_UNREACHABLE")  # this process never opened it: the lab was restarted
        elif (verdict := self.relay.verdict(record.signed.document.job)) is not None:
            self._end(record, verdict)
        elif set(parties) <= record.parties_at(FINISHED):
            self._end(record, None)
        elif self._deserted(record.signed.document.job):
            self._end(record, "PARTY_ABSENT")

    def _cause(self, record: JobRecord, contract: Contract) -> str | None:
        """Why a job may not go on: a party's report, its contract, a revoked party."""
        for _, stage, code, _ in record.reports:
            if stage in (REFUSED, FAILED):
                return code or "PARTY_LOST"
        if not all(self.registry.is_active(name) for name in contract.parties.all):
            return "MEMBER_REVOKED"
        kept = self.registry.contract(record.signed.document.contract_hash, record.submitter)
        state = state_of(kept.signed, kept.events, self.registry.now())
        if state in (ContractState.REVOKED, ContractState.SUSPENDED):
            return f"CONTRACT_{state.value.upper()}"
        return None

    def _open(self, record: JobRecord, contract: Contract) -> None:
        document = record.signed.document
        job = document.job
        try:
            self.relay.open_job(job, (*contract.parties.all, COORDINATOR))
        except LocalProtocolError:
            return  # streams of an earlier attempt are still closing: look again
        self._opened[job] = record.hash
        try:
            self._dealers[job] = start_dealer(self.relay, self.lab.identity, contract, document)
            if self.registry.open_job(record):
                log.info("job", extra={"fields": {"what": "opened", "kind": document.kind.value}})
                return
        except ConcordatError as error:
            self._opened.pop(job, None)
            self.relay.stop_job(job, error.code)
            raise
        self._opened.pop(job, None)
        self.relay.stop_job(job, "JOB_STOPPED")

    def _end(self, record: JobRecord, code: str | None, *, stopped: bool = False) -> None:
        job = record.signed.document.job
        if self._opened.get(job) == record.hash and code is not None and self.relay.is_open(job):
            code = self.relay.stop_job(job, code)
        self.registry.end_job(record, code, stopped=stopped)
        if self._opened.get(job) == record.hash:
            self._opened.pop(job, None)  # the keeper and a request may end it at once
        self._alone_since.pop(job, None)
        log.info("job", extra={"fields": {"what": "ended", "code": code or "OK"}})

    def _let_go(self, job: str) -> None:
        """A job that the operator's command ended in the database: its parties are told at the relay too."""
        self._opened.pop(job, None)
        self._alone_since.pop(job, None)
        if self.relay.is_open(job):
            self.relay.stop_job(job, "JOB_STOPPED")

    def _end_all(self, code: str) -> None:
        for job in list(self._opened):
            self.relay.stop_job(job, code)
        try:
            for record in self.registry.jobs_going_on():
                if self._opened.get(record.signed.document.job) == record.hash:
                    self._end(record, code)
        except ConcordatError as error:
            log.error("job", extra={"fields": {"what": "not recorded", "code": error.code}})

    def _deserted(self, job: str) -> bool:
        if self.relay.present(job) - {COORDINATOR}:
            self._alone_since.pop(job, None)
            return False
        return time.monotonic() - self._alone_since.setdefault(job, time.monotonic()) > self._absence_s

    def _contract(self, record: JobRecord) -> Contract:
        digest = record.signed.document.contract_hash
        if digest not in self._contracts:
            self._contracts[digest] = self.registry.contract(digest, record.submitter).signed.contract
        return self._contracts[digest]

    # -- the keeper's thread

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self._awake.wait(self._interval_s)
            self._awake.clear()
            try:
                self.look()
                self._housekeep()
                if self._database_down:
                    self._database_down = False
                    log.info("database", extra={"fields": {"what": "recovered"}})
            except ConcordatError as error:
                if not self._database_down:
                    log.error("database", extra={"fields": {"what": "failed", "code": error.code}})
                self._database_down = True
                self._stopping.wait(self._interval_s)
            except Exception as error:  # one job must not stop the others; its text may quote a document
                log.error("unexpected", extra={"fields": {"error": type(error).__name__}})
                self._stopping.wait(self._interval_s)

    def _housekeep(self) -> None:
        if time.monotonic() - self._housekept < HOUSEKEEPING_S and self._housekept:
            return
        self._housekept = time.monotonic()
        self.registry.forget_nonces()
        for job in [job for job, thread in self._dealers.items() if not thread.is_alive() and job not in self._opened]:
            del self._dealers[job]
            self.relay.forget_job(job)
        if count := len(self.lab.warnings()):
            log.warning("expiry", extra={"fields": {"certificates": count}})

    # -- the API

    def _build_api(self, certificates: CertificateFiles) -> uvicorn.Server:
        gate = build_api(self.lab, self._notifier, origin=self._origin, metrics=self._metrics, stop_job=self.stop_job)
        config = uvicorn.Config(
            gate,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_API_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
            ssl_certfile=str(certificates.certificate),
            ssl_keyfile=str(certificates.key),
        )
        config.load()
        if config.ssl is not None:
            config.ssl.set_alpn_protocols(["http/1.1"])
        return uvicorn.Server(config)

    def _origin(self, port: int) -> str:
        return self._front.origin(port) if self._front is not None else ""

    def _metrics(self) -> str:
        meter = self.relay.meter().values()
        gauges: Mapping[str, tuple[str, str, float]] = {
            "concordat_up_seconds": ("gauge", "Seconds since the lab was started.", time.monotonic() - self._began),
            "concordat_connections": ("gauge", "Clients connected.", self._front.connections if self._front else 0),
            "concordat_refused_connections_total": (
                "counter",
                "Connections that were not TLS, or too many.",
                self._front.refused if self._front else 0,
            ),
            "concordat_jobs_open": ("gauge", "Jobs open at the relay.", len(self._opened)),
            "concordat_relayed_bytes": ("gauge", "Bytes passed on for jobs kept.", sum(t.bytes_sent for t in meter)),
            "concordat_institutions": ("gauge", "Institutions enrolled.", len(self.registry.institutions())),
            "concordat_certificates_expiring": ("gauge", "Expiring within 30 days.", len(self.lab.warnings())),
        }
        lines = []
        for name, (kind, text, value) in gauges.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and fields that the code chose one by one.

    Of a library's warning only the library's name is shown.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line. Only `fields` are shown, never arguments or a traceback, which may quote content."""
        line: dict[str, Any] = {"at": round(record.created, 3), "level": record.levelname.lower()}
        if record.name.startswith(f"{_LOGGER}."):
            line["event"] = str(record.msg)
            line |= getattr(record, "fields", {})
        else:
            line |= {"event": "library", "name": record.name}
        return json.dumps(line, ensure_ascii=False)


def log_to(stream: IO[str] | None = None) -> logging.Handler:
    """Send the lab's log, and the warnings of libraries, to `stream`: standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logging.getLogger().addHandler(handler)
    logging.getLogger(_LOGGER).setLevel(logging.INFO)
    return handler


def serve(folder: Path, host: str, port: int, on_started: Callable[[int, LabServer], None]) -> None:
    """Run the lab in `folder` until `LabServer.stop`.

    Raises: what `Lab.load` and `LabServer.start` raise.
    """
    lab = Lab.load(folder, time.time)
    server = LabServer(lab)
    try:
        bound = server.start(host, port)
        on_started(bound, server)
        server.wait()
    finally:
        server.close()
        lab.close()
