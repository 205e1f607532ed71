"""`concordat init, upgrade, restored, invite, members, revoke, serve`: the operator's commands on a lab's folder."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.lab import INVITATION_HOURS, DatabaseSettings, Lab, LabSettings
from protocols.errors import ConcordatError, DataError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

FolderOption = Annotated[Path, typer.Option(help="The lab's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
EXIT_REFUSED = 1


@app.command()
def init(
    folder: FolderOption,
    address: Annotated[str, typer.Option(help="host:port as institutions will reach the lab; tokens carry it.")],
    name: Annotated[str, typer.Option(help="The lab's name, shown in its certificate.")] = "lab",
    also: Annotated[list[str] | None, typer.Option(help="Further host names or IP addresses of the lab.")] = None,
    database_env: Annotated[
        str | None, typer.Option(help="Environment variable with the URL of a PostgreSQL database.")
    ] = None,
    database_file: Annotated[
        Path | None, typer.Option(help="File with the URL of a PostgreSQL database; readable by the lab only.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a lab: keys, certificate authority, database (SQLite in the folder, unless another is named)."""
    with _refusing(as_json):
        database = DatabaseSettings(
            url_env=database_env, url_file=str(database_file.resolve()) if database_file else None
        )
        lab = Lab.create(folder, _settings(name, address, also or [], database), time.time)
        fingerprint = lab.authority.fingerprint.hex()
        lab.close()
    answer = {"folder": str(folder), "address": address, "ca_fingerprint": fingerprint, "identity": lab.identity_hex}
    _say(as_json, answer, f"A new lab is in {folder}. Its authority's fingerprint: {fingerprint}")


@app.command()
def upgrade(folder: FolderOption, as_json: JsonOption = False) -> None:
    """Bring the lab's database to this program's version; back it up first."""
    with _refusing(as_json):
        Lab.upgrade(folder, time.time).close()
    _say(as_json, {}, "The lab's database is of this program's version.")


@app.command()
def restored(folder: FolderOption, as_json: JsonOption = False) -> None:
    """Say that the lab's database was restored from a backup: every agent reads its queue again from the start."""
    with _refusing(as_json):
        lab = Lab.load(folder, time.time)
        lab.registry.begin_queue_anew()
        lab.close()
    _say(as_json, {}, "The queue has a new epoch; agents read it again.")


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="The institution's name, as contracts will show it.")],
    folder: FolderOption,
    hours: Annotated[int, typer.Option(help="How long the token can be used.")] = INVITATION_HOURS,
    as_json: JsonOption = False,
) -> None:
    """Print a token with which one institution can join, once. Give it to that institution and nobody else."""
    with _refusing(as_json):
        lab = Lab.load(folder, time.time)
        token = lab.invite(name, hours)
        lab.close()
    _say(as_json, {"name": name, "token": token, "hours": hours}, token)


@app.command()
def members(folder: FolderOption, as_json: JsonOption = False) -> None:
    """List the institutions, and what expires within 30 days."""
    with _refusing(as_json):
        lab = Lab.load(folder, time.time)
        found = [
            {
                "name": item.name,
                "state": item.state,
                "identity": item.identity,
                "joined": item.joined,
                "certificate_expires": item.certificate_expires,
            }
            for item in lab.registry.institutions()
        ]
        warnings = lab.warnings()
        lab.close()
    lines = [f"{item['name']}  {item['state']}" for item in found] + [f"warning: {text}" for text in warnings]
    _say(as_json, {"members": found, "warnings": warnings}, "\n".join(lines) or "No institution has joined.")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The institution to shut out.")],
    folder: FolderOption,
    as_json: JsonOption = False,
) -> None:
    """Shut an institution out: relay and API refuse it from now on, and jobs it takes part in are ended."""
    with _refusing(as_json):
        lab = Lab.load(folder, time.time)
        lab.registry.revoke(name)
        lab.close()
    _say(as_json, {"name": name, "state": "revoked"}, f"{name} is shut out; its name is not given again.")


@app.command()
def serve(
    folder: FolderOption,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 8443,
    as_json: JsonOption = False,
) -> None:
    """Run the lab: relay, dealer and API on one port. Logs to standard error; ends well on SIGTERM."""
    from coordinator.server import LabServer, log_to
    from coordinator.server import serve as run

    def on_started(bound: int, server: LabServer) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.stop)
        _say(as_json, {"listening": f"{host}:{bound}"}, f"The lab listens on {host}:{bound}.")
        sys.stdout.flush()

    log_to()
    with _refusing(as_json):
        run(folder, host, port, on_started)


def _settings(name: str, address: str, also: list[str], database: DatabaseSettings) -> LabSettings:
    try:
        return LabSettings(name=name, address=address, names=tuple(also), database=database)
    except ValueError as error:
        raise DataError("LAB_SETTINGS_INVALID", "the lab's name is empty or too long", "choose another") from error


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
