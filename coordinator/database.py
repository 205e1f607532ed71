"""The lab's database: how it is opened, brought to this program's version, and written to, one transaction at a time.

Writers take turns, so that the numbers of the request queue appear in their order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from protocols.audit import Event, Kind
from protocols.errors import ConcordatError, DataError, TransportError

_BUSY_MS = 10_000
_WRITER_LOCK = 0x436F6E63  # of PostgreSQL's advisory locks

Clock = Callable[[], float]
Recorder = Callable[[Event], object]  # of the audit log


def open_engine(url: str) -> Engine:
    """A database engine; SQLite in WAL mode, synced at every commit.

    Raises: DataError: DATABASE_URL_INVALID.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True, **_pool(url))
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise DataError(
            "DATABASE_URL_INVALID",
            "the URL of the database cannot be used, or its driver is not installed",
            "write postgresql+psycopg://user:password@host/database, and install concordat[postgres]",
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the schema to the version of this program; does nothing if it is there."""
    with translated(), engine.execution_options(write=True).begin() as connection:
        config = _alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check_schema(engine: Engine) -> None:
    """Raise unless the schema is that of this program.

    Raises: DataError: SCHEMA_OUTDATED, SCHEMA_UNKNOWN.
    """
    script = ScriptDirectory.from_config(_alembic())
    with translated(), engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == script.get_current_head():
        return
    if current is None or current in {revision.revision for revision in script.walk_revisions()}:
        raise DataError(
            "SCHEMA_OUTDATED", "the lab's database is of an older version", "back it up, then run `concordat upgrade`"
        )
    raise DataError(
        "SCHEMA_UNKNOWN", "the lab's database is of a newer version than this program", "install the newer version"
    )


class Transactions:
    """Args: engine: of `open_engine`; clock: Unix seconds; record: of the lab's audit log, called when a change is
    certain but for the disk, before it is made: what cannot be recorded is not done.
    """

    def __init__(self, engine: Engine, clock: Clock = time.time, record: Recorder = lambda event: None) -> None:
        self.engine = engine
        self._clock = clock
        self._record_event = record
        self._writer = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change that this object made."""
        self._listeners.append(listener)

    def ping(self) -> None:
        """Raise unless the database answers."""
        with self._reading() as session:
            session.execute(text("SELECT 1"))

    def _note(self, kind: Kind, **fields: int | str) -> None:
        self._record_event(Event(kind, fields))

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _writing(self, *, quiet: bool = False) -> Iterator[Session]:
        engine = self.engine.execution_options(write=True)
        with translated(), self._writer, Session(engine, expire_on_commit=False) as session, session.begin():
            if engine.dialect.name == "postgresql":
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})
            yield session
        if not quiet:
            for listener in self._listeners:
                listener()


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the database as errors with a code; what the driver says stays out, it may quote values.

    Raises: TransportError: DATABASE_UNAVAILABLE, DISK_FULL.
    """
    try:
        yield
    except ConcordatError:
        raise
    except DBAPIError as error:
        origin = error.orig
        if getattr(origin, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(origin, "sqlstate", "") == "53100":
            raise TransportError(
                "DISK_FULL", "the disk of the lab's database is full; nothing was stored", "make room on the disk"
            ) from None
        raise _unavailable() from None
    except SQLAlchemyError:
        raise _unavailable() from None


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _pool(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {}
    pool: dict[str, Any] = {"pool_size": 10, "max_overflow": 10, "pool_timeout": 10}
    if url.startswith("postgresql+psycopg"):  # a database that is gone is noticed in seconds, not by TCP in minutes
        waits = {"connect_timeout": 5, "tcp_user_timeout": 15_000, "options": "-c statement_timeout=30000"}
        pool["connect_args"] = waits
    return pool


def _on_sqlite_connect(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _unavailable() -> TransportError:
    return TransportError(
        "DATABASE_UNAVAILABLE", "the lab's database does not answer", "start the database; the lab recovers by itself"
    )
