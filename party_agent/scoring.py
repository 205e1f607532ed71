"""Scoring ids with a joint model, from one party's side: align -> score -> statement."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from party_agent import model
from party_agent.dataset import Table, read_ids, read_table
from party_agent.job import FromStored, Seat, Stages, ToStored
from party_agent.scorecard import GradeTable, pd_of_score
from protocols.errors import DataError
from protocols.fixed_point import IntArray
from protocols.scoring.label_owner import ScoringOwner, Totals
from protocols.scoring.messages import SCORE_STEPS
from protocols.scoring.provider import ScoringProvider

T = TypeVar("T")

SCORES_FILE = "scored.csv"


class ScoringJob(Stages):
    """Scores of the ids that all parties hold; a provider learns which of its ids those are, and nothing else.

    Args: data: own data; ids: at the label owner, the file of ids to be scored (None: all of its data).
    """

    def __init__(self, seat: Seat, data: Path, id_column: str, ids: Path | None) -> None:
        super().__init__(seat)
        self._data = data
        self._id_column = id_column
        self._ids = ids

    def run(self) -> None:
        """The job, one line a stage."""
        self._own = model.read(self._seat.folder)
        table, asked = self.read()
        aligned = self.align(table, training_share=1.0, minimum=1)
        totals = self.score(aligned.table)
        statement = self.state()
        if totals is not None:
            self.write(aligned.table, asked, totals.points)
        self._seat.log.write("scored", rows=len(aligned.table.ids), lines=len(statement.lines))

    def once(self, stage: str, make: Callable[[], T], to: ToStored[T], back: FromStored[T]) -> T:
        """Made now: a scoring that broke off is repeated as a whole, and keeps nothing for the next one to find."""
        return make()

    def read(self) -> tuple[Table, int]:
        """Own rows with the columns of the model (at the label owner, those asked for); how many ids were asked for."""
        table, _ = read_table(
            self._data, self._id_column, None, self._recipe, self._seat.name, model_columns=self._own.kinds
        )
        if self._ids is None:
            return table, len(table.ids)
        asked, _ = read_ids(self._ids, self._id_column)
        wanted = set(asked)
        rows = np.flatnonzero(np.array([name in wanted for name in table.ids]))
        if not len(rows):
            raise DataError(
                "IDS_UNKNOWN", "none of the ids to be scored is in this party's data", "compare the two id columns"
            )
        return table.take(rows), len(asked)

    def score(self, table: Table) -> Totals | None:
        """The masked sum; None at a provider."""
        points = self._own.points.partial_points(self._own.codes(table))
        request = self._seat.agreement.job.job
        if self.leads:
            owner = ScoringOwner(self._parties, request=request, points=points)
            return self.play("score", SCORE_STEPS, owner.play(), rows=len(table.ids))
        provider = ScoringProvider(
            self._seat.name,
            self._parties,
            request=request,
            points=points,
            entropy=self._seat.entropy,
            spent=self.spent,
        )
        self.play("score", SCORE_STEPS, provider.play(), rows=len(table.ids))
        return None

    def write(self, table: Table, asked: int, scores: IntArray) -> None:
        """id, score, probability of default and grade of each scored row."""
        grades = GradeTable.from_json(self._seat.folder.read_json("grades.json"))
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["id", "score", "pd", "grade"])
        pds = pd_of_score(scores, self._own.points.scaling)
        for name, value, pd, grade in zip(table.ids, scores.tolist(), pds.tolist(), grades.grade(scores), strict=True):
            rows.writerow([name, value, f"{pd:.6f}", grade])
        self._seat.folder.write(SCORES_FILE, text.getvalue().encode())
        self._seat.folder.write_json("scored.json", {"asked": asked, "scored": len(scores)})
