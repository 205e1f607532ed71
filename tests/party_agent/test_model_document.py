"""The document of a model: all chapters from the folder of a job, names that stay text, approvals from the library."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

import party_agent.__main__
from party_agent import model, model_document
from party_agent.agent_store import AgentSettings, write_settings
from party_agent.model_document import Approval, Notes, approvals_of, job_folder, read_notes, render
from party_agent.model_store import ModelStore
from party_agent.store import Folder
from protocols.contract import Caps, Contract, DataSet, JobDocument, JobKind, Member, SignedContract
from protocols.errors import DataError
from protocols.model_record import Act, ModelEvent, ModelRecord
from protocols.recipe import load_recipe
from tests.party_agent.html_page import Page
from tests.party_agent.made_up_job import made_up_party_report, made_up_report
from tests.party_agent.test_reasons import own_model

JOB = "2031-sme-joint-7f3a"
NAMES = ("bank", "bureau", "tax", "coordinator")
KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32) for i, name in enumerate(NAMES)}
ROLES = ("label owner", "feature provider", "feature provider", "coordinator")
CONTRACT = Contract(
    contract_id="joint-2031",
    members=tuple(
        Member(name, role, KEYS[name].public_key().public_bytes_raw().hex())
        for name, role in zip(NAMES, ROLES, strict=True)
    ),
    purpose="Decisions on loans <to small enterprises>.",
    caps=Caps(),
    outputs=("scorecard",),
    valid_from=1_930_000_000,
    valid_until=1_960_000_000,
    datasets=(
        DataSet("bank", "loans_2030", "id", "bad_12m", ("current_ratio", "行业")),
        DataSet("bureau", "history", "id", "", ("f1", "f2", "f3")),
        DataSet("tax", "returns", "id", "", ("f1", "f2", "f3")),
    ),
)
RECIPE = load_recipe('open = ["scorecard"]').canonical().decode()
CHAPTERS = (
    *("Summary and intended use", "Data", "Exclusions and screening", "Definitions", "Methods", "Results"),
    *("Own part of the scorecard", "Cut-offs and judgement", "Limits", "Who saw what", "Approvals"),
    "Lineage and parameters",
)
NOTES = Notes(
    title="小微企业联合评分卡 <b>3</b>",
    portfolio="Loans below 5 million",
    period="2030-01 to 2030-12",
    bad="90 days past due",
    exclusions=["Loans to own staff"],
    limits=["Not for guaranteed loans"],
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return job_of(tmp_path / "job", "bank")


def job_of(path: Path, party: str, recipe: str = RECIPE) -> Folder:
    """The folder of a finished job at one party."""
    path.mkdir(parents=True)
    folder = Folder(path)
    signed = SignedContract(CONTRACT, ())
    for name, key in KEYS.items():
        signed = signed.signed_by(name, key)
    document = JobDocument(
        contract_hash=CONTRACT.hash().hex(),
        job=JOB,
        kind=JobKind.TRAIN,
        recipe=recipe,
        nonce="ab" * 16,
        issued=1_933_000_000,
        expires=1_933_086_400,
    )
    own = replace(own_model(party, base=500 if party == "bank" else None), job=JOB, contract=CONTRACT.hash().hex())
    model.write(folder, own)
    folder.write("contract.json", signed.encode())
    folder.write("job.json", document.sign(KEYS["bank"]).encode())
    folder.write_json("shared.json", made_up_report())
    folder.write_json("report.json", made_up_party_report(party))
    folder.write_json("statement.json", {"lines": [], "digest": "cd" * 32, "signatures": {}})
    return folder


def chapters(page: str) -> dict[str, str]:
    """Text of each chapter by its heading."""
    parts = re.findall(
        r'<section class="chapter">\s*<h2 class="chapter">(.*?)</h2>(.*?)(?=<section class="chapter">|</main>)',
        page,
        re.DOTALL,
    )
    return {name: re.sub(r"<[^>]*>", " ", body).replace("\u00a0", " ") for name, body in parts}


def test_a_weighted_fit_is_said_to_be_one(tmp_path: Path) -> None:
    recipe = load_recipe("[model]\nweighted = true").canonical().decode()
    folder = job_of(tmp_path / "job", "bank", recipe)
    weights = {"effective_rows": 3120.4, "bad_rate": 0.031, "plain_bad_rate": 0.25}
    folder.write_json("report.json", made_up_party_report("bank") | {"weights": weights})
    methods = chapters(render(folder, NOTES))["Methods"]
    assert "3,120 effective rows; bad rate 3.10% by weight, 25.00% by count" in methods.replace(" %", "%")
    assert "sample weights" not in chapters(render(job_of(tmp_path / "plain", "bank"), NOTES))["Methods"]


def test_every_chapter_is_there_and_says_what_the_job_found(folder: Folder) -> None:
    page = render(folder, NOTES)
    Page(page)
    found = chapters(page)
    assert tuple(found) == CHAPTERS
    shared = made_up_report()
    assert shared["reading"]["headline"].split()[0] in found["Summary and intended use"]
    for words in ("loans_2030", "label bad_12m", "10,311", "6,072", "2030-01 to 2030-12"):
        assert words in found["Data"]
    assert "Loans to own staff" in found["Exclusions and screening"]
    assert "90 days past due" in found["Definitions"]
    assert "14 gradients on 4,250 rows" in found["Methods"]
    assert f"{shared['metrics']['test']['auc']:.3f}" in found["Results"]
    assert "The joint scorecard" in found["Results"]
    assert "行业" in found["Own part of the scorecard"]
    assert "swapped in" in found["Cut-offs and judgement"]
    assert "Not for guaranteed loans" in found["Limits"]
    assert "There is no out-of-time sample" in found["Limits"]
    assert "59,500" in found["Who saw what"]
    for digest in (CONTRACT.hash().hex(), "cd" * 32):
        assert digest in found["Lineage and parameters"]


def test_the_page_fetches_nothing_runs_nothing_and_takes_names_as_text(folder: Folder) -> None:
    page = render(folder, NOTES, [Approval("tax", "approve", 1_934_000_000, "<script>x</script>")])
    assert "&lt;b&gt;3&lt;/b&gt;" in page
    assert "&lt;to small enterprises&gt;" in page
    assert "<script" not in page
    assert {tag for tag, _ in Page(page).tags} & {"script", "img", "link", "iframe"} == set()
    assert not re.search(r"url\(|@import|https?://", page)
    assert "Noto Sans CJK SC" in page


def test_in_print_heads_repeat_rows_stay_whole_and_pages_are_numbered(folder: Folder) -> None:
    page = render(folder, NOTES)
    assert "thead { display: table-header-group; }" in page
    assert re.search(r"tr, [^{]*\{ break-inside: avoid; \}", page)
    assert "counter(page)" in page
    assert "size: A4" in page


def test_without_notes_the_places_say_so_and_nothing_is_made_up(folder: Folder) -> None:
    found = chapters(render(folder, Notes()))
    assert found["Summary and intended use"].count("to be stated") == 2
    assert "to be stated" in found["Data"]
    assert "was not stated" in found["Definitions"]


def test_approvals_are_listed_in_their_order_and_without_any_there_are_lines_to_sign(folder: Folder) -> None:
    assert "Date, signature" in chapters(render(folder, NOTES))["Approvals"]
    entries = [Approval("tax", "approve", 1_934_000_000, "fits"), Approval("bank", "submit", 1_933_900_000)]
    text = chapters(render(folder, NOTES, entries))["Approvals"]
    assert text.index("submit") < text.index("approve") < text.index("fits")
    assert "2031-04-15 06:13 UTC" in text
    assert "Date, signature" not in text


def test_a_provider_has_its_own_part_and_no_judgement(tmp_path: Path) -> None:
    page = render(job_of(tmp_path / "job", "bureau"), NOTES)
    found = chapters(page)
    assert "Cut-offs and judgement" not in found
    assert "utilisation" in found["Own part of the scorecard"]
    assert "The copy of bureau" in page


def test_the_library_of_the_agent_gives_the_approvals(tmp_path: Path) -> None:
    write_settings(tmp_path, AgentSettings(name="bank"))
    folder = job_of(tmp_path / "jobs" / JOB, "bank")
    assert approvals_of(tmp_path, folder) == ()
    record = ModelRecord("joint", 1, CONTRACT.hash().hex(), JOB, "ab" * 32, "cd" * 32, "0.1.0")
    submit = ModelEvent(record.hash(), "bank", Act.SUBMIT, 1, 1_934_000_000, "ready").sign(KEYS["bank"])
    store = ModelStore(tmp_path)
    store.put(record, submit)
    store.close()
    assert approvals_of(tmp_path, folder) == (Approval("bank", "submit", 1_934_000_000, "ready"),)


def test_the_command_writes_the_page_of_an_agents_job_and_of_a_simulations(tmp_path: Path) -> None:
    party_agent.__main__.mount_commands()
    (tmp_path / "notes.toml").write_text('bad = "90 days"\nuse = ["support"]', encoding="utf-8")
    job_of(tmp_path / "agent" / "jobs" / JOB, "bank")
    job_of(tmp_path / "simulated", "bank")
    for name in ("agent", "simulated"):
        arguments = ["model", "document", "--job", JOB, "--folder", str(tmp_path / name)]
        out = tmp_path / f"{name}.html"
        arguments += ["--out", str(out), "--notes", str(tmp_path / "notes.toml")]
        done = CliRunner().invoke(party_agent.__main__.app, arguments)
        assert done.exit_code == 0, done.output
        assert "90 days" in chapters(out.read_text(encoding="utf-8"))["Definitions"]


def test_a_job_of_an_earlier_version_is_documented_too(tmp_path: Path) -> None:
    recipe = json.loads(RECIPE)
    del recipe["scorecard"]["reason_codes"]
    folder = job_of(tmp_path / "job", "bank", json.dumps(recipe))
    folder.write_json("report.json", {k: v for k, v in made_up_party_report("bank").items() if k != "inference"})
    page = render(folder, NOTES)
    assert "at most 20 fine bins" in chapters(page)["Methods"]
    with pytest.raises(DataError) as caught:
        render(job_of(tmp_path / "later", "bank", json.dumps(recipe | {"unheard_of": 1})), NOTES)
    assert caught.value.code == "MODEL_UNREADABLE"


def _drop(name: str) -> Callable[[Folder], None]:
    return lambda folder: (folder.path / name).unlink()


def _damage(name: str, change: Callable[[Any], Any]) -> Callable[[Folder], None]:
    def damage(folder: Folder) -> None:
        folder.write_json(name, change(json.loads((folder.path / name).read_bytes())))

    return damage


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_drop("shared.json"), "MODEL_MISSING"),
        (_drop("job.json"), "MODEL_UNREADABLE"),
        (_damage("contract.json", lambda _: {"x": 1}), "MODEL_UNREADABLE"),
        (_damage("shared.json", lambda document: document | {"metrics": {}}), "MODEL_UNREADABLE"),
        (_damage("report.json", lambda document: document | {"features": [1]}), "MODEL_UNREADABLE"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(folder: Folder, damage: Callable[[Folder], None], code: str) -> None:
    damage(folder)
    with pytest.raises(DataError) as caught:
        render(folder, NOTES)
    assert caught.value.code == code


def test_another_job_than_the_folders_is_refused(folder: Folder) -> None:
    assert job_folder(folder.path, JOB).path == folder.path
    for job in ("train-0", "../job"):
        with pytest.raises(DataError) as caught:
            job_folder(folder.path, job)
        assert caught.value.code == "MODEL_MISSING"


@pytest.mark.parametrize("text", ["title = 3", 'tytle = "x"', "limits = 'one'", "title = [", "use = [1]"])
def test_notes_that_are_none_are_refused_by_their_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_notes(path)
    assert caught.value.code == "NOTES_INVALID"
    with pytest.raises(DataError, match="FILE_MISSING"):
        read_notes(tmp_path / "none.toml")


def test_the_page_on_it_names_every_note() -> None:
    page = (Path(__file__).parents[2] / "docs" / "model-document.md").read_text("utf-8")
    assert {key for key in model_document.Notes.model_fields if f"{key} =" not in page} == set()
