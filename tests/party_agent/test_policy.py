"""What an agent accepts: a recipe that asks for more than the contract allows is refused, rule by rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from party_agent.policy import OWN_COLUMNS_FILE, Agreement, accept, check_recipe, keep_own_section
from party_agent.store import FileNonces, Folder
from protocols.contract import Caps, Contract, JobDocument, JobKind, Member, SignedContract
from protocols.errors import ConcordatError
from protocols.recipe import PartyColumns, Recipe, load_recipe

NOW = 1_800_000_000
KEYS = {name: Ed25519PrivateKey.generate() for name in ("bank", "bureau", "coordinator")}
ROLES = {"bank": "label owner", "bureau": "feature provider", "coordinator": "coordinator"}
TIGHT = Caps(
    minimum_intersection=500,
    maximum_set_size=5_000_000,
    minimum_key_bits=3072,
    label_budget_numerator=1,
    label_budget_denominator=10,
    bin_floor=60,
)
WITHIN = "[binning]\nfloor_rows = 60\n[selection]\nlabel_budget_share = 0.1\n"


def contract(caps: Caps = TIGHT, **changes: Any) -> Contract:
    members = tuple(Member(n, ROLES[n], key.public_key().public_bytes_raw().hex()) for n, key in KEYS.items())
    terms: dict[str, Any] = {"outputs": (), "valid_from": NOW - 10, "valid_until": NOW + 1000} | changes
    return Contract(contract_id="c-1", members=members, purpose="a test", caps=caps, **terms)


def documents(asked: Recipe, agreed: Contract, **changes: Any) -> tuple[bytes, bytes]:
    signed = SignedContract(agreed, ())
    for name, key in KEYS.items():
        signed = signed.signed_by(name, key)
    document = JobDocument(
        contract_hash=agreed.hash().hex(),
        job="train-1",
        kind=JobKind.TRAIN,
        recipe=asked.canonical().decode(),
        nonce="00" * 16,
        issued=NOW - 5,
        expires=NOW + 500,
    )
    return signed.encode(), replace(document, **changes).sign(KEYS["bank"]).encode()


def accepted(
    folder: Path,
    recipe: Recipe,
    agreed: Contract | None = None,
    me: str = "bureau",
    kind: JobKind = JobKind.TRAIN,
    **changes: Any,
) -> Agreement:
    pair = documents(recipe, agreed or contract(), **changes)
    return accept(me, kind, *pair, NOW, FileNonces(folder / "nonces.txt"))


def test_a_recipe_within_the_contract_is_accepted(tmp_path: Path) -> None:
    recipe = load_recipe(WITHIN)
    agreement = accepted(tmp_path, recipe)
    assert agreement.recipe == recipe
    assert agreement.job.job == "train-1"


@pytest.mark.parametrize(
    ("recipe", "code"),
    [
        (WITHIN + "[keys]\nbits = 2048\n", "KEY_TOO_SHORT"),
        ('open = ["scorecard"]\n' + WITHIN, "OUTPUT_NOT_ALLOWED"),
        (WITHIN.replace("0.1", "0.101"), "LABEL_SHARE"),
        (WITHIN.replace("60", "59"), "BIN_FLOOR"),
        (WITHIN + "[contract]\nminimum_intersection = 499\n", "MINIMUM_INTERSECTION"),
        (WITHIN + "[contract]\nmaximum_set_size = 5000001\n", "SET_TOO_LARGE"),
        (WITHIN + "[sample]\nseed = 1\n", "SEED_IN_JOB"),
    ],
)
def test_a_recipe_that_asks_for_more_than_the_contract_is_refused(tmp_path: Path, recipe: str, code: str) -> None:
    with pytest.raises(ConcordatError) as caught:
        accepted(tmp_path, load_recipe(recipe))
    assert caught.value.code == code
    with pytest.raises(ConcordatError) as again:
        check_recipe(load_recipe(recipe), contract())
    assert again.value.code == code


@pytest.mark.parametrize(
    "recipe",
    [
        WITHIN + "[keys]\nbits = 4096\n",
        WITHIN.replace("0.1", "0.05"),
        WITHIN.replace("60", "200"),
        WITHIN + "[contract]\nminimum_intersection = 2000\nmaximum_set_size = 10000\n",
    ],
)
def test_a_recipe_may_be_stricter_than_the_contract(recipe: str) -> None:
    check_recipe(load_recipe(recipe), contract())


def test_an_output_that_the_contract_names_may_be_opened() -> None:
    check_recipe(load_recipe('open = ["scorecard"]\n' + WITHIN), contract(outputs=("scorecard",)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"issued": NOW + 301}, "JOB_NOT_YET_VALID"),
        ({"expires": NOW}, "JOB_EXPIRED"),
        ({"contract_hash": "11" * 32}, "JOB_OTHER_CONTRACT"),
        ({"kind": JobKind.SCORE}, "JOB_OTHER_KIND"),
    ],
)
def test_a_job_document_that_does_not_hold_now_is_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ConcordatError) as caught:
        accepted(tmp_path, load_recipe(WITHIN), **changes)
    assert caught.value.code == code


def test_a_recipe_in_another_than_its_canonical_form_is_refused(tmp_path: Path) -> None:
    spaced = json.dumps(json.loads(load_recipe(WITHIN).canonical()))
    pair = documents(load_recipe(WITHIN), contract(), recipe=spaced)
    with pytest.raises(ConcordatError) as caught:
        accept("bureau", JobKind.TRAIN, *pair, NOW, FileNonces(tmp_path / "nonces.txt"))
    assert caught.value.code == "RECIPE_MALFORMED"


def test_a_recipe_with_a_section_for_a_stranger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConcordatError) as caught:
        accepted(tmp_path, load_recipe(WITHIN + "[parties.insurer]\nexclude = []\n"))
    assert caught.value.code == "RECIPE_UNKNOWN_KEY"


def test_a_contract_of_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConcordatError) as caught:
        accepted(tmp_path, load_recipe(WITHIN), me="insurer")
    assert caught.value.code == "NOT_A_MEMBER"


def test_a_job_document_is_accepted_once_and_the_agent_remembers_it_after_a_restart(tmp_path: Path) -> None:
    accepted(tmp_path, load_recipe(WITHIN))
    with pytest.raises(ConcordatError) as caught:
        accepted(tmp_path, load_recipe(WITHIN))
    assert caught.value.code == "JOB_REPLAYED"
    accepted(tmp_path, load_recipe(WITHIN), nonce="01" * 16)


def test_the_own_columns_come_from_the_own_folder(tmp_path: Path) -> None:
    agreement = accepted(tmp_path, load_recipe(WITHIN))
    path = tmp_path / "columns.json"
    assert agreement.with_own_columns("bureau", path) is agreement
    path.write_text(PartyColumns(exclude=("remarks",)).model_dump_json(), encoding="utf-8")
    assert agreement.with_own_columns("bureau", path).recipe.columns_of("bureau").exclude == ("remarks",)
    path.write_text('{"exclude": "remarks"}', encoding="utf-8")
    with pytest.raises(ConcordatError) as caught:
        agreement.with_own_columns("bureau", path)
    assert caught.value.code == "RECIPE_MALFORMED"


def test_an_agents_own_section_goes_into_a_job_once_and_holds_nothing_else(tmp_path: Path) -> None:
    home, job = tmp_path / "home", Folder(tmp_path / "home" / "jobs" / "job-1")
    keep_own_section(home, job, "bureau")
    assert not (job.path / OWN_COLUMNS_FILE).exists()
    (home / "own.toml").write_text('[parties.bureau]\nexclude = ["remarks"]\n', encoding="utf-8")
    keep_own_section(home, job, "bureau")
    agreement = accepted(tmp_path, load_recipe(WITHIN))
    columns = agreement.with_own_columns("bureau", job.path / OWN_COLUMNS_FILE).recipe.columns_of("bureau")
    assert columns.exclude == ("remarks",)
    (home / "own.toml").write_text('[parties.bureau]\nexclude = ["turnover"]\n', encoding="utf-8")
    keep_own_section(home, job, "bureau")  # a later attempt
    assert agreement.with_own_columns("bureau", job.path / OWN_COLUMNS_FILE).recipe.columns_of("bureau") == columns


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[parties.bank]\n", "RECIPE_UNKNOWN_KEY"),
        ("[model]\nl2 = 2.0\n[parties.bureau]\n", "RECIPE_UNKNOWN_KEY"),
        ("[parties.bureau]\nexclude = 1\n", "RECIPE_MALFORMED"),
        ("[parties.bureau\n", "RECIPE_MALFORMED"),
    ],
)
def test_an_own_section_that_is_none_is_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    job = Folder(tmp_path / "jobs" / "job-1")
    with pytest.raises(ConcordatError) as caught:
        keep_own_section(tmp_path, job, "bureau")
    assert caught.value.code == code
    assert not (job.path / OWN_COLUMNS_FILE).exists()


def test_the_default_recipe_is_allowed_under_the_default_caps() -> None:
    identities = {name: key.public_key().public_bytes_raw().hex() for name, key in KEYS.items()}
    members = tuple(Member(name, ROLES[name], identity) for name, identity in identities.items())
    check_recipe(Recipe(), Contract("c1", members, "a test", Caps(), (), 1, 2))
