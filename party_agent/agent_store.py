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
from sqlalchemy import URL, BigInteger, Column, Engine, String, Table, create_engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from party_agent.store import Folder
from party_agent.tables import metadata
from protocols.enrolment import check_name, is_address
from protocols.errors import ConcordatError, DataError
from protocols.toml_document import parse_toml

SETTINGS_FILE = "agent.toml"
_BUSY_MS = 10_000

# One row a member of the lab. identity: as the lab last told it; pinned: as it was compared out of band, or NULL.
peers = Table(
    "peers",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("identity", String(64), nullable=False),
    Column("pinned", String(64)),
    Column("pinned_at", BigInteger),
    Column("enrolment", String(16), nullable=False),
)


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
    """The agent's database, with every table of `party_agent.tables.metadata` and of this module.

    Raises: what `read_settings` raises; DataError: DATABASE_URL_INVALID, STORE_UNAVAILABLE.
    """
    url = _url(folder, read_settings(folder).database, os.environ if environment is None else environment)
    try:
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise _url_invalid() from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
    with store_errors():
        metadata.create_all(engine)
    return engine


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
