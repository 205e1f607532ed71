"""Sources: the same rows in a file and in a database are the same table; passwords stay out of everything."""

from __future__ import annotations

import builtins
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

from party_agent.dataset import Table
from party_agent.source import (
    ColumnRole,
    Relation,
    RelationKind,
    SecretReference,
    Source,
    SourceKind,
    database_source,
    file_source,
)
from party_agent.source_registry import open_registry
from party_agent.sources import open_source, read_schema, read_source, read_source_ids
from protocols.binning.prebins import FeatureKind
from protocols.errors import DataError
from protocols.recipe import Recipe, load_recipe
from tests.party_agent.servers import Server, mariadb, postgresql  # noqa: F401 - fixtures

COLUMNS = ("id", "y", "turnover", "staff", "ratio", "sector", "active", "updated", "remark")
SQL_TYPES = {
    "postgresql": "VARCHAR(30), INT, NUMERIC(14,2), BIGINT, FLOAT8, TEXT, BOOLEAN, DATE, TEXT",
    "mysql": "VARCHAR(30), TINYINT, DECIMAL(14,2), BIGINT, DOUBLE, TEXT, BOOLEAN, DATE, TEXT",
}
ROWS = [
    ("a1", 0, "10.50", 3, 0.1, "零售", True, "2024-01-31", "50% : ok"),
    ("a2", 1, None, 4, 1 / 3, "food's", False, "2024-02-29", ""),
    ("a3", 0, "-2000.00", None, -2.5e-300, None, None, "2023-12-01", "x"),
    (" A4 ", 0, "0.00", 9_007_199_254_740_993, 1e300, "food's", True, None, None),
    ("a3", 0, "-2000.00", None, -2.5e-300, None, None, "2024-03-01", "x"),
    ("", 1, "7.00", 1, 1.0, "lost", True, None, None),
]
SECRET = "WAREHOUSE_PASSWORD"

Make = Callable[..., Source]


@pytest.fixture(params=["csv", "parquet", "postgresql", "mysql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Callable[[str], Server]:
    def of(kind: str) -> Server:
        return request.getfixturevalue("postgresql" if kind == "postgresql" else "mariadb")

    return of


@pytest.fixture(params=["postgresql", "mysql"])
def database(request: pytest.FixtureRequest, server: Callable[[str], Server]) -> Server:
    return server(str(request.param))


@pytest.fixture
def make(tmp_path: Path, server: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch) -> Make:
    """A source of the given kind that holds ROWS."""

    def source(kind: str, **settings: object) -> Source:
        settings = {"label_column": "y", "roles": {"remark": ColumnRole.EXCLUDED, "updated": ColumnRole.EXCLUDED}} | (
            settings
        )
        if kind in SQL_TYPES:
            used = server(kind)
            monkeypatch.setenv(SECRET, used.password)
            load(used, "clients", COLUMNS, SQL_TYPES[kind], ROWS)
            reference = SecretReference.parse(f"env:{SECRET}")
            return database_source("bank", used.url, "id", table="clients", secret=reference, **settings)
        path = tmp_path / f"bank.{kind}"
        types = [part.replace("TEXT", "VARCHAR").strip() for part in SQL_TYPES["postgresql"].split(", ")]
        duckdb_types = dict(zip(COLUMNS, types, strict=True))
        cells = ", ".join(
            "(" + ", ".join("NULL" if cell is None else literal(cell) for cell in row) + ")" for row in ROWS
        )
        casts = ", ".join(f"CAST({name} AS {kind_}) AS {name}" for name, kind_ in duckdb_types.items())
        if kind == "csv":  # a CSV file has no truth values: they are written as databases count them
            casts = casts.replace("CAST(active AS BOOLEAN)", "CAST(CAST(active AS BOOLEAN) AS INT)")
        query = f"SELECT {casts} FROM (VALUES {cells}) AS rows({', '.join(COLUMNS)})"  # noqa: S608
        duckdb.execute(f"COPY ({query}) TO '{path}' (FORMAT {kind}{', HEADER' if kind == 'csv' else ''})")
        return file_source("bank", path, "id", **settings)

    return source


def literal(cell: object) -> str:
    if isinstance(cell, str):
        return "'" + cell.replace("'", "''") + "'"
    return repr(cell) if not isinstance(cell, float) else f"{cell!r}::DOUBLE"


def load(server: Server, table: str, columns: tuple[str, ...], types: str, rows: list[tuple]) -> None:
    declared = ", ".join(f"{name} {kind}" for name, kind in zip(columns, types.split(", "), strict=True))
    lines = ", ".join(
        "(" + ", ".join("NULL" if cell is None else literal(cell).replace("::DOUBLE", "") for cell in row) + ")"
        for row in rows
    )
    server.run(f"DROP TABLE IF EXISTS {table} ", f"CREATE TABLE {table} ({declared})")
    if rows:
        server.run(f"INSERT INTO {table} VALUES {lines}")  # noqa: S608


def source_of(server: Server, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Source:
    monkeypatch.setenv(SECRET, server.password)
    reference = SecretReference.parse(f"env:{SECRET}")
    settings = {"table": "clients", "secret": reference} | settings
    return database_source("bank", server.url, settings.pop("id_column", "id"), **settings)  # type: ignore[arg-type]


def refusal(call: Callable[[], object]) -> DataError:
    with pytest.raises(DataError) as caught:
        call()
    return caught.value


def same(left: Table, right: Table) -> None:
    assert left.ids == right.ids
    np.testing.assert_array_equal(left.label, right.label)
    assert [(c.name, c.kind, c.special) for c in left.columns] == [(c.name, c.kind, c.special) for c in right.columns]
    for got, want in zip(left.columns, right.columns, strict=True):
        np.testing.assert_array_equal(got.values, want.values)


def test_a_source_of_any_kind_gives_the_table_that_the_rows_say(make: Make, kind: str) -> None:
    table, findings = read_source(make(kind), Recipe(), "bank")
    assert table.ids == ("A1", "A2", "A3", "A4")
    assert table.label.tolist() == [0, 1, 0, 0]
    values = {column.name: column.values.tolist() for column in table.columns}
    np.testing.assert_array_equal(values["turnover"], [10.5, np.nan, -2000.0, 0.0])
    np.testing.assert_array_equal(values["ratio"], [0.1, 1 / 3, -2.5e-300, 1e300])
    np.testing.assert_array_equal(values["active"], [1.0, 0.0, np.nan, 1.0])
    assert values["sector"] == ["零售", "food's", None, "food's"]
    assert {finding.code: finding.count for finding in findings} == {
        "EMPTY_IDS": 1,
        "DUPLICATE_ROWS": 1,
        "CATEGORICAL_INFERRED": 1,
    }


def test_all_kinds_give_one_and_the_same_table_and_findings(make: Make) -> None:
    recipe = load_recipe('[parties.bank]\ncategorical = ["staff"]\nspecial = { turnover = [-2000], staff = [3] }')
    tables = [read_source(make(kind), recipe, "bank") for kind in ("csv", "parquet", "postgresql", "mysql")]
    for table, findings in tables[1:]:
        same(table, tables[0][0])
        assert findings == tables[0][1]
    staff = next(column for column in tables[0][0].columns if column.name == "staff")
    assert staff.values.tolist() == ["3", "4", None, "9007199254740993"]


def test_roles_and_the_date_column_decide_what_is_a_feature(make: Make, kind: str) -> None:
    roles = {"remark": ColumnRole.EXCLUDED, "staff": ColumnRole.CATEGORICAL}
    table, _ = read_source(make(kind, date_column="updated", roles=roles), Recipe(), "bank")
    assert {column.name: column.kind for column in table.columns} == {
        "turnover": FeatureKind.NUMERIC,
        "staff": FeatureKind.CATEGORICAL,
        "ratio": FeatureKind.NUMERIC,
        "sector": FeatureKind.CATEGORICAL,
        "active": FeatureKind.NUMERIC,
    }


def test_a_column_with_the_role_numeric_is_never_taken_as_codes(make: Make, kind: str) -> None:
    roles = {
        "remark": ColumnRole.EXCLUDED,
        "updated": ColumnRole.EXCLUDED,
        "sector": ColumnRole.NUMERIC,
    }
    assert refusal(lambda: read_source(make(kind, roles=roles), Recipe(), "bank")).code == "NUMBER_INVALID"


def test_ids_and_model_columns_are_read_alone(make: Make, kind: str) -> None:
    source = make(kind)
    assert read_source_ids(source)[0] == ("A1", "A2", "A3", "A4")
    columns = {"sector": FeatureKind.CATEGORICAL, "ratio": FeatureKind.NUMERIC}
    table, _ = read_source(source, Recipe(), "bank", model_columns=columns)
    assert table.label is None
    assert [column.name for column in table.columns] == ["sector", "ratio"]


def test_special_values_of_the_dictionary_hold_unless_the_recipe_names_others(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "dictionary.toml"
    path.write_text(
        "[columns.turnover]\nspecial = [-2000]\n[columns.staff]\nspecial = [3]\n[columns.gone]\nspecial=[1]"
    )
    recipe = load_recipe("[parties.bank]\nspecial = { staff = [4] }")
    table, _ = read_source(make("csv", dictionary=str(path)), recipe, "bank")
    assert {column.name: column.special for column in table.columns if column.special} == {
        "turnover": (-2000.0,),
        "staff": (4.0,),
    }


def test_numbers_survive_a_database_to_the_last_bit_and_in_chunks(
    database: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("party_agent.databases.CHUNK_ROWS", 700)
    values = np.random.default_rng(5).standard_normal((2000, 3)) * 10.0 ** np.array([-150, 0, 150])
    rows = [(f"k{row:05d}", *line) for row, line in enumerate(values.tolist())]
    types = SQL_TYPES[database.scheme].split(", ")[4]
    load(database, "clients", ("id", "a", "b", "c"), f"VARCHAR(30), {types}, {types}, {types}", rows)
    table, _ = read_source(source_of(database, monkeypatch), Recipe(), "bank")
    order = np.argsort(table.ids)
    np.testing.assert_array_equal(np.column_stack([c.values[order] for c in table.columns]), values)


@pytest.mark.parametrize(
    ("scheme", "expression", "cell"),
    [
        ("postgresql", "CAST(123456789012345678901234567890.10 AS NUMERIC)", "123456789012345678901234567890.10"),
        ("postgresql", "CAST('NaN' AS NUMERIC)", "NaN"),
        ("postgresql", "TIMESTAMPTZ '2024-03-31 08:00:00+08'", "2024-03-31 00:00:00+00"),
        ("postgresql", "TIMESTAMP '2024-03-31 08:00:00.5'", "2024-03-31 08:00:00.5"),
        ("postgresql", "DATE 'infinity'", "infinity"),
        ("postgresql", "CAST('{\"b\": 1}' AS JSONB)", '{"b": 1}'),
        ("postgresql", "CAST('x' AS CHAR(5))", "x"),
        ("postgresql", "true", "1"),
        ("postgresql", "CAST('6f9619ff-8b86-d011-b42d-00cf4fc964ff' AS UUID)", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"),
        ("mysql", "CAST('123456789012345678901234567890.10' AS DECIMAL(35,2))", "123456789012345678901234567890.10"),
        ("mysql", "TIMESTAMP('2024-03-31 08:00:00')", "2024-03-31 08:00:00"),
        ("mysql", "JSON_OBJECT('b', 1)", '{"b": 1}'),
        ("mysql", "true", "1"),
        ("mysql", "18446744073709551615", "18446744073709551615"),
    ],
)
def test_each_type_of_a_database_has_a_stated_text(
    server: Callable[[str], Server],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scheme: str,
    expression: str,
    cell: str,
) -> None:
    query = tmp_path / "one.sql"
    query.write_text(f"SELECT 'k' AS id, {expression} AS v;\n")
    with open_source(source_of(server(scheme), monkeypatch, table=None, query=query)) as cells:
        assert cells.text(cells.index("v")).tolist() == [cell]


def test_mysql_bits_zero_dates_and_enumerations_have_a_stated_text(
    mariadb: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    types = "VARCHAR(9), BIT(1), BIT(9), DATE, DATETIME, ENUM('x'), YEAR, SMALLINT UNSIGNED, TIME"
    names = ("id", "flag", "bits", "day", "moment", "word", "year", "small", "clock")
    load(mariadb, "clients", names, types, [])
    values = "'k', 1, 257, '0000-00-00', '0000-00-00 00:00:00', 'x', 2024, 65535, '08:30:00'"
    mariadb.run("SET sql_mode = ''", f"INSERT INTO clients VALUES ({values})")  # noqa: S608
    with open_source(source_of(mariadb, monkeypatch)) as cells:
        assert [cells.text(index)[0] for index in range(9)] == [
            *("k", "1", "257", "", "", "x", "2024", "65535", "08:30:00")
        ]


def test_postgresql_enumerations_and_domains_are_text(
    postgresql: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    postgresql.run(
        "DROP TABLE IF EXISTS clients",
        "DROP TYPE IF EXISTS mood",
        "DROP DOMAIN IF EXISTS code",
        "CREATE TYPE mood AS ENUM ('good')",
        "CREATE DOMAIN code AS VARCHAR(9)",
        "CREATE TABLE clients (id code, v mood)",
        "INSERT INTO clients VALUES ('k', 'good')",
    )
    with open_source(source_of(postgresql, monkeypatch)) as cells:
        assert cells.text(cells.index("v")).tolist() == ["good"]
    assert read_source_ids(source_of(postgresql, monkeypatch))[0] == ("K",)
    postgresql.run("DROP TABLE clients")


@pytest.mark.parametrize(("scheme", "kind"), [("postgresql", "BYTEA"), ("postgresql", "INT[]"), ("mysql", "BLOB")])
def test_a_column_that_is_no_text_or_number_is_named_and_can_be_excluded(
    server: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch, scheme: str, kind: str
) -> None:
    used = server(scheme)
    used.run("DROP TABLE IF EXISTS clients", f"CREATE TABLE clients (id VARCHAR(9), picture {kind}, a INT)")
    used.run("INSERT INTO clients VALUES ('k', NULL, 1)")
    source = source_of(used, monkeypatch)
    for look in (read_schema, open_source):
        error = refusal(lambda look=look: look(source))
        assert error.code == "SOURCE_TYPE_UNSUPPORTED"
        assert "picture" in error.message
    source = source_of(used, monkeypatch, roles={"picture": ColumnRole.EXCLUDED})
    assert [(column.name, bool(column.type)) for column in read_schema(source)] == [
        ("id", True),
        ("picture", False),
        ("a", True),
    ]
    with open_source(source, excluded=["picture"]) as cells:
        assert cells.text(2).tolist() == ["1"]


@pytest.mark.parametrize(
    ("kind", "ok"), [("BIGINT", True), ("NUMERIC(18,0)", True), ("NUMERIC(20,2)", False), ("FLOAT", False)]
)
def test_ids_are_text_or_whole_numbers_in_a_database_too(
    database: Server, monkeypatch: pytest.MonkeyPatch, kind: str, ok: bool
) -> None:
    database.run("DROP TABLE IF EXISTS clients", f"CREATE TABLE clients (id {kind}, a INT)")
    database.run("INSERT INTO clients VALUES (310019196503183110, 1)")
    source = source_of(database, monkeypatch)
    if ok:
        assert read_source_ids(source)[0] == ("310019196503183110",)
    else:
        assert refusal(lambda: read_source_ids(source)).code == "ID_TYPE_INVALID"


def test_identifiers_are_quoted_whatever_they_look_like(database: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = '"' if database.scheme == "postgresql" else "`"

    def quoted(name: str) -> str:
        return mark + name.replace(mark, 2 * mark) + mark

    table, odd = 'odd"; drop', f"年 %s :x {mark}select{mark}"
    database.run(
        f"DROP TABLE IF EXISTS {quoted(table)}",
        f"CREATE TABLE {quoted(table)} ({quoted('Id')} VARCHAR(9), {quoted(odd)} INT)",
        f"INSERT INTO {quoted(table)} VALUES ('k', 7)",  # noqa: S608
    )
    with open_source(source_of(database, monkeypatch, table=table, id_column="Id")) as cells:
        assert cells.names == ("Id", odd)
        assert cells.text(1).tolist() == ["7"]
    database.run(f"DROP TABLE {quoted(table)}")


def test_a_view_and_a_schema_of_its_own_are_read(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    postgresql.run(
        "CREATE SCHEMA IF NOT EXISTS risk",
        "CREATE OR REPLACE VIEW risk.clients AS SELECT 'k' AS id, 1 AS a",
        "DROP MATERIALIZED VIEW IF EXISTS risk.stored",
        "CREATE MATERIALIZED VIEW risk.stored AS SELECT 'm' AS id, 1 AS a",
    )
    assert read_source_ids(source_of(postgresql, monkeypatch, table="risk.clients"))[0] == ("K",)
    assert read_source_ids(source_of(postgresql, monkeypatch, table="risk.stored"))[0] == ("M",)


def test_a_user_with_some_columns_granted_sees_and_reads_those(
    database: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.run(
        "DROP TABLE IF EXISTS clients",
        "CREATE TABLE clients (id VARCHAR(9), a INT, income INT)",
        "INSERT INTO clients VALUES ('k', 1, 2)",
    )
    if database.scheme == "postgresql":
        database.run("DROP ROLE IF EXISTS reader", f"CREATE ROLE reader LOGIN PASSWORD '{database.password}'")
        database.run("GRANT SELECT (id, a) ON clients TO reader")
    else:
        database.run("DROP USER IF EXISTS reader", f"CREATE USER reader IDENTIFIED BY '{database.password}'")
        database.run("GRANT SELECT (id, a) ON warehouse.clients TO reader")
    monkeypatch.setenv(SECRET, database.password)
    reference = SecretReference.parse(f"env:{SECRET}")
    source = database_source("bank", database.url_of("reader"), "id", table="clients", secret=reference)
    assert [column.name for column in read_schema(source)] == ["id", "a"]
    with open_source(source) as cells:
        assert cells.names == ("id", "a")
    database.run("DROP TABLE clients", "DROP OWNED BY reader" if database.scheme == "postgresql" else "SELECT 1")


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM clients RETURNING id, a",
        "SELECT id, a FROM clients; DROP TABLE clients",
        "UPDATE clients SET a = 1",
        "SELECT id, a FROM clients) AS q; DROP TABLE clients; --",
        "-- SELECT\nDROP TABLE clients",
        "",
    ],
)
def test_a_query_that_is_not_one_select_is_refused_before_it_is_sent(tmp_path: Path, text: str) -> None:
    query = tmp_path / "rows.sql"
    query.write_text(text)
    url = "postgresql://u@127.0.0.1:1/d"
    error = refusal(lambda: database_source("bank", url, "id", query=query))
    assert error.code == "SOURCE_QUERY_INVALID"


def test_a_query_that_would_write_is_stopped_by_the_database(
    database: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    query = tmp_path / "rows.sql"
    if database.scheme == "postgresql":
        database.run("DROP SEQUENCE IF EXISTS counter", "CREATE SEQUENCE counter")
        query.write_text("SELECT 'k' AS id, nextval('counter') AS a")
    else:
        database.run(
            "DROP TABLE IF EXISTS written",
            "CREATE TABLE written (a INT)",
            "DROP FUNCTION IF EXISTS writing",
            "CREATE FUNCTION writing() RETURNS INT BEGIN INSERT INTO written VALUES (1); RETURN 1; END",
        )
        query.write_text("SELECT 'k' AS id, writing() AS a")
    source = source_of(database, monkeypatch, table=None, query=query)
    error = refusal(lambda: open_source(source))
    assert error.code == "SOURCE_QUERY_INVALID"


def test_a_query_file_is_read_with_comments_percent_signs_and_colons(
    database: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    query = tmp_path / "rows.sql"
    query.write_text("-- the clients, 100 %\nWITH c AS (SELECT 'k%s:x' AS id, 1 AS a)\nSELECT * FROM c; \n")
    source = source_of(database, monkeypatch, table=None, query=query)
    assert read_source_ids(source)[0] == ("K%S:X",)
    query.write_text("SELECT 'other' AS id, 1 AS a")
    assert refusal(lambda: read_source_ids(source)).code == "SOURCE_QUERY_CHANGED"
    query.unlink()
    assert refusal(lambda: read_source_ids(source)).code == "SOURCE_QUERY_MISSING"


def test_a_statement_has_a_time_limit(database: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    query = tmp_path / "rows.sql"
    sleep = "CAST(pg_sleep(20) AS TEXT)" if database.scheme == "postgresql" else "SLEEP(20)"
    query.write_text(f"SELECT 'k' AS id, {sleep} AS a")
    source = source_of(database, monkeypatch, table=None, query=query)
    assert refusal(lambda: open_source(source, statement_timeout_s=1)).code == "SOURCE_TIMEOUT"


def test_a_wrong_password_table_column_or_database_has_its_code_and_shows_no_secret(
    database: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.run("DROP TABLE IF EXISTS clients", "CREATE TABLE clients (id VARCHAR(9), a INT)")
    good = source_of(database, monkeypatch)
    settings = {"id_column": "id", "secret": good.secret}
    cases = {
        "SOURCE_TABLE_MISSING": source_of(database, monkeypatch, table="nothing"),
        "SOURCE_COLUMN_MISSING": source_of(database, monkeypatch, label_column="grade"),
        "SOURCE_REFUSED": database_source("bank", database.url + "_no", table="clients", **settings),
        "SOURCE_UNREACHABLE": database_source(
            "bank", database.url.replace(str(database.port), "1"), table="clients", **settings
        ),
    }
    for code, source in cases.items():
        error = refusal(lambda source=source: open_source(source))
        assert error.code == code
        assert database.password not in repr(error.__dict__)
        assert error.__suppress_context__ or error.__context__ is None
    monkeypatch.setenv(SECRET, "S3cret-planted")
    error = refusal(lambda: open_source(good))
    assert error.code == "SOURCE_REFUSED"
    assert "S3cret-planted" not in str(error)


def test_a_server_that_stops_in_the_middle_is_unreachable(
    postgresql: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    query = tmp_path / "rows.sql"
    query.write_text("SELECT CAST(i AS TEXT) AS id, pg_sleep(0.02) IS NULL AS a FROM generate_series(1, 500) AS i")
    source = source_of(postgresql, monkeypatch, table=None, query=query)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'concordat-party'"
    timer = threading.Timer(1.0, lambda: postgresql.run(end))
    timer.start()
    try:
        assert refusal(lambda: open_source(source)).code == "SOURCE_UNREACHABLE"
    finally:
        timer.join()


def test_a_password_comes_from_a_file_that_only_its_owner_reads(
    database: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database.run("DROP TABLE IF EXISTS clients", "CREATE TABLE clients (id VARCHAR(9), a INT)")
    path = tmp_path / "password"
    path.write_text(database.password + "\n")
    path.chmod(0o600)
    source = source_of(database, monkeypatch, secret=SecretReference.parse(f"file:{path}"))
    assert [column.name for column in read_schema(source)] == ["id", "a"]
    path.chmod(0o644)
    assert refusal(lambda: read_schema(source)).code == "SOURCE_SECRET_EXPOSED"
    path.unlink()
    assert refusal(lambda: read_schema(source)).code == "SOURCE_SECRET_MISSING"
    source = source_of(database, monkeypatch, secret=SecretReference.parse("env:NOT_SET_ANYWHERE"))
    assert refusal(lambda: read_schema(source)).code == "SOURCE_SECRET_MISSING"


@pytest.mark.parametrize("text", ["hunter2", "env:", "env:a b", "file:", "vault:x", "env:hunter2-x"])
def test_a_secret_that_is_no_reference_is_refused_without_being_shown(text: str) -> None:
    error = refusal(lambda: SecretReference.parse(text))
    assert error.code == "SOURCE_SECRET_INVALID"
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://u:hunter2@h/d", "SOURCE_SECRET_INLINE"),
        ("mysql+pymysql://u:hunter2@h/d", "SOURCE_SECRET_INLINE"),
        ("postgresql://u@h/d?password=hunter2", "SOURCE_SECRET_INLINE"),
        ("postgresql://u@h/d?sslpassword=hunter2", "SOURCE_SECRET_INLINE"),
        ("postgresql://u@h/d?options=-csearch_path%3Dx", "SOURCE_URL_INVALID"),
        ("mysql://u@h/d?local_infile=1", "SOURCE_URL_INVALID"),
        ("mysql://u@h/d?read_default_file=/etc/hunter2", "SOURCE_URL_INVALID"),
        ("sqlite:///hunter2.db", "SOURCE_URL_INVALID"),
        ("postgresql://u@h", "SOURCE_URL_INVALID"),
        ("postgresql://u@h:hunter2/d", "SOURCE_URL_INVALID"),
        ("hunter2", "SOURCE_URL_INVALID"),
    ],
)
def test_a_url_with_a_password_or_a_strange_parameter_is_refused_without_being_shown(url: str, code: str) -> None:
    error = refusal(lambda: database_source("bank", url, "id", table="t"))
    assert error.code == code
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("module", "url", "extra"),
    [("psycopg", "postgresql://u@h/d", "postgres"), ("pymysql", "mysql://u@h/d", "mysql")],
)
def test_a_driver_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, url: str, extra: str
) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: object, **options: object) -> object:
        if name == module or name.startswith(f"{module}."):
            raise ModuleNotFoundError(name)
        return original(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    error = refusal(lambda: open_source(database_source("bank", url, "id", table="t")))
    assert error.code == "SOURCE_DRIVER_MISSING"
    assert f"concordat[{extra}]" in error.remedy


def test_no_driver_is_imported_before_a_database_is_read() -> None:
    code = (
        "import sys, party_agent.sources, party_agent.data_commands; print({'psycopg', 'pymysql'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "Bank"},
        {"name": "a" * 33},
        {"label_column": "id"},
        {"roles": {"id": ColumnRole.EXCLUDED}},
        {"aliases": {"a": "f", "b": "f"}},
        {"aliases": {"a": ""}},
        {"secret": SecretReference("env", "X")},
        {"relation": Relation(RelationKind.TABLE, "t")},
        {"kind": SourceKind.MYSQL},
    ],
)
def test_a_source_whose_parts_do_not_fit_is_refused(settings: dict[str, object]) -> None:
    plain = {"name": "bank", "kind": SourceKind.CSV, "location": "/x.csv", "id_column": "id"}
    assert Source(**plain).published_name("a") == "a"  # type: ignore[arg-type]
    assert refusal(lambda: Source(**(plain | settings))).code == "SOURCE_INVALID"  # type: ignore[arg-type]


def test_a_column_that_the_settings_name_and_the_file_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bank.csv"
    path.write_text("id,a\nk,1\n")
    error = refusal(lambda: open_source(file_source("bank", path, "id", aliases={"b": "f1"})))
    assert error.code == "SOURCE_COLUMN_MISSING"
    assert error.message.endswith(" b")


def test_published_names_and_own_names_are_each_others_inverse() -> None:
    source = Source("bank", SourceKind.CSV, "/x.csv", "id", aliases={"turnover": "f1"})
    assert source.published_name("turnover") == "f1"
    assert source.own_name("f1") == "turnover"
    assert source.own_name(source.published_name("staff")) == "staff"


def test_the_registry_gives_back_what_it_was_given(tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "party")
    query = tmp_path / "rows.sql"
    query.write_text("SELECT 1 AS id")
    first = database_source(
        "warehouse",
        "postgres://u@[::1]:5433/数据?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "id",
        query=query,
        secret=SecretReference.parse("file:/run/secrets/pg"),
        label_column="y",
        date_column="day",
        roles={"a": ColumnRole.CATEGORICAL, "b": ColumnRole.EXCLUDED},
        aliases={"c": "特征一"},
        dictionary="/x.toml",
    )
    second = Source("bank", SourceKind.CSV, "/x.csv", "id")
    registry.add(first, 5)
    registry.add(second, 6)
    assert [one.source for one in registry.all()] == [second, first]
    assert registry.get("warehouse").source == first
    assert refusal(lambda: registry.add(first, 7)).code == "SOURCE_EXISTS"
    registry.mark_published("bank", "ab" * 32, 8)
    got = open_registry(tmp_path / "party").get("bank")
    assert (got.added, got.published, got.published_hash) == (6, 8, "ab" * 32)
    registry.add(second, 9, replace_old=True)
    assert registry.get("bank").published is None
    registry.remove("bank")
    for call in (registry.get, registry.remove, lambda name: registry.mark_published(name, "", 1)):
        assert refusal(lambda call=call: call("bank")).code == "SOURCE_UNKNOWN"


def test_no_password_is_in_the_agents_database_which_others_cannot_read(
    database: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database.run("DROP TABLE IF EXISTS clients", "CREATE TABLE clients (id VARCHAR(9), a INT)")
    source = source_of(database, monkeypatch)
    read_schema(source)
    open_registry(tmp_path).add(source, 1)
    path = tmp_path / "agent.db"
    assert path.stat().st_mode & 0o077 == 0
    dump = "\n".join(sqlite3.connect(path).iterdump())
    assert f"env:{SECRET}" in dump
    for text in (dump, repr(source), source.shown()):
        assert database.password not in text
    assert os.environ[SECRET] == database.password


def test_a_damaged_database_of_the_agent_is_a_coded_error(tmp_path: Path) -> None:
    (tmp_path / "agent.db").write_bytes(b"not a database, and long enough to be looked at" * 50)
    assert refusal(lambda: open_registry(tmp_path)).code == "SOURCE_REGISTRY_UNUSABLE"
