"""What a finished job left in a party's folder, read for a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from party_agent import model
from party_agent.model import OwnModel
from party_agent.scorecard import GradeTable
from party_agent.scoring import SCORES_FILE
from party_agent.store import Folder
from protocols.errors import DataError


@dataclass(frozen=True)
class PartFolder:
    """One party's part of a training job. grades, scores: at the label owner only."""

    own: OwnModel
    report: Mapping[str, Any]
    shared: Mapping[str, Any]
    statement: Mapping[str, Any]
    grades: GradeTable | None
    scores: pd.DataFrame | None


def read_part(path: Path) -> PartFolder:
    """The part in a job's folder.

    Raises: DataError: MODEL_MISSING, MODEL_UNREADABLE, GRADES_INVALID.
    """
    if not path.is_dir():
        raise DataError("MODEL_MISSING", f"there is no folder {path.name}", "name a job that ended well at this agent")
    folder = Folder(path)
    own = model.read(folder)
    leads = own.points.base is not None
    return PartFolder(
        own=own,
        report=folder.read_json("report.json"),
        shared=folder.read_json("shared.json"),
        statement=folder.read_json("statement.json"),
        grades=GradeTable.from_json(folder.read_json("grades.json")) if leads else None,
        scores=_read_csv(path / "scores.csv") if leads else None,
    )


def read_scored(folder: Path | str) -> pd.DataFrame:
    """The scores that a scoring job wrote into its folder at the label owner: id, score, pd, grade.

    Raises: DataError: MODEL_MISSING, MODEL_UNREADABLE.
    """
    return _read_csv(Path(folder) / SCORES_FILE)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"id": str, "grade": str}, keep_default_na=False)
    except FileNotFoundError as error:
        raise DataError("MODEL_MISSING", f"the folder has no {path.name}", "run the job first") from error
    except (OSError, ValueError) as error:
        raise DataError("MODEL_UNREADABLE", f"{path.name} cannot be read", "restore it from a backup") from error
