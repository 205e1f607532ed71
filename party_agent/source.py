"""What a source of rows is: a file, or a table or query of a database, under a name of the institution's own.

A password is only ever named (`env:NAME`, `file:PATH`), looked up when a connection is made, and in no message.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import URL
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from party_agent.dataset import column_name
from party_agent.dictionary import DataDictionary, read_dictionary
from protocols.errors import DataError
from protocols.recipe import PartyColumns

MAX_QUERY_BYTES = 64 << 10
MAX_SECRET_BYTES = 4096
QUERY_REMEDY = "run it in the database's own shell; every column needs one name, and nothing may write"

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
        judged = {column_name(name) for name in section.no_features}
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
    kind, parsed = parse_url(url)
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


def parse_url(text: str) -> tuple[SourceKind, URL]:
    """The kind of database and its address, without a driver.

    Raises: DataError: SOURCE_URL_INVALID, SOURCE_SECRET_INLINE.
    """
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
    return DataError("SOURCE_QUERY_INVALID", f"the query {called} {what}", QUERY_REMEDY)


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise _not_fitting(sentence)


def _not_fitting(sentence: str) -> DataError:
    return DataError("SOURCE_INVALID", sentence, "correct the command; docs/data.md has examples")
