"""The page for approvals: what it shows, who may see it, and what other users and web pages of the machine can do."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from party_agent.agent import JobState
from party_agent.local_page import COOKIE, MOST_BODY_BYTES, MOST_SESSIONS, SESSION_S, LocalPage, Sessions
from protocols.errors import TransportError
from tests.party_agent.test_agent import World

JOB = "train-1"


@dataclass
class Shown:
    """The page, what it printed, and the world behind it, in which one job waits."""

    world: World
    page: LocalPage
    printed: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.page.port}"

    def token(self) -> str:
        return self.printed[-1].split()[-1]

    def browser(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.address, trust_env=False, timeout=10, headers=headers)

    def logged_in(self) -> httpx.Client:
        client = self.browser()
        assert client.post("/login", data={"token": self.token()}).status_code == 303
        return client

    def state(self) -> JobState:
        return self.world.state()


def secret_in(client: httpx.Client) -> str:
    found = re.search(r'name="secret" value="([^"]+)"', client.get("/").text)
    assert found is not None
    return found[1]


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    world = World(tmp_path)
    world.policy()
    (world.folder / "policy.toml").write_text('source = "history"\n', "utf-8")
    contract = world.contract(purpose="<script>alert(1)</script> a test")
    world.deliver(world.job(contract))
    printed: list[str] = []
    page = LocalPage(world.new_agent(), world.folder, 0, printed.append)
    deadline = time.monotonic() + 5
    while not page._server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield Shown(world, page, printed)
    page.close()
    world.agent.close()


def test_a_waiting_job_is_explained_and_approved_once(shown: Shown) -> None:
    client = shown.logged_in()
    text = client.get("/").text
    for words in ("What this institution discloses", "Keys of 3072 bits", "Asked for by bank", "pilot v1", JOB):
        assert words in text
    assert "<script>" not in text  # what another party wrote is text
    secret = secret_in(client)
    assert client.post(f"/jobs/{JOB}/approve", data={"secret": secret}).status_code == 303
    assert shown.state() is JobState.ACCEPTED
    assert shown.world.lab.told[-1] == (JOB, 1, "accepted", None)
    assert shown.world.records()[-1][0] == "job accepted"
    again = client.post(f"/jobs/{JOB}/refuse", data={"secret": secret})
    assert (again.status_code, "JOB_NOT_WAITING" in again.text) == (409, True)
    assert shown.state() is JobState.ACCEPTED


def test_a_refusal_is_recorded_and_told(shown: Shown) -> None:
    client = shown.logged_in()
    client.post(f"/jobs/{JOB}/refuse", data={"secret": secret_in(client)})
    assert shown.state() is JobState.REFUSED
    assert shown.world.records()[-1] == ("job refused", "NOT_APPROVED")
    assert "NOT_APPROVED" in client.get("/").text


def test_a_running_job_shows_its_stage_and_percent(shown: Shown) -> None:
    agent = shown.world.agent
    agent._keep(replace(agent.job(JOB), state=JobState.RUNNING))
    line = '{"stage": "encrypt", "what": "encrypted rows", "done": 500, "total": 1000}\n'
    (shown.world.folder / "jobs" / JOB / "output.jsonl").write_text(line, "utf-8")
    text = shown.logged_in().get("/").text
    assert "stage encrypt: encrypted rows 500 of 1,000" in text
    assert "37 %" in text  # the fifth of twelve stages, half done
    line = '{"stage": "review", "what": "waiting for review at bureau until 14:05", "done": 0, "total": 0}\n'
    (shown.world.folder / "jobs" / JOB / "output.jsonl").write_text(line, "utf-8")
    assert "stage review: waiting for review at bureau until 14:05" in shown.logged_in().get("/").text


def test_without_a_session_nothing_is_shown_and_nothing_is_done(shown: Shown) -> None:
    client = shown.browser()
    assert JOB not in client.get("/").text
    for path in (f"/jobs/{JOB}/approve", f"/jobs/{JOB}/refuse", "/logout"):
        assert client.post(path, data={"secret": "x"}).status_code == 403
    assert client.post("/login", data={"token": ""}).status_code == 403
    assert client.post("/login", data={"token": "wrong"}).status_code == 403
    assert JOB not in shown.browser(Cookie=f"{COOKIE}=forged").get("/").text
    for path in ("/docs", "/openapi.json", "/redoc", f"/jobs/{JOB}/approve"):
        assert client.get(path).status_code in (404, 405)
    assert shown.state() is JobState.WAITING


def test_a_token_is_good_once_and_the_cookie_is_no_use_to_scripts_and_other_sites(shown: Shown) -> None:
    token = shown.token()
    answer = shown.browser().post("/login", data={"token": token})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert shown.browser().post("/login", data={"token": token}).status_code == 403
    assert shown.token() != token
    client = shown.logged_in()
    client.post("/logout", data={"secret": secret_in(client)})
    assert JOB not in client.get("/").text


def test_a_form_without_the_secret_of_its_session_does_nothing(shown: Shown) -> None:
    client, other = shown.logged_in(), shown.logged_in()
    for secret in ("", "guess", secret_in(other), "é"):
        assert client.post(f"/jobs/{JOB}/approve", data={"secret": secret}).status_code == 403
    assert client.post(f"/jobs/{JOB}/approve").status_code == 403
    assert client.get(f"/jobs/{JOB}/approve?secret={secret_in(client)}").status_code == 405
    assert shown.state() is JobState.WAITING


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""])
def test_a_request_under_another_host_name_is_refused(shown: Shown, host: str) -> None:
    client = shown.logged_in()
    answer = client.get("/", headers={"Host": host.format(port=shown.page.port)})
    assert answer.status_code in (400, 421)
    assert JOB not in answer.text


def test_a_request_from_another_origin_is_refused(shown: Shown) -> None:
    client = shown.logged_in()
    secret = secret_in(client)
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{shown.page.port}", "http://127.0.0.1:1"):
        answer = client.post(f"/jobs/{JOB}/approve", data={"secret": secret}, headers={"Origin": origin})
        assert answer.status_code == 403
    assert shown.state() is JobState.WAITING
    assert client.post(f"/jobs/{JOB}/approve", data={"secret": secret}, headers={"Origin": shown.address}).is_redirect


def test_pages_load_nothing_from_outside_and_may_not_be_framed_or_kept(shown: Shown) -> None:
    client = shown.logged_in()
    for path in ("/", "/style.css", "/nowhere"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"https?://|//[a-z]|<script|@import|url\(", answer.text)
    assert client.post("/login", content=b"x" * (MOST_BODY_BYTES + 1)).status_code == 413
    assert client.post("/login", content=iter([b"token=x"])).status_code == 400


def test_nobody_reaches_the_page_but_from_this_machine(shown: Shown) -> None:
    assert shown.page._socket.getsockname()[0] == "127.0.0.1"
    with pytest.raises(TransportError, match="PORT_TAKEN"):
        LocalPage(shown.world.agent, shown.world.folder, shown.page.port, print)
    with socket.create_connection(("127.0.0.1", shown.page.port), 5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert b" 200 " not in raw.recv(100)


def test_sessions_end_and_are_few() -> None:
    printed: list[str] = []
    now = [0.0]
    sessions = Sessions(printed.append, lambda: now[0])
    names = [sessions.open(printed[-1]) for _ in range(MOST_SESSIONS + 2)]
    assert [name for name in names if sessions.secret(name)] == names[2:]
    now[0] = SESSION_S
    assert not any(sessions.secret(name) for name in names)
