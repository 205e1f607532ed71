"""One party's own data, read into a `Table`: unique canonical ids, an optional label, numeric and categorical columns.

Whatever the source, its columns first become text in DuckDB's memory (`Cells`; no extension is fetched, nothing spills
to disk): from a CSV or Parquet file here, from a database in databases.py. Every rule on what a cell may hold
is applied here, once. Findings and errors name columns and count rows; they never show an id, a label or a value.
"""

from __future__ import annotations

import csv
import datetime
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from protocols.binning.prebins import FeatureKind
from protocols.errors import DataError
from protocols.psi.identifiers import canonical_id, check_character_valid
from protocols.recipe import Judgement, PartyColumns, Recipe

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Values = npt.NDArray[Any]

MINIMUM_COLUMNS = 3  # PROTOCOLS.md section 3, guards: d_P >= 3 for every party

_PARQUET_MAGIC = b"PAR1"
_DELIMITERS = (",", ";", "\t")
_BLANKS = " \t\r\n\v\f\u00a0\u3000\ufeff"  # what is trimmed from a cell
_NAMES_SHOWN = 8
_DATE = re.compile(r"(\d{4})[-/]?(\d{2})[-/]?(\d{2})(?!\d)")
_WHOLE_NUMBERS = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|DECIMAL\([0-9]+,\s?0\)")


@dataclass(frozen=True)
class Finding:
    """Something about the data that its owner should know and that did not stop the job."""

    code: str
    count: int
    sentence: str


@dataclass(frozen=True, eq=False)
class Column:
    """One feature. `values`, shape (n,): float64 with NaN = missing, or objects (str) with None = missing.

    special: values, of the type of the column's, that each get a bin of their own.
    """

    name: str
    kind: FeatureKind
    values: Values
    special: tuple[float | str, ...] = ()

    @property
    def missing(self) -> BoolArray:
        """Which rows have no value, shape (n,)."""
        return np.asarray(np.isnan(self.values) if self.kind is FeatureKind.NUMERIC else self.values == None)  # noqa: E711

    @property
    def missing_rate(self) -> float:
        """Share of rows without a value."""
        return float(self.missing.mean()) if len(self.values) else 0.0

    def take(self, rows: IntArray) -> Column:
        """The same column with only `rows`, in their order."""
        return replace(self, values=_frozen(self.values[rows]))


@dataclass(frozen=True, eq=False)
class Table:
    """A party's rows. ids: canonical and unique; label: 0/1, shape (n,), for the label owner only.

    late: which rows are the out-of-time sample; existing: an existing score, NaN for none; weights: sample weights,
    positive. All at the label owner, if its recipe names the columns; none is a feature.
    """

    ids: tuple[str, ...]
    label: IntArray | None
    columns: tuple[Column, ...]
    late: BoolArray | None = None
    existing: npt.NDArray[np.float64] | None = None
    weights: npt.NDArray[np.float64] | None = None

    def take(self, rows: IntArray) -> Table:
        """The table of `rows` (positions, shape (m,)), in their order."""
        return Table(
            ids=tuple(self.ids[row] for row in rows.tolist()),
            label=None if self.label is None else _frozen(self.label[rows]),
            columns=tuple(column.take(rows) for column in self.columns),
            late=None if self.late is None else _frozen(self.late[rows]),
            existing=None if self.existing is None else _frozen(self.existing[rows]),
            weights=None if self.weights is None else _frozen(self.weights[rows]),
        )


def read_table(
    path: Path,
    id_column: str,
    label_column: str | None,
    recipe: Recipe,
    party: str,
    model_columns: Mapping[str, FeatureKind] | None = None,
) -> tuple[Table, tuple[Finding, ...]]:
    """The table in a CSV or Parquet file, and what was found on the way.

    Ids are canonicalised; rows without one are dropped. Rows equal in id and in every used column count once. An empty
    cell is missing. A column is numeric if all its cells are numbers and the recipe does not name it categorical, and
    categorical if none is; a column of one value is dropped.

    Args: party: whose section of the recipe (`[parties.<party>]`) applies; model_columns: for scoring, the columns of a
        model and their kinds: these and no others are read, as these kinds, and one of a single value stays.
    Raises: DataError: FILE_MISSING, FILE_UNREADABLE, FILE_EMPTY, HEADER_INVALID, COLUMN_MISSING, ID_TYPE_INVALID,
        LABEL_INVALID, LABEL_CONSTANT, NUMBER_INVALID, WEIGHT_INVALID, SPECIAL_INVALID, DUPLICATE_IDS, TOO_FEW_COLUMNS
        (docs/errors.md).
    """
    with Cells.of_file(path) as cells:
        return table_of(
            cells, id_column, label_column, recipe.columns_of(party), recipe.sample.keep_first_duplicate, model_columns
        )


def table_of(
    cells: Cells,
    id_column: str,
    label_column: str | None,
    rules: PartyColumns,
    keep_first_duplicate: bool = False,
    model_columns: Mapping[str, FeatureKind] | None = None,
    numeric: Collection[str] = (),
) -> tuple[Table, tuple[Finding, ...]]:
    """The table in `cells`, by the rules of `read_table`, whatever the cells were read from.

    Args: rules: how this party's columns are to be read; numeric: columns that are never taken as categorical.
    Raises: DataError: as `read_table`, but for the FILE_ codes of opening one.
    """
    ids, kept, findings = _read_ids(cells, id_column)
    label = None if label_column is None else _label(cells, label_column, kept)
    if model_columns is None:
        names = _feature_names(cells, (id_column, label_column), rules)
        columns, more = _columns(cells, names, kept, rules, numeric={column_name(name) for name in numeric})
    else:
        columns, more = _columns(cells, list(model_columns), kept, rules, model_columns)
    findings += more
    late, existing, weights = None, None, None
    if label is not None and model_columns is None:
        late, existing = _late(cells, rules.judgement, kept), _existing(cells, rules.judgement, kept)
        weights = _weights(cells, rules.weight_column, kept)
    table = Table(tuple(ids), label, columns, late, existing, weights)
    table, more = _without_repeats(table, cells.called, keep_first_duplicate)
    findings += more
    if table.label is not None and table.label.min() == table.label.max():
        raise DataError(
            "LABEL_CONSTANT",
            f"the label column of {cells.called} has the same value in every row",
            "provide a sample with goods (0) and bads (1)",
        )
    if model_columns is not None:
        return table, tuple(findings)
    table, more = _without_constants(table)
    findings += more
    if len(table.columns) < MINIMUM_COLUMNS:
        raise DataError(
            "TOO_FEW_COLUMNS",
            f"{cells.called} has {len(table.columns)} usable feature columns and a party needs {MINIMUM_COLUMNS}",
            "add feature columns, or see the findings for columns that were dropped because they hold one value",
        )
    return table, tuple(findings)


def read_ids(path: Path, id_column: str) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """The distinct canonical ids of a file to be scored, in file order; other columns are not looked at.

    Raises: DataError: FILE_MISSING, FILE_UNREADABLE, FILE_EMPTY, HEADER_INVALID, COLUMN_MISSING, ID_TYPE_INVALID.
    """
    with Cells.of_file(path) as cells:
        return ids_of(cells, id_column)


def ids_of(cells: Cells, id_column: str) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """The distinct canonical ids in `cells`, by the rules of `read_ids`."""
    ids, _, findings = _read_ids(cells, id_column)
    unique = tuple(dict.fromkeys(ids))
    if len(unique) < len(ids):
        findings.append(_repeated_rows(len(ids) - len(unique), "with the id of an earlier row"))
    return unique, tuple(findings)


class Cells:
    """Rows as a table of text in DuckDB's memory, its columns named c0, c1, ...; a context manager that frees it.

    called: what errors and findings call the source; names: of all its columns, as they are compared and shown.
    """

    def __init__(self, called: str) -> None:
        self.called = called
        self.names: tuple[str, ...] = ()
        self._types: tuple[str, ...] = ()
        # An in-memory database without a temporary directory: rows are never spilled to disk.
        self._connection = duckdb.connect(
            config={
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
                "temp_directory": "",
            }
        )

    @classmethod
    def of_file(cls, path: Path) -> Cells:
        """The cells of a CSV or Parquet file.

        Raises: DataError: FILE_MISSING, FILE_UNREADABLE, FILE_EMPTY, HEADER_INVALID.
        """
        if not path.exists():
            raise DataError("FILE_MISSING", f"there is no file {path.name}", "check the path given for this party")
        if not path.is_file():
            raise _unreadable(path, "it is not a regular file")
        cells = cls(path.name)
        try:
            cells.names, cells._types = cells._load(path)
            _check_header(cells.called, cells.names)
        except BaseException:
            cells.close()
            raise
        return cells

    @classmethod
    def of_chunks(
        cls,
        called: str,
        names: Sequence[str],
        types: Mapping[int, str],
        chunks: Iterable[Sequence[Sequence[str | None]]],
    ) -> Cells:
        """The cells of rows that come in chunks, as text with None for missing.

        Args: names: of every column of the source; types: the columns that are read, by position, ascending, with
            DuckDB's name of their type: each row has one cell for each of them, and no other column may be asked for.
        Raises: DataError: HEADER_INVALID; and what iterating over `chunks` raises.
        """
        cells = cls(called)
        try:
            cells.names = tuple(column_name(name) for name in names)
            cells._types = tuple(types.get(index, "") for index in range(len(names)))
            _check_header(called, cells.names)
            columns = [f"c{index}" for index in types]
            cells._connection.execute(f"CREATE TABLE cells ({', '.join(f'{column} VARCHAR' for column in columns)})")
            for rows in chunks:
                if rows:
                    arrays = (np.array(cell, dtype=object) for cell in zip(*rows, strict=True))
                    cells._connection.register("chunk", dict(zip(columns, arrays, strict=True)))
                    cells._connection.execute("INSERT INTO cells SELECT * FROM chunk")
                    cells._connection.unregister("chunk")
        except BaseException:
            cells.close()
            raise
        return cells

    def close(self) -> None:
        """Free the memory."""
        self._connection.close()

    def __enter__(self) -> Cells:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM cells").fetchall()[0][0])

    def index(self, name: str) -> int:
        """The position of a column. Raises: DataError: COLUMN_MISSING."""
        try:
            return self.names.index(column_name(name))
        except ValueError:
            raise DataError(
                "COLUMN_MISSING",
                f"column '{name}' is not in {self.called}",
                "check the spelling of the column name (capital letters count), the separator of a file, "
                "and the rights to a column of a database",
            ) from None

    def type_of(self, index: int) -> str:
        """DuckDB's name of a column's type in the source; VARCHAR for every CSV column."""
        return self._types[index]

    def text(self, index: int) -> Values:
        """The trimmed cells of a column, objects of shape (rows,); an empty one is ''."""
        got = self._fetch(f"coalesce(trim(c{index}, $blanks), '') AS cell", {"blanks": _BLANKS})
        return np.asarray(got["cell"], dtype=object)

    def numbers(self, index: int) -> tuple[npt.NDArray[np.float64], BoolArray, BoolArray]:
        """Of a column: its cells as numbers (NaN where they are none), which are not empty, which read as a number.

        'inf', 'nan' and 1e999 read as numbers and come out not finite.
        """
        # DuckDB's cast skips blanks and allows 1_000, which is no number in a data file.
        cell = f"c{index}"
        number = f"CASE WHEN contains({cell}, '_') THEN NULL ELSE TRY_CAST({cell} AS DOUBLE) END"
        got = self._fetch(f"{number} AS number, coalesce({cell} <> '', false) AS filled")
        values, reads = _unmasked(got["number"])
        filled = got["filled"].astype(np.bool_)
        if not np.array_equal(filled, reads):  # some cells are no numbers: perhaps only blanks, or blanks DuckDB keeps
            cell = f"trim(c{index}, $blanks)"
            number = f"CASE WHEN contains({cell}, '_') THEN NULL ELSE TRY_CAST({cell} AS DOUBLE) END"
            got = self._fetch(f"{number} AS number, coalesce({cell} <> '', false) AS filled", {"blanks": _BLANKS})
            values, reads = _unmasked(got["number"])
            filled = got["filled"].astype(np.bool_)
        return values, filled, reads

    def _fetch(self, columns: str, parameters: dict[str, str] | None = None) -> dict[str, Any]:
        # `columns` is made of our own column names c0, c1, ...; nothing of the file enters the statement.
        query = f"SELECT {columns} FROM cells"  # noqa: S608
        return self._connection.execute(query, parameters or {}).fetchnumpy()

    def _load(self, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        try:
            with path.open("rb") as file:
                is_parquet = file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
            return self._load_parquet(path) if is_parquet else self._load_csv(path)
        except UnicodeDecodeError:
            raise _unreadable(path, "it is not UTF-8 text") from None
        except csv.Error:
            raise _unreadable(path, "its first line is not a CSV header") from None
        except OSError:
            raise _unreadable(path, "the operating system refused to read it") from None
        except duckdb.Error as error:
            # `from None`: DuckDB's message quotes the line.
            raise _unreadable(path, _reason(str(error))) from None

    def _load_csv(self, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        for delimiter in _DELIMITERS:
            with path.open(encoding="utf-8-sig", newline="") as file:
                header = next(csv.reader(file, delimiter=delimiter, strict=True), [])
            if len(header) > 1:
                break
        else:
            delimiter = ","
        if not header:
            raise DataError("FILE_EMPTY", f"{path.name} is empty or begins with an empty line", _EMPTY_REMEDY)
        columns = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(len(header)))
        dialect = "header = true, delim = $delimiter, quote = '\"', escape = '\"'"
        strictness = "auto_detect = false, strict_mode = true, null_padding = false, ignore_errors = false"
        self._connection.execute(
            f"CREATE TABLE cells AS FROM read_csv($path, columns = {{{columns}}}, {dialect}, {strictness})",
            {"path": _without_wildcards(path), "delimiter": delimiter},
        )
        return tuple(column_name(name) for name in header), ("VARCHAR",) * len(header)

    def _load_parquet(self, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        wanted = {"path": _without_wildcards(path)}
        described = self._connection.execute("DESCRIBE SELECT * FROM read_parquet($path)", wanted).fetchall()
        aliases = ", ".join(f"c{index}" for index in range(len(described)))
        casts = ", ".join(_text_of(f"c{index}", str(row[1])) for index, row in enumerate(described))
        self._connection.execute(
            f"CREATE TABLE cells AS SELECT {casts} FROM read_parquet($path) AS file({aliases})",  # noqa: S608
            wanted,
        )
        return tuple(column_name(str(row[0])) for row in described), tuple(str(row[1]) for row in described)


def _text_of(column: str, kind: str) -> str:
    """SQL for a column as text; a truth value is 1 or 0, as in a database."""
    return f"CAST({f'CAST({column} AS TINYINT)' if kind == 'BOOLEAN' else column} AS VARCHAR) AS {column}"


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        "FILE_UNREADABLE",
        f"{path.name} cannot be read: {reason}",
        "save it as UTF-8 CSV with a header line and the same number of fields in every line, or as Parquet",
    )


_EMPTY_REMEDY = "provide a file with a header line and one line an enterprise or person, each with an id"


def _read_ids(cells: Cells, id_column: str) -> tuple[list[str], BoolArray, list[Finding]]:
    """Canonical ids of the rows that have one, which rows those are, and findings."""
    index = cells.index(id_column)
    kind = cells.type_of(index)
    if kind != "VARCHAR" and not _WHOLE_NUMBERS.fullmatch(kind):
        raise DataError(
            "ID_TYPE_INVALID",
            f"the id column '{id_column}' of {cells.called} is neither text nor whole numbers",
            "store ids as text, since other types lose digits",
        )
    everything = [canonical_id(text) for text in cells.text(index).tolist()]
    kept = np.fromiter((bool(text) for text in everything), dtype=np.bool_, count=len(everything))
    ids = [text for text in everything if text]
    if not ids:
        raise DataError("FILE_EMPTY", f"{cells.called} has no row with an id", _EMPTY_REMEDY)
    findings: list[Finding] = []
    if len(ids) < len(everything):
        empty = len(everything) - len(ids)
        findings.append(Finding("EMPTY_IDS", empty, f"{counted_rows(empty)} without an id {_was(empty)} dropped."))
    invalid = sum(check_character_valid(text) is False for text in ids)
    if invalid:
        sentence = f"{counted_rows(invalid)} with a wrong check character in an 18-character id {_was(invalid)} kept."
        findings.append(Finding("ID_CHECK_CHARACTER", invalid, sentence))
    return ids, kept, findings


def _label(cells: Cells, label_column: str, kept: BoolArray) -> IntArray:
    values, _, _ = cells.numbers(cells.index(label_column))
    values = values[kept]
    invalid = int(np.count_nonzero((values != 0) & (values != 1)))
    if invalid:
        raise DataError(
            "LABEL_INVALID",
            f"the label column '{label_column}' of {cells.called} is neither 0 nor 1 in {counted_rows(invalid)}",
            "code the label 1 for bad and 0 for good, and leave out rows without one",
        )
    return _frozen(values.astype(np.int64))


def _late(cells: Cells, rules: Judgement, kept: BoolArray) -> BoolArray | None:
    """Which rows have the first out-of-time date or a later one."""
    if rules.date_column is None or rules.out_of_time_from is None:
        return None
    days = [_day(text) for text in cells.text(cells.index(rules.date_column))[kept].tolist()]
    first = _day(rules.out_of_time_from)
    invalid = sum(day is None for day in days)
    if invalid or first is None:
        what = f"is no date in {counted_rows(invalid)}" if invalid else "is compared with no date"
        raise DataError(
            "DATE_INVALID",
            f"the date column '{rules.date_column}' of {cells.called} {what}",
            "write dates as YYYY-MM-DD, and leave out rows without one",
        )
    return _frozen(np.array([day is not None and day >= first for day in days], dtype=np.bool_))


def _day(text: str) -> datetime.date | None:
    found = _DATE.match(text)
    try:
        return datetime.date(*(int(part) for part in found.groups())) if found else None
    except ValueError:
        return None


def _existing(cells: Cells, rules: Judgement, kept: BoolArray) -> npt.NDArray[np.float64] | None:
    """The existing score, the safer the higher; NaN where there is none."""
    if rules.score_column is None:
        return None
    values, filled, _ = cells.numbers(cells.index(rules.score_column))
    invalid = int(np.count_nonzero((filled & ~np.isfinite(values))[kept]))
    if invalid:
        raise DataError(
            "NUMBER_INVALID",
            f"the score column '{rules.score_column}' of {cells.called} is no finite number in {counted_rows(invalid)}",
            "leave a missing score empty",
        )
    return _frozen((values if rules.score_rises_with == "safety" else -values)[kept])


def _weights(cells: Cells, column: str | None, kept: BoolArray) -> npt.NDArray[np.float64] | None:
    """The sample weight of each row."""
    if column is None:
        return None
    values = cells.numbers(cells.index(column))[0][kept]
    invalid = int(np.count_nonzero(~(np.isfinite(values) & (values > 0))))
    if invalid:
        raise DataError(
            "WEIGHT_INVALID",
            f"the weight column '{column}' of {cells.called} is no positive number in {counted_rows(invalid)}",
            "give every row a positive weight, and leave out rows that should not count",
        )
    return _frozen(values)


def _feature_names(cells: Cells, taken: Sequence[str | None], rules: PartyColumns) -> list[str]:
    """The columns to use, in file order; every column that the recipe names must be there."""
    reserved = {column_name(name) for name in taken if name is not None}
    judged = {column_name(name) for name in rules.no_features}
    excluded = {column_name(name) for name in rules.exclude}
    grouped = (name for names in rules.dimensions.values() for name in names)
    named = (*rules.exclude, *rules.categorical, *rules.special, *rules.features, *rules.keep, *rules.drop, *grouped)
    for name in named:
        cells.index(name)
        if column_name(name) in reserved:
            raise DataError(
                "COLUMN_MISSING",
                f"the recipe names column '{name}', which is the id or the label, as a feature",
                "take it out of the party's section of the recipe",
            )
    return [name for name in cells.names if name not in reserved | excluded | judged]


def _columns(
    cells: Cells,
    names: Iterable[str],
    kept: BoolArray,
    rules: PartyColumns,
    kinds: Mapping[str, FeatureKind] | None = None,
    numeric: Collection[str] = (),
) -> tuple[tuple[Column, ...], list[Finding]]:
    categorical = {column_name(name) for name in rules.categorical}
    special = {column_name(name): values for name, values in rules.special.items()}
    columns: list[Column] = []
    invalid: dict[str, int] = {}
    inferred: list[str] = []
    for name in names:
        index = cells.index(name)
        values, filled, reads = cells.numbers(index)
        values, filled, reads = values[kept], filled[kept], reads[kept]
        inferable = kinds is None and name not in numeric and filled.any() and not reads.any()
        if name in categorical or inferable or (kinds is not None and kinds[name] is FeatureKind.CATEGORICAL):
            if name not in categorical and kinds is None:
                inferred.append(name)
            texts = [unicodedata.normalize("NFC", cell) or None for cell in cells.text(index)[kept].tolist()]
            words = np.array(texts, dtype=object)
            codes = tuple(dict.fromkeys(as_code(value) for value in special.get(name, ())))
            columns.append(Column(name, FeatureKind.CATEGORICAL, _frozen(words), codes))
            continue
        wrong = int(np.count_nonzero(filled & ~np.isfinite(values)))
        if wrong:
            invalid[name] = wrong
            continue
        columns.append(
            Column(name, FeatureKind.NUMERIC, _frozen(values + 0.0), _as_numbers(name, special.get(name, ())))
        )
    if invalid:
        wrong_cells = [f"{count:,} in {name}" for name, count in invalid.items()]
        raise DataError(
            "NUMBER_INVALID",
            f"{cells.called} has cells that are not finite numbers: {listed(wrong_cells)}",
            "leave a missing value empty, or name the column under categorical in the recipe if its values are codes",
        )
    findings: list[Finding] = []
    if inferred:
        sentence = f"Taken as categorical because no cell is a number: {listed(inferred)}."
        findings.append(Finding("CATEGORICAL_INFERRED", len(inferred), sentence))
    return tuple(columns), findings


def _without_repeats(table: Table, called: str, keep_first: bool) -> tuple[Table, list[Finding]]:
    """One row an id: equal rows count once; differing ones are refused, or the first is kept."""
    n = len(table.ids)
    seen: dict[str, int] = {}
    first = np.fromiter((seen.setdefault(text, row) for row, text in enumerate(table.ids)), dtype=np.int64, count=n)
    repeats = np.flatnonzero(first != np.arange(n))
    if not repeats.size:
        return table, []
    originals = first[repeats]
    differs = np.zeros(repeats.size, dtype=np.bool_)
    if table.label is not None:
        differs |= table.label[repeats] != table.label[originals]
    for own in (table.late, table.weights):
        if own is not None:
            differs |= own[repeats] != own[originals]
    for column in table.columns:
        left, right = column.values[repeats], column.values[originals]
        same = np.equal(left, right).astype(np.bool_)
        if column.kind is FeatureKind.NUMERIC:
            same |= np.isnan(left) & np.isnan(right)
        differs |= ~same
    differing = int(np.count_nonzero(differs))
    if differing and not keep_first:
        ids = len(np.unique(originals[differs]))
        raise DataError(
            "DUPLICATE_IDS",
            f"{called} has {ids} {'id' if ids == 1 else 'ids'} with differing rows",
            "keep one row an id, or set keep_first_duplicate under [sample] in the recipe",
        )
    findings: list[Finding] = []
    if differing < repeats.size:
        findings.append(_repeated_rows(int(repeats.size) - differing, "equal to another row"))
    if differing:
        sentence = (
            f"{counted_rows(differing)} with the id of an earlier row and other values {_was(differing)} dropped."
        )
        findings.append(Finding("DUPLICATE_IDS_KEPT_FIRST", differing, sentence))
    return table.take(np.flatnonzero(first == np.arange(n))), findings


def _without_constants(table: Table) -> tuple[Table, list[Finding]]:
    """Drop columns in which all rows are equal, missing being a value."""
    constant = [column.name for column in table.columns if _is_constant(column)]
    if not constant:
        return table, []
    kept = tuple(column for column in table.columns if column.name not in set(constant))
    sentence = f"Dropped because every row has the same value, or none: {listed(constant)}."
    return replace(table, columns=kept), [Finding("COLUMN_CONSTANT", len(constant), sentence)]


def _is_constant(column: Column) -> bool:
    missing = column.missing
    if missing.any():
        return bool(missing.all())
    return bool(np.all(column.values == column.values[0]))


def _check_header(called: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1 and name})
    if repeated:
        raise DataError(
            "HEADER_INVALID",
            f"{called} has several columns named {listed(repeated)}",
            "give every column its own name",
        )
    unnamed = sum(not name or not name.isprintable() for name in names)
    if unnamed:
        raise DataError(
            "HEADER_INVALID",
            f"the header of {called} has {unnamed} column(s) without a printable name",
            "name every column; an unnamed first one is often a row number, and must go",
        )


def column_name(name: str) -> str:
    """A name as it is compared and shown: runs of blanks made one, NFC."""
    return unicodedata.normalize("NFC", " ".join(name.replace("\ufeff", "").split()))


def _without_wildcards(path: Path) -> str:
    """The path with DuckDB's wildcards quoted: `a[1].csv` must not read `a1.csv`."""
    return re.sub(r"[*?\[]", lambda match: f"[{match.group()}]", str(path.absolute()))


def _reason(message: str) -> str:
    """What was wrong, from a DuckDB message, without anything of the line itself."""
    place = re.search(r"Error on Line: (\d+)", message)
    where = f"line {place.group(1)} " if place else ""
    if "utf-8" in message or "unicode" in message:
        return f"{where}is not UTF-8 text".strip() if where else "it is not UTF-8 text"
    if "Number of Columns" in message:
        return f"{where or 'a line '}has another number of fields than the header"
    if "quote" in message and where:
        return f"{where}has a quote that is not closed"
    return f"{where}is not well-formed" if where else "it is damaged, or its lines do not end alike"


def _unmasked(values: Any) -> tuple[npt.NDArray[np.float64], BoolArray]:
    """Numbers with NaN for NULL, and which were not NULL."""
    reads = ~np.ma.getmaskarray(values)
    return np.where(reads, np.ma.getdata(values), np.nan).astype(np.float64), reads


def _as_numbers(name: str, special: Iterable[float | str]) -> tuple[float | str, ...]:
    values = tuple(dict.fromkeys(special))
    if any(isinstance(value, str) for value in values):
        raise DataError(
            "SPECIAL_INVALID",
            f"column '{name}' is numeric, and the recipe gives it a special value that is text",
            "write special values of a numeric column without quotes, or name the column under categorical",
        )
    return values


def as_code(value: float | str) -> str:
    """A special value as it stands in a column of codes: -1.0 is '-1'."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value.strip(_BLANKS))
    return str(int(value)) if value.is_integer() else repr(value)


def _frozen(values: Values) -> Values:
    values.setflags(write=False)
    return values


def _repeated_rows(count: int, which: str) -> Finding:
    return Finding("DUPLICATE_ROWS", count, f"{counted_rows(count)} {which} {_was(count)} dropped.")


def counted_rows(count: int) -> str:
    """So many rows, in words."""
    return "1 row" if count == 1 else f"{count:,} rows"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def listed(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
