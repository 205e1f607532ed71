"""The agent's settings, `agent.toml`, and its database, `agent.db` unless the settings refer to another.

Settings hold no secret: the URL of a database with a password is in an environment variable or a file that they name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from party_agent.store import Folder
from party_agent.tables import SCHEMA
from protocols.enrolment import check_name, is_address
from protocols.errors import ConcordatError, DataError
from protocols.toml_document import parse_toml

SETTINGS_FILE = "agent.toml"
_BUSY_MS = 10_000
_MIGRATION_LOCK = 0x436F6E64  # of PostgreSQL's advisory locks


class DatabaseReference(BaseModel):
    """Where the URL of the database is; neither: SQLite in the agent's folder."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    url_env: str | None = None
    url_file: str | None = None


class AgentSettings(BaseModel):
    """`agent.toml`. lab: 'host:port', empty until the institution has joined; ca_fingerprint: hex."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    lab: str = ""
    ca_fingerprint: str = ""
    database: DatabaseReference = DatabaseReference()


def read_settings(folder: Path) -> AgentSettings:
    """The settings in `agent.toml`.

    Raises: DataError: AGENT_MISSING, AGENT_SETTINGS_INVALID. ContractViolationError: NAME_INVALID.
    """
    try:
        settings = AgentSettings.model_validate(parse_toml((folder / SETTINGS_FILE).read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(
            "AGENT_MISSING", "the folder is not an institution's", "make it with `concordat-party init`"
        ) from error
    except (ValidationError, ValueError, RecursionError) as error:
        raise _settings_invalid() from error
    check_name(settings.name)
    if (settings.lab and not is_address(settings.lab)) or (settings.database.url_env and settings.database.url_file):
        raise _settings_invalid()
    return settings


def write_settings(folder: Path, settings: AgentSettings) -> None:
    """Write `agent.toml`, whole."""
    lines = ["# Settings of this institution's agent; no secret belongs here (docs/enrolment.md)."]
    fields = {"name": settings.name, "lab": settings.lab, "ca_fingerprint": settings.ca_fingerprint}
    lines += [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    database = {"url_env": settings.database.url_env, "url_file": settings.database.url_file}
    if any(database.values()):
        lines += ["", "[database]", *(f"{key} = {json.dumps(value)}" for key, value in database.items() if value)]
    Folder(folder).write(SETTINGS_FILE, ("\n".join(lines) + "\n").encode())


def open_store(folder: Path, environment: Mapping[str, str] | None = None) -> Engine:
    """The agent's database, its schema that of this program.

    Raises: what `read_settings` raises; DataError: DATABASE_URL_INVALID, STORE_UNAVAILABLE, SCHEMA_UNKNOWN.
    """
    url = _url(folder, read_settings(folder).database, os.environ if environment is None else environment)
    try:
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise _url_invalid() from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
    with store_errors():
        migrate(engine)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the schema to this program's version, one process at a time; does nothing if it is there.

    Raises: DataError: SCHEMA_UNKNOWN: the database is of a newer program. sqlalchemy.exc.SQLAlchemyError.
    """
    with engine.connect() as connection:
        if _revision(connection) == SCHEMA:
            return
    from alembic import command  # takes longer to load than most commands take: only when there is something to do
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with _alone(engine) as connection:
        current = _revision(connection)
        if current is not None and current not in known:
            raise DataError(
                "SCHEMA_UNKNOWN",
                "the agent's database is of a newer version than this program",
                "install the newer version",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A transaction in which no other process changes the schema."""
    if engine.dialect.name != "sqlite":
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            yield connection
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver itself begins no transaction for a change of schema
        try:
            yield connection
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")


@contextmanager
def store_errors() -> Iterator[None]:
    """Errors of the database as errors with a code; what the driver says stays out, it may quote values.

    Raises: DataError: STORE_UNAVAILABLE, DISK_FULL.
    """
    try:
        yield
    except ConcordatError:
        raise
    except SQLAlchemyError as error:
        origin = error.orig if isinstance(error, DBAPIError) else None
        if getattr(origin, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(origin, "sqlstate", "") == "53100":
            raise DataError("DISK_FULL", "the disk of the agent's database is full", "make room on the disk") from None
        raise DataError(
            "STORE_UNAVAILABLE", "the agent's database does not answer", "start the database, check agent.db"
        ) from None


def _url(folder: Path, database: DatabaseReference, environment: Mapping[str, str]) -> str:
    if database.url_env:
        url = environment.get(database.url_env, "")
    elif database.url_file:
        try:
            url = (folder / database.url_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            url = ""
    else:
        path = folder / "agent.db"
        if not path.exists():
            Folder(folder).write(path.name, b"")  # so that it is nobody else's from the first moment on
        return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    if not url:
        raise _url_invalid()
    return url


def _on_sqlite_connect(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _url_invalid() -> DataError:
    return DataError(
        "DATABASE_URL_INVALID",
        "the URL of the agent's database cannot be used, or its driver is not installed",
        "write postgresql+psycopg://user:password@host/database where agent.toml says",
    )


def _settings_invalid() -> DataError:
    return DataError(
        "AGENT_SETTINGS_INVALID",
        "agent.toml is not TOML, has an unknown key, or a value of the wrong form",
        "compare it with docs/enrolment.md",
    )
