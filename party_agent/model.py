"""A party's own part of a joint model, as it keeps it: bins, coefficients, points; and what it writes beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from party_agent.dataset import Table
from party_agent.scorecard import PointsTable
from party_agent.store import Folder
from protocols.binning.prebins import FeatureKind, PreBinning
from protocols.binning.table import BinnedFeature
from protocols.errors import ContractViolationError, DataError
from protocols.fixed_point import FEATURE_BITS, FloatArray, IntArray
from protocols.statement import Statement

MODEL_FILE = "model.json"
CANDIDATES_FILE = "candidates.json"  # the features that a selection among fits chose from, in the same form
SCHEMA = 1


@dataclass(frozen=True)
class OwnModel:
    """Own features in model order with their weights, and the points made from them.

    weights: per unit of WOE; intercept: at the label owner only; gradients, norm: of the joint fit; dimensions: the
    named group that each feature is in; left out, all are in the one of the party's name.
    """

    job: str
    contract: str
    features: tuple[BinnedFeature, ...]
    weights: tuple[float, ...]
    intercept: float | None
    points: PointsTable
    gradients: int
    norm: float
    dimensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.dimensions:
            object.__setattr__(self, "dimensions", (self.points.party,) * len(self.features))

    def codes(self, table: Table) -> IntArray:
        """The bin of each row and own feature, shape (n, d).

        Raises: DataError: COLUMN_MISSING: the table lacks a column of the model.
        """
        columns = {column.name: column for column in table.columns}
        missing = [feature.name for feature in self.features if feature.name not in columns]
        if missing:
            raise DataError(
                "COLUMN_MISSING",
                f"the data lacks columns of the model: {', '.join(missing)}",
                "bring the columns that the model was trained on",
            )
        return np.stack([feature.codes(columns[feature.name].values) for feature in self.features], axis=1)

    def logits(self, codes: IntArray) -> FloatArray:
        """This party's partial logit of each row, the intercept included at the label owner, shape (n,)."""
        total = np.full(len(codes), self.intercept or 0.0)
        for j, (feature, weight) in enumerate(zip(self.features, self.weights, strict=True)):
            total += weight * feature.values[codes[:, j]] / (1 << FEATURE_BITS)
        return total

    @property
    def kinds(self) -> dict[str, FeatureKind]:
        """Kind of each column that scoring reads."""
        return {feature.name: feature.binning.kind for feature in self.features}


def write(folder: Folder, model: OwnModel, name: str = MODEL_FILE) -> None:
    """Write the model to its party's folder."""
    folder.write_json(
        name,
        {
            "schema": SCHEMA,
            "job": model.job,
            "contract": model.contract,
            "intercept": model.intercept,
            "gradients": model.gradients,
            "norm": model.norm,
            "features": [
                {
                    "alias": feature.alias,
                    "dimension": dimension,
                    "weight": weight,
                    "iv": feature.iv,
                    "binning": feature.binning.to_json(),
                    "merge_map": list(feature.merge_map),
                    "woe": list(feature.woe),
                    "rows": list(feature.rows),
                    "bads": list(feature.bads),
                }
                for feature, weight, dimension in zip(model.features, model.weights, model.dimensions, strict=True)
            ],
            "points": model.points.to_json(),
        },
    )


def read(folder: Folder, name: str = MODEL_FILE) -> OwnModel:
    """The model in a folder.

    Raises: DataError: MODEL_MISSING, MODEL_UNREADABLE.
    """
    document = folder.read_json(name)
    try:
        if document["schema"] != SCHEMA:
            raise DataError("MODEL_UNREADABLE", "the model was written by another version", "train again")
        features = tuple(_feature(item) for item in document["features"])
        points = PointsTable.from_json(document["points"])
        return OwnModel(
            job=str(document["job"]),
            contract=str(document["contract"]),
            features=features,
            weights=tuple(float(item["weight"]) for item in document["features"]),
            intercept=None if document["intercept"] is None else float(document["intercept"]),
            points=points,
            gradients=int(document["gradients"]),
            norm=float(document["norm"]),
            dimensions=tuple(str(item.get("dimension", points.party)) for item in document["features"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError("MODEL_UNREADABLE", f"{name} is damaged", "restore it from a backup") from error


def read_trained(folder: Folder, job: str, contract: str) -> OwnModel:
    """The model in a folder, if it is the one that `job` made under the contract of this hash (hex).

    Raises: DataError: as `read`; ContractViolationError: MODEL_UNKNOWN.
    """
    own = read(folder)
    if (own.job, own.contract) != (job, contract):
        raise model_unknown()
    return own


def model_unknown() -> ContractViolationError:
    """The error of a scoring job whose model is not here, or was not trained under its contract."""
    return ContractViolationError(
        "MODEL_UNKNOWN",
        "this agent keeps no model of that training job under the contract of the scoring job",
        "name a training job that ended well at every party under the same version of the contract, or train again",
    )


def _feature(item: dict[str, Any]) -> BinnedFeature:
    return BinnedFeature(
        alias=str(item["alias"]),
        binning=PreBinning.from_json(item["binning"]),
        merge_map=tuple(int(code) for code in item["merge_map"]),
        woe=tuple(int(value) for value in item["woe"]),
        iv=int(item["iv"]),
        rows=tuple(int(value) for value in item["rows"]),
        bads=tuple(None if value is None else int(value) for value in item["bads"]),
    )


def write_statement(folder: Folder, statement: Statement) -> None:
    """The agreed statement with everyone's signature."""
    folder.write_json(
        "statement.json",
        {
            "lines": [asdict(line) for line in statement.lines],
            "digest": statement.digest.hex(),
            "signatures": {party: signature.hex() for party, signature in statement.signatures.items()},
        },
    )


def write_scores(
    folder: Folder,
    ids: Sequence[str],
    scores: IntArray,
    logits: FloatArray,
    samples: NDArray[np.str_],
    header: Sequence[str] = (),
    cells: Sequence[Sequence[int | str]] | None = None,
) -> None:
    """Score and probability of default of each aligned row, at the label owner: id, score, pd, sample, explanation.

    Args: logits: of bad, as opened for validation (to 0.01), shape (n_rows,); the rest has that shape too; samples:
        'train', 'test' or 'out_of_time'; header, cells: of the explanation.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", "score", "pd", "sample", *header])
    risks = 1.0 / (1.0 + np.exp(-logits))
    more = [()] * len(ids) if cells is None else cells
    for name, score, risk, sample, rest in zip(
        ids, scores.tolist(), risks.tolist(), samples.tolist(), more, strict=True
    ):
        rows.writerow([name, score, f"{risk:.6g}", sample, *rest])
    folder.write("scores.csv", text.getvalue().encode())
