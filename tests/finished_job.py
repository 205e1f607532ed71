"""What a training job that ended well leaves in an agent's folder, without running one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from party_agent import lineage, model
from party_agent.agent import JobEntry, JobState
from party_agent.dataset import Column, Table
from party_agent.model import OwnModel
from party_agent.scorecard import PointsTable
from party_agent.store import Folder
from protocols.binning.prebins import FeatureKind
from protocols.contract import SignedJob

ROWS = 400


def small_table(seed: int = 1) -> Table:
    """400 rows of two columns, one of text, with missing values in both."""
    random = np.random.default_rng(seed)
    amounts = np.where(random.random(ROWS) < 0.1, np.nan, random.normal(0, 5, ROWS).round(2))
    branches = np.array([None if x < 0.1 else f"branch-{int(9 * x)}" for x in random.random(ROWS)], dtype=object)
    return Table(
        ids=tuple(f"id-{i:04d}" for i in range(ROWS)),
        label=(random.random(ROWS) < 0.2).astype(np.int64),
        columns=(
            Column("amount", FeatureKind.NUMERIC, amounts),
            Column("branch", FeatureKind.CATEGORICAL, branches),
        ),
    )


def leave_finished_job(
    home: Path, signed: SignedJob, points: PointsTable, shared: dict[str, Any], table: Table | None = None
) -> Folder:
    """Write the folder of a training job into the agent's folder `home`: document, model, lineage, shared report."""
    document = signed.document
    folder = Folder(home / "jobs" / document.job)
    own = OwnModel(document.job, document.contract_hash, (), (), None, points, 1, 0.0)
    folder.write("job.json", signed.encode())
    model.write(folder, own)
    folder.write_json("shared.json", shared)
    lineage.write(Folder(home), folder, table or small_table())
    random = np.random.default_rng(7)
    codes = np.column_stack([random.integers(0, len(item.points), ROWS) for item in points.features])
    lineage.write_partial_scores(folder, points.partial_points(codes), np.arange(ROWS) < ROWS // 2)
    entry = JobEntry(document.job, 1, "train", document.contract_hash, JobState.FINISHED)
    folder.write_json("state.json", entry.to_json())
    return folder
