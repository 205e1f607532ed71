"""Where a party's part of a model comes from: the data it was read from, the program, and a commitment to the part.

    lineage.json         digest of the rows as read, version of the program; written when the job has read them
    partial_scores.json  how often each sum of own points occurs, on training rows and on the rest; stays here
    part_salt.key        32 random bytes, without which the commitment to the own part says nothing

The digest is an HMAC-SHA256 under `data_digest.key`, which only this institution has: to others it says whether two
versions were trained on the same rows, and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from party_agent.dataset import Table
from party_agent.model import MODEL_FILE
from party_agent.store import Folder
from protocols.binning.prebins import FeatureKind
from protocols.errors import ContractViolationError, DataError
from protocols.fixed_point import IntArray
from protocols.model_record import METRIC_UNIT, METRICS, PartLine, commitment

LINEAGE_FILE = "lineage.json"
PARTIAL_FILE = "partial_scores.json"
GRADES_FILE = "grades.json"
_DIGEST_KEY, _SALT = "data_digest.key", "part_salt.key"
_DATA_DOMAIN = b"concordat/data-digest/1\0"


@dataclass(frozen=True)
class OwnPart:
    """Own points by total, as sorted points and how many rows have each; both of shape (n_values,)."""

    points: IntArray
    rows: IntArray

    def expanded(self) -> IntArray:
        """The points of every row, in no order but theirs."""
        return np.repeat(self.points, self.rows)


def write(home: Folder, folder: Folder, table: Table) -> None:
    """Keep what a job has read, in its folder."""
    document = {"data": data_digest(home.key(_DIGEST_KEY), table), "code": metadata.version("concordat")}
    folder.write_json(LINEAGE_FILE, document)


def data_digest(key: bytes, table: Table) -> str:
    """HMAC-SHA256 of ids, labels, out-of-time rows, sample weights and values of every usable column, in hex.

    Rows count in the order of their ids and columns in that of their names: the same data in another order has the
    same digest. An existing score is no input of the model, and does not count.
    """
    mac = hmac.new(key, _DATA_DOMAIN, hashlib.sha256)
    order = np.argsort(np.array(table.ids, dtype=object), kind="stable")

    def add(name: str, values: NDArray[Any]) -> None:
        numbers = values.dtype != object
        data = _numbers(values[order]) if numbers else _texts(values[order])
        header = json.dumps([name, "number" if numbers else "text", len(values), len(data)]).encode()
        mac.update(header + b"\0" + data)

    add("ids", np.array(table.ids, dtype=object))
    if table.label is not None:
        add("label", table.label)
    if table.late is not None:
        add("late", table.late)
    if table.weights is not None:
        add("weights", table.weights)
    for column in sorted(table.columns, key=lambda item: item.name):
        values = column.values
        add(f"column {column.name}", values if column.kind is FeatureKind.NUMERIC else np.asarray(values, object))
    return mac.hexdigest()


def write_partial_scores(folder: Folder, points: IntArray, training: NDArray[np.bool_]) -> None:
    """Keep the distribution of own points, shape (n_rows,), without any row."""
    samples = {"train": points[training], "rest": points[~training]}
    counted = {name: np.unique(values, return_counts=True) for name, values in samples.items()}
    document = {name: {"points": p.tolist(), "rows": n.tolist()} for name, (p, n) in counted.items()}
    folder.write_json(PARTIAL_FILE, document)


def partial_scores(folder: Folder, sample: str) -> OwnPart | None:
    """The distribution of own points on 'train' or 'rest'; None where the folder has none.

    Raises: DataError: MODEL_UNREADABLE.
    """
    if not (folder.path / PARTIAL_FILE).exists():
        return None
    try:
        kept = folder.read_json(PARTIAL_FILE)[sample]
        found = OwnPart(np.array(kept["points"], dtype=np.int64), np.array(kept["rows"], dtype=np.int64))
        if found.points.shape != found.rows.shape or found.rows.ndim != 1 or (found.rows < 0).any():
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError("MODEL_UNREADABLE", f"{PARTIAL_FILE} is damaged", "restore it from a backup") from error
    return found if found.rows.size else None


def part_line(folder: Folder) -> PartLine:
    """What this party says of its own side of the model in a job's folder.

    Raises: DataError: LINEAGE_MISSING; MODEL_MISSING.
    """
    return PartLine(own_commitment(folder), *read(folder))


def read(folder: Folder) -> tuple[str, str]:
    """The digest of the rows that a job read, and the version of the program.

    Raises: DataError: LINEAGE_MISSING.
    """
    try:
        kept = json.loads((folder.path / LINEAGE_FILE).read_bytes())
        return str(kept["data"]), str(kept["code"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "LINEAGE_MISSING", f"the job's folder has no usable {LINEAGE_FILE}", "train again with this version"
        ) from error


def own_commitment(folder: Folder) -> str:
    """Commitment to the own part as it lies there now: the model and, at the label owner, the grades.

    Raises: DataError: MODEL_MISSING.
    """
    part = b""
    for name in (MODEL_FILE, GRADES_FILE):
        path = folder.path / name
        if name == MODEL_FILE and not path.exists():
            raise DataError("MODEL_MISSING", "the folder holds no model", "restore it from a backup, or train again")
        data = path.read_bytes() if path.exists() else b""
        part += len(data).to_bytes(8, "big") + data
    return commitment(folder.key(_SALT), part)


def check_part(folder: Folder, approved: PartLine) -> None:
    """Raise unless the own part is the one that was approved here.

    Raises: ContractViolationError: MODEL_ALTERED; DataError: MODEL_MISSING.
    """
    if not hmac.compare_digest(own_commitment(folder), approved.part):
        raise ContractViolationError(
            "MODEL_ALTERED",
            "the own part of the model is not the one that this institution approved",
            "find out who changed it; restore the job's folder from a backup, or retire the model",
        )


def opened_metrics(shared: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """The metrics of a shared report that a record may open, by name, in whole parts of `1 / METRIC_UNIT`.

    Raises: DataError: MODEL_UNREADABLE.
    """
    try:
        told = dict(shared["metrics"])
        flat: dict[str, float] = {name: told[name] for name in ("psi", "psi_out_of_time") if name in told}
        for sample in ("train", "test", "out_of_time"):
            flat |= {f"{sample}_{kind}": told[sample][kind] for kind in ("auc", "ks") if told.get(sample)}
        return tuple((name, round(flat[name] * METRIC_UNIT)) for name in METRICS if name in flat)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError("MODEL_UNREADABLE", "the shared report is damaged", "restore it from a backup") from error


def _numbers(values: NDArray[Any]) -> bytes:
    """As 8-byte floats, with one form of zero and one of a missing value."""
    floats = values.astype("<f8") + 0.0
    return np.where(np.isnan(floats), np.nan, floats).tobytes()


def _texts(values: NDArray[Any]) -> bytes:
    """Lengths (-1: missing), then the texts one after the other."""
    encoded = [None if value is None else str(value).encode() for value in values.tolist()]
    lengths = np.array([-1 if item is None else len(item) for item in encoded], dtype="<i8")
    return lengths.tobytes() + b"".join(item for item in encoded if item is not None)
