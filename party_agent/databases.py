"""Rows of a database as text, by rules that make them equal to the same rows in a file (docs/data.md).

One SELECT of named columns, in a read-only transaction, through a server-side cursor, in chunks, with a time limit. No
text of a driver is passed on.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError, InterfaceError, SQLAlchemyError

from party_agent.dataset import Cells, column_name, listed
from party_agent.source import QUERY_REMEDY, ColumnRole, Environment, RelationKind, Source, SourceKind, parse_url
from protocols.errors import DataError

CHUNK_ROWS = 20_000
CONNECT_TIMEOUT_S = 10
MAX_COLUMNS = 5_000

_DRIVERS = {SourceKind.POSTGRESQL: "postgresql+psycopg", SourceKind.MYSQL: "mysql+pymysql"}
_PORTS = {SourceKind.POSTGRESQL: 5432, SourceKind.MYSQL: 3306}

# Types of a result column, as DuckDB names them: what party_agent.dataset knows.
_POSTGRESQL_TYPES = {
    16: "BOOLEAN",
    18: "VARCHAR",
    19: "VARCHAR",
    20: "BIGINT",
    21: "SMALLINT",
    23: "INTEGER",
    25: "VARCHAR",
    26: "BIGINT",
    114: "JSON",
    700: "FLOAT",
    701: "DOUBLE",
    705: "VARCHAR",
    1042: "VARCHAR",
    1043: "VARCHAR",
    1082: "DATE",
    1083: "TIME",
    1114: "TIMESTAMP",
    1184: "TIMESTAMP WITH TIME ZONE",
    1266: "TIME WITH TIME ZONE",
    2950: "UUID",
    3802: "JSON",
}
_POSTGRESQL_NUMERIC = 1700
_MYSQL_TYPES = {
    1: "TINYINT",
    2: "SMALLINT",
    3: "INTEGER",
    4: "FLOAT",
    5: "DOUBLE",
    7: "TIMESTAMP",
    8: "BIGINT",
    9: "INTEGER",
    10: "DATE",
    11: "TIME",
    12: "TIMESTAMP",
    13: "SMALLINT",
    16: "BIT",
    245: "JSON",
    247: "VARCHAR",
    248: "VARCHAR",
}
_MYSQL_DECIMALS = (0, 246)
_MYSQL_STRINGS = (15, 249, 250, 251, 252, 253, 254)

# What went wrong, by SQLSTATE (PostgreSQL) or by error number (MySQL, MariaDB).
_REASONS = {
    "SOURCE_TIMEOUT": ("57014", "55P03", 1205, 1969, 3024),
    "SOURCE_DENIED": ("42501", 1142, 1143, 1370),
    "SOURCE_TABLE_MISSING": ("42P01", "3F000", "3D000", 1146),
    "SOURCE_COLUMN_MISSING": ("42703", 1054),
    "SOURCE_REFUSED": ("28000", "28P01", "53300", 1040, 1044, 1045, 1049, 1129, 1130, 1251, 1698, 3118, 3159),
    "SOURCE_QUERY_INVALID": ("42601", "25006", "42702", "42701", "42804", "42883", 1060, 1064, 1241, 1248, 1792),
    "SOURCE_UNREACHABLE": ("57P01", "57P02", "57P03", "08000", "08003", "08006", 2002, 2003, 2005, 2006, 2013, 2055),
}
_SENTENCES = {
    "SOURCE_TIMEOUT": (
        "the database did not answer in time",
        "read in a quieter hour, or a smaller table, or have an index or a materialised view made",
    ),
    "SOURCE_DENIED": (
        "the database user has no right to read the table, or a column that is asked for",
        "grant SELECT on exactly what the agent may read, or exclude the column",
    ),
    "SOURCE_TABLE_MISSING": (
        "there is no such table or view, or its user may not know of it",
        "check the spelling (capital letters count), the schema and the rights of the database user",
    ),
    "SOURCE_COLUMN_MISSING": (
        "the database has no column of that name",
        "check the spelling of the columns in the query",
    ),
    "SOURCE_REFUSED": (
        "the database server refused the connection",
        "check user, password, database name and TLS settings with the database's administrator",
    ),
    "SOURCE_QUERY_INVALID": (
        "the database does not accept the query as one SELECT that only reads",
        QUERY_REMEDY,
    ),
    "SOURCE_UNREACHABLE": (
        "the database server cannot be reached, or the connection broke",
        "check host, port and firewall, and that the server runs; then try again",
    ),
}


def database_cells(
    source: Source, environment: Environment, wanted: set[str] | None, excluded: set[str], timeout_s: int
) -> Cells:
    """The columns of a database that are wanted and not excluded, as cells; the others are known by name only."""
    relation = _relation_sql(source)
    with _connection(source, environment, timeout_s) as connection:
        names = _column_names(connection, source, relation)
        plain = [column_name(name) for name in names]
        if missing := [name for name in source.named_columns if name not in plain]:
            raise column_missing(source, missing)
        chosen = [
            (index, name)
            for index, name in enumerate(names)
            if plain[index] not in excluded and (wanted is None or plain[index] in wanted)
        ]
        if not chosen:
            raise column_missing(source, sorted(wanted or ()))
        types = _types(connection, source, relation, chosen)
        cells = ", ".join(_text_sql(source.kind, _quoted(source.kind, name), types[index]) for index, name in chosen)
        # Identifiers are quoted; the relation is a quoted table, or the institution's own query in brackets.
        statement = f"SELECT {cells} FROM {relation}"  # noqa: S608
        return Cells.of_chunks(source.name, names, types, _chunks(connection, statement))


def database_schema(source: Source, environment: Environment, timeout_s: int) -> list[tuple[str, str]]:
    """Name and DuckDB type of every column, in order; '' for a column that is excluded.

    Raises: DataError: as `database_cells`.
    """
    with _connection(source, environment, timeout_s) as connection:
        relation = _relation_sql(source)
        names = _column_names(connection, source, relation)
        plain = [column_name(name) for name in names]
        if missing := [name for name in source.named_columns if name not in plain]:
            raise column_missing(source, missing)
        excluded = {column for column, role in source.roles.items() if role is ColumnRole.EXCLUDED}
        kept = [(index, name) for index, name in enumerate(names) if plain[index] not in excluded]
        types = _types(connection, source, relation, kept)
        return [(name, types.get(index, "")) for index, name in enumerate(plain)]


def _chunks(connection: Connection, statement: str) -> Iterator[Sequence[Sequence[str | None]]]:
    # no_parameters: a % or a : in the institution's query is no placeholder.
    options = {"stream_results": True, "max_row_buffer": CHUNK_ROWS, "no_parameters": True}
    result = connection.execution_options(**options).exec_driver_sql(statement)
    yield from result.partitions(CHUNK_ROWS)


@contextmanager
def _connection(source: Source, environment: Environment, timeout_s: int) -> Iterator[Connection]:
    """A connection in a read-only transaction that is rolled back; drivers' messages stop here."""
    engine = _engine(source, environment, timeout_s)
    connecting = True
    try:
        connection = engine.connect()
        try:
            _make_read_only(connection, source.kind, timeout_s)
            connecting = False
            yield connection
        except BaseException:
            connection.invalidate()  # a stream that was not read to its end is thrown away, not drained
            raise
        finally:
            connection.close()
    except SQLAlchemyError as error:
        raise _refusal(source, error, connecting) from None
    except UnicodeError:
        raise DataError(
            "SOURCE_FAILED",
            f"source {source.name}: the database sent text that is not UTF-8",
            "mend the encoding of the database, or convert the columns in a view",
        ) from None
    finally:
        engine.dispose()


def _engine(source: Source, environment: Environment, timeout_s: int) -> Engine:
    _, url = parse_url(source.location)
    if source.secret is not None:
        url = url.set(password=source.secret.reveal(environment))
    arguments: dict[str, Any]
    if source.kind is SourceKind.POSTGRESQL:
        settings = {
            "default_transaction_read_only": "on",
            "statement_timeout": f"{timeout_s}s",
            "lock_timeout": f"{min(timeout_s, 30)}s",
            "idle_in_transaction_session_timeout": f"{2 * timeout_s}s",
            "timezone": "UTC",
            "datestyle": "ISO",
            "extra_float_digits": "1",
            "standard_conforming_strings": "on",
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        arguments = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": options,
            "application_name": "concordat-party",
            "client_encoding": "utf8",
        }
    else:
        arguments = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": timeout_s + 30,
            "write_timeout": 30,
            "charset": "utf8mb4",
            "local_infile": False,
        }
    try:
        return create_engine(
            url.set(drivername=_DRIVERS[source.kind]),
            poolclass=NullPool,
            hide_parameters=True,
            connect_args=arguments,
        )
    except ImportError:
        extra = "postgres" if source.kind is SourceKind.POSTGRESQL else "mysql"
        raise DataError(
            "SOURCE_DRIVER_MISSING",
            f"the driver for {source.kind.value} is not installed",
            f"install it with: pip install 'concordat[{extra}]'",
        ) from None


def _make_read_only(connection: Connection, kind: SourceKind, timeout_s: int) -> None:
    if kind is SourceKind.POSTGRESQL:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        return
    mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    limit = f"max_statement_time = {timeout_s}" if mariadb else f"max_execution_time = {1000 * timeout_s}"
    for statement in (
        f"SET SESSION {limit}",
        "SET SESSION time_zone = '+00:00'",
        "SET SESSION sql_mode = ''",
        "SET SESSION TRANSACTION READ ONLY",
        "START TRANSACTION READ ONLY",
    ):
        connection.exec_driver_sql(statement)


def _relation_sql(source: Source) -> str:
    if source.relation is None:  # never: files do not come here
        raise DataError("SOURCE_INVALID", "a file has no relation", "read it as a file")
    if source.relation.kind is RelationKind.QUERY:
        return f"(\n{source.relation.query()}\n) AS concordat_query"
    return ".".join(_quoted(source.kind, part) for part in source.relation.name.split("."))


def _column_names(connection: Connection, source: Source, relation: str) -> list[str]:
    """The columns that the database user may read, in order."""
    kind = source.kind
    if source.relation is not None and source.relation.kind is RelationKind.QUERY:
        statement = f"SELECT * FROM {relation} LIMIT 0"  # noqa: S608
        keys = connection.execution_options(no_parameters=True).exec_driver_sql(statement).keys()
        names = [str(name) for name in keys]
    elif kind is SourceKind.POSTGRESQL:
        rows = connection.exec_driver_sql(
            "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass(%(relation)s) AND attnum > 0 "
            "AND NOT attisdropped AND has_column_privilege(attrelid, attnum, 'SELECT') ORDER BY attnum",
            {"relation": relation},
        )
        names = [str(row[0]) for row in rows]
    else:
        schema, _, table = source.relation.name.rpartition(".") if source.relation else ("", "", "")
        rows = connection.exec_driver_sql(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = COALESCE(%(schema)s, DATABASE()) "
            "AND table_name = %(table)s AND FIND_IN_SET('select', privileges) ORDER BY ordinal_position",
            {"schema": schema or None, "table": table},
        )
        names = [str(row[0]) for row in rows]
    if not names:
        raise _source_error("SOURCE_TABLE_MISSING", source)
    if len(names) > MAX_COLUMNS:
        raise DataError(
            "SOURCE_TYPE_UNSUPPORTED",
            f"source {source.name} has more than {MAX_COLUMNS:,} columns",
            "make a view of the columns that are needed",
        )
    return names


def _types(connection: Connection, source: Source, relation: str, columns: Sequence[tuple[int, str]]) -> dict[int, str]:
    """DuckDB's name of the type of each column, by position."""
    named = ", ".join(_quoted(source.kind, name) for _, name in columns)
    statement = f"SELECT {named} FROM {relation} LIMIT 0"  # noqa: S608
    result = connection.execution_options(no_parameters=True).exec_driver_sql(statement)
    description = list(result.cursor.description or ()) if result.cursor is not None else []
    result.close()
    kinds = [_type(source.kind, item) for item in description]
    if source.kind is SourceKind.POSTGRESQL:
        _name_own_types(connection, description, kinds)
    else:
        _name_strings(connection, source, relation, columns, description, kinds)
    unreadable = [column_name(name) for (_, name), kind in zip(columns, kinds, strict=True) if not kind]
    if unreadable:
        raise DataError(
            "SOURCE_TYPE_UNSUPPORTED",
            f"source {source.name} has columns of a type that is no number, text, date or truth value: "
            f"{listed(unreadable)}",
            "exclude these columns, or convert them in a view or query",
        )
    return {index: kind for (index, _), kind in zip(columns, kinds, strict=True)}


def _type(kind: SourceKind, description: Any) -> str:
    code = int(description[1])
    precision, scale = description[4], description[5]
    if kind is SourceKind.POSTGRESQL:
        if code == _POSTGRESQL_NUMERIC:
            return "DECIMAL" if scale is None else f"DECIMAL({precision},{scale})"
        return _POSTGRESQL_TYPES.get(code, "")
    if code in _MYSQL_DECIMALS:
        return f"DECIMAL({precision},{scale})"
    return _MYSQL_TYPES.get(code, "")


def _name_own_types(connection: Connection, description: Sequence[Any], kinds: list[str]) -> None:
    """Types that the database defines itself: an enumeration and a kind of text are text."""
    unknown = sorted({int(item[1]) for item, kind in zip(description, kinds, strict=True) if not kind})
    if not unknown:
        return
    rows = connection.exec_driver_sql(
        "SELECT oid FROM pg_catalog.pg_type WHERE oid = ANY(%(oids)s) AND (typtype = 'e' OR typcategory = 'S')",
        {"oids": unknown},
    )
    texts = {int(row[0]) for row in rows}
    for place, item in enumerate(description):
        if not kinds[place] and int(item[1]) in texts:
            kinds[place] = "VARCHAR"


def _name_strings(
    connection: Connection,
    source: Source,
    relation: str,
    columns: Sequence[tuple[int, str]],
    description: Sequence[Any],
    kinds: list[str],
) -> None:
    """MySQL gives text and binary strings the same type; only their collation tells them apart."""
    places = [place for place, item in enumerate(description) if int(item[1]) in _MYSQL_STRINGS]
    if not places:
        return
    quoted = [_quoted(source.kind, columns[place][1]) for place in places]
    collations = ", ".join(f"COLLATION(MAX({column}))" for column in quoted)
    inner = f"SELECT {', '.join(quoted)} FROM {relation} LIMIT 0"  # noqa: S608
    statement = f"SELECT {collations} FROM ({inner}) AS concordat_types"  # noqa: S608
    row = connection.execution_options(no_parameters=True).exec_driver_sql(statement).one()
    for place, collation in zip(places, row, strict=True):
        kinds[place] = "" if collation in (None, "binary") else "VARCHAR"


def _text_sql(kind: SourceKind, column: str, type_name: str) -> str:
    """SQL that gives a column as text; the server writes it, so that no value passes through a float."""
    if kind is SourceKind.POSTGRESQL:
        return f"CAST({f'CAST({column} AS integer)' if type_name == 'BOOLEAN' else column} AS text)"
    if type_name in ("DATE", "TIMESTAMP"):
        return f"CASE WHEN CAST({column} AS CHAR) LIKE '0000-00-00%' THEN NULL ELSE CAST({column} AS CHAR) END"
    if type_name == "BIT":
        return f"CAST({column} + 0 AS CHAR)"
    return column if type_name == "VARCHAR" else f"CAST({column} AS CHAR)"


def _quoted(kind: SourceKind, identifier: str) -> str:
    mark = '"' if kind is SourceKind.POSTGRESQL else "`"
    return mark + identifier.replace(mark, 2 * mark) + mark


def _refusal(source: Source, error: SQLAlchemyError, connecting: bool) -> DataError:
    """The coded error for a driver's; nothing of the driver's text is in it."""
    original = getattr(error, "orig", None) if isinstance(error, DBAPIError) else None
    arguments: tuple[Any, ...] = () if original is None else original.args
    state = getattr(original, "sqlstate", None) if source.kind is SourceKind.POSTGRESQL else next(iter(arguments), None)
    for code, states in _REASONS.items():
        if state in states:
            return _source_error(code, source)
    if connecting and source.kind is SourceKind.POSTGRESQL:  # psycopg gives no SQLSTATE for a failed connection
        return _source_error("SOURCE_REFUSED" if _listens(source) else "SOURCE_UNREACHABLE", source)
    if isinstance(error, DBAPIError) and (error.connection_invalidated or isinstance(error, InterfaceError)):
        return _source_error("SOURCE_UNREACHABLE", source)
    told = f" ({state})" if re.fullmatch("[0-9A-Z]{1,6}", str(state)) else ""
    return DataError(
        "SOURCE_FAILED",
        f"source {source.name}: the database could not answer{told}",
        "look for the error in the database's own log",
    )


def _listens(source: Source) -> bool:
    """Whether anything answers at the source's address."""
    _, url = parse_url(source.location)
    host = url.query.get("host") or url.host or ""
    port = url.port or _PORTS[source.kind]
    if not isinstance(host, str) or not host or host.startswith("/"):
        return Path(str(host) or "/var/run/postgresql", f".s.PGSQL.{port}").exists()
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def _source_error(code: str, source: Source) -> DataError:
    sentence, remedy = _SENTENCES[code]
    return DataError(code, f"source {source.name}: {sentence}", remedy)


def column_missing(source: Source, names: Sequence[str]) -> DataError:
    """The error for columns that a source names and does not have."""
    return DataError(
        "SOURCE_COLUMN_MISSING",
        f"source {source.name} has no column {listed(names)}",
        "check the spelling (capital letters count) and the rights of the database user, or add the source again",
    )
