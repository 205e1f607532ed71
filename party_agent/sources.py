"""Where an institution's rows come from: files and databases, under names of its own; and the registry of them.

A database is read as text, by rules that make its rows equal to the same rows in a file (docs/data.md): one SELECT of
named columns, in a read-only transaction, through a server-side cursor, in chunks, with a time limit. A password is
only ever named (`env:NAME`, `file:PATH`), looked up when the connection is made, and in no message: no text of a
driver is passed on either.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from sqlalchemy import URL, Connection, Engine, NullPool, Row, create_engine, delete, event, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, SQLAlchemyError

from party_agent.agent_store import migrate
from party_agent.dataset import Cells, Finding, Table, column_name, ids_of, listed, table_of
from party_agent.dictionary import DataDictionary, read_dictionary
from party_agent.tables import data_sources
from protocols.binning.prebins import FeatureKind
from protocols.errors import DataError
from protocols.recipe import PartyColumns, Recipe

CHUNK_ROWS = 20_000
CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 600
MAX_QUERY_BYTES = 64 << 10
MAX_SECRET_BYTES = 4096
MAX_COLUMNS = 5_000

Environment = Mapping[str, str]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ALIAS = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_TABLE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_QUERY_START = re.compile(r"(?is)\s*(select|with)\b")
_COMMENTS = re.compile(r"(?s)--[^\n]*|/\*.*?\*/")


class SourceKind(Enum):
    """What a source is."""

    CSV = "csv"
    PARQUET = "parquet"
    POSTGRESQL = "postgresql"
    MYSQL = "mysql"

    @property
    def is_file(self) -> bool:
        """Whether the location is a path."""
        return self in (SourceKind.CSV, SourceKind.PARQUET)


class ColumnRole(Enum):
    """How a column is read where the cells alone do not say it."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    EXCLUDED = "excluded"


class RelationKind(Enum):
    """What is read of a database."""

    TABLE = "table"
    QUERY = "query"


@dataclass(frozen=True)
class SecretReference:
    """Where a password is to be found: an environment variable's name or a file's path, never the password.

    >>> str(SecretReference.parse("env:WAREHOUSE_PASSWORD"))
    'env:WAREHOUSE_PASSWORD'
    """

    place: str
    name: str

    @classmethod
    def parse(cls, text: str) -> SecretReference:
        """The reference in `env:NAME` or `file:PATH`.

        Raises: DataError: SOURCE_SECRET_INVALID; what was typed may be a password and is not shown.
        """
        place, _, name = text.partition(":")
        if place == "env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
            return cls(place, name)
        if place == "file" and name and len(name) < 4096 and name.isprintable():
            return cls(place, str(Path(name).absolute()))
        raise DataError(
            "SOURCE_SECRET_INVALID",
            "the secret is neither env:NAME nor file:PATH",
            "name an environment variable or a file that holds the password; never give the password itself",
        )

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"

    def reveal(self, environment: Environment) -> str:
        """The password.

        Raises: DataError: SOURCE_SECRET_MISSING: no such variable or file, or it is empty; SOURCE_SECRET_EXPOSED:
            other users of the machine can read the file.
        """
        if self.place == "env":
            secret = environment.get(self.name, "")
        else:
            try:
                with open(self.name, "rb") as file:
                    if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                        raise DataError(
                            "SOURCE_SECRET_EXPOSED",
                            f"other users of this machine can read the file at {self}",
                            "take the rights of group and others from it (chmod 600), and change the password",
                        )
                    secret = file.read(MAX_SECRET_BYTES).decode().rstrip("\r\n")
            except (OSError, UnicodeDecodeError):
                secret = ""
        if not secret:
            raise DataError(
                "SOURCE_SECRET_MISSING",
                f"there is no password at {self}",
                "set the environment variable, or write the password into the file, for the user that runs the agent",
            )
        return secret


@dataclass(frozen=True)
class Relation:
    """What is read of a database. name: `table` or `schema.table`, or the path of the institution's own query.

    query_hash: SHA-256 of the query when the source was added, in hex: a query that changed is not run.
    """

    kind: RelationKind
    name: str
    query_hash: str | None = None

    def query(self) -> str:
        """The text of the query, checked.

        Raises: DataError: SOURCE_QUERY_MISSING, SOURCE_QUERY_CHANGED, SOURCE_QUERY_INVALID.
        """
        text = _read_query(Path(self.name))
        if hashlib.sha256(text.encode()).hexdigest() != self.query_hash:
            raise DataError(
                "SOURCE_QUERY_CHANGED",
                f"the query {Path(self.name).name} is not the one that was added",
                "look at what changed, then add the source again with --replace",
            )
        return _checked_query(text, Path(self.name).name)


@dataclass(frozen=True)
class Source:
    """One source of rows. location: an absolute path, or a URL without a password.

    roles: how columns are to be read; aliases: under which other names columns are published; dictionary: the path of
    the data dictionary. Columns keep the institution's own names inside the agent.

    Raises: DataError: SOURCE_INVALID: the parts do not fit together.
    """

    name: str
    kind: SourceKind
    location: str
    id_column: str
    relation: Relation | None = None
    secret: SecretReference | None = None
    label_column: str | None = None
    date_column: str | None = None
    roles: Mapping[str, ColumnRole] = field(default_factory=lambda: MappingProxyType({}))
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    dictionary: str | None = None

    def __post_init__(self) -> None:
        _require(
            bool(_NAME.fullmatch(self.name)),
            "a source's name is a small letter followed by at most 31 of a-z, 0-9, '_' and '-'",
        )
        _require(
            (self.relation is None) == self.kind.is_file,
            "a database needs a table or a query, and a file has neither",
        )
        _require(self.secret is None or not self.kind.is_file, "a file has no password")
        for name in ("roles", "aliases"):
            plain = {column_name(column): value for column, value in getattr(self, name).items()}
            _require(len(plain) == len(getattr(self, name)), f"a column is named twice under {name}")
            object.__setattr__(self, name, MappingProxyType(plain))
        for name in ("id_column", "label_column", "date_column"):
            column = getattr(self, name)
            object.__setattr__(self, name, None if column is None else column_name(column))
        own = [column for column in (self.id_column, self.label_column, self.date_column) if column is not None]
        _require(all(own) and len(set(own)) == len(own), "the id, the label and the date are three different columns")
        _require(not set(own) & set(self.roles), "the id, the label and the date column take no other role")
        _require(all(_ALIAS.fullmatch(alias) for alias in self.aliases.values()), "an alias has 1 to 128 characters")
        _require(len(set(self.aliases.values())) == len(self.aliases), "two columns have the same alias")

    @property
    def named_columns(self) -> tuple[str, ...]:
        """Every column that this source's own settings name."""
        own = (self.id_column, self.label_column, self.date_column)
        return tuple(dict.fromkeys([*(name for name in own if name is not None), *self.roles, *self.aliases]))

    def shown(self) -> str:
        """The location, fit to be shown."""
        if self.relation is None:
            return self.location
        return f"{self.location} {self.relation.kind.value} {self.relation.name}"

    def published_name(self, column: str) -> str:
        """The name under which peers know a column."""
        return self.aliases.get(column_name(column), column_name(column))

    def own_name(self, published: str) -> str:
        """The column that peers know as `published`."""
        return {alias: column for column, alias in self.aliases.items()}.get(published, column_name(published))

    def read_dictionary(self) -> DataDictionary | None:
        """The data dictionary, if one was named.

        Raises: DataError: DICTIONARY_MISSING, DICTIONARY_INVALID.
        """
        return None if self.dictionary is None else read_dictionary(Path(self.dictionary))

    def rules(self, section: PartyColumns, dictionary: DataDictionary | None = None) -> PartyColumns:
        """A recipe's section for this party with what the source and its dictionary add; the section goes first.

        Special values of the dictionary hold for columns whose special values the section does not name.
        """
        excluded = [column for column, role in self.roles.items() if role is ColumnRole.EXCLUDED]
        if self.date_column is not None:
            excluded.append(self.date_column)
        categorical = [column for column, role in self.roles.items() if role is ColumnRole.CATEGORICAL]
        named = {column_name(name) for name in section.special} | {*excluded, self.id_column, self.label_column}
        entries = {} if dictionary is None else dictionary.entries
        special = {name: entry.special for name, entry in entries.items() if entry.special and name not in named}
        judged = {column_name(name) for name in section.judgement.columns}
        return section.model_copy(
            update={
                "categorical": tuple(dict.fromkeys([*section.categorical, *categorical])),
                "special": special | section.special,
                "exclude": tuple(name for name in dict.fromkeys([*section.exclude, *excluded]) if name not in judged),
            }
        )


def file_source(name: str, path: Path, id_column: str, **settings: Any) -> Source:
    """A source in a file, CSV or Parquet by its first bytes. settings: the other fields of `Source`.

    Raises: DataError: FILE_MISSING, FILE_UNREADABLE, SOURCE_INVALID.
    """
    try:
        with path.open("rb") as file:
            kind = SourceKind.PARQUET if file.read(4) == b"PAR1" else SourceKind.CSV
    except FileNotFoundError:
        raise DataError("FILE_MISSING", f"there is no file {path.name}", "check the path of the source") from None
    except OSError:
        raise DataError(
            "FILE_UNREADABLE", f"{path.name} cannot be opened", "check that it is a file and who may read it"
        ) from None
    return Source(name, kind, str(path.absolute()), id_column, **settings)


def database_source(
    name: str, url: str, id_column: str, *, table: str | None = None, query: Path | None = None, **settings: Any
) -> Source:
    """A source in PostgreSQL, MySQL or MariaDB: a table or view, or a query file of the institution's own.

    Args: url: `postgresql://user@host:5432/database` or `mysql://...`, without a password. settings: the other fields.
    Raises: DataError: SOURCE_URL_INVALID, SOURCE_SECRET_INLINE, SOURCE_QUERY_MISSING, SOURCE_QUERY_INVALID,
        SOURCE_INVALID.
    """
    kind, parsed = _parse_url(url)
    _require((table is None) != (query is None), "a database needs either a table or a query")
    if query is not None:
        text = _read_query(query)
        _checked_query(text, query.name)
        digest = hashlib.sha256(text.encode()).hexdigest()
        relation = Relation(RelationKind.QUERY, str(query.absolute()), digest)
    else:
        named = table or ""
        parts = named.split(".")
        _require(
            bool(_TABLE.fullmatch(named)) and all(parts) and len(parts) <= 2, "a table is `table` or `schema.table`"
        )
        relation = Relation(RelationKind.TABLE, named)
    return Source(name, kind, parsed.render_as_string(hide_password=False), id_column, relation, **settings)


def read_source(
    source: Source,
    recipe: Recipe,
    party: str,
    model_columns: Mapping[str, FeatureKind] | None = None,
    environment: Environment = os.environ,
) -> tuple[Table, tuple[Finding, ...]]:
    """The table in a source, by the rules of `party_agent.dataset.read_table`, and what was found on the way.

    Raises: DataError: as `read_table`, `open_source` and `Source.read_dictionary`.
    """
    rules = source.rules(recipe.columns_of(party), source.read_dictionary() if model_columns is None else None)
    numeric = [column for column, role in source.roles.items() if role is ColumnRole.NUMERIC]
    label = source.label_column if model_columns is None else None
    wanted = None if model_columns is None else {source.id_column, *model_columns}
    with open_source(source, environment, wanted, rules.exclude) as cells:
        present = {column_name(name) for name in cells.names}
        # The dictionary may describe columns that this source does not have.
        special = {name: values for name, values in rules.special.items() if _kept(name, present, recipe, party)}
        rules = rules.model_copy(update={"special": special})
        return table_of(
            cells, source.id_column, label, rules, recipe.sample.keep_first_duplicate, model_columns, numeric
        )


def read_source_ids(
    source: Source, environment: Environment = os.environ
) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """The distinct canonical ids of a source, in its order; no other column is fetched from a database.

    Raises: DataError: as `party_agent.dataset.read_ids` and `open_source`.
    """
    with open_source(source, environment, {source.id_column}) as cells:
        return ids_of(cells, source.id_column)


def open_source(
    source: Source,
    environment: Environment = os.environ,
    wanted: Collection[str] | None = None,
    excluded: Collection[str] = (),
    statement_timeout_s: int = STATEMENT_TIMEOUT_S,
) -> Cells:
    """The cells of a source, to be closed after use.

    Args: wanted: the only columns to fetch from a database (None: all); excluded: columns not to fetch.
    Raises: DataError: FILE_ codes for files, and for databases SOURCE_DRIVER_MISSING, SOURCE_SECRET_MISSING,
        SOURCE_SECRET_EXPOSED, SOURCE_UNREACHABLE, SOURCE_REFUSED, SOURCE_DENIED, SOURCE_TABLE_MISSING,
        SOURCE_QUERY_MISSING, SOURCE_QUERY_CHANGED, SOURCE_QUERY_INVALID, SOURCE_TYPE_UNSUPPORTED, SOURCE_TIMEOUT,
        SOURCE_FAILED; for both SOURCE_COLUMN_MISSING and HEADER_INVALID.
    """
    if source.relation is None:
        path = Path(source.location)
        cells = Cells.of_file(path)
        if missing := [name for name in source.named_columns if name not in cells.names]:
            cells.close()
            raise _column_missing(source, missing)
        return cells
    names = None if wanted is None else {column_name(name) for name in wanted}
    return _database_cells(source, environment, names, {column_name(n) for n in excluded}, statement_timeout_s)


@dataclass(frozen=True)
class SchemaColumn:
    """One column of a source; type: DuckDB's name of it, '' if it cannot be read and must be excluded."""

    name: str
    type: str


def read_schema(source: Source, environment: Environment = os.environ) -> tuple[SchemaColumn, ...]:
    """The columns of a source in its order, after a look that reads no rows of a database.

    Raises: DataError: as `open_source`; a type that cannot be read is refused unless its column is excluded.
    """
    if source.relation is None:
        with open_source(source) as cells:
            return tuple(SchemaColumn(name, cells.type_of(index)) for index, name in enumerate(cells.names))
    with _connection(source, environment, STATEMENT_TIMEOUT_S) as connection:
        relation = _relation_sql(source)
        names = _column_names(connection, source, relation)
        plain = [column_name(name) for name in names]
        if missing := [name for name in source.named_columns if name not in plain]:
            raise _column_missing(source, missing)
        excluded = {column for column, role in source.roles.items() if role is ColumnRole.EXCLUDED}
        kept = [(index, name) for index, name in enumerate(names) if plain[index] not in excluded]
        types = _types(connection, source, relation, kept)
        return tuple(SchemaColumn(name, types.get(index, "")) for index, name in enumerate(plain))


# -- databases

_PARAMETERS = {
    SourceKind.POSTGRESQL: frozenset({"host", "sslmode", "sslrootcert", "sslcert", "sslkey"}),
    SourceKind.MYSQL: frozenset(
        {"unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity"}
    ),
}
_KINDS = {
    "postgresql": SourceKind.POSTGRESQL,
    "postgres": SourceKind.POSTGRESQL,
    "mysql": SourceKind.MYSQL,
    "mariadb": SourceKind.MYSQL,
}
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
        "run it in the database's own shell; every column needs one name, and nothing may write",
    ),
    "SOURCE_UNREACHABLE": (
        "the database server cannot be reached, or the connection broke",
        "check host, port and firewall, and that the server runs; then try again",
    ),
}


def _database_cells(
    source: Source, environment: Environment, wanted: set[str] | None, excluded: set[str], timeout_s: int
) -> Cells:
    """The columns of a database that are wanted and not excluded, as cells; the others are known by name only."""
    relation = _relation_sql(source)
    with _connection(source, environment, timeout_s) as connection:
        names = _column_names(connection, source, relation)
        plain = [column_name(name) for name in names]
        if missing := [name for name in source.named_columns if name not in plain]:
            raise _column_missing(source, missing)
        chosen = [
            (index, name)
            for index, name in enumerate(names)
            if plain[index] not in excluded and (wanted is None or plain[index] in wanted)
        ]
        if not chosen:
            raise _column_missing(source, sorted(wanted or ()))
        types = _types(connection, source, relation, chosen)
        cells = ", ".join(_text_sql(source.kind, _quoted(source.kind, name), types[index]) for index, name in chosen)
        # Identifiers are quoted; the relation is a quoted table, or the institution's own query in brackets.
        statement = f"SELECT {cells} FROM {relation}"  # noqa: S608
        return Cells.of_chunks(source.name, names, types, _chunks(connection, statement))


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
    _, url = _parse_url(source.location)
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
        raise _not_fitting("a file has no relation")
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


def _parse_url(text: str) -> tuple[SourceKind, URL]:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _url_invalid() from None
    name, _, driver = url.drivername.partition("+")
    kind = _KINDS.get(name)
    if kind is None or driver not in ("", "psycopg", "pymysql") or not url.database:
        raise _url_invalid()
    if url.password is not None or any("pass" in key.lower() for key in url.query):
        raise DataError(
            "SOURCE_SECRET_INLINE",
            "the URL of the source has a password in it",
            "take it out and name where it is kept with --secret env:NAME or file:PATH; change it if others saw it",
        )
    if not set(url.query) <= _PARAMETERS[kind] or not all(isinstance(value, str) for value in url.query.values()):
        raise _url_invalid()
    return kind, url.set(drivername=kind.value)


def _url_invalid() -> DataError:
    allowed = sorted(_PARAMETERS[SourceKind.POSTGRESQL] | _PARAMETERS[SourceKind.MYSQL])
    return DataError(
        "SOURCE_URL_INVALID",
        "the URL of the source is not one of a PostgreSQL, MySQL or MariaDB database, or has an unknown parameter",
        "write postgresql://user@host:5432/database or mysql://user@host:3306/database; parameters may be "
        f"{', '.join(allowed)}",
    )


def _read_query(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > MAX_QUERY_BYTES:
            raise _query_invalid(path.name, "is longer than 64 KiB")
        return data.decode("utf-8-sig")
    except OSError:
        raise DataError(
            "SOURCE_QUERY_MISSING", f"the query {path.name} cannot be read", "check the path and who may read it"
        ) from None
    except UnicodeDecodeError:
        raise _query_invalid(path.name, "is not UTF-8 text") from None


def _checked_query(text: str, called: str) -> str:
    """The query without a last semicolon. It will stand in brackets, in a read-only transaction; this is a courtesy,
    but for the semicolon, which could end that transaction.
    """
    query = text.strip().removesuffix(";").rstrip()
    if ";" in query or "\0" in query:
        raise _query_invalid(called, "has a semicolon inside: it must be one statement")
    if not _QUERY_START.match(_COMMENTS.sub(" ", query)):
        raise _query_invalid(called, "does not begin with SELECT or WITH")
    return query


def _query_invalid(called: str, what: str) -> DataError:
    return DataError("SOURCE_QUERY_INVALID", f"the query {called} {what}", _SENTENCES["SOURCE_QUERY_INVALID"][1])


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
    _, url = _parse_url(source.location)
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


def _column_missing(source: Source, names: Sequence[str]) -> DataError:
    return DataError(
        "SOURCE_COLUMN_MISSING",
        f"source {source.name} has no column {listed(names)}",
        "check the spelling (capital letters count) and the rights of the database user, or add the source again",
    )


def _kept(name: str, present: set[str], recipe: Recipe, party: str) -> bool:
    return column_name(name) in present or name in recipe.columns_of(party).special


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise _not_fitting(sentence)


def _not_fitting(sentence: str) -> DataError:
    return DataError("SOURCE_INVALID", sentence, "correct the command; docs/data.md has examples")


# -- the registry


@dataclass(frozen=True)
class Registered:
    """A source and when it was added and last published (Unix seconds); published_hash: of what was sent, hex."""

    source: Source
    added: int
    published: int | None = None
    published_hash: str | None = None


class SourceRegistry:
    """The sources of one institution, in its agent's database. Each method is one transaction.

    Raises: DataError: SOURCE_REGISTRY_UNUSABLE: the database is locked, damaged or away.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, source: Source, now: int, replace_old: bool = False) -> None:
        """Keep a source; with replace_old in the place of one of the same name.

        Raises: DataError: SOURCE_EXISTS.
        """
        try:
            with self._begin() as connection:
                if replace_old:
                    connection.execute(delete(data_sources).where(data_sources.c.name == source.name))
                connection.execute(insert(data_sources).values(**_row(source), added=now))
        except IntegrityError:
            raise DataError(
                "SOURCE_EXISTS",
                f"there is a source {source.name} already",
                "choose another name, or say --replace",
            ) from None

    def get(self, name: str) -> Registered:
        """The source of this name.

        Raises: DataError: SOURCE_UNKNOWN.
        """
        with self._begin() as connection:
            row = connection.execute(select(data_sources).where(data_sources.c.name == name)).one_or_none()
        if row is None:
            raise _unknown()
        return _registered(row)

    def all(self) -> list[Registered]:
        """Every source, by name."""
        with self._begin() as connection:
            return [_registered(row) for row in connection.execute(select(data_sources).order_by(data_sources.c.name))]

    def remove(self, name: str) -> None:
        """Forget a source; its rows are not touched.

        Raises: DataError: SOURCE_UNKNOWN.
        """
        with self._begin() as connection:
            if not connection.execute(delete(data_sources).where(data_sources.c.name == name)).rowcount:
                raise _unknown()

    def mark_published(self, name: str, document_hash: str, now: int) -> None:
        """Note what was published of a source.

        Raises: DataError: SOURCE_UNKNOWN.
        """
        with self._begin() as connection:
            values = {"published": now, "published_hash": document_hash}
            if not connection.execute(
                update(data_sources).where(data_sources.c.name == name).values(**values)
            ).rowcount:
                raise _unknown()

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError:
            raise _registry_unusable() from None


def open_registry(folder: Path) -> SourceRegistry:
    """The registry in a party's folder, `agent.db`, made if it is not there.

    Raises: DataError: SOURCE_REGISTRY_UNUSABLE, SCHEMA_UNKNOWN.
    """
    path = folder / "agent.db"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError:
        raise _registry_unusable() from None
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"timeout": 10})

    @event.listens_for(engine, "connect")
    def _write_ahead(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")

    try:
        migrate(engine)
    except SQLAlchemyError:
        raise _registry_unusable() from None
    return SourceRegistry(engine)


def _row(source: Source) -> dict[str, Any]:
    relation = source.relation
    return {
        "name": source.name,
        "kind": source.kind.value,
        "location": source.location,
        "relation_kind": None if relation is None else relation.kind.value,
        "relation": None if relation is None else relation.name,
        "query_hash": None if relation is None else relation.query_hash,
        "secret": None if source.secret is None else str(source.secret),
        "id_column": source.id_column,
        "label_column": source.label_column,
        "date_column": source.date_column,
        "roles": {column: role.value for column, role in source.roles.items()},
        "aliases": dict(source.aliases),
        "dictionary": source.dictionary,
    }


def _registered(row: Row[Any]) -> Registered:
    try:
        source = Source(
            name=row.name,
            kind=SourceKind(row.kind),
            location=row.location,
            id_column=row.id_column,
            relation=(
                None
                if row.relation is None
                else Relation(RelationKind(row.relation_kind), row.relation, row.query_hash)
            ),
            secret=None if row.secret is None else SecretReference.parse(row.secret),
            label_column=row.label_column,
            date_column=row.date_column,
            roles={column: ColumnRole(role) for column, role in row.roles.items()},
            aliases=row.aliases,
            dictionary=row.dictionary,
        )
    except (ValueError, TypeError, AttributeError):
        raise _registry_unusable() from None
    return Registered(source, row.added, row.published, row.published_hash)


def _unknown() -> DataError:
    return DataError("SOURCE_UNKNOWN", "there is no source of this name", "see `concordat-party data list`")


def _registry_unusable() -> NoReturn:
    raise DataError(
        "SOURCE_REGISTRY_UNUSABLE",
        "the agent's database cannot be read or written",
        "check the rights and the free space of the agent's folder, and that no backup holds agent.db",
    )
