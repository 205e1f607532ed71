"""The API over a real connection: who may ask, what is refused before anything moves, what passes through unchanged."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.api import RateLimit
from coordinator.lab import Lab
from party_agent.transport import load_identity
from protocols.contract import SignedContract
from protocols.contract_state import ContractEvent, EventKind
from protocols.enrolment import VERSION_HEADER, VERSIONS
from protocols.errors import ConcordatError
from protocols.roles import COORDINATOR
from protocols.signed_request import HEADER_NAME, sign_request
from tests.running_lab import RunningLab, running_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running_lab(tmp_path_factory.mktemp("api"), names=("bank", "bureau", "tax")) as found:
        yield found


@pytest.fixture
def http(lab: RunningLab) -> Iterator[httpx.Client]:
    """A client that signs nothing and says nothing by itself."""
    trusted = ssl.create_default_context(cafile=str(lab.lab.folder / "ca.pem"))
    with httpx.Client(base_url=f"https://{lab.address}", verify=trusted, trust_env=False, timeout=10) as client:
        yield client


class Sender:
    """A member that signs requests, and can be made to sign wrongly."""

    def __init__(self, lab: RunningLab, http: httpx.Client, name: str = "bank") -> None:
        self.name, self._http = name, http
        self.key = load_identity(lab.root / name / "identity.pem")

    def headers(self, method: str, target: str, body: bytes = b"", skew: int = 0) -> dict[str, str]:
        nonce, now = os.urandom(16), int(time.time()) + skew
        signature = sign_request(self.key, self.name, method, target, body, now, nonce)
        return {VERSION_HEADER: VERSIONS, HEADER_NAME: signature, "Content-Type": "application/json"}

    def send(self, method: str, target: str, body: bytes = b"") -> httpx.Response:
        return self._http.request(method, target, content=body, headers=self.headers(method, target, body))


@pytest.fixture
def bank(lab: RunningLab, http: httpx.Client) -> Sender:
    return Sender(lab, http)


def told(response: httpx.Response) -> tuple[int, str]:
    answer = response.json()
    assert set(answer) == {"code", "message", "remedy"}
    return response.status_code, answer["code"]


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        action()
    return caught.value.code


def agreed_job(lab: RunningLab, name: str) -> str:
    """A signed job under a contract of its own that both parties signed."""
    contract = lab.contract(f"c-{name}")
    lab.agree(contract)
    return lab.job(contract, name).encode().decode()


# -- who may ask


def test_what_is_not_signed_is_refused(http: httpx.Client) -> None:
    version = {VERSION_HEADER: VERSIONS}
    for target in ("/v1/members", "/v1/requests?after=0", "/v1/nothing", "/v1/contracts/x", "/"):
        assert told(http.get(target, headers=version)) == (401, "SIGNATURE_INVALID")
    for header in ("", "v1", "v1 name=bank,time=1,nonce=00,signature=00", "x" * 10_000):
        assert told(http.get("/v1/members", headers=version | {HEADER_NAME: header})) == (401, "SIGNATURE_INVALID")


def test_two_signatures_on_one_request_are_refused(http: httpx.Client, bank: Sender) -> None:
    headers = list(bank.headers("GET", "/v1/members").items())
    headers.append((HEADER_NAME, bank.headers("GET", "/v1/members")[HEADER_NAME]))
    assert told(http.get("/v1/members", headers=headers)) == (401, "SIGNATURE_INVALID")


def test_a_request_is_accepted_once(http: httpx.Client, bank: Sender) -> None:
    headers = bank.headers("GET", "/v1/members")
    assert http.get("/v1/members", headers=headers).status_code == 200
    assert told(http.get("/v1/members", headers=headers)) == (401, "REQUEST_REPLAYED")


@pytest.mark.parametrize("part", ["body", "target", "method", "name", "query"])
def test_a_request_that_was_altered_is_refused(lab: RunningLab, http: httpx.Client, bank: Sender, part: str) -> None:
    body = json.dumps({"dataset": "d", "document": "{}"}).encode()
    headers = bank.headers("POST", "/v1/catalogue", body)
    method, target = "POST", "/v1/catalogue"
    if part == "body":
        body = body.replace(b'"d"', b'"e"')
    elif part == "target":
        target = "/v1/contracts"
    elif part == "method":
        method = "PUT"
    elif part == "query":
        target += "?a=1"
    else:
        headers[HEADER_NAME] = headers[HEADER_NAME].replace("name=bank", "name=bureau")
    assert told(http.request(method, target, content=body, headers=headers)) == (401, "SIGNATURE_INVALID")
    assert lab.lab.registry.catalogue() == []


@pytest.mark.parametrize(("skew", "status"), [(-310, 401), (310, 401), (-290, 200), (290, 200)])
def test_clocks_may_be_five_minutes_apart(http: httpx.Client, bank: Sender, skew: int, status: int) -> None:
    response = http.get("/v1/members", headers=bank.headers("GET", "/v1/members", skew=skew))
    assert response.status_code == status
    if status == 401:
        assert told(response) == (401, "CLOCK_SKEW")


def test_without_its_key_a_member_one_that_was_shut_out_and_a_stranger_get_one_answer(
    lab: RunningLab, http: httpx.Client, bank: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    lab.enrol("outcast")
    lab.lab.registry.revoke("outcast")
    bank.key = Ed25519PrivateKey.generate()
    answers = set()
    with caplog.at_level(logging.INFO, "concordat.api"):
        for bank.name in ("bank", "outcast", "stranger"):
            answer = bank.send("GET", "/v1/members")
            answers.add((answer.status_code, answer.text, frozenset(answer.headers) - {"date"}))
        assert told(answer) == (401, "SIGNATURE_INVALID")
        deadline = time.monotonic() + 5  # an answer is logged after it is sent
        while len(caplog.records) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert len(answers) == 1
    logged = [record.fields["code"] for record in caplog.records if record.name == "concordat.api"]  # type: ignore[attr-defined]
    assert logged == ["SIGNATURE_INVALID", "SIGNATURE_INVALID", "MEMBER_UNKNOWN"]


def test_a_revoked_member_is_refused_from_the_next_request_on(lab: RunningLab, http: httpx.Client) -> None:
    lab.enrol("leaver")
    leaver = Sender(lab, http, "leaver")
    assert leaver.send("GET", "/v1/members").status_code == 200
    other_process = Lab.load(lab.lab.folder, time.time)
    other_process.registry.revoke("leaver")
    other_process.close()
    assert told(leaver.send("GET", "/v1/members")) == (403, "MEMBER_REVOKED")
    assert code_of(lambda: lab.client("leaver").renew("x")) == "MEMBER_REVOKED"
    states = {item["name"]: item["state"] for item in lab.client("bank").members()["members"]}
    assert states["leaver"] == "revoked"
    listed = Sender(lab, http).send("GET", "/v1/revocations")
    crl = x509.load_pem_x509_crl(listed.content)
    leavers = x509.load_pem_x509_certificate((lab.root / "leaver" / "tls" / "leaver.pem").read_bytes())
    assert crl.get_revoked_certificate_by_serial_number(leavers.serial_number) is not None


# -- refused before anything moves


@pytest.mark.parametrize("version", [None, "", "0.9", VERSIONS + ".1", "2.1.1"])
def test_another_version_is_refused_before_anything_else(http: httpx.Client, bank: Sender, version: str | None) -> None:
    body = b"not even json"
    headers = bank.headers("POST", "/v1/jobs", body)
    del headers[VERSION_HEADER]
    if version is not None:
        headers[VERSION_HEADER] = version
    assert told(http.post("/v1/jobs", content=body, headers=headers)) == (426, "VERSION_MISMATCH")
    assert told(http.post("/v1/enrolment", content=body, headers=headers)) == (426, "VERSION_MISMATCH")


def raw(lab: RunningLab, request: bytes) -> bytes:
    """What the lab answers to these very bytes, over TLS."""
    trusted = ssl.create_default_context(cafile=str(lab.lab.folder / "ca.pem"))
    with (
        socket.create_connection(("127.0.0.1", lab.port), timeout=10) as connection,
        trusted.wrap_socket(connection, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(request)
        answer = b""
        while b"remedy" not in answer and (more := secured.recv(65_536)):
            answer += more
        return answer


@pytest.mark.parametrize(("path", "limit"), [("/v1/enrolment", 16 << 10), ("/v1/catalogue", 2 << 20)])
def test_a_body_that_is_too_large_is_refused_declared_or_not(lab: RunningLab, path: str, limit: int) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{VERSION_HEADER}: {VERSIONS}\r\n".encode()
    assert b"BODY_TOO_LARGE" in raw(lab, head + f"Content-Length: {limit + 1}\r\n\r\n".encode())
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    many = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (limit // 65_536 + 1)
    assert b"BODY_TOO_LARGE" in raw(lab, many)
    assert b"BODY_TOO_LARGE" in raw(lab, head + b"Content-Length: 9999999999\r\n\r\n")


BODIES: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"dataset": 3, "document": "{}"}',
    b'{"dataset": "d"}',
    b'{"dataset": "d", "document": "{}", "more": 1}',
    b'{"dataset": "d\\u0000", "document": "{}"}',
    b'{"dataset": "\\ud800", "document": "{}"}',
    b'{"dataset": "d", "document": "\\ud800ab"}',
    b'{"dataset": "' + b"d" * 200 + b'", "document": "{}"}',
    b"[" * 15_000,
    b'{"a":' * 3_000,
    b'{"dataset": NaN}',
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_malformed_body_is_refused_without_being_repeated(lab: RunningLab, bank: Sender, body: bytes) -> None:
    response = bank.send("POST", "/v1/catalogue", body)
    assert told(response) == (400, "REQUEST_MALFORMED")
    assert len(response.content) < 400
    assert lab.lab.registry.catalogue() == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/requests?after=x",
        "/v1/requests?after=-1",
        "/v1/requests?wait=26",
        "/v1/requests?after=99999999999999999999",
        "/v1/jobs/Not%20a%20job",
        "/v1/jobs/a?attempt=0",
        "/v1/contracts/xyz",
        "/v1/jobs/%00",
    ],
)
def test_a_malformed_query_is_refused(bank: Sender, target: str) -> None:
    assert told(bank.send("GET", target))[0] in (400, 404)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(["/v1/catalogue", "/v1/contracts", "/v1/jobs", "/v1/renewal", "/v1/jobs/j/reports"]),
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["document", "dataset", "csr", "attempt", "stage", "code"]), inner, max_size=4
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_whatever_a_member_sends_is_answered_with_a_code(bank: Sender, route: str, body: bytes) -> None:
    response = bank.send("POST", route, body)
    if response.status_code != 200:
        status, code = told(response)
        assert 400 <= status < 500
        assert code != "INTERNAL_ERROR"


def test_failed_enrolments_of_one_address_are_limited() -> None:
    now = [0.0]
    limit = RateLimit(3, 60.0, lambda: now[0])
    for _ in range(3):
        limit.check("10.0.0.1")
    assert code_of(lambda: limit.check("10.0.0.1")) == "RATE_LIMITED"
    limit.check("10.0.0.2")
    for _ in range(5):
        limit.forgive("10.0.0.2")
        limit.check("10.0.0.2")
    now[0] = 61.0
    limit.check("10.0.0.1")


def test_enrolment_is_limited_by_the_address_in_front(tmp_path: Path) -> None:
    with running_lab(tmp_path, names=()) as lab:
        trusted = ssl.create_default_context(cafile=str(lab.lab.folder / "ca.pem"))
        with httpx.Client(base_url=f"https://{lab.address}", verify=trusted, trust_env=False) as http:
            body = {
                "token": "x", "name": "bank", "identity": "0" * 64, "csr": "x",
                "identity_signature": "0" * 128, "tls_signature": "0" * 140,
            }  # fmt: skip
            codes = [told(http.post("/v1/enrolment", json=body, headers={VERSION_HEADER: VERSIONS})) for _ in range(12)]
    assert codes == [(400, "TOKEN_MALFORMED")] * 10 + [(429, "RATE_LIMITED")] * 2


# -- open pages


def test_health_and_interface_are_open_and_load_nothing_from_elsewhere(http: httpx.Client) -> None:
    assert http.get("/v1/health").json()["status"] == "ok"
    described = http.get("/v1/openapi.json")
    assert "://" not in described.text
    paths = described.json()["paths"]
    for path in ("enrolment", "members", "catalogue", "contracts", "jobs", "requests", "health", "metrics"):
        assert f"/v1/{path}" in paths
    for page in ("/docs", "/redoc", "/v1/docs"):
        assert http.get(page, headers={VERSION_HEADER: VERSIONS}).status_code == 401
    assert http.get("/v1/health").headers[VERSION_HEADER] == VERSIONS


def test_a_page_that_is_not_there_is_said_so(bank: Sender) -> None:
    assert told(bank.send("GET", "/docs")) == (404, "NOT_FOUND")
    assert told(bank.send("DELETE", "/v1/members"))[1] == "NOT_FOUND"


def test_metrics_need_the_labs_token(lab: RunningLab, http: httpx.Client) -> None:
    assert told(http.get("/v1/metrics")) == (401, "METRICS_REFUSED")
    assert told(http.get("/v1/metrics", headers={"Authorization": "Bearer no"})) == (401, "METRICS_REFUSED")
    token = (lab.lab.folder / "metrics.token").read_text().strip()
    text = http.get("/v1/metrics", headers={"Authorization": f"Bearer {token}"}).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines["concordat_institutions"]) >= 3
    assert lines['concordat_requests_total{method="GET",route="/v1/metrics",status="401"}'] == "2"


# -- what passes through


def test_members_are_told_with_their_identities(lab: RunningLab) -> None:
    answer = lab.client("bank").members()
    told_of = {item["name"]: item["identity"] for item in answer["members"]}
    assert told_of["bureau"] == lab.identity("bureau")
    assert answer["coordinator"] == {"name": COORDINATOR, "identity": lab.lab.identity_hex}


def test_metadata_is_passed_on_as_it_was_written(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        document = json.dumps({"columns": ["alias-1"], "rows": "10k-100k", "ü": "\u2028"}, ensure_ascii=False)
        lab.client("bank").publish("customers", "{}")
        lab.client("bank").publish("customers", document)
        (entry,) = lab.client("bureau").catalogue()
        assert (entry["owner"], entry["dataset"], entry["document"]) == ("bank", "customers", document)


def test_a_contract_is_signed_by_all_and_then_by_the_lab(lab: RunningLab) -> None:
    contract = lab.contract("to-sign")
    bank, bureau = lab.client("bank"), lab.client("bureau")
    document = SignedContract(contract, (("bank", lab.signature(contract, "bank")),)).encode().decode()
    proposed = bank.propose(document)
    assert proposed == {"hash": contract.hash().hex(), "created": True}
    assert bank.propose(document)["created"] is False
    assert bureau.contract(proposed["hash"])["document"] == document
    wrong = lab.signature(lab.contract("another"), "bureau")
    assert code_of(lambda: bureau.sign_contract(proposed["hash"], wrong)) == "CONTRACT_SIGNATURE_INVALID"
    as_bank = lab.signature(contract, "bank")
    assert code_of(lambda: bureau.sign_contract(proposed["hash"], as_bank)) == "CONTRACT_SIGNATURE_INVALID"
    signed = bureau.sign_contract(proposed["hash"], lab.signature(contract, "bureau"))
    whole = SignedContract.decode(signed["document"].encode())
    assert whole.verify(int(time.time())) == contract
    assert code_of(lambda: lab.client("tax").contract(proposed["hash"])) == "CONTRACT_UNKNOWN"


def test_a_contract_of_another_lab_is_refused(lab: RunningLab) -> None:
    contract = lab.contract("elsewhere")
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    text = SignedContract(contract, ()).encode().decode().replace(lab.lab.identity_hex, other)
    assert code_of(lambda: lab.client("bank").propose(text)) == "CONTRACT_OTHER_LAB"


def test_a_contract_that_is_not_canonical_is_refused(lab: RunningLab) -> None:
    text = SignedContract(lab.contract("loose"), ()).encode().decode()
    assert code_of(lambda: lab.client("bank").propose(text.replace(":", ": ", 1))) == "CONTRACT_MALFORMED"


def test_an_event_reaches_the_other_party(lab: RunningLab) -> None:
    contract = lab.contract("with-event")
    digest = lab.agree(contract)
    key = load_identity(lab.root / "bureau" / "identity.pem")
    event = ContractEvent(digest, "bureau", EventKind.SUSPEND, 1, int(time.time()), "").sign(key).encode().decode()
    assert lab.client("bureau").add_event(digest, event) == {"created": True}
    assert lab.client("bank").contract(digest)["events"] == [event]
    signed = lab.job(contract, "suspended-job").encode().decode()
    assert code_of(lambda: lab.client("bank").submit(signed)) == "CONTRACT_SUSPENDED"


def test_the_same_job_again_is_the_same_job(lab: RunningLab) -> None:
    document = agreed_job(lab, "again")
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(lab.client("bank").submit(document))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answer["created"] for answer in answers) == [False] * 9 + [True]
    assert len({answer["hash"] for answer in answers}) == 1
    assert [item["job"] for item in lab.client("bureau").jobs()].count("again") == 1
    assert lab.client("bureau").job("again")["document"] == document


def test_a_job_that_no_contract_covers_is_refused(lab: RunningLab) -> None:
    contract = lab.contract("unsigned-contract")
    signed = lab.job(contract, "early").encode().decode()
    assert code_of(lambda: lab.client("bank").submit(signed)) == "CONTRACT_UNKNOWN"
    lab.client("bank").propose(SignedContract(contract, ()).encode().decode())
    assert code_of(lambda: lab.client("bank").submit(signed)) == "CONTRACT_PROPOSED"
    document = agreed_job(lab, "altered")
    assert code_of(lambda: lab.client("bank").submit(document.replace('"job":"altered"', '"job":"alterex"'))) == (
        "JOB_SIGNATURE_INVALID"
    )
    assert code_of(lambda: lab.client("bank").submit("{}")) == "JOB_MALFORMED"


def test_a_lab_that_is_about_to_stop_takes_nothing_more_and_answers_polls(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        bank = lab.client("bank")
        lab.server._notifier.close()
        assert code_of(lambda: bank.publish("d", "{}")) == "LAB_STOPPING"
        begin = time.monotonic()
        assert bank.requests(0, 20) == ([], 0)
        assert time.monotonic() - begin < 2


def test_a_long_poll_waits_for_news_and_no_longer(lab: RunningLab) -> None:
    bureau = lab.client("bureau")
    _, after = bureau.requests(0, 0)
    while True:
        found, following = bureau.requests(after, 0)
        if not found:
            break
        after = following
    begin = time.monotonic()
    assert bureau.requests(after, 1) == ([], after)
    assert 0.9 < time.monotonic() - begin < 3
    got: list[float] = []
    waiting = threading.Thread(target=lambda: (bureau.requests(after, 20), got.append(time.monotonic())))
    waiting.start()
    time.sleep(0.3)
    begin = time.monotonic()
    lab.client("bank").propose(SignedContract(lab.contract("news"), ()).encode().decode())
    waiting.join(10)
    assert got[0] - begin < 0.9
    (item,), _ = bureau.requests(after, 0)
    assert item["kind"] == "contract"
    assert item["document"] is None
