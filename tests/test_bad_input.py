"""Bad input, as a user meets it: `concordat simulate` on files and recipes that cannot work.

Whatever is wrong: the command ends with an error, every party with the same code, no process is left, no report is
written, and nothing that was said holds an id, a label or a value.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_consortium import RECIPE, Ended, Row, SmallConsortium, concordat, no_process_of, tokens

pytestmark = pytest.mark.process


@pytest.fixture
def consortium(tmp_path: Path) -> SmallConsortium:
    return SmallConsortium(tmp_path, providers=1)


def refused(consortium: SmallConsortium, code: str, *more: str, secrets: frozenset[str] = frozenset()) -> Ended:
    """Run the simulation, which must end with `code` for everybody and leave nothing."""
    secrets = secrets | consortium.secrets()
    ended = consortium.simulate(*more)
    check_refused(ended, code, consortium.names)
    said = tokens(ended.text, ended.stderr, *written(ended.out))
    assert not said & secrets
    return ended


def check_refused(ended: Ended, code: str, parties: tuple[str, ...]) -> None:
    assert ended.returncode == 1
    assert ended.document["ok"] is False
    assert ended.code == code
    assert ended.document["error"]["message"]
    assert ended.document["error"]["remedy"]
    assert ended.document["parties"] == dict.fromkeys(parties, code)
    assert "Traceback" not in ended.stderr
    assert no_process_of(ended.out)
    assert not [path.name for path in ended.out.rglob("*") if path.name.startswith("report.") or "part" in path.name]


def written(out: Path) -> list[str]:
    """What a failed run wrote for people to read."""
    names = ("log.jsonl", "error.json", "stderr.txt", "traffic-train.json")
    return [path.read_text(encoding="utf-8") for path in out.rglob("*") if path.name in names]


# -- files


def test_a_missing_file_ends_the_job_for_three_parties(tmp_path: Path) -> None:
    consortium = SmallConsortium(tmp_path, providers=2)
    consortium.file("tax").unlink()
    ended = refused(consortium, "FILE_MISSING")
    assert ended.document["error"]["party"] == "tax"


def test_a_file_without_rows_is_refused(consortium: SmallConsortium) -> None:
    header = consortium.file("bureau").read_text(encoding="utf-8").splitlines()[0]
    consortium.file("bureau").write_text(header + "\n", encoding="utf-8")
    refused(consortium, "FILE_EMPTY")


@pytest.mark.parametrize(("party", "column"), [("bureau", "id"), ("bank", "y")])
def test_a_missing_column_is_refused_by_its_name(consortium: SmallConsortium, party: str, column: str) -> None:
    consortium.edit(party, lambda rows: [row.update(other=row.pop(column)) for row in rows] and None)
    ended = refused(consortium, "COLUMN_MISSING")
    assert f"'{column}'" in ended.document["error"]["message"]


def set_cell(row: int, column: str, value: str) -> Callable[[list[Row]], None]:
    return lambda rows: rows[row].update({column: value})


@pytest.mark.parametrize("value", ["2", ""])
def test_a_label_that_is_neither_0_nor_1_is_refused(consortium: SmallConsortium, value: str) -> None:
    consortium.edit("bank", set_cell(17, "y", value))
    refused(consortium, "LABEL_INVALID")


def test_a_constant_label_is_refused(consortium: SmallConsortium) -> None:
    consortium.edit("bank", lambda rows: [row.update(y="0") for row in rows] and None)
    refused(consortium, "LABEL_CONSTANT")


@pytest.mark.parametrize("value", ["-1e999", "QVALUE77"])
def test_a_cell_that_is_no_finite_number_is_refused(consortium: SmallConsortium, value: str) -> None:
    consortium.edit("bureau", set_cell(400, "bureau_ratio", value))
    ended = refused(consortium, "NUMBER_INVALID", secrets=frozenset({"-1e999", "QVALUE77"}))
    assert ended.document["error"]["party"] == "bureau"
    assert "bureau_ratio" in ended.document["error"]["message"]


def test_one_id_with_differing_rows_is_refused(consortium: SmallConsortium) -> None:
    consortium.edit("bureau", lambda rows: rows.append(rows[5] | {"bureau_late": "91"}))
    refused(consortium, "DUPLICATE_IDS")


def test_fewer_than_three_columns_that_vary_are_refused(consortium: SmallConsortium) -> None:
    consortium.edit("bureau", lambda rows: [row.update(bureau_late="3", bureau_class="A") for row in rows] and None)
    refused(consortium, "TOO_FEW_COLUMNS")


def test_columns_that_do_not_vary_on_the_common_rows_are_refused(consortium: SmallConsortium) -> None:
    common = consortium.ids("bank")

    def flatten(rows: list[Row]) -> None:
        for row in rows:
            if row["id"] in common:
                row.update(bureau_late="3", bureau_class="A")

    consortium.edit("bureau", flatten)
    refused(consortium, "TOO_FEW_COLUMNS")


# -- rows and guards


def test_parties_without_a_customer_in_common_are_refused(consortium: SmallConsortium) -> None:
    consortium.edit("bureau", lambda rows: [row.update(id="R" + row["id"]) for row in rows] and None)
    refused(consortium, "SMALL_INTERSECTION")


def test_an_intersection_below_the_minimum_is_refused(consortium: SmallConsortium) -> None:
    consortium.edit("bureau", lambda rows: rows.__delitem__(slice(300, None)))
    refused(consortium, "SMALL_INTERSECTION")


def test_fewer_than_a_thousand_training_rows_are_refused(consortium: SmallConsortium) -> None:
    consortium.edit("bureau", lambda rows: rows.__delitem__(slice(1300, None)))
    ended = refused(consortium, "TOO_FEW_ROWS")
    assert "1000" in ended.document["error"]["message"]


def test_more_features_than_a_twentieth_of_the_rows_are_refused(consortium: SmallConsortium) -> None:
    consortium.edit("bank", more_columns(55, strength=0.0))
    ended = refused(consortium, "TOO_FEW_ROWS")
    assert "features need" in ended.document["error"]["message"]


def test_more_features_than_the_gradient_budget_bears_are_refused(consortium: SmallConsortium) -> None:
    consortium.edit("bank", more_columns(20, strength=0.7))
    ended = refused(consortium, "TOO_FEW_ROWS")
    assert "gradients" in ended.document["error"]["message"]


def more_columns(count: int, strength: float) -> Callable[[list[Row]], None]:
    """Columns of the bank's that differ between goods and bads by `strength` standard deviations."""
    draw = random.Random(5)

    def change(rows: list[Row]) -> None:
        for row in rows:
            for column in range(count):
                row[f"more_{column}"] = f"{strength * int(row['y']) + draw.gauss(0, 1):.6f}"

    return change


def test_a_label_budget_that_bears_no_three_features_is_refused(consortium: SmallConsortium) -> None:
    consortium.recipe += "\n[selection]\nlabel_budget_share = 0.001\n"
    refused(consortium, "LABEL_BUDGET")


def test_a_set_larger_than_the_contract_allows_is_refused_by_every_party(consortium: SmallConsortium) -> None:
    consortium.recipe += "\n[contract]\nmaximum_set_size = 1000\n"
    refused(consortium, "SET_TOO_LARGE")


def test_a_fit_that_may_take_one_gradient_does_not_converge(consortium: SmallConsortium) -> None:
    consortium.recipe += "\n[model]\nmax_iterations = 1\n"
    refused(consortium, "NOT_CONVERGED")


# -- recipe and command line


@pytest.mark.parametrize(
    ("recipe", "code"),
    [
        ("[binning]\nmax_bin = 5\n", "RECIPE_UNKNOWN_KEY"),
        ("[binning]\nfloor_rows = 49\n", "RECIPE_OUT_OF_RANGE"),
        ("[parties.insurer]\nexclude = []\n", "RECIPE_UNKNOWN_KEY"),
        ("[keys\nbits = 2048\n", "RECIPE_MALFORMED"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_anything_starts(
    consortium: SmallConsortium, recipe: str, code: str
) -> None:
    consortium.recipe = recipe
    ended = refused(consortium, code)
    assert not ended.out.exists()


def test_a_recipe_that_names_a_column_that_is_not_there_is_refused(consortium: SmallConsortium) -> None:
    consortium.recipe += '\n[parties.bureau]\nexclude = ["remarks"]\n'
    refused(consortium, "COLUMN_MISSING")


def test_a_missing_recipe_is_refused(consortium: SmallConsortium) -> None:
    refused(consortium, "FILE_MISSING", "--recipe", str(consortium.folder / "nowhere.toml"))


@pytest.mark.parametrize(
    "parties",
    [
        ["bank", "bureau=b.csv"],
        ["Bank=a.csv", "bureau=b.csv"],
        ["bank=a.csv"],
        ["bank=a.csv", "bank=b.csv"],
        ["bank=a.csv", "coordinator=b.csv"],
        ["bank=", "bureau=b.csv"],
        ["../bank=a.csv", "bureau=b.csv"],
    ],
)
def test_a_malformed_party_is_refused(tmp_path: Path, parties: list[str]) -> None:
    arguments = [item for party in parties for item in ("--party", party)]
    ended = concordat(["simulate", *arguments, "--out", str(tmp_path / "out"), "--json"], tmp_path / "out")
    check_refused(ended, "PARTY_INVALID", ())
    assert not ended.out.exists()


def test_a_folder_with_something_else_in_it_is_left_alone(consortium: SmallConsortium, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine", encoding="utf-8")
    refused(consortium, "OUT_NOT_EMPTY")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_run_never_empties_a_folder_that_holds_a_partys_data(consortium: SmallConsortium, tmp_path: Path) -> None:
    consortium.recipe = RECIPE + "\n[contract]\nmaximum_set_size = 1000\n"
    consortium.simulate()  # leaves a folder that the next run may empty
    data = tmp_path / "out" / "bureau" / "bureau.csv"
    data.write_bytes(consortium.file("bureau").read_bytes())
    ended = consortium.simulate("--party", f"tax={data}")
    assert ended.code == "OUT_NOT_EMPTY"
    assert data.exists()


def test_without_json_the_error_is_a_sentence_a_remedy_and_a_line_a_party(consortium: SmallConsortium) -> None:
    consortium.file("bureau").unlink()
    arguments = [word for word in consortium.arguments(consortium.folder / "out") if word != "--json"]
    ended = concordat(arguments, consortium.folder / "out")
    assert ended.returncode == 1
    assert ended.text == ""
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("[")]
    assert lines[0].startswith("FILE_MISSING: there is no file bureau.csv")
    assert lines[1].startswith("Remedy: ")
    assert lines[2:] == ["  bank ended with FILE_MISSING", "  bureau ended with FILE_MISSING"]
