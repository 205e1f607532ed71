"""The agent's database: made and brought up by migrations, also from one that an earlier program made without them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from typer.testing import CliRunner

import party_agent.migrations
from party_agent.agent_store import AgentSettings, migrate, open_store, write_settings
from party_agent.enrolment_commands import app
from party_agent.peers import PeerBook, PeerState
from party_agent.source_registry import open_registry
from party_agent.tables import SCHEMA, metadata
from protocols.errors import DataError
from tests.running_lab import Postgres

SOURCES_BEFORE = """
CREATE TABLE data_sources (
    name VARCHAR(32) NOT NULL, kind VARCHAR(16) NOT NULL, location TEXT NOT NULL, relation_kind VARCHAR(8),
    relation TEXT, query_hash VARCHAR(64), secret TEXT, id_column VARCHAR(200) NOT NULL, label_column VARCHAR(200),
    date_column VARCHAR(200), roles JSON NOT NULL, aliases JSON NOT NULL, dictionary TEXT, added BIGINT NOT NULL,
    published BIGINT, published_hash VARCHAR(64), PRIMARY KEY (name)
);
INSERT INTO data_sources (name, kind, location, id_column, roles, aliases, added)
VALUES ('loans', 'csv', '/srv/loans.csv', 'id', '{}', '{}', 1800000000);
"""
PEERS_BEFORE = """
CREATE TABLE peers (
    name VARCHAR(32) NOT NULL, identity VARCHAR(64) NOT NULL, pinned VARCHAR(64), pinned_at BIGINT,
    enrolment VARCHAR(16) NOT NULL, PRIMARY KEY (name)
);
INSERT INTO peers VALUES ('bureau', 'HEX', 'HEX', 1800000000, 'active');
""".replace("HEX", "11" * 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_settings(tmp_path, AgentSettings(name="bank"))
    return tmp_path


def has_this_programs_schema(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        return context.get_current_revision() == SCHEMA and compare_metadata(context, metadata) == []


def test_the_latest_migration_is_the_schema_of_the_code() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(party_agent.migrations.__path__[0])))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.Engine]:
    server = Postgres(tmp_path_factory.mktemp("postgres")) if request.param == "postgresql" else None
    made = sa.create_engine(server.url if server else f"sqlite:///{tmp_path}/agent.db")
    yield made
    made.dispose()
    if server:
        server.stop()


def test_the_migrations_make_the_tables_of_the_code_once_though_many_begin_together(engine: sa.Engine) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: migrate(engine), range(6))) == [None] * 6
    assert has_this_programs_schema(engine)


@pytest.mark.parametrize("before", [SOURCES_BEFORE + PEERS_BEFORE, SOURCES_BEFORE, PEERS_BEFORE])
def test_a_database_from_before_the_migrations_is_taken_over_with_its_rows(folder: Path, before: str) -> None:
    with sqlite3.connect(folder / "agent.db") as former:
        former.executescript(before)
    former.close()
    engine = open_store(folder)
    assert has_this_programs_schema(engine)
    engine.dispose()
    if PEERS_BEFORE in before:
        with PeerBook.open(folder) as peers:
            assert [(peer.name, peer.state) for peer in peers.all()] == [("bureau", PeerState.VERIFIED)]
    if SOURCES_BEFORE in before:
        with sqlite3.connect(folder / "agent.db") as found:
            assert found.execute("SELECT name, location, added FROM data_sources").fetchall() == [
                ("loans", "/srv/loans.csv", 1_800_000_000)
            ]
        found.close()


def test_the_register_of_sources_brings_the_database_up_as_well(tmp_path: Path) -> None:
    open_registry(tmp_path)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/agent.db")
    assert has_this_programs_schema(engine)
    engine.dispose()


def test_a_database_of_a_newer_program_is_not_touched(folder: Path) -> None:
    open_store(folder).dispose()
    with sqlite3.connect(folder / "agent.db") as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.close()
    for opening in (open_store, open_registry):
        with pytest.raises(DataError) as caught:
            opening(folder)
        assert caught.value.code == "SCHEMA_UNKNOWN"
    refused = CliRunner().invoke(app, ["upgrade", "--folder", str(folder), "--json"])
    assert (refused.exit_code, "SCHEMA_UNKNOWN" in refused.stdout) == (1, True)


def test_a_migration_that_fails_leaves_nothing_behind(folder: Path) -> None:
    with sqlite3.connect(folder / "agent.db") as former:
        former.execute("CREATE VIEW peers AS SELECT 1 AS name")  # in the way of the second table
    former.close()
    with pytest.raises(DataError) as caught:
        open_store(folder)
    assert caught.value.code == "STORE_UNAVAILABLE"
    with sqlite3.connect(folder / "agent.db") as found:
        assert found.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == []
        found.execute("DROP VIEW peers")
    found.close()
    engine = open_store(folder)
    assert has_this_programs_schema(engine)
    engine.dispose()


def test_the_command_brings_an_older_database_up(folder: Path) -> None:
    with sqlite3.connect(folder / "agent.db") as former:
        former.executescript(PEERS_BEFORE)
    former.close()
    done = CliRunner().invoke(app, ["upgrade", "--folder", str(folder)])
    assert done.exit_code == 0
    engine = sa.create_engine(f"sqlite:///{folder}/agent.db")
    assert has_this_programs_schema(engine)
    engine.dispose()
