"""Whom an institution believes: nobody without twelve words, and nobody whose key has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from party_agent.enrolment import create_institution
from party_agent.peers import PeerBook, PeerState
from protocols.errors import ConcordatError
from protocols.fingerprint_words import words
from protocols.roles import COORDINATOR

KEYS = {name: Ed25519PrivateKey.generate().public_key() for name in ("bank", "bureau", "tax", "new", COORDINATOR)}


def identity(name: str) -> str:
    return KEYS[name].public_bytes_raw().hex()


def spoken(name: str) -> str:
    return " ".join(words(KEYS[name]))


def told(**changes: str) -> dict[str, Any]:
    """What the lab tells of its members; `changes` names the key of another for a name."""
    names = ("bank", "bureau", "tax")
    return {
        "members": [
            {"name": name, "identity": identity(changes.get(name, name)), "state": "active", "joined": 1}
            for name in names
        ],
        "coordinator": {"name": COORDINATOR, "identity": identity(changes.get(COORDINATOR, COORDINATOR))},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_institution(tmp_path / "bank", "bank")
    return tmp_path / "bank"


@pytest.fixture
def book(folder: Path) -> Iterator[PeerBook]:
    with PeerBook.open(folder) as found:
        found.pin_lab(identity(COORDINATOR))
        found.refresh(told(), "bank")
        yield found


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        action()
    return caught.value.code


def test_a_member_is_not_believed_on_the_labs_word(book: PeerBook) -> None:
    assert {peer.name: peer.state for peer in book.all()} == {
        "bureau": PeerState.UNVERIFIED,
        "tax": PeerState.UNVERIFIED,
        COORDINATOR: PeerState.VERIFIED,
    }
    assert code_of(lambda: book.pinned("bureau")) == "PEER_UNVERIFIED"
    assert code_of(lambda: book.check("bureau", identity("bureau"))) == "PEER_UNVERIFIED"
    assert code_of(lambda: book.pinned("nobody")) == "PEER_UNKNOWN"
    assert book.pinned(COORDINATOR).public_bytes_raw().hex() == identity(COORDINATOR)


def test_a_member_is_believed_after_its_words_were_read(book: PeerBook, folder: Path) -> None:
    assert book.verify("bureau", spoken("bureau")).state is PeerState.VERIFIED
    assert book.pinned("bureau").public_bytes_raw().hex() == identity("bureau")
    book.check("bureau", identity("bureau"))
    assert code_of(lambda: book.check("bureau", identity("new"))) == "PEER_CHANGED"
    with PeerBook.open(folder) as again:
        assert again.pinned("bureau").public_bytes_raw().hex() == identity("bureau")
    assert code_of(lambda: book.pinned("tax")) == "PEER_UNVERIFIED"


@pytest.mark.parametrize("heard", ["", "one two", "bank", "tax", "reordered", "eleven", "thirteen", "one wrong"])
def test_other_words_pin_nothing(book: PeerBook, heard: str) -> None:
    right = spoken("bureau").split()
    texts = {
        "bank": spoken("bank"),
        "tax": spoken("tax"),
        "reordered": " ".join(reversed(right)),
        "eleven": " ".join(right[:11]),
        "thirteen": " ".join([*right, right[0]]),
        "one wrong": " ".join([*right[:6], "zebra", *right[7:]]),
    }
    assert code_of(lambda: book.verify("bureau", texts.get(heard, heard))) == "WORDS_DIFFER"
    assert book.get("bureau").state is PeerState.UNVERIFIED


def test_a_member_whose_key_changes_is_refused_until_its_new_words_were_read(book: PeerBook) -> None:
    book.verify("bureau", spoken("bureau"))
    book.refresh(told(bureau="new"), "bank")
    assert book.get("bureau").state is PeerState.CHANGED
    assert code_of(lambda: book.pinned("bureau")) == "PEER_CHANGED"
    assert code_of(lambda: book.check("bureau", identity("bureau"))) == "PEER_CHANGED"
    assert code_of(lambda: book.check("bureau", identity("new"))) == "PEER_CHANGED"
    assert code_of(lambda: book.verify("bureau", spoken("new"))) == "PEER_CHANGED"  # never by the way
    assert code_of(lambda: book.verify("bureau", spoken("bureau"), replace=True)) == "WORDS_DIFFER"
    assert book.verify("bureau", spoken("new"), replace=True).state is PeerState.VERIFIED
    assert book.pinned("bureau").public_bytes_raw().hex() == identity("new")


def test_a_key_that_changes_back_is_the_one_that_was_compared(book: PeerBook) -> None:
    book.verify("bureau", spoken("bureau"))
    book.refresh(told(bureau="new"), "bank")
    book.refresh(told(), "bank")
    assert book.pinned("bureau").public_bytes_raw().hex() == identity("bureau")


def test_the_labs_own_key_is_pinned_too(book: PeerBook) -> None:
    book.refresh(told(coordinator="new"), "bank")
    assert code_of(lambda: book.pinned(COORDINATOR)) == "PEER_CHANGED"


def test_a_member_that_the_lab_no_longer_tells_of_stays_as_it_was(book: PeerBook) -> None:
    book.verify("tax", spoken("tax"))
    answer = told()
    answer["members"] = answer["members"][:2]
    book.refresh(answer, "bank")
    assert book.pinned("tax").public_bytes_raw().hex() == identity("tax")


def test_a_revoked_member_is_shown_as_such(book: PeerBook) -> None:
    answer = told()
    answer["members"][1]["state"] = "revoked"
    book.refresh(answer, "bank")
    assert book.get("bureau").enrolment == "revoked"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"members": 3, "coordinator": {}},
        {"members": [], "coordinator": {}},
        {"members": ["bank"], "coordinator": {"identity": identity("new")}},
        {"members": [{"name": "Bank", "identity": identity("bank"), "state": "active"}]},
        {"members": [{"name": "coordinator", "identity": identity("bank"), "state": "active"}]},
        {"members": [{"name": "bank", "identity": identity("bank").upper(), "state": "active"}]},
        {"members": [{"name": "bank", "identity": "00", "state": "active"}]},
        {"members": [{"name": "bank", "identity": identity("bank"), "state": "other"}]},
        {"members": [{"name": "x", "identity": identity("bank"), "state": "active"}] * 2},
        {"members": [{"name": f"x{i}", "identity": identity("bank"), "state": "active"} for i in range(1001)]},
    ],
    ids=range(11),
)
def test_an_answer_that_is_not_of_the_agreed_form_changes_nothing(book: PeerBook, wrong: dict[str, Any]) -> None:
    before = book.all()
    answer = {"coordinator": {"identity": identity(COORDINATOR)}} | wrong
    assert code_of(lambda: book.refresh(answer, "bank")) == "LAB_ANSWER_INVALID"
    assert book.all() == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["members", "coordinator", "name", "identity", "state"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["members", "coordinator"]), json_values, max_size=2))
def test_whatever_the_lab_answers_is_taken_or_refused_with_a_code(book: PeerBook, answer: dict[str, Any]) -> None:
    before, refused = book.all(), ""
    try:
        book.refresh(answer, "bank")
    except ConcordatError as error:
        refused = error.code
    assert refused in ("", "LAB_ANSWER_INVALID")
    assert not refused or book.all() == before
