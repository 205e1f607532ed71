"""A job that broke off goes on from the last stage that every party had finished, to the same model."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from protocols.disclosure import REPEATED
from tests.small_consortium import (
    SmallConsortium,
    command,
    concordat,
    log_of,
    no_process_of,
    party_processes,
    stage_begun,
    wait_until,
)
from tests.test_faults import signal_to

pytestmark = pytest.mark.process
NAMES = ("bank", "bureau", "tax")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    consortium = SmallConsortium(tmp_path_factory.mktemp("clean"), providers=2)
    out = consortium.folder / "out"
    assert concordat(consortium.arguments(out), out).returncode == 0
    return out


def _model(out: Path, party: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / party / "model.json").read_bytes())
    return document


def _break_off(folder: Path, party: str, stage: str) -> tuple[SmallConsortium, Path]:
    """A run in which `party` is killed once it has begun `stage`."""
    consortium = SmallConsortium(folder, providers=2)
    out = folder / "out"
    with subprocess.Popen(command(consortium.arguments(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        assert wait_until(lambda: stage_begun(out, party, stage), 60)
        signal_to(party_processes(out)[party], signal.SIGKILL)
        run.communicate(timeout=60)
        assert run.returncode == 1
    assert no_process_of(out)
    return consortium, out


def stages_after(out: Path, party: str) -> list[str]:
    """The stages a party began after its last connection."""
    events = [event["stage"] for event in log_of(out, party) if event.get("event") == "stage begins"]
    return events[len(events) - 1 - events[::-1].index("resume") :]


@pytest.mark.parametrize(
    ("party", "stage", "repeated"),
    [
        ("tax", "encrypt", ["encrypt", "bin", "train"]),
        ("bureau", "bin", ["bin", "train"]),
        ("bank", "train", ["train"]),
    ],
)
def test_a_job_goes_on_after_a_kill_to_the_same_model(
    tmp_path: Path, clean: Path, party: str, stage: str, repeated: list[str]
) -> None:
    _, out = _break_off(tmp_path, party, stage)
    ended = concordat(["resume", "--out", str(out), "--seed", "7", "--json"], out)
    assert ended.returncode == 0, ended.text + ended.stderr
    for name in NAMES:
        assert stages_after(out, name) == ["resume", *repeated, "validate", "statement"]
        ours, theirs = _model(out, name), _model(clean, name)
        names = {item["binning"]["feature"]: item for item in theirs["features"]}
        assert {item["binning"]["feature"] for item in ours["features"]} == set(names)
        for item in ours["features"]:
            other = names[item["binning"]["feature"]]
            for field in ("binning", "merge_map", "woe", "iv", "rows", "bads"):
                assert item[field] == other[field]
            assert abs(item["weight"] - other["weight"]) <= 1e-4
        assert not (out / name / "checkpoints").exists()
        spent = next((out / name).glob("spent-train-*.tsv")).read_text().splitlines()
        assert len(spent) == len(set(spent))
    statements = {(out / name / "statement.json").read_text() for name in NAMES}
    digests = {json.loads(text)["digest"] for text in statements}
    assert len(digests) == 1
    lines = json.loads(statements.pop())["lines"]
    assert {line["stage"].removesuffix(REPEATED) for line in lines if line["stage"].endswith(REPEATED)} <= {stage}


def test_a_checkpoint_is_encrypted_and_one_that_was_altered_is_refused(tmp_path: Path) -> None:
    _, out = _break_off(tmp_path, "bureau", "train")
    stored = next((out / "bank" / "checkpoints").glob("*/encrypt.bin"))
    data = stored.read_bytes()
    assert b"rows bureau" not in data
    assert stored.stat().st_mode & 0o077 == 0
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    ended = concordat(["resume", "--out", str(out), "--seed", "7", "--json"], out)
    assert ended.returncode == 1
    assert ended.code == "CHECKPOINT_DAMAGED"
    assert set(ended.document["parties"].values()) == {"CHECKPOINT_DAMAGED"}


def test_the_labels_pay_for_an_answer_of_the_gate_that_a_crash_repeats(tmp_path: Path, clean: Path) -> None:
    _, out = _break_off(tmp_path, "bureau", "train")
    shutil.rmtree(out / "bureau" / "checkpoints")  # this party lost its state: all stages are repeated, the gate's too
    assert concordat(["resume", "--out", str(out), "--seed", "7", "--json"], out).returncode == 0
    assert len(list((out / "bank" / "label-account").glob("*.bin"))) == 2
    whole, left = (json.loads((run / "report.json").read_bytes())["training"] for run in (clean, out))
    assert abs(left["label_budget"] - (whole["label_budget"] - whole["label_budget_spent"])) <= 1


def test_nothing_is_resumed_where_nothing_ran(tmp_path: Path) -> None:
    ended = concordat(["resume", "--out", str(tmp_path), "--json"], tmp_path)
    assert (ended.returncode, ended.code) == (1, "OUT_UNKNOWN")
