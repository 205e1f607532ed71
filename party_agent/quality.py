"""What a source's rows are worth before a job reads them: missing cells, repeats, ranges, ids, dates, types.

The report is for the source's own institution: it holds counts, names of columns and months, and never a value. What
others may see of it, in bands, is made by party_agent/catalogue.py.
"""

from __future__ import annotations

import datetime
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from party_agent.dataset import BoolArray, Cells, Finding, as_code, counted_rows, listed
from party_agent.dictionary import ColumnType, DataDictionary, DictionaryEntry
from party_agent.source import ColumnRole, Environment, Source
from party_agent.sources import open_source
from protocols.errors import DataError
from protocols.psi.identifiers import canonical_id, check_character_valid

MISSING_OFTEN = 0.5  # a column with more missing cells than this is named
FRESH_DAYS = 180
COVERAGE_ROWS = 50  # a month counts as covered from so many rows on: the rows of the smallest bin

_TIME = r"(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}(?::?\d{2})?)?)?"
_DATES = (
    re.compile(rf"(\d{{4}})[-/.](\d{{1,2}})(?:[-/.](\d{{1,2}}){_TIME})?", re.ASCII),
    re.compile(r"(\d{4})(\d{2})(\d{2})?", re.ASCII),
    re.compile(r"(\d{4})年(\d{1,2})月(?:(\d{1,2})日)?", re.ASCII),
)
_STRUCTURED = ("JSON", "STRUCT", "MAP", "LIST", "[]")


class Part(Enum):
    """What a column is to the agent."""

    ID = "id"
    LABEL = "label"
    DATE = "date"
    FEATURE = "feature"


@dataclass(frozen=True)
class ColumnQuality:
    """One column. missing: cells; constant: at most one value, missing being one; invalid: cells not of the column's
    type; out_of_range: cells outside of the dictionary's range or codes, special values aside.
    """

    name: str
    part: Part
    type: ColumnType
    missing: int
    constant: bool
    invalid: int
    out_of_range: int


@dataclass(frozen=True)
class QualityReport:
    """rows: with an id; valid_ids, checked_ids: ids with the right check character, of those that have one;
    repeated: rows with the id of an earlier row; first_month, last_month: 'YYYY-MM', of at least `COVERAGE_ROWS` rows
    each; age_days: from the newest date to today, None without dates.
    """

    rows: int
    columns: tuple[ColumnQuality, ...]
    checked_ids: int
    valid_ids: int
    repeated: int
    first_month: str | None
    last_month: str | None
    age_days: int | None
    findings: tuple[Finding, ...]


def check_source(
    source: Source, today: datetime.date, environment: Environment = os.environ, fresh_days: int = FRESH_DAYS
) -> QualityReport:
    """The quality of a source's rows, read now, against its data dictionary if it has one.

    Raises: DataError: as `open_source` and `Source.read_dictionary`, and FILE_EMPTY: no row has an id.
    """
    dictionary = source.read_dictionary()
    excluded = [column for column, role in source.roles.items() if role is ColumnRole.EXCLUDED]
    with open_source(source, environment, excluded=excluded) as cells:
        return check_cells(cells, source, dictionary, today, fresh_days)


def check_cells(
    cells: Cells,
    source: Source,
    dictionary: DataDictionary | None,
    today: datetime.date,
    fresh_days: int = FRESH_DAYS,
) -> QualityReport:
    """The quality of `cells`, which were read from `source`; columns with the role 'excluded' are not looked at."""
    excluded = {column for column, role in source.roles.items() if role is ColumnRole.EXCLUDED}
    ids, kept = _ids(cells, source)
    findings: list[Finding] = []
    if empty := int(np.count_nonzero(~kept)):
        findings.append(Finding("EMPTY_IDS", empty, f"{counted_rows(empty)} without an id: a job drops them."))
    checks = [check_character_valid(text) for text in ids]
    checked, valid = sum(check is not None for check in checks), sum(check is True for check in checks)
    if checked > valid:
        sentence = f"{counted_rows(checked - valid)} with a wrong check character in an 18-character id."
        findings.append(Finding("ID_CHECK_CHARACTER", checked - valid, sentence))
    looked: list[_Looked] = []
    for name in cells.names:
        if name not in excluded:
            looked.append(_look(cells, name, kept, source, None if dictionary is None else dictionary.get(name)))
    repeated, more = _repeats(ids, looked)
    findings += more + _column_findings(looked)
    findings += [] if dictionary is None else _dictionary_findings(looked, dictionary, set(cells.names))
    coverage = _Coverage(None, None, None, ())
    if source.date_column is not None:
        date_cells = next(one.texts for one in looked if one.quality.part is Part.DATE)
        coverage = _coverage(date_cells, today, fresh_days)
    return QualityReport(
        rows=len(ids),
        columns=tuple(one.quality for one in looked),
        checked_ids=checked,
        valid_ids=valid,
        repeated=repeated,
        first_month=coverage.first_month,
        last_month=coverage.last_month,
        age_days=coverage.age_days,
        findings=(*findings, *coverage.findings),
    )


def parse_date(text: str) -> datetime.date | None:
    """The day in a cell, or the first day of a month in it; None if it is no date.

    >>> parse_date("2024-03-31"), parse_date("2024年3月"), parse_date("202403"), parse_date("20240230")
    (datetime.date(2024, 3, 31), datetime.date(2024, 3, 1), datetime.date(2024, 3, 1), None)
    """
    for form in _DATES:
        if (found := form.fullmatch(text)) is not None:
            try:
                return datetime.date(int(found[1]), int(found[2]), int(found[3] or 1))
            except ValueError:
                return None
    return None


@dataclass(frozen=True, eq=False)
class _Looked:
    """A column's quality with what was read of it. texts, numbers: shape (rows with an id,)."""

    quality: ColumnQuality
    texts: npt.NDArray[np.object_]
    numbers: npt.NDArray[np.float64]
    source_type: str
    declared: ColumnType | None
    mixed: int


@dataclass(frozen=True)
class _Coverage:
    first_month: str | None
    last_month: str | None
    age_days: int | None
    findings: tuple[Finding, ...]


def _ids(cells: Cells, source: Source) -> tuple[list[str], BoolArray]:
    everything = [canonical_id(text) for text in cells.text(cells.index(source.id_column)).tolist()]
    kept = np.fromiter((bool(text) for text in everything), dtype=np.bool_, count=len(everything))
    if not kept.any():
        raise DataError("FILE_EMPTY", f"{cells.called} has no row with an id", "provide rows that have ids")
    return [text for text in everything if text], kept


def _look(cells: Cells, name: str, kept: BoolArray, source: Source, entry: DictionaryEntry | None) -> _Looked:
    index = cells.index(name)
    texts = cells.text(index)[kept]
    numbers, _, reads = cells.numbers(index)
    numbers, reads = numbers[kept], reads[kept]
    filled = np.asarray(texts != "", dtype=np.bool_)
    part = {source.id_column: Part.ID, source.label_column: Part.LABEL, source.date_column: Part.DATE}.get(
        name, Part.FEATURE
    )
    finite = reads & np.isfinite(numbers)
    role = source.roles.get(name)
    declared = None if entry is None else entry.type
    kind = _type(part, role, declared, cells.type_of(index), finite, filled)
    special = _is_special(texts, numbers, entry)
    wrong = filled & ~special & ~_of_type(kind, texts, numbers, finite)
    beyond = filled & ~special & ~wrong & _out_of_range(texts, numbers, finite, entry)
    undeclared = declared is None and part is Part.FEATURE and role is not ColumnRole.CATEGORICAL
    mixed = int(np.count_nonzero(filled & ~finite)) if undeclared and reads.any() else 0
    quality = ColumnQuality(
        name=name,
        part=part,
        type=kind,
        missing=int(np.count_nonzero(~filled)),
        constant=_is_constant(kind, texts, numbers, finite),
        invalid=int(np.count_nonzero(wrong)),
        out_of_range=int(np.count_nonzero(beyond)),
    )
    return _Looked(quality, texts, numbers, cells.type_of(index), declared, mixed)


def _type(
    part: Part,
    role: ColumnRole | None,
    declared: ColumnType | None,
    source_type: str,
    finite: BoolArray,
    filled: BoolArray,
) -> ColumnType:
    """The dictionary's word, else the source's, else what most cells are."""
    if part in (Part.ID, Part.DATE):
        return ColumnType.CODE if part is Part.ID else ColumnType.DATE
    if part is Part.LABEL:
        return ColumnType.BOOLEAN
    if declared is not None:
        return declared
    if role is not None:
        return ColumnType.CODE if role is ColumnRole.CATEGORICAL else ColumnType.NUMBER
    if source_type == "BOOLEAN":
        return ColumnType.BOOLEAN
    if source_type.startswith(("DATE", "TIME")):
        return ColumnType.DATE
    return ColumnType.NUMBER if 2 * int(finite.sum()) > int(filled.sum()) else ColumnType.CODE


def _of_type(
    kind: ColumnType, texts: npt.NDArray[np.object_], numbers: npt.NDArray[np.float64], finite: BoolArray
) -> BoolArray:
    """Which cells are of a type, shape (n,)."""
    if kind is ColumnType.CODE:
        return np.ones(len(texts), dtype=np.bool_)
    if kind is ColumnType.DATE:
        return _mapped(texts, lambda text: parse_date(text) is not None)
    if kind is ColumnType.BOOLEAN:
        return np.asarray(finite & ((numbers == 0) | (numbers == 1)))
    if kind is ColumnType.INTEGER:
        return np.asarray(finite & (np.floor(np.where(finite, numbers, 0.5)) == numbers))
    return finite


def _is_special(
    texts: npt.NDArray[np.object_], numbers: npt.NDArray[np.float64], entry: DictionaryEntry | None
) -> BoolArray:
    special = () if entry is None else entry.special
    if not special:
        return np.zeros(len(texts), dtype=np.bool_)
    figures = [value for value in special if not isinstance(value, str)]
    words = {as_code(value) for value in special}
    return np.isin(numbers, figures) | _mapped(texts, words.__contains__)


def _out_of_range(
    texts: npt.NDArray[np.object_],
    numbers: npt.NDArray[np.float64],
    finite: BoolArray,
    entry: DictionaryEntry | None,
) -> BoolArray:
    beyond = np.zeros(len(texts), dtype=np.bool_)
    if entry is None:
        return beyond
    if entry.least is not None:
        beyond |= finite & (numbers < entry.least)
    if entry.most is not None:
        beyond |= finite & (numbers > entry.most)
    if entry.codes:
        beyond |= ~_mapped(texts, set(entry.codes).__contains__)
    return beyond


def _is_constant(
    kind: ColumnType, texts: npt.NDArray[np.object_], numbers: npt.NDArray[np.float64], finite: BoolArray
) -> bool:
    if kind in (ColumnType.NUMBER, ColumnType.INTEGER, ColumnType.BOOLEAN) and finite.all():
        return bool(np.all(numbers == numbers[0]))
    return bool(np.all(texts == texts[0]))


def _repeats(ids: Sequence[str], looked: Sequence[_Looked]) -> tuple[int, list[Finding]]:
    """How many rows have the id of an earlier row, and whether they differ from it."""
    seen: dict[str, int] = {}
    first = np.fromiter((seen.setdefault(text, row) for row, text in enumerate(ids)), dtype=np.int64, count=len(ids))
    repeats = np.flatnonzero(first != np.arange(len(ids)))
    if not repeats.size:
        return 0, []
    differs = np.zeros(repeats.size, dtype=np.bool_)
    for one in looked:
        if one.quality.part in (Part.ID, Part.DATE):
            continue
        same = one.texts[repeats] == one.texts[first[repeats]]
        if one.quality.type is not ColumnType.CODE:
            same |= one.numbers[repeats] == one.numbers[first[repeats]]
        differs |= ~np.asarray(same, dtype=np.bool_)
    findings: list[Finding] = []
    if equal := int(np.count_nonzero(~differs)):
        findings.append(Finding("DUPLICATE_ROWS", equal, f"{counted_rows(equal)} equal to another row."))
    if differing := int(np.count_nonzero(differs)):
        sentence = f"{counted_rows(differing)} with an earlier row's id and other values: a job refuses them."
        findings.append(Finding("DUPLICATE_IDS", differing, sentence))
    return int(repeats.size), findings


def _column_findings(looked: Sequence[_Looked]) -> list[Finding]:
    features = [one for one in looked if one.quality.part is Part.FEATURE]
    rows = len(looked[0].texts)
    findings: list[Finding] = []

    def note(code: str, sentence: str, counts: Mapping[str, int]) -> None:
        named = {name: count for name, count in counts.items() if count}
        if named:
            told = listed([f"{name} ({count:,})" for name, count in named.items()])
            findings.append(Finding(code, sum(named.values()), f"{sentence}: {told}."))

    def name(code: str, sentence: str, names: Sequence[str]) -> None:
        if names:
            findings.append(Finding(code, len(names), f"{sentence}: {listed(names)}."))

    note(
        "MISSING_OFTEN",
        f"Missing in more than {MISSING_OFTEN:.0%} of the rows",
        {one.quality.name: one.quality.missing for one in features if one.quality.missing > MISSING_OFTEN * rows},
    )
    name(
        "COLUMN_CONSTANT",
        "Every row has the same value, or none",
        [one.quality.name for one in features if one.quality.constant],
    )
    note(
        "NUMBER_INVALID",
        "Some cells are numbers and these are not: a job refuses the column unless it is categorical",
        {one.quality.name: one.mixed for one in features},
    )
    note(
        "TYPE_DRIFT",
        "Cells not of the type that the dictionary or the column's role gives",
        {one.quality.name: one.quality.invalid for one in features if not one.mixed},
    )
    note("OUT_OF_RANGE", "Cells outside of the dictionary's range or codes", _counts(looked, "out_of_range"))
    note(
        "LABEL_INVALID",
        "Labels that are neither 0 nor 1: a job refuses them",
        {
            one.quality.name: one.quality.invalid + one.quality.missing
            for one in looked
            if one.quality.part is Part.LABEL
        },
    )
    name(
        "READ_AS_CODES",
        "Dates or documents that a job would read as codes; give them the role 'excluded', or derive features",
        [
            one.quality.name
            for one in features
            if one.quality.type is ColumnType.DATE or any(mark in one.source_type for mark in _STRUCTURED)
        ],
    )
    return findings


def _counts(looked: Sequence[_Looked], what: str) -> dict[str, int]:
    return {one.quality.name: int(getattr(one.quality, what)) for one in looked}


def _dictionary_findings(looked: Sequence[_Looked], dictionary: DataDictionary, present: set[str]) -> list[Finding]:
    findings: list[Finding] = []
    undescribed = [one.quality.name for one in looked if dictionary.get(one.quality.name) is None]
    if undescribed:
        sentence = f"Not in the data dictionary: {listed(undescribed)}."
        findings.append(Finding("NOT_IN_DICTIONARY", len(undescribed), sentence))
    absent = [name for name in dictionary.entries if name not in present]
    if absent:
        sentence = f"In the data dictionary and not in the data: {listed(absent)}."
        findings.append(Finding("NOT_IN_DATA", len(absent), sentence))
    return findings


def _coverage(texts: npt.NDArray[np.object_], today: datetime.date, fresh_days: int) -> _Coverage:
    cells = Counter(texts.tolist())
    cells.pop("", None)
    days: Counter[datetime.date] = Counter()
    invalid = ahead = 0
    for text, count in cells.items():
        day = parse_date(text)
        if day is None:
            invalid += count
        elif day > today:
            ahead += count
        else:
            days[day] += count
    findings: list[Finding] = []
    if invalid:
        findings.append(Finding("DATE_INVALID", invalid, f"{counted_rows(invalid)} with a date that cannot be read."))
    if ahead:
        findings.append(Finding("DATE_IN_FUTURE", ahead, f"{counted_rows(ahead)} with a date after today."))
    if not days:
        findings.append(Finding("DATES_MISSING", len(texts), "No row has a date of today or earlier."))
        return _Coverage(None, None, None, tuple(findings))
    age = (today - max(days)).days
    if age > fresh_days:
        findings.append(Finding("STALE", age, f"The newest row is {age:,} days old; {fresh_days:,} were expected."))
    months: Counter[str] = Counter()
    for day, count in days.items():
        months[f"{day:%Y-%m}"] += count
    covered = sorted(month for month, count in months.items() if count >= COVERAGE_ROWS)
    first, last = (covered[0], covered[-1]) if covered else (None, None)
    return _Coverage(first, last, age, tuple(findings))


def _mapped(texts: npt.NDArray[np.object_], holds: Callable[[str], bool]) -> BoolArray:
    """`holds` of each cell, asked once for each different one."""
    verdicts = {text: bool(holds(text)) for text in set(texts.tolist())}
    return np.fromiter((verdicts[text] for text in texts.tolist()), dtype=np.bool_, count=len(texts))
