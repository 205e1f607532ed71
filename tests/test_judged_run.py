"""A whole run with an out-of-time sample, an existing score and an exported part, as the processes a user gets."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import duckdb
import pytest

from tests.small_consortium import Row, SmallConsortium

pytestmark = pytest.mark.process

JUDGED = """
[sample]
seed = 7
training_share = 0.85

[keys]
bits = 2048

[parties.bank.judgement]
date_column = "granted_on"
out_of_time_from = "2024-05-01"
score_column = "old_score"
loss_given_default = 0.5
margin = 0.1
"""


def _dated(rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        row["granted_on"] = f"2024-{1 + place // 3 % 6:02d}-15" if place % 3 == 0 else "2023-11-30"
        row["old_score"] = f"{600 - 40 * float(row['bank_ratio']):.0f}" if place % 9 else ""


def test_late_rows_neither_train_nor_test_and_no_peer_hears_of_dates(tmp_path: Path) -> None:
    consortium = SmallConsortium(tmp_path, 1)
    consortium.edit("bank", _dated)
    consortium.recipe = JUDGED
    ended = consortium.simulate("--check-parity")
    assert ended.returncode == 0, ended.text + ended.stderr
    date_of = {row["id"]: row["granted_on"] for row in consortium.read("bank")}
    with (ended.out / "bank" / "scores.csv").open(newline="", encoding="utf-8") as file:
        sample_of = {row["id"]: row["sample"] for row in csv.DictReader(file)}
    assert {name for name, sample in sample_of.items() if sample == "out_of_time"} == {
        name for name in sample_of if date_of[name] >= "2024-05-01"
    }
    counts = {name: list(sample_of.values()).count(name) for name in ("train", "test", "out_of_time")}
    report = json.loads((ended.out / "report.json").read_bytes())
    assert {name: report["metrics"][name]["n"] for name in counts} == counts
    assert counts["train"] == round(0.85 * (counts["train"] + counts["test"]))
    assert report["parity"]["max_abs_coef_diff"] < 1e-4
    assert report["parity"]["abs_auc_diff"] < 1e-3

    own = json.loads((ended.out / "bank" / "report.json").read_bytes())
    assert own["judgement"]["provider_points"] == "each"
    assert own["judgement"]["swap_set"]["rows"] < counts["test"]
    assert own["judgement"]["cut_offs"][-1]["approved"] == counts["test"]
    assert all(set(f["psi"]) == {"test", "out_of_time"} for f in own["features"] if f["kept"])
    theirs = json.loads((ended.out / "bureau" / "report.json").read_bytes())
    assert theirs["judgement"] is None
    assert all(set(f["psi"]) == {"rest"} for f in theirs["features"] if f["kept"])

    for folder in ("bureau", "coordinator"):
        for path in (ended.out / folder).rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert b"granted_on" not in data, path
                assert b"old_score" not in data, path
                assert b"2024-05-01" not in data, path
    _check_export(ended.out, consortium.file("bank"))


def _check_export(out: Path, data: Path) -> None:
    """The bank's and the bureau's exported expressions, on their own files in a database, add up to the scores."""
    from party_agent import model, model_export
    from party_agent.store import Folder

    with duckdb.connect() as connection:
        addends = []
        for party in ("bank", "bureau"):
            expression = model_export.to_sql(model.read(Folder(out / party)))
            file = str(data.with_name(f"{party}.csv"))
            query = f"SELECT id, ({expression}) FROM read_csv(?, header = true)"  # noqa: S608
            addends.append(dict(connection.execute(query, [file]).fetchall()))
    with (out / "bank" / "scores.csv").open(newline="", encoding="utf-8") as file:
        scores = {row["id"]: int(row["score"]) for row in csv.DictReader(file)}
    assert len(scores) > 1000
    assert {name: addends[0][name] + addends[1][name] for name in scores} == scores
