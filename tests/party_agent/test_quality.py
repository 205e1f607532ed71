"""Quality findings: each is planted once and found once, and no finding shows a value."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from party_agent.dictionary import ColumnType, DictionaryEntry, read_dictionary
from party_agent.quality import Part, QualityReport, check_source, parse_date
from party_agent.source import ColumnRole, file_source
from protocols.errors import DataError

TODAY = datetime.date(2024, 6, 30)
CLEAN = "id,y,turnover,sector,day\n" + "".join(
    f"k{row},{row % 2},{row}.5,{'food' if row % 3 else 'retail'},2024-0{1 + row // 60}-15\n" for row in range(180)
)
DICTIONARY = """
[columns.id]
[columns.y]
[columns.day]
[columns.turnover]
description = "年营业额"
type = "number"
unit = "万元"
range = [0, 1000]
special = [-1]
[columns.sector]
type = "code"
codes = { food = "食品", retail = "零售" }
"""

Check = Callable[..., QualityReport]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def run(text: str, dictionary: str | None = None, fresh_days: int = 180, **settings: object) -> QualityReport:
        path = tmp_path / "bank.csv"
        path.write_text(text)
        settings = {"label_column": "y", "date_column": "day"} | settings
        if dictionary is not None:
            (tmp_path / "dictionary.toml").write_text(dictionary)
            settings["dictionary"] = str(tmp_path / "dictionary.toml")
        return check_source(file_source("bank", path, "id", **settings), TODAY, fresh_days=fresh_days)

    return run


def codes(report: QualityReport) -> dict[str, int]:
    return {finding.code: finding.count for finding in report.findings}


def column(report: QualityReport, name: str):
    return next(column for column in report.columns if column.name == name)


def test_clean_rows_have_no_findings(check: Check) -> None:
    report = check(CLEAN, DICTIONARY)
    assert report.findings == ()
    assert report.rows == 180
    assert (report.first_month, report.last_month, report.age_days) == ("2024-01", "2024-03", 107)
    assert [(c.name, c.part, c.type) for c in report.columns] == [
        ("id", Part.ID, ColumnType.CODE),
        ("y", Part.LABEL, ColumnType.BOOLEAN),
        ("turnover", Part.FEATURE, ColumnType.NUMBER),
        ("sector", Part.FEATURE, ColumnType.CODE),
        ("day", Part.DATE, ColumnType.DATE),
    ]


@pytest.mark.parametrize(
    ("line", "code", "count"),
    [
        (",0,1,food,2024-03-15", "EMPTY_IDS", 1),
        ("91350100M000100Y44,0,1,food,2024-03-15", "ID_CHECK_CHARACTER", 1),
        ("k5,1,5.5,food,2024-03-15", "DUPLICATE_ROWS", 1),
        ("k5,1,5.50,food,2024-03-15", "DUPLICATE_ROWS", 1),
        ("k5,1,7771,food,2024-03-15", "DUPLICATE_IDS", 1),
        ("new,2,1,food,2024-03-15", "LABEL_INVALID", 1),
        ("new,,1,food,2024-03-15", "LABEL_INVALID", 1),
        ("new,0,7771,food,2024-03-15", "OUT_OF_RANGE", 1),
        ("new,0,-2,food,2024-03-15", "OUT_OF_RANGE", 1),
        ("new,0,1,planted,2024-03-15", "OUT_OF_RANGE", 1),
        ("new,0,planted,food,2024-03-15", "TYPE_DRIFT", 1),
        ("new,0,1e999,food,2024-03-15", "TYPE_DRIFT", 1),
        ("new,0,1,food,planted", "DATE_INVALID", 1),
        ("new,0,1,food,2024-07-01", "DATE_IN_FUTURE", 1),
    ],
)
def test_each_fault_is_found_once_and_not_shown(check: Check, line: str, code: str, count: int) -> None:
    report = check(CLEAN + line + "\n", DICTIONARY)
    found = codes(report)
    found.pop("OUT_OF_RANGE", None) if code == "DUPLICATE_IDS" else None
    assert found == {code: count}
    assert not any(word in finding.sentence for finding in report.findings for word in ("planted", "7771", "Y44"))


@pytest.mark.parametrize("line", ["new,0,-1,food,2024-03-15", "new,0,,,", "91350100M000100Y43,1,0,food,2024-03-15"])
def test_special_values_missing_cells_and_right_check_characters_are_no_faults(check: Check, line: str) -> None:
    report = check(CLEAN + line + "\n", DICTIONARY)
    assert report.findings == ()


def test_checked_ids_are_counted(check: Check) -> None:
    report = check(CLEAN + "91350100M000100Y43,0,1,food,\n91350100M000100Y44,0,1,food,\n")
    assert (report.checked_ids, report.valid_ids) == (2, 1)


def test_missing_constant_and_mixed_columns_are_named(check: Check) -> None:
    rows = "".join(f"k{row},{row % 2},7,,{row if row else 'x'},{'' if row % 4 else 3}\n" for row in range(20))
    report = check("id,y,same,none,mixed,rare\n" + rows, date_column=None)
    assert codes(report) == {"COLUMN_CONSTANT": 2, "MISSING_OFTEN": 20 + 15, "NUMBER_INVALID": 1}
    sentences = {finding.code: finding.sentence for finding in report.findings}
    assert sentences["COLUMN_CONSTANT"].endswith(": same, none.")
    assert sentences["MISSING_OFTEN"].endswith(": none (20), rare (15).")
    assert column(report, "rare").missing == 15
    assert column(report, "mixed").type is ColumnType.NUMBER


def test_a_role_decides_the_type_where_the_dictionary_says_nothing(check: Check) -> None:
    roles = {"turnover": ColumnRole.CATEGORICAL, "sector": ColumnRole.EXCLUDED}
    report = check(CLEAN.replace("5.5", "x"), roles=roles)
    assert report.findings == ()
    assert [c.name for c in report.columns] == ["id", "y", "turnover", "day"]
    assert column(report, "turnover").type is ColumnType.CODE
    assert codes(check(CLEAN, roles={"sector": ColumnRole.NUMERIC})) == {"TYPE_DRIFT": 180}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("integer", ("3", "-4.0"), ("3.5", "x")),
        ("boolean", ("0", "1"), ("2", "true")),
        ("date", ("2024-01-31", "202401"), ("2024-13-01", "31")),
        ("number", ("3", "2e3"), ("1 000", "nan")),
    ],
)
def test_cells_not_of_the_declared_type_are_drift(
    check: Check, kind: str, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    lines = "".join(f"k{row},{cell}\n" for row, cell in enumerate(good + bad))
    report = check("id,v\n" + lines, f'[columns.v]\ntype = "{kind}"', label_column=None, date_column=None)
    assert column(report, "v").invalid == len(bad)
    assert codes(report)["TYPE_DRIFT"] == len(bad)


def test_columns_that_only_the_dictionary_or_only_the_data_knows_are_named(check: Check) -> None:
    report = check(CLEAN, DICTIONARY.replace("[columns.sector]", "[columns.industry]"))
    sentences = {finding.code: finding.sentence for finding in report.findings}
    assert sentences["NOT_IN_DICTIONARY"].endswith(": sector.")
    assert sentences["NOT_IN_DATA"].endswith(": industry.")


def test_a_source_is_stale_by_its_newest_row(check: Check) -> None:
    assert codes(check(CLEAN, fresh_days=106)) == {"STALE": 107}
    assert codes(check(CLEAN, fresh_days=107)) == {}


def test_a_month_with_few_rows_is_not_covered(check: Check) -> None:
    lonely = "".join(f"old{row},0,1,food,1999-01-01\n" for row in range(49))
    assert check(CLEAN + lonely).first_month == "2024-01"
    assert check(CLEAN + lonely + "old,0,1,food,1999-01-31\n").first_month == "1999-01"


def test_rows_without_any_date_have_no_coverage(check: Check) -> None:
    report = check("id,y,day\nk,0,\nl,1,\n")
    assert (report.first_month, report.last_month, report.age_days) == (None, None, None)
    assert "DATES_MISSING" in codes(report)


def test_dates_among_the_features_are_named(check: Check) -> None:
    text = "id,y,since\nk,0,2024-01-01\nl,1,2024-02-01\n"
    report = check(text, '[columns.since]\ntype = "date"', date_column=None)
    assert "since" in {finding.code: finding.sentence for finding in report.findings}["READ_AS_CODES"]


def test_no_row_with_an_id_is_refused(check: Check) -> None:
    with pytest.raises(DataError, match="FILE_EMPTY"):
        check("id,y,day\n,0,\n")


@given(st.dates(min_value=datetime.date(1000, 1, 1)))
def test_every_day_is_read_in_every_form(day: datetime.date) -> None:
    forms = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%Y-%m-%d 23:59:59.123", "%Y-%m-%dT00:00:00+08:00")
    texts = [day.strftime(form) for form in forms] + [f"{day.year}年{day.month}月{day.day}日"]
    assert {parse_date(text) for text in texts} == {day}
    assert {parse_date(day.strftime(form)) for form in ("%Y-%m", "%Y%m")} == {day.replace(day=1)}


@pytest.mark.parametrize("text", ["", "2024", "20240", "2024-1-", "24-01-01", "2024-01-01x", "2024-02-30", "0000-1-1"])
def test_what_is_no_date_is_none(text: str) -> None:
    assert parse_date(text) is None


def test_a_dictionary_in_csv_and_in_toml_are_the_same(tmp_path: Path) -> None:
    toml, table = tmp_path / "d.toml", tmp_path / "d.csv"
    toml.write_text(
        '[columns.turnover]\ndescription = "年营业额"\ntype = "number"\nunit = "万元"\n'
        "range = [0, inf]\nspecial = [-1]\n"
        '[columns."行 业"]\ntype = "code"\ncodes = [1, "A02"]\nspecial = ["未知"]\n'
    )
    table.write_text(
        "name,description,type,unit,min,max,codes,special\n"
        "turnover,年营业额,number,万元,0,,,-1\n\n行  业,,code,,,,1|A02,未知\n",
        encoding="utf-8-sig",
    )
    assert read_dictionary(toml).entries == read_dictionary(table).entries
    assert read_dictionary(toml).get(" 行 业 ") == DictionaryEntry(
        "行 业", type=ColumnType.CODE, codes=("1", "A02"), special=("未知",)
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.toml", "columns = 1"),
        ("d.toml", "[columns.a]\ntype = 'text'"),
        ("d.toml", "[columns.a]\nrange = [2, 1]"),
        ("d.toml", "[columns.a]\nrange = [1]"),
        ("d.toml", "[columns.a]\nrange = [nan, 1]"),
        ("d.toml", "[columns.a]\ncodes = [true]"),
        ("d.toml", "[columns.a]\nplanted = 1"),
        ("d.toml", "[columns.a]\nunit = 1"),
        ("d.toml", "[columns.a]\n[columns.' a']\n"),
        ("d.toml", "[rows]"),
        ("d.toml", "a = planted"),
        ("d.csv", "name,planted\na,1\n"),
        ("d.csv", "type\nnumber\n"),
        ("d.csv", "name,type\na\n"),
        ("d.csv", "name,min\na,planted\n"),
        ("d.csv", 'name,type\na,"planted\n'),
        ("d.csv", "name\na\na\n"),
        ("d.csv", ""),
    ],
)
def test_a_malformed_dictionary_is_refused_without_being_quoted(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_dictionary(tmp_path / name)
    assert caught.value.code == "DICTIONARY_INVALID"
    assert "planted" not in str(caught.value)


def test_a_dictionary_that_is_missing_or_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="DICTIONARY_MISSING"):
        read_dictionary(tmp_path / "d.csv")
    (tmp_path / "d.csv").write_bytes("name,description\na,营业额\n".encode("gbk"))
    with pytest.raises(DataError, match="DICTIONARY_INVALID"):
        read_dictionary(tmp_path / "d.csv")
