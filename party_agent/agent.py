"""The agent: an institution's daemon. It asks the lab what has come, decides by its own contracts and its own policy,
and runs what it accepted, each job in a process of its own.

Nothing that arrives is executed: a job is a document that the label owner signed under a contract that this agent holds
itself. The lab's word opens no door and closes none but its own: a job that the lab invents, alters or repeats is
refused here, with an entry in the audit log.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from party_agent import job_process
from party_agent.agent_store import AgentSettings, read_settings
from party_agent.contract_store import EVENT_KINDS, ContractStore
from party_agent.head_exchange import HEAD, RECEIPT, HeadExchange
from party_agent.job_output import JobRecord
from party_agent.job_process import STOP_GRACE_S
from party_agent.lab_port import LabPort
from party_agent.local_policy import Approval, read_policy
from party_agent.loopback import Inbox
from party_agent.model import model_unknown, read_trained
from party_agent.model_library import ModelLibrary
from party_agent.peers import PeerBook
from party_agent.policy import check_recipe
from party_agent.store import FileNonces, Folder
from party_agent.transport import load_identity
from protocols.audit import Event, Kind
from protocols.audit_files import open_audit_log
from protocols.contract import Contract, JobDocument, JobKind, SignedContract, SignedJob
from protocols.contract_state import ContractState, EventKind, SignedEvent
from protocols.envelope import check_code
from protocols.errors import ConcordatError, ContractViolationError, DataError, TransportError
from protocols.recipe import recipe_from_canonical

POLL_S = 5
BACKOFF_S = (1.0, 2.0, 5.0, 10.0)
_STATE_FILE = "state.json"
_QUEUE_FILE = "queue.json"
_LAB_AWAY = frozenset(  # answers that say: ask again later
    {
        *("LAB_UNREACHABLE", "LAB_STOPPING", "DATABASE_UNAVAILABLE", "DISK_FULL"),
        *("CERTIFICATE_REJECTED", "VERSION_MISMATCH", "CLOCK_SKEW"),
    }
)


class JobState(Enum):
    """Where a job stands at this agent."""

    WAITING = "waiting"  # for a person's approval
    ACCEPTED = "accepted"
    REFUSED = "refused"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True)
class JobEntry:
    """One job in the agent's folder. code: why it was refused or failed; aborts: attempts that a failed check ended."""

    job: str
    attempt: int
    kind: str
    contract: str
    state: JobState
    code: str = ""
    aborts: int = 0

    def to_json(self) -> dict[str, Any]:
        """As it is kept in `state.json`."""
        return {**vars(self), "state": self.state.value}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> JobEntry:
        """Inverse of `to_json`.

        Raises: DataError: JOB_STATE_DAMAGED.
        """
        try:
            return cls(**{**document, "state": JobState(document["state"])})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("JOB_STATE_DAMAGED", "the state of a job cannot be read", "start the job anew") from error


@dataclass
class _Ending:
    """How a job's process ended. recorded: whether the audit log has it."""

    entry: JobEntry
    code: str
    recorded: bool = False


class Agent:
    """The daemon of the institution in `folder`.

    Args: lab: the lab's API; clock: Unix seconds.
    """

    def __init__(self, folder: Path, lab: LabPort, clock: Callable[[], float] = time.time) -> None:
        self.settings: AgentSettings = read_settings(folder)
        self._folder = Folder(folder)
        self._lab = lab
        self._clock = clock
        self._identity = load_identity(folder / "identity.pem")
        self._audit = open_audit_log(folder, self.settings.name, self._identity)
        self._peers = PeerBook.open(folder)
        self.contracts = ContractStore(folder, self.settings.name, self._peers)
        name, trained = self.settings.name, self._check_trained
        self.models = ModelLibrary(folder, name, self._audit, self.contracts, trained, clock)
        self._record = JobRecord(self._audit)
        self.heads = HeadExchange(folder, self.settings.name, self._identity, self._audit, self._peers, lab, clock)
        self._nonces = FileNonces(folder / "nonces.txt")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.inbox = Inbox()  # what a launcher on this machine hands in
        self._endings: dict[str, _Ending] = {}  # of processes that are gone, where the disk has not taken it yet
        self._untold: set[str] = set()  # jobs that have ended here, of which the lab does not know yet
        self._lock = threading.RLock()

    # -- the loop

    def serve(self, stopping: threading.Event) -> None:
        """Ask, decide, run, until `stopping`; a lab that is away is asked again, at growing intervals."""
        self._recover()
        failures = 0
        while not stopping.is_set():
            try:
                self.step(POLL_S)
                failures = 0
            except ConcordatError:  # the lab is away, or answers nonsense, or our disk is full: none is for ever
                stopping.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
        self.close()

    def step(self, wait_s: int) -> None:
        """One round: what has come from the lab, and which processes have ended."""
        self._reap()
        self._enforce()
        for job in list(self._untold):
            self._tell_end(self.job(job))
        self._take_handed()
        for entry in self.jobs():
            if entry.state is JobState.RUNNING:
                self._note_stages(entry)
        self.heads.send_due(self._partners, self._head_not_sent)
        after = self._after()
        requests, following = self._lab.requests(after, wait_s)
        for request in requests:
            self._take(request)
        if following != after:
            self._folder.write_json(_QUEUE_FILE, {"after": following})
        self._reap()

    def close(self) -> None:
        """End every job's process."""
        for process in self._processes.values():
            job_process.end(process)
        self._reap()
        self._peers.__exit__()
        self.models.store.close()

    # -- what comes from the lab

    def _take(self, request: Mapping[str, Any]) -> None:
        kind, reference = str(request.get("kind")), str(request.get("reference"))
        try:
            if kind in ("contract", "signature", "event"):
                self.fetch_contract(reference)
            elif kind == "model":
                self.models.fetch(self._lab, reference)
            elif kind == "job":
                self._consider(str(request.get("document") or "").encode())
            elif kind == "start":
                self._start(reference, int(request.get("attempt") or 0))
            elif kind in (HEAD, RECEIPT):
                self.heads.take(kind, str(request.get("document") or "").encode())
            elif kind in ("stop", "ended"):
                self._stop(reference, int(request.get("attempt") or 0), str(request.get("code") or "OK"))
        except (KeyError, TypeError, ValueError):
            self._note(Kind.ADMINISTRATION, action="request-not-taken", code="LAB_ANSWER_INVALID")
        except ConcordatError as error:
            if error.code in _LAB_AWAY:
                raise  # and take this request again
            self._note(Kind.ADMINISTRATION, action=f"{kind}-not-taken", code=error.code)

    def _take_handed(self) -> None:
        """What a launcher handed in, as if the lab had delivered it; the lab is told of it first."""
        while (handed := self.inbox.first()) is not None:
            text = handed.data.decode()
            try:
                try:
                    self._lab.submit(text)
                except ConcordatError as error:  # the lab's no decides nothing here
                    if error.code == "LAB_UNREACHABLE":
                        raise
                    self._note(Kind.ADMINISTRATION, action="job-not-submitted", code=error.code)
                self._take({"kind": "job", "document": text})
            except TransportError as error:
                if error.code == "LAB_UNREACHABLE":
                    raise  # it is taken again
            self.inbox.done(handed)

    def standing(self, job: str) -> tuple[int, str, str]:
        """Attempt, state and code of a job, for a launcher.

        Raises: DataError: JOB_UNKNOWN.
        """
        entry = self.job(job)
        return entry.attempt, entry.state.value, entry.code

    def fetch_contract(self, digest: str) -> SignedContract:
        """Take over a contract, its signatures and events, each verified here."""
        answer = self._lab.contract(digest)
        signed = self.contracts.receive(SignedContract.decode(str(answer["document"]).encode()))
        if signed.contract.hash().hex() != digest:
            raise ContractViolationError("CONTRACT_UNKNOWN", "the lab delivered another contract than was asked for")
        for document in answer.get("events", []):
            self.contracts.receive_event(SignedEvent.decode(str(document).encode()))
        return signed

    def _consider(self, data: bytes) -> None:
        """Accept or refuse a job, and say so; either way with an entry in the audit log first."""
        signed = SignedJob.decode(data)
        document = signed.document
        if self._told_before(document, data):
            return
        try:
            contract = self._check(signed)
        except TransportError:
            raise
        except ConcordatError as error:
            self._note(
                Kind.JOB_REFUSED,
                document=_sha256(data),
                code=error.code,
                job=document.job,
                attempt=document.attempt,
                contract=document.contract_hash,
            )
            if all(entry.job != document.job for entry in self.jobs()):  # a forgery changes nothing about a real job
                refused = JobEntry(
                    document.job,
                    document.attempt,
                    document.kind.value,
                    document.contract_hash,
                    JobState.REFUSED,
                    error.code,
                )
                self._job_folder(document.job).write("job.json", data)
                self._keep(refused)
            self._lab.report(document.job, document.attempt, "refused", error.code)
            return
        policy = read_policy(self._folder.path)
        state = JobState.ACCEPTED if policy.approval is Approval.AUTOMATIC else JobState.WAITING
        aborts = sum(entry.aborts for entry in self.jobs() if entry.job == document.job)
        entry = JobEntry(
            document.job, document.attempt, document.kind.value, document.contract_hash, state, aborts=aborts
        )
        folder = self._job_folder(document.job)
        folder.write("contract.json", self.contracts.get(contract.hash().hex()).encode())
        folder.write("job.json", data)
        self._keep(entry)
        if state is JobState.ACCEPTED:
            self._accept(entry, data)

    def _told_before(self, document: JobDocument, data: bytes) -> bool:
        """The same bytes again are the same job: say again what was decided, and decide nothing anew."""
        path = self._job_folder(document.job).path / "job.json"
        if not path.exists() or path.read_bytes() != data:
            return False
        entry = next((entry for entry in self.jobs() if entry.job == document.job), None)
        if entry is None or entry.attempt != document.attempt:
            return False  # a crash came between accepting it and saying so: its nonce is spent, so it is refused now
        if entry.state is JobState.ACCEPTED:
            self._report_quietly(entry.job, entry.attempt, "accepted", None)
        elif entry.state is JobState.REFUSED:
            self._report_quietly(entry.job, entry.attempt, "refused", entry.code)
        return True

    def _accept(self, entry: JobEntry, data: bytes) -> None:
        self._note(
            Kind.JOB_ACCEPTED,
            job=entry.job,
            attempt=entry.attempt,
            contract=entry.contract,
            document=_sha256(data),
        )
        self._lab.report(entry.job, entry.attempt, "accepted")

    def _check(self, signed: SignedJob) -> Contract:
        """Every rule that stands between a document and this institution's data."""
        now = int(self._clock())
        contract = self.contracts.in_force(signed.document.contract_hash, now)
        document = signed.verify(contract, now, self._nonces)
        recipe = recipe_from_canonical(document.recipe.encode())
        contract.check_algorithms(document.kind)
        check_recipe(recipe, contract)
        earlier = [entry for entry in self.jobs() if entry.contract == document.contract_hash]
        others = [entry for entry in earlier if entry.job != document.job and entry.state is not JobState.REFUSED]
        contract.check_runs(len(others))
        contract.check_aborts(sum(entry.aborts for entry in earlier))
        self._check_attempt(document)
        if document.kind is JobKind.SCORE:
            self.check_model(document.model, document.contract_hash)
            if contract.parties.label_owner == self.settings.name:
                job_process.check_asked(self._job_folder(document.job).path)
        read_policy(self._folder.path).check(document, recipe, contract, others)
        return contract

    def _check_attempt(self, document: JobDocument) -> None:
        """A later attempt is of a job that was accepted before, with the same recipe; a first one is of a new job,
        under whatever contract: another document under a name that was used would be a run that nobody counts.
        """
        known = next((entry for entry in self.jobs() if entry.job == document.job), None)
        if document.attempt == 1 and (known is None or (known.attempt == 1 and known.state is JobState.REFUSED)):
            return
        if known is None or known.attempt >= document.attempt or known.state in (JobState.RUNNING, JobState.REFUSED):
            raise ContractViolationError("ATTEMPT_INVALID", "this attempt does not follow one that ended here")
        before = SignedJob.decode((self._job_folder(document.job).path / "job.json").read_bytes()).document
        same = replace(document, nonce=before.nonce, issued=before.issued, expires=before.expires)
        if replace(same, attempt=before.attempt) != before:
            raise ContractViolationError("ATTEMPT_INVALID", "another attempt at a job has the same recipe and model")

    def check_model(self, model: str, contract_hash: str) -> None:
        """What is scored with is a model of this contract that was trained here, is kept, and may be used.

        Raises: ContractViolationError: MODEL_UNKNOWN, and as `ModelLibrary.check_usable`; DataError: MODEL_MISSING.
        """
        self._check_trained(model, contract_hash)
        self.models.check_usable(model, contract_hash, read_policy(self._folder.path))

    def _check_trained(self, model: str, contract_hash: str) -> None:
        wanted = (model, JobKind.TRAIN.value, contract_hash, JobState.FINISHED)
        if all((entry.job, entry.kind, entry.contract, entry.state) != wanted for entry in self.jobs()):
            raise model_unknown()
        read_trained(self._job_folder(model), model, contract_hash)

    # -- approvals

    def approve(self, job: str) -> JobEntry:
        """A person lets a waiting job run.

        Raises: DataError: JOB_NOT_WAITING.
        """
        return self._decide(job, JobState.ACCEPTED)

    def refuse(self, job: str) -> JobEntry:
        """A person refuses a waiting job."""
        return self._decide(job, JobState.REFUSED)

    def _decide(self, job: str, state: JobState) -> JobEntry:
        entry = self.job(job)
        if entry.state is not JobState.WAITING:
            raise DataError("JOB_NOT_WAITING", f"the job is {entry.state.value}", "see `concordat-party jobs list`")
        data = (self._job_folder(job).path / "job.json").read_bytes()
        if state is JobState.ACCEPTED:
            self._keep(replace(entry, state=state))
            self._accept(entry, data)
        else:
            self._note(Kind.JOB_REFUSED, document=_sha256(data), code="NOT_APPROVED", job=job, attempt=entry.attempt)
            self._keep(replace(entry, state=state, code="NOT_APPROVED"))
            self._lab.report(job, entry.attempt, "refused", "NOT_APPROVED")
        return self.job(job)

    # -- processes

    def _start(self, job: str, attempt: int) -> None:
        """All parties have accepted and the relay is open: run it."""
        entry = self.job(job)
        if entry.attempt != attempt or entry.state is not JobState.ACCEPTED:
            raise ContractViolationError("JOB_NOT_ACCEPTED", "a job was started that this agent has not accepted")
        try:
            self._launch(entry)
        except ConcordatError as error:
            if (process := self._processes.pop(job, None)) is not None:
                job_process.end(process)
            self._settle(entry, error.code)
            raise

    def _launch(self, entry: JobEntry) -> None:
        """Its process, if the contract is still in force."""
        job, attempt = entry.job, entry.attempt
        contract = self.contracts.in_force(entry.contract, int(self._clock()))
        policy = read_policy(self._folder.path)
        document = SignedJob.decode((self._job_folder(job).path / "job.json").read_bytes()).document
        if document.kind is JobKind.SCORE:
            self.check_model(document.model, document.contract_hash)
        leads = contract.parties.label_owner == self.settings.name
        command = job_process.command_line(
            document,
            self._job_folder(job).path,
            self._folder.path,
            name=self.settings.name,
            relay=self.settings.lab,
            source=self.source_of(contract),
            leads=leads,
        )
        if policy.split_seed is not None and leads and document.kind is JobKind.TRAIN:
            command += ["--split-seed", str(policy.split_seed)]
        self._note(Kind.JOB_STARTED, job=job, attempt=attempt)
        process = job_process.start(command, self._job_folder(job))
        self._processes[job] = process
        self._keep(replace(entry, state=JobState.RUNNING))
        self._report_quietly(job, attempt, "running", None)

    def source_of(self, contract: Contract) -> str:
        """The data set that this institution brings to jobs of a contract.

        Raises: DataError: SOURCE_UNKNOWN.
        """
        dataset = contract.dataset(self.settings.name)
        source = dataset.name if dataset is not None else read_policy(self._folder.path).source
        if not source:
            raise DataError(
                "SOURCE_UNKNOWN", "neither contract nor policy names a data set", "set `source` in policy.toml"
            )
        return source

    def _enforce(self) -> None:
        """End what runs under a contract that is no longer in force, whether or not the lab ends it."""
        for job in list(self._processes):
            entry = self.job(job)
            try:
                self.contracts.in_force(entry.contract, int(self._clock()))
            except ConcordatError as error:
                process = self._processes.pop(job)
                self._report_quietly(job, entry.attempt, "failed", error.code)  # an honest lab ends it for all with it
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_GRACE_S / 2)
                job_process.end(process)
                self._settle(entry, error.code)

    def _reap(self) -> None:
        """Note which processes have ended, and how."""
        with self._lock:
            ended = [job for job, process in self._processes.items() if process.poll() is not None]
            for job in ended:
                process = self._processes.pop(job)
                code = "OK" if process.returncode == 0 else job_process.code_of_failed(self._job_folder(job).path)
                self._endings[job] = _Ending(self.job(job), code)
            self._settle_endings()

    def _settle(self, entry: JobEntry, code: str) -> None:
        self._endings[entry.job] = _Ending(entry, code)
        self._settle_endings()

    def _settle_endings(self) -> None:
        """Record how jobs ended, then keep it, then tell it. What the disk refuses is tried again in every round; until
        then such a job is running, to everybody.
        """
        for ending in list(self._endings.values()):
            entry, well = ending.entry, ending.code == "OK"
            if not ending.recorded:
                self._note_stages(entry, ended_well=well)
                self._note_disclosures(entry, ended_well=well)
                self._note(Kind.JOB_ENDED, job=entry.job, attempt=entry.attempt, code=ending.code)
                ending.recorded = True
            self._folder.clear_parts()  # also what its process was writing into an account when it was killed
            state, code = (JobState.FINISHED, "") if well else (JobState.FAILED, ending.code)
            entry = replace(entry, state=state, code=code, aborts=entry.aborts + (code == "CHECK_FAILED"))
            self._keep(entry)
            del self._endings[entry.job]
            self._untold.add(entry.job)
            self._tell_end(entry)
            self.heads.show_to(self.contracts.get(entry.contract).contract.parties.all)

    def _tell_end(self, entry: JobEntry) -> None:
        """Say how a job ended; again in the next round if the lab is away."""
        stage, code = ("finished", None) if entry.state is JobState.FINISHED else ("failed", entry.code)
        if self._report_quietly(entry.job, entry.attempt, stage, code):
            self._untold.discard(entry.job)

    def _report_quietly(self, job: str, attempt: int, stage: str, code: str | None) -> bool:
        """A report that the lab may no longer want, the job being over there; whether the lab was reached."""
        try:
            self._lab.report(job, attempt, stage, code)
        except ConcordatError as error:
            self._note(Kind.ADMINISTRATION, action="report-not-taken", code=error.code)
            return error.code not in _LAB_AWAY
        return True

    def _stop(self, job: str, attempt: int, code: str) -> None:
        """The lab says that a job is over: its process, if it still runs, is given time to notice, then ended."""
        if code != "OK":
            check_code(code)
        entry = next((entry for entry in self.jobs() if (entry.job, entry.attempt) == (job, attempt)), None)
        if entry is None:
            return
        process = self._processes.get(job)
        if process is not None:
            try:
                process.wait(STOP_GRACE_S if code != "OK" else STOP_GRACE_S * 6)
            except subprocess.TimeoutExpired:
                job_process.end(process)
            self._reap()
            return
        if entry.state is JobState.FAILED and entry.code == "PARTY_LOST" and code != "OK":
            self._keep(replace(entry, code=code))  # its process left no word: the lab knows what it ended with
        if entry.state in (JobState.WAITING, JobState.ACCEPTED):
            self._note(Kind.JOB_ENDED, job=job, attempt=entry.attempt, code=code)
            self._keep(replace(entry, state=JobState.FAILED, code=code))

    def _recover(self) -> None:
        """After a crash of the agent: its jobs' processes died with it, or are about to."""
        self._folder.clear_parts()
        entries = self.jobs()
        self._untold |= {entry.job for entry in entries if entry.state in (JobState.FINISHED, JobState.FAILED)}
        for entry in entries:
            if entry.state is JobState.RUNNING and entry.job not in self._processes:
                folder = self._job_folder(entry.job).path
                job_process.await_orphan(folder)
                with contextlib.suppress(ConcordatError):  # it is tried again
                    self._settle(entry, job_process.code_of_orphan(folder))

    # -- what a job's process says, and heads of the audit log

    def _note_stages(self, entry: JobEntry, *, ended_well: bool = False) -> None:
        """Enter each stage that has ended, then tell the lab."""
        folder = self._job_folder(entry.job)
        for stage in self._record.stages(folder, entry.job, entry.attempt, ended_well=ended_well):
            self._report_quietly(entry.job, entry.attempt, stage, None)

    def _note_disclosures(self, entry: JobEntry, *, ended_well: bool) -> None:
        folder = self._job_folder(entry.job)
        try:
            self._record.disclosures(folder, entry.job, entry.attempt, ended_well=ended_well)
        except DataError as error:
            if error.code != "STATEMENT_UNREADABLE":
                raise
            self._note(Kind.ADMINISTRATION, action="disclosures-not-recorded", subject=entry.job, code=error.code)

    def _partners(self) -> set[str]:
        """The parties of contracts in force."""
        found: set[str] = set()
        for signed in self.contracts.all():
            with contextlib.suppress(ConcordatError):  # of a contract whose events are not complete there are none
                if self.contracts.state(signed, int(self._clock())) is ContractState.ACTIVE:
                    found.update(signed.contract.parties.all)
        return found

    def _head_not_sent(self, code: str) -> None:
        self._note(Kind.ADMINISTRATION, action="head-not-sent", code=code)

    # -- what is kept

    def jobs(self) -> list[JobEntry]:
        """Every job in the folder, by name."""
        root = self._folder.path / "jobs"
        paths = sorted(root.glob(f"*/{_STATE_FILE}")) if root.exists() else []
        return [JobEntry.from_json(json.loads(path.read_bytes())) for path in paths]

    def job(self, name: str) -> JobEntry:
        """One job.

        Raises: DataError: JOB_UNKNOWN.
        """
        entry = next((entry for entry in self.jobs() if entry.job == name), None)
        if entry is None:
            raise DataError("JOB_UNKNOWN", "this agent has no such job", "see `concordat-party jobs list`")
        return entry

    def note_contract(self, kind: Kind, contract: Contract) -> None:
        """An entry about a contract in the audit log."""
        self._note(kind, contract=contract.hash().hex(), contract_id=contract.contract_id, by=self.settings.name)

    def act(self, contract: Contract, kind: EventKind, reason: str) -> SignedEvent:
        """Suspend, resume or revoke, at once: the entry and our own copy first, then the lab is told by the caller."""
        self.note_contract(EVENT_KINDS[kind], contract)
        return self.contracts.act(contract, kind, reason, int(self._clock()), self._identity)

    def _note(self, kind: Kind, **fields: int | str) -> None:
        self._audit.append(Event(kind, fields))

    def _keep(self, entry: JobEntry) -> None:
        self._job_folder(entry.job).write_json(_STATE_FILE, entry.to_json())

    def _job_folder(self, job: str) -> Folder:
        return Folder(self._folder.path / "jobs" / job)

    def _after(self) -> int:
        path = self._folder.path / _QUEUE_FILE
        return int(json.loads(path.read_bytes())["after"]) if path.exists() else 0


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
