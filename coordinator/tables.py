"""The lab's database: who is enrolled, and the signed documents that institutions send one another through the lab.

Documents are kept as the bytes that came in; nothing here authorises anything. Times are Unix seconds, UTC; hashes
and keys are small hexadecimal digits. The schema is made by `coordinator/migrations`, never by `create_all`.
"""

from __future__ import annotations

from enum import Enum

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_BIG = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only where the type is INTEGER


class Base(DeclarativeBase):
    """Every table of the lab."""


class InstitutionState(Enum):
    """Whether an institution may use the relay and the API."""

    ACTIVE = "active"
    REVOKED = "revoked"


class JobState(Enum):
    """Where a job stands: asked for; accepted by all and open at the relay; over, with a code."""

    SUBMITTED = "submitted"
    RUNNING = "running"
    ENDED = "ended"


class Institution(Base):
    """An enrolled institution. serial: of its latest certificate, in decimal digits."""

    __tablename__ = "institutions"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), unique=True)
    serial: Mapped[str] = mapped_column(String(64))
    certificate_expires: Mapped[int] = mapped_column(_BIG)
    state: Mapped[str] = mapped_column(String(16))
    joined: Mapped[int] = mapped_column(_BIG)


class Invitation(Base):
    """A token that was printed. used_for: SHA-256 of the enrolment statement it was used for."""

    __tablename__ = "invitations"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), index=True)
    created: Mapped[int] = mapped_column(_BIG)
    expires: Mapped[int] = mapped_column(_BIG)
    used: Mapped[int | None] = mapped_column(_BIG)
    used_for: Mapped[str | None] = mapped_column(String(64))


class IssuedCertificate(Base):
    """Every client certificate that was signed; revoked: when, or NULL."""

    __tablename__ = "certificates"

    serial: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), index=True)
    issued: Mapped[int] = mapped_column(_BIG)
    expires: Mapped[int] = mapped_column(_BIG)
    revoked: Mapped[int | None] = mapped_column(_BIG)


class CatalogueEntry(Base):
    """Metadata of one data set, as its owner published it."""

    __tablename__ = "catalogue"

    owner: Mapped[str] = mapped_column(String(32), primary_key=True)
    dataset: Mapped[str] = mapped_column(String(128), primary_key=True)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    published: Mapped[int] = mapped_column(_BIG)


class StoredContract(Base):
    """A proposed contract: the `SignedContract` bytes as proposed; later signatures are rows of their own."""

    __tablename__ = "contracts"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    proposer: Mapped[str] = mapped_column(String(32))
    received: Mapped[int] = mapped_column(_BIG)


class ContractMember(Base):
    """Who may see a contract; signature: hex, NULL until the member has signed."""

    __tablename__ = "contract_members"

    contract_hash: Mapped[str] = mapped_column(ForeignKey("contracts.hash"), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    signature: Mapped[str | None] = mapped_column(String(128))
    signed: Mapped[int | None] = mapped_column(_BIG)


class StoredEvent(Base):
    """A `SignedEvent`: suspend, resume, revoke."""

    __tablename__ = "contract_events"
    __table_args__ = (UniqueConstraint("contract_hash", "party", "sequence"),)

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    contract_hash: Mapped[str] = mapped_column(ForeignKey("contracts.hash"), index=True)
    party: Mapped[str] = mapped_column(String(32))
    sequence: Mapped[int] = mapped_column(_BIG)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    received: Mapped[int] = mapped_column(_BIG)


class StoredModel(Base):
    """A version of a model: its `ModelRecord` bytes, which are hashes and opened metrics. hash: the record's own."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("contract_hash", "name", "version"), UniqueConstraint("contract_hash", "job"))

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    contract_hash: Mapped[str] = mapped_column(ForeignKey("contracts.hash"))
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(_BIG)
    job: Mapped[str] = mapped_column(String(64))
    document: Mapped[bytes] = mapped_column(LargeBinary)
    received: Mapped[int] = mapped_column(_BIG)


class StoredModelEvent(Base):
    """A `SignedModelEvent`: submit, approve, reject, go-live, retire."""

    __tablename__ = "model_events"
    __table_args__ = (UniqueConstraint("model", "party", "sequence"),)

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.hash"))
    party: Mapped[str] = mapped_column(String(32))
    sequence: Mapped[int] = mapped_column(_BIG)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    received: Mapped[int] = mapped_column(_BIG)


class StoredJob(Base):
    """One attempt of one job, as its `SignedJob` bytes; the same bytes again are the same row."""

    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("job", "attempt"),)

    document_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    job: Mapped[str] = mapped_column(String(64), index=True)
    attempt: Mapped[int] = mapped_column(_BIG)
    contract_hash: Mapped[str] = mapped_column(ForeignKey("contracts.hash"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    document: Mapped[bytes] = mapped_column(LargeBinary)
    submitter: Mapped[str] = mapped_column(String(32))
    submitted: Mapped[int] = mapped_column(_BIG)
    expires: Mapped[int] = mapped_column(_BIG)
    state: Mapped[str] = mapped_column(String(16), index=True)
    code: Mapped[str | None] = mapped_column(String(48))
    ended: Mapped[int | None] = mapped_column(_BIG)


class JobReport(Base):
    """What an agent said about a job: a stage, and a code where it ended or was refused."""

    __tablename__ = "job_reports"

    number: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=True)
    document_hash: Mapped[str] = mapped_column(ForeignKey("jobs.document_hash"), index=True)
    party: Mapped[str] = mapped_column(String(32))
    stage: Mapped[str] = mapped_column(String(48))
    code: Mapped[str | None] = mapped_column(String(48))
    received: Mapped[int] = mapped_column(_BIG)


class HeadNotice(Base):
    """A signed head of an audit log, or a receipt for one, for another institution's agent. hash: of these bytes."""

    __tablename__ = "head_notices"
    __table_args__ = (Index("ix_head_notices_sender_receiver", "sender", "receiver"),)

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    sender: Mapped[str] = mapped_column(String(32))
    receiver: Mapped[str] = mapped_column(String(32))
    document: Mapped[bytes] = mapped_column(LargeBinary)
    received: Mapped[int] = mapped_column(_BIG)


class AgentRequest(Base):
    """One line of the queue that an agent reads by long poll; reference: a job, or hash of a document."""

    __tablename__ = "requests"
    __table_args__ = (Index("ix_requests_receiver_number", "receiver", "number"), {"sqlite_autoincrement": True})

    number: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=True)
    receiver: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16))
    reference: Mapped[str] = mapped_column(String(64))
    attempt: Mapped[int] = mapped_column(_BIG)
    code: Mapped[str | None] = mapped_column(String(48))
    at: Mapped[int] = mapped_column(_BIG)


class QueueEpoch(Base):
    """One row: drawn when the queue is made, and anew when its numbers may begin again. `queue_place.py` tells."""

    __tablename__ = "queue_epoch"

    epoch: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class UsedNonce(Base):
    """Nonces of signed requests inside their window of validity."""

    __tablename__ = "nonces"

    nonce: Mapped[str] = mapped_column(String(128), primary_key=True)
    expires: Mapped[int] = mapped_column(_BIG, index=True)
