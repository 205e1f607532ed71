"""The library of models as documents: what a state follows from, and what is no document at all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.contract import Caps, Contract, Member
from protocols.errors import ConcordatError, LocalProtocolError
from protocols.model_record import (
    Act,
    ModelEvent,
    ModelRecord,
    ModelState,
    PartLine,
    SignedModelEvent,
    check_act,
    commitment,
    replaces,
    state_of,
)
from protocols.roles import COORDINATOR

ROLES = {
    "bank": "label owner",
    "bureau": "feature provider",
    "tax": "feature provider",
    COORDINATOR: "coordinator",
}
KEYS = {name: Ed25519PrivateKey.generate() for name in ROLES}
PARTIES = ("bank", "bureau", "tax")
CONTRACT = Contract(
    "pilot",
    tuple(Member(name, role, KEYS[name].public_key().public_bytes_raw().hex()) for name, role in ROLES.items()),
    "a test",
    Caps(),
    (),
    0,
    1_000,
)
RECORD = ModelRecord(
    "sme",
    1,
    CONTRACT.hash().hex(),
    "train-1",
    "1" * 64,
    "2" * 64,
    "0.1.0",
    (("psi", 123), ("test_auc", 7_421)),
)


def line(party: str) -> PartLine:
    return PartLine(commitment(party.encode().ljust(32), b"part"), "3" * 64, "0.1.0")


def event(party: str, act: Act, sequence: int = 1, record: ModelRecord = RECORD, key: str = "") -> SignedModelEvent:
    own = line(party) if act is Act.APPROVE else PartLine()
    return ModelEvent(record.hash(), party, act, sequence, 500, "because", own).sign(KEYS[key or party])


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        act()
    return caught.value.code


SUBMITTED = [event("bank", Act.SUBMIT)]
APPROVED = [
    *SUBMITTED,
    event("bank", Act.APPROVE, 2),
    event("bureau", Act.APPROVE),
    event("tax", Act.APPROVE),
]
LIVE = [*APPROVED, event("bank", Act.GO_LIVE, 3)]


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], ModelState.DRAFT),
        (SUBMITTED, ModelState.SUBMITTED),
        (APPROVED[:-1], ModelState.SUBMITTED),
        (APPROVED, ModelState.APPROVED),
        (LIVE, ModelState.LIVE),
        ([*LIVE, event("tax", Act.RETIRE, 2)], ModelState.RETIRED),
        ([*SUBMITTED, event("bureau", Act.REJECT)], ModelState.REJECTED),
        ([*APPROVED, event("bureau", Act.REJECT, 2)], ModelState.REJECTED),
        ([event("tax", Act.RETIRE, 5)], ModelState.RETIRED),  # whatever else is held back
    ],
)
def test_the_state_follows_from_the_events_in_any_order(events: list[SignedModelEvent], state: ModelState) -> None:
    for order in itertools.islice(itertools.permutations(events), 24):
        assert state_of(RECORD, CONTRACT, order) is state
    assert state_of(RECORD, CONTRACT, events[::-1]) is state


@pytest.mark.parametrize("missing", PARTIES)
def test_without_the_approval_of_every_party_nothing_is_live(missing: str) -> None:
    events = [event("bank", Act.SUBMIT)]
    if missing != "bank":
        events.append(event("bank", Act.APPROVE, 2))
    events += [event(party, Act.APPROVE) for party in ("bureau", "tax") if party != missing]
    events.append(event("bank", Act.GO_LIVE, 3 if missing != "bank" else 2))
    assert state_of(RECORD, CONTRACT, events) is ModelState.SUBMITTED


def test_a_later_version_takes_the_place_of_a_live_one_of_its_name_and_contract() -> None:
    later = replace(RECORD, version=2, job="train-2")
    assert replaces(later, RECORD)
    assert not replaces(RECORD, later)
    assert not replaces(replace(later, name="other"), RECORD)
    assert not replaces(replace(later, contract_hash="9" * 64), RECORD)
    assert state_of(RECORD, CONTRACT, LIVE, replaced=True) is ModelState.RETIRED
    assert state_of(RECORD, CONTRACT, APPROVED, replaced=True) is ModelState.APPROVED


def test_an_event_that_is_held_back_is_noticed() -> None:
    events = [*SUBMITTED, event("bank", Act.GO_LIVE, 3)]
    assert code_of(lambda: state_of(RECORD, CONTRACT, events)) == "EVENT_MISSING"


OTHER = replace(RECORD, recipe_hash="4" * 64)


@pytest.mark.parametrize(
    ("signed", "code"),
    [
        (event("bureau", Act.APPROVE, key="tax"), "EVENT_SIGNATURE_INVALID"),
        (event("bureau", Act.APPROVE, key=COORDINATOR), "EVENT_SIGNATURE_INVALID"),
        (event(COORDINATOR, Act.APPROVE), "NOT_A_MEMBER"),
        (event("stranger", Act.APPROVE, key="tax"), "NOT_A_MEMBER"),
        (event("bureau", Act.SUBMIT), "MODEL_ROLE"),
        (event("tax", Act.GO_LIVE), "MODEL_ROLE"),
        (event("bureau", Act.APPROVE, record=OTHER), "EVENT_OTHER_MODEL"),  # replayed from another record
        (SignedModelEvent(replace(APPROVED[2].event, sequence=2), APPROVED[2].signature), "EVENT_SIGNATURE_INVALID"),
        (
            SignedModelEvent(replace(APPROVED[2].event, own=line("tax")), APPROVED[2].signature),
            "EVENT_SIGNATURE_INVALID",
        ),
    ],
)
def test_an_event_that_is_not_its_partys_own_on_this_record_counts_for_nothing(
    signed: SignedModelEvent, code: str
) -> None:
    assert code_of(lambda: state_of(RECORD, CONTRACT, [*SUBMITTED, signed])) == code


@pytest.mark.parametrize(
    ("act", "state", "code"),
    [
        (Act.SUBMIT, ModelState.SUBMITTED, "MODEL_STATE"),
        (Act.APPROVE, ModelState.DRAFT, "MODEL_STATE"),
        (Act.APPROVE, ModelState.REJECTED, "MODEL_STATE"),
        (Act.REJECT, ModelState.LIVE, "MODEL_STATE"),
        (Act.GO_LIVE, ModelState.SUBMITTED, "MODEL_NOT_APPROVED"),
        (Act.GO_LIVE, ModelState.RETIRED, "MODEL_STATE"),
        (Act.RETIRE, ModelState.RETIRED, "MODEL_STATE"),
    ],
)
def test_an_act_out_of_turn_is_refused(act: Act, state: ModelState, code: str) -> None:
    assert code_of(lambda: check_act(act, state, approved=False)) == code


def test_a_party_approves_once_and_any_party_retires_a_live_model() -> None:
    check_act(Act.APPROVE, ModelState.SUBMITTED, approved=False)
    assert code_of(lambda: check_act(Act.APPROVE, ModelState.SUBMITTED, approved=True)) == "MODEL_STATE"
    check_act(Act.RETIRE, ModelState.LIVE, approved=True)


def test_documents_survive_their_encoding_and_no_other_form_is_read() -> None:
    assert ModelRecord.decode(RECORD.encode()) == RECORD
    for signed in LIVE:
        assert SignedModelEvent.decode(signed.encode()) == signed
    spaced = json.dumps(json.loads(RECORD.encode()), sort_keys=True).encode()
    assert code_of(lambda: ModelRecord.decode(spaced)) == "MODEL_RECORD_MALFORMED"
    spaced = json.dumps(json.loads(LIVE[1].encode()), sort_keys=True).encode()
    assert code_of(lambda: SignedModelEvent.decode(spaced)) == "EVENT_MALFORMED"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": True},
        {"name": "A model"},
        {"contract_hash": "ab"},
        {"code": ""},
        {"metrics": {"test_auc": 0.7}},
        {"metrics": {"bads": 12}},
        {"metrics": []},
        {"seed": 1},
    ],
)
def test_a_record_of_another_form_is_none(changes: dict[str, object]) -> None:
    text = json.dumps(RECORD.to_json() | changes, sort_keys=True, separators=(",", ":"))
    assert code_of(lambda: ModelRecord.decode(text.encode())) == "MODEL_RECORD_MALFORMED"


@pytest.mark.parametrize(
    "signed",
    [
        replace(APPROVED[1].event, own=PartLine()),  # an approval of nothing
        replace(SUBMITTED[0].event, own=line("bank")),
        replace(SUBMITTED[0].event, sequence=0),
        replace(SUBMITTED[0].event, reason="x" * 1001),
    ],
)
def test_an_event_of_another_form_is_none(signed: ModelEvent) -> None:
    assert code_of(lambda: SignedModelEvent.decode(signed.sign(KEYS["bank"]).encode())) == "EVENT_MALFORMED"


def test_a_commitment_hides_a_part_behind_its_salt() -> None:
    salts = (bytes(32), bytes([1]) * 32)
    assert commitment(salts[0], b"part") != commitment(salts[1], b"part")
    assert commitment(salts[0], b"part") != commitment(salts[0], b"parts")
    assert commitment(salts[0], b"part") == commitment(salts[0], b"part")
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        commitment(b"short", b"part")
