"""The agent's end of the API: what it signs, what it believes of an answer, and how a failure is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from party_agent.rest_client import RestClient
from protocols.errors import ConcordatError
from tests.party_agent.test_enrolment import Impostor
from tests.running_lab import running_lab


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        action()
    return caught.value.code


def client_of(
    folder: Path, answer: bytes, status: int = 200, version: str | None = None
) -> tuple[Impostor, RestClient]:
    server = Impostor(folder, answer, status=status, **({"version": version} if version is not None else {}))
    return server, RestClient(server.address, server.ca, "bank", Ed25519PrivateKey.generate())


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b'"x"'])
def test_an_answer_that_is_no_json_object_is_refused(tmp_path: Path, answer: bytes) -> None:
    server, client = client_of(tmp_path, answer)
    assert code_of(client.members) == "LAB_ANSWER_INVALID"
    server.close()


@pytest.mark.parametrize(
    "answer", [{"contracts": 3}, {"contracts": [3]}, {}, {"requests": [], "next": "1"}, {"requests": [], "next": -1}]
)
def test_an_answer_without_its_list_is_refused(tmp_path: Path, answer: object) -> None:
    server, client = client_of(tmp_path, json.dumps(answer).encode())
    assert code_of(client.contracts) == "LAB_ANSWER_INVALID"
    assert code_of(lambda: client.requests(5, 0)) == "LAB_ANSWER_INVALID"
    server.close()


def test_the_queue_never_goes_back(tmp_path: Path) -> None:
    server, client = client_of(tmp_path, b'{"requests": [], "next": 4}')
    assert client.requests(4, 0) == ([], 4)
    assert code_of(lambda: client.requests(5, 0)) == "LAB_ANSWER_INVALID"
    server.close()


def test_an_error_of_the_lab_keeps_its_code(tmp_path: Path) -> None:
    error = {"code": "CONTRACT_UNKNOWN", "message": "there is none", "remedy": "look again"}
    server, client = client_of(tmp_path, json.dumps(error).encode(), status=404)
    with pytest.raises(ConcordatError) as caught:
        client.contract("00" * 32)
    assert (caught.value.code, caught.value.remedy) == ("CONTRACT_UNKNOWN", "look again")
    assert caught.value.message == "the lab answered: there is none"
    server.close()


@pytest.mark.parametrize(
    "error",
    [
        {},
        {"code": 3},
        {"code": "ok"},
        {"code": "A" * 100},
        {"code": "EVIL\n", "message": "x", "remedy": "x"},
    ],
)
def test_an_error_without_a_code_is_an_answer_that_is_invalid(tmp_path: Path, error: object) -> None:
    server, client = client_of(tmp_path, json.dumps(error).encode(), status=500)
    assert code_of(client.members) == "LAB_ANSWER_INVALID"
    server.close()


def test_the_labs_sentences_are_bounded_and_cannot_draw_on_a_terminal(tmp_path: Path) -> None:
    error = {"code": "SOME_CODE", "message": "x" * 5000, "remedy": "\x1b[2J\x07"}
    server, client = client_of(tmp_path, json.dumps(error).encode(), status=400)
    with pytest.raises(ConcordatError) as caught:
        client.members()
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)
    server.close()


def test_an_answer_that_does_not_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("party_agent.rest_client.MAX_ANSWER_BYTES", 10_000)
    server, client = client_of(tmp_path, b'{"x": "' + b"x" * 20_000 + b'"}')
    assert code_of(client.members) == "LAB_ANSWER_INVALID"
    server.close()


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    server, client = client_of(tmp_path, b"{}", status=302)
    assert code_of(client.members) == "LAB_ANSWER_INVALID"
    assert len(server.got) == 1
    server.close()


def test_another_version_is_refused(tmp_path: Path) -> None:
    server, client = client_of(tmp_path, b"{}", version="1.0")
    assert code_of(client.members) == "VERSION_MISMATCH"
    server.close()


def test_a_server_of_another_authority_is_refused_and_sees_no_request(tmp_path: Path) -> None:
    server, _ = client_of(tmp_path / "a", b"{}")
    other, _ = client_of(tmp_path / "b", b"{}")
    client = RestClient(server.address, other.ca, "bank", Ed25519PrivateKey.generate())
    assert code_of(client.members) == "CERTIFICATE_REJECTED"
    assert server.got == []
    server.close()
    other.close()


def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    server, _ = client_of(tmp_path, b"{}")
    client = RestClient(server.address.replace("127.0.0.1", "127.0.0.2"), server.ca)
    assert code_of(client.health) in ("CERTIFICATE_REJECTED", "LAB_UNREACHABLE")
    assert server.got == []
    server.close()


def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    server, client = client_of(tmp_path, b'{"members": []}')
    assert client.members() == {"members": []}
    server.close()


def test_an_authority_that_is_none_is_refused() -> None:
    assert code_of(lambda: RestClient("127.0.0.1:1", "not PEM")) == "CERTIFICATE_REJECTED"


def test_names_in_a_path_cannot_leave_it(tmp_path: Path) -> None:
    server, client = client_of(tmp_path, b"{}")
    client.job("../members?x=1#y")
    assert server.got == [("GET", "/v1/jobs/..%2Fmembers%3Fx%3D1%23y")]
    server.close()


def test_every_request_is_signed_afresh(tmp_path: Path) -> None:
    with running_lab(tmp_path, names=("bank",)) as lab:
        client = lab.client("bank")
        assert [client.members() for _ in range(3)][2] == client.members()
