"""What a job may read of this institution's data: the contract's columns of a registered source, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from party_agent.dataset import Finding, Table
from party_agent.source_registry import open_registry
from party_agent.sources import read_source
from party_agent.stages import Reader
from protocols.binning.prebins import FeatureKind
from protocols.contract import Contract
from protocols.errors import ContractViolationError, DataError
from protocols.recipe import Recipe

_ASK = "register the data set that the contract names (`data add`), or have every party sign an amended contract"


def contracted_reader(
    home: Path, source_name: str, contract: Contract, me: str, model_columns: Mapping[str, FeatureKind] | None = None
) -> Reader:
    """Reads the source, and keeps only the columns that the contract names for this member.

    Args: model_columns: to score, the columns of a model and their kinds, as of `read_table`.
    Raises (when it reads): ContractViolationError: SOURCE_NOT_CONTRACTED: another data set or label column than the
        contract's. DataError: COLUMN_MISSING: a column that the contract names is not there or not usable.
    """
    dataset = contract.dataset(me)

    def read(recipe: Recipe) -> tuple[Table, tuple[Finding, ...]]:
        source = open_registry(home).get(source_name).source
        if dataset is None:
            return read_source(source, recipe, me, model_columns)
        if dataset.name != source.name or dataset.label_column != (source.label_column or ""):
            raise ContractViolationError(
                "SOURCE_NOT_CONTRACTED", "this data set, or its label column, is not the contract's", _ASK
            )
        allowed = {source.own_name(name) for name in dataset.features}
        table, findings = read_source(source, recipe, me, model_columns)
        columns = tuple(column for column in table.columns if column.name in allowed)
        if not columns:
            raise DataError("COLUMN_MISSING", "no column that the contract names is usable here", _ASK)
        return replace(table, columns=columns), findings

    return read
