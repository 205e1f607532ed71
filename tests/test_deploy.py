"""What deploy/ and the runbook promise: commands that exist, units and settings that are accepted, SQL that runs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from coordinator.lab import DatabaseSettings, Lab, LabSettings, read_settings
from coordinator.server import LabServer
from deploy.health import health
from party_agent.agent_store import open_store
from party_agent.contract_draft import EXAMPLE, read_draft
from party_agent.local_policy import Approval, read_policy
from party_agent.policy import check_recipe
from protocols.contract import Caps, Contract, Member
from protocols.recipe import load_recipe
from protocols.roles import COORDINATOR, Role
from tests.party_agent.servers import Server, postgresql_server
from tests.running_lab import Clock, RunningLab, free_port, running_lab
from tests.test_docs import APPS, command_lines, documented_codes, options_of

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
CONTAINERFILES = sorted((DEPLOY / "containers").glob("*.Containerfile"))
SCRIPTS = sorted(DEPLOY.glob("*.sh"))


# -- commands ----------------------------------------------------------------------------------------------------------


def check_command(words: list[str]) -> None:
    """The words after the program's path: a command of ours with options that it has."""
    known = options_of(APPS[words[0]])
    command = max((one for one in known if tuple(words[1:][: len(one)]) == one), key=len, default=())
    assert command or words[1] in {"--help", "peers"}, words
    options = {word for word in words if word.startswith("--")} - {"--help"}
    assert options <= known.get(command, {"--folder", "--json"}), words


def values(unit: Path) -> dict[str, list[str]]:
    """Settings of a unit file, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def instructions(containerfile: Path) -> list[tuple[str, str]]:
    """Instructions of a Containerfile, with lines that go on joined."""
    text = re.sub(r"\\\n\s*", "", containerfile.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def exec_form(text: str) -> list[str]:
    words = tomllib.loads(f"it = {text}")["it"]
    assert all(isinstance(word, str) for word in words)
    return list(words)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists_with_its_options(unit: Path) -> None:
    words = shlex.split(values(unit)["ExecStart"][0])
    program = Path(words[0])
    assert program.parent == Path("/opt/concordat/bin")
    check_command([program.name, *words[1:]])
    assert words[words.index("--folder") + 1] in values(unit)["ReadWritePaths"]


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda path: path.name)
def test_an_image_runs_a_command_that_exists_as_a_user_without_rights(file: Path) -> None:
    found = instructions(file)
    last = dict(found)
    entry = exec_form(last["ENTRYPOINT"])
    check_command([Path(entry[0]).name, *exec_form(last["CMD"])])
    probe = exec_form(last["HEALTHCHECK"].partition("CMD ")[2])
    if Path(probe[0]).name in APPS:
        check_command([Path(probe[0]).name, *probe[1:]])
    else:
        assert probe[1] == "/opt/health.py"
    assert last["USER"] == "10001:10001"
    stages = [rest for name, rest in found if name == "FROM"]
    assert len(stages) == 2
    assert all(re.match(r"python:\d+\.\d+\.\d+-slim-\w+( AS build)?$", stage) for stage in stages)
    assert "pip" not in "".join(rest for name, rest in found[found.index(("FROM", stages[1])) :] if name == "RUN")
    for name, rest in found:
        if name == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / path).exists() for path in rest.split()[:-1]), rest


def test_the_runbook_names_only_commands_and_options_that_exist() -> None:
    lines = [line for line in command_lines(runbook()) if line[0] in APPS and len(line) > 1]
    assert len(lines) > 30
    for line in lines:
        check_command(line)


def test_the_runbook_names_only_files_and_error_codes_that_exist() -> None:
    for path in re.findall(r"deploy/[\w/@.-]*\w", runbook()):
        assert (ROOT / path).exists(), path
    codes = set(re.findall(r"`([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)`", runbook())) - {"CONCORDAT_SOURCES"}
    assert len(codes) > 10
    assert codes <= documented_codes()


def test_every_metric_of_the_runbook_is_one_that_the_lab_tells(tmp_path: Path) -> None:
    named = set(re.findall(r"`(concordat_[a-z_]+)`", runbook()))
    with running_lab(tmp_path, names=()) as lab:
        context = ssl.create_default_context(cafile=str(tmp_path / "lab" / "ca.pem"))
        with httpx.Client(base_url=f"https://localhost:{lab.port}", verify=context) as client:
            client.get("/v1/health")
            token = {"Authorization": f"Bearer {lab.lab.metrics_token()}"}
            told = set(re.findall(r"^(concordat_\w+)[ {]", client.get("/v1/metrics", headers=token).text, re.MULTILINE))
    assert told == named - {"concordat_lab", "concordat_lab_owner", "concordat_backup", "concordat_reader"}


def runbook() -> str:
    return (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


# -- systemd -----------------------------------------------------------------------------------------------------------

HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "PrivateTmp": "yes",
    "MemoryDenyWriteExecute": "yes",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "LimitCORE": "0",
    "MemorySwapMax": "0",
    "Restart": "on-failure",
    "UMask": "0077",
}


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_hardened_and_has_a_user_of_its_own(unit: Path) -> None:
    found = values(unit)
    assert {key: found[key][0] for key in HARDENED} == HARDENED
    assert found["User"][0].startswith("concordat-")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_a_unit_and_finds_little_exposed(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    programs = Path(sys.executable).parent
    if not (programs / "concordat").exists():
        pytest.skip("the commands are not installed beside this Python")
    text = unit.read_text(encoding="utf-8").replace("/opt/concordat/bin", str(programs))
    copy = tmp_path / unit.name
    copy.write_text(text.replace("WorkingDirectory=/opt/concordat", f"WorkingDirectory={tmp_path}"), encoding="utf-8")
    checked = run("systemd-analyze", "verify", "--man=no", str(copy))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    told = run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(copy))
    assert told.returncode == 0, told.stdout


HARDEN = """\
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(65, 1, 0, 0, 0):  # no new privileges; no memory written and executed
    sys.exit(77)
rule = lambda *fields: struct.pack("HBBI", *fields)
rules = b"".join([rule(0x20, 0, 0, 0), rule(0x15, 0, 5, 41), rule(0x20, 0, 0, 16), rule(0x15, 3, 0, 1),
                  rule(0x15, 2, 0, 2), rule(0x15, 1, 0, 10), rule(0x06, 0, 0, 0x50061), rule(0x06, 0, 0, 0x7FFF0000)])
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_char_p)]
if libc.prctl(22, 2, ctypes.byref(Program(len(rules) // 8, rules)), 0, 0):  # sockets of AF_UNIX, AF_INET, AF_INET6 only
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.process
def test_all_that_a_job_loads_works_without_executable_memory_and_other_sockets(tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the filter is written for x86_64")
    wrapper = tmp_path / "harden.py"
    wrapper.write_text(HARDEN, encoding="utf-8")
    work = (
        "import duckdb, gmpy2, grpc, mmap, numpy as np, psycopg, socket\n"
        "for refused in (lambda: mmap.mmap(-1, 4096, prot=7), lambda: socket.socket(socket.AF_NETLINK)):\n"
        "    try: refused()\n"
        "    except OSError: pass\n"
        "    else: raise SystemExit('not hardened')\n"
        "from protocols.scoring import messages\n"
        "import party_agent.agent_commands, party_agent.job, coordinator.server\n"
        "assert np.linalg.solve(np.eye(300), np.ones(300)).sum() == 300\n"
        "assert gmpy2.powmod(3, gmpy2.mpz(2) ** 3072, gmpy2.mpz(2) ** 3071 - 1) > 0\n"
        "assert duckdb.sql('SELECT sum(range) FROM range(100000)').fetchall()[0][0] == 4999950000\n"
    )
    done = run(sys.executable, str(wrapper), sys.executable, "-c", work)
    if done.returncode == 77:
        pytest.skip("this kernel does not have these restrictions")
    assert done.returncode == 0, done.stderr


# -- compose -----------------------------------------------------------------------------------------------------------

SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "init", "mem_limit",
    "networks", "pids_limit", "ports", "profiles", "read_only", "restart", "secrets", "security_opt", "shm_size",
    "stop_grace_period", "tmpfs", "ulimits", "user", "volumes",
}  # fmt: skip


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert set(document) == {"name", "services", "networks", "volumes", "secrets"}
    return dict(document)


def test_every_name_that_a_service_uses_is_defined(compose: dict[str, Any]) -> None:
    used: set[str] = set()
    for service in compose["services"].values():
        assert set(service) <= SERVICE_KEYS
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        for volume in service["volumes"]:
            source, target = re.fullmatch(r"(\$\{[^}]+\}|[^:]+):([^:]+)(?::ro)?", volume).groups()  # type: ignore[union-attr]
            assert target.startswith("/")
            if source.startswith("./"):
                assert (DEPLOY / source).exists()
            elif not source.startswith("$"):
                used.add(source)
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert re.search(r":\d+\.\d+", service["image"])
    assert used == set(compose["volumes"])


def test_containers_of_ours_cannot_write_but_to_their_state_and_hold_no_rights(compose: dict[str, Any]) -> None:
    for name in ("lab", "agent"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        program = {"lab": "concordat", "agent": "concordat-party"}[name]
        check_command([program, *service["command"]])
    assert compose["networks"]["database"] == {"internal": True}


def test_only_the_one_port_of_the_lab_is_reachable(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {"lab": ["8443:8443"]}


# -- examples ----------------------------------------------------------------------------------------------------------


def test_the_example_settings_are_settings(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "examples" / "lab.toml", tmp_path / "lab.toml")
    settings = read_settings(tmp_path)
    assert settings.database.url_file == "/etc/concordat/lab/database.url"
    shutil.copy(DEPLOY / "examples" / "policy.toml", tmp_path / "policy.toml")
    policy = read_policy(tmp_path)
    assert policy.approval is Approval.PERSON
    assert not policy.allow_outputs


def test_the_example_recipe_is_within_the_example_contract_and_the_example_policy(tmp_path: Path) -> None:
    draft = read_draft(DEPLOY / "examples" / "contract.toml")
    assert draft.valid_from < date(2027, 1, 1) < draft.valid_until
    roles = {"bank": Role.LABEL_OWNER, "bureau": Role.PROVIDER, COORDINATOR: Role.COORDINATOR}
    members = tuple(Member(name, role.value, f"{number:064x}") for number, (name, role) in enumerate(roles.items(), 1))
    contract = Contract("example", members, draft.purpose, Caps(**draft.caps), draft.outputs, 0, 2**31)
    recipe = load_recipe((DEPLOY / "examples" / "recipe.toml").read_text(encoding="utf-8"))
    check_recipe(recipe, contract)
    shutil.copy(DEPLOY / "examples" / "policy.toml", tmp_path / "policy.toml")
    policy = read_policy(tmp_path)
    assert recipe.keys.bits >= policy.least_key_bits
    assert recipe.contract.minimum_intersection >= policy.least_intersection


def test_the_example_contract_has_the_keys_of_the_printed_one() -> None:
    ours = tomllib.loads((DEPLOY / "examples" / "contract.toml").read_text(encoding="utf-8"))
    assert set(ours) == set(tomllib.loads(EXAMPLE))


# -- PostgreSQL --------------------------------------------------------------------------------------------------------

PASSWORD = "a password of this test"


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    """A server of our own: roles belong to a whole server."""
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="module")
def prepared(database: Server) -> Server:
    """With the SQL of deploy/ applied by psql, as the runbook says."""
    database.run("CREATE SCHEMA risk", "CREATE TABLE risk.loans (id TEXT, y INTEGER, term INTEGER, remarks TEXT)")
    psql(database, "lab.sql")
    psql(database, "agent.sql", name="bank")
    psql(database, "source.sql", schema="risk", table="loans", columns="id, y, term")
    roles = ("concordat_lab_owner", "concordat_lab", "concordat_backup", "concordat_agent_bank", "concordat_reader")
    database.run(*(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'" for role in roles))
    return database


def psql(server: Server, script: str, **variables: str) -> None:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"))
    program = str(programs[-1]) if programs else shutil.which("psql")
    if program is None:
        pytest.skip("psql is not installed")
    given = [part for name, value in variables.items() for part in ("-v", f"{name}={value}")]
    done = run(
        *(program, "-X", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(server.port), "-U", server.user),
        *("-d", server.database, *given, "-f", str(DEPLOY / "postgresql" / script)),
        environment={"PGPASSWORD": server.password},
    )
    assert done.returncode == 0, done.stderr


def url(server: Server, role: str, name: str = "") -> str:
    return f"postgresql+psycopg://{role}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{server.port}/{name or role}"


def connect(server: Server, role: str, name: str, **more: str) -> psycopg.Connection:
    return psycopg.connect(
        host="127.0.0.1", port=server.port, user=role, password=PASSWORD, dbname=name, connect_timeout=5, **more
    )


@pytest.fixture(scope="module")
def lab_folder(prepared: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab whose tables its owner made."""
    folder = tmp_path_factory.mktemp("lab") / "lab"
    settings = LabSettings(
        name="lab", address=f"127.0.0.1:{free_port()}", database=DatabaseSettings(url_env="CONCORDAT_LAB_DATABASE")
    )
    owner = {"CONCORDAT_LAB_DATABASE": url(prepared, "concordat_lab_owner", "concordat_lab")}
    Lab.create(folder, settings, Clock(), owner).close()
    return folder


@pytest.mark.process
def test_a_lab_works_as_a_role_that_cannot_change_its_tables(
    prepared: Server, lab_folder: Path, tmp_path: Path
) -> None:
    clock, port = Clock(), int(read_settings(lab_folder).address.rpartition(":")[2])
    lab = Lab.load(lab_folder, clock, {"CONCORDAT_LAB_DATABASE": url(prepared, "concordat_lab")})
    server = LabServer(lab, keeper_interval_s=0.05)
    server.start("127.0.0.1", port)
    running = RunningLab(tmp_path, lab, server, port, clock)
    try:
        for name in ("bank", "bureau"):
            running.enrol(name)
        contract = running.contract()
        running.agree(contract)
        submitted = running.client("bank").submit(running.job(contract, "job-1").encode().decode())
        assert submitted["job"] == "job-1"
        lab.registry.forget_nonces()
        lab.registry.revoke("bureau")
    finally:
        running.close()
    with connect(prepared, "concordat_lab", "concordat_lab") as connection:
        for statement in ("CREATE TABLE public.mine (x INTEGER)", "DROP TABLE jobs", "ALTER TABLE jobs ADD x INTEGER"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
            connection.rollback()


@pytest.mark.process
def test_the_backup_role_reads_the_labs_tables_and_writes_none(prepared: Server, lab_folder: Path) -> None:
    assert lab_folder.exists()
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))
    if not programs:
        pytest.skip("pg_dump is not installed")
    dumped = run(
        *(str(programs[-1]), "--format=plain", "-h", "127.0.0.1", "-p", str(prepared.port)),
        *("-U", "concordat_backup", "-d", "concordat_lab"),
        environment={"PGPASSWORD": PASSWORD},
    )
    assert dumped.returncode == 0, dumped.stderr
    assert "CREATE TABLE public.institutions" in dumped.stdout
    refused = pytest.raises(psycopg.errors.InsufficientPrivilege)
    with connect(prepared, "concordat_backup", "concordat_lab") as connection, refused:
        connection.execute("DELETE FROM nonces")


@pytest.mark.process
def test_an_agent_keeps_its_database_where_no_other_role_comes(prepared: Server, tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('name = "bank"\n[database]\nurl_env = "BANK_DATABASE"\n', encoding="utf-8")
    open_store(tmp_path, {"BANK_DATABASE": url(prepared, "concordat_agent_bank")}).dispose()
    with connect(prepared, "concordat_agent_bank", "concordat_agent_bank") as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert {"peers", "data_sources"} <= {name for (name,) in found}
    for role in ("concordat_lab", "concordat_reader"):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            connect(prepared, role, "concordat_agent_bank")


@pytest.mark.process
def test_the_reader_reads_the_columns_it_was_given_and_writes_nothing(prepared: Server) -> None:
    with connect(prepared, "concordat_reader", prepared.database) as connection:
        assert connection.execute("SELECT id, y, term FROM risk.loans").fetchall() == []
        for statement in (
            "SELECT remarks FROM risk.loans",
            "DELETE FROM risk.loans",
            "CREATE TABLE risk.x (i INTEGER)",
        ):
            connection.rollback()
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
                connection.execute(statement.encode())


@pytest.mark.process
def test_the_server_accepts_the_settings_and_lets_in_only_whom_they_name(
    prepared: Server, lab_folder: Path, tmp_path: Path
) -> None:
    with psycopg.connect(
        host="127.0.0.1", port=prepared.port, user=prepared.user, password=prepared.password,
        dbname=prepared.database, autocommit=True,
    ) as administrator:  # fmt: skip
        (data,) = administrator.execute("SHOW data_directory").fetchone() or ("",)
        folder = Path(data)
        account = folder.stat()
        for name in ("relay.pem", "relay.key"):
            copied = Path(shutil.copy(lab_folder / name, folder / name))
            os.chown(copied, account.st_uid, account.st_gid)
            copied.chmod(0o600)
        settings = (DEPLOY / "postgresql" / "postgresql.conf").read_text(encoding="utf-8")
        with (folder / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(f"\n{settings}\nssl_cert_file = 'relay.pem'\nssl_key_file = 'relay.key'\n")
        ours = (DEPLOY / "postgresql" / "pg_hba.conf").read_text(encoding="utf-8")
        (folder / "pg_hba.conf").write_text(f"host all {prepared.user} 127.0.0.1/32 scram-sha-256\n{ours}")
        program = str(sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))[-1])
        owner = {"user": account.st_uid} if os.geteuid() == 0 else {}
        for key, value in {"archive_mode": "on", "log_parameter_max_length_on_error": "0", "ssl": "on"}.items():
            told = subprocess.run(
                [program, "-C", key, "-D", data], capture_output=True, text=True, check=False, cwd="/", **owner
            )
            assert (told.returncode, told.stdout.strip()) == (0, value), told.stderr
        administrator.execute("SELECT pg_reload_conf()")
        for _ in range(50):
            if (administrator.execute("SHOW ssl").fetchone() or ("",))[0] == "on":
                break
            administrator.execute("SELECT pg_sleep(0.1)")
        wrong = administrator.execute("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL")
        assert wrong.fetchall() == []
    allowed = ("concordat_lab", "concordat_lab_owner", "concordat_backup")
    for role in allowed:
        connect(prepared, role, "concordat_lab", sslmode="require").close()
    connect(prepared, "concordat_agent_bank", "concordat_agent_bank", sslmode="require").close()
    connect(prepared, "concordat_reader", "warehouse", sslmode="require").close()
    for role, name, mode in (
        ("concordat_lab", "concordat_lab", "disable"),
        ("concordat_reader", "concordat_lab", "require"),
        ("concordat_agent_bank", "warehouse", "require"),
        ("concordat_lab", "postgres", "require"),
    ):
        with pytest.raises(psycopg.OperationalError, match="rejects connection"):
            connect(prepared, role, name, sslmode=mode)


# -- health, scripts, backup -------------------------------------------------------------------------------------------


@pytest.mark.process
def test_the_health_check_believes_the_labs_own_authority_only(tmp_path: Path) -> None:
    with running_lab(tmp_path / "one", names=()) as lab:
        done = run(sys.executable, str(DEPLOY / "health.py"), str(tmp_path / "one" / "lab"), str(lab.port))
        assert (done.returncode, done.stdout) == (0, "ok\n")
        Lab.create(tmp_path / "other", LabSettings(name="other", address="127.0.0.1:1"), Clock()).close()
        assert health(tmp_path / "other", lab.port) == "SSLCertVerificationError"
        port = lab.port
    assert health(tmp_path / "one" / "lab", port) == "ConnectionRefusedError"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_well_formed_and_explains_its_arguments(script: Path) -> None:
    assert run("sh", "-n", str(script)).returncode == 0
    bare = run("sh", str(script))
    assert bare.returncode == 2
    assert bare.stderr.startswith(f"usage: {script.name} ")


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What wheelhouse.sh makes here, and the hash that it prints."""
    folder = tmp_path_factory.mktemp("wheels") / "wheelhouse"
    done = run("sh", str(DEPLOY / "wheelhouse.sh"), str(folder), sys.executable)
    if done.returncode and re.search(r"No matching distribution|Connection|Retry", done.stderr):
        pytest.skip("the package index cannot be reached, or lacks a package")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.splitlines()[-1].split()[0]


@pytest.mark.process
def test_an_installation_without_a_network_starts_and_makes_a_lab(wheelhouse: tuple[Path, str], tmp_path: Path) -> None:
    folder, digest = wheelhouse
    prefix = tmp_path / "concordat"
    done = install(folder, digest, prefix)
    assert done.returncode == 0, done.stderr
    made = run(str(prefix / "bin" / "concordat"), "init", "--folder", str(tmp_path / "lab"), "--address", "a.example:1")
    assert made.returncode == 0, made.stderr
    drivers = "import pymysql, psycopg, coordinator; print(coordinator.__file__)"
    imported = run(str(prefix / "bin" / "python"), "-I", "-c", drivers)
    assert imported.stdout.startswith(str(prefix)), imported.stderr


@pytest.mark.process
def test_nothing_is_installed_from_a_wheelhouse_that_was_tampered_with(
    wheelhouse: tuple[Path, str], tmp_path: Path
) -> None:
    folder, digest = wheelhouse
    prefix = tmp_path / "concordat"
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        os.link(path, copy / path.name)
    assert digest == hashlib.sha256((copy / "SHA256SUMS").read_bytes()).hexdigest()

    assert "is not the one with this hash" in install(copy, "0" * 64, prefix).stderr
    added = copy / "extra-1.0-py3-none-any.whl"
    added.write_bytes(b"")
    assert "that SHA256SUMS does not list" in install(copy, digest, prefix).stderr
    added.unlink()
    wheel = next(copy.glob("concordat-*.whl"))
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    wheel.unlink()
    wheel.write_bytes(data)
    assert "missing or altered" in install(copy, digest, prefix).stderr
    wheel.unlink()
    assert "missing or altered" in install(copy, digest, prefix).stderr
    assert not prefix.exists()


def install(folder: Path, digest: str, prefix: Path) -> subprocess.CompletedProcess[str]:
    # Compiled files would take longer than all the rest.
    quick = {"PIP_NO_COMPILE": "1"}
    return run("sh", str(folder / "install-offline.sh"), digest, str(prefix), sys.executable, environment=quick)


@pytest.mark.process
def test_a_lab_that_was_backed_up_as_the_runbook_says_knows_its_members_again(tmp_path: Path) -> None:
    archive = str(tmp_path / "lab.tar")
    with running_lab(tmp_path, names=("bank",)) as lab:
        port = lab.port
    assert run("tar", "--create", "--file", archive, "--directory", str(tmp_path), "lab").returncode == 0
    shutil.rmtree(tmp_path / "lab")
    assert run("tar", "--extract", "--file", archive, "--directory", str(tmp_path)).returncode == 0
    restored = Lab.load(tmp_path / "lab", Clock())
    server = LabServer(restored)
    server.start("127.0.0.1", port)
    running = RunningLab(tmp_path, restored, server, port, Clock())
    try:
        assert [member["name"] for member in running.client("bank").members()["members"]] == ["bank"]
    finally:
        running.close()


def run(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler: the C modules are not built")
def test_where_there_is_a_compiler_the_c_modules_were_built() -> None:
    """They are optional to the installation, so that nothing else would notice; their own tests would be skipped."""
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        pytest.skip("no headers of Python: the C modules are not built")
    for name in ("protocols._ifma", "protocols._oprf"):
        assert importlib.util.find_spec(name) is not None, f"{name} is missing: install again with the compiler"
