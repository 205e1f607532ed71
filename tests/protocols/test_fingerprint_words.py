"""Fingerprint words: which words a key has, which texts name a key, and that no two words are easily confused."""

from __future__ import annotations

import hashlib
import string

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.fingerprint_words import matches, word_list, words

KEY = Ed25519PrivateKey.from_private_bytes(b"\1" * 32).public_key()


def test_the_list_never_changes() -> None:
    digest = hashlib.sha256("\n".join(word_list()).encode()).hexdigest()
    assert digest == "6dd1853f21d8260057ab72fe3d537f1fe0ce6622003a2d93b4a5fb4caf2a3bdc"


def test_the_list_has_2048_short_words_of_small_letters_in_order() -> None:
    assert len(set(word_list())) == 2048
    assert list(word_list()) == sorted(word_list())
    assert all(3 <= len(word) <= 9 and set(word) <= set(string.ascii_lowercase) for word in word_list())


def test_one_letter_added_dropped_or_changed_never_gives_another_word_of_the_list() -> None:
    known = set(word_list())
    for word in word_list():
        halves = [(word[:i], word[i:]) for i in range(len(word) + 1)]
        dropped = {head + tail[1:] for head, tail in halves if tail}
        changed = {head + letter + tail[1:] for head, tail in halves if tail for letter in string.ascii_lowercase}
        added = {head + letter + tail for head, tail in halves for letter in string.ascii_lowercase}
        assert (dropped | changed | added) & known == {word}


def test_the_words_of_a_known_key() -> None:
    assert " ".join(words(KEY)) == "crop pickle token kitchen padlock lecture field quebec fuel flute pavilion jungle"


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_the_words_spell_the_first_132_bits_of_the_hash_of_the_key(raw: bytes) -> None:
    spelled = "".join(f"{word_list().index(word):011b}" for word in words(Ed25519PublicKey.from_public_bytes(raw)))
    assert spelled == f"{int(hashlib.sha256(raw).hexdigest(), 16):0256b}"[:132]


@pytest.mark.parametrize("separator", [" ", ", ", ",", "  ", "\n", "\t, "])
def test_capitals_commas_and_spaces_do_not_matter(separator: str) -> None:
    assert matches(f" {separator.join(words(KEY)).upper()}, ", KEY)
    assert matches(separator.join(word.title() for word in words(KEY)), KEY)


def test_eleven_thirteen_swapped_or_joined_words_do_not_match() -> None:
    right = list(words(KEY))
    for wrong in (right[:-1], [*right, right[0]], right[::-1], [right[1], right[0], *right[2:]], ["".join(right)], []):
        assert not matches(" ".join(wrong), KEY)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 11), st.sampled_from(word_list()))
def test_one_wrong_word_does_not_match(place: int, word: str) -> None:
    spoken = list(words(KEY))
    same = spoken[place] == word
    spoken[place] = word
    assert matches(" ".join(spoken), KEY) == same


@given(st.text(max_size=200))
def test_any_other_text_does_not_match(text: str) -> None:
    assert not matches(text, KEY)


def test_an_endless_text_is_not_read() -> None:
    assert not matches(" " * 10_000 + " ".join(words(KEY)), KEY)
