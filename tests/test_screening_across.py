"""Screening across parties in a whole job: against pooled rows, after a kill, and where moments may not open again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.outliers_influence import variance_inflation_factor

from party_agent import model_document, pooled_twin
from party_agent.model_document import Notes
from party_agent.notebook import JointScorecard
from party_agent.store import Folder
from tests.small_consortium import Ended, SmallConsortium, command, concordat, party_processes, stage_begun, wait_until
from tests.test_estimation import numbers_to, own_aliases, pooled, report_of
from tests.test_faults import signal_to
from tests.test_resume import stages_after

pytestmark = pytest.mark.process
NAMES = ("bank", "bureau", "tax")
KKRT = '\n[alignment]\nengine = "kkrt"\n'  # also the job in which two providers are aligned by that engine
CUTS = "\n[selection]\nmaximum_cross_correlation = 0.8\nmaximum_vif = 1.6\nmaximum_correlation = 1.0\n"


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> SmallConsortium:
    """A job that a kill ended after the screening. The tax office has a coarser copy of a column of the bureau."""
    consortium = SmallConsortium(tmp_path_factory.mktemp("screening"), providers=2)
    ratios = {row["id"]: float(row["bureau_ratio"]) for row in consortium.read("bureau")}

    def copy(rows: list[dict[str, str]]) -> None:
        for i, row in enumerate(rows):
            row["tax_copy"] = f"{ratios.get(row['id'], 0.0) + 0.2 * np.sin(7.0 * i):.7f}"

    consortium.edit("tax", copy)
    consortium.recipe += CUTS + KKRT
    out = consortium.folder / "out"
    with subprocess.Popen(command(consortium.arguments(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        assert wait_until(lambda: stage_begun(out, "bureau", "train"), 60)
        signal_to(party_processes(out)["bureau"], signal.SIGKILL)
        run.communicate(timeout=60)
        assert run.returncode == 1
    forget(out, "bureau", "screen")  # this party has lost what it was told: the stage is repeated
    shutil.copytree(out, consortium.folder / "lost")
    return consortium


def forget(out: Path, party: str, stage: str) -> None:
    (path,) = (out / party / "checkpoints").glob(f"*/{stage}.bin")
    path.unlink()


def resumed(out: Path) -> Ended:
    ended = concordat(["resume", "--out", str(out), "--seed", "7", "--json"], out)
    assert ended.returncode == 0, ended.text + ended.stderr
    return ended


@pytest.fixture(scope="module")
def screened(broken_off: SmallConsortium) -> Ended:
    """The job at its end: the bank still had the correlations that opened before."""
    ended = resumed(broken_off.folder / "out")
    sources = {name: {"data": str(broken_off.file(name)), "id": "id", "label": None} for name in NAMES}
    sources["bank"]["label"] = "y"
    pooled_twin.compare(ended.out, sources)
    return ended


def test_the_rows_were_aligned_by_the_engine_that_the_recipe_names(
    broken_off: SmallConsortium, screened: Ended
) -> None:
    alignment = json.loads((screened.out / "report.json").read_bytes())["alignment"]
    common = set.intersection(*({row["id"] for row in broken_off.read(name)} for name in NAMES))
    assert (alignment["engine"], alignment["rows"]) == ("kkrt", len(common))


def test_the_same_features_stay_as_in_the_pooled_twin_and_vif_is_that_of_statsmodels(
    broken_off: SmallConsortium, screened: Ended
) -> None:
    parity = report_of(screened)["parity"]
    assert parity["same_features"] is True
    assert parity["max_rel_vif_diff"] <= 1e-9
    assert parity["max_abs_coef_diff"] <= 1e-4
    x, _ = pooled(screened, broken_off, NAMES)
    expected = [variance_inflation_factor(x, j) for j in range(1, x.shape[1])]
    own = [row for name in NAMES for row in report_of(screened, name)["inference"]["rows"] if row["name"]]
    assert [row["inflation"] for row in own] == pytest.approx(expected, rel=1e-9)
    bank = report_of(screened, "bank")["inference"]
    assert [row["inflation"] for row in bank["rows"]] == pytest.approx(expected, rel=1e-9)
    assert all(row["estimate"] is None for row in bank["rows"] if not row["name"])
    assert (bank["asked"], bank["opened"]) == (False, False)
    assert "VIF" in (screened.out / "tax" / "report.html").read_text()
    jobs = screened.out.parent / "agent" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "job").symlink_to(screened.out / "tax")
    summary = JointScorecard.from_job(jobs.parent, "job").summary().set_index("feature")
    tax = [row for row in own if row["alias"].startswith("tax")]
    assert summary["vif"].to_dict() == {row["name"]: row["inflation"] for row in tax}
    assert "standard_error" not in summary.columns


def test_the_copy_goes_and_only_the_label_owner_knows_why(screened: Ended) -> None:
    tax = {feature["name"]: feature for feature in report_of(screened, "tax")["features"]}
    assert (tax["tax_copy"]["kept"], tax["tax_copy"]["reason"]) == (False, "across parties")
    bureau = {feature["name"]: feature for feature in report_of(screened, "bureau")["features"]}
    selection = {line["alias"]: line for line in report_of(screened, "bank")["selection"]}
    gone = selection[tax["tax_copy"]["alias"]]
    rival = bureau["bureau_ratio"]["alias"]
    assert gone["reason"].startswith("across parties: correlation 0.")
    assert gone["reason"].endswith(rival)
    assert gone["iv"] < selection[rival]["iv"]
    assert report_of(screened, "tax")["screening"]["counts"]["across parties"] >= 1
    shared = (screened.out / "bureau" / "shared.json").read_text()
    assert '"across parties"' in shared
    assert "across parties:" not in shared
    kept = {name: len(json.loads((screened.out / name / "model.json").read_bytes())["features"]) for name in NAMES}
    assert min(kept.values()) >= 3
    page = model_document.render(Folder(screened.out / "bank"), Notes())
    assert "Then features were screened across parties" in page
    assert gone["reason"] in page


def test_a_repeated_stage_opens_nothing_more_and_the_statement_has_both(screened: Ended) -> None:
    assert stages_after(screened.out, "bureau") == ["resume", "screen", "train", "inference", "validate", "statement"]
    lines = report_of(screened)["statement"]
    opened = {line["stage"] for line in lines["bank"] if "exact second moments" in line["what"]}
    assert opened == {"screen (broken off and repeated)"}
    kept = [feature for feature in report_of(screened, "tax")["features"] if feature["kept"]]
    told = numbers_to(screened, "tax", "screen")
    assert told["which own features the screening across parties keeps"] == len(kept)
    assert numbers_to(screened, "tax", "inference") == {"variance inflation factors of own features": len(kept)}
    for name in NAMES:
        text = (screened.out / name / "opened-moments.jsonl").read_text()
        spent = [json.loads(line) for line in text.split("\n") if line]
        assert [kind for _, kind, _ in spent] == ["plain"] * len(own_aliases(screened, name))


def test_a_job_whose_moments_may_not_open_again_keeps_all_features_and_says_so(broken_off: SmallConsortium) -> None:
    out = broken_off.folder / "lost"
    forget(out, "bank", "correlation")
    ended = resumed(out)
    for name in NAMES:
        report: dict[str, Any] = report_of(ended, name)
        assert all(feature["kept"] for feature in report["features"])
        assert "SCREENING_NOT_OPENED" in [item["code"] for item in report["findings"]]
        assert report["inference"] is None
    shared = json.loads((out / "tax" / "shared.json").read_bytes())
    assert [item["code"] for item in shared["findings"]].count("SCREENING_NOT_OPENED") == 1
    assert any("not screened across parties" in caution for caution in shared["reading"]["cautions"])
    assert "Then features were screened across parties" not in model_document.render(Folder(out / "bank"), Notes())
