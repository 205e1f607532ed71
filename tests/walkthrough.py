"""A lab and three institutions, from nothing to a joint scorecard and scores: `make walkthrough`.

Four folders, a process for each daemon, PostgreSQL for the lab; the bank's data in PostgreSQL, the bureau's in MariaDB,
the tax office's in a Parquet file. Only documented commands; each is shown before it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from tests.party_agent.servers import Server, mariadb_server, postgresql_server
from tests.small_consortium import Row, SmallConsortium

INSTITUTIONS = ("bank", "bureau", "tax")
_MODULES = {"concordat": "coordinator", "concordat-party": "party_agent"}
_WAIT_S = 180

Say = Callable[[str], None]


@dataclass
class Walkthrough:
    """The folders, the environment of each role, and the daemons that run."""

    root: Path
    say: Say
    environment: dict[str, dict[str, str]] = field(default_factory=dict)
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def folder(self, name: str) -> Path:
        """The lab's or an institution's folder."""
        return self.root / name

    def run(self, role: str, program: str, *arguments: str) -> dict[str, Any]:
        """One documented command with --json; what it answers.

        Raises: RuntimeError: it ended with an error.
        """
        self.say(f"{role:>7} $ {program} {shlex.join(arguments)}")
        done = subprocess.run(
            [sys.executable, "-m", _MODULES[program], *arguments, "--json"],
            env=os.environ | self.environment.get(role, {}),
            capture_output=True,
            text=True,
            timeout=_WAIT_S,
            check=False,
        )
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            answer = {}
        if done.returncode or not answer:
            raise RuntimeError(f"{role}: {program} {arguments[0]} failed: {done.stdout}{done.stderr}")
        return answer

    def start(self, role: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A daemon, which ends with the walkthrough."""
        self.say(f"{role:>7} $ {program} {shlex.join(arguments)} &")
        log = (self.root / f"{role}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULES[program], *arguments],
            env=os.environ | self.environment.get(role, {}),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        log.close()
        self.daemons.append(process)
        return process

    def stop(self) -> None:
        """End every daemon in order."""
        for process in reversed(self.daemons):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.daemons:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextlib.contextmanager
def prepared(root: Path, port: int, say: Say) -> Iterator[Walkthrough]:
    """Servers with the institutions' data, an enrolled and verified lab, every daemon running."""
    consortium = SmallConsortium(root / "data", providers=2)
    with contextlib.ExitStack() as stack:
        postgresql = stack.enter_context(postgresql_server())
        mariadb = stack.enter_context(mariadb_server())
        walk = Walkthrough(root, say)
        stack.callback(walk.stop)
        walk.environment["lab"] = {
            "LAB_DATABASE_URL": postgresql.url.replace("@", f":{postgresql.password}@").replace(
                "postgresql://", "postgresql+psycopg://"
            )
        }
        walk.environment["bank"] = {"BANK_DB_PASSWORD": postgresql.password}
        walk.environment["bureau"] = {"BUREAU_DB_PASSWORD": mariadb.password}
        _load(postgresql, "loans", consortium.read("bank"))
        _load(mariadb, "history", consortium.read("bureau"))
        parquet = root / "data" / "returns.parquet"
        duckdb.sql(f"COPY (SELECT * FROM read_csv('{consortium.file('tax')}')) TO '{parquet}' (FORMAT parquet)")  # noqa: S608
        _enrol(walk, port)
        _bring_data(walk, postgresql, mariadb, parquet, consortium)
        yield walk


def _enrol(walk: Walkthrough, port: int) -> None:
    """The lab, its members, and a telephone call between each two of them."""
    lab, address = str(walk.folder("lab")), f"127.0.0.1:{port}"
    walk.run("lab", "concordat", "init", "--folder", lab, "--address", address, "--database-env", "LAB_DATABASE_URL")
    walk.start("lab", "concordat", "serve", "--folder", lab, "--port", str(port))
    words = {}
    for name in INSTITUTIONS:
        own = str(walk.folder(name))
        words[name] = walk.run(name, "concordat-party", "init", "--folder", own, "--name", name)["words"]
        token = walk.run("lab", "concordat", "invite", name, "--folder", lab)["token"]
        _patiently(walk, name, "concordat-party", "join", token, "--folder", own)
    for name in INSTITUTIONS:
        own = str(walk.folder(name))
        walk.run(name, "concordat-party", "peers", "--folder", own)
        for other in INSTITUTIONS:
            if other != name:
                spoken = words[other]  # read over the telephone
                walk.run(name, "concordat-party", "peers", "verify", other, "--words", spoken, "--folder", own)


def _patiently(walk: Walkthrough, role: str, program: str, *arguments: str) -> dict[str, Any]:
    """A command that needs a daemon which may still be starting."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return walk.run(role, program, *arguments)
        except RuntimeError as error:
            if "LAB_UNREACHABLE" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _bring_data(
    walk: Walkthrough, postgresql: Server, mariadb: Server, parquet: Path, consortium: SmallConsortium
) -> None:
    """Each institution registers its data set and publishes its metadata, then runs its agent."""
    sources = {
        "bank": ["loans", "--from", postgresql.url, "--table", "loans", "--secret", "env:BANK_DB_PASSWORD",
                 "--id", "id", "--label", "y"],
        "bureau": ["history", "--from", mariadb.url, "--table", "history", "--secret", "env:BUREAU_DB_PASSWORD",
                   "--id", "id"],
        "tax": ["returns", "--from", str(parquet), "--id", "id"],
    }  # fmt: skip
    for name, arguments in sources.items():
        own = str(walk.folder(name))
        walk.run(name, "concordat-party", "data", "add", *arguments, "--folder", own)
        walk.run(name, "concordat-party", "data", "check", arguments[0], "--folder", own)
        walk.run(name, "concordat-party", "data", "publish", arguments[0], "--folder", own)
        approval = "person" if name == "bank" else "automatic"
        text = f'approval = "{approval}"\n' + ("split_seed = 7  # a trial\n" if name == "bank" else "")
        (walk.folder(name) / "policy.toml").write_text(text, encoding="utf-8")
        walk.start(name, "concordat-party", "serve", "--folder", own)
    features = {name: [key for key in consortium.read(name)[0] if key not in ("id", "y")] for name in INSTITUTIONS}
    (walk.root / "contract.toml").write_text(_draft(features), encoding="utf-8")
    (walk.root / "recipe.toml").write_text("[keys]\nbits = 2048\n", encoding="utf-8")


def agree(walk: Walkthrough) -> str:
    """The bank proposes a contract, all sign it; its hash."""
    bank = str(walk.folder("bank"))
    draft = str(walk.root / "contract.toml")
    digest = str(walk.run("bank", "concordat-party", "contract", "propose", draft, "--folder", bank)["hash"])
    for name in INSTITUTIONS[1:]:
        own = str(walk.folder(name))
        walk.run(name, "concordat-party", "contract", "list", "--folder", own)
        walk.run(name, "concordat-party", "contract", "explain", digest[:12], "--folder", own)
        walk.run(name, "concordat-party", "contract", "sign", digest[:12], "--folder", own)
    for name in INSTITUTIONS:
        walk.run(name, "concordat-party", "contract", "list", "--folder", str(walk.folder(name)))
    return digest


def train(walk: Walkthrough, digest: str) -> str:
    """The bank asks for a joint scorecard under the contract; the job's name."""
    bank = str(walk.folder("bank"))
    recipe = str(walk.root / "recipe.toml")
    answer = walk.run("bank", "concordat-party", "jobs", "request", digest[:12], "--recipe", recipe, "--folder", bank)
    return approve(walk, str(answer["job"]))


def score(walk: Walkthrough, digest: str, model: str, ids: Path) -> str:
    """The bank asks for scores of the ids in a file, with the model of a job; the job's name."""
    bank = str(walk.folder("bank"))
    asked = ["--kind", "score", "--model", model, "--ids", str(ids)]
    answer = walk.run("bank", "concordat-party", "jobs", "request", digest[:12], *asked, "--folder", bank)
    return approve(walk, str(answer["job"]))


def approve(walk: Walkthrough, job: str) -> str:
    """The bank approves a job at its own agent, and waits for its end; its name."""
    bank = str(walk.folder("bank"))
    _until(lambda: any(entry["job"] == job for entry in jobs(walk, "bank")), 30)
    walk.run("bank", "concordat-party", "jobs", "approve", job, "--folder", bank)
    walk.run("bank", "concordat-party", "jobs", "status", job, "--wait-s", str(_WAIT_S - 20), "--folder", bank)
    _until(lambda: all(entry["state"] == "finished" for entry in jobs(walk, "bank") if entry["job"] == job), 30)
    return job


def jobs(walk: Walkthrough, name: str) -> list[dict[str, Any]]:
    """The jobs at an agent."""
    own = str(walk.folder(name))
    entries: list[dict[str, Any]] = walk.run(name, "concordat-party", "jobs", "list", "--folder", own)["jobs"]
    return entries


def _until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError("waited too long")
        time.sleep(0.5)


def _draft(features: dict[str, Sequence[str]]) -> str:
    names = {"bank": "loans", "bureau": "history", "tax": "returns"}
    lines = [
        'id = "walkthrough"',
        'purpose = "A trial of a joint scorecard."',
        'label_owner = "bank"',
        'providers = ["bureau", "tax"]',
        "valid_from = 2020-01-01",
        "valid_until = 2099-01-01",
        'outputs = ["scorecard"]',
        "[caps]",
        "minimum_intersection = 500",
        "maximum_set_size = 10000000",
        "minimum_key_bits = 2048",
    ]
    for party, dataset in names.items():
        lines += [f"[datasets.{party}]", f'name = "{dataset}"', 'id = "id"']
        lines += ['label = "y"'] if party == "bank" else []
        lines.append(f"features = {json.dumps(list(features[party]), ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _load(server: Server, table: str, rows: Sequence[Row]) -> None:
    """A party's rows as a table: numbers as doubles, all else as text."""
    quote = '"' if server.scheme == "postgresql" else "`"
    columns = list(rows[0])
    types = {column: "TEXT" if any(not _is_number(row[column]) for row in rows) else "DOUBLE PRECISION"
             for column in columns}  # fmt: skip
    types["id"] = "VARCHAR(64)"
    fields = ", ".join(f"{quote}{column}{quote} {types[column]}" for column in columns)
    server.run(f"CREATE TABLE {table} ({fields})")
    for first in range(0, len(rows), 500):
        values = ", ".join(
            "(" + ", ".join(_literal(row[column], types[column]) for column in columns) + ")"
            for row in rows[first : first + 500]
        )
        server.run(f"INSERT INTO {table} VALUES {values}")  # noqa: S608


def _literal(cell: str, kind: str) -> str:
    if not cell:
        return "NULL"
    return cell if kind == "DOUBLE PRECISION" else "'" + cell.replace("'", "''") + "'"


def _is_number(cell: str) -> bool:
    try:
        float(cell or "0")
    except ValueError:
        return False
    return True


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Walk through, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, prepared(Path(folder), 8443, _print) as walk:
        digest = agree(walk)
        job = train(walk, digest)
        report = json.loads((walk.folder("tax") / "jobs" / job / "shared.json").read_bytes())
        figures = report["metrics"]["test"]
        _print(f"\nJoint scorecard: AUC {figures['auc']}, KS {figures['ks']} on the test rows.")
        scores = (walk.folder("bank") / "jobs" / job / "scores.csv").read_text(encoding="utf-8").splitlines()
        ids = walk.root / "applicants.csv"
        ids.write_text("\n".join(line.partition(",")[0] for line in scores[:101]) + "\n", encoding="utf-8")
        scoring = score(walk, digest, job, ids)
        scored = (walk.folder("bank") / "jobs" / scoring / "scored.csv").read_text(encoding="utf-8").splitlines()
        _print(f"\nScored by the joint scorecard: {len(scored) - 1} customers, at the bank only.")
        for name in INSTITUTIONS:
            walk.run(name, "concordat-party", "audit", "verify", "--folder", str(walk.folder(name)))


if __name__ == "__main__":
    main()
