"""A job of this agent: its seat, and how stages are played one after the other on one ledger, timed and checkpointed.

What a stage is allowed to disclose is decided before it starts, by this agent's own copy of the contract.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from party_agent import artefacts, model
from party_agent.checkpoint import Blobs, Checkpoints
from party_agent.dataset import Finding, Table
from party_agent.policy import Agreement
from party_agent.store import FileSpentIndices, Folder, LedgerJournal, Log, journal_path
from protocols.disclosure import Ledger
from protocols.messages import Bounds
from protocols.psi.alignment import Alignment
from protocols.psi.blinding import Context
from protocols.psi.label_owner import LabelOwner as AligningOwner
from protocols.psi.messages import STEPS_OF as ALIGN_STEPS_OF
from protocols.psi.provider import Provider as AligningProvider
from protocols.recipe import Recipe
from protocols.resumption import STAGE as RESUME_STAGE
from protocols.resumption import STEPS as RESUME_STEPS
from protocols.resumption import ResumePoint, agree_on_resume_point
from protocols.session import Channel, OnProgress, Player, Progress, Script, Session, Step
from protocols.sharing import Entropy
from protocols.spent import FIRST_PASS_COLUMN, FURTHER_COLUMN, AttemptIndices
from protocols.statement import STAGE as STATEMENT_STAGE
from protocols.statement import STEPS as STATEMENT_STEPS
from protocols.statement import Statement, agree_on_statement

T = TypeVar("T")

ToStored = Callable[[T], artefacts.Stored]
FromStored = Callable[[dict[str, Any], Blobs], T]

MOST_FEATURES = 5_000

OnStage = Callable[[str, Progress], None]


Reader = Callable[[Recipe], tuple[Table, tuple[Finding, ...]]]  # own rows, by the job's recipe


@dataclass(frozen=True)
class Seat:
    """What a job needs of this agent.

    home: the agent's own folder; folder: the job's, which may be the same; row_choice: draws which aligned rows train,
    at the label owner: a CSPRNG, except in a simulation.
    """

    name: str
    agreement: Agreement
    identity: Ed25519PrivateKey
    channel: Channel
    home: Folder
    folder: Folder
    log: Log
    on_stage: OnStage
    row_choice: Entropy = os.urandom
    entropy: Entropy = os.urandom


@dataclass(frozen=True)
class AlignedTable:
    """Own rows in the common order, training rows first."""

    table: Table
    alignment: Alignment

    @property
    def is_training(self) -> NDArray[np.bool_]:
        """Which rows train."""
        return np.arange(len(self.table.ids)) < self.alignment.training_rows

    def others(self) -> dict[str, NDArray[np.bool_]]:
        """Which rows are in each other sample, as far as this party knows: 'rest' to who has no labels."""
        rest = ~self.is_training
        if self.table.label is None:
            return {"rest": rest}
        late = self.table.late
        return {"test": rest} if late is None else {"test": rest & ~late, "out_of_time": late}

    @property
    def training(self) -> Table:
        """The training rows."""
        return self.table.take(np.arange(self.alignment.training_rows))

    @property
    def test(self) -> Table:
        """The other rows."""
        return self.table.take(np.arange(self.alignment.training_rows, len(self.table.ids)))


class Stages:
    """Plays stages one after the other, on one ledger, and times them."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._contract = seat.agreement.contract
        self._recipe = seat.agreement.recipe
        self._parties = self._contract.parties
        job = seat.agreement.job
        self._journal = LedgerJournal(journal_path(seat.folder, job.job), job.attempt)
        self.ledger = Ledger(seat.name, most_opened=self._contract.caps.opened_numbers, journal=self._journal.write)
        self._spent_on_disk = FileSpentIndices(seat.folder.path / f"spent-{job.job}.tsv")
        self.spent = AttemptIndices(self._spent_on_disk, job.attempt)
        self._checkpoints = Checkpoints(seat.home, seat.folder, job.job, seat.agreement.context)
        self._resume_point: ResumePoint | None = None
        self.seconds: dict[str, float] = {}

    @property
    def leads(self) -> bool:
        """Whether this party is the label owner."""
        return self._seat.name == self._parties.label_owner

    def play(self, stage: str, steps: Sequence[Step], script: Script[T], *, rows: int = 0) -> T:
        """Play one stage. rows: of the aligned table, which bounds the messages."""
        bounds = Bounds(
            rows=rows,
            set_size=self._contract.caps.maximum_set_size,
            features=MOST_FEATURES,
            key_bytes=self._recipe.keys.bits // 8,
        )
        session = Session(self._seat.name, self._parties, stage, steps, bounds, self.ledger)
        self._seat.log.write("stage begins", stage=stage)
        begin = time.monotonic()
        result = Player(script, session, self._seat.channel, self._progress(stage)).run()
        self.seconds[stage] = time.monotonic() - begin
        self._seat.log.write("stage ends", stage=stage, seconds=round(self.seconds[stage], 3))
        return result

    def _progress(self, stage: str) -> OnProgress:
        self._seat.on_stage(stage, Progress("started", 0, 0))
        return lambda progress: self._seat.on_stage(stage, progress)

    def sign(self, digest: bytes) -> bytes:
        """Sign a digest as this institution."""
        return self._seat.identity.sign(b"concordat/statement/1\0" + digest)

    def verify(self, party: str, digest: bytes, signature: bytes) -> bool:
        """Whether `party` signed `digest`."""
        try:
            self._contract.member(party).key().verify(signature, b"concordat/statement/1\0" + digest)
        except InvalidSignature:
            return False
        return True

    def resume(self, stages: Sequence[str]) -> None:
        """Agree with all parties how many of `stages` need not be repeated, and what is spent for good."""
        completed = 0
        while completed < len(stages) and self._checkpoints.has(stages[completed]):
            completed += 1
        columns = self._spent_on_disk.count(FIRST_PASS_COLUMN)
        gradients = columns + self._spent_on_disk.count(f"{FURTHER_COLUMN}, attempt", prefix=True)
        script = agree_on_resume_point(self._seat.name, self._parties, completed, columns, gradients)
        point = self.play(RESUME_STAGE, RESUME_STEPS, script)
        self._resume_point = point
        kept = {stage: int(self._checkpoints.load(stage)[0]["attempt"]) for stage in stages[: point.completed]}
        for line in self._journal.earlier(kept):
            self.ledger.restore(line)
        for stage in stages[point.completed :]:
            self._checkpoints.drop(stage)
        if point.completed:
            self._seat.log.write("job goes on", stages=point.completed, attempt=self._seat.agreement.job.attempt)

    def once(self, stage: str, make: Callable[[], T], to: ToStored[T], back: FromStored[T]) -> T:
        """The artefact of a stage: from its checkpoint, or made now and checkpointed before the next stage begins."""
        if self._checkpoints.has(stage):
            header, blobs = self._checkpoints.load(stage)
            self.seconds[stage] = header["seconds"]
            return back(header["artefact"], blobs)
        artefact = make()
        header, blobs = to(artefact)
        attempt = self._seat.agreement.job.attempt
        outer = {"artefact": header, "seconds": self.seconds[stage], "attempt": attempt}
        self._checkpoints.save(stage, outer, blobs)
        return artefact

    def align(self, table: Table, *, training_share: float, minimum: int) -> AlignedTable:
        """Private set intersection; own rows in the common order."""
        context = Context(self._contract.hash(), self._seat.agreement.job.job)
        largest, engine = self._contract.caps.maximum_set_size, self._recipe.alignment.engine
        self._contract.check_set_size(len(table.ids))
        if self.leads:
            script = AligningOwner(
                table.ids,
                self._parties,
                context,
                self._seat.entropy,
                self._seat.row_choice,
                training_share,
                minimum,
                largest,
                None if table.late is None else ~table.late,
                engine,
            ).play()
        else:
            script = AligningProvider(
                self._seat.name, table.ids, self._parties, context, self._seat.entropy, minimum, largest, engine
            ).play()
        alignment = self.once(
            "align",
            lambda: self.play("align", ALIGN_STEPS_OF[engine], script),
            artefacts.alignment_to,
            artefacts.alignment_from,
        )
        return AlignedTable(table.take(alignment.rows), alignment)

    def state(self) -> Statement:
        """The statement of what each party learned, agreed and signed."""
        script = agree_on_statement(self._seat.name, self._parties, self.ledger, self.sign, self.verify)
        statement = self.play(STATEMENT_STAGE, STATEMENT_STEPS, script)
        model.write_statement(self._seat.folder, statement)
        return statement
