"""Scoring ids with a joint model, from one party's side: align -> score -> statement."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from party_agent import model
from party_agent.dataset import Table
from party_agent.model import OwnModel
from party_agent.reasons import explain, opened_dimensions
from party_agent.scorecard import GradeTable, pd_of_score
from party_agent.stages import FromStored, Reader, Seat, Stages, ToStored
from party_agent.store import Folder
from protocols.errors import DataError
from protocols.scoring.label_owner import ScoringOwner, Totals
from protocols.scoring.messages import SCORE_STEPS
from protocols.scoring.provider import ScoringProvider
from protocols.session import Progress

T = TypeVar("T")

SCORES_FILE = "scored.csv"

Asked = Callable[[], Sequence[str]]  # canonical ids


class ScoringJob(Stages):
    """Scores of the ids that all parties hold; a provider learns which of its ids those are, and nothing else.

    Args: trained: the folder of the training job whose model is used; reader: own rows with the columns of that model;
        asked: at the label owner, the ids to be scored (None: all of its rows).
    """

    def __init__(self, seat: Seat, trained: Folder, reader: Callable[[OwnModel], Reader], asked: Asked | None) -> None:
        super().__init__(seat)
        self._trained = trained
        self._reader = reader
        self._asked = asked

    def run(self) -> None:
        """The job, one line a stage."""
        job = self._seat.agreement.job
        self._own = model.read_trained(self._trained, job.model, job.contract_hash)
        if self.leads:
            self._grades = GradeTable.from_json(self._trained.read_json("grades.json"))
        table, asked = self.read()
        self.resume(())
        aligned = self.align(table, training_share=1.0, minimum=1)
        totals = self.score(aligned.table)
        statement = self.state()
        if totals is not None:
            self.write(aligned.table, asked, totals)
        self._seat.log.write("scored", rows=len(aligned.table.ids), lines=len(statement.lines))

    def once(self, stage: str, make: Callable[[], T], to: ToStored[T], back: FromStored[T]) -> T:
        """Made now: a scoring that broke off is repeated as a whole, and keeps nothing for the next one to find."""
        return make()

    def read(self) -> tuple[Table, int]:
        """Own rows with the columns of the model (at the label owner, those asked for); how many ids were asked for."""
        self._seat.on_stage("read", Progress("started", 0, 0))
        table, _ = self._reader(self._own)(self._recipe)
        if self._asked is None:
            return table, len(table.ids)
        asked = self._asked()
        wanted = set(asked)
        rows = np.flatnonzero(np.array([name in wanted for name in table.ids]))
        if not len(rows):
            raise DataError(
                "IDS_UNKNOWN", "none of the ids to be scored is in this party's data", "compare the two id columns"
            )
        return table.take(rows), len(asked)

    def score(self, table: Table) -> Totals | None:
        """The masked sum; None at a provider."""
        self._codes = self._own.codes(table)
        points = self._own.points.partial_points(self._codes)
        request = self._seat.agreement.job.job
        if self.leads:
            opens = "dimensions" in self._recipe.open
            owner = ScoringOwner(self._parties, request=request, points=points, dimensions=opens)
            return self.play("score", SCORE_STEPS, owner.play(), rows=len(table.ids))
        provider = ScoringProvider(
            self._seat.name,
            self._parties,
            request=request,
            points=points,
            entropy=self._seat.entropy,
            spent=self.spent,
            dimensions=opened_dimensions(self._own, self._codes, self._recipe),
        )
        self.play("score", SCORE_STEPS, provider.play(), rows=len(table.ids))
        return None

    def write(self, table: Table, asked: int, totals: Totals) -> None:
        """id, score, probability of default, grade and explanation of each scored row."""
        scores = totals.points
        explained = explain(self._own, self._codes, totals.dimensions, self._recipe.scorecard)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["id", "score", "pd", "grade", *explained.header])
        pds = pd_of_score(scores, self._own.points.scaling)
        grades = self._grades.grade(scores)
        for name, value, pd, grade, cells in zip(
            table.ids, scores.tolist(), pds.tolist(), grades, explained.cells(), strict=True
        ):
            rows.writerow([name, value, f"{pd:.6f}", grade, *cells])
        self._seat.folder.write(SCORES_FILE, text.getvalue().encode())
        self._seat.folder.write_json("scored.json", {"asked": asked, "scored": len(scores)})
