"""Masked scoring: the label owner gets exact sums and nothing more; masks cancel, and are used once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.disclosure import Ledger
from protocols.errors import LocalProtocolError
from protocols.fixed_point import IntArray
from protocols.messages import Bounds
from protocols.pair_masks import PairMasks, PairSeed
from protocols.scoring.dimensions import DimensionPoints, grouped
from protocols.scoring.label_owner import ScoringOwner, Totals
from protocols.scoring.messages import SCORE_STEPS, VALIDATE_STEPS, MaskedLogitParts, MaskedPoints, OpenDimensions
from protocols.scoring.provider import ScoringProvider
from protocols.scoring.run import run
from protocols.session import Session
from protocols.spent import MemorySpentIndices
from tests.simulator import (
    PROVIDERS,
    Change,
    PartyFailedError,
    SimulatedNetwork,
    changing,
    deviating,
    parties_of,
    play,
    seeded,
)

BOUNDS = Bounds(rows=5000, set_size=5000, features=10, key_bytes=72)


def drawn(providers: int, rows: int, seed: int) -> dict[str, IntArray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-4000, 4000, rows) for name in parties_of(providers).all}


def score(
    points: Mapping[str, IntArray],
    logits: Mapping[str, IntArray] | None = None,
    change: Mapping[str, Change] | None = None,
    seed: object = 0,
    dimensions: Mapping[str, DimensionPoints] | None = None,
) -> tuple[Totals, SimulatedNetwork, dict[str, Ledger]]:
    parties = parties_of(len(points) - 1)
    entropy, network = seeded(seed), SimulatedNetwork()
    own = None if logits is None else logits["bank"]
    owner = ScoringOwner(parties, request="r1", points=points["bank"], logits=own, dimensions=dimensions is not None)
    scripts: dict[str, Any] = {"bank": owner.play()}
    for name in parties.providers:
        provider = ScoringProvider(
            name,
            parties,
            request="r1",
            points=points[name],
            entropy=entropy,
            spent=MemorySpentIndices(),
            logits=None if logits is None else logits[name],
            dimensions=None if dimensions is None else dimensions[name],
        )
        scripts[name] = provider.play()
    scripts = {n: deviating(s, (change or {})[n]) if n in (change or {}) else s for n, s in scripts.items()}
    steps = SCORE_STEPS if logits is None else (*SCORE_STEPS, VALIDATE_STEPS[len(SCORE_STEPS)])
    ledgers = {name: Ledger(name) for name in parties.all}
    sessions = {name: Session(name, parties, "score", steps, BOUNDS, ledgers[name]) for name in parties.all}
    return play(scripts, sessions, network)["bank"], network, ledgers


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(0, 40), st.integers(0, 1000))
def test_scores_are_the_sums_of_the_parties_points(providers: int, rows: int, seed: int) -> None:
    points = drawn(providers, rows, seed)
    totals = run(parties_of(providers), points, seeded(seed), BOUNDS)
    assert totals.points.tolist() == np.sum(list(points.values()), axis=0).tolist()
    assert totals.logits is None


@pytest.mark.parametrize("providers", [1, 2, 3])
def test_logits_of_a_validation_are_exact_sums_too(providers: int) -> None:
    points, logits = drawn(providers, 50, 1), drawn(providers, 50, 2)
    totals, _, _ = score(points, logits)
    assert totals.logits is not None
    assert totals.points.tolist() == np.sum(list(points.values()), axis=0).tolist()
    assert totals.logits.tolist() == np.sum(list(logits.values()), axis=0).tolist()


@pytest.mark.parametrize("providers", [2, 3])
def test_masked_points_are_uniform_and_share_nothing_with_another_request(providers: int) -> None:
    points = {name: np.zeros(4000, dtype=np.int64) for name in parties_of(providers).all}
    seen = []
    for seed in range(2):
        _, network, _ = score(points, seed=seed)
        for frame in network.sent(MaskedPoints):
            values = np.frombuffer(frame.message(MaskedPoints).parts, dtype="<u4")
            for counts in (np.bincount(values >> 28, minlength=16), np.bincount(values & 15, minlength=16)):
                assert ((counts - 250) ** 2 / 250).sum() < 50  # 15 degrees: p = 1e-5
            seen += values.tolist()
    assert len(set(seen)) > 0.999 * len(seen)


def test_points_and_logits_of_one_request_have_different_masks() -> None:
    zeros = {name: np.zeros(200, dtype=np.int64) for name in parties_of(2).all}
    _, network, _ = score(zeros, zeros)
    points, logits = (network.sent(kind, "tax")[0].message(kind).parts for kind in (MaskedPoints, MaskedLogitParts))
    assert not set(np.frombuffer(points, dtype="<u4").tolist()) & set(np.frombuffer(logits, dtype="<u4").tolist())


def test_with_one_provider_no_mask_is_pretended_and_the_ledger_says_so() -> None:
    _, network, ledgers = score(drawn(1, 30, 3))
    assert not network.sent(PairSeed)
    lines = {(line.what, line.nature, line.numbers) for line in ledgers["bank"].lines(to="bank")}
    assert lines == {
        ("partial points of the provider's features, per row", "opened", 30),
        ("score per row", "opened", 30),
    }
    _, _, ledgers = score(drawn(2, 30, 3))
    assert {line.nature for line in ledgers["bank"].lines(to="bank", source="tax")} == {"masked"}


BAD_PARTS: dict[str, Change] = {
    "no mask claimed": changing(MaskedPoints, lambda m: replace(m, masked=False)),
    "another request": changing(MaskedPoints, lambda m: replace(m, request="r2")),
    "a row less": changing(MaskedPoints, lambda m: replace(m, parts=m.parts[:-4])),
    "half a number more": changing(MaskedPoints, lambda m: replace(m, parts=m.parts + b"\0\0")),
    "a seed too short": changing(PairSeed, lambda m: PairSeed(m.seed[:-1])),
}


@pytest.mark.parametrize("name", list(BAD_PARTS))
def test_bad_parts_of_a_provider_are_refused(name: str) -> None:
    with pytest.raises(PartyFailedError) as caught:
        score(drawn(2, 20, 4), change={"bureau": BAD_PARTS[name]})
    assert caught.value.code == "CHECK_FAILED"
    assert caught.value.party in ("bank", "tax")


def test_a_partial_score_too_large_for_the_sum_is_refused_before_it_is_sent() -> None:
    points = drawn(1, 5, 5) | {"bureau": np.full(5, 1 << 24)}
    with pytest.raises(PartyFailedError) as caught:
        score(points)
    assert (caught.value.party, caught.value.code) == ("bureau", "SCORE_RANGE")


# -- points by dimension -----------------------------------------------------------------------------------------------


def by_dimension(points: Mapping[str, IntArray]) -> dict[str, DimensionPoints]:
    """Each provider's points as those of two dimensions."""
    rng = np.random.default_rng(4)
    parts = {}
    for name in parties_of(len(points) - 1).providers:
        first = rng.integers(-300, 300, len(points[name]))
        table = np.column_stack([first, points[name] - first])
        parts[name] = DimensionPoints((name, "历史"), table, np.array([300, -7]))
    return parts


@pytest.mark.parametrize("providers", [1, 3])
def test_opened_dimensions_arrive_as_they_are_and_are_in_the_ledger(providers: int) -> None:
    points = drawn(providers, 30, 7)
    given_parts = by_dimension(points)
    totals, _, ledgers = score(points, points, dimensions=given_parts)
    assert totals.points.tolist() == np.sum(list(points.values()), axis=0).tolist()
    assert totals.logits is not None
    for name, part in given_parts.items():
        opened = totals.dimensions[name]
        assert opened.names == part.names
        assert opened.points.tolist() == part.points.tolist()
        assert opened.references.tolist() == [300, -7]
        lines = {line.what: (line.nature, line.numbers) for line in ledgers["bank"].lines(to="bank", source=name)}
        assert lines["opened dimensions: points of the provider by dimension, per row"] == ("opened", 60)
        assert lines["opened dimensions: names and reference points of the provider's dimensions"] == ("opened", 4)


def test_nothing_is_opened_by_dimension_unless_it_is_asked_for() -> None:
    totals, network, _ = score(drawn(2, 30, 7))
    assert not network.sent(OpenDimensions)
    assert totals.dimensions == {}


BAD_DIMENSIONS: dict[str, Change] = {
    "other points than those of the sum": changing(
        OpenDimensions, lambda m: replace(m, points=bytes([m.points[0] ^ 1]) + m.points[1:])
    ),
    "another request": changing(OpenDimensions, lambda m: replace(m, request="r2")),
    "a row less": changing(OpenDimensions, lambda m: replace(m, points=m.points[:-8])),
    "one name twice": changing(OpenDimensions, lambda m: replace(m, names=("a", "a"))),
    "no name": changing(OpenDimensions, lambda m: replace(m, names=("a", ""))),
    "a line break in a name": changing(OpenDimensions, lambda m: replace(m, names=("a", "b\nc"))),
    "a reference less": changing(OpenDimensions, lambda m: replace(m, references=m.references[:4])),
    "too many": changing(
        OpenDimensions, lambda m: replace(m, names=tuple(str(i) for i in range(60)), points=b"", references=bytes(240))
    ),
}


@pytest.mark.parametrize("name", list(BAD_DIMENSIONS))
def test_bad_dimensions_of_a_provider_are_refused(name: str) -> None:
    points = drawn(2, 20, 8)
    with pytest.raises(PartyFailedError) as caught:
        score(points, change={"tax": BAD_DIMENSIONS[name]}, dimensions=by_dimension(points))
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")


def test_columns_of_one_dimension_add_up_in_the_order_of_their_first() -> None:
    names, sums = grouped(np.arange(12).reshape(3, 4), ("b", "a", "b", "c"))
    assert names == ("b", "a", "c")
    assert sums.tolist() == [[2, 1, 3], [10, 5, 7], [18, 9, 11]]


# -- pair masks --------------------------------------------------------------------------------------------------------


def masks_of(count: int, seed: int) -> list[PairMasks]:
    members = ("bank", *PROVIDERS)[:count]
    entropy = seeded(seed)
    shared = {frozenset((a, b)): entropy(32) for i, a in enumerate(members) for b in members[:i]}
    return [
        PairMasks(me, members, {o: shared[frozenset((me, o))] for o in members if o != me}, MemorySpentIndices())
        for me in members
    ]


@given(
    st.integers(2, 4),
    st.integers(0, 1000),
    st.text(max_size=8),
    st.integers(0, 1 << 40),
    st.integers(1, 6),
    st.sampled_from([32, 128]),
)
def test_pair_masks_cancel_in_the_sum_of_all_members(
    members: int, seed: int, purpose: str, index: int, count: int, bits: int
) -> None:
    drawn_masks = [masks.draw(purpose, index, count, bits) for masks in masks_of(members, seed)]
    assert [sum(column) % (1 << bits) for column in zip(*drawn_masks, strict=True)] == [0] * count
    if bits == 128:
        for absent in range(members):
            partial = [sum(column) - column[absent] for column in zip(*drawn_masks, strict=True)]
            assert all(value % (1 << bits) for value in partial)


def test_masks_differ_by_purpose_index_and_width() -> None:
    (first, *_) = masks_of(3, 9)
    keys = [("range", 0, 128), ("range", 1, 128), ("products", 0, 128), ("trace", 0, 128)]
    assert len({tuple(first.draw(purpose, index, 2, bits)) for purpose, index, bits in keys}) == len(keys)


def test_a_pair_mask_is_drawn_once() -> None:
    (first, *_) = masks_of(2, 10)
    first.draw("points", 0, 3, 32)
    with pytest.raises(LocalProtocolError, match="INDEX_SPENT"):
        first.draw("points", 0, 3, 32)
