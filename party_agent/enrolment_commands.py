"""`concordat-party init, join, renew, upgrade, peers, peers verify`: an institution's keys and whom it knows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from party_agent.agent_store import DatabaseReference, open_store, read_settings
from party_agent.enrolment import certificate_status, create_institution, join, lab_client, renew
from party_agent.peers import Peer, PeerBook, PeerState
from party_agent.source_registry import open_registry
from party_agent.tables import SCHEMA
from protocols.errors import ConcordatError
from protocols.fingerprint_words import words
from protocols.roles import COORDINATOR

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
peers_app = typer.Typer(help="The other members of the lab, and their fingerprints.", invoke_without_command=True)
app.add_typer(peers_app, name="peers")

FolderOption = Annotated[Path, typer.Option(help="This institution's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
EXIT_REFUSED = 1


@app.command("init")
def initialise(
    folder: FolderOption,
    name: Annotated[str, typer.Option(help="This institution's name: the one the lab invites.")],
    database_env: Annotated[
        str | None, typer.Option(help="Environment variable with the URL of a PostgreSQL database.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make this institution's folder and keys, on this machine; they never leave it."""
    with _refusing(as_json):
        identity = create_institution(folder, name, DatabaseReference(url_env=database_env))
    spoken = " ".join(words(identity))
    answer = {"name": name, "folder": str(folder), "identity": identity.public_bytes_raw().hex(), "words": spoken}
    _say(as_json, answer, f"The keys of {name} are in {folder}.\nIts twelve words: {spoken}")


@app.command("join")
def enrol(
    token: Annotated[str, typer.Argument(help="The token that the lab's operator printed; '-' reads it from input.")],
    folder: FolderOption,
    as_json: JsonOption = False,
) -> None:
    """Join the lab that issued the token."""
    with _refusing(as_json):
        settings = join(folder, sys.stdin.readline() if token == "-" else token)
        status = certificate_status(folder)
    text = f"{settings.name} has joined the lab at {settings.lab}; its certificate is good for {status.days_left} days."
    _say(as_json, {"name": settings.name, "lab": settings.lab, "certificate_days": status.days_left}, text)


@app.command("renew")
def renew_certificate(folder: FolderOption, as_json: JsonOption = False) -> None:
    """Make a new TLS key and have it certified."""
    with _refusing(as_json):
        status = renew(folder)
    _say(as_json, {"certificate_days": status.days_left}, f"The certificate is good for {status.days_left} days.")


@app.command()
def upgrade(folder: FolderOption, as_json: JsonOption = False) -> None:
    """Bring the agent's database to this program's version, as every start does; back it up first."""
    with _refusing(as_json):
        open_store(folder).dispose()
        open_registry(folder)
    _say(as_json, {"schema": SCHEMA}, "The agent's database is of this program's version.")


@peers_app.callback()
def list_peers(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Option(help="This institution's folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the members of the lab: name, state, and the twelve words that it should read to you."""
    if context.invoked_subcommand is not None:
        return
    if folder is None:
        raise typer.BadParameter("name this institution's folder", param_hint="--folder")
    with _refusing(as_json):
        own = read_settings(folder).name
        with lab_client(folder) as lab, PeerBook.open(folder) as book:
            found = book.refresh(lab.members(), own)
        status = certificate_status(folder)
    warnings = [status.warning] if status.warning else []
    lines = [_line(peer) for peer in found] + [f"warning: {text}" for text in warnings]
    _say(as_json, {"peers": [_record(peer) for peer in found], "warnings": warnings}, "\n".join(lines))


@peers_app.command("verify")
def verify_peer(
    name: Annotated[str, typer.Argument(help="The member on the telephone.")],
    folder: FolderOption,
    spoken: Annotated[
        str | None, typer.Option("--words", help="The twelve words as the other side read them; asked for if missing.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="The member has a new identity, and these are its words.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Believe a member's identity, after its people have read its twelve words to you."""
    with _refusing(as_json):
        own = read_settings(folder).name
        with lab_client(folder) as lab, PeerBook.open(folder) as book:
            book.refresh(lab.members(), own)
            book.get(name)
            heard = spoken if spoken is not None else typer.prompt(f"The twelve words that {name} reads")
            peer = book.verify(name, heard, replace=replace)
    _say(as_json, _record(peer), f"{name} is verified.")


def _line(peer: Peer) -> str:
    mark = "" if peer.enrolment == "active" else f" ({peer.enrolment} by the lab)"
    return f"{peer.name}  {_state(peer)}{mark}\n    {' '.join(peer.words)}"


def _state(peer: Peer) -> str:
    if peer.name == COORDINATOR and peer.state is PeerState.VERIFIED:
        return "verified (by the token)"
    return peer.state.value


def _record(peer: Peer) -> dict[str, Any]:
    return {
        "name": peer.name,
        "state": peer.state.value,
        "enrolment": peer.enrolment,
        "identity": peer.identity,
        "words": " ".join(peer.words),
    }


@contextmanager
def _refusing(as_json: bool) -> Iterator[None]:
    """Errors with a code end the command with their sentence and remedy."""
    try:
        yield
    except ConcordatError as error:
        if as_json:
            document = {"code": error.code, "message": error.message, "remedy": error.remedy}
            sys.stdout.write(json.dumps({"ok": False, "error": document}, ensure_ascii=False, indent=1) + "\n")
        else:
            typer.echo(f"{error.code}: {error.message}.\nRemedy: {error.remedy}.", err=True)
        raise typer.Exit(EXIT_REFUSED) from error


def _say(as_json: bool, answer: dict[str, Any], text: str) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"ok": True, **answer}, ensure_ascii=False, indent=1) + "\n")
    else:
        typer.echo(text)
