"""`concordat job` and `concordat audit`: the operator's view of jobs, and the lab's own record."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.audit_commands import audit_app
from coordinator.job_commands import job_app
from coordinator.lab import Lab
from protocols.audit import Entry, entries_of
from protocols.audit_export import sentence
from protocols.contract import Contract
from protocols.errors import ConcordatError
from tests.running_lab import RunningLab, running_lab

NAMES = ("bank", "bureau", "tax")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running_lab(tmp_path_factory.mktemp("operator"), names=NAMES) as found:
        yield found


@pytest.fixture(scope="module")
def contract(lab: RunningLab) -> Contract:
    agreed = lab.contract("operated")
    lab.agree(agreed)
    return agreed


def run(app: Any, lab: RunningLab, *arguments: str) -> tuple[int, dict[str, Any]]:
    answer = CliRunner().invoke(app, [*arguments, "--folder", str(lab.lab.folder), "--json"])
    return answer.exit_code, json.loads(answer.stdout)


def document(lab: RunningLab, contract: Contract, name: str, attempt: int = 1) -> str:
    path = lab.root / f"{name}-{attempt}.json"
    path.write_bytes(lab.job(contract, name, attempt=attempt).encode())
    return str(path)


def entries(lab: RunningLab) -> list[Entry]:
    return list(entries_of((lab.lab.folder / "audit.log").read_bytes()))


def until(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def test_a_document_that_the_label_owner_signed_is_delivered_once_and_told_to_all(
    lab: RunningLab, contract: Contract
) -> None:
    file = document(lab, contract, "delivered")
    answers = [run(job_app, lab, "submit", file) for _ in range(3)]
    assert [(code, answer["created"]) for code, answer in answers] == [(0, True), (0, False), (0, False)]
    for name in ("bank", "bureau"):
        queue = lab.client(name).requests(0, 0)[0]
        assert [item["kind"] for item in queue if item["reference"] == "delivered"] == ["job"]
    received = [entry for entry in entries(lab) if entry.fields.get("job") == "delivered"]
    assert [(entry.kind, entry.fields["by"]) for entry in received] == [("job accepted", "bank")]


def test_a_document_that_was_altered_is_not_delivered(lab: RunningLab, contract: Contract) -> None:
    path = Path(document(lab, contract, "altered"))
    path.write_text(path.read_text().replace("altered", "another"))
    before = len(entries(lab))
    code, answer = run(job_app, lab, "submit", str(path))
    assert (code, answer["error"]["code"]) == (1, "JOB_SIGNATURE_INVALID")
    path.write_text("{}")
    assert run(job_app, lab, "submit", str(path))[0] == 1
    assert run(job_app, lab, "submit", str(lab.root))[1]["error"]["code"] == "FILE_MISSING"
    assert len(entries(lab)) == before


def test_stop_ends_a_running_job_at_the_relay_and_resume_delivers_the_next_attempt(
    lab: RunningLab, contract: Contract
) -> None:
    run(job_app, lab, "submit", document(lab, contract, "broken"))
    second = document(lab, contract, "broken", 2)
    assert run(job_app, lab, "resume", second)[1]["error"]["code"] == "JOB_RUNNING"
    for name in ("bank", "bureau"):
        lab.client(name).report("broken", 1, "accepted")
    assert until(lambda: lab.server.relay.is_open("broken"))
    assert run(job_app, lab, "stop", "broken")[1]["code"] == "JOB_STOPPED"
    assert until(lambda: lab.server.relay.verdict("broken") == "JOB_STOPPED")
    assert lab.client("bureau").requests(0, 0)[0][-1]["kind"] == "stop"
    assert run(job_app, lab, "resume", second)[1]["attempt"] == 2
    assert run(job_app, lab, "status", "broken")[1]["state"] == "submitted"
    assert run(job_app, lab, "status", "broken", "--attempt", "1")[1]["code"] == "JOB_STOPPED"
    for name in ("bank", "bureau"):
        lab.client(name).report("broken", 2, "accepted")
    assert until(lambda: run(job_app, lab, "status", "broken")[1]["state"] == "running")
    kinds = [entry.kind for entry in entries(lab) if entry.fields.get("job") == "broken"]
    assert kinds == ["job accepted", "job started", "job ended", "job accepted", "job started"]
    run(job_app, lab, "stop", "broken")


def test_a_first_attempt_is_not_resumed_and_an_unknown_job_is_said_to_be_unknown(
    lab: RunningLab, contract: Contract
) -> None:
    fresh = document(lab, contract, "fresh")
    assert run(job_app, lab, "resume", fresh)[1]["error"]["code"] == "ATTEMPT_INVALID"
    for command in ("status", "logs", "stop"):
        assert run(job_app, lab, command, "nowhere")[1]["error"]["code"] == "JOB_NOT_FOUND"


def test_logs_and_status_show_stages_and_codes_and_nothing_of_the_recipe(lab: RunningLab, contract: Contract) -> None:
    run(job_app, lab, "submit", document(lab, contract, "told"))
    lab.client("bank").report("told", 1, "accepted")
    lab.client("bureau").report("told", 1, "refused", "POLICY_KIND")
    _, logs = run(job_app, lab, "logs", "told")
    shown = [(row["party"], row["stage"], row["code"]) for row in logs["reports"]]
    assert shown == [("bank", "accepted", None), ("bureau", "refused", "POLICY_KIND")]
    _, status = run(job_app, lab, "status", "told", "--wait-s", "5")
    assert (status["state"], status["code"]) == ("ended", "POLICY_KIND")
    text = json.dumps([logs, status, run(job_app, lab, "status")[1]])
    assert "chimerge" not in text
    assert "signature" not in text


def test_the_labs_log_tells_who_was_invited_enrolled_and_shut_out_and_what_came_in(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        lab.agree(lab.contract("recorded"))
        lab.lab.invite("tax")
        lab.lab.registry.revoke("bureau")
        told = [sentence(entry) for entry in entries(lab)]
        actions = [(e.fields["action"], e.fields["subject"]) for e in entries(lab) if e.kind == "administration"]
        assert actions == [
            *(("institution-invited", "bank"), ("institution-enrolled", "bank")),
            *(("institution-invited", "bureau"), ("institution-enrolled", "bureau")),
            *(("institution-invited", "tax"), ("institution-revoked", "bureau")),
        ]
        contract_lines = [line for line in told if "recorded" in line]
        assert contract_lines == [
            "bank proposed contract recorded.",
            *(f"{name} signed contract recorded." for name in ("bank", "bureau", "coordinator")),
        ]
        code, verified = run(audit_app, lab, "verify")
        assert (code, verified["sound"]) == (0, True)
        assert run(audit_app, lab, "show", "--kind", "administration")[1]["entries"][0]["kind"] == "administration"
        assert run(audit_app, lab, "export", "--out", str(tmp_path / "audit.json"))[0] == 0
        assert json.loads((tmp_path / "audit.json").read_bytes())["owner"] == "coordinator"
        path = lab.lab.folder / "audit.log"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        code, verified = run(audit_app, lab, "verify")
        assert code == 1
        assert verified["first_finding"]["entry"] > 0


def test_a_lab_that_cannot_record_does_nothing(tmp_path: Path) -> None:
    with running_lab(tmp_path, names=("bank",)) as lab:
        (lab.lab.folder / "audit.head").write_bytes(b"not a head")
        with pytest.raises(ConcordatError) as caught:
            lab.lab.invite("tax")
        assert caught.value.code == "AUDIT_HEAD_INVALID"
        again = Lab.load(lab.lab.folder, lab.clock)
        with pytest.raises(ConcordatError):
            again.registry.revoke("bank")
        assert again.registry.is_active("bank")
        again.close()
