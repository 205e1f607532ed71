"""`concordat-party audit`: verify, show and export the institution's audit log, or one that another handed over."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from party_agent.head_exchange import exchange_warnings
from protocols.audit import Verification, heads_received, verify_log
from protocols.audit_export import instant, sentence, shown, verdict, verdict_sentence
from protocols.audit_files import FileMedium, StoredLog, write_export
from protocols.errors import ConcordatError, DataError

audit_app = typer.Typer(help="The audit log: verify it, read it, export it for a regulator.", no_args_is_help=True)

EXIT_REFUSED = 1

FolderOption = Annotated[Path, typer.Option(help="This institution's folder.")]
HeadFileOption = Annotated[Path | None, typer.Option(help="The sealed head, where it is kept outside the folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@audit_app.command()
def verify(
    folder: FolderOption = Path(),
    log: Annotated[Path | None, typer.Option(help="Another institution's audit.log instead of the own one.")] = None,
    peer: Annotated[str | None, typer.Option(help="With --log: whose it is; its heads in the own log count.")] = None,
    identity: Annotated[
        str | None,
        typer.Option(help="With --log: identity key of its owner, in hex; by default the one verified here."),
    ] = None,
    head_file: HeadFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every entry, and that the log reaches its sealed head and the heads peers hold; name the first fault."""
    warnings: list[str] = []
    with _refusing(as_json):
        if log is None:
            own = _own(folder, head_file)
            result, witnesses = own.result, len(own.receipts)
            warnings = exchange_warnings(folder, int(time.time()))
        else:
            if peer is None:
                raise DataError("AUDIT_IDENTITY_MISSING", "whose log it is was not said", "give --peer and --identity")
            medium = FileMedium(folder, head_file)
            key = _pinned(folder, peer) if identity is None else _key(identity)
            if not folder.is_dir():
                raise DataError("AUDIT_LOG_MISSING", "there is no such folder", "name the institution's folder")
            with medium.exclusive():
                heads = [head for head in heads_received(medium.read(), peer) if head.is_of(key)]
            result, witnesses = verify_log(_read(log), key, witnesses=heads), len(heads)
    _tell(result, witnesses, as_json, warnings)


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
    from party_agent.transport import load_identity

    return StoredLog(folder, load_identity(folder / "identity.pem").public_key(), head_file, "the institution's folder")


def _pinned(folder: Path, peer: str) -> Ed25519PublicKey:
    """The identity of a peer that was compared over the telephone."""
    from party_agent.peers import PeerBook

    with PeerBook.open(folder) as peers:
        return peers.pinned(peer)


def _key(text: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError as error:
        raise DataError(
            "AUDIT_IDENTITY_MISSING", "this is no identity key", "give its 32 bytes as 64 hex digits"
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError("AUDIT_LOG_MISSING", "there is no log to read at this path", "check the path") from error


def _tell(result: Verification, witnesses: int, as_json: bool, warnings: Sequence[str] = ()) -> None:
    """The verdict; warnings: on the exchange of heads, which change nothing about this log."""
    if as_json:
        typer.echo(json.dumps(verdict(result, witnesses) | {"warnings": list(warnings)}))
    elif result.sound:
        typer.echo(verdict_sentence(result, witnesses))
    if not as_json:
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
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
