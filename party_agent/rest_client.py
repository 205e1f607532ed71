"""What an agent asks of the lab: signed requests, over TLS that the lab's own authority vouches for.
Connections go out only. What the lab answers is delivery; documents in it are checked by whoever uses them.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.enrolment import VERSION_HEADER, VERSIONS
from protocols.errors import RemoteProtocolError, TransportError
from protocols.sharing import Entropy
from protocols.signed_request import HEADER_NAME, NONCE_BYTES, sign_request

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 64 << 20
LONGEST_POLL_S = 25
_CODE = re.compile(r"[A-Z][A-Z0-9_]{2,47}")


class RestClient:
    """The lab's API, for one institution.

    Args: address: 'host:port'; ca: PEM of the only authority that is believed; name, identity: who signs, None for
        requests that need no signature.
    Every method raises TransportError: LAB_UNREACHABLE, CERTIFICATE_REJECTED, VERSION_MISMATCH, LAB_ANSWER_INVALID, or
    the code that the lab answered with.
    """

    def __init__(
        self,
        address: str,
        ca: str,
        name: str = "",
        identity: Ed25519PrivateKey | None = None,
        *,
        clock: Callable[[], float] = time.time,
        entropy: Entropy = os.urandom,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._name = name
        self._identity = identity
        self._clock = clock
        self._entropy = entropy
        try:
            trusted = context or ssl.create_default_context(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise _rejected("the lab's authority in this folder cannot be read") from error
        trusted.minimum_version = ssl.TLSVersion.TLSv1_2
        trusted.set_alpn_protocols(["http/1.1"])
        self._http = httpx.Client(
            base_url=f"https://{address}",
            verify=trusted,
            trust_env=False,  # no proxy, no authority that the environment names
            follow_redirects=False,
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            headers={VERSION_HEADER: VERSIONS, "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- enrolment

    def authority(self) -> str:
        """PEM of the authority that the lab says is its own."""
        return _text(self.call("GET", "/v1/authority"), "ca")

    def enrol(self, request: Mapping[str, str]) -> dict[str, Any]:
        """POST /v1/enrolment."""
        return self.call("POST", "/v1/enrolment", request)

    def renew(self, csr: str) -> dict[str, Any]:
        """A new certificate for a new TLS key."""
        return self.call("POST", "/v1/renewal", {"csr": csr})

    def members(self) -> dict[str, Any]:
        """{"members": [{name, identity, state, joined}], "coordinator": {name, identity}}."""
        return self.call("GET", "/v1/members")

    def health(self) -> dict[str, Any]:
        """{"status", "version", "time"}."""
        return self.call("GET", "/v1/health")

    # -- catalogue

    def publish(self, dataset: str, document: str) -> dict[str, Any]:
        """Enter or replace the metadata of one of our data sets."""
        return self.call("POST", "/v1/catalogue", {"dataset": dataset, "document": document})

    def catalogue(self) -> list[dict[str, Any]]:
        """[{owner, dataset, document, published}]."""
        return _list(self.call("GET", "/v1/catalogue"), "datasets")

    # -- contracts

    def propose(self, document: str) -> dict[str, Any]:
        """Propose a `SignedContract`: {hash, created}."""
        return self.call("POST", "/v1/contracts", {"document": document})

    def contracts(self) -> list[dict[str, Any]]:
        """[{hash, document, proposer, received, events}]: ours."""
        return _list(self.call("GET", "/v1/contracts"), "contracts")

    def contract(self, digest: str) -> dict[str, Any]:
        """{hash, document, proposer, received, events}."""
        return self.call("GET", f"/v1/contracts/{quote(digest, safe='')}")

    def sign_contract(self, digest: str, signature: str) -> dict[str, Any]:
        """Add our signature; the contract as it stands then."""
        return self.call("POST", f"/v1/contracts/{quote(digest, safe='')}/signatures", {"signature": signature})

    def add_event(self, digest: str, document: str) -> dict[str, Any]:
        """Deliver a `SignedEvent` of ours."""
        return self.call("POST", f"/v1/contracts/{quote(digest, safe='')}/events", {"document": document})

    # -- models

    def submit_model(self, record: str, event: str) -> dict[str, Any]:
        """Submit a `ModelRecord` with the event that does so: {hash, created}."""
        return self.call("POST", "/v1/models", {"record": record, "event": event})

    def models(self) -> list[dict[str, Any]]:
        """[{hash, record, events}]: of our contracts."""
        return _list(self.call("GET", "/v1/models"), "models")

    def model(self, digest: str) -> dict[str, Any]:
        """{hash, record, events}."""
        return self.call("GET", f"/v1/models/{quote(digest, safe='')}")

    def add_model_event(self, digest: str, document: str) -> dict[str, Any]:
        """Deliver a `SignedModelEvent` of ours."""
        return self.call("POST", f"/v1/models/{quote(digest, safe='')}/events", {"document": document})

    # -- jobs

    def submit(self, document: str) -> dict[str, Any]:
        """Submit a `SignedJob`; the job, with `created`. The same document again is the same job."""
        return self.call("POST", "/v1/jobs", {"document": document})

    def jobs(self) -> list[dict[str, Any]]:
        """Every attempt of every job of our contracts."""
        return _list(self.call("GET", "/v1/jobs"), "jobs")

    def job(self, job: str, attempt: int | None = None) -> dict[str, Any]:
        """{job, attempt, hash, kind, state, code, document, reports, ...} of one attempt, by default the latest."""
        query = {"attempt": attempt} if attempt is not None else {}
        return self.call("GET", f"/v1/jobs/{quote(job, safe='')}", query=query)

    def stop(self, job: str, attempt: int) -> dict[str, Any]:
        """End an attempt for all its parties."""
        return self.call("POST", f"/v1/jobs/{quote(job, safe='')}/stop", {"attempt": attempt})

    def report(self, job: str, attempt: int, stage: str, code: str | None = None) -> None:
        """Say how far our agent has come: 'accepted', 'refused', 'finished', 'failed' move the job."""
        body = {"attempt": attempt, "stage": stage, "code": code}
        self.call("POST", f"/v1/jobs/{quote(job, safe='')}/reports", body)

    def send_head(self, to: str, kind: str, document: str) -> None:
        """Have a head of our audit log, or a receipt for one, passed on to the agent of `to`. kind: head, receipt."""
        self.call("POST", "/v1/heads", {"to": to, "kind": kind, "document": document})

    def requests(self, after: int, wait_s: int = LONGEST_POLL_S) -> tuple[list[dict[str, Any]], int]:
        """What has come for our agent since place `after`, waiting up to `wait_s` seconds; the place to go on from.

        It is an earlier one if the lab was restored from a backup: then the queue is read again, as far as it goes.
        A request is {number, kind, reference, attempt, code, at, document}; kind: contract, signature, event, model,
        job, start, stop, ended, head, receipt; reference: a contract's or a model's hash or a job's name; document:
        of a job, a head, a receipt, else None.
        """
        answer = self.call("GET", "/v1/requests", query={"after": after, "wait": wait_s})
        following = answer.get("next")
        if type(following) is not int or (following < after and answer.get("again") is not True):
            raise _invalid()
        return _list(answer, "requests"), following

    # -- one request

    def call(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any] | None = None,
        query: Mapping[str, int | str] | None = None,
    ) -> dict[str, Any]:
        """Send one request; the JSON object that the lab answers."""
        target = f"{path}?{urlencode(query)}" if query else path
        body = b"" if document is None else json.dumps(document, ensure_ascii=False).encode()
        headers = {} if document is None else {"Content-Type": "application/json"}
        if self._identity is not None:
            nonce = self._entropy(NONCE_BYTES)
            now = int(self._clock())
            headers[HEADER_NAME] = sign_request(self._identity, self._name, method, target, body, now, nonce)
        status, data = self._send(method, target, body, headers)
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _invalid() from error
        if not isinstance(answer, dict):
            raise _invalid()
        if status != 200:
            raise _answered(answer)
        return answer

    def _send(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        data = bytearray()
        try:
            with self._http.stream(method, target, content=body, headers=dict(headers)) as response:
                for chunk in response.iter_raw():
                    data += chunk
                    if len(data) > MAX_ANSWER_BYTES:
                        raise _invalid()
                version = response.headers.get(VERSION_HEADER)
                status = response.status_code
        except httpx.HTTPError as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, ssl.SSLCertVerificationError):
                    raise _rejected("the lab's certificate is not signed by the authority that was pinned") from error
                cause = cause.__cause__ or cause.__context__
            raise TransportError(
                "LAB_UNREACHABLE",
                "the lab cannot be reached, or the connection to it ended",
                "check that the lab runs and that outbound connections to its address and port are allowed",
            ) from error
        if version != VERSIONS:
            raise TransportError(
                "VERSION_MISMATCH",
                "the lab runs another version, or something else answers at its address",
                "install the same version of Concordat at the lab and at every institution",
            )
        return status, bytes(data)


def _answered(answer: Mapping[str, Any]) -> TransportError | RemoteProtocolError:
    code, message, remedy = (answer.get(key) for key in ("code", "message", "remedy"))
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return _invalid()
    return TransportError(code, f"the lab answered: {_short(message)}", _short(remedy))


def _short(text: object) -> str:
    """A sentence of the lab's, on one line and of bounded length."""
    return " ".join(str(text).split())[:300] if isinstance(text, str) and text.isprintable() else "see docs/errors.md"


def _list(answer: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = answer.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise _invalid()
    return found


def _text(answer: Mapping[str, Any], key: str) -> str:
    found = answer.get(key)
    if not isinstance(found, str):
        raise _invalid()
    return found


def _invalid() -> TransportError:
    return TransportError(
        "LAB_ANSWER_INVALID", "the lab's answer is not of the form that was agreed", "compare versions with the lab"
    )


def _rejected(sentence: str) -> TransportError:
    return TransportError(
        "CERTIFICATE_REJECTED", sentence, "ask the lab's operator; if its authority was renewed, join again"
    )
