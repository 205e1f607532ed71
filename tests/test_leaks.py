"""Nothing of a party's file or keys leaves it: a whole run with recognisable data, then a search of every byte it left.

The run is the operator's own commands with one process a party, but for what is written down beside it: the relay keeps
every frame, and each process keeps its messages as they were before encryption, its keys and its draws of randomness.
"""

from __future__ import annotations

import base64
import csv
import json
import struct
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from coordinator import dealing, simulate
from coordinator.__main__ import app
from coordinator.certificates import CertificateFiles
from coordinator.demo import credit_code
from coordinator.relay import Endpoint, Relay
from protocols.envelope import Kind, encode_frame
from protocols.roles import COORDINATOR
from tests.reference.leak_search import (
    Found,
    LeakSearch,
    Thing,
    big_integer_forms,
    bit_forms,
    id_forms,
    integer_forms,
    number_forms,
    secret_forms,
    sequence_forms,
    text_forms,
    written,
)
from tests.reference.recorded_party import SECRET_BYTES, Record, recorded

ROOT = Path(__file__).parents[1]
PARTIES = ("bank", "bureau", "tax")
PROVIDERS = PARTIES[1:]
COMMON, ONLY = 1_500, 60  # customers of all parties, and of each party alone
LABEL = "planted_bank_defaulted"
SPECIAL = {"bank": -987654.321098, "bureau": -876543.210987, "tax": -765432.109876}
COMMAND_LINE = (
    COORDINATOR,
    "simulation.json",
)  # keeps the arguments of the command, the names of id and label among them
SEEDS_SENT = frozenset({"PairSeed", "DealerSeed"})


# -- a consortium to be recognised -------------------------------------------------------------------------------------


def write_consortium(folder: Path) -> None:
    """A file a party: numbers of 13 digits, categories and names that nothing else would contain."""
    rng = np.random.default_rng(11)
    everyone = COMMON + ONLY * len(PARTIES)
    ids: dict[str, None] = {}
    while len(ids) < everyone:
        number = rng.integers(0, 10, 8)
        ids[credit_code("110105", "".join(str(digit) for digit in number))] = None
    names = list(ids)
    risk = rng.standard_normal(everyone)
    bad = (risk + 0.6 * rng.standard_normal(everyone) > 0.7).astype(int)
    recipe = "[sample]\nseed = 5\n\n[keys]\nbits = 2048\n"
    for place, party in enumerate(PARTIES):
        own = range(COMMON + place * ONLY, COMMON + (place + 1) * ONLY)
        rows = rng.permutation(np.r_[np.arange(COMMON), np.array(own)])
        columns = _columns(party, place, risk[rows], rng)
        header = ["id", *([LABEL] if party == "bank" else []), *columns]
        with (folder / f"{party}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for at, row in enumerate(rows.tolist()):
                label = [str(bad[row])] if party == "bank" else []
                writer.writerow([names[row], *label, *(cells[at] for cells in columns.values())])
        recipe += f"\n[parties.{party}]\nspecial = {{ planted_{party}_margin = [{SPECIAL[party]!r}] }}\n"
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")


def _columns(party: str, place: int, risk: Any, rng: np.random.Generator) -> dict[str, list[str]]:
    n = len(risk)
    seen = [0.7 * risk + rng.standard_normal(n) for _ in range(4)]
    turnover = [repr(round(731_942.061873 + 1e6 * place + 50_000 * x, 6)) for x in seen[0].tolist()]
    margin = [repr(round(4_731_942.061873 + 1e6 * place + 50_000 * x, 6)) for x in seen[1].tolist()]
    account = [str(73_194_206_187_313 + 10**13 * place + int(10**11 * x)) for x in seen[2].tolist()]
    branches = [f"zq-{party}-{place}{letter}7Kx" for letter in "ABCD"]
    branch = [branches[level] for level in np.digitize(seen[3], (-0.8, 0.0, 0.8)).tolist()]
    for row in np.flatnonzero(rng.random(n) < 0.08).tolist():
        turnover[row] = ""
    for row in np.flatnonzero(rng.random(n) < 0.10).tolist():
        margin[row] = repr(SPECIAL[party])
    return {
        f"planted_{party}_turnover": turnover,
        f"planted_{party}_margin": margin,
        f"planted_{party}_account": account,
        f"planted_{party}_branch": branch,
        f"planted_{party}_constant": [f"zq-{party}-constant"] * n,
    }


# -- the run, and what it left -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Bytes to be searched. holder: whose eyes they are for; None: everybody's, or nobody's in particular."""

    name: str
    holder: str | None
    data: bytes = field(repr=False)


class RecordingRelay(Relay):
    """A relay that keeps every frame it is given."""

    def __init__(self, certificates: CertificateFiles, jobs: Mapping[str, Collection[str]]) -> None:
        super().__init__(certificates, jobs)
        self.frames: list[bytes] = []

    def route(self, seat: Endpoint, frame: bytes) -> bool:
        self.frames.append(bytes(frame))
        return super().route(seat, frame)


@dataclass(frozen=True)
class Run:
    """A training and a scoring job. places: everything left behind; record: what only this test may know."""

    data: Path
    out: Path
    record: Path
    places: tuple[Place, ...]
    frames: list[bytes] = field(repr=False)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every party's file, all cells as text."""
        return {party: pd.read_csv(self.data / f"{party}.csv", dtype=str, keep_default_na=False) for party in PARTIES}

    def common_order(self) -> pd.DataFrame:
        """id, score, sample of the aligned rows."""
        return pd.read_csv(self.out / "bank" / "scores.csv", dtype={"id": str})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The operator's two commands, recorded."""
    folder = tmp_path_factory.mktemp("leaks")
    data, out, record = folder / "data", folder / "out", folder / "record"
    data.mkdir()
    write_consortium(data)
    relays: list[RecordingRelay] = []
    said: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        _record_simulation(patch, record, relays, said)
        simulated = _operate(_simulate(data, out))
        scored = _operate(["score", "--out", str(out), "--json"])
    assert (simulated.exit_code, scored.exit_code) == (0, 0), simulated.output + scored.output
    printed = [simulated.output.encode(), scored.output.encode()]
    frames = [frame for relay in relays for frame in relay.frames]
    return Run(data, out, record, tuple(_places(out, record, frames, [*said, *printed])), frames)


def _simulate(data: Path, out: Path) -> list[str]:
    parties = [argument for name in PARTIES for argument in ("--party", f"{name}={data / f'{name}.csv'}")]
    return ["simulate", *parties, "--label", LABEL, "--recipe", str(data / "recipe.toml"), "--out", str(out)]


def _operate(command: list[str]) -> Any:
    return CliRunner().invoke(app, command)


def _record_simulation(
    patch: pytest.MonkeyPatch, record: Path, relays: list[RecordingRelay], said: list[bytes]
) -> None:
    """Put recorders into `coordinator.simulate`. said: takes every line that a party's process says."""
    dealt = Record(record / COORDINATOR)
    parse, dealer, run_job = simulate._parse, dealing.Dealer, simulate.Simulation.run

    def relay(certificates: CertificateFiles, jobs: Mapping[str, Collection[str]]) -> RecordingRelay:
        relays.append(RecordingRelay(certificates, jobs))
        return relays[-1]

    def run_recorded(self: simulate.Simulation, *arguments: Any, **options: Any) -> simulate.Outcome:
        return run_job(self, *arguments, **(options | {"relay_maker": relay}))

    def parsing(line: bytes) -> dict[str, Any]:
        said.append(line)
        return parse(line)

    def start(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
        module, name = arguments.index("party_agent"), arguments[arguments.index("--name") + 1]
        instead = ["tests.reference.recorded_party", str(record / name)]
        return subprocess.Popen([*arguments[:module], *instead, *arguments[module + 1 :]], cwd=ROOT, **options)

    names = {name: getattr(subprocess, name) for name in ("PIPE", "DEVNULL", "TimeoutExpired")}
    patch.setattr(simulate, "subprocess", SimpleNamespace(Popen=start, **names))
    patch.setattr(simulate.Simulation, "run", run_recorded)
    patch.setattr(simulate, "_parse", parsing)
    patch.setattr(dealing, "DealerChannel", recorded(dealing.DealerChannel, dealt))
    patch.setattr(
        dealing, "Dealer", lambda parties, bits, entropy, **options: dealer(parties, bits, dealt.entropy, **options)
    )


def _places(out: Path, record: Path, frames: Iterable[bytes], heard: Iterable[bytes]) -> Iterator[Place]:
    yield Place("frames at the relay", COORDINATOR, b"\n".join(frames))
    yield Place("what the coordinator heard and printed", COORDINATOR, b"\n".join(heard))
    for path in sorted(out.rglob("*")):
        where = path.relative_to(out).parts
        if path.is_file() and where != COMMAND_LINE:
            yield Place("/".join(where), where[0] if len(where) > 1 else None, path.read_bytes())
    for path in sorted(record.glob("*/sent/*")):
        _, sender, to, stage, step = path.name.split()
        yield Place(f"message {sender} -> {to} {stage} {step}", to, path.read_bytes())


# -- what to look for --------------------------------------------------------------------------------------------------


def _planted(run: Run) -> LeakSearch:
    """Everything in the parties' files, and what they made of it that is their own."""
    search = LeakSearch()
    tables = run.tables()
    common = run.common_order()["id"].tolist()
    holders: dict[str, set[str]] = {}
    for party, table in tables.items():
        for name in table["id"]:
            holders.setdefault(name, set()).add(party)
    for name, owners in holders.items():
        search.add(Thing("id", f"an id of {sorted(owners)}", frozenset(owners)), id_forms(name))
    for party, table in tables.items():
        aligned = table.set_index("id").loc[common]
        for column in table.columns.drop("id"):
            _add_column(search, party, column, table[column], aligned[column])
        _add_edges(search, party, run.out)
    label = tables["bank"].set_index("id")[LABEL].astype(int)
    for party, table in tables.items():
        own = [name for name in table["id"] if name in label.index]
        _add_label(search, f"in the order of {party}'s file", label.loc[own].tolist())
    _add_label(search, "in the common order", label.loc[common].tolist())
    scores = run.common_order()["score"].tolist()
    owner = frozenset({"bank"})
    search.add(Thing("score", "scores in the common order", owner), sequence_forms(scores, 8, range(0, 1400, 100)))
    return search


def _add_column(search: LeakSearch, party: str, name: str, cells: pd.Series, aligned: pd.Series) -> None:
    owner = frozenset({party})
    search.add(Thing("column name", name, owner), text_forms(name))
    if name == LABEL:
        return
    thing = Thing("value", f"a value of {name}", owner)
    numeric = pd.to_numeric(cells, errors="coerce")
    for text, number in {text: number for text, number in zip(cells, numeric, strict=True) if text}.items():
        if np.isnan(number):
            search.add(thing, text_forms(text))
        else:
            search.add(thing, integer_forms(int(text)) if text.isdigit() else number_forms(float(text)))
            search.add(thing, written("double LE", struct.pack("<d", number)))
    if numeric.notna().any():
        run_of = Thing("value", f"consecutive values of {name}", owner)
        for column in (numeric, pd.to_numeric(aligned, errors="coerce")):
            values = column.dropna().tolist()
            search.add(run_of, sequence_forms(values, 3, range(0, len(values) - 3, 50)))


def _add_edges(search: LeakSearch, party: str, out: Path) -> None:
    """Edges, and the labels of bins made from them, as this party's own files name them."""
    owner = frozenset({party})
    for feature in json.loads((out / party / "report.json").read_bytes())["features"]:
        for edge in feature["edges"] if feature["kind"] == "numeric" else ():
            search.add(Thing("edge", f"an edge of {feature['name']}", owner), number_forms(float(edge)))
        for item in feature["bins"]:
            thing = Thing("edge", f"the label of a bin of {feature['name']}", owner)
            search.add(thing, text_forms(item["label"]) if any(c.isdigit() for c in item["label"]) else ())


def _add_label(search: LeakSearch, order: str, label: list[int]) -> None:
    thing = Thing("label", f"the label {order}", frozenset({"bank"}))
    bads = np.flatnonzero(label).tolist()
    for start in range(0, len(label) - 128, 97):
        search.add(thing, sequence_forms(label, 48, (start,)))
    for vector in (label, [1 - bad for bad in label]):
        search.add(thing, bit_forms(vector, 128, range(0, len(label) - 128, 8)))
    search.add(Thing("label", f"the places of the bads {order}", frozenset({"bank"})), _positions(bads))


def _positions(bads: list[int]) -> Iterator[tuple[str, bytes]]:
    later = [place for place in bads if place > 255]
    return sequence_forms(later, 4, range(0, len(later) - 4, 10))


def _keys(run: Run) -> LeakSearch:
    """Keys and seeds of every party and of the dealer, and the columns of masks."""
    search = LeakSearch()
    for party in (*PARTIES, COORDINATOR):
        record, folder = run.record / party, run.out / party
        owner, nobody = frozenset({party}), frozenset[str]()
        for line in _lines(record / "keys.json"):
            p, q = (int(prime) for prime in json.loads(line))
            low = (p - 1) * (q - 1) % (1 << 512)  # the upper half of phi(N) is that of N
            for what, number in (("p", p), ("q", q), ("p - 1", p - 1), ("q - 1", q - 1), ("end of phi(N)", low)):
                search.add(Thing("Paillier key", f"{what} of {party}", nobody), big_integer_forms(number))
        for name in ("drawn.bin", "masks.bin"):
            raw = (record / name).read_bytes() if (record / name).exists() else b""
            for at in range(0, len(raw), SECRET_BYTES):
                secret = raw[at : at + 16]
                forms = [("raw", secret), ("reversed", secret[::-1]), ("hex", secret.hex().encode())]
                search.add(Thing("secret", f"{name.removesuffix('.bin')} by {party}", nobody), forms)
        for path in [folder / "identity.pem", *folder.glob("tls/*.key")]:
            thing = Thing("private key", f"{path.name} of {party}", owner)
            search.add(thing, secret_forms(_private_bytes(path)))
            lines = [line for line in path.read_text().splitlines() if not line.startswith("-")]
            search.add(thing, (("PEM", line.encode()) for line in lines if len(line) > 24))
    return search


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _private_bytes(path: Path) -> bytes:
    key = load_pem_private_key(path.read_bytes(), None)
    if isinstance(key, Ed25519PrivateKey):
        return key.private_bytes_raw()
    assert isinstance(key, EllipticCurvePrivateKey)
    return key.private_numbers().private_value.to_bytes(32, "big")


# -- the search --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sighting:
    """A thing and where it was seen."""

    place: Place
    found: Found

    def __str__(self) -> str:
        thing = self.found.thing
        return f"{thing.what} ({thing.kind}, {self.found.form}) in {self.place.name}"

    @property
    def astray(self) -> bool:
        """Whether it lies where its owners do not look."""
        return self.place.holder not in self.found.thing.owners


Sightings = Mapping[str, list[Sighting]]


def _sightings(places: Iterable[Place], *searches: LeakSearch) -> dict[str, list[Sighting]]:
    """By kind of thing."""
    seen: dict[str, list[Sighting]] = {}
    for place in places:
        for search in searches:
            for found in search.find(place.data):
                seen.setdefault(found.thing.kind, []).append(Sighting(place, found))
    return seen


@pytest.fixture(scope="module")
def planted(run: Run) -> LeakSearch:
    return _planted(run)


@pytest.fixture(scope="module")
def seen(run: Run, planted: LeakSearch) -> Sightings:
    """Everything that was found anywhere."""
    return _sightings(run.places, planted, _keys(run))


def _texts(sightings: Iterable[Sighting]) -> list[str]:
    return sorted({str(sighting) for sighting in sightings})[:10]


# -- the search finds what is there ------------------------------------------------------------------------------------

_NUMBER, _CODE, _VECTOR = 731_942.061873, "91110105MA00000X31", [0, 1, 1, 0, 1, 0, 0, 1] * 16

FORMS: dict[str, Callable[[], Iterator[tuple[str, bytes]]]] = {
    "id": lambda: id_forms(_CODE),
    "id of digits": lambda: id_forms("310019196503183110"),
    "number": lambda: number_forms(_NUMBER),
    "integer": lambda: integer_forms(73_194_206_187_313),
    "sequence of numbers": lambda: sequence_forms([_NUMBER, _NUMBER + 1, _NUMBER + 2.5], 3, (0,)),
    "labels": lambda: sequence_forms(_VECTOR, 48, (0,)),
    "bits": lambda: bit_forms(_VECTOR, 128, (0,)),
    "secret": lambda: secret_forms(bytes(range(100, 132))),
    "big integer": lambda: big_integer_forms(3**1200),
}


@pytest.mark.parametrize("kind", FORMS)
def test_the_search_finds_each_form_at_any_offset(kind: str) -> None:
    search, thing = LeakSearch(), Thing(kind, kind, frozenset())
    search.add(thing, FORMS[kind]())
    for form, pattern in FORMS[kind]():
        for offset in (0, 1, 7, (1 << 22) - 5):  # the last one lies across two chunks
            data = b"\xff" * offset + pattern + b"\xff" * 3
            assert form in {found.form for found in search.find(data)}, (form, offset)
    assert not search.find(np.random.default_rng(1).bytes(1 << 20))


def test_base64_is_found_wherever_it_starts_in_what_was_encoded() -> None:
    search = LeakSearch()
    search.add(Thing("id", "a code", frozenset()), id_forms(_CODE))
    for before in range(7):
        assert search.find(base64.b64encode(b"x" * before + _CODE.encode() + b"yz"))


@pytest.mark.process
def test_every_planted_thing_is_found_in_its_own_file_and_folder(
    run: Run, planted: LeakSearch, seen: Sightings
) -> None:
    for party in PARTIES:
        found = {item.thing for item in planted.find((run.data / f"{party}.csv").read_bytes())}
        names = {name for name in run.tables()[party] if name != "id"}
        assert {thing.what for thing in found if thing.kind == "column name"} == names
        assert {thing.what for thing in found if thing.kind == "value"} >= {
            f"a value of {name}" for name in names - {LABEL}
        }
        assert any(thing.kind == "id" for thing in found)
        for kind in ("edge", "column name", "value"):
            assert any(sighting.place.holder == party for sighting in seen[kind]), (party, kind)
    assert {s.found.thing.what for s in seen["private key"]} == {
        *(f"{name} of {party}" for party in PARTIES for name in ("identity.pem", f"{party}.key")),
        *(f"{name} of {COORDINATOR}" for name in ("identity.pem", "relay.key")),
    }


@pytest.mark.process
def test_what_is_sent_in_clear_is_found_at_the_relay(run: Run, planted: LeakSearch) -> None:
    relay = RecordingRelay(CertificateFiles(Path(), Path(), Path()), {"job": ("bank", "tax")})
    bank, _ = relay.attach("job", "bank"), relay.attach("job", "tax")
    table = run.tables()["bank"]
    label = run.tables()["bank"][LABEL].astype(np.uint8).to_numpy()
    margin = table["planted_bank_margin"].astype(float).to_numpy()
    for payload in (table["id"][7].encode(), label.tobytes(), np.packbits(label).tobytes(), margin[:3].tobytes()):
        bank.put(encode_frame(Kind.DATA, "job", "bank", "tax", payload))
    astray = [_sightings([Place("a frame", COORDINATOR, frame)], planted) for frame in relay.frames]
    assert [set(kinds) for kinds in astray] == [{"id"}, {"label"}, {"label"}, {"value"}]
    assert all(sighting.astray for kinds in astray for sightings in kinds.values() for sighting in sightings)


@pytest.mark.process
def test_all_that_passed_the_relay_was_searched(run: Run) -> None:
    metered = 0
    for path in run.out.glob("coordinator/traffic-*.json"):
        metered += sum(used["bytes_sent"] for used in json.loads(path.read_bytes()).values())
    messages = sum(len(place.data) for place in run.places if place.name.startswith("message"))
    assert sum(map(len, run.frames)) >= metered > messages > 1_000_000
    steps = {place.name.split()[-1] for place in run.places if place.name.startswith("message")}
    assert {"BlindedIds", "EncryptedRows", "PreBins", "GateDecision", "MaskedLogits", "Corrections"} <= steps
    assert {"MaskedPoints", "SharedReport", "StatementPart"} <= steps
    assert len({place.name for place in run.places}) > 40


# -- and finds nothing astray ------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("kind", ["id", "value", "edge", "column name", "label", "score", "private key"])
def test_nothing_of_a_party_lies_where_another_looks(seen: Sightings, kind: str) -> None:
    assert not _texts(sighting for sighting in seen.get(kind, ()) if sighting.astray)


@pytest.mark.process
def test_ids_lie_nowhere_but_beside_the_scores_of_the_label_owner(seen: Sightings) -> None:
    assert {sighting.place.name for sighting in seen["id"]} == {"bank/scores.csv", "bank/scored.csv"}


@pytest.mark.process
def test_label_and_scores_are_in_no_providers_folder_even_as_a_vector(run: Run, seen: Sightings) -> None:
    for provider in PROVIDERS:
        assert not {path.name for path in (run.out / provider).iterdir()} & {"scores.csv", "scored.csv", "grades.json"}
    assert not _texts(seen.get("label", ()))
    assert not _texts(seen.get("score", ()))


@pytest.mark.process
def test_a_partys_own_log_holds_nothing_of_its_file(run: Run, planted: LeakSearch) -> None:
    logs = [
        place for place in run.places if place.name.endswith(("log.jsonl", "stderr.txt", "nonces.txt", "spent.tsv"))
    ]
    assert len(logs) >= 3 * len(PARTIES)
    assert not _sightings(logs, planted)


@pytest.mark.process
def test_paillier_keys_are_written_nowhere_and_sent_to_nobody(run: Run, seen: Sightings) -> None:
    made = {party: len(_lines(run.record / party / "keys.json")) for party in PARTIES}
    assert made == {"bank": 1, "bureau": 1, "tax": 0}
    assert not _texts(seen.get("Paillier key", ()))


@pytest.mark.process
def test_draws_of_randomness_leave_a_process_only_as_the_seeds_that_two_share(run: Run, seen: Sightings) -> None:
    assert all(
        (run.record / party / "drawn.bin").stat().st_size > 2 * SECRET_BYTES for party in (*PARTIES, COORDINATOR)
    )
    assert all((run.record / party / "masks.bin").stat().st_size > 2 * SECRET_BYTES for party in ("bank", "bureau"))
    sent = {sighting.place.name.split()[-1] for sighting in seen["secret"]}
    assert sent == SEEDS_SENT, _texts(s for s in seen["secret"] if s.place.name.split()[-1] not in SEEDS_SENT)
    assert {sighting.found.form for sighting in seen["secret"]} == {"raw"}


@pytest.mark.process
def test_special_values_of_a_recipe_stay_with_their_party(run: Run) -> None:
    search = LeakSearch()
    for party, value in SPECIAL.items():
        search.add(Thing("special", f"the special value of {party}", frozenset({party})), number_forms(value))
    seen = _sightings(run.places, search)["special"]
    assert not _texts(sighting for sighting in seen if sighting.astray)
    assert {sighting.place.holder for sighting in seen} == set(PARTIES)


@pytest.mark.process
def test_only_the_arguments_of_the_command_name_the_label_column_at_the_coordinator(run: Run) -> None:
    arguments = json.loads((run.out.joinpath(*COMMAND_LINE)).read_bytes())
    assert {party: (item["id"], item["label"]) for party, item in arguments.items()} == {
        "bank": ("id", LABEL),
        "bureau": ("id", None),
        "tax": ("id", None),
    }
    assert {Path(item["data"]) for item in arguments.values()} == {run.data / f"{party}.csv" for party in PARTIES}


# -- a run that is refused ---------------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_refused_file_is_not_quoted(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    write_consortium(data)
    with (data / "tax.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[5][1] = "zq-a-cell-that-is-no-number"
    with (data / "tax.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    relays: list[RecordingRelay] = []
    said: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        _record_simulation(patch, tmp_path / "record", relays, said)
        result = _operate(_simulate(data, out))
    assert result.exit_code == 1
    assert "NUMBER_INVALID" in result.output
    search = LeakSearch()
    cells = {cell for row in rows[1:] for cell in row if len(cell) >= 8} - {repr(SPECIAL["tax"])}  # its recipe has it
    for cell in cells:
        search.add(Thing("cell", "a cell of the refused file", frozenset()), text_forms(cell))
    for name in rows[0][1:]:
        search.add(Thing("column name", name, frozenset({"tax", COORDINATOR})), text_forms(name))
    heard = [*said, result.output.encode()]
    seen = _sightings(_places(out, tmp_path / "record", relays[0].frames, heard), search)
    assert not _texts(sighting for sightings in seen.values() for sighting in sightings if sighting.astray)
