"""The model document: one printable page for whoever approves, audits or inherits a model, from the folder of its job.

It puts the shared report and the party's own report together with the contract, what people must add (`Notes`) and the
approvals. It is a party's own document: it names this party's columns, and holds nothing of the others' that this party
did not have before. Nothing is fetched; no script.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from party_agent import model, report_page
from party_agent.agent_store import SETTINGS_FILE
from party_agent.model_store import ModelStore
from party_agent.policy import OWN_COLUMNS_FILE
from party_agent.report_reading import reading_of
from party_agent.store import Folder
from protocols.contract import Contract, JobDocument, SignedContract, SignedJob
from protocols.errors import ConcordatError, DataError
from protocols.recipe import PartyColumns, Recipe
from protocols.toml_document import parse_toml

_SECTION = re.compile(r'<section id="([a-z]+)">(.*?)</section>', re.DOTALL)  # escaped text holds no such tag
_LONGEST = 4000
_LATER = ("screening", "judgement", "inference", "estimation", "weights")  # parts that reports of earlier versions lack


class Notes(BaseModel):
    """What no program knows of a model: TOML, each key a sentence or a list of them."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    title: str = Field(default="", max_length=200)
    author: str = Field(default="", max_length=200)
    portfolio: str = Field(default="", max_length=_LONGEST)
    period: str = Field(default="", max_length=_LONGEST)
    bad: str = Field(default="", max_length=_LONGEST)
    exclusions: list[str] = Field(default_factory=list, max_length=100)
    use: list[str] = Field(default_factory=list, max_length=100)
    limits: list[str] = Field(default_factory=list, max_length=100)


@dataclass(frozen=True)
class Approval:
    """One entry of the list of approvals. time: Unix seconds; reason: as its party gave it."""

    party: str
    event: str
    time: int
    reason: str = ""


def read_notes(path: Path) -> Notes:
    """The notes in a TOML file.

    Raises: DataError: FILE_MISSING; NOTES_INVALID.
    """
    try:
        return Notes.model_validate(parse_toml(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError("FILE_MISSING", f"there is no readable file {path}", "check the path") from error
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"][:1])
        raise DataError("NOTES_INVALID", f"the notes' key '{key}' is unknown or not of its kind", _NOTES) from None
    except ValueError as error:
        raise DataError("NOTES_INVALID", "the notes are not valid TOML in UTF-8", _NOTES) from error


_NOTES = "give title, author, portfolio, period, bad as text, exclusions, use, limits as lists of text"


def render(folder: Folder, notes: Notes, approvals: Iterable[Approval] = ()) -> str:
    """The document of the model in a finished job's folder, as one HTML page.

    Raises: DataError: MODEL_MISSING: the folder holds no finished training job; MODEL_UNREADABLE: one of its files is
        damaged.
    """
    if not all((folder.path / name).exists() for name in (model.MODEL_FILE, "shared.json", "report.json")):
        raise DataError("MODEL_MISSING", "the folder holds no finished training job", "name the folder of one")
    import jinja2

    own = model.read(folder)
    shared, private = folder.read_json("shared.json"), dict.fromkeys(_LATER) | folder.read_json("report.json")
    contract, job = _documents(folder.path)
    recipe = _recipe(job)
    try:
        return report_page.page(
            "document.html",
            shared=shared,
            own=private,
            notes=notes,
            contract=contract,
            reading=reading_of(shared),
            data=_data(shared, contract),
            samples=_samples(shared),
            columns=_own_columns(folder.path),
            recipe=recipe,
            definitions=_definitions(shared, notes),
            lineage=_lineage(own, contract, job, folder),
            approvals=[_shown(item) for item in sorted(approvals, key=lambda item: item.time)],
            sections=_sections(report_page.render_shared(shared)),
            own_sections=_sections(report_page.render_party(private)),
        )
    except (ConcordatError, LookupError, TypeError, ValueError, AttributeError, jinja2.TemplateError) as error:
        raise _damaged("a report") from error


def job_folder(folder: Path, job: str) -> Folder:
    """The folder of a finished training job: of an agent, or of a party in a simulation.

    Raises: DataError: MODEL_MISSING.
    """
    for path in (folder / "jobs" / Path(job).name, folder):
        if (path / model.MODEL_FILE).is_file() and model.read(Folder(path)).job == job:
            return Folder(path)
    raise DataError("MODEL_MISSING", "the folder holds no model of that job", "name a finished training job")


def approvals_of(folder: Path, job: Folder) -> tuple[Approval, ...]:
    """The events on the model in the library of the agent in `folder`; none in a simulation.

    Raises: what `ModelStore` raises.
    """
    if not (folder / SETTINGS_FILE).exists():
        return ()
    own, store = model.read(job), ModelStore(folder)
    try:
        record = store.of_job(own.job, own.contract)
        events = () if record is None else store.events(record.hash())
    finally:
        store.close()
    return tuple(Approval(x.event.party, x.event.act.value, x.event.time, x.event.reason) for x in events)


def _documents(path: Path) -> tuple[Contract, JobDocument]:
    try:
        contract = SignedContract.decode((path / "contract.json").read_bytes()).contract
        return contract, SignedJob.decode((path / "job.json").read_bytes()).document
    except (OSError, ConcordatError) as error:
        raise _damaged("contract.json or job.json") from error


def _recipe(job: JobDocument) -> Recipe:
    """The recipe of the job; what an earlier version did not know has its default."""
    try:
        return Recipe.model_validate_json(job.recipe)
    except ValueError as error:
        raise _damaged("the recipe of another version, or job.json,") from error


def _own_columns(path: Path) -> PartyColumns:
    file = path / OWN_COLUMNS_FILE
    try:
        return PartyColumns.model_validate_json(file.read_bytes()) if file.exists() else PartyColumns()
    except (OSError, ValueError) as error:
        raise _damaged(file.name) from error


def _damaged(what: str) -> DataError:
    return DataError("MODEL_UNREADABLE", f"{what} is damaged or missing", "restore it from a backup, or train again")


def _sections(page: str) -> dict[str, Any]:
    """The sections of a report's page by id, as they are there."""
    from markupsafe import Markup

    return {name: Markup(body) for name, body in _SECTION.findall(page)}  # noqa: S704


def _data(shared: Mapping[str, Any], contract: Contract) -> list[dict[str, Any]]:
    """What each party brought."""
    rows = []
    for party in contract.parties.all:
        named, features = contract.dataset(party), shared["features"][party]
        rows.append(
            {
                "party": party,
                "role": contract.member(party).role,
                "dataset": named.name if named else "",
                "label": named.label_column if named else "",
                "ids": shared["alignment"]["ids"].get(party),
                "offered": len(features),
                "kept": sum(feature["kept"] for feature in features),
            }
        )
    return rows


def _samples(shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    words = {"train": "Training", "test": "Test", "out_of_time": "Out of time"}
    return [{"name": words[key], **shared["metrics"][key]} for key in words if key in shared["metrics"]]


def _definitions(shared: Mapping[str, Any], notes: Notes) -> list[tuple[str, str]]:
    owner, scale = shared["parties"]["label_owner"], shared["scaling"]
    return [
        (
            "Bad",
            notes.bad
            or f"A borrower with label 1 in the data of {owner}; good is label 0. What makes a borrower bad, "
            "and over which period, was not stated.",
        ),
        (
            "WOE",
            "Weight of evidence of a bin: ln(share of all goods in it / share of all bads in it). Positive is safer.",
        ),
        ("IV", "Information value of a feature: sum over its bins of (share of goods − share of bads) × WOE."),
        (
            "Logit, PD",
            "z = intercept + sum of coefficient × WOE over all features of all parties, the logit of bad; "
            "PD = 1 / (1 + exp(−z)).",
        ),
        (
            "Points, score",
            f"A bin is worth round(−factor × coefficient × WOE) points, factor = {scale['pdo']:g} / ln 2; the score is "
            f"the base plus the points of all parties. {scale['base_score']:g} points stand for {scale['base_odds']:g} "
            f"goods to 1 bad, {scale['pdo']:g} more double the odds. Higher is safer.",
        ),
        ("Grade", "A band of scores, the best first; the cut-offs were set on the training sample."),
        (
            "AUC, Gini, KS",
            "Area under the ROC curve; 2 AUC − 1; largest gap between the cumulated shares of both classes.",
        ),
        (
            "PSI",
            "Population stability index, sum of (a − e) ln(a / e) over groups. Below 0.1 is usually read as stable, "
            "above 0.25 as a shift.",
        ),
    ]


def _lineage(own: model.OwnModel, contract: Contract, job: JobDocument, folder: Folder) -> list[tuple[str, str]]:
    rows = [
        ("Contract", f"{contract.contract_id}, version {contract.version}"),
        ("Hash of the contract", own.contract),
        ("In force", f"{_day(contract.valid_from)} to {_day(contract.valid_until)}"),
        ("Training job", f"{own.job}, attempt {job.attempt}"),
        ("Job asked for", _minute(job.issued)),
        ("SHA-256 of the job document", hashlib.sha256(job.canonical()).hexdigest()),
        ("SHA-256 of the recipe", hashlib.sha256(job.recipe.encode()).hexdigest()),
        (f"SHA-256 of {model.MODEL_FILE}", hashlib.sha256((folder.path / model.MODEL_FILE).read_bytes()).hexdigest()),
    ]
    if (folder.path / "statement.json").exists():
        rows.append(("SHA-256 of the statement", str(folder.read_json("statement.json")["digest"])))
    if (folder.path / "lineage.json").exists():
        kept = folder.read_json("lineage.json")
        rows += [("Keyed digest of the own data", str(kept["data"])), ("Program", f"concordat {kept['code']}")]
    return rows


def _shown(item: Approval) -> dict[str, str]:
    return {"party": item.party, "event": item.event, "time": _minute(item.time), "reason": item.reason}


def _day(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d")


def _minute(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
