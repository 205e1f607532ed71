"""The agent's loopback port: where a launcher on the same machine hands in a job document, and asks how it stands.

The launcher is not trusted: it may run as another user, and run other people's code. It needs the token that
`prepare_launcher` put into a folder of its own; with it, it can hand in documents of bounded size, a bounded number a
minute, and learn the state of a job whose name it knows. A document is taken exactly as if the lab had delivered it:
the agent checks it against its own contracts and policy.

    POST /v1/jobs          a signed job document -> {"job", "attempt", "state": "handed"}
    GET  /v1/jobs/{job}    -> {"job", "attempt", "state", "code"}
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import pwd
import re
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from party_agent.store import Folder
from protocols.contract import MAX_DOCUMENT_BYTES, SignedJob
from protocols.errors import ConcordatError, DataError, TransportError

HOST = "127.0.0.1"
DIGEST_FILE = "loopback.json"  # in the agent's folder: SHA-256 of the token
TOKEN_FILE, KEY_FILE, PUBLIC_FILE, AUTHORITY_FILE = "agent.token", "supernode.key", "supernode.pub", "ca.pem"
MOST_WAITING = 16  # documents that the agent has not looked at yet
MOST_A_MINUTE = 20
MOST_CONNECTIONS = 8
IDLE_S = 5.0
LONGEST_S = 10.0  # a connection, however slowly it sends
_JOB_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_STATUS = {
    "LOOPBACK_REFUSED": 401,
    "NOT_FOUND": 404,
    "JOB_UNKNOWN": 404,
    "BODY_TOO_LARGE": 413,
    "RATE_LIMITED": 429,
}

States = Callable[[str], tuple[int, str, str]]


@dataclass(frozen=True)
class Handed:
    """A document that a launcher handed in. data: the bytes of a `SignedJob`."""

    job: str
    attempt: int
    data: bytes


class Inbox:
    """Documents between the port's threads and the agent's loop; bounded in number and in rate.

    Args: clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: deque[Handed] = deque()
        self._taken_at: deque[float] = deque()
        self._lock = threading.Lock()

    def hand(self, data: bytes) -> Handed:
        """Keep a document for the agent. The same bytes again, while they wait, are the same document.

        Raises: ContractViolationError: JOB_MALFORMED. TransportError: RATE_LIMITED.
        """
        document = SignedJob.decode(data).document
        handed = Handed(document.job, document.attempt, data)
        with self._lock:
            if handed in self._waiting:
                return handed
            now = self._clock()
            while self._taken_at and self._taken_at[0] <= now - 60:
                self._taken_at.popleft()
            if len(self._waiting) >= MOST_WAITING or len(self._taken_at) >= MOST_A_MINUTE:
                raise TransportError("RATE_LIMITED", "too many documents were handed in", "wait a minute")
            self._taken_at.append(now)
            self._waiting.append(handed)
        return handed

    def first(self) -> Handed | None:
        """The oldest document that waits; it stays until `done`."""
        with self._lock:
            return self._waiting[0] if self._waiting else None

    def done(self, handed: Handed) -> None:
        """The agent has decided."""
        with self._lock:
            self._waiting.remove(handed)

    def waits(self, job: str) -> Handed | None:
        """The document of this job that still waits."""
        with self._lock:
            return next((handed for handed in self._waiting if handed.job == job), None)


class LoopbackServer:
    """The port, from construction until `close`.

    Args: folder: the agent's; port: 0 for any free one; states: attempt, state and code of a job, or DataError.
    Raises: DataError: LOOPBACK_UNPREPARED: no launcher has a token. TransportError: LOOPBACK_UNAVAILABLE.
    """

    def __init__(self, folder: Path, port: int, inbox: Inbox, states: States) -> None:
        digest = _read_digest(folder)
        handler = type("_Handler", (_Requests,), {"digest": digest, "inbox": inbox, "states": staticmethod(states)})
        try:
            self._server = _Server((HOST, port), handler)
        except OSError as error:
            raise TransportError(
                "LOOPBACK_UNAVAILABLE", "the loopback port cannot be opened", "name a free port"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(IDLE_S)


class _Server(ThreadingHTTPServer):
    """At most `MOST_CONNECTIONS` at a time; one more waits in the listener's queue."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(timeout=IDLE_S):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self._slots.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        ending = threading.Timer(LONGEST_S, _end, (request,))
        ending.daemon = True
        ending.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            ending.cancel()
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class _Requests(BaseHTTPRequestHandler):
    """One connection, one request: HTTP/1.0, closed after the answer."""

    digest: bytes
    inbox: Inbox
    states: States
    timeout = IDLE_S
    server_version = "concordat"
    sys_version = ""

    def do_POST(self) -> None:
        self._answer(self._hand)

    def do_GET(self) -> None:
        self._answer(self._state)

    def _hand(self) -> dict[str, Any]:
        if self.path != "/v1/jobs":
            raise _not_found()
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length):
            raise TransportError("REQUEST_MALFORMED", "the request has no length", "see docs/flower.md")
        if int(length) > MAX_DOCUMENT_BYTES:
            raise TransportError("BODY_TOO_LARGE", "a job document has at most 1 MiB", "see docs/flower.md")
        handed = self.inbox.hand(self.rfile.read(int(length)))
        return {"job": handed.job, "attempt": handed.attempt, "state": "handed", "code": ""}

    def _state(self) -> dict[str, Any]:
        prefix, _, job = self.path.rpartition("/")
        if prefix != "/v1/jobs" or not _JOB_NAME.fullmatch(job):
            raise _not_found()
        waiting = self.inbox.waits(job)
        if waiting is not None:
            return {"job": job, "attempt": waiting.attempt, "state": "handed", "code": ""}
        attempt, state, code = self.states(job)
        return {"job": job, "attempt": attempt, "state": state, "code": code}

    def _answer(self, act: Callable[[], dict[str, Any]]) -> None:
        try:
            self._admit()
            status, document = 200, act()
        except ConcordatError as error:
            status = _STATUS.get(error.code, 400)
            document = {"code": error.code, "message": error.message, "remedy": error.remedy}
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _admit(self) -> None:
        """The token, and a Host that no web page of another origin can send."""
        port = self.connection.getsockname()[1]
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        right = hmac.compare_digest(hashlib.sha256(shown).digest(), self.digest)
        if not right or self.headers.get("Host") != f"{HOST}:{port}" or "Origin" in self.headers:
            raise TransportError(
                "LOOPBACK_REFUSED",
                "the request does not show the token of this agent's launcher",
                "make the launcher's folder again with `concordat-party flower prepare`",
            )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is handed in is in the agent's audit log."""


def _end(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def prepare_launcher(folder: Path, launcher: Path, user: str | None = None) -> Path:
    """Make the launcher's folder: the SuperNode's authentication key, a token for the loopback port, the authority.

    The token of an earlier folder ends; a running agent reads the new one when it starts again. The folder is given
    away last, so that nobody else can put a link into it before.
    Args: folder: the agent's; launcher: does not exist yet; user: whose it shall be (only root can give it).
    Returns: the SuperNode's public key file, which the lab's operator registers.
    Raises: DataError: AGENT_MISSING, LAUNCHER_INSIDE, LAUNCHER_USER, OUT_NOT_EMPTY, FOLDER_UNUSABLE.
    """
    if not (folder / "identity.pem").is_file():
        raise DataError("AGENT_MISSING", "the folder is not an institution's", "make it with `concordat-party init`")
    if launcher.resolve().is_relative_to(folder.resolve()):
        raise DataError("LAUNCHER_INSIDE", "the launcher's folder lies in the agent's", "name a folder elsewhere")
    if launcher.exists() or launcher.is_symlink():
        raise DataError(
            "OUT_NOT_EMPTY", "the launcher's folder exists already", "name a new folder, remove the old one"
        )
    try:
        owner = None if user is None else pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise _no_user() from error
    token = secrets.token_urlsafe(32).encode()
    own = Folder(launcher)
    try:
        launcher.chmod(0o700)
        key = ec.generate_private_key(ec.SECP384R1())
        own.write(
            KEY_FILE,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            ),
        )
        public = own.write(
            PUBLIC_FILE,
            key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        )
        own.write(TOKEN_FILE, token)
        authority = folder / "tls" / "ca.pem"
        if authority.is_file():
            own.write(AUTHORITY_FILE, authority.read_bytes())
        (launcher / "flower").mkdir(exist_ok=True, mode=0o700)
        if owner is not None:
            for path in (*launcher.iterdir(), launcher):
                os.chown(path, owner, -1, follow_symlinks=False)
    except PermissionError as error:
        raise _no_user() from error
    except OSError as error:
        raise DataError(
            "FOLDER_UNUSABLE", "the launcher's folder cannot be written", "check its permissions"
        ) from error
    Folder(folder).write_json(DIGEST_FILE, {"token_sha256": hashlib.sha256(token).hexdigest()})
    return public


def _read_digest(folder: Path) -> bytes:
    try:
        digest = bytes.fromhex(json.loads((folder / DIGEST_FILE).read_bytes())["token_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "LOOPBACK_UNPREPARED", "no launcher has a token for this agent", "run `concordat-party flower prepare`"
        ) from error
    return digest


def _no_user() -> DataError:
    return DataError("LAUNCHER_USER", "the folder cannot be given to that user", "name a user that exists, as root")


def _not_found() -> TransportError:
    return TransportError("NOT_FOUND", "the loopback port has no such page", "see docs/flower.md")
