"""Faults while a job runs: processes that never come, die or crash, signals, altered frames, invalid documents.

Whatever happens, the job ends for all parties with one code within seconds, and no process is left.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from coordinator.certificates import Authority, CertificateFiles
from coordinator.relay import Relay
from coordinator.simulate import Outcome, PartyInput, PreparedJob, Simulation, training_commands
from protocols.contract import JobDocument, JobKind, SignedContract, SignedJob
from protocols.envelope import Envelope, FrameQueue, Kind
from protocols.recipe import load_recipe
from tests.small_consortium import (
    RECIPE,
    Ended,
    SmallConsortium,
    command,
    no_process_of,
    parsed,
    party_processes,
    relay_port,
    stage_begun,
    tokens,
    wait_until,
)

pytestmark = pytest.mark.process

NAMES = ("bank", "bureau", "tax")


class Prepared:
    """A simulation of three parties that is prepared and not yet run, so that a test can change its folders."""

    def __init__(self, folder: Path) -> None:
        self.consortium = SmallConsortium(folder, providers=2)
        inputs = [PartyInput(n, self.consortium.file(n), "id", "y" if n == "bank" else None) for n in NAMES]
        self.simulation = Simulation.create(folder / "out", inputs, load_recipe(RECIPE))
        self.out = self.simulation.out
        self.job: PreparedJob = self.simulation.prepare(JobKind.TRAIN)
        self.commands: dict[str, list[str]] = training_commands(self.simulation, seed=7)

    def run(self, **options: Any) -> Outcome:
        return self.simulation.run(self.job, self.commands, lambda party, event: None, **options)

    def document(self) -> JobDocument:
        return SignedJob.decode((self.out / "bank" / "job.json").read_bytes()).document

    def identity(self, name: str) -> Ed25519PrivateKey:
        key = load_pem_private_key((self.out / name / "identity.pem").read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        return key

    def issue(self, document: JobDocument) -> None:
        """Give every party a job document signed by the label owner."""
        for name in NAMES:
            (self.out / name / "job.json").write_bytes(document.sign(self.identity("bank")).encode())


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path)


def check_ended(outcome: Outcome, code: str, out: Path) -> None:
    assert outcome.code == code
    assert {name: error["code"] for name, error in outcome.errors.items()} == dict.fromkeys(NAMES, code)
    assert all(error["message"] and error["remedy"] for error in outcome.errors.values())
    assert no_process_of(out)
    assert not list(out.rglob("report.*"))
    assert not [path for path in out.rglob("stderr.txt") if b"Traceback" in path.read_bytes()]


# -- processes that never come, die or crash


@pytest.mark.parametrize("stub", ["import time; time.sleep(600)", "raise SystemExit(3)"], ids=["sleeps", "exits"])
def test_a_party_that_never_connects_ends_the_job_for_the_others(prepared: Prepared, stub: str) -> None:
    prepared.commands["bureau"] = [sys.executable, "-c", stub]
    outcome = prepared.run(connect_timeout_s=4.0)
    check_ended(outcome, "PARTY_ABSENT" if "sleep" in stub else "PARTY_LOST", prepared.out)
    assert outcome.seconds < 20
    if "sleep" in stub:
        assert "bureau" in outcome.first["message"]


def start(consortium: SmallConsortium) -> subprocess.Popen[str]:
    arguments = command(consortium.arguments(consortium.folder / "out"))
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    )


def _heed_interrupts() -> None:
    """A test worker that ignores Ctrl-C would hand that on to the command; a user's shell does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str], out: Path) -> Ended:
    begin = time.monotonic()
    text, stderr = process.communicate(timeout=60)
    return Ended(process.returncode, parsed(text), text, stderr, time.monotonic() - begin, out)


def processes_at(consortium: SmallConsortium, out: Path, party: str, stage: str) -> dict[str, int]:
    """The parties' processes, once `party` has begun `stage`."""
    assert wait_until(lambda: stage_begun(out, party, stage), 60)
    found = party_processes(out)
    assert set(found) == set(consortium.names)
    return found


@pytest.mark.parametrize(("party", "stage"), [("bank", "encrypt"), ("bureau", "bin"), ("bureau", "train")])
def test_a_party_killed_in_the_middle_ends_the_job_for_the_others(tmp_path: Path, party: str, stage: str) -> None:
    consortium = SmallConsortium(tmp_path, providers=2)
    out = tmp_path / "out"
    process = start(consortium)
    found = processes_at(consortium, out, party, stage)
    port = relay_port(found[party])
    signal_to(found[party], signal.SIGKILL)
    ended = finish(process, out)
    assert ended.returncode == 1
    assert ended.document["parties"] == dict.fromkeys(NAMES, "PARTY_LOST")
    assert ended.document["error"]["party"] == party
    assert ended.seconds < 10
    assert no_process_of(out)
    assert not list(out.rglob("report.*"))
    assert not listening(port)


def test_parties_end_by_themselves_when_the_coordinator_is_killed(tmp_path: Path) -> None:
    consortium = SmallConsortium(tmp_path, providers=2)
    out = tmp_path / "out"
    process = start(consortium)
    port = relay_port(processes_at(consortium, out, "bank", "encrypt")["bank"])
    process.kill()
    process.communicate(timeout=10)
    assert wait_until(lambda: no_process_of(out), 10)
    assert not listening(port)
    codes = {name: json.loads((out / name / "error.json").read_text())["code"] for name in NAMES}
    assert codes == dict.fromkeys(NAMES, "RELAY_UNREACHABLE")
    assert not [path for path in out.rglob("stderr.txt") if b"Traceback" in path.read_bytes()]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_in_order(tmp_path: Path, sent: signal.Signals) -> None:
    consortium = SmallConsortium(tmp_path, providers=2)
    out = tmp_path / "out"
    process = start(consortium)
    processes_at(consortium, out, "tax", "encrypt")
    process.send_signal(sent)
    ended = finish(process, out)
    assert ended.returncode == 130
    assert ended.code == "INTERRUPTED"
    assert ended.document["parties"] == dict.fromkeys(NAMES, "INTERRUPTED")
    assert "Traceback" not in ended.stderr
    assert ended.seconds < 10
    assert no_process_of(out)
    assert not [path for path in out.rglob("stderr.txt") if b"Traceback" in path.read_bytes()]


def test_a_signal_to_one_party_ends_the_job_for_all(tmp_path: Path) -> None:
    consortium = SmallConsortium(tmp_path, providers=2)
    out = tmp_path / "out"
    process = start(consortium)
    signal_to(processes_at(consortium, out, "tax", "align")["tax"], signal.SIGTERM)
    ended = finish(process, out)
    assert ended.returncode == 130
    assert ended.document["parties"] == dict.fromkeys(NAMES, "INTERRUPTED")
    assert ended.document["error"]["party"] == "tax"


CRASH = """
import party_agent.job
from party_agent.__main__ import main
def prebin(self, aligned):
    raise KeyError(aligned.table.ids[0], float(aligned.table.columns[0].values[0]))
party_agent.job.TrainingJob.prebin = prebin
main()
"""


def test_a_crash_ends_the_job_for_all_and_shows_no_data(prepared: Prepared) -> None:
    words = prepared.commands["tax"]
    prepared.commands["tax"] = [sys.executable, "-c", CRASH, *words[words.index("job") :]]
    outcome = prepared.run()
    check_ended(outcome, "INTERNAL_ERROR", prepared.out)
    assert outcome.first["message"].startswith("KeyError at ")
    names = ("log.jsonl", "error.json", "stderr.txt")
    said = [path.read_text() for path in prepared.out.rglob("*") if path.name in names]
    assert not tokens(json.dumps(dict(outcome.errors)), *said) & prepared.consortium.secrets()


def test_a_folder_that_cannot_be_written_ends_the_job_for_all(prepared: Prepared) -> None:
    (prepared.out / "tax" / "nonces.txt").mkdir()
    check_ended(prepared.run(), "FOLDER_UNUSABLE", prepared.out)


# -- frames


class AlteringRelay(Relay):
    """Alters the last byte of the third data frame from `tax` to `bank`."""

    def __init__(self, certificates: CertificateFiles, jobs: Mapping[str, Collection[str]]) -> None:
        super().__init__(certificates, jobs)
        self.seen = 0

    def forward(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        if (envelope.kind, envelope.sender, envelope.receiver) == (Kind.DATA, "tax", "bank"):
            self.seen += 1
            if self.seen == 3:
                frame = frame[:-1] + bytes([frame[-1] ^ 1])
        super().forward(queue, envelope, frame)


class RepeatingRelay(Relay):
    """Delivers every frame that the coordinator deals to `bureau` twice."""

    def forward(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        super().forward(queue, envelope, frame)
        if (envelope.kind, envelope.sender, envelope.receiver) == (Kind.DATA, "coordinator", "bureau"):
            super().forward(queue, envelope, frame)


@pytest.mark.parametrize("relay_maker", [AlteringRelay, RepeatingRelay])
def test_a_relay_that_alters_or_repeats_a_frame_ends_the_job(prepared: Prepared, relay_maker: type[Relay]) -> None:
    check_ended(prepared.run(relay_maker=relay_maker), "FRAME_REJECTED", prepared.out)


# -- certificates


@pytest.mark.parametrize(("authority_is_ours", "name"), [(False, "tax"), (True, "insurer")])
def test_a_certificate_that_does_not_match_is_rejected(prepared: Prepared, authority_is_ours: bool, name: str) -> None:
    tls = prepared.out / "tax" / "tls"
    trusted = (tls / "ca.pem").read_bytes()
    other = Authority(datetime.datetime.now(datetime.UTC)).client(prepared.consortium.folder / "other", name)
    shutil.copy(other.certificate, tls / "tax.pem")
    shutil.copy(other.key, tls / "tax.key")
    (tls / "ca.pem").write_bytes(trusted)
    outcome = prepared.run()
    check_ended(outcome, "CERTIFICATE_REJECTED", prepared.out)
    assert authority_is_ours == ("another name" in outcome.first["message"])


def test_a_relay_of_another_authority_is_rejected(prepared: Prepared) -> None:
    other = Authority(datetime.datetime.now(datetime.UTC)).client(prepared.consortium.folder / "other", "tax")
    shutil.copy(other.ca, prepared.out / "tax" / "tls" / "ca.pem")
    check_ended(prepared.run(), "CERTIFICATE_REJECTED", prepared.out)


def test_an_identity_that_the_contract_does_not_name_is_rejected(prepared: Prepared) -> None:
    shutil.copy(prepared.out / "bureau" / "identity.pem", prepared.out / "tax" / "identity.pem")
    check_ended(prepared.run(), "HANDSHAKE_REJECTED", prepared.out)


# -- documents


def test_an_expired_job_document_is_refused_by_all(prepared: Prepared) -> None:
    now = int(time.time())
    prepared.issue(replace(prepared.document(), issued=now - 7200, expires=now - 3600))
    check_ended(prepared.run(), "JOB_EXPIRED", prepared.out)


def test_an_altered_job_document_is_refused_by_all(prepared: Prepared) -> None:
    for name in NAMES:
        path = prepared.out / name / "job.json"
        path.write_bytes(path.read_bytes().replace(b'\\"max_bins\\":8', b'\\"max_bins\\":9'))
    check_ended(prepared.run(), "JOB_SIGNATURE_INVALID", prepared.out)


def test_a_job_document_signed_by_a_provider_is_refused_by_all(prepared: Prepared) -> None:
    for name in NAMES:
        document = prepared.document().sign(prepared.identity("tax"))
        (prepared.out / name / "job.json").write_bytes(document.encode())
    check_ended(prepared.run(), "JOB_SIGNATURE_INVALID", prepared.out)


def test_a_job_document_for_another_kind_of_job_is_refused_by_all(prepared: Prepared) -> None:
    prepared.issue(replace(prepared.document(), kind=JobKind.SCORE, model="train-0"))
    check_ended(prepared.run(), "JOB_OTHER_KIND", prepared.out)


def test_a_contract_that_has_ended_is_refused_by_all(prepared: Prepared) -> None:
    signed = SignedContract.decode((prepared.out / "bank" / "contract.json").read_bytes())
    contract = replace(signed.contract, valid_until=int(time.time()) - 1, valid_from=1)
    signed = SignedContract(contract, ())
    for name in (*NAMES, "coordinator"):
        signed = signed.signed_by(name, prepared.identity(name))
    for name in NAMES:
        (prepared.out / name / "contract.json").write_bytes(signed.encode())
    check_ended(prepared.run(), "CONTRACT_EXPIRED", prepared.out)


def test_an_altered_contract_is_refused_by_all(prepared: Prepared) -> None:
    for name in NAMES:
        path = prepared.out / name / "contract.json"
        path.write_bytes(path.read_bytes().replace(b'"bin_floor":50', b'"bin_floor":60'))
    check_ended(prepared.run(), "CONTRACT_SIGNATURE_INVALID", prepared.out)


def test_a_job_document_runs_once(prepared: Prepared) -> None:
    prepared.consortium.file("tax").unlink()
    check_ended(prepared.run(), "FILE_MISSING", prepared.out)
    check_ended(prepared.run(), "JOB_REPLAYED", prepared.out)


def signal_to(process: int, number: signal.Signals) -> None:
    """To a process that this test started."""
    os.kill(process, number)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
