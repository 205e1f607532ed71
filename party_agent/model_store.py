"""Records of models and the events on them, in the agent's database. What is put here was verified before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import insert, select

from party_agent.agent_store import open_store, store_errors
from party_agent.tables import model_events, models
from protocols.errors import ContractViolationError, DataError
from protocols.model_record import ModelRecord, SignedModelEvent


class ModelStore:
    """The models of the institution in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._engine = open_store(folder)

    def close(self) -> None:
        """Let the database go."""
        self._engine.dispose()

    def all(self) -> list[ModelRecord]:
        """Every record, by name and version."""
        with store_errors(), self._engine.connect() as connection:
            found = connection.execute(select(models.c.record).order_by(models.c.name, models.c.version)).scalars()
            return [ModelRecord.decode(text.encode()) for text in found]

    def of_job(self, job: str, contract_hash: str) -> ModelRecord | None:
        """The record of the model that a training job made; None if there is none."""
        wanted = (models.c.job == job, models.c.contract_hash == contract_hash)
        with store_errors(), self._engine.connect() as connection:
            text = connection.execute(select(models.c.record).where(*wanted)).scalar()
            return None if text is None else ModelRecord.decode(text.encode())

    def get(self, reference: str) -> ModelRecord:
        """The record of this hash, of the only one that begins so, of this job, or of NAME:VERSION.

        Raises: DataError: MODEL_NOT_FOUND.
        """
        records = self.all()
        found = [item for item in records if reference in (item.job, f"{item.name}:{item.version}", item.hash())]
        found = found or [item for item in records if len(reference) >= 6 and item.hash().startswith(reference)]
        if len(found) != 1:
            raise DataError(
                "MODEL_NOT_FOUND",
                "no such model is kept here, or several",
                "see `concordat-party model list`; name a job, NAME:VERSION, or more of a hash",
            )
        return found[0]

    def has(self, digest: str) -> bool:
        """Whether the record of this hash is here."""
        return any(item.hash() == digest for item in self.all())

    def events(self, digest: str) -> tuple[SignedModelEvent, ...]:
        """The events on a model."""
        wanted = select(model_events.c.document).where(model_events.c.model == digest)
        with store_errors(), self._engine.connect() as connection:
            order = (model_events.c.party, model_events.c.sequence)
            found = connection.execute(wanted.order_by(*order)).scalars()
            return tuple(SignedModelEvent.decode(text.encode()) for text in found)

    def check_free(self, record: ModelRecord) -> None:
        """Raise if another record of this name and version, or of this job, is here.

        Raises: ContractViolationError: MODEL_EXISTS.
        """
        for other in self.all():
            same = (other.name, other.version) == (record.name, record.version) or other.job == record.job
            if same and other.contract_hash == record.contract_hash:
                raise ContractViolationError(
                    "MODEL_EXISTS",
                    "another model has this name and version, or this job was submitted before",
                    "choose another job; a job is submitted once",
                )

    def put(self, record: ModelRecord, submission: SignedModelEvent) -> None:
        """Keep a new record with the event that submits it."""
        row = {
            "hash": record.hash(),
            "contract_hash": record.contract_hash,
            "name": record.name,
            "version": record.version,
            "job": record.job,
            "record": record.encode().decode(),
        }
        with store_errors(), self._engine.begin() as connection:
            connection.execute(insert(models).values(row))
            connection.execute(insert(model_events).values(_event(submission)))

    @staticmethod
    def is_new(signed: SignedModelEvent, kept: Sequence[SignedModelEvent]) -> bool:
        """Whether an event is not among those kept.

        Raises: ContractViolationError: EVENT_CONFLICT: its party signed another event of this number.
        """
        place = (signed.event.party, signed.event.sequence)
        for other in kept:
            if (other.event.party, other.event.sequence) == place:
                if other != signed:
                    raise ContractViolationError(
                        "EVENT_CONFLICT", "a party signed two events under one number", "ask that party, out of band"
                    )
                return False
        return True

    def add(self, signed: SignedModelEvent) -> None:
        """Keep a new event."""
        with store_errors(), self._engine.begin() as connection:
            connection.execute(insert(model_events).values(_event(signed)))


def _event(signed: SignedModelEvent) -> dict[str, object]:
    event = signed.event
    return {
        "model": event.model,
        "party": event.party,
        "sequence": event.sequence,
        "document": signed.encode().decode(),
    }
