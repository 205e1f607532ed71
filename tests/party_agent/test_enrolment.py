"""Joining a lab: keys that stay at home, a lab that is told apart from whoever stands in its place, renewal."""

from __future__ import annotations

import datetime
import json
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from coordinator.certificates import Authority
from party_agent.agent_store import (
    AgentSettings,
    DatabaseReference,
    open_store,
    read_settings,
    write_settings,
)
from party_agent.enrolment import (
    certificate_status,
    create_institution,
    join,
    lab_client,
    renew,
    tls_files,
)
from party_agent.enrolment_commands import app
from party_agent.peers import PeerBook, PeerState
from party_agent.rest_client import RestClient
from party_agent.transport import load_identity
from protocols.enrolment import VERSION_HEADER, VERSIONS, EnrolmentToken
from protocols.errors import ConcordatError, TransportError
from protocols.fingerprint_words import words
from protocols.roles import COORDINATOR
from tests.running_lab import Clock, RunningLab, running_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running_lab(tmp_path_factory.mktemp("enrolment"), names=("bank",)) as found:
        yield found


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    folder = tmp_path / "institution"
    create_institution(folder, "newcomer")
    return folder


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        action()
    return caught.value.code


# -- keys


def test_keys_are_made_here_and_are_the_owners_only(newcomer: Path) -> None:
    modes = {
        str(path.relative_to(newcomer)): stat.S_IMODE(path.stat().st_mode) for path in [newcomer, *newcomer.rglob("*")]
    }
    assert {name for name, mode in modes.items() if mode == 0o700} == {".", "tls"}
    assert {"agent.toml", "identity.pem", "tls/newcomer.key", "agent.db"} <= set(modes)
    assert {mode for name, mode in modes.items() if name not in (".", "tls")} == {0o600}
    assert read_settings(newcomer) == AgentSettings(name="newcomer")


def test_an_identity_is_never_overwritten(newcomer: Path) -> None:
    before = (newcomer / "identity.pem").read_bytes()
    assert code_of(lambda: create_institution(newcomer, "newcomer")) == "IDENTITY_EXISTS"
    assert (newcomer / "identity.pem").read_bytes() == before


@pytest.mark.parametrize("name", ["", "Bank", "coordinator", "a b", "../bank", "x" * 33])
def test_an_institution_has_a_name_that_contracts_can_hold(tmp_path: Path, name: str) -> None:
    assert code_of(lambda: create_institution(tmp_path / "x", name)) == "NAME_INVALID"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "text", ["", "name = 1", 'name = "bank"\nlab = "no port"', 'name = "bank"\npassword = "x"', "\x00", 'name = "bank']
)
def test_settings_that_are_wrong_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "agent.toml").write_text(text)
    assert code_of(lambda: read_settings(tmp_path)) == "AGENT_SETTINGS_INVALID"


def test_the_agents_database_may_be_another_by_reference(tmp_path: Path) -> None:
    create_institution(tmp_path / "a", "bank")
    write_settings(tmp_path / "a", AgentSettings(name="bank", database=DatabaseReference(url_env="AGENT_URL")))
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    open_store(tmp_path / "a", {"AGENT_URL": url}).dispose()
    assert (tmp_path / "elsewhere.db").exists()
    assert code_of(lambda: open_store(tmp_path / "a", {})) == "DATABASE_URL_INVALID"
    assert code_of(lambda: open_store(tmp_path / "a", {"AGENT_URL": "nonsense"})) == "DATABASE_URL_INVALID"
    assert code_of(lambda: open_store(tmp_path / "a", {"AGENT_URL": "sqlite:////nowhere/x.db"})) == "STORE_UNAVAILABLE"


# -- tokens


@given(st.integers(0, 10_000), st.characters(codec="ascii"))
def test_a_token_with_one_character_wrong_is_told_at_once(place: int, letter: str) -> None:
    text = EnrolmentToken("lab.example:8443", bytes(range(32)), bytes(range(32, 64))).encode()
    place %= len(text)
    wrong = text[:place] + letter + text[place + 1 :]
    if wrong != text:
        assert code_of(lambda: EnrolmentToken.decode(wrong)) == "TOKEN_MALFORMED"


@given(st.text(max_size=200))
def test_no_text_is_taken_for_a_token(text: str) -> None:
    assert code_of(lambda: EnrolmentToken.decode(text)) == "TOKEN_MALFORMED"


# -- joining


def test_an_institution_that_joined_can_sign_requests_and_open_streams(lab: RunningLab, newcomer: Path) -> None:
    settings = join(newcomer, f"  {lab.lab.invite('newcomer')}\n")
    assert (settings.lab, read_settings(newcomer)) == (lab.address, settings)
    assert settings.ca_fingerprint == lab.lab.authority.fingerprint.hex()
    with lab_client(newcomer) as client:
        assert {"bank", "newcomer"} <= {item["name"] for item in client.members()["members"]}
    files = tls_files(newcomer)
    x509.load_pem_x509_certificate(files.certificate.read_bytes()).verify_directly_issued_by(
        lab.lab.authority.certificate
    )
    assert stat.S_IMODE(files.certificate.stat().st_mode) == 0o600
    with PeerBook.open(newcomer) as book:
        assert book.get(COORDINATOR).state is PeerState.VERIFIED
    assert code_of(lambda: join(newcomer, lab.lab.invite("other"))) == "ALREADY_JOINED"


def test_an_answer_that_was_lost_is_asked_for_again(lab: RunningLab, tmp_path: Path) -> None:
    create_institution(tmp_path / "a", "unlucky")
    token = lab.lab.invite("unlucky")
    before = read_settings(tmp_path / "a")
    join(tmp_path / "a", token)
    write_settings(tmp_path / "a", before)  # as if nothing had come back
    assert join(tmp_path / "a", token).lab == lab.address
    create_institution(tmp_path / "b", "unlucky")
    assert code_of(lambda: join(tmp_path / "b", token)) == "TOKEN_USED"


def test_a_refused_institution_stays_as_it_was(lab: RunningLab, newcomer: Path) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in newcomer.rglob("*") if path.is_file()}

    before = files()
    assert code_of(lambda: join(newcomer, lab.lab.invite("someone-else"))) == "TOKEN_OTHER_NAME"
    token = lab.lab.invite("newcomer-2")
    lab.lab.invite("newcomer-2")
    assert code_of(lambda: join(newcomer, token)) == "TOKEN_UNKNOWN"
    assert files() == before
    assert code_of(lambda: lab_client(newcomer)) == "NOT_JOINED"
    assert code_of(lambda: tls_files(newcomer)) == "NOT_JOINED"


def at(token: str, address: str) -> str:
    """The token with another address: what someone in the middle makes of it, or of the name service."""
    real = EnrolmentToken.decode(token)
    return EnrolmentToken(address, real.secret, real.ca_fingerprint).encode()


def test_another_lab_at_the_address_is_found_before_anything_is_sent(
    lab: RunningLab, newcomer: Path, tmp_path: Path
) -> None:
    with running_lab(tmp_path, names=()) as other:
        token = at(lab.lab.invite("newcomer-3"), other.address)
        assert code_of(lambda: join(newcomer, token)) == "LAB_FINGERPRINT_MISMATCH"
        answers = other.server._api.config.app.answers
    assert {route for _, route, _ in answers} == {"/v1/authority"}
    assert not (newcomer / "tls" / "ca.pem").exists()


class Impostor:
    """A TLS server with a certificate of its own, which gives every request the same answer and keeps what it got."""

    def __init__(self, folder: Path, answer: bytes, version: str = VERSIONS, status: int = 200) -> None:
        files = Authority(datetime.datetime.now(datetime.UTC)).server(folder)
        got = self.got = []  # type: list[tuple[str, str]]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                got.append((self.command, self.path))
                self.send_response(status)
                self.send_header(VERSION_HEADER, version)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.ca = files.ca.read_text()
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_who_shows_the_labs_authority_but_not_its_certificate_gets_no_token(
    lab: RunningLab, newcomer: Path, tmp_path: Path
) -> None:
    impostor = Impostor(tmp_path, json.dumps({"ca": lab.lab.authority.pem}).encode())
    token = at(lab.lab.invite("newcomer-4"), impostor.address)
    assert code_of(lambda: join(newcomer, token)) == "CERTIFICATE_REJECTED"
    assert impostor.got == [("GET", "/v1/authority")]
    impostor.close()


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"ca": 3}', b'{"ca": "x"}', b"\xff", b"[" * 5000])
def test_whatever_answers_in_the_labs_place_is_refused_with_a_code(
    newcomer: Path, tmp_path: Path, answer: bytes
) -> None:
    impostor = Impostor(tmp_path, answer)
    token = EnrolmentToken(impostor.address, bytes(32), bytes(32)).encode()
    assert code_of(lambda: join(newcomer, token)) == "LAB_ANSWER_INVALID"
    impostor.close()


def test_a_lab_of_another_version_is_refused_before_anything_is_sent(newcomer: Path, tmp_path: Path) -> None:
    impostor = Impostor(tmp_path, b"{}", version="9.9.9")
    token = EnrolmentToken(impostor.address, bytes(32), bytes(32)).encode()
    assert code_of(lambda: join(newcomer, token)) == "VERSION_MISMATCH"
    assert impostor.got == [("GET", "/v1/authority")]
    impostor.close()


def test_a_lab_that_answers_with_a_certificate_of_another_key_is_refused(
    lab: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_institution(tmp_path / "a", "cheated")
    others = (lab.root / "bank" / "tls" / "bank.pem").read_text()
    answer = {"certificate": others, "ca": lab.lab.authority.pem, "lab_identity": lab.lab.identity_hex}
    monkeypatch.setattr(RestClient, "enrol", lambda self, request: answer)
    assert code_of(lambda: join(tmp_path / "a", lab.lab.invite("cheated"))) == "LAB_ANSWER_INVALID"
    assert not (tmp_path / "a" / "tls" / "cheated.pem").exists()


# -- renewal


def test_renewal_makes_a_new_key_and_keeps_the_identity(lab: RunningLab) -> None:
    folder = lab.enrol("renewing")
    identity, old = (folder / "identity.pem").read_bytes(), (folder / "tls" / "renewing.key").read_bytes()
    status = renew(folder)
    assert (status.days_left, status.warning) == (364, "")
    assert (folder / "identity.pem").read_bytes() == identity
    assert (folder / "tls" / "renewing.key").read_bytes() != old
    check_pair(folder)
    assert stat.S_IMODE((folder / "tls" / "renewing.key").stat().st_mode) == 0o600


def check_pair(folder: Path) -> None:
    """Certificate and key fit each other, or OpenSSL refuses to load them."""
    files = tls_files(folder)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(files.certificate, files.key)


@pytest.mark.parametrize("crash_at", [1, 2])
def test_a_crash_between_key_and_certificate_is_mended(
    lab: RunningLab, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    from party_agent.store import Folder

    folder = lab.enrol(f"crashing-{crash_at}")
    write, count = Folder.write, [0]

    def failing(self: Folder, name: str, data: bytes) -> Path:
        count[0] += 1
        if count[0] > crash_at:
            raise KeyboardInterrupt
        return write(self, name, data)

    monkeypatch.setattr(Folder, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        renew(folder)
    monkeypatch.undo()
    check_pair(folder)
    assert not (folder / "tls" / "renewed.pem").exists()


def test_expiry_is_announced_thirty_days_ahead(lab: RunningLab) -> None:
    folder = lab.root / "bank"
    assert certificate_status(folder, Clock(300 * 86_400)).warning == ""
    assert "expires in 29 days" in certificate_status(folder, Clock(335.5 * 86_400)).warning
    assert "has expired" in certificate_status(folder, Clock(400 * 86_400)).warning


# -- commands


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_institutions_commands_lead_from_nothing_to_a_verified_peer(lab: RunningLab, tmp_path: Path) -> None:
    folder = str(tmp_path / "office")
    code, made = run("init", "--folder", folder, "--name", "office")
    assert code == 0
    assert made["words"] == " ".join(words(load_identity(tmp_path / "office" / "identity.pem").public_key()))
    assert run("peers", "--folder", folder)[1]["error"]["code"] == "NOT_JOINED"
    code, joined = run("join", lab.lab.invite("office"), "--folder", folder)
    assert (code, joined["lab"], joined["certificate_days"]) == (0, lab.address, 364)
    code, listed = run("peers", "--folder", folder)
    states = {item["name"]: item["state"] for item in listed["peers"]}
    assert (code, states["bank"], states["coordinator"]) == (0, "unverified", "verified")
    assert "office" not in states
    spoken = " ".join(words(load_identity(lab.root / "bank" / "identity.pem").public_key()))
    wrong = " ".join([*spoken.split()[:-1], "word"])
    code, refused = run("peers", "verify", "bank", "--folder", folder, "--words", wrong)
    assert (code, refused["error"]["code"]) == (1, "WORDS_DIFFER")
    code, verified = run("peers", "verify", "bank", "--folder", folder, "--words", spoken.upper())
    assert (code, verified["state"]) == (0, "verified")
    assert run("renew", "--folder", folder)[0] == 0
    text = CliRunner().invoke(app, ["peers", "--folder", folder]).stdout
    assert "bank  verified" in text
    assert spoken in text
    asked = CliRunner().invoke(app, ["peers", "verify", "bank", "--folder", folder], input=spoken + "\n")
    assert "bank is verified" in asked.stdout


def test_a_token_can_be_read_from_input_so_that_no_process_list_shows_it(lab: RunningLab, tmp_path: Path) -> None:
    create_institution(tmp_path / "a", "quiet")
    token = lab.lab.invite("quiet")
    result = CliRunner().invoke(app, ["join", "-", "--folder", str(tmp_path / "a")], input=token + "\n")
    assert result.exit_code == 0
    assert read_settings(tmp_path / "a").lab == lab.address


def test_a_lab_that_cannot_be_reached_is_said_so(newcomer: Path) -> None:
    token = EnrolmentToken("127.0.0.1:1", bytes(32), bytes(32)).encode()
    begin = time.monotonic()
    with pytest.raises(TransportError) as caught:
        join(newcomer, token)
    assert caught.value.code == "LAB_UNREACHABLE"
    assert time.monotonic() - begin < 5
