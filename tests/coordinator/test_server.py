"""The running lab: one port for relay and API, jobs from submission to end, certificates, faults, a clean stop."""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.certificates import Authority, private_bytes
from coordinator.lab import Lab
from coordinator.server import LabServer, log_to
from party_agent.enrolment import create_institution, join, lab_client, renew, tls_files
from party_agent.transport import RelayChannel, TlsFiles, load_identity
from protocols.contract import Contract, SignedJob
from protocols.contract_state import ContractEvent, EventKind
from protocols.errors import ConcordatError, PeerAbortedError, TransportError
from tests.running_lab import Clock, Postgres, RunningLab, free_port, running_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running_lab(tmp_path_factory.mktemp("server")) as found:
        yield found


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def submit(lab: RunningLab, name: str, *, accept: bool = True) -> tuple[Contract, SignedJob]:
    contract = lab.contract(f"c-{name}")
    lab.agree(contract)
    signed = lab.job(contract, name)
    lab.client("bank").submit(signed.encode().decode())
    if accept:
        for party in contract.parties.all:
            lab.client(party).report(name, 1, "accepted")
        assert until(lambda: state(lab, name)[0] == "running")
    return contract, signed


def state(lab: RunningLab, name: str) -> tuple[str, str | None]:
    record = lab.lab.registry.job(name, "bank")
    return record.state.value, record.code


def channel(
    lab: RunningLab, name: str, contract: Contract, signed: SignedJob, tls: TlsFiles | None = None
) -> RelayChannel:
    folder = lab.root / name
    return RelayChannel(
        lab.address,
        tls or tls_files(folder),
        me=name,
        identity=load_identity(folder / "identity.pem"),
        peers=contract.peers(name),
        contract_hash=contract.hash(),
        job=signed.document.job,
        roles=contract.roles(),
        connect_timeout_s=10,
        receive_timeout_s=10,
    )


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        action()
    return caught.value.code


def queue(lab: RunningLab, name: str, job: str) -> list[tuple[str, str | None]]:
    return [(item.kind, item.code) for item in lab.lab.registry.requests(name, 0) if item.reference == job]


# -- jobs


def test_a_job_that_all_accept_is_opened_dealt_for_and_ends_when_all_have_finished(lab: RunningLab) -> None:
    contract, signed = submit(lab, "whole")
    with ThreadPoolExecutor(2) as pool:
        channels = list(pool.map(lambda name: channel(lab, name, contract, signed), ("bank", "bureau")))
        list(pool.map(lambda item: item.wait_for_peers(), channels))  # the dealer among them
    for name, item in zip(("bank", "bureau"), channels, strict=True):
        item.close()
        lab.client(name).report("whole", 1, "finished")
    assert until(lambda: state(lab, "whole") == ("ended", None))
    assert queue(lab, "bureau", "whole") == [("job", None), ("start", None), ("ended", None)]


def test_a_job_is_not_opened_before_all_have_accepted(lab: RunningLab) -> None:
    contract, signed = submit(lab, "half", accept=False)
    lab.client("bank").report("half", 1, "accepted")
    time.sleep(0.3)
    assert state(lab, "half") == ("submitted", None)
    assert code_of(lambda: channel(lab, "bank", contract, signed)) == "JOB_UNKNOWN"
    lab.client("bureau").report("half", 1, "refused", "CONTRACT_VIOLATION")
    assert until(lambda: state(lab, "half") == ("ended", "CONTRACT_VIOLATION"))
    assert queue(lab, "bank", "half")[-1] == ("ended", "CONTRACT_VIOLATION")


def test_a_party_that_fails_ends_the_job_for_all_with_its_code(lab: RunningLab) -> None:
    contract, signed = submit(lab, "failing")
    bank = channel(lab, "bank", contract, signed)
    lab.client("bureau").report("failing", 1, "failed", "DATA_GONE")
    with pytest.raises(PeerAbortedError) as caught:
        bank.wait_for_peers()
    assert caught.value.code == "DATA_GONE"
    bank.close()
    assert until(lambda: state(lab, "failing") == ("ended", "DATA_GONE"))


def test_the_relays_verdict_is_the_jobs_end(lab: RunningLab) -> None:
    contract, signed = submit(lab, "aborted")
    bank = channel(lab, "bank", contract, signed)
    bank.abort("CHECK_FAILED")
    bank.close()
    assert until(lambda: state(lab, "aborted") == ("ended", "CHECK_FAILED"))


def test_any_party_can_stop_a_job_and_all_are_told(lab: RunningLab) -> None:
    contract, signed = submit(lab, "stopped")
    bank = channel(lab, "bank", contract, signed)
    assert lab.client("bureau").stop("stopped", 1)["code"] == "JOB_STOPPED"
    with pytest.raises(PeerAbortedError) as caught:
        bank.wait_for_peers()
    assert caught.value.code == "JOB_STOPPED"
    bank.close()
    for name in ("bank", "bureau"):
        assert queue(lab, name, "stopped")[-1] == ("stop", "JOB_STOPPED")


def test_a_later_attempt_takes_the_place_of_an_ended_one(lab: RunningLab) -> None:
    contract, _ = submit(lab, "again")
    lab.client("bank").stop("again", 1)
    second = lab.job(contract, "again", attempt=2)
    lab.client("bank").submit(second.encode().decode())
    for party in ("bank", "bureau"):
        lab.client(party).report("again", 2, "accepted")
    assert until(lambda: state(lab, "again") == ("running", None))
    bank = channel(lab, "bank", contract, second)
    assert lab.server.relay.present("again") == {"bank", "coordinator"}
    bank.close()
    lab.client("bank").stop("again", 2)


def test_a_job_nobody_accepts_expires(lab: RunningLab) -> None:
    submit(lab, "late", accept=False)
    lab.clock.ahead = 4000
    try:
        assert until(lambda: state(lab, "late") == ("ended", "JOB_EXPIRED"))
    finally:
        lab.clock.ahead = 0


def test_a_running_job_in_which_nobody_is_ends(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        submit(lab, "empty")
        lab.server._absence_s = 0.1
        assert until(lambda: state(lab, "empty") == ("ended", "PARTY_ABSENT"))


def test_a_contract_that_is_suspended_ends_its_jobs(lab: RunningLab) -> None:
    contract, _ = submit(lab, "under-suspension")
    digest = contract.hash().hex()
    key = load_identity(lab.root / "bureau" / "identity.pem")
    event = ContractEvent(digest, "bureau", EventKind.SUSPEND, 1, int(time.time()), "").sign(key)
    lab.client("bureau").add_event(digest, event.encode().decode())
    assert until(lambda: state(lab, "under-suspension") == ("ended", "CONTRACT_SUSPENDED"))


def test_a_restarted_lab_ends_what_it_does_not_remember(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        submit(lab, "forgotten")
        lab.server.stop()  # as kill -9 would, the jobs are not ended
        lab.server._keeper.join(5)
        other = LabServer(Lab.load(lab.lab.folder, lab.clock))
        other.look()
        assert state(lab, "forgotten") == ("ended", "RELAY_UNREACHABLE")


# -- certificates at the relay


@pytest.fixture(scope="module")
def open_job(lab: RunningLab) -> tuple[Contract, SignedJob]:
    return submit(lab, "open")


def forged(lab: RunningLab, folder: Path, kind: str) -> TlsFiles:
    """Certificates that the relay must not take for the bureau's."""
    now = datetime.datetime.now(datetime.UTC)
    ca = lab.root / "bureau" / "tls" / "ca.pem"
    if kind == "self-signed":
        made = Authority(now).client(folder, "bureau")
        return TlsFiles(ca, made.certificate, made.key)
    key = ec.generate_private_key(ec.SECP256R1())
    begin = now - datetime.timedelta(days=400) if kind == "expired" else now
    name = "bank" if kind == "wrong name" else "bureau"
    certificate = lab.lab.authority.client(name, key.public_key(), begin)
    (folder / "c.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "c.key").write_bytes(private_bytes(key))
    return TlsFiles(ca, folder / "c.pem", folder / "c.key")


@pytest.mark.parametrize("kind", ["self-signed", "expired", "wrong name"])
def test_a_certificate_that_is_not_the_partys_gets_no_seat(
    lab: RunningLab, open_job: tuple[Contract, SignedJob], tmp_path: Path, kind: str
) -> None:
    assert code_of(lambda: channel(lab, "bureau", *open_job, forged(lab, tmp_path, kind))) == "CERTIFICATE_REJECTED"
    assert "bureau" not in lab.server.relay.present("open")


def test_a_certificate_of_another_institution_cannot_take_a_seat_by_its_name(
    lab: RunningLab, open_job: tuple[Contract, SignedJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("party_agent.transport._check_name", lambda tls, me: None)
    tls = forged(lab, tmp_path, "wrong name")
    assert code_of(lambda: channel(lab, "bureau", *open_job, tls)) == "SENDER_REFUSED"


def test_a_renewed_certificate_gets_its_seat(lab: RunningLab, open_job: tuple[Contract, SignedJob]) -> None:
    renew(lab.root / "bureau")
    channel(lab, "bureau", *open_job).close()


def kept_files(lab: RunningLab, name: str, to: Path) -> TlsFiles:
    """The certificate and key that an institution has now, put aside."""
    own = tls_files(lab.root / name)
    return TlsFiles(own.ca, *(shutil.copy(path, to / path.name) for path in (own.certificate, own.key)))


def test_a_superseded_certificate_gets_no_seat_though_it_has_not_expired(lab: RunningLab, tmp_path: Path) -> None:
    job = submit(lab, "superseded")
    former = kept_files(lab, "bureau", tmp_path)
    renew(lab.root / "bureau")
    assert code_of(lambda: channel(lab, "bureau", *job, former)) == "CERTIFICATE_SUPERSEDED"
    channel(lab, "bureau", *job).close()


def test_a_certificate_that_the_register_lacks_gets_no_seat(
    lab: RunningLab, open_job: tuple[Contract, SignedJob], tmp_path: Path
) -> None:
    unregistered = forged(lab, tmp_path, "unregistered")
    assert code_of(lambda: channel(lab, "bureau", *open_job, unregistered)) == "CERTIFICATE_UNKNOWN"
    assert "bureau" not in lab.server.relay.present("open")


def test_a_revocation_closes_open_streams_and_no_certificate_of_the_name_opens_another(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        contract, signed = submit(lab, "shut-out")
        (tmp_path / "former").mkdir()
        former = kept_files(lab, "bureau", tmp_path / "former")
        bureau = channel(lab, "bureau", contract, signed)
        relay = lab.server.relay
        assert {"bureau"} < relay.present("shut-out")
        other_process = Lab.load(lab.lab.folder, time.time)
        other_process.registry.revoke("bureau")
        other_process.close()
        assert until(lambda: "bureau" not in relay.present("shut-out"), 5.0)
        assert relay.verdict("shut-out") == "MEMBER_REVOKED"
        assert until(lambda: not bureau._reader.is_alive(), 5.0)  # the stream itself has ended
        assert code_of(bureau.wait_for_peers) == "MEMBER_REVOKED"
        bureau.close()
        assert code_of(lambda: channel(lab, "bureau", contract, signed, former)) == "MEMBER_REVOKED"


def test_a_revoked_institution_loses_its_job_and_gets_no_seat(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        contract, signed = submit(lab, "revoked")
        bank = channel(lab, "bank", contract, signed)
        other_process = Lab.load(lab.lab.folder, time.time)
        other_process.registry.revoke("bureau")
        other_process.close()
        with pytest.raises(TransportError) as caught:
            channel(lab, "bureau", contract, signed)
        assert caught.value.code in ("MEMBER_REVOKED", "RELAY_UNREACHABLE")
        assert "bureau" not in lab.server.relay.present("revoked")
        with pytest.raises(PeerAbortedError) as aborted:
            bank.wait_for_peers()
        assert aborted.value.code == "MEMBER_REVOKED"
        bank.close()
        assert until(lambda: state(lab, "revoked") == ("ended", "MEMBER_REVOKED"))


# -- faults and the end


def test_a_database_that_goes_away_is_reported_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    postgres = Postgres(tmp_path_factory.mktemp("postgres"))
    (tmp_path / "url").write_text(postgres.url)
    try:
        with running_lab(tmp_path, {"database": {"url_file": str(tmp_path / "url")}}) as lab:
            bank = lab.client("bank")
            contract, signed = submit(lab, "over-the-gap")
            assert bank.health()["status"] == "ok"
            postgres.stop()
            for action in (bank.health, bank.members, lambda: bank.requests(0, 0)):
                assert code_of(action) == "DATABASE_UNAVAILABLE"
            postgres.start()
            assert until(lambda: bank.health()["status"] == "ok")
            channel(lab, "bank", contract, signed).abort("CHECK_FAILED")
            assert until(lambda: state(lab, "over-the-gap") == ("ended", "CHECK_FAILED"))
    finally:
        postgres.stop()


def test_the_log_holds_no_names_tokens_or_documents(tmp_path: Path) -> None:
    stream = io.StringIO()
    handler = log_to(stream)
    for name in ("concordat.api", "concordat.server"):
        logging.getLogger(name).setLevel(logging.NOTSET)  # another test of this process may have silenced one
    try:
        with running_lab(tmp_path, names=("zebra-bank", "zebra-bureau")) as lab:
            contract = lab.contract("zebra-contract", ("zebra-bank", "zebra-bureau"))
            lab.agree(contract)
            lab.client("zebra-bank").submit(lab.job(contract, "zebra-job").encode().decode())
            lab.client("zebra-bank").publish("zebra-data", '{"zebra": 1}')
            code_of(lambda: lab.client("zebra-bank").job("zebra-none"))
            lab.client("zebra-bank").report("zebra-job", 1, "refused", "NOT_TODAY")
            assert until(lambda: lab.lab.registry.jobs_going_on() == [])
    finally:
        logging.getLogger().removeHandler(handler)
    text = stream.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"started", "request", "job", "stopped"} <= {line["event"] for line in lines}
    assert any(line.get("route") == "/v1/jobs/{job}" for line in lines)
    assert "zebra" not in text
    assert not re.search(r"[0-9a-f]{32}", text)


@pytest.mark.process
def test_the_serving_process_ends_well_on_sigterm_with_a_poll_open(tmp_path: Path) -> None:
    port = free_port()
    program = [sys.executable, "-c", "from coordinator.lab_commands import app; app()"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    folder = ["--folder", str(tmp_path / "lab")]
    subprocess.run([*program, "init", *folder, "--address", f"127.0.0.1:{port}"], check=True, env=environment)
    invited = subprocess.run(
        [*program, "invite", "bank", *folder], check=True, env=environment, capture_output=True, text=True
    )
    server = subprocess.Popen(
        [*program, "serve", *folder, "--port", str(port), "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        answer = ""
        while not answer.rstrip().endswith("}"):
            answer += server.stdout.readline()
        assert json.loads(answer) == {"ok": True, "listening": f"127.0.0.1:{port}"}
        create_institution(tmp_path / "bank", "bank")
        join(tmp_path / "bank", invited.stdout)
        answers: list[object] = []
        with lab_client(tmp_path / "bank") as client:
            polling = threading.Thread(target=lambda: answers.append(client.requests(0, 25)))
            polling.start()
            time.sleep(0.5)
            begin = time.monotonic()
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0
            assert time.monotonic() - begin < 10
            polling.join(5)
        assert answers == [([], 0)]
        events = [json.loads(line)["event"] for line in (server.stderr.read() if server.stderr else "").splitlines()]
        assert events[-1] == "stopped"
    finally:
        server.kill()
        server.wait(5)


def test_a_lab_that_stops_ends_its_jobs_for_all_with_one_code(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        contract, signed = submit(lab, "unfinished")
        bank = channel(lab, "bank", contract, signed)
        begin = time.monotonic()
        lab.server.close()
        assert time.monotonic() - begin < 10
        with pytest.raises(PeerAbortedError) as caught:
            bank.wait_for_peers()
        assert caught.value.code == "COORDINATOR_STOPPED"
        bank.close()
        assert state(lab, "unfinished") == ("ended", "COORDINATOR_STOPPED")


def test_two_labs_cannot_have_one_port(lab: RunningLab, tmp_path: Path) -> None:
    other = Lab.create(tmp_path / "lab", lab.lab.settings, Clock())
    server = LabServer(other)
    assert code_of(lambda: server.start("127.0.0.1", lab.port)) == "PORT_TAKEN"
    other.close()


def test_the_relay_answers_on_the_labs_port_with_the_labs_certificate(lab: RunningLab) -> None:
    pem = ssl.get_server_certificate(("127.0.0.1", lab.port), ca_certs=str(lab.lab.folder / "ca.pem"))
    assert x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string() == "CN=relay"
