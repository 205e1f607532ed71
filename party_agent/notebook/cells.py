"""Columns of a frame as the text that files of data hold, so that a notebook's rows are read by the rules of files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from party_agent.dataset import Cells, Table, table_of
from protocols.binning.prebins import FeatureKind
from protocols.errors import DataError
from protocols.recipe import PartyColumns

Text = list[str | None]

_ID = "row"
_EXACT = 2**53  # whole numbers below are written without a decimal point


class InputError(DataError, ValueError):
    """What was handed to the estimator cannot be used; a ValueError too, as scikit-learn's conventions ask."""


def is_number(column: pd.Series) -> bool:
    """Whether a column's type is a real number or a truth value; all else is taken as categorical.

    Raises: InputError: NUMBER_INVALID: complex numbers, dates or durations.
    """
    if column.dtype.kind in "cmM":
        raise InputError(
            "NUMBER_INVALID",
            f"column '{column.name}' holds dates, durations or complex numbers",
            "turn it into a number, such as months since",
        )
    return pd.api.types.is_numeric_dtype(column.dtype)


def text_of(column: pd.Series) -> Text:
    """A column's cells, None where missing. A number is written so that reading it gives the same double."""
    missing = column.isna().to_numpy()
    doubles = is_number(column) and column.dtype.kind not in "iu"
    cells = column.astype(np.float64 if doubles else object).tolist()
    return [None if gone else _cell(cell) for cell, gone in zip(cells, missing, strict=True)]


def _cell(cell: object) -> str:
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < _EXACT else repr(cell)
    return str(cell)


def row_ids(positions: Iterable[int]) -> list[str]:
    """Ids for rows that have none: their positions."""
    return [f"R{row:09d}" for row in positions]


def file_of(columns: Mapping[str, Sequence[str | None]]) -> bytes:
    """A CSV file with a header; a missing cell is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def table(frame: pd.DataFrame, kinds: Mapping[str, FeatureKind]) -> Table:
    """The rows of a frame, in its order, with the columns of a model as those kinds.

    Raises: DataError: as `party_agent.dataset.table_of`.
    """
    names = [_ID, *kinds]
    columns = [row_ids(range(len(frame))), *(text_of(frame[name]) for name in kinds)]
    rows = list(zip(*columns, strict=True))
    with Cells.of_chunks("X", names, dict.fromkeys(range(len(names)), "VARCHAR"), [rows]) as cells:
        found, _ = table_of(cells, _ID, None, PartyColumns(), model_columns=kinds)
    return found
