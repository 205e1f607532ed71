"""`concordat-party contract`, `jobs` and `serve`: what an institution agrees to, and what its agent does about it."""

from __future__ import annotations

import csv
import io
import json
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from party_agent.agent import Agent, JobEntry
from party_agent.contract_draft import EXAMPLE, contract_of, read_draft, summary
from party_agent.dataset import read_ids
from party_agent.enrolment import certificate_status, lab_client
from party_agent.explanation import explain
from party_agent.job_output import read_progress
from party_agent.job_process import ASKED_COLUMN, ASKED_FILE
from party_agent.loopback import LoopbackServer, prepare_launcher
from party_agent.peers import PeerBook
from party_agent.rest_client import RestClient
from party_agent.source_registry import open_registry
from party_agent.sources import read_source_ids
from party_agent.store import Folder
from party_agent.transport import load_identity
from protocols.audit import Kind
from protocols.contract import Contract, JobDocument, JobKind, SignedJob
from protocols.contract_state import EventKind
from protocols.errors import ConcordatError, DataError, RecipeError
from protocols.recipe import Recipe, load_recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
contract_app = typer.Typer(help="Contracts: propose, read, sign, suspend, revoke.", no_args_is_help=True)
jobs_app = typer.Typer(help="Jobs: request, watch, approve, resume.", no_args_is_help=True)
app.add_typer(contract_app, name="contract")
app.add_typer(jobs_app, name="jobs")
launcher_app = typer.Typer(help="Flower as launcher of jobs; see docs/flower.md.", no_args_is_help=True)
app.add_typer(launcher_app, name="flower")

FolderOption = Annotated[Path, typer.Option(help="This institution's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
HashArgument = Annotated[str, typer.Argument(help="The contract's hash, or its beginning.")]
JobArgument = Annotated[str, typer.Argument(help="The job's name.")]
PageOption = Annotated[
    int | None, typer.Option(help="Also show a page for approvals on this port of 127.0.0.1; 0 for a free one.")
]
EXIT_REFUSED = 1
JOB_HOURS = 24


@app.command()
def serve(
    folder: FolderOption,
    loopback_port: Annotated[
        int | None, typer.Option(help="Let a launcher on this machine hand in job documents, on 127.0.0.1.")
    ] = None,
    page_port: PageOption = None,
) -> None:
    """Run this institution's agent until it is told to stop (SIGTERM or Ctrl-C)."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with _refusing(False), lab_client(folder) as lab, ExitStack() as stack:
        agent = Agent(folder, lab)
        if loopback_port is not None:
            server = LoopbackServer(folder, loopback_port, agent.inbox, agent.standing)
            stack.callback(server.close)
        warning = certificate_status(folder).warning
        if warning:
            typer.echo(warning, err=True)
        typer.echo(f"The agent of {agent.settings.name} asks the lab at {agent.settings.lab}.")
        with _page(folder, lab, page_port):
            agent.serve(stopping)


# -- contracts


@contract_app.command("example")
def show_example() -> None:
    """Print an example of a draft, to be edited and proposed."""
    typer.echo(EXAMPLE, nl=False)


@contract_app.command()
def propose(
    draft: Annotated[Path, typer.Argument(help="The draft, TOML; see `contract example`.")],
    folder: FolderOption,
    amends: Annotated[str | None, typer.Option(help="Hash of the contract that this one is to replace.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a contract from a draft, sign it and send it to the other parties."""
    with _refusing(as_json), _agent(folder) as (agent, lab), PeerBook.open(folder) as peers:
        key = load_identity(folder / "identity.pem")
        peers.refresh(lab.members(), agent.settings.name)
        before = agent.contracts.get(amends).contract if amends is not None else None
        own = key.public_key().public_bytes_raw().hex()
        contract = contract_of(read_draft(draft), agent.settings.name, own, peers, before)
        agent.note_contract(Kind.CONTRACT_PROPOSED, contract)
        signed = agent.contracts.propose(contract, key)
        lab.propose(signed.encode().decode())
        agent.heads.show_to(contract.parties.all)
        _say(as_json, summary(contract), f"Proposed and signed: {contract.hash().hex()}")


@contract_app.command("list")
def list_contracts(folder: FolderOption, as_json: JsonOption = False) -> None:
    """Take over what has come from the lab, and list every contract with its state."""
    with _refusing(as_json), _agent(folder) as (agent, lab):
        for answer in lab.contracts():
            agent.fetch_contract(str(answer["hash"]))
        now = int(time.time())
        rows = [
            summary(signed.contract)
            | {
                "state": agent.contracts.state(signed, now).value,
                "signed_by": [name for name, _ in signed.signatures],
            }
            for signed in agent.contracts.all()
        ]
        lines = []
        for row in rows:
            signers = ", ".join(row["signed_by"])
            lines.append(f"{row['hash'][:12]}  {row['state']:<10}  {row['id']} v{row['version']}  signed by {signers}")
        _say(as_json, {"contracts": rows}, "\n".join(lines) or "No contract.")


@contract_app.command("explain")
def explain_contract(contract: HashArgument, folder: FolderOption, as_json: JsonOption = False) -> None:
    """Say in plain words what this institution will disclose and receive."""
    with _refusing(as_json), _agent(folder) as (agent, _):
        explanation = explain(agent.contracts.get(contract).contract, agent.settings.name)
        _say(as_json, vars(explanation), explanation.text())


@contract_app.command()
def show(contract: HashArgument, folder: FolderOption) -> None:
    """Print the document that is signed, and who has signed it."""
    with _refusing(True), _agent(folder) as (agent, _):
        typer.echo(agent.contracts.get(contract).encode().decode())


@contract_app.command()
def sign(contract: HashArgument, folder: FolderOption, as_json: JsonOption = False) -> None:
    """Sign a contract; every other party's identity must have been compared before."""
    with _refusing(as_json), _agent(folder) as (agent, lab):
        wanted = _complete(lab, contract)
        signed = agent.fetch_contract(wanted)
        key = load_identity(folder / "identity.pem")
        agent.note_contract(Kind.CONTRACT_SIGNED, signed.contract)
        signed = agent.contracts.sign(signed, key)
        lab.sign_contract(wanted, dict(signed.signatures)[agent.settings.name])
        agent.heads.show_to(signed.contract.parties.all)
        agent.fetch_contract(wanted)
        _say(as_json, {"hash": wanted, "signed": True}, f"Signed: {wanted}")


def _event_command(kind: EventKind, sentence: str) -> Callable[..., None]:
    def act(
        contract: HashArgument,
        folder: FolderOption,
        reason: Annotated[str, typer.Option(help="Why; all parties read it.")] = "",
        as_json: JsonOption = False,
    ) -> None:
        with _refusing(as_json), _agent(folder) as (agent, lab):
            signed = agent.contracts.get(contract)
            event = agent.act(signed.contract, kind, reason)
            digest = signed.contract.hash().hex()
            lab.add_event(digest, event.encode().decode())
            _say(as_json, {"hash": digest, "event": kind.value}, f"{kind.value.capitalize()}: {digest}")

    act.__doc__ = sentence
    return act


contract_app.command("suspend")(_event_command(EventKind.SUSPEND, "Suspend a contract, at once and alone."))
contract_app.command("resume")(_event_command(EventKind.RESUME, "Take this institution's own suspension back."))
contract_app.command("revoke")(_event_command(EventKind.REVOKE, "Revoke a contract for good, at once and alone."))


# -- jobs


@jobs_app.command("request")
def request_job(
    contract: HashArgument,
    folder: FolderOption,
    kind: Annotated[JobKind, typer.Option(help="'score' goes with --model and --ids or --ids-from.")] = JobKind.TRAIN,
    recipe: Annotated[Path | None, typer.Option(help="To train: parameters, TOML; see `concordat recipe`.")] = None,
    model: Annotated[str | None, typer.Option(help="To score: the training job whose model is used.")] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="To score: the ids, CSV or Parquet; their column is named as in the own data set."),
    ] = None,
    ids_from: Annotated[str | None, typer.Option(help="To score: a registered data set with the ids.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the signed job here, for a launcher; submit nothing.")] = None,
    as_json: JsonOption = False,
) -> None:
    """At the label owner: sign a training or a scoring job under a contract in force, and submit it."""
    scoring = kind is JobKind.SCORE
    if scoring and (model is None or (ids is None) == (ids_from is None) or recipe is not None):
        raise typer.BadParameter(
            "give --model, and --ids or --ids-from; its recipe is the model's", param_hint="--kind"
        )
    if not scoring and (model, ids, ids_from) != (None, None, None):
        raise typer.BadParameter("--model, --ids and --ids-from go with --kind score", param_hint="--kind")
    with _refusing(as_json), _agent(folder) as (agent, lab), ExitStack() as undo:
        now = int(time.time())
        agreed = agent.contracts.in_force(contract, now)
        job, digest = f"{kind.value}-{secrets.token_hex(4)}", agreed.hash().hex()
        if model is not None:
            agent.check_model(model, digest)
            asked = _asked(agent, agreed, folder, ids, ids_from)
            Folder(folder / "jobs" / job).write(ASKED_FILE, asked)
            undo.callback(_forget, folder / "jobs" / job)
            text = _recipe_of(folder, model)
        else:
            rules = Recipe() if recipe is None else load_recipe(_text(recipe))
            public = rules.model_copy(update={"parties": {}, "sample": rules.sample.model_copy(update={"seed": None})})
            text = public.canonical().decode()
        document = JobDocument(
            contract_hash=digest,
            job=job,
            kind=kind,
            recipe=text,
            nonce=secrets.token_hex(16),
            issued=now,
            expires=now + JOB_HOURS * 3600,
            model=model or "",
        )
        _hand_over(agent, lab, document, folder, out, as_json)
        undo.pop_all()


def _asked(agent: Agent, contract: Contract, folder: Path, ids: Path | None, ids_from: str | None) -> bytes:
    """The ids to be scored, from a file or from a registered data set, as they are kept in the job's folder."""
    registry = open_registry(folder)
    if ids is None:
        found, _ = read_source_ids(registry.get(ids_from or "").source)
    else:
        found, _ = read_ids(ids, registry.get(agent.source_of(contract)).source.id_column)
    contract.check_set_size(len(found))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[ASKED_COLUMN], *([name] for name in found)])
    return text.getvalue().encode()


def _forget(job_folder: Path) -> None:
    """Remove the ids of a job that was not handed over."""
    (job_folder / ASKED_FILE).unlink(missing_ok=True)
    with suppress(OSError):  # the daemon may have taken the job in
        job_folder.rmdir()


def _recipe_of(folder: Path, job: str) -> str:
    """The recipe that a model was trained with, in the canonical form of today.

    Raises: RecipeError: RECIPE_MALFORMED.
    """
    try:
        return Recipe.model_validate_json(_document(folder, job).recipe).canonical().decode()
    except ValueError as error:
        raise RecipeError("RECIPE_MALFORMED", "the model's recipe is of another version", "train again") from error


def _document(folder: Path, job: str) -> JobDocument:
    return SignedJob.decode((folder / "jobs" / job / "job.json").read_bytes()).document


@jobs_app.command("resume")
def resume_job(
    job: JobArgument,
    folder: FolderOption,
    out: Annotated[Path | None, typer.Option(help="Write the signed document here; submit nothing.")] = None,
    as_json: JsonOption = False,
) -> None:
    """At the label owner: go on with a job that broke off, from the last stage that every party had finished."""
    with _refusing(as_json), _agent(folder) as (agent, lab):
        entry = agent.job(job)
        now = int(time.time())
        document = replace(
            _document(folder, job),
            nonce=secrets.token_hex(16),
            issued=now,
            expires=now + JOB_HOURS * 3600,
            attempt=entry.attempt + 1,
        )
        _hand_over(agent, lab, document, folder, out, as_json)


def _hand_over(
    agent: Agent, lab: RestClient, document: JobDocument, folder: Path, out: Path | None, as_json: bool
) -> None:
    """Submit a job, or sign it into a file for a launcher or the lab's operator."""
    if out is None:
        _submit(agent, lab, document, folder, as_json)
        return
    Folder(out.parent).write(out.name, document.sign(load_identity(folder / "identity.pem")).encode())
    _say(as_json, {"job": document.job, "document": str(out)}, f"Signed: {document.job}, in {out}.")


def _submit(agent: Agent, lab: RestClient, document: JobDocument, folder: Path, as_json: bool) -> None:
    signed = document.sign(load_identity(folder / "identity.pem"))
    lab.submit(signed.encode().decode())
    answer = {"job": document.job, "attempt": document.attempt, "contract": document.contract_hash}
    _say(as_json, answer, f"Submitted: {document.job}, attempt {document.attempt}. Every agent decides for itself.")


@jobs_app.command("list")
def list_jobs(folder: FolderOption, as_json: JsonOption = False) -> None:
    """The jobs at this agent, and what became of each."""
    with _refusing(as_json), _agent(folder) as (agent, _):
        entries = agent.jobs()
        _say(as_json, {"jobs": [entry.to_json() for entry in entries]}, "\n".join(map(_line, entries)) or "No job.")


@jobs_app.command("approve")
def approve_job(job: JobArgument, folder: FolderOption, as_json: JsonOption = False) -> None:
    """Let a job run that contract and policy allow, and that waits for a person."""
    with _refusing(as_json), _agent(folder) as (agent, _):
        entry = agent.approve(job)
        _say(as_json, entry.to_json(), _line(entry))


@jobs_app.command("refuse")
def refuse_job(job: JobArgument, folder: FolderOption, as_json: JsonOption = False) -> None:
    """Refuse a job that waits for a person."""
    with _refusing(as_json), _agent(folder) as (agent, _):
        entry = agent.refuse(job)
        _say(as_json, entry.to_json(), _line(entry))


@jobs_app.command("status")
def job_status(
    job: JobArgument,
    folder: FolderOption,
    wait_s: Annotated[float, typer.Option(help="Wait so long for the job to end.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """How far a job has come, at all parties, as the lab tells it."""
    deadline = time.monotonic() + wait_s
    with _refusing(as_json), _agent(folder) as (_, lab):
        answer = lab.job(job)
        while answer["state"] != "ended" and time.monotonic() < deadline:
            time.sleep(0.5)
            answer = lab.job(job)
        told = {key: answer[key] for key in ("job", "kind", "attempt", "state", "code", "reports")}
        line = (
            f"{job}, {answer['kind']}, attempt {answer['attempt']}: {answer['state']} {answer['code'] or ''}".rstrip()
        )
        here = read_progress(folder / "jobs" / Path(job).name)
        if answer["state"] != "ended" and here.stage:
            told["here"] = {"stage": here.stage, "what": here.what}
            line += f"; here {here.words}"
        _say(as_json, told, line)
    if answer["state"] == "ended" and answer["code"]:
        raise typer.Exit(EXIT_REFUSED)


# -- the launcher


@launcher_app.command("prepare")
def prepare(
    folder: FolderOption,
    launcher: Annotated[Path, typer.Option(help="The launcher's own folder, outside the institution's.")],
    user: Annotated[str | None, typer.Option(help="The SuperNode's user, who is to own it; needs root.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a SuperNode's key and a token for the loopback port, in a folder that only the SuperNode's user can read."""
    with _refusing(as_json):
        public = prepare_launcher(folder, launcher, user)
    answer = {"launcher": str(launcher), "public_key": str(public)}
    _say(as_json, answer, f"The launcher's folder is {launcher}. The lab's operator registers {public}.")


# -- pieces


@contextmanager
def _page(folder: Path, lab: RestClient, port: int | None) -> Iterator[None]:
    """The page for approvals while the daemon runs; it acts through an agent of its own, as a command does."""
    if port is None:
        yield
        return
    from party_agent.local_page import LocalPage

    page = LocalPage(Agent(folder, lab), folder, port, lambda line: typer.echo(line))
    try:
        yield
    finally:
        page.close()


@contextmanager
def _agent(folder: Path) -> Iterator[tuple[Agent, RestClient]]:
    """An agent to act through, beside the daemon if one runs."""
    with lab_client(folder) as lab:
        yield Agent(folder, lab), lab


def _complete(lab: RestClient, beginning: str) -> str:
    found = [str(answer["hash"]) for answer in lab.contracts() if str(answer["hash"]).startswith(beginning)]
    if len(found) != 1:
        raise DataError("CONTRACT_UNKNOWN", "the lab has no such contract, or several", "give more of its hash")
    return found[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("FILE_MISSING", f"{path.name} cannot be read", "name an existing TOML file") from error


def _line(entry: JobEntry) -> str:
    return f"{entry.job}  {entry.kind}  attempt {entry.attempt}  {entry.state.value}  {entry.code}".rstrip()


@contextmanager
def _refusing(as_json: bool) -> Iterator[None]:
    try:
        yield
    except ConcordatError as error:
        if as_json:
            document = {"code": error.code, "message": error.message, "remedy": error.remedy}
            sys.stdout.write(json.dumps({"ok": False, "error": document}, ensure_ascii=False) + "\n")
        else:
            typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_REFUSED) from error


def _say(as_json: bool, answer: dict[str, Any], text: str) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"ok": True, **answer}, ensure_ascii=False, default=list) + "\n")
    else:
        typer.echo(text)
