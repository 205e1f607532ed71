"""A lab of two institutions whose agents run, and a Flower federation beside it: SuperLink, gate, two SuperNodes.

TLS and node authentication are on. When root runs the tests, the SuperLink and the SuperNodes are other users.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import coordinator.__main__
import party_agent.__main__
from tests.small_consortium import SmallConsortium
from tests.walkthrough import Walkthrough

collect_ignore = ["hostile_client_app.py", "hostile_server_app.py"]  # apps, not tests; they need flwr
NAMES = ("bank", "bureau")
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = dict(
    line.split("=", 1)
    for line in (ROOT / "docs" / "flower.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("FLWR_")
)
NODE_USER, LINK_USER = "nobody", "daemon"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(holds: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `holds` answers once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.3)
    return found


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Commands(Walkthrough):
    """Documented commands in this process, which spares each of them the start of an interpreter."""

    def run(self, role: str, program: str, *arguments: str) -> dict[str, Any]:
        module = coordinator.__main__ if program == "concordat" else party_agent.__main__
        return json.loads(invoked(module.app, *arguments, "--json"))


def invoked(app: Any, *arguments: str) -> str:
    """What a command prints.

    Raises: RuntimeError: it ended with an error.
    """
    done = CliRunner().invoke(app, list(arguments))
    if done.exit_code:
        raise RuntimeError(f"{arguments[0]}: {done.output}") from done.exception
    return str(done.stdout)


@dataclass
class Federation:
    """The folders of the lab and its institutions are in `walk`; the launchers' beside them."""

    walk: Walkthrough
    consortium: SmallConsortium
    link_port: int
    gate_port: int
    users: bool
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.walk.root

    def launcher(self, name: str) -> Path:
        return self.root / f"launcher-{name}"

    def start(self, name: str, user: str, home: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """A program of Flower's as `user`, which ends with the federation, and with it what it started."""
        account = pwd.getpwnam(user)
        who: dict[str, Any] = {"user": user, "group": account.pw_gid, "extra_groups": []} if self.users else {}
        environment = {
            "PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(home), "FLWR_HOME": str(home), "PYTHONUNBUFFERED": "1",
        } | ENVIRONMENT  # fmt: skip
        with (self.root / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env=environment,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **who,
            )
        self.programs.append(process)
        return process

    def flwr(self, *arguments: str) -> str:
        """One command of the operator's, at the SuperLink itself."""
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            env=os.environ | ENVIRONMENT | {"FLWR_HOME": str(self.root / "operator")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.root,
        )
        if done.returncode:
            raise RuntimeError(f"flwr {arguments[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def run(self, app: Path, settings: Path) -> str:
        """Submit a run; its number."""
        answer = json.loads(self.flwr("run", str(app), "lab", "--run-config", str(settings), "--format", "json"))
        return str(answer["run-id"])

    def rounds(self, run: str, seconds: float) -> list[dict[str, Any]]:
        """What a run's ServerApp printed, once the run has ended well."""

        ended = re.compile(rf"(Finished|Failed|Stopped) task \d+ of run {run}")
        until(lambda: ended.search(self.log("superlink")), seconds, "a run of Flower")
        text = self.flwr("log", run, "lab", "--show")
        found = [json.loads(line) for line in text.splitlines() if line.startswith('{"round"')]
        if not found:
            raise RuntimeError(f"the run told nothing:\n{text}")
        return found

    def log(self, program: str) -> str:
        """What a program of Flower's has logged."""
        return (self.root / f"{program}.log").read_text(encoding="utf-8")

    def stop(self) -> None:
        for process in reversed(self.programs):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.programs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):  # what is left of its session
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.fixture(scope="session")
def federation() -> Iterator[Federation]:
    """Lab, agents, SuperLink, gate and SuperNodes; everything has ended when the tests have."""
    users = os.getuid() == 0
    if users and subprocess.run([sys.executable, "-c", "import flwr"], user=NODE_USER, cwd="/", check=False).returncode:
        pytest.skip(f"{NODE_USER} cannot run {sys.executable}: make .venv-extras with an interpreter of the system")
    root = Path(tempfile.mkdtemp(prefix="concordat-flower-"))
    root.chmod(0o755)  # the way to the agents' folders is open, so that only their own rights protect them
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        walk = Commands(root, lambda _: None)
        coordinator.__main__.mount_commands()
        party_agent.__main__.mount_commands()
        stack.callback(walk.stop)
        found = Federation(walk, SmallConsortium(root / "data", providers=1), free_port(), free_port(), users)
        stack.callback(found.stop)
        (root / "data").chmod(0o700)
        _institutions(found)
        _flower(found)
        yield found


def _institutions(found: Federation) -> None:
    """The lab, its members, their data, their agents with an open loopback port, and a contract in force."""
    walk, port = found.walk, free_port()
    lab = str(walk.folder("lab"))
    walk.run("lab", "concordat", "init", "--folder", lab, "--address", f"127.0.0.1:{port}")
    walk.start("lab", "concordat", "serve", "--folder", lab, "--port", str(port))
    until(lambda: listens(port), 30, "the lab")
    words = {}
    for name in NAMES:
        own = str(walk.folder(name))
        words[name] = walk.run(name, "concordat-party", "init", "--folder", own, "--name", name)["words"]
        token = walk.run("lab", "concordat", "invite", name, "--folder", lab)["token"]
        walk.run(name, "concordat-party", "join", token, "--folder", own)
    features = {}
    for name, other in zip(NAMES, reversed(NAMES), strict=True):
        own = str(walk.folder(name))
        walk.run(name, "concordat-party", "peers", "--folder", own)
        walk.run(name, "concordat-party", "peers", "verify", other, "--words", words[other], "--folder", own)
        label = ["--label", "y"] if name == "bank" else []
        source = ["rows", "--from", str(found.consortium.file(name)), "--id", "id", *label]
        walk.run(name, "concordat-party", "data", "add", *source, "--folder", own)
        seed = "split_seed = 7\n" if name == "bank" else ""
        (walk.folder(name) / "policy.toml").write_text(f'approval = "automatic"\n{seed}', encoding="utf-8")
        launcher = ["--launcher", str(found.launcher(name)), *(["--user", NODE_USER] if found.users else [])]
        walk.run(name, "concordat-party", "flower", "prepare", *launcher, "--folder", own)
        features[name] = [key for key in found.consortium.read(name)[0] if key not in ("id", "y")]
        loopback = free_port()
        (found.root / f"{name}.port").write_text(str(loopback))
        walk.start(name, "concordat-party", "serve", "--folder", own, "--loopback-port", str(loopback))
    draft = found.root / "contract.toml"
    draft.write_text(_draft(features), encoding="utf-8")
    bank, bureau = (str(walk.folder(name)) for name in NAMES)
    digest = str(walk.run("bank", "concordat-party", "contract", "propose", str(draft), "--folder", bank)["hash"])
    walk.run("bureau", "concordat-party", "contract", "sign", digest[:12], "--folder", bureau)
    for name in NAMES:
        walk.run(name, "concordat-party", "contract", "list", "--folder", str(walk.folder(name)))
    (found.root / "contract.txt").write_text(digest)


def _draft(features: dict[str, list[str]]) -> str:
    lines = [
        'id = "flower"\npurpose = "A trial."\nlabel_owner = "bank"\nproviders = ["bureau"]',
        'valid_from = 2020-01-01\nvalid_until = 2099-01-01\noutputs = ["scorecard"]',
        "[caps]\nminimum_intersection = 500\nmaximum_set_size = 10000000\nminimum_key_bits = 2048",
    ]
    for name, columns in features.items():
        lines += [f'[datasets.{name}]\nname = "rows"\nid = "id"', *(['label = "y"'] if name == "bank" else [])]
        lines.append(f"features = {json.dumps(columns, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _flower(found: Federation) -> None:
    """By the commands of docs/flower.md."""
    root, link = found.root, found.root / "superlink"
    tool = [sys.executable, "-m", "coordinator.superlink"]
    subprocess.run([*tool, "certificate", "--folder", str(root / "lab"), "--out", str(link)], check=True, timeout=60)
    subprocess.run([*tool, "app", "--out", str(root / "app")], check=True, timeout=60)
    gate = ["--superlink", f"127.0.0.1:{found.link_port}", "--port", str(found.gate_port)]
    found.walk.daemons.append(subprocess.Popen([*tool, "gate", "--certificates", str(link), *gate]))
    operator = root / "operator"
    operator.mkdir()
    shutil.copy(link / "ca.pem", operator / "ca.pem")
    (operator / "config.toml").write_text(
        f'[superlink]\ndefault = "lab"\n[superlink.lab]\naddress = "127.0.0.1:{found.link_port}"\n'
        f'root-certificates = "{operator / "ca.pem"}"\n'
    )
    until(lambda: listens(found.gate_port), 30, "the gate")  # it has read its key, which is now the SuperLink's alone
    if found.users:
        for path in (*link.iterdir(), link):
            shutil.chown(path, LINK_USER)
    certificates = [
        *("--ssl-ca-certfile", str(link / "ca.pem"), "--ssl-certfile", str(link / "superlink.pem")),
        *("--ssl-keyfile", str(link / "superlink.key")),
    ]
    options = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    address = ["--host", "127.0.0.1", "--port", str(found.link_port)]
    found.start("superlink", LINK_USER, link, ["flower-superlink", *certificates, *options, *address])
    until(lambda: listens(found.link_port), 30, "the SuperLink")
    for name in NAMES:
        found.flwr("supernode", "register", str(found.launcher(name) / "supernode.pub"), "lab", "--format", "json")
    for name in NAMES:
        start_supernode(found, name, found.launcher(name))
    activated = '"POST /v1/fleet/activate-node HTTP/1.1" 200'
    until(lambda: found.log("superlink").count(activated) == len(NAMES), 90, "the SuperNodes")


def start_supernode(found: Federation, name: str, launcher: Path) -> subprocess.Popen[bytes]:
    """A SuperNode with the key, the token and the authority in `launcher`, through the gate."""
    port = found.root / f"{name}.port"
    settings = f'agent-port={port.read_text() if port.exists() else 1} agent-token="{launcher / "agent.token"}"'
    return found.start(
        f"supernode-{name}",
        NODE_USER,
        launcher / "flower",
        [
            *("flower-supernode", "--superlink", f"127.0.0.1:{found.gate_port}"),
            *("--root-certificates", str(launcher / "ca.pem"), "--port", str(free_port())),
            *("--auth-supernode-private-key", str(launcher / "supernode.key"), "--node-config", settings),
            *("--max-wait-time", "60"),
        ],
    )


def online(found: Federation) -> list[str]:
    """The SuperNodes that the SuperLink sees."""
    nodes = json.loads(found.flwr("supernode", "list", "lab", "--format", "json"))["nodes"]
    return [str(node["node-id"]) for node in nodes if node["status"] == "online"]
