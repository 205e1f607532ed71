"""The lab's memory: its members, and signed documents on their way between institutions.

Every method is one transaction. Writers take turns, so that the numbers of the request queue appear in their order: an
agent that has read up to a number has missed nothing below it. What is stored authorises nothing; agents check every
document themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from coordinator.member_register import MemberRegister
from coordinator.queue_place import QueueEnd, another_epoch
from coordinator.tables import (
    AgentRequest,
    CatalogueEntry,
    ContractMember,
    HeadNotice,
    Institution,
    InstitutionState,
    JobReport,
    JobState,
    QueueEpoch,
    StoredContract,
    StoredEvent,
    StoredJob,
)
from protocols.audit import Kind
from protocols.contract import SignedContract, SignedJob
from protocols.contract_state import EventKind, SignedEvent
from protocols.errors import ContractViolationError, TransportError
from protocols.roles import COORDINATOR

MOST_REQUESTS = 100  # a page of the queue
MOST_REPORTS = 2_000  # of one party on one job
MOST_CONTRACTS = 10_000
MOST_NOTICES = 200  # heads and receipts of one institution for another; the oldest give way
MOST_LISTED = 1_000  # jobs in one answer
MOST_GOING_ON = 16  # jobs of one contract that have not ended
ACCEPTED, REFUSED, FINISHED, FAILED = "accepted", "refused", "finished", "failed"  # stages that move a job
_CONTRACT_EVENTS = {
    EventKind.SUSPEND: Kind.CONTRACT_SUSPENDED,
    EventKind.RESUME: Kind.CONTRACT_RESUMED,
    EventKind.REVOKE: Kind.CONTRACT_REVOKED,
}


@dataclass(frozen=True)
class ContractRecord:
    """A contract with the signatures and events that have come in."""

    signed: SignedContract
    proposer: str
    received: int
    events: tuple[SignedEvent, ...]

    @property
    def hash(self) -> str:
        """In hex."""
        return self.signed.contract.hash().hex()


@dataclass(frozen=True)
class JobRecord:
    """An attempt of a job. code: None while it goes on, and if it ended well."""

    signed: SignedJob
    submitter: str
    submitted: int
    state: JobState
    code: str | None
    ended: int | None
    reports: tuple[tuple[str, str, str | None, int], ...]  # party, stage, code, time

    @property
    def hash(self) -> str:
        """SHA-256 of the signed document, in hex."""
        return document_hash(self.signed.encode())

    def parties_at(self, stage: str) -> frozenset[str]:
        """Who has reported this stage."""
        return frozenset(party for party, reached, _, _ in self.reports if reached == stage)


@dataclass(frozen=True)
class QueuedRequest:
    """One line of an agent's queue. kind: contract, signature, event, model, job, start, stop, ended, head, receipt."""

    number: int
    kind: str
    reference: str
    attempt: int
    code: str | None
    at: int
    document: str | None


def document_hash(document: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(document).hexdigest()


class Registry(MemberRegister):
    """Args: as of `coordinator.database.Transactions`."""

    # -- catalogue

    def publish(self, owner: str, dataset: str, document: bytes) -> None:
        """Enter or replace the metadata of one data set."""
        with self._writing() as session:
            entry = CatalogueEntry(owner=owner, dataset=dataset, document=document, published=self.now())
            session.merge(entry)

    def catalogue(self) -> list[CatalogueEntry]:
        """All data sets, by owner and name."""
        with self._reading() as session:
            order = (CatalogueEntry.owner, CatalogueEntry.dataset)
            return list(session.scalars(select(CatalogueEntry).order_by(*order)))

    # -- contracts

    def propose(self, proposer: str, signed: SignedContract) -> bool:
        """Keep a proposed contract; False if it is here already.

        Raises: ContractViolationError: NOT_A_MEMBER; CONTRACT_MEMBER_UNKNOWN: a party is not enrolled, or under another
            identity than the contract names; CONTRACTS_FULL.
        """
        contract, now = signed.contract, self.now()
        contract.member(proposer)
        own = dict(signed.signatures).get(proposer)
        with self._writing() as session:
            digest = contract.hash().hex()
            if session.get(StoredContract, digest) is not None:
                return False
            if (session.scalar(select(func.count()).select_from(StoredContract)) or 0) >= MOST_CONTRACTS:
                raise ContractViolationError(
                    "CONTRACTS_FULL", "the lab holds as many contracts as it can", "ask the lab"
                )
            for member in contract.members:
                if member.name == COORDINATOR:
                    continue
                institution = session.get(Institution, member.name)
                known = institution is not None and institution.state == InstitutionState.ACTIVE.value
                if institution is None or not known or institution.identity != member.identity:
                    raise ContractViolationError(
                        "CONTRACT_MEMBER_UNKNOWN",
                        "the contract names a party that is not enrolled, or one with another identity key",
                        "compare the contract with `concordat-party peers`",
                    )
            named = {"contract": digest, "contract_id": contract.contract_id, "by": proposer}
            if contract.supersedes:
                self._note(Kind.CONTRACT_AMENDED, **named, replaces=contract.supersedes)
            else:
                self._note(Kind.CONTRACT_PROPOSED, **named)
            bare = SignedContract(contract, ()).encode()
            session.add(StoredContract(hash=digest, document=bare, proposer=proposer, received=now))
            session.flush()
            for member in contract.members:
                signature = own if member.name == proposer else None
                signed_at = now if signature else None
                session.add(
                    ContractMember(contract_hash=digest, name=member.name, signature=signature, signed=signed_at)
                )
            self._tell(session, contract.parties.all, "contract", digest)
        return True

    def sign_contract(self, digest: str, name: str, signature: str) -> ContractRecord:
        """Keep the signature of a member; the contract as it stands then.

        Raises: ContractViolationError: CONTRACT_UNKNOWN: there is none of this hash that `name` is a member of.
        """
        with self._writing() as session:
            seat = session.get(ContractMember, (digest, name))
            if seat is None:
                raise contract_unknown()
            if seat.signature != signature:
                contract_id = self._contract(session, digest).signed.contract.contract_id
                self._note(Kind.CONTRACT_SIGNED, contract=digest, contract_id=contract_id, by=name)
                seat.signature, seat.signed = signature, self.now()
                session.flush()
                record = self._contract(session, digest)
                self._tell(session, record.signed.contract.parties.all, "signature", digest)
            return self._contract(session, digest)

    def add_event(self, digest: str, name: str, signed: SignedEvent) -> bool:
        """Keep an event that `name` signed; False if it is here already.

        Raises: ContractViolationError: CONTRACT_UNKNOWN, what `SignedEvent.verify` raises, EVENT_OTHER_PARTY,
            EVENT_NUMBER: this party has signed another event of this number.
        """
        document = signed.encode()
        with self._writing() as session:
            if session.get(ContractMember, (digest, name)) is None:
                raise contract_unknown()
            if session.get(StoredEvent, document_hash(document)) is not None:
                return False
            contract = self._contract(session, digest).signed.contract
            fact = signed.verify(contract)
            if fact.party != name:
                raise ContractViolationError("EVENT_OTHER_PARTY", "the event is another party's", "sign your own")
            taken = select(StoredEvent).where(
                StoredEvent.contract_hash == digest,
                StoredEvent.party == name,
                StoredEvent.sequence == fact.sequence,
            )
            if session.scalar(taken) is not None:
                raise ContractViolationError(
                    "EVENT_NUMBER", "this party has signed another event of this number", "number it one higher"
                )
            kind = _CONTRACT_EVENTS[fact.kind]
            self._note(kind, contract=digest, contract_id=contract.contract_id, by=name)
            session.add(
                StoredEvent(
                    hash=document_hash(document),
                    contract_hash=digest,
                    party=name,
                    sequence=fact.sequence,
                    document=document,
                    received=self.now(),
                )
            )
            self._tell(session, contract.parties.all, "event", digest)
        return True

    def contract(self, digest: str, name: str) -> ContractRecord:
        """A contract that `name` is a member of.

        Raises: ContractViolationError: CONTRACT_UNKNOWN.
        """
        with self._reading() as session:
            if session.get(ContractMember, (digest, name)) is None:
                raise contract_unknown()
            return self._contract(session, digest)

    def contracts(self, name: str) -> list[ContractRecord]:
        """Every contract that `name` is a member of, oldest first."""
        with self._reading() as session:
            digests = session.scalars(
                select(StoredContract.hash)
                .join(ContractMember, ContractMember.contract_hash == StoredContract.hash)
                .where(ContractMember.name == name)
                .order_by(StoredContract.received, StoredContract.hash)
            )
            return [self._contract(session, digest) for digest in list(digests)]

    # -- jobs

    def submit(self, submitter: str, signed: SignedJob) -> bool:
        """Keep a job document and tell its parties; False if these very bytes are here already.

        Raises: ContractViolationError: CONTRACT_UNKNOWN; JOB_EXISTS: another document of the same job and attempt;
            JOB_RUNNING: an earlier attempt goes on; JOBS_WAITING.
        """
        document, encoded = signed.document, signed.encode()
        with self._writing() as session:
            if session.get(ContractMember, (document.contract_hash, submitter)) is None:
                raise contract_unknown()
            if session.get(StoredJob, document_hash(encoded)) is not None:
                return False
            same = select(StoredJob).where(StoredJob.job == document.job)
            for other in session.scalars(same):
                if other.attempt >= document.attempt or other.contract_hash != document.contract_hash:
                    raise ContractViolationError(
                        "JOB_EXISTS", "another job has this name and attempt", "choose another name, or a later attempt"
                    )
                if other.state != JobState.ENDED.value:
                    raise ContractViolationError(
                        "JOB_RUNNING", "an earlier attempt of this job has not ended", "stop it first, or wait"
                    )
            going_on = select(func.count()).where(
                StoredJob.contract_hash == document.contract_hash, StoredJob.state != JobState.ENDED.value
            )
            if (session.scalar(going_on) or 0) >= MOST_GOING_ON:
                raise ContractViolationError(
                    "JOBS_WAITING", "too many jobs of this contract have not ended", "wait for them, or stop some"
                )
            self._note(
                Kind.JOB_ACCEPTED,
                job=document.job,
                attempt=document.attempt,
                contract=document.contract_hash,
                document=document_hash(encoded),
                by=submitter,
            )
            session.add(
                StoredJob(
                    document_hash=document_hash(encoded),
                    job=document.job,
                    attempt=document.attempt,
                    contract_hash=document.contract_hash,
                    kind=document.kind.value,
                    document=encoded,
                    submitter=submitter,
                    submitted=self.now(),
                    expires=document.expires,
                    state=JobState.SUBMITTED.value,
                    code=None,
                    ended=None,
                )
            )
            parties = self._contract(session, document.contract_hash).signed.contract.parties.all
            self._tell(session, parties, "job", document.job, document.attempt)
        return True

    def job(self, job: str, name: str, attempt: int | None = None) -> JobRecord:
        """An attempt, the latest if none is named, of a job of a contract that `name` is a member of.

        Raises: ContractViolationError: JOB_NOT_FOUND.
        """
        with self._reading() as session:
            return self._record(session, self._job(session, job, name, attempt))

    def jobs(self, name: str) -> list[JobRecord]:
        """The latest thousand attempts of jobs of the contracts that `name` is a member of, oldest first."""
        with self._reading() as session:
            rows = session.scalars(
                select(StoredJob)
                .join(ContractMember, ContractMember.contract_hash == StoredJob.contract_hash)
                .where(ContractMember.name == name)
                .order_by(StoredJob.submitted.desc(), StoredJob.job.desc(), StoredJob.attempt.desc())
                .limit(MOST_LISTED)
            )
            return [self._record(session, row) for row in reversed(list(rows))]

    def jobs_going_on(self) -> list[JobRecord]:
        """Every attempt that has not ended."""
        with self._reading() as session:
            rows = session.scalars(select(StoredJob).where(StoredJob.state != JobState.ENDED.value))
            return [self._record(session, row) for row in list(rows)]

    def report(self, job: str, name: str, attempt: int, stage: str, code: str | None) -> None:
        """Keep what the agent of `name` says about an attempt.

        Raises: ContractViolationError: JOB_NOT_FOUND; TransportError: TOO_MANY_REPORTS.
        """
        with self._writing() as session:
            row = self._job(session, job, name, attempt)
            own = select(func.count()).where(JobReport.document_hash == row.document_hash, JobReport.party == name)
            if (session.scalar(own) or 0) >= MOST_REPORTS:
                raise TransportError("TOO_MANY_REPORTS", "this agent has reported too often on this job", "ask the lab")
            session.add(
                JobReport(document_hash=row.document_hash, party=name, stage=stage, code=code, received=self.now())
            )

    def open_job(self, record: JobRecord) -> bool:
        """Mark a submitted attempt as running and tell its parties to start; False if it has ended meanwhile."""
        with self._writing() as session:
            row = session.get(StoredJob, record.hash)
            if row is None or row.state != JobState.SUBMITTED.value:
                return False
            self._note(Kind.JOB_STARTED, job=row.job, attempt=row.attempt)
            row.state = JobState.RUNNING.value
            self._tell(session, self._parties(session, row), "start", row.job, row.attempt)
        return True

    def end_job(self, record: JobRecord, code: str | None, *, stopped: bool = False) -> str | None:
        """End an attempt with `code`, None if well; the code it ends with, should it have ended before.

        stopped: tell the agents to stop its processes, not only that it is over.
        """
        with self._writing() as session:
            row = session.get(StoredJob, record.hash)
            if row is None:
                raise job_not_found()
            if row.state != JobState.ENDED.value:
                self._note(Kind.JOB_ENDED, job=row.job, attempt=row.attempt, code=code or "OK")
                row.state, row.code, row.ended = JobState.ENDED.value, code, self.now()
                kind = "stop" if stopped else "ended"
                self._tell(session, self._parties(session, row), kind, row.job, row.attempt, code)
            return row.code

    # -- for the operator, who is a member of no contract: states, stages and codes, never content

    def every_job(self) -> list[JobRecord]:
        """Every attempt of every job, oldest first."""
        with self._reading() as session:
            rows = session.scalars(select(StoredJob).order_by(StoredJob.submitted, StoredJob.job, StoredJob.attempt))
            return [self._record(session, row) for row in list(rows)]

    def label_owner(self, digest: str) -> str:
        """Who may submit jobs under a contract.

        Raises: ContractViolationError: CONTRACT_UNKNOWN.
        """
        with self._reading() as session:
            return self._contract(session, digest).signed.contract.parties.label_owner

    # -- heads of audit logs

    def pass_on(self, sender: str, receiver: str, kind: str, document: bytes) -> bool:
        """Put a head or a receipt into the queue of `receiver`; False if these very bytes are there already.

        Raises: ContractViolationError: NOT_A_MEMBER: the two have no contract together.
        """
        digest = hashlib.sha256(b"\0".join((sender.encode(), receiver.encode(), kind.encode(), document))).hexdigest()
        with self._writing() as session:
            if session.get(HeadNotice, digest) is not None:
                return False
            theirs = select(ContractMember.contract_hash).where(ContractMember.name == receiver)
            common = select(ContractMember).where(
                ContractMember.name == sender, ContractMember.contract_hash.in_(theirs)
            )
            if sender == receiver or session.scalars(common).first() is None:
                raise ContractViolationError(
                    "NOT_A_MEMBER", "the two institutions have no contract together", "propose one first"
                )
            pair = (HeadNotice.sender == sender, HeadNotice.receiver == receiver)
            newest = select(HeadNotice.hash).where(*pair).order_by(HeadNotice.received.desc(), HeadNotice.hash)
            for surplus in list(session.scalars(newest.offset(MOST_NOTICES - 1).limit(MOST_NOTICES))):
                session.execute(delete(HeadNotice).where(HeadNotice.hash == surplus))
                session.execute(delete(AgentRequest).where(AgentRequest.reference == surplus))
            session.add(
                HeadNotice(hash=digest, sender=sender, receiver=receiver, document=document, received=self.now())
            )
            self._tell(session, (receiver,), kind, digest)
        return True

    # -- the queue

    def requests(self, name: str, after: int) -> list[QueuedRequest]:
        """The next page of the queue of `name`, of numbers above `after`."""
        with self._reading() as session:
            rows = session.scalars(
                select(AgentRequest)
                .where(AgentRequest.receiver == name, AgentRequest.number > after)
                .order_by(AgentRequest.number)
                .limit(MOST_REQUESTS)
            )
            return [self._queued(session, row) for row in list(rows)]

    def queue_end(self, name: str) -> QueueEnd:
        """Where the queue of `name` stands."""
        highest = select(func.max(AgentRequest.number)).where(AgentRequest.receiver == name)
        with self._reading() as session:
            return QueueEnd(session.scalars(select(QueueEpoch.epoch)).one(), session.scalar(highest) or 0)

    def begin_queue_anew(self) -> None:
        """Have every agent read its queue again: this database is an older state than they may have seen."""
        with self._writing() as session:
            self._note(Kind.ADMINISTRATION, action="queue-begun-anew")
            row = session.scalars(select(QueueEpoch)).one()
            row.epoch = another_epoch(row.epoch)

    # -- inside a transaction

    def _tell(
        self,
        session: Session,
        receivers: Sequence[str],
        kind: str,
        reference: str,
        attempt: int = 0,
        code: str | None = None,
    ) -> None:
        for name in receivers:
            session.add(
                AgentRequest(receiver=name, kind=kind, reference=reference, attempt=attempt, code=code, at=self.now())
            )

    @staticmethod
    def _queued(session: Session, row: AgentRequest) -> QueuedRequest:
        document: str | None = None
        if row.kind == "job":
            found = session.scalar(
                select(StoredJob.document).where(StoredJob.job == row.reference, StoredJob.attempt == row.attempt)
            )
            document = found.decode() if found is not None else None
        elif row.kind in ("head", "receipt"):
            notice = session.get(HeadNotice, row.reference)
            document = notice.document.decode() if notice is not None else None
        return QueuedRequest(row.number, row.kind, row.reference, row.attempt, row.code, row.at, document)

    @staticmethod
    def _contract(session: Session, digest: str) -> ContractRecord:
        row = session.get(StoredContract, digest)
        if row is None:
            raise contract_unknown()
        contract = SignedContract.decode(row.document).contract
        seats = session.scalars(select(ContractMember).where(ContractMember.contract_hash == digest))
        given = {seat.name: seat.signature for seat in seats if seat.signature is not None}
        signatures = tuple((member.name, given[member.name]) for member in contract.members if member.name in given)
        events = session.scalars(
            select(StoredEvent)
            .where(StoredEvent.contract_hash == digest)
            .order_by(StoredEvent.received, StoredEvent.party, StoredEvent.sequence)
        )
        decoded = tuple(SignedEvent.decode(item.document) for item in events)
        return ContractRecord(SignedContract(contract, signatures), row.proposer, row.received, decoded)

    @staticmethod
    def _job(session: Session, job: str, name: str, attempt: int | None) -> StoredJob:
        query = (
            select(StoredJob)
            .join(ContractMember, ContractMember.contract_hash == StoredJob.contract_hash)
            .where(StoredJob.job == job, ContractMember.name == name)
            .order_by(StoredJob.attempt.desc())
        )
        row = session.scalars(query if attempt is None else query.where(StoredJob.attempt == attempt)).first()
        if row is None:
            raise job_not_found()
        return row

    def _parties(self, session: Session, row: StoredJob) -> tuple[str, ...]:
        return self._contract(session, row.contract_hash).signed.contract.parties.all

    @staticmethod
    def _record(session: Session, row: StoredJob) -> JobRecord:
        reports = session.scalars(
            select(JobReport).where(JobReport.document_hash == row.document_hash).order_by(JobReport.number)
        )
        return JobRecord(
            signed=SignedJob.decode(row.document),
            submitter=row.submitter,
            submitted=row.submitted,
            state=JobState(row.state),
            code=row.code,
            ended=row.ended,
            reports=tuple((item.party, item.stage, item.code, item.received) for item in reports),
        )


def contract_unknown() -> ContractViolationError:
    """There is no such contract for this institution."""
    return ContractViolationError("CONTRACT_UNKNOWN", "the lab has no such contract of this member", "compare the hash")


def job_not_found() -> ContractViolationError:
    """There is no such job."""
    return ContractViolationError("JOB_NOT_FOUND", "the lab has no such job of this member", "compare the job's name")
