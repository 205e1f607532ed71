"""`concordat-party data`: the institution's data sources, their quality, and what is published of them."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from party_agent import catalogue
from party_agent.dataset import Finding
from party_agent.quality import FRESH_DAYS, QualityReport, check_source
from party_agent.source import ColumnRole, SecretReference, Source, database_source, file_source
from party_agent.source_registry import Registered, open_registry
from party_agent.sources import read_schema
from protocols.errors import ConcordatError, DataError

EXIT_REFUSED = 1

SendFrom = Callable[[Path, bytes], None]  # the party's folder and the encoded document
InstitutionOf = Callable[[Path], str]

FolderOption = Annotated[Path, typer.Option(help="This institution's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")]
NameArgument = Annotated[str, typer.Argument(help="The name of the source.")]


def data_app(institution: InstitutionOf | None = None, send: SendFrom | None = None) -> typer.Typer:
    """The sub-application.

    Args: institution: the name under which the party of a folder is enrolled; send: hands a document to the lab.
        Without them `publish` asks for `--institution` and `--out`.
    """
    app = typer.Typer(help="Data sources and what is published of them.", no_args_is_help=True)
    app.command("add")(_add)
    app.command("list")(_list)
    app.command("show")(_show)
    app.command("check")(_check)
    app.command("remove")(_remove)
    app.command("publish")(_publish_command(institution, send))
    return app


def _add(
    name: NameArgument,
    origin: Annotated[
        str,
        typer.Option("--from", help="A CSV or Parquet file, or postgresql://user@host/db, mysql://user@host/db."),
    ],
    id_column: Annotated[str, typer.Option("--id", help="The column of ids.")],
    table: Annotated[str | None, typer.Option(help="Of a database: `table` or `schema.table`, or a view.")] = None,
    query: Annotated[Path | None, typer.Option(help="Of a database: a file with one SELECT of your own.")] = None,
    secret: Annotated[
        str | None, typer.Option(help="Where the password is: env:NAME or file:PATH. Never the password.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The column of labels, at the label owner.")] = None,
    date: Annotated[str | None, typer.Option(help="The column of dates that tells how fresh a row is.")] = None,
    numeric: Annotated[list[str] | None, typer.Option(help="A column of numbers; repeat for more.")] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="A column of codes; repeat for more.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="A column that no job may read; repeat for more.")] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="COLUMN=ALIAS: publish a column under another name; repeat for more.")
    ] = None,
    dictionary: Annotated[Path | None, typer.Option(help="The data dictionary, TOML or CSV.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of one of the same name.")] = False,
    folder: FolderOption = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Add a source, after a look at its columns; no row of a database is read."""
    with _answering(as_json):
        settings: dict[str, Any] = {
            "label_column": label,
            "date_column": date,
            "roles": _roles(numeric, categorical, exclude),
            "aliases": _aliases(alias or ()),
            "dictionary": None if dictionary is None else str(dictionary.absolute()),
        }
        if "://" in origin:
            reference = None if secret is None else SecretReference.parse(secret)
            source = database_source(name, origin, id_column, table=table, query=query, secret=reference, **settings)
        else:
            if table is not None or query is not None or secret is not None:
                raise _invalid("a file has no table, query or password")
            source = file_source(name, Path(origin), id_column, **settings)
        source.read_dictionary()
        schema = read_schema(source)
        open_registry(folder).add(source, int(time.time()), replace)
        columns = [asdict(column) for column in schema]
        _say(as_json, {"added": name, "columns": columns}, f"Added {name}: {len(schema)} columns.")


def _list(folder: FolderOption = Path("."), as_json: JsonOption = False) -> None:
    """The sources of this institution."""
    with _answering(as_json):
        sources = open_registry(folder).all()
        lines = [
            f"{one.source.name:<24} {one.source.kind.value:<11} {'published' if one.published else '-':<10}"
            f" {one.source.shown()}"
            for one in sources
        ]
        _say(as_json, {"sources": [_document(one) for one in sources]}, "\n".join(lines) or "No sources yet.")


def _show(name: NameArgument, folder: FolderOption = Path("."), as_json: JsonOption = False) -> None:
    """A source's settings, its columns as they are now, and what the data dictionary says of them."""
    with _answering(as_json):
        registered = open_registry(folder).get(name)
        source = registered.source
        dictionary = source.read_dictionary()
        columns = []
        for column in read_schema(source):
            entry = None if dictionary is None else dictionary.get(column.name)
            columns.append(
                {
                    "name": column.name,
                    "type": column.type,
                    "part": _part(source, column.name),
                    "published_as": source.published_name(column.name),
                    "description": "" if entry is None else entry.description,
                    "unit": "" if entry is None else entry.unit,
                }
            )
        settings = _document(registered)
        lines = [f"{key}: {value}" for key, value in settings.items() if value not in (None, {}, "")]
        lines += ["", *(_column_line(column) for column in columns)]
        _say(as_json, settings | {"columns": columns}, "\n".join(lines))


def _check(
    name: NameArgument,
    fresh_days: Annotated[int, typer.Option(min=1, help="Days after which the newest row is stale.")] = FRESH_DAYS,
    folder: FolderOption = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Read a source and say what is wrong with it. The answer stays here."""
    with _answering(as_json):
        source = open_registry(folder).get(name).source
        report = check_source(source, _today(), os.environ, fresh_days)
        _say(as_json, _report_document(report), "\n".join(_report_lines(report)))


def _remove(name: NameArgument, folder: FolderOption = Path("."), as_json: JsonOption = False) -> None:
    """Forget a source; its rows are not touched, and what was published of it stays published."""
    with _answering(as_json):
        open_registry(folder).remove(name)
        _say(as_json, {"removed": name}, f"Removed {name}.")


def _publish_command(institution_of: InstitutionOf | None, send: SendFrom | None) -> Callable[..., None]:
    def publish(
        name: NameArgument,
        preview: Annotated[bool, typer.Option("--preview", help="Show what would be sent, and send nothing.")] = False,
        out: Annotated[
            Path | None, typer.Option(help="Write the signed document to a file instead of sending it.")
        ] = None,
        institution: Annotated[str | None, typer.Option(help="This institution's name in the lab.")] = None,
        folder: FolderOption = Path("."),
        as_json: JsonOption = False,
    ) -> None:
        """Send a source's metadata to the lab: names or aliases, types, bands, months covered. Never a value."""
        from party_agent.transport import load_identity

        with _answering(as_json):
            registry = open_registry(folder)
            source = registry.get(name).source
            if institution is None and institution_of is None:
                raise _invalid("the institution's name in the lab is not known: say --institution")
            owner = institution or (institution_of(folder) if institution_of is not None else "")
            now = int(time.time())
            entry = catalogue.describe(source, owner, check_source(source, _today(), os.environ), now)
            if preview:
                _say(as_json, {"preview": asdict(entry)}, json.dumps(asdict(entry), ensure_ascii=False, indent=1))
                return
            hand_over: catalogue.Send
            if out is not None:
                target = out
                hand_over = lambda document: _write(target, document)  # noqa: E731
            elif send is not None:
                carry = send
                hand_over = lambda document: carry(folder, document)  # noqa: E731
            else:
                raise _invalid("there is no connection to a lab: say --out FILE, or join one first")
            signed = catalogue.publish(entry, load_identity(folder / "identity.pem"), hand_over)
            registry.mark_published(name, signed.hash(), now)
            _say(as_json, {"published": name, "hash": signed.hash()}, f"Published {name}, {signed.hash()[:16]}.")

    return publish


def _roles(
    numeric: Sequence[str] | None, categorical: Sequence[str] | None, exclude: Sequence[str] | None
) -> dict[str, ColumnRole]:
    roles: dict[str, ColumnRole] = {}
    given = (
        (ColumnRole.NUMERIC, numeric),
        (ColumnRole.CATEGORICAL, categorical),
        (ColumnRole.EXCLUDED, exclude),
    )
    for role, names in given:
        for name in names or ():
            if roles.setdefault(name, role) is not role:
                raise _invalid(f"column {name} is given two roles")
    return roles


def _aliases(given: Sequence[str]) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for text in given:
        column, separator, alias = text.rpartition("=")
        if not separator or column in aliases:
            raise _invalid("an alias is COLUMN=ALIAS, one for a column")
        aliases[column] = alias
    return aliases


def _part(source: Source, column: str) -> str:
    own = {source.id_column: "id", source.label_column: "label", source.date_column: "date"}
    role = source.roles.get(column)
    return own.get(column) or ("" if role is None else role.value)


def _document(one: Registered) -> dict[str, Any]:
    source = one.source
    return {
        "name": source.name,
        "kind": source.kind.value,
        "location": source.shown(),
        "secret": None if source.secret is None else str(source.secret),
        "id": source.id_column,
        "label": source.label_column,
        "date": source.date_column,
        "roles": {column: role.value for column, role in source.roles.items()},
        "aliases": dict(source.aliases),
        "dictionary": source.dictionary,
        "added": one.added,
        "published": one.published,
        "published_hash": one.published_hash,
    }


def _report_document(report: QualityReport) -> dict[str, Any]:
    columns = [asdict(column) | {"part": column.part.value, "type": column.type.value} for column in report.columns]
    return asdict(report) | {"columns": columns, "findings": [asdict(finding) for finding in report.findings]}


def _report_lines(report: QualityReport) -> Iterator[str]:
    months = f"{report.first_month} to {report.last_month}" if report.first_month else "not known"
    yield f"{report.rows:,} rows, {len(report.columns)} columns; months covered: {months}."
    if report.checked_ids:
        yield f"Check characters: {report.valid_ids:,} of {report.checked_ids:,} ids that have one are right."
    yield ""
    yield f"{'column':<32} {'part':<8} {'type':<8} {'missing':>8} {'invalid':>9} {'beyond':>9}"
    for column in report.columns:
        missing = column.missing / report.rows
        told = "  constant" if column.constant else ""
        yield (
            f"{column.name:<32} {column.part.value:<8} {column.type.value:<8} {missing:>8.1%} {column.invalid:>9,}"
            f" {column.out_of_range:>9,}{told}"
        )
    yield ""
    yield from map(_finding_line, report.findings)
    if not report.findings:
        yield "No findings."


def _finding_line(finding: Finding) -> str:
    return f"{finding.code}: {finding.sentence}"


def _column_line(column: dict[str, str]) -> str:
    alias = "" if column["published_as"] == column["name"] else f"  as {column['published_as']}"
    about = " ".join(part for part in (column["description"], column["unit"]) if part)
    return f"  {column['name']:<32} {column['type']:<26} {column['part']:<12} {about}{alias}".rstrip()


def _write(path: Path, document: bytes) -> None:
    try:
        path.write_bytes(document)
    except OSError:
        raise DataError("FOLDER_UNUSABLE", f"{path.name} cannot be written", "check the path and its rights") from None


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _invalid(sentence: str) -> DataError:
    return DataError("SOURCE_INVALID", sentence, "correct the command; docs/data.md has examples")


@contextmanager
def _answering(as_json: bool) -> Iterator[None]:
    """End with the error's code, sentence and remedy, and never with a traceback of ours."""
    try:
        yield
    except ConcordatError as error:
        document = {"code": error.code, "message": error.message, "remedy": error.remedy}
        if as_json:
            typer.echo(json.dumps({"error": document}, ensure_ascii=False))
        else:
            typer.echo(f"{error.code}: {error.message}.\n{error.remedy}.", err=True)
        raise typer.Exit(EXIT_REFUSED) from None


def _say(as_json: bool, document: dict[str, Any], text: str) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False) if as_json else text)
