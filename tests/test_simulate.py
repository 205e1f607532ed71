"""Good runs, as a user meets them: `concordat simulate` and `concordat score` with one, two and three providers."""

from __future__ import annotations

import csv
import json
import re
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from party_agent import model
from party_agent.dataset import read_table
from party_agent.lineage import opened_metrics, part_line
from party_agent.store import Folder
from protocols.contract import SignedContract
from protocols.disclosure import Line, statement_hash
from protocols.recipe import Recipe
from tests.small_consortium import Ended, Row, SmallConsortium, concordat, no_process_of

pytestmark = pytest.mark.process

UNKNOWN = "QXUNKNOWN-1"


@dataclass(frozen=True)
class Run:
    """A finished simulation and, after it, the scoring of all test rows and of one id that the bank does not have."""

    consortium: SmallConsortium
    ended: Ended
    scoring: Ended
    asked: tuple[str, ...]

    @property
    def out(self) -> Path:
        return self.ended.out

    @property
    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / "report.json").read_bytes())
        return document

    def json(self, party: str, name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / party / name).read_bytes())
        return document

    def rows(self, name: str) -> list[Row]:
        with (self.out / "bank" / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Run]:
    """A finished run with so many providers, each number once in a test session."""

    @cache
    def run(providers: int) -> Run:
        consortium = SmallConsortium(tmp_path_factory.mktemp(f"k{providers}"), providers)
        ended = consortium.simulate("--check-parity")
        assert ended.returncode == 0, ended.text + ended.stderr
        with (ended.out / "bank" / "scores.csv").open(newline="", encoding="utf-8") as file:
            asked = tuple(row["id"] for row in csv.DictReader(file) if row["sample"] == "test")
        ids = consortium.folder / "ids.csv"
        ids.write_text("\n".join(["id", *asked, UNKNOWN]) + "\n", encoding="utf-8")
        scoring = concordat(["score", "--out", str(ended.out), "--ids", str(ids), "--json"], ended.out)
        assert scoring.returncode == 0, scoring.text + scoring.stderr
        return Run(consortium, ended, scoring, asked)

    return run


@pytest.fixture(params=[1, 2, 3], ids=lambda k: f"k={k}")
def run(request: pytest.FixtureRequest, run_of: Callable[[int], Run]) -> Run:
    return run_of(request.param)


def test_the_scorecard_equals_the_one_that_pooled_data_gives(run: Run) -> None:
    parity = run.report["parity"]
    assert parity["max_abs_coef_diff"] <= 1e-4
    assert parity["max_abs_pd_diff"] <= 1e-4
    assert parity["max_abs_woe_diff"] == 0
    assert parity["max_abs_iv_diff"] == 0
    assert parity["abs_auc_diff"] <= 0.001
    assert parity["points_equal"] is True
    assert isinstance(parity["points_ties"], int)


def test_the_report_has_what_the_command_promises(run: Run) -> None:
    report, names = run.report, run.consortium.names
    common = set.intersection(*(run.consortium.ids(name) for name in names))
    assert report["alignment"]["rows"] == len(common)
    assert report["training"]["n"] == round(0.7 * len(common))
    assert 0 < report["training"]["iterations"] <= report["training"]["gradient_budget"]
    assert report["training"]["label_budget_spent"] <= report["training"]["label_budget"]
    assert report["training"]["seconds"] > 0
    assert 0.6 < report["metrics"]["test"]["auc"] < 1
    assert 0 < report["metrics"]["test"]["ks"] < 1
    assert set(report["statement"]) == {*names, "coordinator"}
    assert all(report["statement"][name] for name in names)
    assert report["keys"]["bits"] == 2048
    assert run.ended.document["ok"] is True
    for key in ("alignment", "training", "metrics", "keys", "parity"):
        assert run.ended.document[key] == report[key]


def test_every_party_has_the_same_statement_signed_by_all(run: Run) -> None:
    names = run.consortium.names
    first, *others = [(run.out / name / "statement.json").read_bytes() for name in names]
    assert all(other == first for other in others)
    statement = json.loads(first)
    digest = bytes.fromhex(statement["digest"])
    assert statement_hash([Line(**line) for line in statement["lines"]]) == digest
    contract = SignedContract.decode((run.out / "bank" / "contract.json").read_bytes()).contract
    assert set(statement["signatures"]) == set(names)
    for name, signature in statement["signatures"].items():
        contract.member(name).key().verify(bytes.fromhex(signature), b"concordat/statement/1\0" + digest)


def test_folders_hold_what_is_documented_and_secrets_are_their_owners_only(run: Run) -> None:
    names = run.consortium.names
    shared = {"model.json", "report.json", "report.html", "shared.json", "shared.html", "statement.json", "log.jsonl"}
    for name in names:
        assert shared <= {path.name for path in (run.out / name).iterdir()}
    assert {"scores.csv", "scored.csv", "grades.json"} <= {path.name for path in (run.out / "bank").iterdir()}
    assert {path.name for path in run.out.iterdir()} == {*names, "coordinator", "report.json", "report.html"}
    open_to_others = [
        str(path.relative_to(run.out))
        for path in run.out.rglob("*")
        if path.parent != run.out and path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert [name for name in open_to_others if not name.startswith("coordinator/")] == []
    assert [name for name in open_to_others if re.search(r"\.(pem|key)$", name)] == []
    assert all(stat.S_IMODE((run.out / name).stat().st_mode) == 0o700 for name in (*names, "coordinator"))


def test_every_party_has_the_lineage_of_its_part_and_reads_the_same_metrics(run: Run) -> None:
    """What a record in the library of models says is what each agent can check in its own folder."""
    folders = [Folder(run.out / name) for name in run.consortium.names]
    lines = [part_line(folder) for folder in folders]
    assert len({line.data for line in lines}) == len({line.part for line in lines}) == len(folders)
    metrics = [opened_metrics(folder.read_json("shared.json")) for folder in folders]
    assert all(item == metrics[0] for item in metrics)
    assert {"test_auc", "train_ks", "psi"} <= set(dict(metrics[0]))
    for folder in folders:
        points, rows = (np.array(folder.read_json("partial_scores.json")["rest"][key]) for key in ("points", "rows"))
        own = model.read(folder)
        assert own.points.range()[0] <= points.min() <= points.max() <= own.points.range()[1]
        assert rows.sum() > 0


def test_nothing_is_left_running_and_nothing_is_half_written(run: Run) -> None:
    assert no_process_of(run.out)
    assert not [path.name for path in run.out.rglob("*") if ".part" in path.name or path.name == "error.json"]
    assert all(not path.read_bytes() for path in run.out.rglob("stderr.txt"))


def test_no_index_was_spent_twice(run: Run) -> None:
    for name in run.consortium.names:
        spent = [path.read_text(encoding="utf-8").splitlines() for path in (run.out / name).glob("spent-train*")]
        assert len(spent) == 1
        assert spent[0]
        for path in (run.out / name).glob("spent*"):
            lines = path.read_text(encoding="utf-8").splitlines()
            assert len(set(lines)) == len(lines)


def test_the_job_document_holds_no_seed_and_no_partys_columns(run: Run) -> None:
    for name in (*run.consortium.names, "coordinator"):
        document = (run.out / name / "job.json").read_text(encoding="utf-8")
        recipe = json.loads(json.loads(document)["document"]["recipe"])
        assert recipe["sample"]["seed"] is None
        assert recipe["parties"] == {}
        assert not [
            column
            for party in run.consortium.names
            for column in run.consortium.read(party)[0]
            if f"{party}_" in document
        ]


def test_shared_reports_name_no_column(run: Run) -> None:
    shared = (run.out / "report.json").read_text() + (run.out / "report.html").read_text()
    for name in run.consortium.names:
        columns = [column for column in run.consortium.read(name)[0] if column.startswith(f"{name}_")]
        assert not [column for column in columns if column in shared]
        own = (run.out / name / "report.json").read_text()
        assert all(column in own for column in columns)


# -- scoring


def test_masked_scores_of_the_test_rows_equal_those_of_the_training_job(run: Run) -> None:
    expected = {row["id"]: row["score"] for row in run.rows("scores.csv") if row["sample"] == "test"}
    assert {row["id"]: row["score"] for row in run.rows("scored.csv")} == expected


def test_masked_scores_equal_the_sum_of_every_partys_points(run: Run) -> None:
    total: Counter[str] = Counter()
    for name in run.consortium.names:
        own = model.read(Folder(run.out / name))
        path, label = run.consortium.file(name), "y" if name == "bank" else None
        table, _ = read_table(path, "id", label, Recipe(), name)
        points = own.points.partial_points(own.codes(table))
        total.update(dict(zip(table.ids, points.tolist(), strict=True)))
    scored = {row["id"]: int(row["score"]) for row in run.rows("scored.csv")}
    assert scored == {name: total[name] for name in run.asked}


def test_an_id_that_is_not_known_is_counted_and_not_scored(run: Run) -> None:
    assert (run.scoring.document["asked"], run.scoring.document["scored"]) == (len(run.asked) + 1, len(run.asked))
    assert UNKNOWN not in {row["id"] for row in run.rows("scored.csv")}


def test_a_single_id_can_be_scored(run_of: Callable[[int], Run], tmp_path: Path) -> None:
    run = run_of(1)
    before = (run.out / "bank" / "scored.csv").read_bytes()
    expected = {row["id"]: row["score"] for row in run.rows("scored.csv")}
    one = run.asked[3]
    ids = tmp_path / "one.csv"
    ids.write_text(f"id\n{one}\n", encoding="utf-8")
    scoring = concordat(["score", "--out", str(run.out), "--ids", str(ids), "--json"], run.out)
    scored = run.rows("scored.csv")
    (run.out / "bank" / "scored.csv").write_bytes(before)
    assert scoring.returncode == 0, scoring.text
    assert {row["id"]: row["score"] for row in scored} == {one: expected[one]}


def test_scoring_ids_of_which_none_is_known_is_refused(run_of: Callable[[int], Run], tmp_path: Path) -> None:
    run = run_of(1)
    ids = tmp_path / "none.csv"
    ids.write_text(f"id\n{UNKNOWN}\n", encoding="utf-8")
    scoring = concordat(["score", "--out", str(run.out), "--ids", str(ids), "--json"], run.out)
    assert scoring.returncode == 1
    assert scoring.document["parties"] == {"bank": "IDS_UNKNOWN", "bureau": "IDS_UNKNOWN"}
    assert UNKNOWN not in scoring.text
    for name in run.consortium.names:
        (run.out / name / "error.json").unlink()


def test_scoring_where_nothing_was_trained_is_refused(tmp_path: Path) -> None:
    ended = concordat(["score", "--out", str(tmp_path), "--json"], tmp_path)
    assert (ended.returncode, ended.code) == (1, "OUT_UNKNOWN")


# -- seeds


def test_the_same_seed_gives_the_same_model(run_of: Callable[[int], Run], tmp_path: Path) -> None:
    first = run_of(1)
    again = SmallConsortium(tmp_path, 1)
    ended = again.simulate()
    assert ended.returncode == 0, ended.text
    assert [row["id"] for row in first.rows("scores.csv")] == [
        line.split(",")[0] for line in (ended.out / "bank" / "scores.csv").read_text().splitlines()[1:]
    ]
    for name in again.names:
        ours, theirs = by_name(model.read(Folder(first.out / name))), by_name(model.read(Folder(ended.out / name)))
        assert list(ours) == list(theirs)
        for column, (bins, weight, points) in ours.items():
            other_bins, other_weight, other_points = theirs[column]
            assert bins == other_bins
            assert weight == pytest.approx(other_weight, abs=1e-4)
            assert max(abs(a - b) for a, b in zip(points, other_points, strict=True)) <= 1


def by_name(own: model.OwnModel) -> dict[str, tuple[Any, float, tuple[int, ...]]]:
    """Column -> (bins, merge map, WOE, IV, counts), weight, points; aliases are drawn anew in every job."""
    return {
        feature.binning.feature: (
            (feature.binning.to_json(), feature.merge_map, feature.woe, feature.iv, feature.rows, feature.bads),
            weight,
            tuple(points.points),
        )
        for feature, weight, points in sorted(
            zip(own.features, own.weights, own.points.features, strict=True), key=lambda item: item[0].binning.feature
        )
    }


# -- findings and a label budget that bears few features


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on untidy files, under a label budget that does not bear all features."""
    consortium = SmallConsortium(tmp_path_factory.mktemp("narrow"), 1)

    def untidy(rows: list[Row]) -> None:
        for row in rows:
            row["bureau_branch"] = "7"
            row["bureau_second"] = f"{float(row['bureau_ratio']) + (hash_of(row['id']) % 1000) / 200:.6f}"
        rows += [dict(rows[10]), rows[20] | {"bureau_late": "91"}]

    consortium.edit("bureau", untidy)
    consortium.recipe = (
        "[sample]\nseed = 7\nkeep_first_duplicate = true\n\n[keys]\nbits = 2048\n\n"
        "[selection]\nlabel_budget_share = 0.0177\n"
    )
    ended = consortium.simulate()
    assert ended.returncode == 0, ended.text + ended.stderr
    return Run(consortium, ended, ended, ())


def hash_of(text: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(text))


def test_features_beyond_the_label_budget_are_dropped_by_alias_for_all_and_by_name_for_their_owner(
    narrow: Run,
) -> None:
    training = narrow.report["training"]
    assert training["label_budget_spent"] <= training["label_budget"]
    lines = narrow.report["features"]["bureau"]
    dropped = {line["alias"] for line in lines if not line["kept"]}
    assert dropped
    assert {line["reason"] for line in lines if not line["kept"]} == {"dropped by the gate"}
    assert sum(line["kept"] for line in lines) >= 3
    own = narrow.json("bureau", "report.json")["features"]
    named = {feature["name"]: feature for feature in own if not feature["kept"]}
    assert {feature["alias"] for feature in named.values()} == dropped
    assert set(named) <= {"bureau_ratio", "bureau_turnover", "bureau_late", "bureau_class", "bureau_second"}
    assert not [name for name in named if name in (narrow.out / "report.json").read_text()]
    at_the_gate = narrow.json("bank", "report.json")["selection"]
    assert {line["alias"] for line in at_the_gate if line["reason"] == "label budget"} == dropped


def test_findings_are_in_the_own_report_of_the_party_they_are_about(narrow: Run) -> None:
    findings = {item["code"]: item["count"] for item in narrow.json("bureau", "report.json")["findings"]}
    assert findings["DUPLICATE_ROWS"] == 1
    assert findings["DUPLICATE_IDS_KEPT_FIRST"] == 1
    assert findings["COLUMN_CONSTANT"] == 1
    assert not [item for item in narrow.report["findings"] if item["party"] != "bank"]
    assert narrow.report["alignment"]["ids"]["bureau"] == len(narrow.consortium.ids("bureau"))
