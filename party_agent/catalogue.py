"""What an institution publishes of a data set: metadata only, as one signed document in canonical form.

Names or aliases of columns, their parts and types, the number of rows as a band, the months covered, and quality in
bands. No path, host, table, dictionary text, count, code, range, date or value is in it. Any member can check who
published it; the document authorises nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from party_agent.dictionary import ColumnType
from party_agent.quality import ColumnQuality, Part, QualityReport
from party_agent.source import Source
from protocols.errors import DataError, RemoteProtocolError

Send = Callable[[bytes], None]  # hands the encoded document to the lab

MAX_DOCUMENT_BYTES = 1 << 20
MAX_COLUMNS = 5_000

_DOMAIN = b"concordat/catalogue/1\0"
_FORMAT = 1
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])", re.ASCII)
_STEPS = (1, 2, 5)
_ROW_EDGES = tuple(step * 10**power for power in range(3, 9) for step in _STEPS)  # 1k, 2k, 5k, ... 500M
_SHARES = ((0.01, "under 1%"), (0.05, "1-5%"), (0.2, "5-20%"), (0.5, "20-50%"))
_MOST = "over 50%"
_SHARE_BANDS = (*(band for _, band in _SHARES), _MOST)
_NO_BAND = "not measured"


@dataclass(frozen=True)
class PublishedColumn:
    """One column. name: as the institution chose to show it; missing, problems: share of the rows, as a band."""

    name: str
    part: str
    type: str
    missing: str
    problems: str
    constant: bool


@dataclass(frozen=True)
class CatalogueEntry:
    """The metadata of one data set. published: Unix seconds; first_month, last_month: 'YYYY-MM' or ''.

    repeated_ids: rows with the id of an earlier row; wrong_ids: of the ids with a check character, those with a wrong
    one; both as bands.
    """

    owner: str
    dataset: str
    rows: str
    first_month: str
    last_month: str
    repeated_ids: str
    wrong_ids: str
    columns: tuple[PublishedColumn, ...]
    published: int

    def canonical(self) -> bytes:
        """The bytes that are signed."""
        return _canonical({"format": _FORMAT, **asdict(self)})

    def sign(self, identity: Ed25519PrivateKey) -> SignedEntry:
        """This entry with its owner's signature."""
        return SignedEntry(self, identity.sign(_DOMAIN + self.canonical()).hex())


@dataclass(frozen=True)
class SignedEntry:
    """A catalogue entry with its owner's signature in hex."""

    entry: CatalogueEntry
    signature: str

    def encode(self) -> bytes:
        """The bytes to send and to store."""
        return _canonical({"entry": {"format": _FORMAT, **asdict(self.entry)}, "signature": self.signature})

    def hash(self) -> str:
        """SHA-256 of the bytes that are sent, in hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    def verify(self, owner: str, identity: Ed25519PublicKey) -> CatalogueEntry:
        """The entry, if `owner`, whose key is `identity`, published it.

        Raises: RemoteProtocolError: CATALOGUE_SIGNATURE_INVALID.
        """
        try:
            identity.verify(bytes.fromhex(self.signature), _DOMAIN + self.entry.canonical())
        except (InvalidSignature, ValueError):
            raise _signature_invalid() from None
        if self.entry.owner != owner:
            raise _signature_invalid()
        return self.entry

    @classmethod
    def decode(cls, data: bytes) -> SignedEntry:
        """The signed entry in `data`.

        Raises: RemoteProtocolError: CATALOGUE_MALFORMED: not the canonical form of one, or a band, type or month that
            no agent writes.
        """
        if len(data) > MAX_DOCUMENT_BYTES:
            _malformed()
        try:
            document = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError):
            _malformed()
        outer = _record(document, ("entry", "signature"))
        names = [item.name for item in fields(CatalogueEntry)]
        inner = _record(outer["entry"], ("format", *names))
        if type(inner["format"]) is not int or inner["format"] != _FORMAT or not isinstance(inner["columns"], list):
            _malformed()
        if not 1 <= len(inner["columns"]) <= MAX_COLUMNS:
            _malformed()
        columns = tuple(_column(item) for item in inner["columns"])
        texts = {name: _text(inner[name]) for name in names if name not in ("columns", "published")}
        if type(inner["published"]) is not int or not 0 <= inner["published"] < 1 << 53:
            _malformed()
        entry = CatalogueEntry(**texts, columns=columns, published=inner["published"])
        _check(entry)
        signed = cls(entry, _text(outer["signature"]))
        if not re.fullmatch(r"[0-9a-f]{128}", signed.signature) or signed.encode() != data:
            _malformed()
        return signed


def describe(source: Source, owner: str, report: QualityReport, now: int) -> CatalogueEntry:
    """What is published of a source. Columns with the role 'excluded' are not in it; an alias replaces a name.

    Args: owner: the institution's name in the lab; report: of the source's rows; now: Unix seconds.
    Raises: DataError: SOURCE_INVALID: an alias is the name of another column that has none, or owner is no name.
    """
    if not _NAME.fullmatch(owner):
        raise DataError(
            "SOURCE_INVALID",
            "the institution's name is not one of a member of a lab",
            "give the name under which this institution joined the lab",
        )
    names = [source.published_name(column.name) for column in report.columns]
    if len(set(names)) != len(names):
        raise DataError(
            "SOURCE_INVALID", "an alias is the name of another column", "add the source again with other aliases"
        )
    return CatalogueEntry(
        owner=owner,
        dataset=source.name,
        rows=row_band(report.rows),
        first_month=report.first_month or "",
        last_month=report.last_month or "",
        repeated_ids=share_band(report.repeated, report.rows),
        wrong_ids=share_band(report.checked_ids - report.valid_ids, report.checked_ids),
        columns=tuple(_published(source, column, report.rows) for column in report.columns),
        published=now,
    )


def publish(entry: CatalogueEntry, identity: Ed25519PrivateKey, send: Send) -> SignedEntry:
    """Sign the entry and hand it to the lab.

    Raises: what `send` raises.
    """
    signed = entry.sign(identity)
    send(signed.encode())
    return signed


def row_band(rows: int) -> str:
    """The band of a number of rows.

    >>> [row_band(n) for n in (0, 999, 1000, 7_321, 2_000_000, 10**12)]
    ['under 1k', 'under 1k', '1k-2k', '5k-10k', '2M-5M', 'over 500M']
    """
    place = bisect_right(_ROW_EDGES, rows)
    if place == 0:
        return f"under {_short(_ROW_EDGES[0])}"
    if place == len(_ROW_EDGES):
        return f"over {_short(_ROW_EDGES[-1])}"
    return f"{_short(_ROW_EDGES[place - 1])}-{_short(_ROW_EDGES[place])}"


def share_band(count: int, total: int) -> str:
    """The band of a share; none and few are one band, so that a single row does not show.

    >>> share_band(0, 100), share_band(5, 100), share_band(100, 100), share_band(0, 0)
    ('under 1%', '5-20%', 'over 50%', 'not measured')
    """
    if total == 0:
        return _NO_BAND
    return next((band for edge, band in _SHARES if count < edge * total), _MOST)


def _published(source: Source, column: ColumnQuality, rows: int) -> PublishedColumn:
    return PublishedColumn(
        name=source.published_name(column.name),
        part=column.part.value,
        type=column.type.value,
        missing=share_band(column.missing, rows),
        problems=share_band(column.invalid + column.out_of_range, rows),
        constant=column.constant,
    )


def _short(rows: int) -> str:
    return f"{rows // 10**6}M" if rows >= 10**6 else f"{rows // 1000}k"


_ROW_BANDS = frozenset(row_band(edge) for edge in (0, *_ROW_EDGES))


def _check(entry: CatalogueEntry) -> None:
    """Only what `describe` can write: a document of another kind could carry values."""
    months = (entry.first_month, entry.last_month)
    bands = {entry.repeated_ids, entry.wrong_ids}
    if not _NAME.fullmatch(entry.owner) or not _NAME.fullmatch(entry.dataset) or entry.rows not in _ROW_BANDS:
        _malformed()
    if months != ("", "") and not (all(_MONTH.fullmatch(month) for month in months) and months[0] <= months[1]):
        _malformed()
    if not bands <= {*_SHARE_BANDS, _NO_BAND} or len({c.name for c in entry.columns}) != len(entry.columns):
        _malformed()


def _column(value: Any) -> PublishedColumn:
    given = _record(value, [item.name for item in fields(PublishedColumn)])
    if type(given["constant"]) is not bool:
        _malformed()
    column = PublishedColumn(
        **{name: _text(given[name]) for name in given if name != "constant"}, constant=given["constant"]
    )
    known = (
        0 < len(column.name) <= 200
        and column.name.isprintable()
        and column.part in {part.value for part in Part}
        and column.type in {kind.value for kind in ColumnType}
        and {column.missing, column.problems} <= set(_SHARE_BANDS)
    )
    if not known:
        _malformed()
    return column


def _record(value: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        _malformed()
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or re.search("[\ud800-\udfff]", value):
        _malformed()
    return value


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _malformed() -> NoReturn:
    raise RemoteProtocolError(
        "CATALOGUE_MALFORMED", "a catalogue document is not in its canonical form", "ask its owner to publish it again"
    )


def _signature_invalid() -> RemoteProtocolError:
    return RemoteProtocolError(
        "CATALOGUE_SIGNATURE_INVALID",
        "a catalogue document was not published by the institution it names",
        "compare fingerprints out of band, then ask its owner to publish it again",
    )
