"""Reading a source of rows, wherever it lies: its table, its ids, its columns.

What a source is stands in `source.py`, what is peculiar to databases in `databases.py`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from party_agent.databases import column_missing, database_cells, database_schema
from party_agent.dataset import Cells, Finding, Table, column_name, ids_of, table_of
from party_agent.source import ColumnRole, Environment, Source
from protocols.binning.prebins import FeatureKind
from protocols.recipe import Recipe

STATEMENT_TIMEOUT_S = 600


def read_source(
    source: Source,
    recipe: Recipe,
    party: str,
    model_columns: Mapping[str, FeatureKind] | None = None,
    environment: Environment = os.environ,
) -> tuple[Table, tuple[Finding, ...]]:
    """The table in a source, by the rules of `party_agent.dataset.read_table`, and what was found on the way.

    Raises: DataError: as `read_table`, `open_source` and `Source.read_dictionary`.
    """
    rules = source.rules(recipe.columns_of(party), source.read_dictionary() if model_columns is None else None)
    numeric = [column for column, role in source.roles.items() if role is ColumnRole.NUMERIC]
    label = source.label_column if model_columns is None else None
    wanted = None if model_columns is None else {source.id_column, *model_columns}
    with open_source(source, environment, wanted, rules.exclude) as cells:
        present = {column_name(name) for name in cells.names}
        # The dictionary may describe columns that this source does not have.
        special = {name: values for name, values in rules.special.items() if _kept(name, present, recipe, party)}
        rules = rules.model_copy(update={"special": special})
        return table_of(
            cells, source.id_column, label, rules, recipe.sample.keep_first_duplicate, model_columns, numeric
        )


def read_source_ids(
    source: Source, environment: Environment = os.environ
) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """The distinct canonical ids of a source, in its order; no other column is fetched from a database.

    Raises: DataError: as `party_agent.dataset.read_ids` and `open_source`.
    """
    with open_source(source, environment, {source.id_column}) as cells:
        return ids_of(cells, source.id_column)


def open_source(
    source: Source,
    environment: Environment = os.environ,
    wanted: Collection[str] | None = None,
    excluded: Collection[str] = (),
    statement_timeout_s: int = STATEMENT_TIMEOUT_S,
) -> Cells:
    """The cells of a source, to be closed after use.

    Args: wanted: the only columns to fetch from a database (None: all); excluded: columns not to fetch.
    Raises: DataError: FILE_ codes for files, and for databases SOURCE_DRIVER_MISSING, SOURCE_SECRET_MISSING,
        SOURCE_SECRET_EXPOSED, SOURCE_UNREACHABLE, SOURCE_REFUSED, SOURCE_DENIED, SOURCE_TABLE_MISSING,
        SOURCE_QUERY_MISSING, SOURCE_QUERY_CHANGED, SOURCE_QUERY_INVALID, SOURCE_TYPE_UNSUPPORTED, SOURCE_TIMEOUT,
        SOURCE_FAILED; for both SOURCE_COLUMN_MISSING and HEADER_INVALID.
    """
    if source.relation is None:
        path = Path(source.location)
        cells = Cells.of_file(path)
        if missing := [name for name in source.named_columns if name not in cells.names]:
            cells.close()
            raise column_missing(source, missing)
        return cells
    names = None if wanted is None else {column_name(name) for name in wanted}
    return database_cells(source, environment, names, {column_name(n) for n in excluded}, statement_timeout_s)


@dataclass(frozen=True)
class SchemaColumn:
    """One column of a source; type: DuckDB's name of it, '' if it cannot be read and must be excluded."""

    name: str
    type: str


def read_schema(source: Source, environment: Environment = os.environ) -> tuple[SchemaColumn, ...]:
    """The columns of a source in its order, after a look that reads no rows of a database.

    Raises: DataError: as `open_source`; a type that cannot be read is refused unless its column is excluded.
    """
    if source.relation is None:
        with open_source(source) as cells:
            return tuple(SchemaColumn(name, cells.type_of(index)) for index, name in enumerate(cells.names))
    return tuple(SchemaColumn(*column) for column in database_schema(source, environment, STATEMENT_TIMEOUT_S))


def _kept(name: str, present: set[str], recipe: Recipe, party: str) -> bool:
    return column_name(name) in present or name in recipe.columns_of(party).special
