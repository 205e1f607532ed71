"""What is published: bands and names as chosen, signed, in one form, and nothing of a row."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from party_agent.catalogue import CatalogueEntry, SignedEntry, describe, publish, row_band, share_band
from party_agent.data_commands import data_app
from party_agent.quality import check_source
from party_agent.source import ColumnRole, file_source
from protocols.errors import DataError, RemoteProtocolError
from tests.party_agent.servers import Server, mariadb, postgresql  # noqa: F401 - fixtures

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TODAY = datetime.date(2024, 6, 30)
NOW = 1_719_700_000

# Planted: none of these may be in a published document.
PLANTED = ("PLANTEDID", "918273.645", "plantedcode", "planted_secret_note", "2024-03-17", "plantedmeaning", "4321234")
DICTIONARY = """[columns.turnover]
description = "plantedmeaning"
type = "number"
range = [0, 4321234]
[columns.sector]
type = "code"
codes = ["plantedcode", "food"]
"""
ROWS = 1234


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A party's folder with an identity, a data file and a dictionary with planted values."""
    party = tmp_path / "party"
    party.mkdir()
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (party / "identity.pem").write_bytes(pem)
    lines = [
        f"PLANTEDID{row},{row % 2},{918273.645 if row < 700 else row},{'plantedcode' if row % 2 else 'food'},"
        f"planted_secret_note {row},2024-03-17"
        for row in range(ROWS)
    ]
    (tmp_path / "planted_file.csv").write_text("id,y,turnover,sector,note,day\n" + "\n".join(lines))
    (tmp_path / "planted_dictionary.toml").write_text(DICTIONARY)
    return party


@pytest.fixture
def entry(folder: Path) -> CatalogueEntry:
    source = file_source(
        "clients",
        folder.parent / "planted_file.csv",
        "id",
        label_column="y",
        date_column="day",
        roles={"note": ColumnRole.EXCLUDED},
        aliases={"turnover": "f1", "sector": "行业"},
        dictionary=str(folder.parent / "planted_dictionary.toml"),
    )
    return describe(source, "bank", check_source(source, TODAY), NOW)


def malformed(data: bytes) -> bool:
    with pytest.raises(RemoteProtocolError) as caught:
        SignedEntry.decode(data)
    return caught.value.code == "CATALOGUE_MALFORMED"


def test_an_entry_says_bands_months_and_names_as_chosen(entry: CatalogueEntry) -> None:
    assert (entry.owner, entry.dataset, entry.rows) == ("bank", "clients", "1k-2k")
    assert (entry.first_month, entry.last_month) == ("2024-03", "2024-03")
    assert (entry.repeated_ids, entry.wrong_ids) == ("under 1%", "not measured")
    assert [(c.name, c.part, c.type) for c in entry.columns] == [
        ("id", "id", "code"),
        ("y", "label", "boolean"),
        ("f1", "feature", "number"),
        ("行业", "feature", "code"),
        ("day", "date", "date"),
    ]


def test_nothing_planted_is_in_the_published_document(entry: CatalogueEntry) -> None:
    sent: list[bytes] = []
    publish(entry, KEY, sent.append)
    text = sent[0].decode()
    for word in (*PLANTED, "planted", "turnover", "sector", "note", str(ROWS), "1,234"):
        assert word not in text
    document = json.loads(text)["entry"]
    # Every number in it is the format or the time of publishing; every other leaf is a known word, band, month or name.
    assert {key for key, value in document.items() if isinstance(value, int)} == {"format", "published"}
    words = {v for c in document["columns"] for k, v in c.items() if k not in ("name", "constant")}
    assert all(re.fullmatch(r"[a-z]+|under 1%|\d+-\d+%|over 50%", word) for word in words)


def test_the_document_does_not_change_when_the_values_do(entry: CatalogueEntry, folder: Path) -> None:
    path = folder.parent / "planted_file.csv"
    path.write_text(path.read_text().replace("918273.645", "11.25").replace("PLANTEDID", "OTHER"))
    source = file_source(
        "clients",
        path,
        "id",
        label_column="y",
        date_column="day",
        roles={"note": ColumnRole.EXCLUDED},
        aliases={"turnover": "f1", "sector": "行业"},
        dictionary=str(folder.parent / "planted_dictionary.toml"),
    )
    assert describe(source, "bank", check_source(source, TODAY), NOW) == entry


def test_a_signed_entry_is_read_back_and_verified(entry: CatalogueEntry) -> None:
    signed = publish(entry, KEY, lambda document: None)
    read = SignedEntry.decode(signed.encode())
    assert read == signed
    assert read.verify("bank", KEY.public_key()) == entry


def test_another_key_another_owner_and_a_changed_entry_are_refused(entry: CatalogueEntry) -> None:
    signed = entry.sign(KEY)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    changed = SignedEntry(replace(entry, rows="2k-5k"), signed.signature)
    renamed = replace(entry, owner="bureau").sign(KEY)
    for document, owner, key in (
        (signed, "bank", other),
        (signed, "bureau", KEY.public_key()),
        (changed, "bank", KEY.public_key()),
        (renamed, "bank", KEY.public_key()),
    ):
        with pytest.raises(RemoteProtocolError, match="CATALOGUE_SIGNATURE_INVALID"):
            document.verify(owner, key)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rows":"1k-2k"', '"rows":"1234"'),
        ('"rows":"1k-2k"', '"rows": "1k-2k"'),
        ('"first_month":"2024-03"', '"first_month":"2024-13"'),
        ('"first_month":"2024-03"', '"first_month":"2024-04"'),
        ('"first_month":"2024-03"', '"first_month":""'),
        ('"missing":"under 1%"', '"missing":"0.17%"'),
        ('"type":"code"', '"type":"codes food, retail"'),
        ('"part":"feature"', '"part":"shadow"'),
        ('"constant":false', '"constant":0'),
        ('"name":"f1"', '"name":"y"'),
        ('"name":"f1"', '"name":""'),
        ('"name":"f1"', '"name":"\\ud800"'),
        ('"format":1', '"format":2'),
        ('"format":1', '"format":true'),
        ('"published":17', '"published":-17'),
        ('"owner":"bank"', '"owner":"Bank"'),
        ('"owner":"bank"', '"more":1,"owner":"bank"'),
        ('"signature":"', '"signature":"ff'),
    ],
)
def test_what_no_agent_writes_is_malformed(entry: CatalogueEntry, old: str, new: str) -> None:
    data = entry.sign(KEY).encode().decode()
    assert old in data
    assert malformed(data.replace(old, new, 1).encode(errors="surrogatepass"))


@given(
    st.binary(max_size=300) | st.recursive(st.none() | st.text(max_size=5), st.lists).map(lambda v: repr(v).encode())
)
def test_any_other_bytes_are_malformed(data: bytes) -> None:
    assert malformed(data)


def test_deep_nesting_and_long_documents_are_malformed() -> None:
    assert malformed(b"[" * 100_000)
    assert malformed(b" " * (2 << 20))


@given(st.integers(0, 10**10))
def test_a_row_band_holds_the_number_and_is_no_narrower_than_its_half(rows: int) -> None:
    def number(text: str) -> int:
        return int(text[:-1]) * {"k": 10**3, "M": 10**6}[text[-1]]

    band = row_band(rows)
    if band.startswith("under"):
        assert rows < number(band.split()[1])
    elif band.startswith("over"):
        assert rows >= number(band.split()[1])
    else:
        low, high = map(number, band.split("-"))
        assert low <= rows < high
        assert high >= 2 * low


@given(st.integers(1, 10**6), st.data())
def test_shares_of_one_row_and_of_none_are_the_same_band_in_large_data(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    band = share_band(count, total)
    assert band in ("under 1%", "1-5%", "5-20%", "20-50%", "over 50%")
    if total > 100:
        assert share_band(0, total) == share_band(1, total)


def test_an_alias_that_is_another_columns_name_is_refused(folder: Path) -> None:
    source = file_source("clients", folder.parent / "planted_file.csv", "id", aliases={"turnover": "sector"})
    with pytest.raises(DataError, match="SOURCE_INVALID"):
        describe(source, "bank", check_source(source, TODAY), NOW)


# -- the commands

Run = Callable[..., dict]


@pytest.fixture
def sent() -> list[bytes]:
    return []


@pytest.fixture
def run(folder: Path, sent: list[bytes]) -> Run:
    """Run one command with --json in the party's folder; the answer, with its exit code."""
    app = data_app(institution=lambda folder: "bank", send=lambda folder, document: sent.append(document))

    def command(*arguments: str) -> dict:
        result = CliRunner().invoke(app, [*arguments, "--folder", str(folder), "--json"])
        assert len(result.stdout.splitlines()) == 1, result.output
        return json.loads(result.stdout) | {"exit": result.exit_code}

    return command


ADD = ("--id", "id", "--label", "y", "--date", "day", "--exclude", "note", "--alias", "turnover=f1")


def test_the_commands_add_show_check_publish_and_remove_a_file(run: Run, sent: list[bytes], folder: Path) -> None:
    file, dictionary = folder.parent / "planted_file.csv", folder.parent / "planted_dictionary.toml"
    added = run("add", "clients", "--from", str(file), *ADD, "--dictionary", str(dictionary))
    assert added["exit"] == 0
    assert [column["name"] for column in added["columns"]] == ["id", "y", "turnover", "sector", "note", "day"]
    assert run("add", "clients", "--from", str(file), *ADD)["error"]["code"] == "SOURCE_EXISTS"
    assert [source["name"] for source in run("list")["sources"]] == ["clients"]
    shown = {column["name"]: column for column in run("show", "clients")["columns"]}
    assert shown["turnover"]["description"] == "plantedmeaning"
    assert (shown["turnover"]["published_as"], shown["note"]["part"]) == ("f1", "excluded")
    checked = run("check", "clients")
    assert checked["rows"] == ROWS
    assert "STALE" in {finding["code"] for finding in checked["findings"]}
    preview = run("publish", "clients", "--preview")
    assert preview["preview"]["rows"] == "1k-2k"
    assert sent == []
    published = run("publish", "clients")
    assert SignedEntry.decode(sent[0]).verify("bank", KEY.public_key()).dataset == "clients"
    assert SignedEntry.decode(sent[0]).hash() == published["hash"] == run("show", "clients")["published_hash"]
    assert not any(word in sent[0].decode() for word in PLANTED)
    assert run("remove", "clients")["exit"] == 0
    missing = run("show", "clients")
    assert (missing["exit"], missing["error"]["code"]) == (1, "SOURCE_UNKNOWN")


def test_the_commands_read_a_database_whose_password_is_named(
    run: Run,
    sent: list[bytes],
    folder: Path,
    postgresql: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = ", ".join(f"('k{row}', {row % 2}, {row}, 'a', DATE '2024-03-17')" for row in range(60))
    postgresql.run(
        "DROP TABLE IF EXISTS published",
        "CREATE TABLE published (id TEXT, y INT, turnover INT, note TEXT, day DATE)",
        f"INSERT INTO published VALUES {rows}",  # noqa: S608
    )
    source = ("add", "clients", "--from", postgresql.url, "--table", "published", *ADD, "--secret")
    assert run(*source, "env:NOT_SET_ANYWHERE")["error"]["code"] == "SOURCE_SECRET_MISSING"
    typed = run(*source, postgresql.password)
    assert typed["error"]["code"] == "SOURCE_SECRET_INVALID"
    monkeypatch.setenv("WAREHOUSE_PASSWORD", postgresql.password)
    answers = [
        typed,
        run(*source, "env:WAREHOUSE_PASSWORD"),
        run("list"),
        run("show", "clients"),
        run("check", "clients"),
        run("publish", "clients"),
    ]
    assert [answer["exit"] for answer in answers[1:]] == [0] * 5
    assert postgresql.password not in json.dumps(answers) + sent[0].decode()
    assert postgresql.password.encode() not in (folder / "agent.db").read_bytes()
    assert SignedEntry.decode(sent[0]).entry.rows == "under 1k"
    assert not any(str(part) in sent[0].decode() for part in (postgresql.port, "127.0.0.1", "warehouse"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("add", "clients", "--from", "nowhere.csv", "--id", "id"), "FILE_MISSING"),
        (("add", "clients", "--from", "FILE", "--id", "key"), "SOURCE_COLUMN_MISSING"),
        (("add", "clients", "--from", "FILE", "--id", "id", "--table", "t"), "SOURCE_INVALID"),
        (("add", "clients", "--from", "FILE", "--id", "id", "--alias", "x"), "SOURCE_INVALID"),
        (("add", "clients", "--from", "FILE", "--id", "id", "--numeric", "y", "--exclude", "y"), "SOURCE_INVALID"),
        (("add", "clients", "--from", "FILE", "--id", "id", "--dictionary", "no.toml"), "DICTIONARY_MISSING"),
        (("add", "clients", "--from", "mysql://u:p@h/d", "--id", "id", "--table", "t"), "SOURCE_SECRET_INLINE"),
        (("add", "clients", "--from", "mysql://u@h/d", "--id", "id"), "SOURCE_INVALID"),
        (("remove", "clients"), "SOURCE_UNKNOWN"),
        (("publish", "clients"), "SOURCE_UNKNOWN"),
    ],
)
def test_a_command_that_cannot_be_done_ends_with_its_code(
    run: Run, folder: Path, arguments: tuple[str, ...], code: str
) -> None:
    answer = run(*(str(folder.parent / "planted_file.csv") if part == "FILE" else part for part in arguments))
    assert (answer["exit"], answer["error"]["code"]) == (1, code)
    assert answer["error"]["remedy"]


def test_without_a_lab_the_document_is_written_to_a_file(folder: Path) -> None:
    runner, app = CliRunner(), data_app()
    common = ["--folder", str(folder)]
    runner.invoke(app, ["add", "clients", "--from", str(folder.parent / "planted_file.csv"), *ADD, *common])
    refused = runner.invoke(app, ["publish", "clients", *common])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("SOURCE_INVALID: ")
    out = folder.parent / "entry.json"
    done = runner.invoke(app, ["publish", "clients", "--institution", "bank", "--out", str(out), *common])
    assert done.exit_code == 0
    assert SignedEntry.decode(out.read_bytes()).verify("bank", KEY.public_key()).rows == "1k-2k"


def test_the_answers_for_people_show_counts_and_no_values(folder: Path) -> None:
    runner, app = CliRunner(), data_app()
    common = ["--folder", str(folder)]
    file, dictionary = folder.parent / "planted_file.csv", folder.parent / "planted_dictionary.toml"
    runner.invoke(app, ["add", "clients", "--from", str(file), *ADD, "--dictionary", str(dictionary), *common])
    answers = [runner.invoke(app, [*words, *common]) for words in (["list"], ["show", "clients"], ["check", "clients"])]
    assert [answer.exit_code for answer in answers] == [0, 0, 0]
    assert "1,234 rows, 5 columns; months covered: 2024-03 to 2024-03." in answers[2].stdout
    assert not any(word in answers[2].stdout for word in PLANTED)
