"""The lab's memory: institutions, invitations, certificates, and signed documents on their way between institutions.

Every method is one transaction. Writers take turns, so that the numbers of the request queue appear in their order: an
agent that has read up to a number has missed nothing below it. What is stored authorises nothing; agents check every
document themselves.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, Engine, create_engine, delete, event, func, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from coordinator.tables import (
    AgentRequest,
    CatalogueEntry,
    ContractMember,
    HeadNotice,
    Institution,
    InstitutionState,
    Invitation,
    IssuedCertificate,
    JobReport,
    JobState,
    StoredContract,
    StoredEvent,
    StoredJob,
    UsedNonce,
)
from protocols.audit import Event, Kind
from protocols.contract import SignedContract, SignedJob
from protocols.contract_state import EventKind, SignedEvent
from protocols.errors import ConcordatError, ContractViolationError, DataError, TransportError
from protocols.roles import COORDINATOR

MOST_REQUESTS = 100  # a page of the queue
MOST_REPORTS = 2_000  # of one party on one job
MOST_CONTRACTS = 10_000
MOST_NOTICES = 200  # heads and receipts of one institution for another; the oldest give way
MOST_LISTED = 1_000  # jobs in one answer
MOST_GOING_ON = 16  # jobs of one contract that have not ended
ACCEPTED, REFUSED, FINISHED, FAILED = "accepted", "refused", "finished", "failed"  # stages that move a job
_BUSY_MS = 10_000
_WRITER_LOCK = 0x436F6E63  # of PostgreSQL's advisory locks

Clock = Callable[[], float]
Recorder = Callable[[Event], object]  # of the audit log
_CONTRACT_EVENTS = {
    EventKind.SUSPEND: Kind.CONTRACT_SUSPENDED,
    EventKind.RESUME: Kind.CONTRACT_RESUMED,
    EventKind.REVOKE: Kind.CONTRACT_REVOKED,
}


@dataclass(frozen=True)
class IssuedFacts:
    """What the registry keeps of a certificate. serial: decimal digits; expires: Unix seconds."""

    serial: str
    expires: int


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
    """One line of an agent's queue. kind: contract, signature, event, job, start, stop, ended, head, receipt."""

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


def open_engine(url: str) -> Engine:
    """A database engine; SQLite in WAL mode, synced at every commit.

    Raises: DataError: DATABASE_URL_INVALID.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True, **_pool(url))
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise DataError(
            "DATABASE_URL_INVALID",
            "the URL of the database cannot be used, or its driver is not installed",
            "write postgresql+psycopg://user:password@host/database, and install concordat[postgres]",
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the schema to the version of this program; does nothing if it is there."""
    with translated(), engine.execution_options(write=True).begin() as connection:
        config = _alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check_schema(engine: Engine) -> None:
    """Raise unless the schema is that of this program.

    Raises: DataError: SCHEMA_OUTDATED, SCHEMA_UNKNOWN.
    """
    script = ScriptDirectory.from_config(_alembic())
    with translated(), engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == script.get_current_head():
        return
    if current is None or current in {revision.revision for revision in script.walk_revisions()}:
        raise DataError(
            "SCHEMA_OUTDATED", "the lab's database is of an older version", "back it up, then run `concordat upgrade`"
        )
    raise DataError(
        "SCHEMA_UNKNOWN", "the lab's database is of a newer version than this program", "install the newer version"
    )


class Registry:
    """Args: engine: of `open_engine`; clock: Unix seconds; record: of the lab's audit log, called when a change is
    certain but for the disk, before it is made: what cannot be recorded is not done.
    """

    def __init__(self, engine: Engine, clock: Clock = time.time, record: Recorder = lambda event: None) -> None:
        self.engine = engine
        self._clock = clock
        self._record_event = record
        self._writer = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change that this object made."""
        self._listeners.append(listener)

    def ping(self) -> None:
        """Raise unless the database answers."""
        with self._reading() as session:
            session.execute(text("SELECT 1"))

    # -- institutions

    def invite(self, name: str, token_hash: str, expires: int) -> None:
        """Keep a token's hash; an earlier unused token of the name is void from now on.

        Raises: ContractViolationError: NAME_TAKEN, NAME_REVOKED.
        """
        with self._writing() as session:
            self._check_name_free(session, name)
            self._note(Kind.ADMINISTRATION, action="institution-invited", subject=name)
            session.execute(delete(Invitation).where(Invitation.name == name, Invitation.used.is_(None)))
            session.add(
                Invitation(
                    token_hash=token_hash, name=name, created=self.now(), expires=expires, used=None, used_for=None
                )
            )

    def enrol(
        self, token_hash: str, name: str, identity: str, statement_hash: str, issue: Callable[[], IssuedFacts]
    ) -> None:
        """Spend the token and enter the institution; `issue` signs its certificate once everything else is right.

        The same statement again, as after an answer that was lost, is served again; another one is refused.
        Raises: TransportError: TOKEN_UNKNOWN, TOKEN_EXPIRED, TOKEN_USED, TOKEN_OTHER_NAME.
            ContractViolationError: NAME_TAKEN, NAME_REVOKED, IDENTITY_TAKEN.
        """
        now = self.now()
        with self._writing() as session:
            invitation = session.get(Invitation, token_hash)
            if invitation is None:
                raise _token("TOKEN_UNKNOWN", "the lab has not issued this token, or has issued a newer one")
            if invitation.name != name:
                raise _token("TOKEN_OTHER_NAME", "the token was issued to an institution of another name")
            if now >= invitation.expires:
                raise _token("TOKEN_EXPIRED", "the token has expired")
            if invitation.used is not None:
                if invitation.used_for != statement_hash:
                    raise _token("TOKEN_USED", "the token has been used")
                institution = session.get(Institution, name)
                if institution is None or institution.state != InstitutionState.ACTIVE.value:
                    raise _token("TOKEN_USED", "the token has been used")
                facts = issue()
                institution.serial, institution.certificate_expires = facts.serial, facts.expires
            else:
                self._check_name_free(session, name)
                if session.scalar(select(Institution).where(Institution.identity == identity)) is not None:
                    raise ContractViolationError(
                        "IDENTITY_TAKEN", "another institution is enrolled with this identity key", "make a new one"
                    )
                self._note(Kind.ADMINISTRATION, action="institution-enrolled", subject=name, digest=_key_hash(identity))
                facts = issue()
                invitation.used, invitation.used_for = now, statement_hash
                session.add(
                    Institution(
                        name=name,
                        identity=identity,
                        serial=facts.serial,
                        certificate_expires=facts.expires,
                        state=InstitutionState.ACTIVE.value,
                        joined=now,
                    )
                )
            self._add_certificate(session, name, facts)

    def renew(self, name: str, issue: Callable[[], IssuedFacts]) -> None:
        """Enter a new certificate of an active institution."""
        with self._writing() as session:
            institution = session.get(Institution, name)
            if institution is None or institution.state != InstitutionState.ACTIVE.value:
                raise member_revoked()
            self._note(Kind.ADMINISTRATION, action="certificate-renewed", subject=name)
            facts = issue()
            institution.serial, institution.certificate_expires = facts.serial, facts.expires
            self._add_certificate(session, name, facts)

    def revoke(self, name: str) -> None:
        """Shut an institution out, with all its certificates and tokens.

        Raises: TransportError: MEMBER_UNKNOWN.
        """
        with self._writing() as session:
            institution = session.get(Institution, name)
            if institution is None:
                raise TransportError(
                    "MEMBER_UNKNOWN", "no enrolled institution has this name", "see `concordat members`"
                )
            self._note(Kind.ADMINISTRATION, action="institution-revoked", subject=name)
            institution.state = InstitutionState.REVOKED.value
            session.execute(delete(Invitation).where(Invitation.name == name, Invitation.used.is_(None)))
            for item in session.scalars(select(IssuedCertificate).where(IssuedCertificate.name == name)):
                item.revoked = item.revoked or self.now()

    def institutions(self) -> list[Institution]:
        """All, by name."""
        with self._reading() as session:
            return list(session.scalars(select(Institution).order_by(Institution.name)))

    def is_active(self, name: str) -> bool:
        """Whether an institution of this name is enrolled and not revoked."""
        with self._reading() as session:
            institution = session.get(Institution, name)
            return institution is not None and institution.state == InstitutionState.ACTIVE.value

    def identity_of(self, name: str) -> Ed25519PublicKey | None:
        """The identity key of an active institution, or None.

        Raises: TransportError: MEMBER_REVOKED.
        """
        with self._reading() as session:
            institution = session.get(Institution, name)
        if institution is None:
            return None
        if institution.state != InstitutionState.ACTIVE.value:
            raise member_revoked()
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(institution.identity))

    def revoked_certificates(self) -> list[tuple[int, int]]:
        """(serial number, Unix second) of every revoked certificate that has not expired."""
        with self._reading() as session:
            rows = session.scalars(
                select(IssuedCertificate).where(
                    IssuedCertificate.revoked.is_not(None), IssuedCertificate.expires > self.now()
                )
            )
            return [(int(row.serial), row.revoked or 0) for row in rows]

    def spend(self, name: str, nonce: str, expires: int) -> bool:
        """See `protocols.signed_request.RequestNonces.spend`."""
        key = f"{name}:{nonce}"
        with self._writing(quiet=True) as session:
            if session.get(UsedNonce, key) is not None:
                return False
            session.add(UsedNonce(nonce=key, expires=expires))
        return True

    def forget_nonces(self) -> None:
        """Drop the nonces whose window is over."""
        with self._writing(quiet=True) as session:
            session.execute(delete(UsedNonce).where(UsedNonce.expires < self.now() - 60))

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

    def _check_name_free(self, session: Session, name: str) -> None:
        institution = session.get(Institution, name)
        if institution is None:
            return
        if institution.state == InstitutionState.REVOKED.value:
            raise ContractViolationError(
                "NAME_REVOKED", "an institution of this name was revoked; its name is not given again", "choose another"
            )
        raise ContractViolationError("NAME_TAKEN", "an institution of this name is enrolled", "choose another name")

    def _add_certificate(self, session: Session, name: str, facts: IssuedFacts) -> None:
        session.add(
            IssuedCertificate(serial=facts.serial, name=name, issued=self.now(), expires=facts.expires, revoked=None)
        )

    def _note(self, kind: Kind, **fields: int | str) -> None:
        self._record_event(Event(kind, fields))

    # -- transactions

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _writing(self, *, quiet: bool = False) -> Iterator[Session]:
        engine = self.engine.execution_options(write=True)
        with translated(), self._writer, Session(engine, expire_on_commit=False) as session, session.begin():
            if engine.dialect.name == "postgresql":
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})
            yield session
        if not quiet:
            for listener in self._listeners:
                listener()


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the database as errors with a code; what the driver says stays out, it may quote values.

    Raises: TransportError: DATABASE_UNAVAILABLE, DISK_FULL.
    """
    try:
        yield
    except ConcordatError:
        raise
    except DBAPIError as error:
        origin = error.orig
        if getattr(origin, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(origin, "sqlstate", "") == "53100":
            raise TransportError(
                "DISK_FULL", "the disk of the lab's database is full; nothing was stored", "make room on the disk"
            ) from None
        raise _unavailable() from None
    except SQLAlchemyError:
        raise _unavailable() from None


def contract_unknown() -> ContractViolationError:
    """There is no such contract for this institution."""
    return ContractViolationError("CONTRACT_UNKNOWN", "the lab has no such contract of this member", "compare the hash")


def member_revoked() -> TransportError:
    """The institution was shut out."""
    return TransportError(
        "MEMBER_REVOKED", "this institution's enrolment was revoked", "ask the operator of the lab for the reason"
    )


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _pool(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {}
    pool: dict[str, Any] = {"pool_size": 10, "max_overflow": 10, "pool_timeout": 10}
    if url.startswith("postgresql+psycopg"):  # a database that is gone is noticed in seconds, not by TCP in minutes
        waits = {"connect_timeout": 5, "tcp_user_timeout": 15_000, "options": "-c statement_timeout=30000"}
        pool["connect_args"] = waits
    return pool


def _on_sqlite_connect(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _key_hash(identity: str) -> str:
    return hashlib.sha256(bytes.fromhex(identity)).hexdigest()


def _token(code: str, sentence: str) -> TransportError:
    return TransportError(code, sentence, "ask the lab's operator for a new token: `concordat invite NAME`")


def _unavailable() -> TransportError:
    return TransportError(
        "DATABASE_UNAVAILABLE", "the lab's database does not answer", "start the database; the lab recovers by itself"
    )


def job_not_found() -> ContractViolationError:
    """There is no such job."""
    return ContractViolationError("JOB_NOT_FOUND", "the lab has no such job of this member", "compare the job's name")
