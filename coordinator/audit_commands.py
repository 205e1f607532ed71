"""`concordat audit`: verify, show and export the lab's own audit log.

The commands of `party_agent/audit_commands.py`, without a peer's log; what they do is in `protocols/audit_files.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from protocols.audit import Verification
from protocols.audit_export import instant, sentence, shown, verdict, verdict_sentence
from protocols.audit_files import StoredLog, write_export
from protocols.errors import ConcordatError

audit_app = typer.Typer(help="The audit log: verify it, read it, export it for a regulator.", no_args_is_help=True)

EXIT_REFUSED = 1

FolderOption = Annotated[Path, typer.Option(help="The lab's folder.")]
HeadFileOption = Annotated[Path | None, typer.Option(help="The sealed head, where it is kept outside the folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@audit_app.command()
def verify(folder: FolderOption = Path(), head_file: HeadFileOption = None, as_json: JsonOption = False) -> None:
    """Check every entry, and that the log reaches its sealed head; name the first fault."""
    with _refusing(as_json):
        own = _own(folder, head_file)
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
        own = _own(folder, head_file)
    entries = own.entries(last, kind, job)
    if as_json:
        document = {"entries": [shown(entry) for entry in entries]} | verdict(own.result, len(own.receipts))
        typer.echo(json.dumps(document))
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
        own = _own(folder, head_file)
        write_export(out, own.export(out.suffix))
    if not as_json:
        typer.echo(f"Wrote {out}")
    _tell(own.result, len(own.receipts), as_json)


def _own(folder: Path, head_file: Path | None) -> StoredLog:
    from coordinator.lab import load_identity

    return StoredLog(folder, load_identity(folder / "identity.pem").public_key(), head_file, "the lab's folder")


def _tell(result: Verification, witnesses: int, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(verdict(result, witnesses)))
    elif result.sound:
        typer.echo(verdict_sentence(result, witnesses))
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
