"""The data dictionary of a source: what each column means, its type, unit, range or codes, and its special values.

TOML, one table a column:

    [columns.turnover]
    description = "年营业额"
    type = "number"            # number, integer, code, date, boolean
    unit = "CNY 10,000"
    range = [0, 1e9]           # both ends allowed
    special = [-1]

or CSV with the header `name,description,type,unit,min,max,codes,special`, where several codes or special values are
separated by `|` and an empty cell says nothing. UTF-8. The dictionary stays with its institution.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from party_agent.dataset import as_code, column_name
from protocols.errors import DataError
from protocols.toml_document import parse_toml

MAX_BYTES = 8 << 20
MAX_COLUMNS = 10_000

_HEADER = ("name", "description", "type", "unit", "min", "max", "codes", "special")
_KEYS = frozenset({"description", "type", "unit", "range", "codes", "special"})
_REMEDY = "compare it with the examples in docs/data.md and save it as UTF-8"


class ColumnType(Enum):
    """What the cells of a column are."""

    NUMBER = "number"
    INTEGER = "integer"
    CODE = "code"
    DATE = "date"
    BOOLEAN = "boolean"


@dataclass(frozen=True)
class DictionaryEntry:
    """One column. least, most: both allowed, None = no bound; codes: all that are allowed, () = any; special: values
    that mean something other than their size, outside of range and codes.
    """

    name: str
    description: str = ""
    type: ColumnType | None = None
    unit: str = ""
    least: float | None = None
    most: float | None = None
    codes: tuple[str, ...] = ()
    special: tuple[float | str, ...] = ()


@dataclass(frozen=True)
class DataDictionary:
    """Entries by column name, in the order of the file."""

    entries: Mapping[str, DictionaryEntry]

    def get(self, name: str) -> DictionaryEntry | None:
        """What the dictionary says of a column, if anything."""
        return self.entries.get(column_name(name))


def read_dictionary(path: Path) -> DataDictionary:
    """The dictionary in a TOML or CSV file, by its ending.

    Raises: DataError: DICTIONARY_MISSING; DICTIONARY_INVALID: not such a document; the sentence names the column or
        the line, and quotes nothing else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            _invalid(path, "is larger than 8 MiB")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError("DICTIONARY_MISSING", f"there is no data dictionary {path.name}", "check the path") from None
    except OSError:
        raise DataError(
            "DICTIONARY_MISSING", f"the data dictionary {path.name} cannot be opened", "check the path and its rights"
        ) from None
    except UnicodeDecodeError:
        _invalid(path, "is not UTF-8 text")
    entries = _of_toml(path, text) if path.suffix.lower() == ".toml" else _of_csv(path, text)
    if len(entries) > MAX_COLUMNS:
        _invalid(path, f"has more than {MAX_COLUMNS:,} columns")
    return DataDictionary(entries)


def _of_toml(path: Path, text: str) -> dict[str, DictionaryEntry]:
    try:
        document = parse_toml(text)
    except (ValueError, RecursionError):  # ValueError: TOMLDecodeError, and a number of thousands of digits
        _invalid(path, "is not TOML")
    columns = document.get("columns")
    if set(document) != {"columns"} or not isinstance(columns, dict):
        _invalid(path, "has not the one table [columns]")
    entries: dict[str, DictionaryEntry] = {}
    for name, given in columns.items():
        if not isinstance(given, dict) or not set(given) <= _KEYS:
            _invalid(path, f"has an unknown key under column '{column_name(name)}'")
        least, most = _range(path, name, given.get("range", []))
        _add(
            path,
            entries,
            name,
            given.get("description", ""),
            given.get("type", ""),
            given.get("unit", ""),
            (least, most),
            _values(path, name, given.get("codes", [])),
            _values(path, name, given.get("special", [])),
        )
    return entries


def _of_csv(path: Path, text: str) -> dict[str, DictionaryEntry]:
    entries: dict[str, DictionaryEntry] = {}
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(rows, [])]
        if "name" not in header or not set(header) <= set(_HEADER) or len(set(header)) != len(header):
            _invalid(path, f"has not the header {','.join(_HEADER)}")
        for line in rows:
            if not any(cell.strip() for cell in line):
                continue
            if len(line) != len(header):
                _invalid(path, f"has another number of fields in line {rows.line_num}")
            cell = dict.fromkeys(_HEADER, "") | dict(zip(header, (cell.strip() for cell in line), strict=True))
            name = cell["name"]
            bounds = (_number(path, name, cell["min"]), _number(path, name, cell["max"]))
            codes, special = _split(cell["codes"]), tuple(_number_or_text(part) for part in _split(cell["special"]))
            _add(path, entries, name, cell["description"], cell["type"], cell["unit"], bounds, codes, special)
    except csv.Error:
        _invalid(path, f"is not CSV in line {rows.line_num}")
    return entries


def _add(
    path: Path,
    entries: dict[str, DictionaryEntry],
    name: str,
    description: Any,
    kind: Any,
    unit: Any,
    bounds: tuple[float | None, float | None],
    codes: tuple[float | str, ...],
    special: tuple[float | str, ...],
) -> None:
    key = column_name(name)
    if not key or key in entries:
        _invalid(path, f"names a column twice, or not at all: '{key}'")
    if not all(isinstance(text, str) for text in (description, kind, unit)):
        _invalid(path, f"has a description, type or unit that is no text under column '{key}'")
    kinds = {item.value: item for item in ColumnType}
    if kind and kind not in kinds:
        _invalid(path, f"has a type other than {', '.join(kinds)} under column '{key}'")
    least, most = bounds
    if least is not None and most is not None and least > most:
        _invalid(path, f"has a range that ends before it begins under column '{key}'")
    words = tuple(as_code(value) for value in codes)
    entries[key] = DictionaryEntry(key, description, kinds.get(kind), unit, least, most, words, special)


def _range(path: Path, name: str, given: Any) -> tuple[float | None, float | None]:
    if given == []:
        return None, None
    if not isinstance(given, list) or len(given) != 2:
        _invalid(path, f"has a range that is not two numbers under column '{column_name(name)}'")
    ends: list[float | None] = []
    for end in given:
        if not _is_number(end) or math.isnan(end):
            _invalid(path, f"has a range that is not two numbers under column '{column_name(name)}'")
        ends.append(None if math.isinf(end) else float(end))
    return ends[0], ends[1]


def _values(path: Path, name: str, given: Any) -> tuple[float | str, ...]:
    if isinstance(given, dict):  # codes with their meanings
        given = list(given)
    if not isinstance(given, list) or not all(isinstance(value, str) or _is_number(value) for value in given):
        _invalid(path, f"has codes or special values that are neither text nor numbers under '{column_name(name)}'")
    return tuple(value if isinstance(value, str) else float(value) for value in given)


def _is_number(value: Any) -> bool:
    """Whether it is a number that a column of floats can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _number(path: Path, name: str, text: str) -> float | None:
    if not text:
        return None
    number = _number_or_text(text)
    if isinstance(number, str):
        _invalid(path, f"has a min or max that is no number under column '{column_name(name)}'")
    return number


def _number_or_text(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) and "_" not in text else text


def _split(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split("|") if part.strip())


def _invalid(path: Path, what: str) -> NoReturn:
    raise DataError("DICTIONARY_INVALID", f"the data dictionary {path.name} {what}", _REMEDY)
