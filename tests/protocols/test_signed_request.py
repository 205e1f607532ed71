"""Signed requests: what is covered, when it counts, and that it counts once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import ConcordatError, LocalProtocolError
from protocols.signed_request import CLOCK_SKEW_S, MAX_TARGET, sign_request, verify_request

NOW = 1_800_000_000
NONCE = bytes(range(16))
KEYS = {
    "bank": Ed25519PrivateKey.from_private_bytes(b"\1" * 32),
    "tax": Ed25519PrivateKey.from_private_bytes(b"\2" * 32),
}
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signed_request.json").read_text(encoding="utf-8"))


class Nonces:
    def __init__(self) -> None:
        self.spent: dict[tuple[str, str], int] = {}

    def spend(self, name: str, nonce: str, expires: int) -> bool:
        new = (name, nonce) not in self.spent
        self.spent[name, nonce] = expires
        return new


def key_of(name: str) -> Ed25519PublicKey | None:
    return KEYS[name].public_key() if name in KEYS else None


def signed(
    name: str = "bank", method: str = "POST", target: str = "/v1/jobs?after=3", body: bytes = b"{}", now: int = NOW
) -> str:
    return sign_request(KEYS[name], name, method, target, body, now, NONCE)


def verified(
    header: str, method: str = "POST", target: str = "/v1/jobs?after=3", body: bytes = b"{}", now: int = NOW
) -> str:
    return verify_request(header, method, target, body, now, key_of, Nonces())


def code_of(header: str, **request: object) -> str:
    with pytest.raises(ConcordatError) as caught:
        verified(header, **request)  # type: ignore[arg-type]
    return caught.value.code


def test_a_request_as_it_was_signed_gives_the_name_of_its_sender() -> None:
    assert verified(signed()) == "bank"
    assert verified(signed("tax")) == "tax"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["comment"])
def test_the_known_answers_hold(vector: dict[str, str | int]) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(str(vector["private_key"])))
    body, nonce = bytes.fromhex(str(vector["body"])), bytes.fromhex(str(vector["nonce"]))
    name, method, target, time = (vector[field] for field in ("name", "method", "target", "time"))
    header = sign_request(key, str(name), str(method), str(target), body, int(time), nonce)
    assert header == vector["header"]
    key.public_key().verify(bytes.fromhex(header[-128:]), bytes.fromhex(str(vector["signed_bytes"])))


@pytest.mark.parametrize(
    "change",
    [{"method": "PUT"}, {"target": "/v1/jobs?after=4"}, {"target": "/v1/jobs"}, {"body": b"{ }"}, {"body": b""}],
)
def test_another_method_target_or_body_is_refused(change: dict[str, object]) -> None:
    assert code_of(signed(), **change) == "SIGNATURE_INVALID"


def test_another_name_time_or_nonce_in_the_header_is_refused() -> None:
    header = signed()
    assert code_of(header.replace("name=bank", "name=tax")) == "SIGNATURE_INVALID"
    assert code_of(header.replace(f"time={NOW}", f"time={NOW + 1}")) == "SIGNATURE_INVALID"
    assert code_of(header.replace("nonce=00", "nonce=01")) == "SIGNATURE_INVALID"


def test_who_cannot_sign_does_not_learn_which_names_are_members() -> None:
    answers = []
    for name in ("stranger", "tax"):
        with pytest.raises(ConcordatError) as caught:
            verified(signed().replace("name=bank", f"name={name}"))
        answers.append((type(caught.value), caught.value.code, caught.value.message, caught.value.remedy))
    assert answers[0] == answers[1]
    assert answers[0][1] == "SIGNATURE_INVALID"


def test_the_server_itself_can_tell_an_unknown_name_from_a_wrong_signature() -> None:
    for name, cause in (("stranger", "MEMBER_UNKNOWN"), ("tax", "")):
        with pytest.raises(ConcordatError) as caught:
            verified(signed().replace("name=bank", f"name={name}"))
        assert getattr(caught.value.__cause__, "code", "") == cause


def test_a_signature_by_the_key_that_stands_in_for_an_unknown_name_counts_for_nobody() -> None:
    key = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    header = sign_request(key, "stranger", "POST", "/v1/jobs?after=3", b"{}", NOW, NONCE)
    assert code_of(header) == "SIGNATURE_INVALID"


def test_five_minutes_of_skew_are_allowed_and_not_a_second_more() -> None:
    for skew in (-CLOCK_SKEW_S, CLOCK_SKEW_S):
        assert verified(signed(), now=NOW + skew) == "bank"
    for skew in (-CLOCK_SKEW_S - 1, CLOCK_SKEW_S + 1):
        assert code_of(signed(), now=NOW + skew) == "CLOCK_SKEW"


def test_the_second_time_is_a_replay_and_the_nonce_is_kept_as_long_as_the_request_is_fresh() -> None:
    nonces, header = Nonces(), signed()
    arguments = (header, "POST", "/v1/jobs?after=3", b"{}")
    verify_request(*arguments, NOW, key_of, nonces)
    with pytest.raises(ConcordatError) as caught:
        verify_request(*arguments, NOW + CLOCK_SKEW_S, key_of, nonces)
    assert caught.value.code == "REQUEST_REPLAYED"
    assert nonces.spent[("bank", NONCE.hex())] == NOW + CLOCK_SKEW_S


def test_two_members_may_draw_the_same_nonce() -> None:
    nonces = Nonces()
    for name in ("bank", "tax"):
        assert verify_request(signed(name), "POST", "/v1/jobs?after=3", b"{}", NOW, key_of, nonces) == name


def test_a_request_that_is_refused_spends_no_nonce() -> None:
    nonces = Nonces()
    for body, now in ((b"other", NOW), (b"{}", NOW + 10_000)):
        with pytest.raises(ConcordatError):
            verify_request(signed(), "POST", "/v1/jobs?after=3", body, now, key_of, nonces)
    assert not nonces.spent


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_header_altered_in_one_place_never_counts(data: st.DataObject) -> None:
    header = signed()
    place = data.draw(st.integers(0, len(header)))
    kind = data.draw(st.sampled_from(["replace", "insert", "delete", "repeat"]))
    character = data.draw(st.characters())
    after = {
        "replace": character + header[place + 1 :],
        "insert": character + header[place:],
        "delete": header[place + 1 :],
    }
    altered = header[:place] + (after[kind] if kind != "repeat" else header[place:] * 2)
    if altered != header:
        assert code_of(altered) == "SIGNATURE_INVALID"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_any_text_as_a_header_ends_in_a_code(text: str) -> None:
    assert code_of(text) == "SIGNATURE_INVALID"


@settings(max_examples=50, deadline=None)
@given(
    body=st.binary(max_size=200),
    target=st.text("abc/?&=%0", max_size=40),
    now=st.integers(0, 10**11),
    nonce=st.binary(min_size=16, max_size=16),
)
def test_whatever_is_signed_verifies(body: bytes, target: str, now: int, nonce: bytes) -> None:
    header = sign_request(KEYS["bank"], "bank", "GET", "/" + target, body, now, nonce)
    assert verify_request(header, "GET", "/" + target, body, now, key_of, Nonces()) == "bank"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(("method", method) for method in ("get", "GET\n", "", "G" * 17)),
        *(("target", target) for target in ("v1", "/a b", "/a\n", "/é", "/" + "a" * MAX_TARGET)),
        *(("name", name) for name in ("Bank", "bank\n", "", "b" * 33)),
        *(("now", now) for now in (-1, 10**12)),
        *(("nonce", nonce) for nonce in (b"short", bytes(17))),
    ],
)
def test_parts_without_a_form_to_sign_are_refused_where_they_arise(part: str, value: object) -> None:
    parts: dict[str, object] = {"name": "bank", "method": "GET", "target": "/", "body": b"", "now": NOW, "nonce": NONCE}
    with pytest.raises(LocalProtocolError) as caught:
        sign_request(KEYS["bank"], **(parts | {part: value}))  # type: ignore[arg-type]
    assert caught.value.code == "REQUEST_INVALID"
