"""The agent's local page: waiting jobs in plain words, approve or refuse; running jobs, contracts, the audit log's end.

It listens on 127.0.0.1 only. Other users and web pages on this machine are the adversary: a token that the daemon
prints opens one session; a cookie that scripts and other sites cannot use holds it; each form carries the session's own
secret; a request under another host name (DNS rebinding) or from another origin is refused; nothing is loaded from
outside.
"""

from __future__ import annotations

import hmac
import re
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import jinja2
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from party_agent.agent import Agent, JobEntry, JobState
from party_agent.explanation import explain, explain_job
from party_agent.job_output import read_progress
from protocols.audit import MAX_LINE_BYTES, parse_line
from protocols.audit_export import instant, sentence
from protocols.audit_files import FileMedium
from protocols.contract import SignedJob
from protocols.errors import ConcordatError, TransportError
from protocols.recipe import recipe_from_canonical

if TYPE_CHECKING:
    from starlette.middleware.base import RequestResponseEndpoint

COOKIE = "concordat_page"
SESSION_S = 8 * 3600
MOST_SESSIONS = 8
MOST_BODY_BYTES = 4096
AUDIT_LINES = 15
_LENGTH = re.compile(r"[0-9]{1,9}")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Session:
    secret: str  # in every form
    expires: float


class Sessions:
    """Who may see the page: one-time tokens and the sessions they opened, in memory only.

    Args: say: prints a token where only the operator reads it; clock: seconds.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()
        self._token = ""
        self._print_token()

    def open(self, token: str) -> str | None:
        """A new session for the token that was printed last, which is void then; None for any other."""
        with self._lock:
            if not hmac.compare_digest(token.strip().encode(), self._token.encode()):
                return None
            self._print_token()
            now = self._clock()
            live = {key: item for key, item in self._sessions.items() if item.expires > now}
            self._sessions = dict(list(live.items())[-(MOST_SESSIONS - 1) :])
            name = secrets.token_urlsafe(32)
            self._sessions[name] = _Session(secrets.token_urlsafe(32), now + SESSION_S)
            return name

    def secret(self, name: str | None) -> str | None:
        """The secret of the forms of a session, None if there is no such session any more."""
        with self._lock:
            session = self._sessions.get(name or "")
            return session.secret if session is not None and session.expires > self._clock() else None

    def close(self, name: str | None) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(name or "", None)

    def _print_token(self) -> None:
        self._token = secrets.token_urlsafe(24)
        self._say(self._token)


def build_page(agent: Agent, folder: Path, port: int, sessions: Sessions) -> FastAPI:
    """The page as an ASGI application. agent: one of the page's own, beside the daemon's."""
    app = FastAPI(
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
    acting = threading.Lock()

    def show(template: str, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(templates.get_template(template).render(**values), status_code=status)

    @app.middleware("http")
    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        host = request.headers.getlist("host")
        origin = request.headers.get("origin")
        if len(host) != 1 or host[0] not in hosts:
            answer: Response = Response("This page answers at its own address only.\n", 421)
        elif request.method == "POST" and origin is not None and origin != f"http://{host[0]}":
            answer = Response("This request came from another page.\n", 403)
        elif not _LENGTH.fullmatch(request.headers.get("content-length", "0")) or (
            "transfer-encoding" in request.headers
        ):
            answer = Response("The request is malformed.\n", 400)
        elif int(request.headers.get("content-length", "0")) > MOST_BODY_BYTES:
            answer = Response("The request is too large.\n", 413)
        else:
            answer = await call_next(request)
        answer.headers.update(_HEADERS)
        return answer

    @app.get("/style.css")
    def style() -> Response:
        return Response((_TEMPLATES / "local_page.css").read_bytes(), media_type="text/css")

    @app.get("/")
    def overview(request: Request) -> Response:
        secret = sessions.secret(request.cookies.get(COOKIE))
        if secret is None:
            return show("local_login.html", wrong=False)
        with acting:
            return show("local_page.html", secret=secret, error=None, **_state(agent, folder))

    @app.post("/login")
    async def login(request: Request) -> Response:
        session = sessions.open((await _form(request)).get("token", ""))
        if session is None:
            return show("local_login.html", 403, wrong=True)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, session, max_age=SESSION_S, httponly=True, samesite="strict", path="/")
        return answer

    @app.post("/logout")
    async def logout(request: Request) -> Response:
        if await _permitted(request) is None:
            return show("local_login.html", 403, wrong=False)
        sessions.close(request.cookies.get(COOKIE))
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    async def _permitted(request: Request) -> str | None:
        """The session's secret if the form carries it."""
        secret = sessions.secret(request.cookies.get(COOKIE))
        given = (await _form(request)).get("secret", "")
        return secret if secret is not None and hmac.compare_digest(given.encode(), secret.encode()) else None

    def decide(verb: Callable[[str], JobEntry]) -> Callable[[str, Request], Awaitable[Response]]:
        async def act(job: str, request: Request) -> Response:
            secret = await _permitted(request)
            if secret is None:
                return show("local_login.html", 403, wrong=False)
            return await run_in_threadpool(decided, verb, job, secret)

        return act

    def decided(verb: Callable[[str], JobEntry], job: str, secret: str) -> Response:
        with acting:
            try:
                verb(job)
            except ConcordatError as error:
                return show("local_page.html", 409, secret=secret, error=error, **_state(agent, folder))
        return RedirectResponse("/", 303)

    app.post("/jobs/{job}/approve")(decide(agent.approve))
    app.post("/jobs/{job}/refuse")(decide(agent.refuse))
    return app


class LocalPage:
    """The page on a port of 127.0.0.1, in a thread. Args: port: 0 for a free one; say: prints a line to the operator.

    Raises: TransportError: PORT_TAKEN.
    """

    def __init__(self, agent: Agent, folder: Path, port: int, say: Callable[[str], None]) -> None:
        try:
            self._socket = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise TransportError("PORT_TAKEN", "the page's port is in use", "choose another --page-port") from error
        self.port = int(self._socket.getsockname()[1])

        def told(token: str) -> None:
            say(f"Approvals: http://127.0.0.1:{self.port}/  login token, good once: {token}")

        app = build_page(agent, folder, self.port, Sessions(told))
        config = uvicorn.Config(
            app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        self._thread.join(5)
        self._socket.close()


# -- what is shown


def _state(agent: Agent, folder: Path) -> dict[str, Any]:
    jobs = agent.jobs()
    return {
        "name": agent.settings.name,
        "lab": agent.settings.lab,
        "waiting": [_waiting(agent, folder, it) for it in jobs if it.state is JobState.WAITING],
        "running": [(it, read_progress(folder / "jobs" / it.job)) for it in jobs if it.state is JobState.RUNNING],
        "others": [it for it in jobs if it.state not in (JobState.WAITING, JobState.RUNNING)][-20:],
        "contracts": _contracts(agent),
        "audit": _audit_tail(folder),
    }


def _waiting(agent: Agent, folder: Path, entry: JobEntry) -> dict[str, Any]:
    """A job that waits, with what its documents mean; a document that cannot be read is said to be so."""
    shown: dict[str, Any] = {"entry": entry, "explanation": (), "recipe": (), "owner": "", "expires": "", "fault": ""}
    try:
        contract = agent.contracts.get(entry.contract).contract
        document = SignedJob.decode((folder / "jobs" / entry.job / "job.json").read_bytes()).document
        shown["explanation"] = explain(contract, agent.settings.name).parts()
        shown["recipe"] = explain_job(document, recipe_from_canonical(document.recipe.encode()), contract.parties)
        shown["owner"] = contract.parties.label_owner
        shown["expires"] = _day(document.expires)
    except (ConcordatError, OSError) as error:
        shown["fault"] = str(error) if isinstance(error, ConcordatError) else "the job's document cannot be read"
    return shown


def _contracts(agent: Agent) -> list[dict[str, Any]]:
    now, rows = int(time.time()), []
    for signed in agent.contracts.all():
        contract = signed.contract
        try:
            state = agent.contracts.state(signed, now).value
        except ConcordatError as error:
            state = error.code
        rows.append(
            {
                "id": contract.contract_id,
                "version": contract.version,
                "hash": contract.hash().hex()[:12],
                "state": state,
                "signed": ", ".join(name for name, _ in signed.signatures),
                "until": _day(contract.valid_until),
            }
        )
    return rows


def _audit_tail(folder: Path) -> list[tuple[str, str]]:
    """(time, sentence) of the last entries, newest first; not verified here."""
    medium, found = FileMedium(folder), []
    start = max(0, medium.size() - AUDIT_LINES * MAX_LINE_BYTES)
    lines = medium.read(start).splitlines(keepends=True)[1 if start else 0 :]
    for line in reversed(lines[-AUDIT_LINES:]):
        try:
            entry, _ = parse_line(line)
        except ConcordatError as error:
            found.append(("", error.code))
            continue
        found.append((instant(entry), sentence(entry)))
    return found


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; a body that is none has no fields."""
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode("ascii"), max_num_fields=8))
    except ValueError:
        return {}


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
