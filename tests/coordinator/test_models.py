"""The library of models through a real lab: two agents, their commands, and what the operator sees."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.model_commands import app as lab_models
from party_agent.agent import Agent
from party_agent.enrolment import lab_client
from party_agent.model_commands import model_app
from party_agent.peers import PeerBook
from party_agent.store import Folder
from party_agent.transport import load_identity
from protocols.audit import entries_of
from protocols.audit_export import sentence
from protocols.contract import Contract, JobKind
from protocols.errors import ConcordatError
from protocols.model_record import Act, ModelEvent, ModelRecord, PartLine, SignedModelEvent
from tests.finished_job import leave_finished_job
from tests.party_agent.made_up_job import TABLES, made_up_report
from tests.running_lab import NAMES, RunningLab, running_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running_lab(tmp_path_factory.mktemp("models")) as found:
        for name in NAMES:
            with PeerBook.open(found.root / name) as peers:
                peers.refresh(found.client(name).members(), name)
                for other in set(NAMES) - {name}:
                    peers.verify(other, " ".join(peers.get(other).words))
        yield found


def agreed(lab: RunningLab, contract_id: str, *jobs: str) -> Contract:
    """A contract in force, and training jobs that ended well at both agents."""
    contract = lab.contract(contract_id)
    digest = lab.agree(contract)
    for name in NAMES:
        agent = Agent(lab.root / name, lab.client(name))
        agent.fetch_contract(digest)
        agent.close()
    for job in jobs:
        signed = lab.job(contract, job, kind=JobKind.TRAIN)
        for name in NAMES:
            leave_finished_job(lab.root / name, signed, TABLES[name], made_up_report())
    return contract


def run(lab: RunningLab, name: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    answer = CliRunner().invoke(model_app, [*arguments, "--folder", str(lab.root / name), "--json"])
    return answer.exit_code, json.loads(answer.stdout.splitlines()[-1])


def told(lab: RunningLab, name: str, *arguments: str) -> str:
    answer = CliRunner().invoke(model_app, [*arguments, "--folder", str(lab.root / name)])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def operator(lab: RunningLab) -> dict[str, dict[str, Any]]:
    answer = CliRunner().invoke(lab_models, ["--folder", str(lab.lab.folder), "--json"])
    assert answer.exit_code == 0
    return {f"{row['name']}:{row['version']}": row for row in json.loads(answer.stdout)["models"]}


def test_a_model_is_submitted_approved_by_each_taken_live_and_retired(lab: RunningLab) -> None:
    contract = agreed(lab, "scorecards", "train-a")
    assert "draft  train-a" in told(lab, "bureau", "list")
    code, row = run(lab, "bank", "submit", "train-a", "--name", "sme", "--reason", "first version")
    assert (code, row["name"], row["version"], row["state"]) == (0, "sme", 1, "submitted")
    assert run(lab, "bank", "submit", "train-a")[1]["hash"] == row["hash"]  # sent again, it is the same one
    assert run(lab, "bank", "approve", "sme:1")[1]["state"] == "submitted"
    assert run(lab, "bank", "go-live", "sme:1")[1]["error"]["code"] == "MODEL_NOT_APPROVED"
    assert run(lab, "bureau", "approve", "train-a")[1]["state"] == "approved"
    assert run(lab, "bureau", "go-live", "sme:1")[1]["error"]["code"] == "MODEL_ROLE"
    assert run(lab, "bank", "go-live", row["hash"][:8])[1]["state"] == "live"
    shown = run(lab, "bureau", "show", "sme:1")[1]
    assert (shown["state"], shown["own_part"], set(shown["parts"])) == ("live", "as approved", set(NAMES))
    assert shown["parts"]["bank"]["part"] != shown["parts"]["bureau"]["part"]
    assert "bank: part" in told(lab, "bureau", "show", "sme:1")
    assert run(lab, "bureau", "retire", "sme:1", "--reason", "a defect")[1]["state"] == "retired"
    assert run(lab, "bank", "show", "sme:1")[1]["state"] == "retired"
    with lab_client(lab.root / "bank") as client:
        agent = Agent(lab.root / "bank", client)
        with pytest.raises(ConcordatError) as caught:
            agent.check_model("train-a", contract.hash().hex())
        agent.close()
    assert caught.value.code == "MODEL_RETIRED"


def test_the_lab_has_hashes_states_and_opened_metrics_and_its_log_says_who_did_what(lab: RunningLab) -> None:
    contract = agreed(lab, "at-the-lab", "train-b", "train-c")
    run(lab, "bank", "submit", "train-b", "--name", "open")
    run(lab, "bank", "submit", "train-c", "--name", "closed", "--no-metrics")
    run(lab, "bureau", "approve", "open:1")
    rows = operator(lab)
    auc = round(made_up_report()["metrics"]["test"]["auc"] * 10_000)
    assert (rows["open:1"]["state"], rows["open:1"]["metrics"]["test_auc"]) == ("submitted", auc)
    assert (rows["closed:1"]["metrics"], list(rows["open:1"]["parts"])) == ({}, ["bureau"])
    assert set(rows["open:1"]) == {
        *("name", "version", "contract_hash", "job", "job_document", "recipe_hash", "code", "metrics"),
        *("hash", "state", "received", "parts"),
    }
    answer = CliRunner().invoke(lab_models, ["--folder", str(lab.lab.folder)])
    assert "closed:1  submitted" in answer.stdout
    log = entries_of((lab.lab.folder / "audit.log").read_bytes())
    said = [sentence(entry) for entry in log if entry.fields.get("contract") == contract.hash().hex()]
    assert "bureau approved version 1 of model open." in said
    raw = b"".join(path.read_bytes() for path in lab.lab.folder.glob("lab.db*"))
    for feature in (*TABLES["bureau"].features, *TABLES["bank"].features):
        assert feature.name.encode() not in raw


def test_the_daemon_takes_a_model_over_from_its_queue(lab: RunningLab) -> None:
    agreed(lab, "daemons", "train-d")
    digest = run(lab, "bank", "submit", "train-d", "--name", "queued")[1]["hash"]
    with lab_client(lab.root / "bureau") as client:
        agent = Agent(lab.root / "bureau", client)
        agent.step(0)
        assert agent.models.store.get("queued:1").hash() == digest
        agent.close()


def test_the_lab_takes_a_partys_own_events_only(lab: RunningLab) -> None:
    agreed(lab, "lab-refuses", "train-e", "train-f")
    digest = run(lab, "bank", "submit", "train-e", "--name", "refusing")[1]["hash"]
    record = ModelRecord.decode(str(lab.client("bank").model(digest)["record"]).encode())

    def signed(party: str, act: Act, sequence: int, of: ModelRecord = record, by: str = "") -> str:
        own = PartLine("1" * 64, "2" * 64, "0.1.0") if act is Act.APPROVE else PartLine()
        event = ModelEvent(of.hash(), party, act, sequence, int(time.time()), "", own)
        return event.sign(load_identity(lab.root / (by or party) / "identity.pem")).encode().decode()

    def code_of(sender: str, document: str) -> str:
        with pytest.raises(ConcordatError) as caught:
            lab.client(sender).add_model_event(digest, document)
        return caught.value.code

    approval = signed("bureau", Act.APPROVE, 1)
    assert code_of("bank", approval) == "EVENT_OTHER_PARTY"
    assert code_of("bureau", signed("bureau", Act.APPROVE, 1, by="bank")) == "EVENT_SIGNATURE_INVALID"
    assert lab.client("bureau").add_model_event(digest, approval) == {"created": True}
    assert lab.client("bureau").add_model_event(digest, approval) == {"created": False}
    assert code_of("bureau", signed("bureau", Act.RETIRE, 1)) == "EVENT_NUMBER"
    assert code_of("bureau", "{}") == "EVENT_MALFORMED"
    again = replace(record, recipe_hash="3" * 64)
    with pytest.raises(ConcordatError) as caught:
        lab.client("bank").submit_model(again.encode().decode(), signed("bank", Act.SUBMIT, 1, again))
    assert caught.value.code == "MODEL_EXISTS"
    with pytest.raises(ConcordatError) as caught:
        lab.client("bank").model("0" * 64)
    assert caught.value.code == "MODEL_NOT_FOUND"
    assert SignedModelEvent.decode(approval.encode()).event.party == "bureau"


def test_two_models_are_compared_from_the_own_folder(lab: RunningLab, tmp_path: Path) -> None:
    contract = agreed(lab, "compared", "train-g", "train-h")
    folder = Folder(lab.root / "bureau" / "jobs" / "train-h")
    changed = json.loads((folder.path / "model.json").read_bytes())
    first, second = changed["points"]["features"][:2]
    first["bins"][0]["points"] += 7
    second["name"] = "another_column"
    folder.write_json("model.json", changed)
    shared = made_up_report()
    shared["recipe"]["logistic"]["l2"] = 2.0
    shared["metrics"]["test"]["auc"] = round(shared["metrics"]["test"]["auc"] + 0.01, 4)
    folder.write_json("shared.json", shared)
    run(lab, "bank", "submit", "train-g", "--name", "pair")
    found = run(lab, "bureau", "compare", "train-g", "train-h")[1]
    before = TABLES["bureau"].features
    assert found["parameters"] == [{"name": "logistic.l2", "first": 1.0, "second": 2.0}]
    assert found["same_data"] is True
    assert found["metrics"]["test_auc"][2] == pytest.approx(0.01)
    assert found["features"]["only_first"] == [before[1].name]
    assert found["features"]["only_second"] == ["another_column"]
    changed_bin = {"feature": before[0].name, "bin": before[0].labels[0]}
    worth = before[0].points[0]
    assert found["points"] == [changed_bin | {"first": worth, "second": worth + 7}]
    assert found["psi"] == {"train": 0.0, "rest": 0.0}
    by_folder = [str(lab.root / "bureau" / "jobs" / job) for job in ("train-g", "train-h")]
    answer = CliRunner().invoke(model_app, ["compare", *by_folder])
    assert f"only in train-h: another_column\n{before[0].name}, {before[0].labels[0]}: {worth:+d}" in answer.stdout
    kept = json.loads((folder.path / "partial_scores.json").read_bytes())
    kept["rest"]["points"] = [value + 40 for value in kept["rest"]["points"]]
    folder.write_json("partial_scores.json", kept)
    shifted = run(lab, "bureau", "compare", "train-g", "train-h")[1]["psi"]
    assert (shifted["train"], shifted["rest"] > 0.1) == (0.0, True)
    (folder.path / "partial_scores.json").unlink()
    assert run(lab, "bureau", "compare", "train-g", "train-h")[1]["psi"] == {}
    assert run(lab, "bureau", "compare", "train-g", "train-x")[1]["error"]["code"] == "MODEL_NOT_FOUND"
    assert contract.hash().hex() == changed["contract"]
