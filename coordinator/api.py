"""The lab's REST API: what institutions ask of the lab over HTTP, and what they send one another through it.

Before a request reaches a route, the gate has checked the version, the size of the body, and the signature of the
institution that sends it; a route sees a name that is proven. Documents pass through as the text that came in.

Every error is {"code", "message", "remedy"} with a fitting status. Interface: /v1/openapi.json, docs/enrolment.md.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from coordinator.api_bodies import (
    ContractEventBody,
    ContractSignature,
    Enrolment,
    Hex32,
    Identifier,
    Notice,
    Proposal,
    Publication,
    Renewal,
    Report,
    Stop,
    Submission,
)
from coordinator.api_models import add_model_routes
from coordinator.lab import Lab
from coordinator.rate_limit import RateLimit
from coordinator.registry import ContractRecord, JobRecord
from protocols.contract_state import SignedEvent
from protocols.enrolment import VERSION_HEADER, VERSIONS, EnrolmentToken
from protocols.errors import (
    ConcordatError,
    ContractViolationError,
    DataError,
    RecipeError,
    RemoteProtocolError,
    TransportError,
)
from protocols.roles import COORDINATOR
from protocols.signed_request import HEADER_NAME, verify_request

LONGEST_POLL_S = 25
POLL_INTERVAL_S = 1.0
ENROLMENTS_PER_WINDOW = 10
ENROLMENT_WINDOW_S = 600.0

_KIB = 1024
BODY_LIMITS = {"/v1/contracts": 4096 * _KIB, "/v1/jobs": 4096 * _KIB, "/v1/catalogue": 2048 * _KIB}
SMALL_BODY = 16 * _KIB

_PUBLIC = frozenset({"/v1/health", "/v1/metrics", "/v1/openapi.json", "/v1/authority", "/v1/enrolment"})
_ANY_VERSION = frozenset({"/v1/health", "/v1/metrics", "/v1/openapi.json"})

_STATUS = {
    "REQUEST_MALFORMED": 400,
    "TOKEN_MALFORMED": 400,
    "SIGNATURE_INVALID": 401,
    "CLOCK_SKEW": 401,
    "REQUEST_REPLAYED": 401,
    "METRICS_REFUSED": 401,
    "MEMBER_REVOKED": 403,
    "TOKEN_UNKNOWN": 403,
    "TOKEN_USED": 403,
    "TOKEN_EXPIRED": 403,
    "TOKEN_OTHER_NAME": 403,
    "ENROLMENT_PROOF_INVALID": 403,
    "NOT_A_MEMBER": 403,
    "EVENT_OTHER_PARTY": 403,
    "NOT_FOUND": 404,
    "CONTRACT_UNKNOWN": 404,
    "JOB_NOT_FOUND": 404,
    "MODEL_NOT_FOUND": 404,
    "BODY_TOO_LARGE": 413,
    "VERSION_MISMATCH": 426,
    "RATE_LIMITED": 429,
    "TOO_MANY_REPORTS": 429,
    "DATABASE_UNAVAILABLE": 503,
    "LAB_STOPPING": 503,
    "AUDIT_BUSY": 503,
    "AUDIT_UNWRITABLE": 507,
    "DISK_FULL": 507,
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
log = logging.getLogger("concordat.api")


# -- what waits for news


class Notifier:
    """Wakes long polls when the registry has changed. Threads call `wake`; coroutines await `news`."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self.closing = False

    def wake(self) -> None:
        """Something has changed."""
        with self._lock:
            loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Let every poll answer at once."""
        self.closing = True
        self.wake()

    async def news(self, timeout_s: float) -> None:
        """Return when something has changed, or in time."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(event)

    def _wake(self) -> None:
        for event in list(self._waiting):
            event.set()


# -- the gate


class Gate:
    """ASGI: version, size and signature, in this order, before any route; then counts and logs the answer.

    Args: app: the routes; lab: whose members may sign; notifier: knows when the lab will stop; origin: the address
        behind a local port of the front.
    """

    def __init__(self, app: Any, lab: Lab, notifier: Notifier, origin: Callable[[int], str]) -> None:
        self._app = app
        self._lab = lab
        self._notifier = notifier
        self._origin = origin
        self.answers: Counter[tuple[str, str, int]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        begin = time.monotonic()
        status, started = [500], [False]

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0], started[0] = message["status"], True
                message["headers"] = [
                    *message.get("headers", []),
                    (VERSION_HEADER.lower().encode(), VERSIONS.encode()),
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        code = ""
        try:
            body = await self._admit(scope, receive)
            await self._app(scope, _replay(body, receive), answer)
        except ConcordatError as error:
            code = error.__cause__.code if isinstance(error.__cause__, ConcordatError) else error.code
            await _error(error)(scope, receive, answer)
        except Exception as error:  # its text may quote a request
            code = "INTERNAL_ERROR"
            log.error("unexpected", extra={"fields": {"error": type(error).__name__}})
            if not started[0]:
                await _error(_internal())(scope, receive, answer)
        route = getattr(scope.get("route"), "path", "")
        self.answers[scope["method"], route, status[0]] += 1
        fields = {"method": scope["method"], "route": route, "status": status[0]}
        seconds = round(time.monotonic() - begin, 3)
        log.info("request", extra={"fields": fields | {"seconds": seconds} | ({"code": code} if code else {})})

    async def _admit(self, scope: Scope, receive: Receive) -> bytes:
        path = scope["path"]
        headers: dict[bytes, list[bytes]] = {}
        for key, value in scope["headers"]:
            headers.setdefault(key.lower(), []).append(value)
        if path not in _ANY_VERSION and headers.get(VERSION_HEADER.lower().encode()) != [VERSIONS.encode()]:
            raise TransportError(
                "VERSION_MISMATCH", f"the lab speaks version {VERSIONS}; the request names another", _SAME_VERSION
            )
        if self._notifier.closing and scope["method"] != "GET":
            raise TransportError("LAB_STOPPING", "the lab is about to stop; nothing was stored", "send it again later")
        body = await _read(receive, headers, BODY_LIMITS.get(path, SMALL_BODY))
        state = scope.setdefault("state", {})
        client = scope.get("client") or ("", 0)
        state["address"] = self._origin(client[1]) or client[0]
        if path not in _PUBLIC:
            given = headers.get(HEADER_NAME.lower().encode(), [])
            header = given[0].decode("latin-1") if len(given) == 1 else ""
            target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            state["member"] = await run_in_threadpool(
                verify_request,
                header,
                scope["method"],
                target.decode("latin-1"),
                body,
                self._lab.registry.now(),
                self._lab.registry.identity_of,
                self._lab.registry,
            )
        return body


_LENGTH = re.compile(rb"[0-9]{1,18}")


async def _read(receive: Receive, headers: dict[bytes, list[bytes]], limit: int) -> bytes:
    declared = headers.get(b"content-length", [b"0"])[0]
    if not _LENGTH.fullmatch(declared) or int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise TransportError("REQUEST_MALFORMED", "the request ended early", "send it again")
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = [False]

    async def replay() -> MutableMapping[str, Any]:
        if sent[0]:
            return await receive()
        sent[0] = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


# -- the routes


def build_api(
    lab: Lab,
    notifier: Notifier,
    *,
    origin: Callable[[int], str] = lambda port: "",
    metrics: Callable[[], str] = lambda: "",
    stop_job: Callable[[JobRecord, str], None] | None = None,
    enrolment_limit: RateLimit | None = None,
) -> Gate:
    """The ASGI application.

    Args: metrics: further lines of Prometheus text; stop_job: ends a job at the relay.
    """
    registry = lab.registry
    limit = enrolment_limit or RateLimit(ENROLMENTS_PER_WINDOW, ENROLMENT_WINDOW_S)
    app = FastAPI(
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        title="Concordat lab",
        version=VERSIONS,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # both pages fetch scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
        description="Requests are signed: header Concordat-Signature, see protocols/signed_request.py.",
    )
    app.add_exception_handler(RequestValidationError, _on_malformed)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ConcordatError, _on_error)
    app.add_exception_handler(Exception, _on_error)

    @app.get("/v1/health")
    def health() -> dict[str, Any]:
        """Whether the lab and its database answer."""
        registry.ping()
        return {"status": "ok", "version": VERSIONS, "time": registry.now()}

    @app.get("/v1/metrics", response_class=PlainTextResponse)
    def show_metrics(request: Request) -> PlainTextResponse:
        """Prometheus text, for the bearer of the lab's metrics token."""
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {lab.metrics_token()}".encode()):
            raise TransportError("METRICS_REFUSED", "the metrics token is missing or wrong", "see metrics.token")
        return PlainTextResponse(_counters(gate) + metrics(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/authority")
    def authority() -> dict[str, str]:
        """The lab's certificate authority; who asks compares its fingerprint with the token's."""
        return {"ca": lab.authority.pem}

    @app.post("/v1/enrolment")
    def enrol(body: Enrolment, request: Request) -> dict[str, str]:
        """Enrol an institution against its token."""
        limit.check(request.state.address)
        enrolled = lab.enrol(
            EnrolmentToken.decode(body.token),
            body.name,
            bytes.fromhex(body.identity),
            body.csr.encode(),
            bytes.fromhex(body.identity_signature),
            bytes.fromhex(body.tls_signature),
        )
        limit.forgive(request.state.address)
        return {"certificate": enrolled.certificate, "ca": enrolled.ca, "lab_identity": lab.identity_hex}

    @app.post("/v1/renewal")
    def renew(body: Renewal, request: Request) -> dict[str, str]:
        """A new certificate for the sender."""
        enrolled = lab.renew(request.state.member, body.csr.encode())
        return {"certificate": enrolled.certificate, "ca": enrolled.ca, "lab_identity": lab.identity_hex}

    @app.get("/v1/revocations", response_class=PlainTextResponse)
    def revocations() -> PlainTextResponse:
        """The certificate revocation list, PEM."""
        listed = registry.revoked_certificates()
        return PlainTextResponse(lab.authority.revocation_list(listed, lab.utc()).decode())

    @app.get("/v1/members")
    def members() -> dict[str, Any]:
        """Every institution of the lab, and the lab itself as 'coordinator'."""
        found = [
            {"name": item.name, "identity": item.identity, "state": item.state, "joined": item.joined}
            for item in registry.institutions()
        ]
        return {"members": found, "coordinator": {"name": COORDINATOR, "identity": lab.identity_hex}}

    @app.post("/v1/catalogue")
    def publish(body: Publication, request: Request) -> dict[str, Any]:
        """Enter or replace the metadata of one of the sender's data sets."""
        registry.publish(request.state.member, body.dataset, body.document.encode())
        return {"owner": request.state.member, "dataset": body.dataset}

    @app.get("/v1/catalogue")
    def catalogue() -> dict[str, Any]:
        """Every published data set."""
        found = [
            {
                "owner": item.owner,
                "dataset": item.dataset,
                "document": item.document.decode(),
                "published": item.published,
            }
            for item in registry.catalogue()
        ]
        return {"datasets": found}

    @app.post("/v1/contracts")
    def propose(body: Proposal, request: Request) -> dict[str, Any]:
        """Propose a contract that the sender is a member of."""
        digest, created = lab.propose(request.state.member, body.document.encode())
        return {"hash": digest, "created": created}

    @app.get("/v1/contracts")
    def contracts(request: Request) -> dict[str, Any]:
        """The sender's contracts."""
        return {"contracts": [_contract(item) for item in registry.contracts(request.state.member)]}

    @app.get("/v1/contracts/{digest}")
    def contract(digest: Annotated[Hex32, Path()], request: Request) -> dict[str, Any]:
        """One contract with its signatures and events."""
        return _contract(registry.contract(digest, request.state.member))

    @app.post("/v1/contracts/{digest}/signatures")
    def sign(digest: Annotated[Hex32, Path()], body: ContractSignature, request: Request) -> dict[str, Any]:
        """Add the sender's signature."""
        return _contract(lab.sign(digest, request.state.member, body.signature))

    @app.post("/v1/contracts/{digest}/events")
    def add_event(digest: Annotated[Hex32, Path()], body: ContractEventBody, request: Request) -> dict[str, Any]:
        """Add an event that the sender signed."""
        created = registry.add_event(digest, request.state.member, SignedEvent.decode(body.document.encode()))
        return {"created": created}

    add_model_routes(app, registry)

    @app.post("/v1/jobs")
    def submit(body: Submission, request: Request) -> dict[str, Any]:
        """Submit a job; the same document again is the same job."""
        record, created = lab.submit(request.state.member, body.document.encode())
        return _job(record) | {"created": created}

    @app.get("/v1/jobs")
    def jobs(request: Request) -> dict[str, Any]:
        """Every attempt of every job of the sender's contracts."""
        return {"jobs": [_job(item) for item in registry.jobs(request.state.member)]}

    @app.get("/v1/jobs/{job}")
    def job_of(
        job: Annotated[Identifier, Path()],
        request: Request,
        attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    ) -> dict[str, Any]:
        """One attempt of a job, the latest if none is named."""
        return _job(registry.job(job, request.state.member, attempt))

    @app.post("/v1/jobs/{job}/stop")
    def stop(job: Annotated[Identifier, Path()], body: Stop, request: Request) -> dict[str, Any]:
        """End a job for all its parties."""
        record = registry.job(job, request.state.member, body.attempt)
        if stop_job is not None:
            stop_job(record, "JOB_STOPPED")
        else:
            registry.end_job(record, "JOB_STOPPED", stopped=True)
        return _job(registry.job(job, request.state.member, body.attempt))

    @app.post("/v1/jobs/{job}/reports")
    def report(job: Annotated[Identifier, Path()], body: Report, request: Request) -> dict[str, Any]:
        """How far the sender's agent has come."""
        registry.report(job, request.state.member, body.attempt, body.stage, body.code)
        return {"received": True}

    @app.post("/v1/heads")
    def pass_on(body: Notice, request: Request) -> dict[str, Any]:
        """Pass a head of an audit log, or a receipt, on to a party of a common contract."""
        created = registry.pass_on(request.state.member, body.to, body.kind, body.document.encode())
        return {"created": created}

    @app.get("/v1/requests")
    async def requests(
        request: Request,
        after: Annotated[int, Query(ge=0, le=1 << 53)] = 0,
        wait: Annotated[int, Query(ge=0, le=LONGEST_POLL_S)] = LONGEST_POLL_S,
    ) -> dict[str, Any]:
        """What has come for the sender's agent since place `after`; waits up to `wait` seconds for something.

        again: `after` is no place in this queue, the lab was restored; what follows is the queue from its start.
        """
        deadline = time.monotonic() + wait
        end = await run_in_threadpool(registry.queue_end, request.state.member)
        known = end.number(after)
        again = known is None
        while True:
            found = await run_in_threadpool(registry.requests, request.state.member, known or 0)
            remaining = deadline - time.monotonic()
            if found or again or remaining <= 0 or notifier.closing or await request.is_disconnected():
                return {
                    "requests": [
                        {
                            "number": end.place(item.number),
                            "kind": item.kind,
                            "reference": item.reference,
                            "attempt": item.attempt,
                            "code": item.code,
                            "at": item.at,
                            "document": item.document,
                        }
                        for item in found
                    ],
                    "next": end.place(found[-1].number if found else 0) if found or again else after,
                    "again": again,
                }
            await notifier.news(min(remaining, POLL_INTERVAL_S))

    gate = Gate(app, lab, notifier, origin)
    return gate


def _contract(record: ContractRecord) -> dict[str, Any]:
    return {
        "hash": record.hash,
        "document": record.signed.encode().decode(),
        "proposer": record.proposer,
        "received": record.received,
        "events": [item.encode().decode() for item in record.events],
    }


def _job(record: JobRecord) -> dict[str, Any]:
    document = record.signed.document
    return {
        "job": document.job,
        "attempt": document.attempt,
        "hash": record.hash,
        "kind": document.kind.value,
        "contract_hash": document.contract_hash,
        "submitter": record.submitter,
        "submitted": record.submitted,
        "expires": document.expires,
        "state": record.state.value,
        "code": record.code,
        "ended": record.ended,
        "document": record.signed.encode().decode(),
        "reports": [
            {"party": party, "stage": stage, "code": code, "at": at} for party, stage, code, at in record.reports
        ],
    }


def _counters(gate: Gate) -> str:
    lines = ["# HELP concordat_requests_total Answers of the API.", "# TYPE concordat_requests_total counter"]
    for (method, route, status), count in sorted(gate.answers.items()):
        labels = f'method="{method}",route="{route}",status="{status}"'
        lines.append(f"concordat_requests_total{{{labels}}} {count}")
    return "\n".join(lines) + "\n"


# -- errors


def status_of(error: ConcordatError) -> int:
    """The HTTP status that fits an error."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    if error.code.endswith(("_MALFORMED", "_INVALID")) or isinstance(error, DataError | RecipeError):
        return 400
    if isinstance(error, ContractViolationError):
        return 409
    return 400 if isinstance(error, RemoteProtocolError) else 500


def _error(error: ConcordatError) -> Response:
    document = {"code": error.code, "message": error.message, "remedy": error.remedy}
    return JSONResponse(document, status_code=status_of(error))


async def _on_error(_request: Request, error: Exception) -> Response:
    return _error(error if isinstance(error, ConcordatError) else _internal())


async def _on_malformed(_request: Request, _error_: Exception) -> Response:
    return _error(malformed())


async def _on_http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 400:  # a body that nests too deeply to be read
        return _error(malformed())
    document = {
        "code": "NOT_FOUND",
        "message": "the lab has no such page, or not for this method",
        "remedy": "see /v1/openapi.json",
    }
    return JSONResponse(document, status_code=status)


def malformed() -> TransportError:
    """The body or the query is not what the route takes; what it holds is not repeated."""
    return TransportError(
        "REQUEST_MALFORMED",
        "the request is not JSON, or has a field that is missing, unknown or out of range",
        "compare it with /v1/openapi.json",
    )


def _too_large(limit: int) -> TransportError:
    return TransportError(
        "BODY_TOO_LARGE", f"the request's body is larger than {limit} bytes", "send a smaller document"
    )


def _internal() -> TransportError:
    return TransportError("INTERNAL_ERROR", "the lab failed in a way that was not foreseen", "see the lab's log")


_SAME_VERSION = "install the same version of Concordat at the lab and at every institution"
