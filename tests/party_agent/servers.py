"""Real database servers for tests: PostgreSQL and MariaDB on free ports, in folders of their own, always stopped.

Neither may run as root: as root they run as the users `postgres` and `mysql`. Where a program is not installed the
test is skipped and says so. Every wait is bounded.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

START_TIMEOUT_S = 40
STOP_TIMEOUT_S = 15


@dataclass(frozen=True)
class Server:
    """A running server on 127.0.0.1 with one database. url: without the password of `user`, its owner."""

    scheme: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str

    @property
    def url(self) -> str:
        """What a source or a lab is given."""
        return self.url_of(self.user)

    def url_of(self, user: str) -> str:
        """The URL of another user, without a password."""
        return f"{self.scheme}://{user}@127.0.0.1:{self.port}/{self.database}"

    def run(self, *statements: str) -> None:
        """Run statements as the owner, each on its own."""
        if self.scheme == "postgresql":
            import psycopg

            with psycopg.connect(
                host="127.0.0.1", port=self.port, user=self.user, password=self.password, dbname=self.database
            ) as connection:
                for statement in statements:
                    connection.execute(statement.encode())
            return
        import pymysql

        connection = pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user=self.user,
            password=self.password,
            database=self.database,
            charset="utf8mb4",
            autocommit=True,
        )
        try:
            for statement in statements:
                connection.cursor().execute(statement)
        finally:
            connection.close()


@contextmanager
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL server that asks for passwords."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = str(programs[-1]) if programs else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: no initdb")
    server = Server("postgresql", _free_port(), "warehouse", secrets.token_hex(16), "warehouse")
    with _folder("postgres") as (folder, user):
        password = folder / "password"
        password.write_text(server.password)
        password.chmod(0o644)  # in a folder that only the server's user can enter
        _run(
            user,
            [
                *(initdb, "-D", str(folder / "data"), "-U", server.user, "-A", "scram-sha-256"),
                *(f"--pwfile={password}", "-E", "UTF8", "--locale=C", "--no-sync"),
            ],
        )
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder),
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": "30",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        postgres = str(Path(initdb).with_name("postgres"))
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for clients.
        command = [postgres, "-D", str(folder / "data"), "-p", str(server.port), *options]
        with _running(user, command, folder / "log", signal.SIGINT) as process:
            _wait(process, server, folder / "log", "postgres")
            import psycopg

            with psycopg.connect(
                host="127.0.0.1",
                port=server.port,
                user=server.user,
                password=server.password,
                dbname="postgres",
                autocommit=True,
            ) as connection:
                connection.execute(f"CREATE DATABASE {server.database}".encode())
            yield server


@contextmanager
def mariadb_server() -> Iterator[Server]:
    """A MariaDB (or MySQL) server that asks for passwords."""
    pytest.importorskip("pymysql", reason="pymysql is not installed")
    daemon = shutil.which("mariadbd", path=_server_path())
    install = shutil.which("mariadb-install-db", path=_server_path())
    if daemon is None or install is None:
        pytest.skip("MariaDB is not installed: no mariadbd or no mariadb-install-db")
    server = Server("mysql", _free_port(), "warehouse", secrets.token_hex(16), "warehouse")
    with _folder("mysql") as (folder, user):
        data = folder / "data"
        _run(
            user,
            [
                *(install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"),
                *("--skip-test-db", "--skip-name-resolve"),
            ],
        )
        start = folder / "start.sql"
        start.write_text(
            f"CREATE DATABASE {server.database} CHARACTER SET utf8mb4;\n"
            f"CREATE USER '{server.user}'@'127.0.0.1' IDENTIFIED BY '{server.password}';\n"
            f"GRANT ALL ON *.* TO '{server.user}'@'127.0.0.1' WITH GRANT OPTION;\n"
            "DROP USER IF EXISTS 'root'@'127.0.0.1', 'root'@'::1';\n"
        )
        start.chmod(0o644)
        command = [
            daemon,
            "--no-defaults",
            f"--datadir={data}",
            f"--port={server.port}",
            "--bind-address=127.0.0.1",
            f"--socket={folder / 'socket'}",
            f"--pid-file={folder / 'pid'}",
            f"--init-file={start}",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=16M",
            "--skip-log-bin",
        ]
        with _running(user, command, folder / "log", signal.SIGTERM) as process:
            _wait(process, server, folder / "log", server.database)
            yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """PostgreSQL for a whole test run."""
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """MariaDB for a whole test run."""
    with mariadb_server() as server:
        yield server


def _server_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/bin"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _folder(wanted: str) -> Iterator[tuple[Path, str | None]]:
    """A folder of the unprivileged user, and that user's name; None when this process is unprivileged itself."""
    user: str | None = None
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam(wanted)
        except KeyError:
            pytest.skip(f"there is no user {wanted} to run the server as")
        user = wanted
    folder = Path(tempfile.mkdtemp(prefix="concordat-db-"))
    try:
        if user is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "MYSQL", "MARIADB"))}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _run(user: str | None, command: list[str]) -> None:
    done = subprocess.run(
        command, user=user, cwd="/", env=_environment(), capture_output=True, timeout=START_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.decode(errors='replace')[-2000:]}")


@contextmanager
def _running(
    user: str | None, command: list[str], log: Path, stop: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            user=user,
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_TIMEOUT_S)


def _wait(process: subprocess.Popen[bytes], server: Server, log: Path, database: str) -> None:
    """Until the server lets its owner in."""
    probe = Server(server.scheme, server.port, server.user, server.password, database)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            probe.run("SELECT 1")
            return
        except Exception as error:  # two drivers, no common class
            if process.poll() is not None or time.monotonic() > deadline:
                told = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{server.scheme} did not start: {told}") from error
            time.sleep(0.1)
