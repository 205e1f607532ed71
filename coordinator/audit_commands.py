"""`concordat audit`: verify, show and export the lab's own audit log.

The same commands as `party_agent/audit_commands.py`, without a peer's log; neither package imports the other.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from coordinator.audit_log import LOG_FILE, FileMedium, ReceiptFile
from protocols.audit import Head, Verification, entries_of, verify_stored
from protocols.audit_export import export_document, export_files, instant, sentence
from protocols.errors import ConcordatError, DataError

audit_app = typer.Typer(help="The audit log: verify it, read it, export it for a regulator.", no_args_is_help=True)

EXIT_REFUSED = 1

FolderOption = Annotated[Path, typer.Option(help="The lab's folder.")]
HeadFileOption = Annotated[Path | None, typer.Option(help="The sealed head, where it is kept outside the folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@audit_app.command()
def verify(folder: FolderOption = Path(), head_file: HeadFileOption = None, as_json: JsonOption = False) -> None:
    """Check every entry, and that the log reaches its sealed head; name the first fault."""
    with _refusing(as_json):
        own = _Own(folder, head_file)
    _tell(own.result, len(own.receipts), as_json)


@audit_app.command()
def show(
    folder: FolderOption = Path(),
    last: Annotated[int, typer.Option(min=1, help="How many entries, from the end.")] = 50,
    kind: Annotated[str | None, typer.Option(help="Only entries of this kind, e.g. 'job refused'.")] = None,
    job: Annotated[str | None, typer.Option(help="Only entries of this job.")] = None,
    head_file: HeadFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """The entries in plain words. The log is verified first; entries behind a finding are not shown."""
    with _refusing(as_json):
        own = _Own(folder, head_file)
        entries = [
            entry
            for entry in entries_of(own.log[: own.result.good_bytes])
            if kind in (None, entry.kind) and job in (None, entry.fields.get("job"))
        ][-last:]
    if as_json:
        document = [
            {"sequence": e.sequence, "time": e.time, "kind": e.kind, "sentence": sentence(e), "fields": dict(e.fields)}
            for e in entries
        ]
        typer.echo(json.dumps({"entries": document, **_result(own.result, len(own.receipts))}))
    else:
        for entry in entries:
            typer.echo(f"{entry.sequence:>6}  {instant(entry)}  {sentence(entry)}")
    if own.result.finding is not None:
        _refuse(own.result.finding.error(), as_json, quiet=as_json)


@audit_app.command()
def export(
    out: Annotated[Path, typer.Option(help="File to write: .json for one document, .zip with tables and verifier.")],
    folder: FolderOption = Path(),
    head_file: HeadFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """The whole log for a regulator: as it is, in plain words, and with a program of one page that verifies it."""
    with _refusing(as_json):
        if out.suffix not in (".json", ".zip"):
            raise DataError(
                "AUDIT_EXPORT_INVALID", "the file is neither .json nor .zip", "name it audit.zip or audit.json"
            )
        own = _Own(folder, head_file)
        parts = (own.owner, own.log, own.identity, own.result, own.sealed, own.receipts)
        data = export_document(*parts) if out.suffix == ".json" else _zipped(export_files(*parts))
        try:
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            raise DataError("FILE_UNWRITABLE", "the export cannot be written", "choose another place for it") from error
    if not as_json:
        typer.echo(f"Wrote {out}")
    _tell(own.result, len(own.receipts), as_json)


class _Own:
    """The log of this lab, verified.

    Raises: DataError: AUDIT_LOG_MISSING, IDENTITY_UNREADABLE, AUDIT_UNWRITABLE, AUDIT_BUSY.
    """

    def __init__(self, folder: Path, head_file: Path | None) -> None:
        from coordinator.lab import load_identity

        medium = FileMedium(folder, head_file)
        self.identity = load_identity(folder / "identity.pem").public_key()
        self.receipts = tuple(r for r in ReceiptFile(folder).all() if r.head.is_of(self.identity))
        with medium.exclusive():
            self.log = medium.read()
            encoded = medium.read_head()
            if not self.log and encoded is None and not self.receipts:
                raise DataError("AUDIT_LOG_MISSING", f"the folder has no {LOG_FILE}", "name the lab's folder")
            self.result = verify_stored(medium, self.identity, [receipt.head for receipt in self.receipts])
        self.sealed: Head | None = None
        if encoded is not None and (self.result.finding is None or self.result.finding.code != "AUDIT_HEAD_INVALID"):
            self.sealed = Head.decode(encoded)
        opened = next(entries_of(self.log[: self.result.good_bytes]), None)
        self.owner = str(opened.fields.get("owner", "")) if opened else ""


def _zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def _result(result: Verification, witnesses: int) -> dict[str, object]:
    finding = result.finding
    return {
        "sound": result.sound,
        "good_entries": result.entries,
        "last_hash": result.last_hash,
        "witnesses": witnesses,
        "first_finding": None
        if finding is None
        else {"entry": finding.sequence, "code": finding.code, "sentence": finding.sentence},
    }


def _tell(result: Verification, witnesses: int, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_result(result, witnesses)))
    elif result.sound:
        seen = f"; {witnesses} heads that peers hold agree" if witnesses else "; no peer holds a head of it yet"
        typer.echo(f"The log is sound: {result.entries} entries{seen}. Last hash {result.last_hash}.")
    if result.finding is not None:
        _refuse(result.finding.error(), as_json, quiet=as_json)


@contextmanager
def _refusing(as_json: bool) -> Iterator[None]:
    try:
        yield
    except ConcordatError as error:
        _refuse(error, as_json)


def _refuse(error: ConcordatError, as_json: bool, quiet: bool = False) -> NoReturn:
    """End with a code; `quiet` when the finding is in the JSON that was printed."""
    if as_json and not quiet:
        typer.echo(json.dumps({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}}))
    elif not quiet:
        typer.echo(str(error), err=True)
    raise typer.Exit(EXIT_REFUSED)
