"""A whole consortium on one machine: this process is the coordinator, every party is a process of its own.

Throwaway identities sign a minimal contract; each party's process gets its folder, its own file and the relay's
address, and nothing of any other party. This process relays frames it cannot read, deals, and supervises: when a party
ends with an error, the job ends for all of them with that code.
"""

from __future__ import annotations

import datetime
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from coordinator.certificates import Authority, CertificateFiles, create_identity, write_private
from coordinator.dealing import start_dealer
from coordinator.relay import Relay
from protocols.contract import (
    ALIGNMENTS,
    MOMENTS,
    USUAL_ALGORITHMS,
    Caps,
    Contract,
    JobDocument,
    JobKind,
    Member,
    SignedContract,
    SignedJob,
)
from protocols.errors import ConcordatError, DataError, TransportError
from protocols.recipe import Recipe, recipe_from_canonical
from protocols.roles import COORDINATOR, Parties, Role

PURPOSE = "simulation of a joint scorecard on one machine"
MOST_OPENED = 50_000_000
JOB_HOURS = 24
GRACE_S = 20.0  # for a party to notice that the job has ended, and to say so
SEATLESS_GRACE_S = 3.0  # for one that has not come to the relay
INTERRUPTED = "INTERRUPTED"
_MARKER = "simulation.json"
_NEW_OUT = "name an empty or a new folder with --out"
_PARTY_COMMAND = (sys.executable, "-m", "party_agent")

OnEvent = Callable[[str, Mapping[str, Any]], None]
RelayMaker = Callable[[CertificateFiles, Mapping[str, Collection[str]]], Relay]


@dataclass(frozen=True)
class PartyInput:
    """One party of a simulation: its name, file, id column, and at the label owner the label column."""

    name: str
    data: Path
    id_column: str
    label_column: str | None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the one code, 'OK' if well; every party's own error; seconds; bytes through the relay."""

    code: str
    errors: Mapping[str, Mapping[str, Any]]
    seconds: float
    relayed_bytes: int

    @property
    def first(self) -> Mapping[str, Any]:
        """The error to show: that of a party whose own it is, before those who were told."""
        ranked = sorted(
            ({"party": name, **error} for name, error in self.errors.items()),
            key=lambda error: (error["code"] != self.code, error["told_by_peer"]),
        )
        return ranked[0] if ranked else _words(_ended_here(self.code))


@dataclass(frozen=True)
class PreparedJob:
    """A job whose documents and certificates lie in the folders. server: the relay's certificate."""

    document: JobDocument
    contract: Contract
    server: CertificateFiles

    @property
    def job(self) -> str:
        """The job's name."""
        return self.document.job


@dataclass
class _Process:
    """A party's process and what it has said."""

    process: subprocess.Popen[bytes]
    reader: threading.Thread | None = None
    error: dict[str, Any] | None = None
    finished: bool = False
    answers: dict[str, Any] = field(default_factory=dict)


class Simulation:
    """A consortium in one folder: one subfolder a party, `coordinator/` for the lab.

    Args: out: the folder; inputs: the label owner first.
    """

    def __init__(self, out: Path, inputs: Sequence[PartyInput]) -> None:
        self.out = out
        self.inputs = tuple(inputs)
        self.parties = Parties(inputs[0].name, tuple(item.name for item in inputs[1:]))

    # -- set-up

    @classmethod
    def create(cls, out: Path, inputs: Sequence[PartyInput], recipe: Recipe) -> Simulation:
        """A new consortium: folders, identities, a contract signed by all.

        Raises: DataError: OUT_NOT_EMPTY: the folder holds something that no simulation wrote, or a party's data.
        """
        simulation = cls(out, inputs)
        simulation._clear_out()
        identities = {name: create_identity(out / name / "identity.pem") for name in simulation._everyone}
        simulation._write_contract(identities, recipe)
        for item in inputs:
            own = recipe.columns_of(item.name).model_dump_json()
            write_private(out / item.name / "columns.json", own.encode())
        public = recipe.model_copy(update={"parties": {}, "sample": recipe.sample.model_copy(update={"seed": None})})
        (out / COORDINATOR / "recipe.json").write_bytes(public.canonical())
        marker = {
            item.name: {"data": str(item.data.resolve()), "id": item.id_column, "label": item.label_column}
            for item in inputs
        }
        (out / COORDINATOR / _MARKER).write_text(json.dumps(marker, ensure_ascii=False), encoding="utf-8")
        return simulation

    @classmethod
    def load(cls, out: Path) -> Simulation:
        """The consortium in a folder.

        Raises: DataError: OUT_UNKNOWN: no simulation was run there.
        """
        try:
            marker = json.loads((out / COORDINATOR / _MARKER).read_bytes())
        except (OSError, ValueError) as error:
            raise DataError("OUT_UNKNOWN", f"{out} holds no simulation", "run `concordat simulate` first") from error
        inputs = [PartyInput(n, Path(v["data"]), v["id"], v["label"]) for n, v in marker.items()]
        return cls(out, inputs)

    @property
    def _everyone(self) -> tuple[str, ...]:
        return (*self.parties.all, COORDINATOR)

    def _clear_out(self) -> None:
        """Empty what an earlier simulation left, and nothing else."""
        earlier: tuple[str, ...] = ()
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            try:
                earlier = Simulation.load(self.out).parties.all
            except ConcordatError as error:
                raise DataError("OUT_NOT_EMPTY", f"{self.out} is not empty", _NEW_OUT) from error
        folders = [self.out / name for name in sorted({*earlier, *self._everyone})]
        for item in self.inputs:
            if any(item.data.resolve().is_relative_to(folder.resolve()) for folder in folders):
                sentence = f"the data of {item.name} lies in a folder that this run would empty"
                raise DataError("OUT_NOT_EMPTY", sentence, _NEW_OUT)
        for folder in folders:
            _clear(folder)
            if folder.name not in self._everyone:
                folder.rmdir()
        for name in ("report.json", "report.html"):
            (self.out / name).unlink(missing_ok=True)

    def _write_contract(self, identities: Mapping[str, Ed25519PrivateKey], recipe: Recipe) -> None:
        roles = {self.parties.label_owner: Role.LABEL_OWNER, COORDINATOR: Role.COORDINATOR}
        now = int(time.time())
        contract = Contract(
            contract_id=f"simulation-{secrets.token_hex(4)}",
            members=tuple(
                Member(
                    name,
                    roles.get(name, Role.PROVIDER).value,
                    identities[name].public_key().public_bytes_raw().hex(),
                )
                for name in self._everyone
            ),
            purpose=PURPOSE,
            caps=Caps(
                minimum_intersection=recipe.contract.minimum_intersection,
                maximum_set_size=recipe.contract.maximum_set_size,
                minimum_key_bits=min(recipe.keys.bits, 3072),
                opened_numbers=MOST_OPENED,
                bin_floor=recipe.binning.floor_rows,
            ),
            outputs=tuple(sorted(set(recipe.open))),
            valid_from=now - 60,
            valid_until=now + 3650 * 86_400,
            algorithms=_algorithms(recipe),
        )
        signed = SignedContract(contract, ())
        for name in self._everyone:
            signed = signed.signed_by(name, identities[name])
        for name in self._everyone:
            write_private(self.out / name / "contract.json", signed.encode())

    # -- a run

    def prepare(self, kind: JobKind, *, resume: bool = False) -> PreparedJob:
        """Write a job's document and fresh certificates into every folder. resume: the last job's next attempt.

        Raises: DataError: JOB_UNKNOWN: there is no job to resume.
        """
        contract = SignedContract.decode((self.out / COORDINATOR / "contract.json").read_bytes()).verify(
            int(time.time())
        )
        recipe = recipe_from_canonical((self.out / COORDINATOR / "recipe.json").read_bytes())
        job, attempt = f"{kind.value}-{secrets.token_hex(4)}", 1
        if resume:
            last = self._last_job(kind)
            job, attempt = last.job, last.attempt + 1
        model = self._trained() if kind is JobKind.SCORE else ""
        document = self._write_job(contract, kind, job, attempt, recipe, model)
        authority = Authority(datetime.datetime.now(datetime.UTC))
        for name in self.parties.all:
            authority.client(self.out / name / "tls", name)
        return PreparedJob(document, contract, authority.server(self.out / COORDINATOR / "tls"))

    def run(
        self,
        prepared: PreparedJob,
        commands: Mapping[str, Sequence[str]],
        on_event: OnEvent,
        *,
        connect_timeout_s: float = 60.0,
        relay_maker: RelayMaker = Relay,
    ) -> Outcome:
        """Run a prepared job: `commands` is each party's command line without what every party is told.

        Ended by a signal, the job ends for all parties with INTERRUPTED.
        """
        begin = time.monotonic()
        job = prepared.job
        relay = relay_maker(prepared.server, {job: self._everyone})
        port = relay.start()
        identity = self._identity(COORDINATOR)
        dealer = start_dealer(relay, identity, prepared.contract, prepared.document)
        processes: dict[str, _Process] = {}
        try:
            for name, command in commands.items():
                place = ["--folder", str(self.out / name), "--name", name, "--relay", f"127.0.0.1:{port}"]
                wait = ["--connect-timeout-s", str(connect_timeout_s)]
                processes[name] = self._start(name, [*command, *place, *wait], on_event)
            self._supervise(processes, relay, job)
        except KeyboardInterrupt:
            relay.stop_job(job, INTERRUPTED)
            self._supervise(processes, relay, job)
        finally:
            for item in processes.values():
                _end(item.process)
            code = relay.verdict(job) or "OK"
            if code == "OK" and not all(item.finished for item in processes.values()):
                code = relay.stop_job(job, "PARTY_LOST")
            dealer.join(GRACE_S)
            relay.close()
        traffic = {name: asdict(used) for (_, name), used in relay.meter().items()}
        (self.out / COORDINATOR / f"traffic-{prepared.document.kind.value}.json").write_text(
            json.dumps(traffic, indent=1)
        )
        failed = [name for name, item in processes.items() if not item.finished]
        failed.sort(key=lambda name: processes[name].error is not None)  # who died comes before who noticed it
        errors = {name: processes[name].error or _lost(name, code) for name in failed}
        relayed = sum(used["bytes_sent"] for used in traffic.values())
        return Outcome(code, errors, time.monotonic() - begin, relayed)

    def _last_job(self, *kinds: JobKind) -> JobDocument:
        path = self.out / COORDINATOR / "job.json"
        document = SignedJob.decode(path.read_bytes()).document if path.exists() else None
        if document is None or document.kind not in kinds:
            raise DataError("JOB_UNKNOWN", f"{self.out} holds no such job", "run `concordat simulate` first")
        return document

    def _trained(self) -> str:
        """The training job whose model lies in the folders."""
        last = self._last_job(*JobKind)
        return last.model or last.job

    def _write_job(
        self, contract: Contract, kind: JobKind, job: str, attempt: int, recipe: Recipe, model: str
    ) -> JobDocument:
        now = int(time.time())
        document = JobDocument(
            contract_hash=contract.hash().hex(),
            job=job,
            kind=kind,
            recipe=recipe.canonical().decode(),
            nonce=secrets.token_hex(16),
            issued=now,
            expires=now + JOB_HOURS * 3600,
            attempt=attempt,
            model=model,
        )
        signed = document.sign(self._identity(self.parties.label_owner))
        for name in self._everyone:
            write_private(self.out / name / "job.json", signed.encode())
        return document

    def _identity(self, name: str) -> Ed25519PrivateKey:
        key = load_pem_private_key((self.out / name / "identity.pem").read_bytes(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise DataError("IDENTITY_UNREADABLE", "an identity in this folder is not an Ed25519 key")
        return key

    def _start(self, name: str, command: Sequence[str], on_event: OnEvent) -> _Process:
        environment = os.environ | {"GRPC_VERBOSITY": "ERROR", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        write_private(self.out / name / "stderr.txt", b"")
        errors = (self.out / name / "stderr.txt").open("wb")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=environment,
            process_group=0,  # Ctrl-C reaches this process, which ends the job in order
        )
        errors.close()
        item = _Process(process)
        item.reader = threading.Thread(target=_listen, args=(name, item, on_event), daemon=True)
        item.reader.start()
        return item

    def _supervise(self, processes: Mapping[str, _Process], relay: Relay, job: str) -> None:
        """Wait for all; end the job for the others as soon as one has failed, and give them time to say so."""
        stopped: float | None = None
        while alive := {name for name, item in processes.items() if item.process.poll() is None}:
            for name, item in processes.items():
                if name not in alive and self._failed(item):
                    relay.stop_job(job, (item.error or {"code": "PARTY_LOST"})["code"])
            if stopped is None and relay.verdict(job) is not None:
                stopped = time.monotonic()
            if stopped is not None:
                waited = time.monotonic() - stopped
                if waited > GRACE_S or (waited > SEATLESS_GRACE_S and not alive & relay.present(job)):
                    return
            time.sleep(0.05)
        for item in processes.values():
            if self._failed(item):
                relay.stop_job(job, (item.error or {"code": "PARTY_LOST"})["code"])

    @staticmethod
    def _failed(item: _Process) -> bool:
        """Whether a process that has ended did not finish its job."""
        if item.reader is not None:
            item.reader.join(GRACE_S)
        return not item.finished


def train(
    simulation: Simulation,
    seed: int | None,
    on_event: OnEvent,
    *,
    connect_timeout_s: float = 60.0,
    relay_maker: RelayMaker = Relay,
    resume: bool = False,
) -> Outcome:
    """The training job. seed: chooses rows at the label owner; in no document. resume: the last one's next attempt."""
    prepared = simulation.prepare(JobKind.TRAIN, resume=resume)
    outcome = simulation.run(
        prepared,
        training_commands(simulation, seed),
        on_event,
        connect_timeout_s=connect_timeout_s,
        relay_maker=relay_maker,
    )
    if outcome.code == "OK":
        owner = simulation.out / simulation.parties.label_owner
        for source, target in (("shared.json", "report.json"), ("shared.html", "report.html")):
            part = simulation.out / f".{target}.part"
            part.write_bytes((owner / source).read_bytes())
            part.replace(simulation.out / target)
    return outcome


def training_commands(simulation: Simulation, seed: int | None) -> dict[str, list[str]]:
    """Each party's command line for the training job."""
    commands = {}
    for item in simulation.inputs:
        command = [*_PARTY_COMMAND, "job", "--data", str(item.data), "--id", item.id_column]
        if item.label_column is not None:
            command += ["--label", item.label_column]
            if seed is not None:
                command += ["--split-seed", str(seed)]
        commands[item.name] = command
    return commands


def score(simulation: Simulation, ids: Path | None, on_event: OnEvent) -> Outcome:
    """A scoring job with the model that the simulation trained."""
    commands = {}
    for item in simulation.inputs:
        command = [*_PARTY_COMMAND, "score", "--data", str(item.data), "--id", item.id_column]
        if item.label_column is not None and ids is not None:
            command += ["--ids", str(ids)]
        commands[item.name] = command
    return simulation.run(simulation.prepare(JobKind.SCORE), commands, on_event)


def check_parity(simulation: Simulation) -> dict[str, Any]:
    """Fit the pooled twin in a process that may read everything, as only a simulation's may.

    Raises: DataError: TWIN_FAILED, or the twin's own code.
    """
    finished = subprocess.run(
        [
            *_PARTY_COMMAND,
            "twin",
            "--out",
            str(simulation.out),
            "--sources",
            str(simulation.out / COORDINATOR / _MARKER),
        ],
        capture_output=True,
        check=False,
    )
    answer = _parse(finished.stdout.splitlines()[-1] if finished.stdout.strip() else b"")
    if "error" in answer:
        raise DataError(answer["error"]["code"], answer["error"]["message"], answer["error"]["remedy"])
    if "parity" not in answer:
        (simulation.out / COORDINATOR / "twin.txt").write_bytes(finished.stderr)
        raise DataError("TWIN_FAILED", "the pooled twin could not be fitted", "see coordinator/twin.txt")
    parity: dict[str, Any] = answer["parity"]
    return parity


def _algorithms(recipe: Recipe) -> tuple[str, ...]:
    """What a simulation's contract allows: the usual, and what its recipe asks for."""
    asked = {ALIGNMENTS[recipe.alignment.engine], *([MOMENTS] if recipe.opens_moments else [])}
    return tuple(sorted({*USUAL_ALGORITHMS, *asked}))


def _listen(name: str, item: _Process, on_event: OnEvent) -> None:
    if item.process.stdout is None:
        return
    for line in item.process.stdout:
        event = _parse(line)
        if "error" in event:
            item.error = event["error"]
        elif event.get("finished"):
            item.finished = True
        on_event(name, event)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _lost(name: str, code: str) -> dict[str, Any]:
    """What is said for a party that said nothing: it died, or the job had ended without it."""
    sentence = f"the process of {name} ended without a word"
    return _words(TransportError(code, sentence, f"see {name}/stderr.txt"), told_by_peer=code != "PARTY_LOST")


def _ended_here(code: str) -> ConcordatError:
    if code == INTERRUPTED:
        return interrupted()
    return TransportError(code, "the coordinator ended the job")


def interrupted() -> TransportError:
    """A signal ended the run."""
    return TransportError(INTERRUPTED, "the run was ended by a signal", "run it again")


def _words(error: ConcordatError, *, told_by_peer: bool = False) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "remedy": error.remedy, "told_by_peer": told_by_peer}


def _clear(folder: Path) -> None:
    """Empty a folder that an earlier simulation wrote."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
