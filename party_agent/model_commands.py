"""`concordat-party model`: the institution's own part of a joint scorecard, for use elsewhere."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from protocols.errors import ConcordatError

model_app = typer.Typer(help="The own part of a joint scorecard: export it.", no_args_is_help=True)

EXIT_REFUSED = 1


class Format(Enum):
    """What an export is written as."""

    JSON = "json"
    SQL = "sql"


@model_app.callback()
def _commands() -> None:
    """The own part of a joint scorecard; other parties' parts are not in this folder."""


@model_app.command()
def export(
    folder: Annotated[Path, typer.Option(help="The folder of the job, with model.json.")] = Path(),
    written_as: Annotated[
        Format, typer.Option("--format", help="json: documented form; sql: one CASE expression.")
    ] = Format.JSON,
    out: Annotated[Path | None, typer.Option(help="File to write; by default standard output.")] = None,
) -> None:
    """Write bins and points of the own features, for systems that score without this program."""
    from party_agent import model, model_export
    from party_agent.store import Folder
    from protocols.errors import DataError

    try:
        if not (folder / model.MODEL_FILE).exists():
            raise DataError("MODEL_MISSING", "the folder holds no model", "name the folder of a finished job")
        own = model.read(Folder(folder))
        text = model_export.to_json(own) if written_as is Format.JSON else model_export.to_sql(own)
        if out is not None:
            Folder(out.parent).write(out.name, text.encode())
    except ConcordatError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_REFUSED) from error
    if out is None:
        sys.stdout.write(text)
