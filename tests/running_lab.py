"""A lab on loopback for tests: its folder, its server, institutions that have joined, contracts between them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinator.lab import Lab, LabSettings
from coordinator.server import LabServer
from party_agent.enrolment import create_institution, join, lab_client
from party_agent.rest_client import RestClient
from party_agent.transport import load_identity
from protocols.contract import Caps, Contract, JobDocument, JobKind, Member, SignedContract, SignedJob
from protocols.recipe import Recipe
from protocols.roles import COORDINATOR, Role

NAMES = ("bank", "bureau")


@dataclass
class Clock:
    """Real time, moved by `ahead` seconds."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass
class RunningLab:
    """A lab that listens. `folder` of an institution: `self.root / name`."""

    root: Path
    lab: Lab
    server: LabServer
    port: int
    clock: Clock
    clients: list[RestClient] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def enrol(self, name: str) -> Path:
        folder = self.root / name
        create_institution(folder, name)
        join(folder, self.lab.invite(name))
        return folder

    def client(self, name: str) -> RestClient:
        client = lab_client(self.root / name)
        self.clients.append(client)
        return client

    def identity(self, name: str) -> str:
        if name == COORDINATOR:
            return self.lab.identity_hex
        return load_identity(self.root / name / "identity.pem").public_key().public_bytes_raw().hex()

    def contract(self, contract_id: str = "contract-1", names: Sequence[str] = NAMES) -> Contract:
        roles = (Role.LABEL_OWNER, *[Role.PROVIDER] * (len(names) - 1), Role.COORDINATOR)
        now = int(self.clock())
        return Contract(
            contract_id=contract_id,
            members=tuple(
                Member(name, role.value, self.identity(name))
                for name, role in zip((*names, COORDINATOR), roles, strict=True)
            ),
            purpose="a test",
            caps=Caps(),
            outputs=(),
            valid_from=now - 60,
            valid_until=now + 86_400,
        )

    def signature(self, contract: Contract, name: str) -> str:
        return contract.sign(load_identity(self.root / name / "identity.pem"))

    def agree(self, contract: Contract) -> str:
        """Have every party sign through the API; the contract's hash."""
        names = contract.parties.all
        proposed = self.client(names[0]).propose(SignedContract(contract, ()).encode().decode())
        for name in names:
            self.client(name).sign_contract(proposed["hash"], self.signature(contract, name))
        return str(proposed["hash"])

    def job(self, contract: Contract, job: str, attempt: int = 1, kind: JobKind = JobKind.SCORE) -> SignedJob:
        now = int(self.clock())
        document = JobDocument(
            contract_hash=contract.hash().hex(),
            job=job,
            kind=kind,
            recipe=Recipe().canonical().decode(),
            nonce=os.urandom(16).hex(),
            issued=now,
            expires=now + 3600,
            attempt=attempt,
            model="train-0" if kind is JobKind.SCORE else "",
        )
        return document.sign(load_identity(self.root / contract.parties.label_owner / "identity.pem"))

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.close()
        self.lab.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running_lab(
    root: Path, settings: dict[str, object] | None = None, names: Sequence[str] = NAMES
) -> Iterator[RunningLab]:
    """A lab in `root / "lab"` with institutions that have joined."""
    clock, port = Clock(), free_port()
    lab = Lab.create(root / "lab", LabSettings(name="test", address=f"127.0.0.1:{port}", **(settings or {})), clock)
    server = LabServer(lab, keeper_interval_s=0.05)
    server.start("127.0.0.1", port)
    found = RunningLab(root, lab, server, port, clock)
    try:
        for name in names:
            found.enrol(name)
        yield found
    finally:
        found.close()


class Postgres:
    """A PostgreSQL server of our own, that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        if not programs or not shutil.which("runuser"):
            pytest.skip("PostgreSQL is not installed")
        self._bin = programs[0]
        self._data = folder / "data"
        self.port = free_port()
        folder.chmod(0o777)
        for parent in folder.parents:
            if parent.stat().st_uid == os.getuid() and parent != Path("/tmp") and parent != Path("/"):  # noqa: S108
                parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-D", str(self._data), "-U", "lab", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://lab@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._data / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
