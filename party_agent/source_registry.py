"""The registry of an institution's sources, in its agent's database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, NullPool, Row, create_engine, delete, event, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from party_agent.agent_store import migrate
from party_agent.source import ColumnRole, Relation, RelationKind, SecretReference, Source, SourceKind
from party_agent.tables import data_sources
from protocols.errors import DataError


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
