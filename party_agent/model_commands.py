"""`concordat-party model`: the library of models, and the institution's own part of each, for use elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from party_agent.agent import Agent, JobState
from party_agent.agent_commands import EXIT_REFUSED, FolderOption, JsonOption, _agent, _refusing, _say
from party_agent.lineage import check_part
from party_agent.model import MODEL_FILE
from party_agent.rest_client import RestClient
from party_agent.store import Folder
from protocols.contract import JobKind
from protocols.errors import ConcordatError, DataError
from protocols.model_record import METRIC_UNIT, Act, ModelRecord, ModelState

model_app = typer.Typer(help="Models: versions, approvals, comparison, export.", no_args_is_help=True)

ModelArgument = Annotated[str, typer.Argument(help="NAME:VERSION, the training job, or the beginning of the hash.")]
ReasonOption = Annotated[str, typer.Option(help="Why; all parties read it.")]


class Format(Enum):
    """What an export is written as."""

    JSON = "json"
    SQL = "sql"


@model_app.callback()
def _commands() -> None:
    """Each party keeps its own part of a model; records and approvals hold hashes and opened metrics only."""


# -- the library


@model_app.command("list")
def list_models(folder: FolderOption, as_json: JsonOption = False) -> None:
    """Take over what has come from the lab, and list every model with its state, drafts of this agent included."""
    with _refusing(as_json), _library(folder) as (agent, _):
        rows = [_row(agent, record) for record in agent.models.store.all()]
        submitted = {(row["job"], row["contract_hash"]) for row in rows}
        drafts = [
            {"job": entry.job, "contract_hash": entry.contract, "state": ModelState.DRAFT.value}
            for entry in agent.jobs()
            if (entry.kind, entry.state) == (JobKind.TRAIN.value, JobState.FINISHED)
            and (entry.job, entry.contract) not in submitted
        ]
        lines = [f"{_named(row)}  {row['state']:<9}  {row['job']}  {row['hash'][:12]}" for row in rows]
        lines += [f"-  draft  {row['job']}" for row in drafts]
        _say(as_json, {"models": [*rows, *drafts]}, "\n".join(lines) or "No model.")


@model_app.command("show")
def show_model(model: ModelArgument, folder: FolderOption, as_json: JsonOption = False) -> None:
    """Lineage, metrics, approvals and history of a model, and whether the own part is still the one approved."""
    with _refusing(as_json), _library(folder) as (agent, _):
        record = agent.models.store.get(model)
        row = _row(agent, record)
        row["parts"] = {party: vars(line) for party, line in sorted(agent.models.approvals(record).items())}
        row["history"] = [
            {"party": item.event.party, "act": item.event.act.value, "time": item.event.time}
            | {"reason": item.event.reason}
            for item in sorted(agent.models.store.events(record.hash()), key=lambda item: item.event.time)
        ]
        approved = agent.models.own_approval(record)
        if approved is not None:
            check_part(Folder(folder / "jobs" / record.job), approved)
        row["own_part"] = "not approved here" if approved is None else "as approved"
        _say(as_json, row, _text(row))


@model_app.command("submit")
def submit_model(
    job: Annotated[str, typer.Argument(help="The training job.")],
    folder: FolderOption,
    name: Annotated[str | None, typer.Option(help="The model's name; by default the contract's id.")] = None,
    metrics: Annotated[bool, typer.Option(help="Open AUC, KS and PSI of the shared report to the lab too.")] = True,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """At the label owner: submit the model of a training job for approval; again to send it again."""
    with _refusing(as_json), _library(folder) as (agent, lab):
        digest = agent.job(job).contract
        record = agent.models.store.of_job(job, digest)
        if record is None:
            name = name or agent.contracts.get(digest).contract.contract_id
            record = agent.models.submit(job, digest, name, reason, metrics=metrics)
        submission = next(x for x in agent.models.store.events(record.hash()) if x.event.act is Act.SUBMIT)
        lab.submit_model(record.encode().decode(), submission.encode().decode())
        row = _row(agent, record)
        _say(as_json, row, f"Submitted: {_named(row)}, {row['hash']}. Every party approves or rejects it.")


def _act_command(act: Act, sentence: str) -> Callable[..., None]:
    def run(model: ModelArgument, folder: FolderOption, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
        with _refusing(as_json), _library(folder, patient=act in (Act.REJECT, Act.RETIRE)) as (agent, lab):
            record = agent.models.store.get(model)
            signed = agent.models.act(record, act, reason)
            lab.add_model_event(record.hash(), signed.encode().decode())
            row = _row(agent, record)
            _say(as_json, row, f"{_named(row)} is {row['state']}.")

    run.__doc__ = sentence
    return run


model_app.command("approve")(_act_command(Act.APPROVE, "Approve a submitted model, as it lies in the own folder."))
model_app.command("reject")(_act_command(Act.REJECT, "Reject a model that is not live, for good and alone."))
model_app.command("go-live")(_act_command(Act.GO_LIVE, "At the label owner: take a model live that all have approved."))
model_app.command("retire")(_act_command(Act.RETIRE, "Retire a model for good, at once and alone."))


@model_app.command("compare")
def compare_models(
    first: Annotated[str, typer.Argument(help="A model, a training job, or the folder of a finished job.")],
    second: Annotated[str, typer.Argument(help="The same.")],
    folder: Annotated[Path | None, typer.Option(help="This institution's folder, unless both are folders.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models by what this institution holds: metrics, own features, own points, own partial scores."""
    from party_agent import model_comparison

    with _refusing(as_json):
        found = model_comparison.compare(_folder_of(first, folder), _folder_of(second, folder))
        _say(as_json, found, model_comparison.text(found))


def _folder_of(reference: str, folder: Path | None) -> Folder:
    if (Path(reference) / MODEL_FILE).is_file():
        return Folder(Path(reference))
    if folder is None:
        raise DataError("MODEL_NOT_FOUND", "this is no folder of a finished job", "name one, or give --folder")
    if (folder / "jobs" / reference / MODEL_FILE).is_file():
        return Folder(folder / "jobs" / reference)
    from party_agent.model_store import ModelStore

    store = ModelStore(folder)
    try:
        return Folder(folder / "jobs" / store.get(reference).job)
    finally:
        store.close()


@contextmanager
def _library(folder: Path, *, patient: bool = False) -> Iterator[tuple[Agent, RestClient]]:
    """An agent that has taken over what the lab has of models; `patient`: or what it can, if the lab is away."""
    with _agent(folder) as (agent, lab):
        try:
            for answer in lab.models():
                try:
                    agent.models.fetch(lab, str(answer["hash"]))
                except ConcordatError as error:
                    typer.echo(f"a model of the lab's was not taken over: {error}", err=True)
        except ConcordatError:
            if not patient:
                raise
        try:
            yield agent, lab
        finally:
            agent.models.store.close()


def _row(agent: Agent, record: ModelRecord) -> dict[str, Any]:
    try:
        return agent.models.summary(record)
    except ConcordatError as error:  # events that the lab has not delivered yet
        return record.to_json() | {"hash": record.hash(), "state": error.code, "approved_by": []}


def _named(row: dict[str, Any]) -> str:
    return f"{row['name']}:{row['version']}"


def _text(row: dict[str, Any]) -> str:
    lines = [f"{_named(row)}  {row['state']}", *(f"{key}: {row[key]}" for key in ("hash", "contract_hash", "job"))]
    lines += [f"{key}: {row[key]}" for key in ("job_document", "recipe_hash", "code", "own_part")]
    lines += [f"{name}: {value / METRIC_UNIT:.4f}" for name, value in row["metrics"].items()]
    for party, line in row["parts"].items():
        lines.append(f"{party}: part {line['part'][:12]}, data {line['data'][:12]}, program {line['code']}")
    lines += [f"{item['time']}  {item['party']}  {item['act']}  {item['reason']}".rstrip() for item in row["history"]]
    return "\n".join(lines)


# -- the own part


@model_app.command("document")
def write_document(
    job: Annotated[str, typer.Option(help="The training job.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    folder: Annotated[Path, typer.Option(help="This institution's folder, or that of a simulation's party.")] = Path(),
    notes: Annotated[Path | None, typer.Option(help="What only people know, TOML; see docs/model-document.md.")] = None,
) -> None:
    """Write the document of a model: data, exclusions, definitions, methods, results, limits, approvals, lineage."""
    from party_agent import model_document

    with _refusing(False):
        said = model_document.Notes() if notes is None else model_document.read_notes(notes)
        home = model_document.job_folder(folder, job)
        text = model_document.render(home, said, model_document.approvals_of(folder, home))
        Folder(out.parent).write(out.name, text.encode())
        typer.echo(f"Written: {out}")


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
