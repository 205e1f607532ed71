"""The library of models at the lab: records and signed events on their way between institutions, and what they say.

Hashes and opened metrics only. What is stored authorises nothing; agents check every document themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from coordinator.registry import Registry, contract_unknown, document_hash
from coordinator.tables import ContractMember, StoredModel, StoredModelEvent
from protocols.audit import Kind
from protocols.contract import Contract
from protocols.errors import ConcordatError, ContractViolationError
from protocols.model_record import Act, ModelRecord, SignedModelEvent, replaces, state_of, went_live

MOST_MODELS = 1_000  # of one contract
MOST_EVENTS = 100  # of one party on one model
_KINDS = {
    Act.SUBMIT: Kind.MODEL_SUBMITTED,
    Act.APPROVE: Kind.MODEL_APPROVED,
    Act.REJECT: Kind.MODEL_REJECTED,
    Act.GO_LIVE: Kind.MODEL_LIVE,
    Act.RETIRE: Kind.MODEL_RETIRED,
}


@dataclass(frozen=True)
class StoredVersion:
    """A model with the events that have come in. state: as they say; the code of an error where they say nothing."""

    record: ModelRecord
    events: tuple[SignedModelEvent, ...]
    received: int
    state: str


class ModelRegistry(Registry):
    """The registry with the library of models."""

    def submit_model(self, name: str, record: ModelRecord, signed: SignedModelEvent) -> bool:
        """Keep a record with the event that submits it and tell its parties; False if it is here already.

        Raises: ContractViolationError: CONTRACT_UNKNOWN, what `SignedModelEvent.verify` raises, EVENT_OTHER_PARTY,
            MODEL_STATE: the event does not submit it; MODEL_EXISTS, MODELS_FULL.
        """
        digest = record.hash()
        with self._writing() as session:
            contract = self._contract_of(session, record.contract_hash, name)
            if session.get(StoredModel, digest) is not None:
                return False
            fact = signed.verify(record, contract)
            _check_own(fact.party, name)
            if fact.act is not Act.SUBMIT:
                raise ContractViolationError("MODEL_STATE", "a record comes with the event that submits it", _SUBMIT)
            alike = select(StoredModel).where(StoredModel.contract_hash == record.contract_hash)
            for other in session.scalars(alike):
                if (other.name, other.version) == (record.name, record.version) or other.job == record.job:
                    raise ContractViolationError(
                        "MODEL_EXISTS", "another model has this name and version, or this job", "choose another"
                    )
            if (session.scalar(select(func.count()).select_from(alike.subquery())) or 0) >= MOST_MODELS:
                raise ContractViolationError("MODELS_FULL", "the lab holds as many models as it can", "ask the lab")
            self._note_model(record, signed)
            session.add(
                StoredModel(
                    hash=digest,
                    contract_hash=record.contract_hash,
                    name=record.name,
                    version=record.version,
                    job=record.job,
                    document=record.encode(),
                    received=self.now(),
                )
            )
            session.flush()
            self._add(session, contract, signed)
        return True

    def add_model_event(self, digest: str, name: str, signed: SignedModelEvent) -> bool:
        """Keep an event that `name` signed; False if it is here already.

        Raises: ContractViolationError: MODEL_NOT_FOUND, what `SignedModelEvent.verify` raises, EVENT_OTHER_PARTY,
            EVENT_NUMBER: this party has signed another event of this number, or too many.
        """
        with self._writing() as session:
            record, contract = self._model(session, digest, name)
            if session.get(StoredModelEvent, document_hash(signed.encode())) is not None:
                return False
            fact = signed.verify(record, contract)
            _check_own(fact.party, name)
            taken = select(StoredModelEvent).where(
                StoredModelEvent.model == digest,
                StoredModelEvent.party == name,
                StoredModelEvent.sequence == fact.sequence,
            )
            if session.scalar(taken) is not None or fact.sequence > MOST_EVENTS:
                raise ContractViolationError(
                    "EVENT_NUMBER", "this party has signed another event of this number", "number it one higher"
                )
            self._note_model(record, signed)
            self._add(session, contract, signed)
        return True

    def model(self, digest: str, name: str) -> StoredVersion:
        """A model of a contract that `name` is a member of.

        Raises: ContractViolationError: MODEL_NOT_FOUND.
        """
        with self._reading() as session:
            self._model(session, digest, name)
            return self._version(session, session.get_one(StoredModel, digest))

    def models(self, name: str | None = None) -> list[StoredVersion]:
        """The models of the contracts that `name` is a member of, oldest first; all of them for the operator."""
        wanted = select(StoredModel).order_by(StoredModel.received, StoredModel.name, StoredModel.version)
        if name is not None:
            theirs = select(ContractMember.contract_hash).where(ContractMember.name == name)
            wanted = wanted.where(StoredModel.contract_hash.in_(theirs))
        with self._reading() as session:
            return [self._version(session, row) for row in list(session.scalars(wanted))]

    # -- inside a transaction

    def _contract_of(self, session: Session, digest: str, name: str) -> Contract:
        if session.get(ContractMember, (digest, name)) is None:
            raise contract_unknown()
        return self._contract(session, digest).signed.contract

    def _model(self, session: Session, digest: str, name: str) -> tuple[ModelRecord, Contract]:
        row = session.get(StoredModel, digest)
        if row is None or session.get(ContractMember, (row.contract_hash, name)) is None:
            raise ContractViolationError(
                "MODEL_NOT_FOUND", "the lab has no such model of this member", "compare the hash"
            )
        return ModelRecord.decode(row.document), self._contract(session, row.contract_hash).signed.contract

    def _version(self, session: Session, row: StoredModel) -> StoredVersion:
        record, events = ModelRecord.decode(row.document), self._events(session, row.hash)
        contract = self._contract(session, row.contract_hash).signed.contract
        alike = select(StoredModel).where(StoredModel.contract_hash == row.contract_hash, StoredModel.name == row.name)
        replaced = any(
            replaces(ModelRecord.decode(other.document), record)
            and went_live(contract, [item.event for item in self._events(session, other.hash)])
            for other in session.scalars(alike)
        )
        try:
            state = state_of(record, contract, events, replaced=replaced).value
        except ConcordatError as error:
            state = error.code
        return StoredVersion(record, events, row.received, state)

    @staticmethod
    def _events(session: Session, digest: str) -> tuple[SignedModelEvent, ...]:
        order = (StoredModelEvent.received, StoredModelEvent.party, StoredModelEvent.sequence)
        rows = session.scalars(select(StoredModelEvent).where(StoredModelEvent.model == digest).order_by(*order))
        return tuple(SignedModelEvent.decode(row.document) for row in rows)

    def _add(self, session: Session, contract: Contract, signed: SignedModelEvent) -> None:
        event, document = signed.event, signed.encode()
        session.add(
            StoredModelEvent(
                hash=document_hash(document),
                model=event.model,
                party=event.party,
                sequence=event.sequence,
                document=document,
                received=self.now(),
            )
        )
        self._tell(session, contract.parties.all, "model", event.model)

    def _note_model(self, record: ModelRecord, signed: SignedModelEvent) -> None:
        event = signed.event
        named: dict[str, int | str] = {"model": event.model, "name": record.name, "version": record.version}
        own = {"part": event.own.part, "data": event.own.data} if event.act is Act.APPROVE else {}
        self._note(_KINDS[event.act], **named, contract=record.contract_hash, by=event.party, **own)


def _check_own(party: str, sender: str) -> None:
    if party != sender:
        raise ContractViolationError("EVENT_OTHER_PARTY", "the event is another party's", "sign your own")


_SUBMIT = "submit it with `concordat-party model submit`"
