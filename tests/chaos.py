"""kill -9 at every stage of every process of a lab with three institutions: `make chaos`.

A point is a process and a stage: the process is killed while the stage runs there, started again if it is a daemon, and
the job is resumed. It must end with the model of a job that nothing disturbed, or with one code at every agent, within
120 s of the kill; and leave no process, port, temporary file, checkpoint or key. Every point is also the proof that the
job after the one before succeeds.

Every job begins with the parties' accounts of its rows emptied: the sweep is about crashes, not about what the rows
have paid for. The data is in files, so that a point takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from coordinator.lab import Lab, LabSettings
from party_agent import agent_commands, data_commands
from party_agent.enrolment import create_institution, join, lab_client
from party_agent.peers import PeerBook
from protocols.roles import COORDINATOR
from tests.small_consortium import SmallConsortium, parsed

INSTITUTIONS = ("bank", "bureau", "tax")
DATASETS = {"bank": "loans", "bureau": "history", "tax": "returns"}
STAGES = ("align", "encrypt", "bin", "train", "validate")
PROCESSES = ("lab", *(f"{name} agent" for name in INSTITUTIONS), *(f"{name} job" for name in INSTITUTIONS))
END_WITHIN_S = 120.0
ENDED = ("finished", "failed", "refused")
KEYS = ("identity.pem", "checkpoint.key", "rows.key", "data_digest.key")  # what a party's folder holds beside tls/


@dataclass(frozen=True)
class Verdict:
    """What became of one point. code: 'OK', or the one of every agent; seconds: from the kill to the end."""

    process: str
    stage: str
    attempts: int
    code: str
    seconds: float


class BrokenPromiseError(Exception):
    """A promise was not kept."""


@dataclass
class ChaosLab:
    """A lab and its institutions as processes that can be killed. `folder(name)`: of an institution or of 'lab'."""

    root: Path
    port: int
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    digest: str = ""

    def folder(self, name: str) -> Path:
        return self.root / name

    def start(self, name: str) -> None:
        """Start, or start again, a daemon."""
        folder = str(self.folder(name))
        command = ["party_agent", "serve", "--folder", folder]
        if name == "lab":
            command = ["coordinator", "serve", "--folder", folder, "--port", str(self.port)]
        with (self.root / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def stop(self) -> None:
        """End every daemon in order, agents first."""
        for name in reversed(self.daemons):
            process = self.daemons[name]
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self.daemons.clear()

    def command(self, name: str, *arguments: str) -> dict[str, Any]:
        """A command of `concordat-party` in this process; what it answers with --json."""
        ran = CliRunner().invoke(agent_commands.app, [*arguments, "--folder", str(self.folder(name)), "--json"])
        return parsed(ran.stdout)

    def entry(self, name: str, job: str) -> dict[str, Any]:
        """The job's state at an agent, empty if it has none."""
        path = self.folder(name) / "jobs" / job / "state.json"
        return parsed(path.read_text(encoding="utf-8")) if path.exists() else {}

    def begun(self, name: str, job: str, stage: str) -> bool:
        """Whether an institution has begun a stage of a job."""
        path = self.folder(name) / "jobs" / job / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        events = [parsed(line) for line in lines]
        return any(event.get("event") == "stage begins" and event.get("stage") == stage for event in events)

    def ended(self, job: str, attempt: int) -> bool:
        """Whether an attempt is over at the lab and at every agent."""
        entries = [self.entry(name, job) for name in INSTITUTIONS]
        if not all(entry.get("attempt") == attempt and entry.get("state") in ENDED for entry in entries):
            return False
        told = self.command("bank", "jobs", "status", job)
        return told.get("state") == "ended" and told.get("attempt") == attempt

    def request(self) -> str:
        """Ask for a job with nothing spent on its rows; its name."""
        for name, account in product(INSTITUTIONS, ("label-account", "gradient-account", "row-set-account")):
            shutil.rmtree(self.folder(name) / account, ignore_errors=True)
        recipe = str(self.root / "recipe.toml")
        answer = self.command("bank", "jobs", "request", self.digest, "--recipe", recipe)
        if not answer.get("ok"):
            raise BrokenPromiseError(f"no job can be requested: {answer}")
        return str(answer["job"])

    def model(self, job: str) -> dict[str, Any]:
        """What a job found, of all parties."""
        return {
            name: json.loads((self.folder(name) / "jobs" / job / "model.json").read_bytes()) for name in INSTITUTIONS
        }


@contextlib.contextmanager
def chaos_lab(root: Path) -> Iterator[ChaosLab]:
    """A lab with three institutions that have agreed on a contract; all daemons run."""
    consortium = SmallConsortium(root / "data", providers=2)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    found = ChaosLab(root, port)
    settings = LabSettings(name="chaos", address=f"127.0.0.1:{port}")
    lab = Lab.create(found.folder("lab"), settings, time.time)
    try:
        found.start("lab")
        until(lambda: _listens(port), 30, "the lab does not listen")
        for name in INSTITUTIONS:
            create_institution(found.folder(name), name)
            join(found.folder(name), lab.invite(name))
        _agree(found, consortium)
        for name in INSTITUTIONS:
            found.start(name)
        yield found
    finally:
        lab.close()
        found.stop()


def _agree(lab: ChaosLab, consortium: SmallConsortium) -> None:
    """Compared identities, registered files, a contract signed by all."""
    for name in INSTITUTIONS:
        folder = lab.folder(name)
        with lab_client(folder) as client, PeerBook.open(folder) as peers:
            for peer in peers.refresh(client.members(), name):
                if peer.name != COORDINATOR:
                    peers.verify(peer.name, " ".join(peer.words))
        label = ["--label", "y"] if name == "bank" else []
        source = [DATASETS[name], "--from", str(consortium.file(name)), "--id", "id", *label, "--folder", str(folder)]
        added = CliRunner().invoke(data_commands.data_app(), ["add", *source])
        if added.exit_code:
            raise BrokenPromiseError(added.output)
        seed = "split_seed = 7\n" if name == "bank" else ""
        (folder / "policy.toml").write_text(f'approval = "automatic"\n{seed}', encoding="utf-8")
    draft, recipe = lab.root / "contract.toml", lab.root / "recipe.toml"
    draft.write_text(_draft(consortium), encoding="utf-8")
    recipe.write_text("[keys]\nbits = 2048\n", encoding="utf-8")
    lab.digest = str(lab.command("bank", "contract", "propose", str(draft))["hash"])
    for name in INSTITUTIONS[1:]:
        lab.command(name, "contract", "sign", lab.digest)
    for name in INSTITUTIONS:
        states = [row["state"] for row in lab.command(name, "contract", "list")["contracts"]]
        if states != ["active"]:
            raise BrokenPromiseError(f"the contract is {states} at {name}")


def _draft(consortium: SmallConsortium) -> str:
    lines = ['id = "chaos"', 'purpose = "A sweep."', 'label_owner = "bank"', 'providers = ["bureau", "tax"]']
    lines += ["valid_from = 2020-01-01", "valid_until = 2099-01-01", "[caps]", "minimum_key_bits = 2048", "runs = 1000"]
    lines += ["minimum_intersection = 500", "maximum_set_size = 10000000"]
    for name in INSTITUTIONS:
        features = [column for column in consortium.read(name)[0] if column not in ("id", "y")]
        lines += [f"[datasets.{name}]", f'name = "{DATASETS[name]}"', 'id = "id"']
        lines += ['label = "y"'] if name == "bank" else []
        lines.append(f"features = {json.dumps(features)}")
    return "\n".join(lines) + "\n"


def undisturbed(lab: ChaosLab) -> dict[str, Any]:
    """The model of a job that nothing disturbs."""
    job = lab.request()
    until(lambda: lab.ended(job, 1), END_WITHIN_S, "an undisturbed job does not end")
    if codes_of(lab, job) != {"OK"}:
        raise BrokenPromiseError(f"an undisturbed job ended with {codes_of(lab, job)}")
    check_clean(lab, job)
    return lab.model(job)


def at_point(lab: ChaosLab, process: str, stage: str, reference: dict[str, Any]) -> Verdict:
    """Kill `process` at `stage` of a new job, start it again, resume the job.

    Raises: BrokenPromiseError: another model, several codes, not in time, or something was left.
    """
    job = lab.request()
    watched = "bank" if process == "lab" else process.split()[0]
    until(
        lambda: lab.begun(watched, job, stage), END_WITHIN_S, f"the job before {process} at {stage} does not get there"
    )
    _kill(lab, process, job)
    begin = time.monotonic()
    attempt = 1
    until(lambda: lab.ended(job, attempt), END_WITHIN_S, f"{process} killed at {stage}: not ended everywhere")
    if codes_of(lab, job) != {"OK"}:  # a process may have been killed when its work was done
        if len(codes := codes_of(lab, job) - {"OK"}) != 1:
            raise BrokenPromiseError(f"{process} killed at {stage}: {codes}")
        attempt = 2
        answer = lab.command("bank", "jobs", "resume", job)
        if not answer.get("ok"):
            raise BrokenPromiseError(f"{process} killed at {stage}: cannot be resumed: {answer}")
        remaining = END_WITHIN_S - (time.monotonic() - begin)
        until(lambda: lab.ended(job, attempt), remaining, f"{process} killed at {stage}: the resumed job does not end")
    seconds = time.monotonic() - begin
    codes = codes_of(lab, job)
    if len(codes) != 1:
        raise BrokenPromiseError(f"{process} killed at {stage}: the agents have {sorted(codes)}")
    code = codes.pop()
    if code == "OK":
        check_same(lab.model(job), reference)
    check_clean(lab, job)
    return Verdict(process, stage, attempt, code, seconds)


def _kill(lab: ChaosLab, process: str, job: str) -> None:
    """SIGKILL; a daemon is started again at once."""
    name = process.split()[0]
    if process.endswith("job"):
        for number in job_processes(lab, job, name):
            os.kill(number, signal.SIGKILL)
        return
    daemon = lab.daemons[name]
    daemon.kill()
    daemon.wait(10)
    lab.start(name)


def codes_of(lab: ChaosLab, job: str) -> set[str]:
    """How the job ended at the agents."""
    return {str(lab.entry(name, job).get("code") or "OK") for name in INSTITUTIONS}


def check_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Rows, bins, WOE, IV and features exactly; coefficients to 1e-4; points but for ties.

    Raises: BrokenPromiseError.
    """
    for name in INSTITUTIONS:
        by_name = {item["binning"]["feature"]: item for item in theirs[name]["features"]}
        names = {item["binning"]["feature"] for item in ours[name]["features"]}
        if names != set(by_name):  # their order is that of aliases, which are drawn anew
            raise BrokenPromiseError(f"other features at {name}: {sorted(names ^ set(by_name))}")
        for item in ours[name]["features"]:
            other = by_name[item["binning"]["feature"]]
            exact = ("binning", "merge_map", "woe", "iv", "rows", "bads")
            if any(item[key] != other[key] for key in exact) or abs(item["weight"] - other["weight"]) > 1e-4:
                raise BrokenPromiseError(f"another feature or weight at {name}")
        _check_points(name, ours[name], theirs[name])


def _check_points(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Points are equal, or differ by one where what was rounded lies near a half."""
    factor = ours["points"]["scaling"]["pdo"] / math.log(2)
    others = {table["name"]: table for table in theirs["points"]["features"]}
    for table, feature in zip(ours["points"]["features"], ours["features"], strict=True):
        other = others[table["name"]]
        for a, b in zip(table["bins"], other["bins"], strict=True):
            exact = factor * abs(feature["weight"] * a["woe"])
            tie = abs(exact % 1 - 0.5) < 0.02
            if a["points"] != b["points"] and not (tie and abs(a["points"] - b["points"]) == 1):
                raise BrokenPromiseError(f"other points at {name}")


def check_clean(lab: ChaosLab, job: str) -> None:
    """No process of the job, no port but the lab's, no temporary file, checkpoint or further key.

    Raises: BrokenPromiseError.
    """
    until(lambda: not job_processes(lab, job), 15, "a process is left")
    if not all(daemon.poll() is None for daemon in lab.daemons.values()):
        raise BrokenPromiseError("a daemon has ended")
    for name in INSTITUTIONS:
        if ports := listening(lab.daemons[name].pid):
            raise BrokenPromiseError(f"the agent of {name} listens on {ports}")
        folder = lab.folder(name)
        until(lambda where=folder: not list(where.rglob(".*.part")), 10, f"temporary files are left at {name}")
        held = {
            path.name for path in folder.rglob("*") if path.suffix in (".pem", ".key") and path.parent.name != "tls"
        }
        if not held <= set(KEYS):
            raise BrokenPromiseError(f"further keys at {name}: {held}")
        if lab.entry(name, job).get("state") == "finished" and (folder / "jobs" / job / "checkpoints").exists():
            raise BrokenPromiseError(f"a finished job keeps its checkpoints at {name}")
        spent = next(iter((folder / "jobs" / job).glob("spent-*.tsv")), None)
        lines = spent.read_text(encoding="utf-8").splitlines() if spent else []
        if len(lines) != len(set(lines)):
            raise BrokenPromiseError(f"an index was spent twice at {name}")
    if lab.port not in (ports := listening(lab.daemons["lab"].pid)) or len(ports) != 3:
        raise BrokenPromiseError(f"the lab listens on {ports}, not on its port, its relay and its API")


def job_processes(lab: ChaosLab, job: str, name: str | None = None) -> list[int]:
    """The living processes of a job, of one institution or of all."""
    wanted = {str(lab.folder(one) / "jobs" / job) for one in INSTITUTIONS if name in (None, one)}
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            living = entry.name.isdigit() and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if living and wanted & set(words):
            found.append(int(entry.name))
    return found


def listening(process: int) -> list[int]:
    """The TCP ports on which a process listens."""
    inodes = set()
    for path in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(path))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait. Raises: BrokenPromiseError: with the sentence `otherwise`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise BrokenPromiseError(otherwise)
        time.sleep(0.05)


def sweep(root: Path, points: Sequence[tuple[str, str]], say: Callable[[str], None]) -> list[str]:
    """Every point in turn, and an undisturbed job at the end; the promises that were broken."""
    broken = []
    with chaos_lab(root) as lab:
        reference = undisturbed(lab)
        for process, stage in points:
            try:
                found = at_point(lab, process, stage, reference)
                say(f"{process:>12} at {stage:<9} {found.code:<20} attempts {found.attempts}  {found.seconds:5.1f} s")
            except BrokenPromiseError as error:
                broken.append(str(error))
                say(f"{process:>12} at {stage:<9} BROKEN: {error}")
        check_same(undisturbed(lab), reference)
    return broken


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """All points, or those of the processes and stages that are named: `python -m tests.chaos lab train`."""
    named = set(sys.argv[1:])
    points = [
        (process, stage)
        for process, stage in product(PROCESSES, STAGES)
        if not named or ((named & set(PROCESSES) <= {process}) and (named & set(STAGES) <= {stage}))
    ]
    with tempfile.TemporaryDirectory() as folder:
        broken = sweep(Path(folder), points, _say)
    sys.stdout.write(f"{len(points)} points, {len(broken)} broken\n")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
