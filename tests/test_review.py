"""A simulation that waits for people: they look at bins, change some from another terminal, and accept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.small_consortium import SmallConsortium, command, parsed, party_processes, stage_begun, wait_until
from tests.test_faults import signal_to

pytestmark = pytest.mark.process


def bins(out: Path, party: str, *words: str) -> dict[str, Any]:
    """One `concordat-party bins` command on the machine of a party."""
    line = [sys.executable, "-m", "party_agent", "bins", *words, "--folder", str(out / party), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return parsed(done.stdout)


@contextmanager
def running(arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A `concordat` command, which is ended if it still waits at the end."""
    with subprocess.Popen(command(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        try:
            yield run
        finally:
            if run.poll() is None:
                run.send_signal(signal.SIGINT)


def code(answer: dict[str, Any]) -> str:
    return "" if answer["ok"] else str(answer["error"]["code"])


def shows(out: Path, party: str) -> bool:
    return (out / party / "review" / "bins.json").exists()


def findings(out: Path, party: str) -> dict[str, str]:
    report = json.loads((out / party / "report.json").read_bytes())
    return {item["code"]: item["sentence"] for item in report["findings"]}


def test_bins_are_changed_by_command_while_the_job_waits_and_the_job_goes_on_after_a_kill(tmp_path: Path) -> None:
    consortium = SmallConsortium(tmp_path, providers=1)
    consortium.recipe += "\n[binning]\nreview_minutes = 30\n"
    out = tmp_path / "out"
    with running(consortium.arguments(out)) as run:
        assert wait_until(lambda: shows(out, "bank") and shows(out, "bureau"), 60)
        own = bins(out, "bureau", "show", "--feature", "bureau_ratio")
        assert [item["name"] for item in own["features"]] == ["bureau_ratio"]
        assert own["providers"] == []
        before = {item["alias"]: item for item in bins(out, "bank", "show")["providers"]}
        assert "bureau_" not in json.dumps(before)
        assert before[own["features"][0]["alias"]]["bins"] == [
            {key: b[key] for key in ("rows", "bads", "woe")} for b in own["features"][0]["bins"]
        ]
        cut = own["features"][0]["bins"][1]["label"].partition(",")[0].lstrip("(")
        assert code(bins(out, "bureau", "change", "bureau_ratio")) == "CHANGE_EMPTY"
        above = sorted(value for row in consortium.read("bureau") if (value := float(row["bureau_ratio"])) > float(cut))
        near = bins(out, "bureau", "change", "bureau_ratio", f"--splits={above[12]}")
        assert code(near) == "BINS_TOO_CLOSE"
        changed = bins(out, "bureau", "change", "bureau_class", "--groups", "A,B;C,D")
        assert [b["label"] for b in changed["features"][0]["bins"]] == ["{A, B}, missing, other", "{C, D}"]
        assert code(bins(out, "bank", "change", "bank_ratio", "--splits=-0.5,0.5")) == ""
        assert bins(out, "bank", "show")["waiting"] == ["bank", "bureau"]
        signal_to(party_processes(out)["bureau"], signal.SIGKILL)
        run.communicate(timeout=60)
    (out / "bank" / "review" / "bins.json").unlink()
    (out / "bureau" / "review" / "bins.json").unlink()

    resume = ["resume", "--out", str(out), "--seed", "7", "--json"]
    with running(resume) as run:
        assert wait_until(lambda: shows(out, "bank") and shows(out, "bureau"), 60)
        kept = {item["name"]: item for item in bins(out, "bureau", "show")["features"]}
        assert len(kept["bureau_class"]["bins"]) == 2
        alias = kept["bureau_late"]["alias"]
        assert code(bins(out, "bank", "change", alias, "--max-bins", "2")) == ""
        assert code(bins(out, "bank", "accept")) == ""
        assert bins(out, "bureau", "show")["waiting"] == ["bureau"]
        assert code(bins(out, "bureau", "accept")) == ""
        run.communicate(timeout=100)
        assert run.returncode == 0
    assert code(bins(out, "bank", "show")) == "REVIEW_NOT_OPEN"
    parts = {name: json.loads((out / name / "model.json").read_bytes()) for name in consortium.names}
    sizes = {f["binning"]["feature"]: len(f["woe"]) for part in parts.values() for f in part["features"]}
    assert (sizes["bank_ratio"], sizes["bureau_class"], sizes["bureau_late"]) == (3, 2, 2)
    assert findings(out, "bureau")["BINS_CHANGED"] == "bureau_late: bins changed in the review by bank."
    assert "REVIEW_TIMED_OUT" not in findings(out, "bank")
    assert stage_begun(out, "bank", "review")
    training = json.loads((out / "report.json").read_bytes())["training"]
    spent = sum(len(f["woe"]) - 1 for f in parts["bureau"]["features"])
    assert training["label_budget_spent"] > spent
    assert not (out / "bureau" / "checkpoints").exists()
