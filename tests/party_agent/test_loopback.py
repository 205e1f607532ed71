"""The loopback port: who may hand in a document, how many, and what it tells."""

from __future__ import annotations

import ast
import http.client
import json
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from party_agent import loopback
from party_agent.agent import Agent
from party_agent.enrolment import create_institution
from party_agent.loopback import MOST_A_MINUTE, Inbox, LoopbackServer, prepare_launcher
from protocols.contract import MAX_DOCUMENT_BYTES, JobDocument, JobKind
from protocols.errors import ConcordatError, ContractViolationError, DataError, TransportError
from protocols.recipe import Recipe

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
DOCUMENT = JobDocument(
    contract_hash="ab" * 32,
    job="train-1",
    kind=JobKind.TRAIN,
    recipe=Recipe().canonical().decode(),
    nonce="cd" * 16,
    issued=1_700_000_000,
    expires=1_700_003_600,
)


def signed(job: str = "train-1") -> bytes:
    return replace(DOCUMENT, job=job).sign(KEY).encode()


def standing(job: str) -> tuple[int, str, str]:
    if job != "known":
        raise DataError("JOB_UNKNOWN", "this agent has no such job")
    return 2, "failed", "PARTY_LOST"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """An open port with its inbox and the launcher's token."""
    create_institution(tmp_path / "bank", "bank")
    prepare_launcher(tmp_path / "bank", tmp_path / "launcher")
    inbox = Inbox()
    server = LoopbackServer(tmp_path / "bank", 0, inbox, standing)
    token = (tmp_path / "launcher" / "agent.token").read_text()
    yield SimpleNamespace(port=server.port, inbox=inbox, token=token)
    server.close()


def ask(port: SimpleNamespace, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port.port, timeout=5)
    connection.request(method, path, body, {"Authorization": f"Bearer {port.token}"} | headers)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    return answer.status, document


def test_a_document_waits_for_the_agent_byte_for_byte(port: SimpleNamespace) -> None:
    status, answer = ask(port, "POST", "/v1/jobs", signed())
    assert (status, answer["state"], answer["job"]) == (200, "handed", "train-1")
    assert ask(port, "GET", "/v1/jobs/train-1")[1]["state"] == "handed"
    handed = port.inbox.first()
    assert handed.data == signed()
    port.inbox.done(handed)
    assert ask(port, "GET", "/v1/jobs/train-1") == (404, {"code": "JOB_UNKNOWN"} | ask(port, "GET", "/v1/jobs/x")[1])


def test_the_state_of_a_job_is_attempt_state_and_code_and_nothing_else(port: SimpleNamespace) -> None:
    known = {"job": "known", "attempt": 2, "state": "failed", "code": "PARTY_LOST"}
    assert ask(port, "GET", "/v1/jobs/known") == (200, known)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer " + "x" * 43},
        {"Authorization": ""},
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
    ],
    ids=["another token", "no token", "another host", "a web page"],
)
def test_without_the_token_or_from_a_web_page_nothing_is_taken(port: SimpleNamespace, headers: dict[str, str]) -> None:
    assert ask(port, "POST", "/v1/jobs", signed(), **headers)[1]["code"] == "LOOPBACK_REFUSED"
    assert ask(port, "GET", "/v1/jobs/known", **headers)[0] == 401
    assert port.inbox.first() is None


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/jobs", b"{}", "JOB_MALFORMED"),
        ("/v1/jobs", b"import os", "JOB_MALFORMED"),
        ("/v1/jobs", signed() + b" ", "JOB_MALFORMED"),
        ("/v1/jobs", signed().replace(b"train-1", b"../../p"), "JOB_MALFORMED"),
        ("/v1/run", signed(), "NOT_FOUND"),
        ("/v1/jobs/../policy.toml", signed(), "NOT_FOUND"),
    ],
)
def test_what_is_no_signed_job_is_refused(port: SimpleNamespace, path: str, body: bytes, code: str) -> None:
    assert ask(port, "POST", path, body)[1]["code"] == code
    assert port.inbox.first() is None


def test_a_larger_document_is_refused_before_it_is_read(port: SimpleNamespace) -> None:
    status, answer = ask(port, "POST", "/v1/jobs", None, **{"Content-Length": str(MAX_DOCUMENT_BYTES + 1)})
    assert (status, answer["code"]) == (413, "BODY_TOO_LARGE")


def _still_takes(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"X")
    except OSError:
        return False
    return True


def test_a_client_that_sends_drop_by_drop_is_cut_off(port: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "LONGEST_S", 0.5)
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port.port), timeout=5) as slow:
        slow.sendall(b"POST /v1/jobs HTTP/1.0\r\n")
        while time.monotonic() < begin + 4 and _still_takes(slow):
            time.sleep(0.1)
    assert time.monotonic() < begin + 3


def test_a_launcher_gone_wild_is_held_to_a_number_a_minute() -> None:
    now = [0.0]
    inbox = Inbox(lambda: now[0])
    for number in range(MOST_A_MINUTE):
        inbox.done(inbox.hand(signed(f"job-{number}")))
    with pytest.raises(TransportError, match="too many"):
        inbox.hand(signed("one-more"))
    now[0] = 61.0
    assert inbox.hand(signed("one-more")) == inbox.hand(signed("one-more"))


def test_the_launchers_folder_is_its_owners_and_the_agent_keeps_only_a_digest(tmp_path: Path) -> None:
    create_institution(tmp_path / "bank", "bank")
    with pytest.raises(DataError, match="agent's"):
        prepare_launcher(tmp_path / "bank", tmp_path / "bank" / "launcher")
    with pytest.raises(DataError) as missing:
        LoopbackServer(tmp_path / "bank", 0, Inbox(), standing)
    assert missing.value.code == "LOOPBACK_UNPREPARED"
    launcher = tmp_path / "launcher"
    public = prepare_launcher(tmp_path / "bank", launcher)
    assert stat.S_IMODE(launcher.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in launcher.iterdir() if path.is_file()} == {0o600}
    with pytest.raises(DataError) as twice:
        prepare_launcher(tmp_path / "bank", launcher)
    assert twice.value.code == "OUT_NOT_EMPTY"
    token = (launcher / "agent.token").read_bytes()
    assert all(token not in path.read_bytes() for path in (tmp_path / "bank").rglob("*") if path.is_file())
    key = load_ssh_private_key((launcher / "supernode.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert load_ssh_public_key(public.read_bytes()) == key.public_key()


class Lab:
    """A lab that answers nothing but what the agent hands in."""

    def __init__(self, refusal: ConcordatError | None = None) -> None:
        self.submitted: list[str] = []
        self.reports: list[tuple[str, str | None]] = []
        self.refusal = refusal

    def requests(self, after: int, wait_s: int) -> tuple[list[dict[str, Any]], int]:
        return [], after

    def submit(self, document: str) -> dict[str, Any]:
        self.submitted.append(document)
        if self.refusal is not None:
            raise self.refusal
        return {}

    def report(self, job: str, attempt: int, stage: str, code: str | None = None) -> None:
        self.reports.append((stage, code))


def test_a_document_of_no_contract_is_refused_by_the_agent_whatever_the_lab_says(tmp_path: Path) -> None:
    create_institution(tmp_path / "bank", "bank")
    for refusal in (None, ContractViolationError("CONTRACT_UNKNOWN", "no")):
        lab = Lab(refusal)
        agent = Agent(tmp_path / "bank", lab)
        job = "taken" if refusal is None else "not-taken"
        agent.inbox.hand(signed(job))
        agent.step(0)
        assert lab.submitted == [signed(job).decode()]
        assert agent.standing(job)[1] == "refused"
        assert agent.inbox.first() is None
        agent.close()
    assert b"job refused" in (tmp_path / "bank" / "audit.log").read_bytes()


def test_while_the_lab_is_away_a_document_waits(tmp_path: Path) -> None:
    create_institution(tmp_path / "bank", "bank")
    lab = Lab(TransportError("LAB_UNREACHABLE", "away"))
    agent = Agent(tmp_path / "bank", lab)
    agent.inbox.hand(signed())
    with pytest.raises(TransportError):
        agent.step(0)
    assert agent.inbox.waits("train-1") is not None
    lab.refusal = None
    agent.step(0)
    assert agent.inbox.first() is None
    agent.close()


def test_flower_is_named_by_its_two_apps_alone() -> None:
    named = set()
    for package in ("protocols", "party_agent", "coordinator"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(module.split(".")[0] == "flwr" for module in modules):
                    named.add(str(path.relative_to(ROOT)))
    assert named == {"coordinator/flower_app.py", "party_agent/flower_app.py"}


def test_the_shim_imports_nothing_of_concordat() -> None:
    for name in ("coordinator/flower_app.py", "party_agent/flower_app.py"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not any(f"from {package}" in text for package in ("protocols", "party_agent", "coordinator"))
