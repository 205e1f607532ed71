import math
import random as stdlib_random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.binning import budget
from protocols.binning.budget import (
    Candidate,
    Choice,
    assess,
    check_gradient_budget,
    check_rows,
    choose_features,
    entropy_bits,
    feature_limit,
    gradient_budget,
    known_sums,
    label_cost,
    least_bin_rows,
)
from protocols.binning.rules import MergeRule
from protocols.binning.weight_of_evidence import EmptyBinError
from protocols.errors import DataError, LabelLeakageError, RemoteProtocolError, SmallIntersectionError
from protocols.moments.pairs import check_column_budget


def test_entropy_is_one_bit_at_a_half_and_none_at_the_ends():
    assert [entropy_bits(p) for p in (0, 0.5, 1)] == [0, 1, 0]
    assert entropy_bits(0.1) == pytest.approx(entropy_bits(0.9))
    with pytest.raises(DataError):
        entropy_bits(1.1)


def test_label_budget_and_cost_are_those_of_the_specification():
    assert budget.label_budget(21_000, 4620) == pytest.approx(21_000 * 0.76017 / 8, rel=1e-4)
    assert label_cost([8, 2], 10) == 10.5


def test_gradients_are_a_quarter_of_rows_by_the_largest_party():
    assert gradient_budget(4250, [12, 16, 5]) == 66
    assert check_gradient_budget(4250, [12, 16, 5]) == 66
    with pytest.raises(SmallIntersectionError) as caught:
        check_gradient_budget(1000, [17, 3])
    assert caught.value.code == "TOO_FEW_ROWS"


@pytest.mark.parametrize(("n", "features", "sound"), [(999, 1, False), (1000, 50, True), (1000, 51, False)])
def test_a_thousand_rows_and_twenty_a_feature_are_needed(n: int, features: int, sound: bool):
    if sound:
        check_rows(n, features)
    else:
        with pytest.raises(SmallIntersectionError, match="TOO_FEW_ROWS"):
            check_rows(n, features)


@given(st.integers(1000, 200_000), st.integers(1, 300))
def test_least_bin_rows_is_the_first_that_the_feature_limit_allows(n: int, features: int):
    least = least_bin_rows(n, features)
    if least is None:
        assert feature_limit(n, n // 2) < features
    else:
        assert feature_limit(n, least) >= features
        assert least == 1 or feature_limit(n, least - 1) < features


def test_a_feature_is_assessed_by_its_merged_bins():
    candidate = assess("f1", "bureau", np.array([100, 100, 100, 100]), np.array([10, 11, 40, 41]), 4)
    assert candidate.merge_map == (0, 0, 1, 1)
    assert (candidate.bin_rows, candidate.bin_bads) == ((200, 200), (21, 81))
    assert candidate.iv_units == round(1000 * candidate.iv) > 0
    with pytest.raises(EmptyBinError):
        assess("f1", "bureau", [100, 100], [0, 0], 2)


N, BADS = 4000, 400


def made(alias: str, party: str, iv: float, bin_rows: tuple[int, ...]) -> Candidate:
    """A candidate with this IV and these rows a bin (they add up to N); pre-bins are its bins."""
    bin_bads = [rows // 10 for rows in bin_rows]
    bin_bads[0] += BADS - sum(bin_bads)
    return Candidate(alias, party, tuple(range(len(bin_rows))), bin_rows, tuple(bin_bads), iv, round(1000 * iv))


def coarser(candidate: Candidate, minimum: int) -> Candidate:
    """Merge small bins into their left neighbour; IV falls with the bins."""
    rows, bads = list(candidate.bin_rows), list(candidate.bin_bads)
    while len(rows) > 1 and min(rows) < minimum:
        small = rows.index(min(rows))
        into = max(small - 1, 0)
        rows[into : into + 2] = [sum(rows[into : into + 2])]
        bads[into : into + 2] = [sum(bads[into : into + 2])]
    iv = candidate.iv * (len(rows) - 1) / (len(candidate.bin_rows) - 1)
    return replace(candidate, bin_rows=tuple(rows), bin_bads=tuple(bads), iv=iv, iv_units=round(1000 * iv))


def choose(
    candidates: list[Candidate],
    label_budget: float = 1000.0,
    minimum_iv: float = 0.02,
    own_sums: Callable[[int], int] = lambda features: features,
) -> Choice:
    return choose_features(
        candidates,
        n=N,
        bads=BADS,
        minimum_iv=minimum_iv,
        label_budget=label_budget,
        own_party="bank",
        remerge=coarser,
        own_sums=own_sums,
    )


def three(party: str, iv: float = 0.5, bin_rows: tuple[int, ...] = (2000, 2000)) -> list[Candidate]:
    return [made(f"{party}{index}", party, iv + index / 100, bin_rows) for index in range(3)]


def test_features_below_the_iv_cut_are_dropped_but_three_stay_of_each_party():
    weak = [made(f"w{i}", "bureau", 0.001 * i, (2000, 2000)) for i in range(5)]
    choice = choose([*three("bank"), made("bank3", "bank", 0.01, (2000, 2000)), *weak])
    assert choice.dropped_by_reason == {"bank3": "iv", "w0": "iv", "w1": "iv"}
    assert choice.label_cost == 3 + 2 / 4


def test_a_party_with_fewer_than_three_features_of_two_bins_is_refused():
    flat = replace(made("flat", "tax", 0.0, (4000,)), iv=0.0)
    with pytest.raises(DataError) as caught:
        choose([*three("bank"), *three("tax")[:2], flat])
    assert caught.value.code == "TOO_FEW_FEATURES"


def test_the_label_budget_keeps_the_features_of_highest_iv():
    bureau = [made(f"h{i}", "bureau", 0.1 * (i + 1), (1000, 1000, 1000, 1000)) for i in range(6)]
    own = [*three("bank", 0.01), made("bank3", "bank", 0.001, (2000, 2000))]
    choice = choose([*own, *bureau], label_budget=12.5, minimum_iv=0.0)
    assert choice.dropped_by_reason == {"h0": "budget", "h1": "budget"}
    assert (choice.label_cost, choice.budget) == (12.5, 12.5)
    assert [feature.alias for feature in choice.kept if feature.party == "bank"] == [feature.alias for feature in own]


def test_a_label_budget_below_three_features_a_provider_is_refused():
    with pytest.raises(LabelLeakageError) as caught:
        choose([*three("bank"), *three("bureau"), *three("tax")], label_budget=5.9)
    assert caught.value.code == "LABEL_BUDGET"
    assert choose([*three("bank"), *three("bureau"), *three("tax")], label_budget=6).label_cost == 6


def test_the_own_features_of_the_label_owner_cost_nothing():
    own = [made(f"b{i}", "bank", 0.5, (500,) * 8) for i in range(20)]
    assert choose([*own, *three("bureau")], label_budget=3).label_cost == 3


def test_small_bins_beside_many_features_are_merged_further():
    crowd = [made(f"b{i:02d}", "bank", 0.3, (2000, 2000)) for i in range(45)]
    small = [made(f"h{i}", "bureau", 0.3, (1500, 1500, 940, 60)) for i in range(4)]
    assert feature_limit(N, 60) < 45 <= feature_limit(N, 200)
    choice = choose([*crowd, *small])
    assert choice.remerged_minimum_rows == least_bin_rows(N, 45)
    assert choice.dropped_by_reason == {}
    assert {feature.bin_rows for feature in choice.kept if feature.party == "bureau"} == {(1500, 1500, 1000)}


def test_merging_again_into_more_bins_still_fits_the_label_budget():
    crowd = [made(f"b{i:02d}", "bank", 0.3, (2000, 2000)) for i in range(45)]
    offered = [made(f"h{i}", "bureau", 0.3 + i / 100, (3940, 60)) for i in range(6)]
    choice = choose_features(
        [*crowd, *offered],
        n=N,
        bads=BADS,
        minimum_iv=0.02,
        label_budget=11,
        own_party="bank",
        remerge=lambda candidate, minimum: made(candidate.alias, candidate.party, candidate.iv, (2000, 1000, 1000)),
    )
    assert choice.label_cost <= 11
    assert choice.dropped_by_reason == {"h0": "budget"}


def test_a_feature_that_merging_again_leaves_below_the_iv_cut_is_dropped():
    crowd = [made(f"b{i:02d}", "bank", 0.3, (2000, 2000)) for i in range(45)]
    fading = made("fading", "bureau", 0.021, (2000, 1940, 60))
    choice = choose([*crowd, *three("bureau"), fading])
    assert choice.dropped_by_reason == {"fading": "small bins"}


def test_bins_are_merged_to_five_percent_of_rows_and_no_further():
    crowd = [made(f"b{i:03d}", "bank", 0.3, (2000, 2000)) for i in range(100)]
    bins = [made("h0", "bureau", 0.9, (2000, 1800, 200)), made("h1", "bureau", 0.9, (2000, 1801, 199))]
    choice = choose([*crowd, *bins, made("h2", "bureau", 0.9, (2000, 2000))])
    assert [feature.bin_rows for feature in choice.kept if feature.party == "bureau"] == [
        (2000, 1800, 200),
        (2000, 2000),
        (2000, 2000),
    ]
    assert choice.remerged_minimum_rows == 200
    assert list(choice.dropped_by_reason.values()) == ["small bins"] * (100 - feature_limit(N, 200))


def test_a_feature_that_cannot_be_merged_further_is_dropped_for_its_small_bins():
    crowd = [made(f"b{i:02d}", "bank", 0.3, (2000, 2000)) for i in range(45)]
    lopsided = made("lopsided", "bureau", 0.9, (3940, 60))
    choice = choose([*crowd, *three("bureau"), lopsided])
    assert choice.dropped_by_reason == {"lopsided": "small bins"}


def test_where_merging_is_not_enough_the_crowded_party_drops_its_lowest_iv():
    crowd = [made(f"b{i:02d}", "bank", 0.3 + i / 1000, (2000, 2000)) for i in range(45)]
    lopsided = [made(f"h{i}", "bureau", 0.9, (3940, 60)) for i in range(3)]
    choice = choose([*crowd, *lopsided])
    limit = feature_limit(N, 60)
    assert choice.dropped_by_reason == {f"b{i:02d}": "small bins" for i in range(45 - limit)}


def test_where_exact_moments_open_the_gate_makes_room_for_them() -> None:
    """Bins are merged first, then features of the label owner go, until the guard of the moments holds."""
    crowd = [made(f"b{i:02d}", "bank", 0.3 + i / 1000, (2000, 2000)) for i in range(20)]
    small = [made(f"h{i}", "bureau", 0.3, (1500, 1500, 940, 60)) for i in range(4)]
    assert choose([*crowd, *small]).remerged_minimum_rows == 0
    for search in (False, True):
        choice = choose([*crowd, *small], own_sums=partial(known_sums, search=search))
        assert choice.remerged_minimum_rows == least_bin_rows(N, known_sums(20, search=search))
        assert not choice.dropped_by_reason
        check_column_budget(N, 20, min(min(c.bin_rows) for c in choice.kept), search=search)
    lopsided = [made(f"h{i}", "bureau", 0.9, (3940, 60)) for i in range(3)]
    choice = choose([*crowd, *lopsided], own_sums=partial(known_sums, search=True))
    kept = sum(candidate.party == "bank" for candidate in choice.kept)
    assert choice.dropped_by_reason == {f"b{i:02d}": "small bins" for i in range(20 - kept)}
    check_column_budget(N, kept, 60, search=True)
    with pytest.raises(SmallIntersectionError, match="TOO_FEW_ROWS"):
        check_column_budget(N, kept + 1, 60, search=True)


def test_three_features_beside_a_bin_of_one_row_are_refused():
    lopsided = [made(f"h{i}", "bureau", 0.9, (3999, 1)) for i in range(3)]
    assert feature_limit(N, 1) < 3
    with pytest.raises(SmallIntersectionError) as caught:
        choose([*three("bank"), *lopsided])
    assert caught.value.code == "TOO_FEW_ROWS"


def test_an_alias_used_twice_and_rows_that_are_missing_fail_the_check():
    with pytest.raises(RemoteProtocolError):
        choose([*three("bank"), *three("bank")])
    with pytest.raises(RemoteProtocolError):
        choose([*three("bank"), made("h", "bureau", 0.3, (2000, 1999))])


@st.composite
def offers(draw: st.DrawFn) -> list[Candidate]:
    """3 to 40 features of each of 2 or 3 parties, some with one bin, some with tiny ones."""
    found = []
    for party in ("bank", "bureau", "tax")[: draw(st.integers(2, 3))]:
        for index in range(draw(st.integers(3, 40))):
            cuts = draw(st.lists(st.integers(1, 79), max_size=6, unique=True))
            ends = [0, *sorted(50 * cut for cut in cuts), N]
            bin_rows = tuple(right - left for left, right in pairwise(ends))
            iv = 0.0 if len(bin_rows) == 1 else draw(st.sampled_from([0.001, 0.019, 0.02, 0.3, 0.7]))
            found.append(made(f"{party}-{index}", party, iv, bin_rows))
    return found


def guarded(candidates: list[Candidate], label_budget: float) -> Choice | str:
    try:
        return choose(candidates, label_budget)
    except (DataError, LabelLeakageError, SmallIntersectionError) as error:
        return error.code


@settings(deadline=None, max_examples=150)
@given(offers(), st.floats(0, 300), st.integers(0, 2**32))
def test_whatever_is_offered_the_choice_keeps_every_bound_and_ignores_the_order(
    candidates: list[Candidate], label_budget: float, seed: int
):
    choice = guarded(candidates, label_budget)
    shuffled = candidates.copy()
    stdlib_random.Random(seed).shuffle(shuffled)
    assert guarded(shuffled, label_budget) == choice
    parties = {candidate.party for candidate in candidates}
    if isinstance(choice, str):
        usable = [sum(c.party == p and len(c.bin_rows) > 1 for c in candidates) for p in parties]
        assert choice != "TOO_FEW_FEATURES" or min(usable) < 3
        return
    kept = choice.kept
    assert sorted([*(feature.alias for feature in kept), *choice.dropped_by_reason]) == sorted(
        candidate.alias for candidate in candidates
    )
    bins = [len(feature.bin_rows) for feature in kept if feature.party != "bank"]
    offered = sum(candidate.party != "bank" for candidate in candidates)
    assert choice.label_cost == label_cost(bins, offered - len(bins)) <= label_budget
    assert choice.remerged_minimum_rows <= math.floor(0.05 * N)
    for party in parties:
        own = [feature for feature in kept if feature.party == party]
        smallest = min(min(feature.bin_rows) for feature in kept if feature.party != party)
        assert 3 <= len(own) <= feature_limit(N, smallest)
        assert all(len(feature.bin_rows) > 1 for feature in own)
        assert len(own) == 3 or min(feature.iv for feature in own) >= 0.02


@settings(deadline=None, max_examples=60)
@given(offers(), st.floats(20, 150))
def test_nothing_is_dropped_for_the_budget_above_a_feature_that_is_kept(
    candidates: list[Candidate], label_budget: float
):
    choice = guarded(candidates, label_budget)
    if isinstance(choice, str) or choice.remerged_minimum_rows:
        return
    iv = {candidate.alias: candidate.iv for candidate in candidates}
    for alias, reason in choice.dropped_by_reason.items():
        if reason == "budget":
            for party in ("bureau", "tax"):
                own = sorted((feature.iv for feature in choice.kept if feature.party == party), reverse=True)
                assert all(value >= iv[alias] for value in own[3:])


# -- rules of a feature's owner ----------------------------------------------------------------------------------------


def test_a_feature_to_keep_passes_the_iv_cut_and_not_the_label_budget():
    weak = made("weak", "bureau", 0.001, (2000, 2000))
    features = [*three("bank"), *three("bureau"), replace(weak, keep=True)]
    assert "weak" in {feature.alias for feature in choose(features).kept}
    assert choose([*features[:-1], weak]).dropped_by_reason == {"weak": "iv"}
    assert choose(features, label_budget=3.25).dropped_by_reason == {"weak": "budget"}


def test_a_feature_to_keep_stays_beside_the_strongest_of_a_weak_party():
    features = [made(f"w{i}", "bureau", 0.001 * (i + 1), (2000, 2000)) for i in range(5)]
    features[0] = replace(features[0], keep=True)
    kept = {feature.alias for feature in choose([*three("bank"), *features]).kept if feature.party == "bureau"}
    assert kept == {"w0", "w3", "w4"}


@pytest.mark.parametrize(
    ("rule", "infeasible"),
    [
        (MergeRule("optimal", "descending"), True),
        (MergeRule("optimal", "ascending"), False),
        (MergeRule("chimerge", least_rows=1900), True),
        (MergeRule("quantile", least_rows=900), False),
    ],
)
def test_a_rule_that_leaves_one_bin_is_said_to_be_infeasible_and_is_not_relaxed(rule: MergeRule, infeasible: bool):
    candidate = assess("f", "bureau", [900, 900, 900], [50, 150, 300], 3, rule=rule)
    assert candidate.infeasible is infeasible
    assert (len(candidate.bin_rows) == 1) is infeasible


def test_an_infeasible_feature_is_dropped_with_that_reason():
    flat = replace(made("flat", "bureau", 0.0, (4000,)), infeasible=True)
    assert choose([*three("bank"), *three("bureau"), flat]).dropped_by_reason == {"flat": "constraints"}


def test_a_feature_that_no_rule_could_save_is_not_called_infeasible():
    assert not assess("f", "bureau", [900, 900], [4, 3], 2, rule=MergeRule("optimal", "peak")).infeasible
