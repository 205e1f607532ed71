"""Contracts and job documents: one canonical form, every signature, every bound."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.contract import (
    CLOCK_SKEW_S,
    Caps,
    Contract,
    JobDocument,
    JobKind,
    Member,
    SignedContract,
    SignedJob,
    fingerprint,
)
from protocols.errors import ContractViolationError, LocalProtocolError
from protocols.roles import Parties

NOW = 1_800_000_000
KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32)
    for i, name in enumerate(("bank", "bureau", "tax", "coordinator"))
}
ROLES = ("label owner", "feature provider", "feature provider", "coordinator")
MEMBERS = tuple(
    Member(name, role, key.public_key().public_bytes_raw().hex())
    for (name, key), role in zip(KEYS.items(), ROLES, strict=True)
)
USED = ("align-ecdh", "bin-chimerge", "score-points", "train-logistic")
CONTRACT = Contract("pilot-1", MEMBERS, "crédit des PME", Caps(), ("scorecard",), NOW - 100, NOW + 1000, USED)


class Nonces:
    def __init__(self) -> None:
        self.spent: set[str] = set()

    def spend(self, nonce: str) -> bool:
        new = nonce not in self.spent
        self.spent.add(nonce)
        return new


def signed(contract: Contract = CONTRACT) -> SignedContract:
    document = SignedContract(contract, ())
    for name, key in reversed(KEYS.items()):
        document = document.signed_by(name, key)
    return document


def job(**changes: Any) -> JobDocument:
    values = {
        "contract_hash": CONTRACT.hash().hex(),
        "job": "job-1",
        "kind": JobKind.TRAIN,
        "recipe": "lambda = 1.0\n",
        "nonce": "ab" * 16,
        "issued": NOW - 10,
        "expires": NOW + 100,
    }
    return JobDocument(**(values | changes))


def violates(code: str, call: Any) -> None:
    with pytest.raises(ContractViolationError) as caught:
        call()
    assert caught.value.code == code


# -- contracts


def test_a_contract_signed_by_all_reads_back_and_verifies() -> None:
    data = signed().encode()
    assert SignedContract.decode(data) == signed()
    assert SignedContract.decode(data).verify(NOW) == CONTRACT
    assert CONTRACT.parties == Parties("bank", ("bureau", "tax"))
    assert set(CONTRACT.peers("bank")) == {"bureau", "tax", "coordinator"}
    assert CONTRACT.member("bank").fingerprint() == fingerprint(KEYS["bank"].public_key())


def test_the_canonical_form_is_fixed() -> None:
    """Known answer: a change here changes every signature ever made."""
    assert CONTRACT.canonical().startswith(b'{"algorithms":["align-ecdh","bin-chimerge",')
    assert "crédit".encode() in CONTRACT.canonical()
    assert CONTRACT.hash().hex() == "f2e28a7bcfe7260b62a580a6682ebe0e6021994b148700ae4d802b917cb5d398"


@pytest.mark.parametrize("absent", list(KEYS))
def test_a_contract_counts_only_when_every_member_signed(absent: str) -> None:
    document = SignedContract(CONTRACT, tuple(pair for pair in signed().signatures if pair[0] != absent))
    violates("CONTRACT_SIGNATURE_MISSING", lambda: document.verify(NOW))


def test_signatures_of_another_contract_or_member_do_not_count() -> None:
    amended = SignedContract(replace(CONTRACT, purpose="another"), signed().signatures)
    violates("CONTRACT_SIGNATURE_INVALID", lambda: amended.verify(NOW))
    names = [name for name, _ in signed().signatures]
    values = [value for _, value in signed().signatures]
    swapped = SignedContract(CONTRACT, tuple(zip(names, [values[1], values[0], *values[2:]], strict=True)))
    violates("CONTRACT_SIGNATURE_INVALID", lambda: swapped.verify(NOW))
    junk = SignedContract(CONTRACT, tuple((name, "zz") for name in names))
    violates("CONTRACT_SIGNATURE_INVALID", lambda: junk.verify(NOW))


def test_a_member_signs_with_its_own_key_only() -> None:
    with pytest.raises(LocalProtocolError):
        SignedContract(CONTRACT, ()).signed_by("bank", KEYS["tax"])


def test_a_contract_has_its_time() -> None:
    signed().verify(NOW - 100)
    violates("CONTRACT_NOT_YET_VALID", lambda: signed().verify(NOW - 101))
    violates("CONTRACT_EXPIRED", lambda: signed().verify(NOW + 1000))


@pytest.mark.parametrize(
    "changes",
    [
        {"minimum_key_bits": 2047},
        {"bin_floor": 49},
        {"label_budget_numerator": 1, "label_budget_denominator": 7},
        {"label_budget_numerator": 126, "label_budget_denominator": 1000},
        {"label_budget_denominator": 0},
        {"minimum_intersection": 0},
        {"maximum_set_size": 499},
        {"runs": 0},
    ],
)
def test_no_contract_goes_below_the_floors(changes: dict[str, int]) -> None:
    violates("CONTRACT_INVALID", lambda: Caps(**changes))


def test_a_contract_may_lower_the_label_budget() -> None:
    assert Caps(label_budget_numerator=1, label_budget_denominator=100).label_budget_denominator == 100


def test_floats_and_booleans_are_no_integers() -> None:
    for value in (1.0, True, -1, 1 << 53):
        violates("CONTRACT_INVALID", lambda value=value: Caps(runs=value))


@pytest.mark.parametrize(
    "members",
    [
        MEMBERS[1:],  # no label owner
        MEMBERS[:-1],  # no coordinator
        (MEMBERS[0], MEMBERS[-1]),  # no provider
        (*MEMBERS[:-1], replace(MEMBERS[-1], name="lab")),
        (*MEMBERS, replace(MEMBERS[1], name="bank")),
        (*MEMBERS[:-1], replace(MEMBERS[-1], identity=MEMBERS[0].identity)),
        (replace(MEMBERS[0], identity=MEMBERS[0].identity.upper()), *MEMBERS[1:]),
        (replace(MEMBERS[0], identity="00"), *MEMBERS[1:]),
        (replace(MEMBERS[0], identity="zz" * 32), *MEMBERS[1:]),
        (replace(MEMBERS[0], name="Bank!"), *MEMBERS[1:]),
        (replace(MEMBERS[0], role="arbiter"), *MEMBERS[1:]),
    ],
)
def test_the_members_fill_the_roles_with_keys_of_their_own(members: tuple[Member, ...]) -> None:
    violates("CONTRACT_INVALID", lambda: replace(CONTRACT, members=members))


def test_outputs_and_caps_are_enforced() -> None:
    CONTRACT.check_output("scorecard")
    CONTRACT.check_set_size(1_000_000)
    CONTRACT.check_key_bits(3072)
    CONTRACT.check_opened(1_000_000)
    CONTRACT.check_runs(99)
    CONTRACT.check_aborts(3)
    violates("OUTPUT_NOT_ALLOWED", lambda: CONTRACT.check_output("rows"))
    violates("SET_TOO_LARGE", lambda: CONTRACT.check_set_size(1_000_001))
    violates("KEY_TOO_SHORT", lambda: CONTRACT.check_key_bits(3071))
    violates("DISCLOSURE_CAP", lambda: CONTRACT.check_opened(1_000_001))
    violates("RUNS_SPENT", lambda: CONTRACT.check_runs(100))
    violates("ABORTS_SPENT", lambda: CONTRACT.check_aborts(4))
    violates("NOT_A_MEMBER", lambda: CONTRACT.peers("stranger"))


def test_only_the_canonical_form_is_read() -> None:
    data = signed().encode()
    value = json.loads(data)
    others = [
        json.dumps(value).encode(),  # spaces
        json.dumps(value, separators=(",", ":"), sort_keys=True).encode(),  # escapes
        data + b"\n",
        b"\xef\xbb\xbf" + data,
        data.replace(b'"runs":100', b'"runs":100,"runs":100'),
        data.replace(b'"runs":100', b'"runs":100.0'),
        data.replace(b'"runs":100', b'"runs":1e2'),
        data.replace(b'"runs":100', b'"runs":true'),
        data.replace(b'"runs":100', b'"runs":' + b"9" * 5000),
        data.replace(b',"runs":100', b""),
        data.replace(b'"runs":100', b'"runs":100,"seed":1'),
        data.replace(b'"pilot-1"', b'"\\ud800"'),
        data.replace("é".encode(), b"\xff"),
        b"[" * 100_000,
        b" " * (2 << 20),
        b"",
        b"null",
        b'{"contract":[],"signatures":{}}',
    ]
    for other in others:
        assert other != data
        violates("CONTRACT_MALFORMED", lambda other=other: SignedContract.decode(other))


# -- jobs


def test_a_job_of_the_label_owner_runs_once() -> None:
    nonces = Nonces()
    document = SignedJob.decode(job().sign(KEYS["bank"]).encode())
    assert document.verify(CONTRACT, NOW, nonces) == job()
    violates("JOB_REPLAYED", lambda: document.verify(CONTRACT, NOW, nonces))


@pytest.mark.parametrize("name", ["bureau", "tax", "coordinator"])
def test_nobody_else_can_ask_for_a_job(name: str) -> None:
    nonces = Nonces()
    violates("JOB_SIGNATURE_INVALID", lambda: job().sign(KEYS[name]).verify(CONTRACT, NOW, nonces))
    assert nonces.spent == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"job": "job-2"},
        {"recipe": "lambda = 0.1\n"},
        {"kind": JobKind.SCORE, "model": "train-1"},
        {"nonce": "cd" * 16},
        {"expires": NOW + 101},
        {"issued": NOW - 9},
        {"attempt": 2},
    ],
)
def test_no_word_of_a_job_can_be_changed(changes: dict[str, Any]) -> None:
    altered = SignedJob(replace(job(), **changes), job().sign(KEYS["bank"]).signature)
    violates("JOB_SIGNATURE_INVALID", lambda: altered.verify(CONTRACT, NOW, Nonces()))


def test_no_word_of_a_scoring_job_can_be_changed() -> None:
    asked = job(kind=JobKind.SCORE, model="train-1")
    for changes in ({"model": "train-2"}, {"kind": JobKind.TRAIN, "model": ""}):
        altered = SignedJob(replace(asked, **changes), asked.sign(KEYS["bank"]).signature)
        violates("JOB_SIGNATURE_INVALID", lambda altered=altered: altered.verify(CONTRACT, NOW, Nonces()))


def test_only_a_scoring_job_has_a_model_in_its_bytes() -> None:
    for document in (job(), job(kind=JobKind.SCORE, model="train-1")):
        data = document.sign(KEYS["bank"]).encode()
        assert SignedJob.decode(data).document == document
        assert (b'"model":"train-1"' in data, b"model" in data) == ((document.kind is JobKind.SCORE,) * 2)
    data = job(kind=JobKind.SCORE, model="train-1").sign(KEYS["bank"]).encode()
    of_training = job().sign(KEYS["bank"]).encode()
    for other in (
        data.replace(b'"model":"train-1",', b""),
        data.replace(b'"train-1"', b'""'),
        data.replace(b'"train-1"', b"null"),
        data.replace(b'"train-1"', b'"../x"'),
        data.replace(b'"kind":"score"', b'"kind":"train"'),
        of_training.replace(b'"nonce"', b'"model":"","nonce"'),
        of_training.replace(b'"nonce"', b'"model":"train-1","nonce"'),
        of_training.replace(b'"kind":"train"', b'"kind":"score"'),
    ):
        assert other not in (data, of_training)
        violates("JOB_MALFORMED", lambda other=other: SignedJob.decode(other))


def test_a_job_runs_under_its_own_contract_and_in_its_own_time() -> None:
    def verify(document: JobDocument, now: int = NOW, contract: Contract = CONTRACT) -> Any:
        return document.sign(KEYS["bank"]).verify(contract, now, Nonces())

    violates("JOB_OTHER_CONTRACT", lambda: verify(job(), contract=replace(CONTRACT, purpose="another")))
    violates("JOB_EXPIRED", lambda: verify(job(), NOW + 100))
    violates("CONTRACT_EXPIRED", lambda: verify(job(expires=NOW + 5000), NOW + 2000))
    assert verify(job(issued=NOW + CLOCK_SKEW_S, expires=NOW + 900)).job == "job-1"
    violates("JOB_NOT_YET_VALID", lambda: verify(job(issued=NOW + CLOCK_SKEW_S + 1, expires=NOW + 900)))


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "ab"},
        {"nonce": "AB" * 16},
        {"contract_hash": "00"},
        {"job": "../../etc"},
        {"attempt": 0},
        {"attempt": 1.0},
        {"expires": NOW - 10},
        {"kind": "train"},
        {"kind": JobKind.SCORE},
        {"kind": JobKind.SCORE, "model": "../x"},
        {"kind": JobKind.SCORE, "model": "job-1"},
        {"model": "train-1"},
        {"model": None},
        {"recipe": "\ud800"},
    ],
)
def test_a_job_that_is_not_well_formed_cannot_be_made(changes: dict[str, Any]) -> None:
    violates("JOB_MALFORMED", lambda: job(**changes))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.integers(0, 600)))
def test_no_bytes_are_read_as_a_job_but_its_own(change: bytes | int) -> None:
    data = job().sign(KEYS["bank"]).encode()
    other = change if isinstance(change, bytes) else data[: change % len(data)]
    violates("JOB_MALFORMED", lambda: SignedJob.decode(other))
    assert SignedJob.decode(data).encode() == data


def test_a_job_is_binned_by_a_method_that_the_contract_names() -> None:
    CONTRACT.check_binning("chimerge")
    violates("ALGORITHM_NOT_ALLOWED", lambda: CONTRACT.check_binning("optimal"))
    replace(CONTRACT, algorithms=("align-ecdh", "bin-optimal", *USED[2:])).check_algorithms(JobKind.TRAIN)
    none = replace(CONTRACT, algorithms=("align-ecdh", *USED[2:]))
    violates("ALGORITHM_NOT_ALLOWED", lambda: none.check_algorithms(JobKind.TRAIN))


def test_ids_are_intersected_by_an_engine_that_the_contract_names() -> None:
    CONTRACT.check_alignment("ecdh")
    violates("ALGORITHM_NOT_ALLOWED", lambda: CONTRACT.check_alignment("kkrt"))
    other = replace(CONTRACT, algorithms=("align-kkrt", *USED[1:]))
    other.check_alignment("kkrt")
    other.check_algorithms(JobKind.TRAIN)
    violates("ALGORITHM_NOT_ALLOWED", lambda: other.check_alignment("ecdh"))
    none = replace(CONTRACT, algorithms=USED[1:])
    violates("ALGORITHM_NOT_ALLOWED", lambda: none.check_algorithms(JobKind.TRAIN))
