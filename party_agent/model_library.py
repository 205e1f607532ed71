"""The library of models of one institution: what it believes of each version, and what it says of it itself.

Records and events travel through the lab as contracts do and are verified here. A record is taken in only if it fits
what this agent kept of the training job itself: document, recipe, metrics. The state is that of the signed events; a
scoring job with a model that was rejected or retired is refused, whatever the lab says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from party_agent import lineage
from party_agent.contract_store import ContractStore
from party_agent.lab_port import LabPort
from party_agent.local_policy import LocalPolicy, ScoringModels
from party_agent.model_store import ModelStore
from party_agent.store import Folder
from party_agent.transport import load_identity
from protocols.audit import AuditLog, Event, Kind
from protocols.contract import Contract, SignedJob
from protocols.errors import ConcordatError, ContractViolationError, DataError
from protocols.model_record import (
    ENDED,
    Act,
    ModelEvent,
    ModelRecord,
    ModelState,
    PartLine,
    SignedModelEvent,
    approved_by_all,
    check_act,
    not_approved,
    replaces,
    state_of,
    went_live,
)

KINDS = {
    Act.SUBMIT: Kind.MODEL_SUBMITTED,
    Act.APPROVE: Kind.MODEL_APPROVED,
    Act.REJECT: Kind.MODEL_REJECTED,
    Act.GO_LIVE: Kind.MODEL_LIVE,
    Act.RETIRE: Kind.MODEL_RETIRED,
}
_UNDER_CONTRACT = frozenset({Act.SUBMIT, Act.APPROVE, Act.GO_LIVE})  # a model can be ended under any contract

Trained = Callable[[str, str], None]  # job, contract hash; raises unless that job made a model here


class ModelLibrary:
    """Args: me: this institution; trained: raises unless that training job ended well here; clock: Unix seconds."""

    def __init__(
        self,
        folder: Path,
        me: str,
        audit: AuditLog,
        contracts: ContractStore,
        trained: Trained,
        clock: Callable[[], float],
    ) -> None:
        self.store = ModelStore(folder)
        self._jobs = folder / "jobs"
        self._me = me
        self._key = load_identity(folder / "identity.pem")
        self._audit = audit
        self._contracts = contracts
        self._trained = trained
        self._clock = clock

    # -- what comes from the lab

    def fetch(self, lab: LabPort, digest: str) -> None:
        """Take over a model and the events on it, each verified here; deliver own events that the lab lacks.

        An event that is refused keeps no other from being taken; the first refusal is raised at the end.
        Raises: ContractViolationError: MODEL_RECORD_DIFFERS, MODEL_RECORD_MALFORMED, MODEL_UNKNOWN, MODEL_EXISTS, and
            as `receive`.
        """
        answer = lab.model(digest)
        record = ModelRecord.decode(str(answer["record"]).encode())
        if record.hash() != digest:
            raise _differs("the lab delivered another model than was asked for")
        told = [SignedModelEvent.decode(str(document).encode()) for document in answer["events"]]
        refusals = []
        for signed in sorted(told, key=_turn):
            try:
                self.receive(record, signed)
            except ConcordatError as error:
                refusals.append(error)
        for own in self.store.events(digest):
            if own.event.party == self._me and own not in told:
                lab.add_model_event(digest, own.encode().decode())
        if refusals:
            raise refusals[0]

    def receive(self, record: ModelRecord, signed: SignedModelEvent) -> None:
        """Keep an event, and the record with the one that submits it; an event that is here already changes nothing.

        Raises: DataError: CONTRACT_UNKNOWN. ContractViolationError: what `SignedModelEvent.verify` raises;
            EVENT_CONFLICT; EVENT_MISSING: nobody submitted this record; MODEL_NOT_APPROVED; MODEL_RECORD_DIFFERS.
        """
        contract = self._contracts.get(record.contract_hash).contract
        event = signed.verify(record, contract)
        present = self.store.has(event.model)
        kept = self.store.events(event.model)
        if not self.store.is_new(signed, kept):
            return
        if not present:
            if event.act is not Act.SUBMIT:
                raise ContractViolationError(
                    "EVENT_MISSING", "an event on a model came without its submission", "ask the label owner"
                )
            self.check_record(record)
        if event.act is Act.GO_LIVE and not approved_by_all(contract, (item.event for item in kept)):
            raise not_approved()
        self._keep(record, signed, present)

    def check_record(self, record: ModelRecord) -> None:
        """Raise unless a record says what this agent keeps of the training job itself.

        Raises: ContractViolationError: MODEL_UNKNOWN, MODEL_RECORD_DIFFERS; DataError: MODEL_MISSING.
        """
        self._trained(record.job, record.contract_hash)
        own = self.record_of(record.job, record.name, record.version, metrics=bool(record.metrics))
        if own != record:
            raise _differs("the record does not say what this institution's own folder says of the job")

    # -- what this institution says

    def record_of(self, job: str, name: str, version: int, *, metrics: bool) -> ModelRecord:
        """The record of the model that a training job made, from this party's own copies."""
        folder = Folder(self._jobs / job)
        data = (folder.path / "job.json").read_bytes()
        document = SignedJob.decode(data).document
        shared = folder.read_json("shared.json")
        try:
            code = str(shared["versions"]["concordat"])
        except (KeyError, TypeError) as error:
            raise DataError("MODEL_UNREADABLE", "the shared report is damaged", "restore it from a backup") from error
        return ModelRecord(
            name=name,
            version=version,
            contract_hash=document.contract_hash,
            job=job,
            job_document=hashlib.sha256(data).hexdigest(),
            recipe_hash=document.recipe_hash.hex(),
            code=code,
            metrics=lineage.opened_metrics(shared) if metrics else (),
        )

    def submit(self, job: str, contract_hash: str, name: str, reason: str, *, metrics: bool) -> ModelRecord:
        """Submit the model of a training job as the next version of `name`.

        Raises: ContractViolationError: MODEL_UNKNOWN, MODEL_ROLE, MODEL_EXISTS, or the contract is not in force.
        """
        self._trained(job, contract_hash)
        contract = self._contracts.in_force(contract_hash, int(self._clock()))
        alike = [item for item in self.store.all() if (item.name, item.contract_hash) == (name, contract_hash)]
        version = 1 + max((item.version for item in alike), default=0)
        record = self.record_of(job, name, version, metrics=metrics)
        signed = self._signed(record, contract, Act.SUBMIT, reason, PartLine())
        self._keep(record, signed, present=False)
        return record

    def act(self, record: ModelRecord, act: Act, reason: str) -> SignedModelEvent:
        """Approve, reject, take live or retire: the entry and our own copy first, then the lab is told by the caller.

        Raises: ContractViolationError: MODEL_STATE, MODEL_NOT_APPROVED, MODEL_ROLE, MODEL_RECORD_DIFFERS, or the
            contract is not in force.
        """
        if act in _UNDER_CONTRACT:
            contract = self._contracts.in_force(record.contract_hash, int(self._clock()))
        else:
            contract = self._contracts.get(record.contract_hash).contract
        check_act(act, self.state(record), approved=self.own_approval(record) is not None)
        own = PartLine()
        if act is Act.APPROVE:
            self.check_record(record)
            own = lineage.part_line(Folder(self._jobs / record.job))
        signed = self._signed(record, contract, act, reason, own)
        self._keep(record, signed, present=True)
        return signed

    # -- what follows from it

    def state(self, record: ModelRecord) -> ModelState:
        """What became of a model.

        Raises: ContractViolationError: as `state_of`.
        """
        contract = self._contracts.get(record.contract_hash).contract
        replaced = any(
            replaces(other, record) and went_live(contract, [item.event for item in self.store.events(other.hash())])
            for other in self.store.all()
        )
        return state_of(record, contract, self.store.events(record.hash()), replaced=replaced)

    def own_approval(self, record: ModelRecord) -> PartLine | None:
        """What this institution said of its own side when it approved; None before."""
        return self.approvals(record).get(self._me)

    def approvals(self, record: ModelRecord) -> Mapping[str, PartLine]:
        """What each party that has approved said of its own side."""
        events = (item.event for item in self.store.events(record.hash()))
        return {event.party: event.own for event in events if event.act is Act.APPROVE}

    def check_usable(self, job: str, contract_hash: str, policy: LocalPolicy) -> None:
        """Raise unless new rows may be scored with the model that a training job made.

        Raises: ContractViolationError: MODEL_RETIRED, MODEL_REJECTED, POLICY_MODEL, MODEL_ALTERED, EVENT_MISSING.
        """
        record = self.store.of_job(job, contract_hash)
        state = ModelState.DRAFT if record is None else self.state(record)
        if state in ENDED:
            raise ContractViolationError(
                f"MODEL_{state.value.upper()}", f"the model was {state.value}; nothing is scored with it", _OTHER
            )
        if policy.scoring_models is ScoringModels.LIVE and state is not ModelState.LIVE:
            raise ContractViolationError(
                "POLICY_MODEL", f"this institution scores with live models only, and this one is {state.value}", _OTHER
            )
        if record is not None and (approved := self.own_approval(record)) is not None:
            lineage.check_part(Folder(self._jobs / job), approved)

    def summary(self, record: ModelRecord) -> dict[str, Any]:
        """A model as commands print it."""
        return record.to_json() | {
            "hash": record.hash(),
            "state": self.state(record).value,
            "approved_by": sorted(self.approvals(record)),
        }

    def _signed(
        self, record: ModelRecord, contract: Contract, act: Act, reason: str, own: PartLine
    ) -> SignedModelEvent:
        digest = record.hash()
        sequence = 1 + sum(item.event.party == self._me for item in self.store.events(digest))
        event = ModelEvent(digest, self._me, act, sequence, int(self._clock()), reason, own)
        signed = SignedModelEvent.decode(event.sign(self._key).encode())  # as everybody else will read it
        signed.verify(record, contract)
        return signed

    def _keep(self, record: ModelRecord, signed: SignedModelEvent, present: bool) -> None:
        """Enter it into the audit log, then keep it."""
        event = signed.event
        fields: dict[str, int | str] = {
            "model": event.model,
            "name": record.name,
            "version": record.version,
            "contract": record.contract_hash,
            "by": event.party,
        }
        if event.act is Act.APPROVE:
            fields |= {"part": event.own.part, "data": event.own.data}
        if not present:
            self.store.check_free(record)
        self._audit.append(Event(KINDS[event.act], fields))
        if present:
            self.store.add(signed)
        else:
            self.store.put(record, signed)


_OTHER = "score with another model (`concordat-party model list`), or ask the party that ended it"


def _turn(signed: SignedModelEvent) -> int:
    """A submission is taken first, going live last: it counts after every approval."""
    return {Act.SUBMIT: 0, Act.GO_LIVE: 2}.get(signed.event.act, 1)


def _differs(sentence: str) -> ContractViolationError:
    return ContractViolationError("MODEL_RECORD_DIFFERS", sentence, "ask the label owner, out of band")
