"""The walk-through ends in a scorecard, the one that a simulation gives, and in records that are sound."""

from __future__ import annotations

import csv
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from party_agent.job_output import SCORE_STAGES, STAGES
from protocols.audit import entries_of
from protocols.audit_files import ReceiptFile
from tests.small_consortium import SmallConsortium, concordat
from tests.walkthrough import INSTITUTIONS, Walkthrough, agree, approve, jobs, prepared, score, train

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Walkthrough, str, str]]:
    """A lab and three institutions after their first job: the walk-through, the contract's hash, the job."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with prepared(tmp_path_factory.mktemp("walk"), port, lambda _: None) as walk:
        digest = agree(walk)
        yield walk, digest, train(walk, digest)


def _model(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "model.json").read_bytes())
    return document


def test_every_institution_has_its_part_and_the_same_statement(walked: tuple[Walkthrough, str, str]) -> None:
    walk, _, job = walked
    folders = [walk.folder(name) / "jobs" / job for name in INSTITUTIONS]
    digests = {json.loads((folder / "statement.json").read_bytes())["digest"] for folder in folders}
    assert len(digests) == 1
    for name, folder in zip(INSTITUTIONS, folders, strict=True):
        assert _model(folder)["points"]["party"] == name
        assert (folder / "report.html").stat().st_size > 10_000
        assert not (folder / "checkpoints").exists() or not list((folder / "checkpoints").iterdir())


def test_the_model_is_the_one_of_a_simulation(walked: tuple[Walkthrough, str, str], tmp_path: Path) -> None:
    walk, _, job = walked
    consortium = SmallConsortium(tmp_path, providers=2)
    out = tmp_path / "out"
    assert concordat(consortium.arguments(out), out).returncode == 0
    for name in INSTITUTIONS:
        ours, theirs = _model(walk.folder(name) / "jobs" / job), _model(out / name)
        by_name = {item["binning"]["feature"]: item for item in theirs["features"]}
        assert {item["binning"]["feature"] for item in ours["features"]} == set(by_name)
        for item in ours["features"]:
            other = by_name[item["binning"]["feature"]]
            assert all(item[key] == other[key] for key in ("binning", "merge_map", "woe", "iv", "rows"))
            assert abs(item["weight"] - other["weight"]) <= 1e-4


def test_the_bank_asked_a_person_and_the_others_did_not(walked: tuple[Walkthrough, str, str]) -> None:
    walk, _, job = walked
    for name in INSTITUTIONS:
        assert [entry["state"] for entry in jobs(walk, name) if entry["job"] == job] == ["finished"]
        kinds = [line.split(b'"kind":"')[1].split(b'"')[0] for line in _audit(walk, name)]
        for kind in (b"contract signed" if name != "bank" else b"contract proposed", b"job accepted", b"job ended"):
            assert kind in kinds


def test_the_audit_logs_are_sound_and_hold_no_secret(walked: tuple[Walkthrough, str, str]) -> None:
    walk, _, _ = walked
    for name in INSTITUTIONS:
        walk.run(name, "concordat-party", "audit", "verify", "--folder", str(walk.folder(name)))
        log = (walk.folder(name) / "audit.log").read_bytes()
        for secrets in walk.environment.values():
            assert not any(secret.encode() in log for secret in secrets.values())


def _scores(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row["score"] for row in csv.DictReader(file)}


def test_a_scoring_job_gives_the_bank_the_scores_of_the_model_and_the_others_a_statement(
    walked: tuple[Walkthrough, str, str], tmp_path: Path
) -> None:
    walk, digest, job = walked
    expected = dict(list(_scores(walk.folder("bank") / "jobs" / job / "scores.csv").items())[100:300])
    ids = tmp_path / "ids.csv"
    ids.write_text("\n".join(["id", *expected, "QX-nobody"]) + "\n", encoding="utf-8")
    scoring = score(walk, digest, job, ids)
    folders = {name: walk.folder(name) / "jobs" / scoring for name in INSTITUTIONS}
    assert _scores(folders["bank"] / "scored.csv") == expected
    assert json.loads((folders["bank"] / "scored.json").read_bytes()) == {"asked": 201, "scored": 200}
    statements = [json.loads((folder / "statement.json").read_bytes()) for folder in folders.values()]
    assert len({statement["digest"] for statement in statements}) == 1
    lines = {(line["to"], line["what"], line["nature"]): line["numbers"] for line in statements[0]["lines"]}
    assert lines["bank", "score per row", "opened"] == 200
    assert lines["tax", "which of its own ids all parties hold", "opened"] == 200
    for name, folder in folders.items():
        left = {path.name for path in folder.iterdir()}
        assert left & {"scored.csv", "scored.json", "asked.csv"} == (
            {"scored.csv", "scored.json", "asked.csv"} if name == "bank" else set()
        )
        assert not any(
            one.encode() in path.read_bytes() for path in folder.iterdir() for one in list(expected)[:3]
        ) or (name == "bank")
        entries = [
            e for e in entries_of((walk.folder(name) / "audit.log").read_bytes()) if e.fields.get("job") == scoring
        ]
        assert [e.fields["stage"] for e in entries if e.kind == "job stage"] == list(SCORE_STAGES)
        assert {e.fields["to"] for e in entries if e.kind == "disclosure"} == set(INSTITUTIONS)
        assert [(e["kind"], e["state"]) for e in jobs(walk, name) if e["job"] == scoring] == [("score", "finished")]


def test_scores_of_a_registered_data_set_of_ids_by_a_document_that_the_operator_delivers(
    walked: tuple[Walkthrough, str, str], tmp_path: Path
) -> None:
    walk, digest, job = walked
    expected = dict(list(_scores(walk.folder("bank") / "jobs" / job / "scores.csv").items())[:3])
    applicants, document, bank = tmp_path / "applicants.csv", tmp_path / "job.json", str(walk.folder("bank"))
    applicants.write_text("\n".join(["number", *expected]) + "\n", encoding="utf-8")
    walk.run("bank", "concordat-party", "data", "add", "applicants", "--from", str(applicants), "--id", "number",
             "--folder", bank)  # fmt: skip
    asked = ["--kind", "score", "--model", job, "--ids-from", "applicants", "--out", str(document)]
    walk.run("bank", "concordat-party", "jobs", "request", digest[:12], *asked, "--folder", bank)
    assert not any(one.encode() in document.read_bytes() for one in expected)
    lab = str(walk.folder("lab"))
    delivered = walk.run("lab", "concordat", "job", "submit", str(document), "--folder", lab)
    assert (delivered["kind"], delivered["created"]) == ("score", True)
    scoring = approve(walk, str(delivered["job"]))
    assert _scores(walk.folder("bank") / "jobs" / scoring / "scored.csv") == expected
    told = walk.run("lab", "concordat", "job", "status", scoring, "--folder", lab)
    assert (told["kind"], told["state"], told["code"]) == ("score", "ended", None)


def test_scores_with_a_model_that_no_job_of_the_contract_made_are_not_asked_for(
    walked: tuple[Walkthrough, str, str],
) -> None:
    walk, digest, _ = walked
    before = jobs(walk, "bank")
    asked = ["--kind", "score", "--model", "train-00000000", "--ids", str(walk.root / "none.csv")]
    with pytest.raises(RuntimeError, match="MODEL_UNKNOWN"):
        walk.run(
            "bank", "concordat-party", "jobs", "request", digest[:12], *asked, "--folder", str(walk.folder("bank"))
        )
    assert jobs(walk, "bank") == before


def test_a_suspended_contract_runs_no_job_until_its_party_resumes_it(walked: tuple[Walkthrough, str, str]) -> None:
    walk, digest, _ = walked
    tax = str(walk.folder("tax"))
    walk.run("tax", "concordat-party", "contract", "suspend", digest[:12], "--reason", "a question", "--folder", tax)
    bank = str(walk.folder("bank"))
    walk.run("bank", "concordat-party", "contract", "list", "--folder", bank)
    with pytest.raises(RuntimeError, match="CONTRACT_SUSPENDED"):
        walk.run("bank", "concordat-party", "jobs", "request", digest[:12], "--folder", bank)
    walk.run("tax", "concordat-party", "contract", "resume", digest[:12], "--folder", tax)
    states = {
        row["hash"]: row["state"]
        for row in walk.run("bank", "concordat-party", "contract", "list", "--folder", bank)["contracts"]
    }
    assert states[digest] == "active"


def _audit(walk: Walkthrough, name: str) -> list[bytes]:
    return (walk.folder(name) / "audit.log").read_bytes().splitlines()


def test_every_log_tells_the_stages_the_disclosures_and_the_heads_of_the_others(
    walked: tuple[Walkthrough, str, str],
) -> None:
    walk, _, job = walked
    for name in INSTITUTIONS:
        folder, others = walk.folder(name), {other for other in INSTITUTIONS if other != name}
        entries = list(entries_of((folder / "audit.log").read_bytes()))
        of_job = [entry for entry in entries if entry.fields.get("job") == job]
        stages = [str(entry.fields["stage"]) for entry in of_job if entry.kind == "job stage"]
        assert stages == [stage for stage in STAGES if stage in stages]
        assert {"align", "encrypt", "bin", "train", "validate", "statement"} <= set(stages)
        assert {e.fields["to"] for e in of_job if e.kind == "disclosure"} >= set(INSTITUTIONS)
        assert [entry.kind for entry in of_job][-1] == "job ended"
        deadline = time.monotonic() + 30
        while {receipt.peer for receipt in ReceiptFile(folder).all()} != others and time.monotonic() < deadline:
            time.sleep(0.5)
        assert {receipt.peer for receipt in ReceiptFile(folder).all()} == others
        assert walk.run(name, "concordat-party", "audit", "verify", "--folder", str(folder))["witnesses"] >= len(others)
    assert walk.run("lab", "concordat", "audit", "verify", "--folder", str(walk.folder("lab")))["sound"]
    told = walk.run("lab", "concordat", "job", "logs", job, "--folder", str(walk.folder("lab")))["reports"]
    assert {row["party"] for row in told if row["stage"] == "train"} == set(INSTITUTIONS)
