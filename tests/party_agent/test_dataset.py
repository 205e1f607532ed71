"""Reading a party's file: what is accepted, what is reported, what is refused, and that nothing of a row is shown."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest

from party_agent.dataset import Finding, Table, read_ids, read_table
from protocols.binning.prebins import FeatureKind
from protocols.errors import DataError
from protocols.recipe import Recipe, load_recipe

BANK = """id,y,turnover,staff,sector
a1,0,10.5,3,retail
a2,1,,4,food
a3,0,-2e3,5,
a4,0,0,6,food
"""


@pytest.fixture
def read(tmp_path: Path):
    def read_text(
        text: str | bytes, recipe: str = "", label: str | None = "y", id_column: str = "id"
    ) -> tuple[Table, dict[str, Finding]]:
        path = tmp_path / "bank.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        table, findings = read_table(path, id_column, label, load_recipe(recipe), "bank")
        return table, {finding.code: finding for finding in findings}

    return read_text


def refusal(read, *arguments, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        read(*arguments, **options)
    return caught.value


def column(table: Table, name: str):
    return next(column for column in table.columns if column.name == name)


def test_a_file_becomes_canonical_ids_a_label_and_typed_columns(read) -> None:
    table, findings = read(BANK)
    assert table.ids == ("A1", "A2", "A3", "A4")
    assert table.label.tolist() == [0, 1, 0, 0]
    assert [(c.name, c.kind) for c in table.columns] == [
        ("turnover", FeatureKind.NUMERIC),
        ("staff", FeatureKind.NUMERIC),
        ("sector", FeatureKind.CATEGORICAL),
    ]
    np.testing.assert_array_equal(column(table, "turnover").values, [10.5, np.nan, -2000.0, 0.0])
    assert column(table, "sector").values.tolist() == ["retail", "food", None, "food"]
    assert column(table, "sector").missing.tolist() == [False, False, True, False]
    assert column(table, "turnover").missing_rate == 0.25
    assert findings["CATEGORICAL_INFERRED"].sentence.endswith(": sector.")


def test_take_gives_the_named_rows_in_the_order_asked_for(read) -> None:
    taken = read(BANK)[0].take(np.array([3, 1]))
    assert taken.ids == ("A4", "A2")
    assert taken.label.tolist() == [0, 1]
    assert column(taken, "staff").values.tolist() == [6.0, 4.0]
    assert column(taken, "sector").values.tolist() == ["food", "food"]


def test_the_arrays_of_a_table_cannot_be_written_to(read) -> None:
    table, _ = read(BANK)
    with pytest.raises(ValueError, match="read-only"):
        table.label[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        column(table, "staff").values[0] = 1


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + BANK.encode(),
        BANK.replace("\n", "\r\n").encode(),
        BANK.replace("id,y", '"id",  y ').encode(),
        BANK.replace("id,y,turnover", '"id","y","turnover"').replace("retail", '"retail"').encode(),
        BANK.replace(",", ";").encode(),
        BANK.replace(",", "\t").encode(),
        BANK.replace("a3,0,-2e3", "\u3000a3 , 0 ,\t-2e3\u00a0").encode(),
        (BANK + "\n\n").encode(),
        BANK.rstrip("\n").encode(),
        BANK.replace("a2,1,,4", 'a2,1,"",4').replace("5,\n", "5,  \n").encode(),
    ],
    ids=["BOM", "CRLF", "blanks in header", "quoted", "semicolons", "tabs", "blanks", "blank lines", "no end", "empty"],
)
def test_the_same_rows_written_another_way_give_the_same_table(read, text: bytes) -> None:
    table, expected = read(text)[0], read(BANK)[0]
    assert table.ids == expected.ids
    assert table.label.tolist() == expected.label.tolist()
    for got, want in zip(table.columns, expected.columns, strict=True):
        assert (got.name, got.kind) == (want.name, want.kind)
        np.testing.assert_array_equal(got.values, want.values)


def test_chinese_names_and_quoted_separators_and_line_breaks_are_read(read) -> None:
    text = '统一社会信用代码,违约,行业,"开票额,千元",员工数\nx,0,零售,1,7\ny,1,"餐饮,\n外卖",2,8\n'
    table, _ = read(text, label="违约", id_column="统一社会信用代码")
    assert [c.name for c in table.columns] == ["行业", "开票额,千元", "员工数"]
    assert column(table, "行业").values.tolist() == ["零售", "餐饮,\n外卖"]


def test_ids_keep_leading_zeros_and_all_their_digits(read) -> None:
    table, _ = read("id,y,a,b,c\n000123456789012345,0,1,2,3\n91350100m000100y43,1,4,5,6\n１２,0,7,8,9\n")
    assert table.ids == ("000123456789012345", "91350100M000100Y43", "12")


def test_rows_without_an_id_are_dropped_and_counted_whatever_they_hold(read) -> None:
    table, findings = read(BANK + ",,total,n/a,\n  ,2,inf,,x\n")
    assert len(table.ids) == 4
    assert findings["EMPTY_IDS"].count == 2


def test_rows_equal_after_canonicalisation_count_once(read) -> None:
    table, findings = read(BANK + " A2 ,1.0,,4.0,food\na2,1,,4,food\n")
    assert table.ids == ("A1", "A2", "A3", "A4")
    assert findings["DUPLICATE_ROWS"].count == 2


@pytest.mark.parametrize("row", ["a2,0,,4,food", "a2,1,0,4,food", "a2,1,,5,food", "a2,1,,4,", "a3,0,,5,"])
def test_one_id_with_differing_rows_is_refused(read, row: str) -> None:
    assert refusal(read, BANK + row + "\n").code == "DUPLICATE_IDS"


def test_one_id_with_differing_rows_keeps_the_first_when_the_recipe_says_so(read) -> None:
    table, findings = read(BANK + "a1,1,99,3,retail\na2,1,,4,food\n", "[sample]\nkeep_first_duplicate = true")
    assert table.ids == ("A1", "A2", "A3", "A4")
    assert table.label.tolist() == [0, 1, 0, 0]
    assert (findings["DUPLICATE_IDS_KEPT_FIRST"].count, findings["DUPLICATE_ROWS"].count) == (1, 1)


def test_a_column_excluded_by_the_recipe_does_not_make_rows_differ(read) -> None:
    text = "id,y,a,b,c,remark\nk,0,1,2,3,one\nK,0,1,2,3,two\nl,1,2,3,4,\n"
    assert refusal(read, text).code == "DUPLICATE_IDS"
    table, _ = read(text, '[parties.bank]\nexclude = ["remark"]')
    assert [c.name for c in table.columns] == ["a", "b", "c"]


def test_a_wrong_check_character_is_a_finding_and_the_row_stays(read) -> None:
    table, findings = read(BANK + "91350100M000100Y44,1,1,1,food\n91350100M000100Y43,1,1,1,food\n")
    assert len(table.ids) == 6
    assert findings["ID_CHECK_CHARACTER"].count == 1


def test_a_column_of_codes_is_categorical_when_the_recipe_says_so(read) -> None:
    text = "id,y,a,b,code\nk,0,1,2,01\nl,1,2,3,1\nm,1,2,3,x\n"
    table, findings = read(text, '[parties.bank]\ncategorical = ["code"]')
    assert column(table, "code").values.tolist() == ["01", "1", "x"]
    assert findings == {}


def test_a_section_of_another_party_does_not_apply(read) -> None:
    table, _ = read("id,y,a,b,code\nk,0,1,2,7\nl,1,2,3,8\n", '[parties.bureau]\ncategorical = ["code"]')
    assert column(table, "code").kind is FeatureKind.NUMERIC


def test_special_values_stay_in_the_column_and_are_named_beside_it(read) -> None:
    recipe = '[parties.bank]\ncategorical = ["code"]\nspecial = { a = [-1, -9.5, -1], code = [-1, "none"] }'
    table, _ = read("id,y,a,b,code\nk,0,-1,2,-1\nl,1,2,3,none\n", recipe)
    assert column(table, "a").special == (-1.0, -9.5)
    assert column(table, "a").values.tolist() == [-1.0, 2.0]
    assert column(table, "code").special == ("-1", "none")
    assert column(table, "b").special == ()


def test_columns_of_one_value_are_dropped_and_named(read) -> None:
    text = "id,y,a,b,c,same,none,word,half\nk,0,1,2,3,7,,x,\nl,1,2,3,4,7.0,,x,5\n"
    table, findings = read(text)
    assert [c.name for c in table.columns] == ["a", "b", "c", "half"]
    assert findings["COLUMN_CONSTANT"] == Finding(
        "COLUMN_CONSTANT", 3, "Dropped because every row has the same value, or none: same, none, word."
    )


def test_fewer_than_three_usable_columns_are_refused(read) -> None:
    assert refusal(read, "id,y,a,b,c\nk,0,1,2,3\nl,1,2,3,3\n").code == "TOO_FEW_COLUMNS"


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e999", "nan", "1_000", "1 000", "0x1F", "n/a", "12%", "1,5"])
def test_a_cell_that_is_no_finite_number_is_refused_without_being_shown(read, cell: str) -> None:
    error = refusal(read, BANK.replace("10.5", f'"{cell}"'))
    assert error.code == "NUMBER_INVALID"
    assert "1 in turnover" in error.message
    assert cell not in str(error)


def test_a_column_of_nothing_but_infinities_is_not_taken_as_text(read) -> None:
    assert refusal(read, "id,y,a,b,c\nk,0,1,2,inf\nl,1,2,3,-inf\n").code == "NUMBER_INVALID"


def test_all_columns_with_bad_numbers_are_named_at_once(read) -> None:
    error = refusal(read, "id,y,a,b,c\nk,0,1,x,3\nl,1,2,y,z\nm,1,?,5,6\n")
    assert "1 in a, 2 in b, 1 in c" in error.message


@pytest.mark.parametrize(("cell", "code"), [("2", "LABEL_INVALID"), ("", "LABEL_INVALID"), ("bad", "LABEL_INVALID")])
def test_a_label_other_than_0_and_1_is_refused(read, cell: str, code: str) -> None:
    error = refusal(read, BANK.replace("a2,1", f"a2,{cell}"))
    assert error.code == code
    assert "1 row" in error.message


def test_a_constant_label_is_refused(read) -> None:
    assert refusal(read, BANK.replace("a2,1", "a2,0")).code == "LABEL_CONSTANT"


@pytest.mark.parametrize("options", [{"label": "Y"}, {"id_column": "key"}])
def test_a_missing_id_or_label_column_is_named(read, options: dict[str, str]) -> None:
    error = refusal(read, BANK, **options)
    assert error.code == "COLUMN_MISSING"
    assert next(iter(options.values())) in error.message


@pytest.mark.parametrize("section", ['categorical = ["sektor"]', 'exclude = ["x"]', "special = { x = [1] }"])
def test_a_column_that_only_the_recipe_knows_is_refused(read, section: str) -> None:
    assert refusal(read, BANK, f"[parties.bank]\n{section}").code == "COLUMN_MISSING"


def test_the_label_cannot_be_named_as_a_feature(read) -> None:
    assert refusal(read, BANK, '[parties.bank]\nexclude = ["y"]').code == "COLUMN_MISSING"


def test_a_text_special_value_of_a_numeric_column_is_refused(read) -> None:
    assert refusal(read, BANK, '[parties.bank]\nspecial = { staff = ["none"] }').code == "SPECIAL_INVALID"


@pytest.mark.parametrize("header", ["id,y,a,a,b", "id,y,a, a ,b", "id,y,a,,b", ",y,id,a,b", "id,y,a,b,\x07"])
def test_columns_without_a_name_of_their_own_are_refused(read, header: str) -> None:
    assert refusal(read, header + "\n1,0,2,3,4\n2,1,3,4,5\n").code == "HEADER_INVALID"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (BANK + "secret9,0,1\n", "FILE_UNREADABLE", "line 6"),
        (BANK + "secret9,0,1,2,x,7\n", "FILE_UNREADABLE", "line 6"),
        (BANK + 'secret9,0,1,2,"x\n', "FILE_UNREADABLE", "quote"),
        ((BANK + "secret9,0,1,2,零售\n").encode("gbk"), "FILE_UNREADABLE", "UTF-8"),
        (BANK.encode("utf-16"), "FILE_UNREADABLE", "UTF-8"),
        (b"PK\x03\x04\xff\xfe\x00\x00", "FILE_UNREADABLE", "UTF-8"),
        (b"PAR1 is not enough", "FILE_UNREADABLE", ""),
        ("", "FILE_EMPTY", ""),
        ("\nid,y\n", "FILE_EMPTY", ""),
        ("id,y,a,b,c\n", "FILE_EMPTY", ""),
        ("id,y,a,b,c\n ,0,1,2,3\n", "FILE_EMPTY", ""),
    ],
)
def test_a_file_that_is_no_table_is_refused_without_quoting_it(read, text: str | bytes, code: str, says: str) -> None:
    error = refusal(read, text)
    assert error.code == code
    assert says in error.message
    assert "secret9" not in str(error)
    assert error.__suppress_context__ or error.__context__ is None


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "no.csv", "FILE_MISSING"), (tmp_path, "FILE_UNREADABLE")):
        with pytest.raises(DataError) as caught:
            read_table(path, "id", None, Recipe(), "bank")
        assert caught.value.code == code


def test_a_file_name_with_wildcards_reads_that_file_and_no_other(tmp_path: Path) -> None:
    for name in ("a[1]*.csv", "a1.csv", "a[1]z.csv"):
        (tmp_path / name).write_text(f"id\n{name}\n")
    assert read_ids(tmp_path / "a[1]*.csv", "id")[0] == ("A[1]*.CSV",)


def test_parquet_gives_the_same_table_as_csv(read, tmp_path: Path) -> None:
    expected, _ = read(BANK)
    path = tmp_path / "bank.pq"
    cells = duckdb.read_csv(str(tmp_path / "bank.csv"))
    cells.project("id, y, turnover, staff::INTEGER AS staff, sector").write_parquet(str(path))
    table, _ = read_table(path, "id", "y", Recipe(), "bank")
    assert table.ids == expected.ids
    assert table.label.tolist() == expected.label.tolist()
    for got, want in zip(table.columns, expected.columns, strict=True):
        assert (got.name, got.kind) == (want.name, want.kind)
        np.testing.assert_array_equal(got.values, want.values)


def test_parquet_ids_may_be_whole_numbers_but_no_fractions(tmp_path: Path) -> None:
    path = tmp_path / "ids.parquet"
    duckdb.execute(f"COPY (SELECT 310019196503183110::BIGINT AS id, 1.5::DOUBLE AS x) TO '{path}' (FORMAT parquet)")
    assert read_ids(path, "id")[0] == ("310019196503183110",)
    with pytest.raises(DataError) as caught:
        read_ids(path, "x")
    assert caught.value.code == "ID_TYPE_INVALID"


def test_numbers_come_back_to_the_last_bit_and_in_file_order(read) -> None:
    values = np.random.default_rng(5).standard_normal((30_000, 3)) * 10.0 ** np.arange(-150, 151, 150)
    lines = [f"k{row:06d},{row % 2},{a!r},{b!r},{c!r}" for row, (a, b, c) in enumerate(values.tolist())]
    table, _ = read("id,y,a,b,c\n" + "\n".join(lines))
    assert table.ids == tuple(f"K{row:06d}" for row in range(30_000))
    np.testing.assert_array_equal(np.column_stack([c.values for c in table.columns]), values)


def test_ids_to_score_are_distinct_and_in_file_order(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("name,id\nx,b2\ny,a1\nz, B2\nw,\n")
    ids, findings = read_ids(path, "id")
    assert ids == ("B2", "A1")
    assert {finding.code: finding.count for finding in findings} == {"EMPTY_IDS": 1, "DUPLICATE_ROWS": 1}


def test_reading_writes_nothing_beside_the_file(read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read(BANK)
    assert [path.name for path in tmp_path.iterdir()] == ["bank.csv"]


DATED = """id,y,turnover,staff,age,granted_on,old_score
a1,0,10.5,3,1,2023-12-31,600
a2,1,,4,2,2024-01-01 00:00:00,
a3,0,-2e3,5,3,20240630,-3.5
a4,0,0,6,4,2023/02/28,710
"""
JUDGED = """[parties.bank.judgement]
date_column = "granted_on"
out_of_time_from = "2024-01-01"
score_column = "old_score"
score_rises_with = "risk"
"""


def test_dates_make_an_out_of_time_sample_and_an_existing_score_is_kept_and_neither_is_a_feature(read) -> None:
    table, _ = read(DATED, JUDGED)
    assert table.late.tolist() == [False, True, True, False]
    np.testing.assert_array_equal(table.existing, [-600.0, np.nan, 3.5, -710.0])
    assert [c.name for c in table.columns] == ["turnover", "staff", "age"]
    turned = table.take(np.array([2, 0]))
    assert turned.late.tolist() == [True, False]
    assert turned.existing.tolist() == [3.5, -600.0]
    assert read(BANK)[0].late is None
    provider, _ = read(DATED, JUDGED, label=None)
    assert (provider.late, provider.existing) == (None, None)


@pytest.mark.parametrize("date", ["", "soon", "2024-13-01", "2023-02-30", "202401011"])
def test_a_row_without_a_date_is_refused_with_a_count_and_no_value(read, date: str) -> None:
    error = refusal(read, DATED.replace("2023-12-31", date), JUDGED)
    assert error.code == "DATE_INVALID"
    assert "1 row" in error.message
    assert not date or date not in error.message


def test_an_existing_score_that_is_no_number_is_refused(read) -> None:
    assert refusal(read, DATED.replace(",710", ",high"), JUDGED).code == "NUMBER_INVALID"


WEIGHED = """id,y,turnover,staff,age,times
a1,0,10.5,3,1,1
a2,1,,4,2,2
a3,0,-2e3,5,3,3.5
a4,0,0,6,4,4
"""
BY_TIMES = '[parties.bank]\nweight_column = "times"\n'


def test_sample_weights_are_the_label_owners_and_no_feature(read) -> None:
    table, _ = read(WEIGHED, BY_TIMES)
    assert table.weights.tolist() == [1.0, 2.0, 3.5, 4.0]
    assert table.take(np.array([3, 1])).weights.tolist() == [4.0, 2.0]
    assert [c.name for c in table.columns] == ["turnover", "staff", "age"]
    assert read(WEIGHED)[0].weights is None
    provider, _ = read(WEIGHED, BY_TIMES, label=None)
    assert provider.weights is None
    assert "times" not in [c.name for c in provider.columns]
    assert refusal(read, WEIGHED + "a1,0,10.5,3,1,9\n", BY_TIMES).code == "DUPLICATE_IDS"
    assert refusal(read, WEIGHED, BY_TIMES.replace("times", "weight")).code == "COLUMN_MISSING"


@pytest.mark.parametrize("weight", ["", "0", "-1", "inf", "nan", "heavy"])
def test_a_row_without_a_positive_weight_is_refused_with_a_count_and_no_value(read, weight: str) -> None:
    error = refusal(read, WEIGHED.replace("3.5", weight), BY_TIMES)
    assert error.code == "WEIGHT_INVALID"
    assert "1 row" in error.message
    assert not weight or weight not in error.message.replace("1 row", "")


def test_rows_of_one_id_with_dates_in_two_samples_differ(read) -> None:
    text = DATED + "a1,0,10.5,3,1,2024-05-05,600\n"
    assert refusal(read, text, JUDGED).code == "DUPLICATE_IDS"
