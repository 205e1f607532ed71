"""Binning at the gate: equals plain counts at k = 1, 2, 3; what a provider is told; both sides' checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gmpy2 import mpz

from protocols.binning import provider
from protocols.binning.budget import assess, label_budget
from protocols.binning.label_owner import LabelOwner
from protocols.binning.messages import (
    GateDecision,
    KeptFeature,
    ModelShape,
    PartyFeatures,
    PreBinnedFeature,
    PreBins,
    SelectedFeatures,
)
from protocols.binning.rules import MergeRule, Method, rule_of
from protocols.binning.table import BinnedFeature, BinningTable
from protocols.errors import DataError, SmallIntersectionError
from protocols.messages import Message
from protocols.moments.pairs import check_column_budget
from protocols.paillier import add_plaintext
from protocols.recipe import FeatureRules, Recipe
from tests.reference import pooled
from tests.simulator import KEY_BITS, Job, PartyFailedError, Stages, changing, consortium

WIDTH = 2 * KEY_BITS // 8


def recipe(**selection: float) -> Recipe:
    return Recipe.model_validate({"selection": selection})


def with_tables(job: Job, **selection: float) -> tuple[Stages, dict[str, BinningTable]]:
    stages = Stages(job.stages.data, seed="again", recipe=recipe(**selection))
    return stages, stages.bin(job.rows)


# -- the plaintext twin ------------------------------------------------------------------------------------------------


def test_counts_woe_and_iv_are_exactly_those_of_pooled_data(job: Job) -> None:
    label = job.stages.data.label
    for name in job.parties.all:
        table = job.tables[name]
        assert (table.rows, table.bads) == (len(label), int(label.sum()))
        raw = {f"{name}_{i}": values for i, (values, _, _) in enumerate(job.stages.data.columns[name])}
        for j, feature in enumerate(table.features):
            codes = feature.codes(raw[feature.name])
            assert np.array_equal(codes, table.codes[:, j])
            rows, bads = pooled.counts(codes, label, len(feature.woe))
            assert list(feature.rows) == rows
            assert list(feature.bads) == bads
            assert [w / 10_000 for w in feature.woe] == pooled.woe(rows, bads)
            assert feature.iv / 1_000 == pooled.information_value(rows, bads)
            assert min(bads) >= 5
            assert min(np.subtract(rows, bads)) >= 5
            assert np.abs(table.design[:, j] / 65536 - np.take(feature.woe, codes) / 10_000).max() <= 2.0**-17


def test_the_label_owner_holds_the_same_bins_of_each_provider_under_aliases(job: Job) -> None:
    owner = job.tables["bank"]
    for name in job.parties.providers:
        own = job.tables[name].features
        assert [(f.alias, f.woe, f.iv, f.rows, f.bads) for f in own] == [
            (p.alias, p.woe, p.iv, p.rows, p.bads) for p in owner.peers[name]
        ]
        assert all(feature.name not in repr(owner.peers[name]) for feature in own)
    assert {name: table.shape for name, table in job.tables.items()} == dict.fromkeys(job.parties.all, owner.shape)
    assert owner.shape == {name: len(job.tables[name].features) for name in job.parties.all}


def test_the_digits_of_both_sides_differ_by_the_sum_of_the_owners_masks(job: Job) -> None:
    held = job.rows["bank"]
    ring = held.layout.ring
    assert held.masks is not None
    masks = [ring.to_integers(column, signed=False) for column in held.masks]
    for name in job.parties.providers:
        table = job.tables[name]
        pairs = zip(job.tables["bank"].digits[name].digits, table.digits["bank"].digits, strict=True)
        for j, (at_owner, at_provider) in enumerate(pairs):
            for b in range(len(table.features[j].woe)):
                inside = np.flatnonzero(table.codes[:, j] == b).tolist()
                for t, column in enumerate(masks):
                    expected = sum(column[i] for i in inside) % ring.modulus
                    assert (int(at_owner[b, t]) - int(at_provider[b, t])) % ring.modulus == expected


def test_bins_woe_and_iv_do_not_depend_on_keys_masks_or_aliases(job: Job) -> None:
    _, again = with_tables(job)
    for name in job.parties.all:
        first, second = (
            sorted((f.name, f.merge_map, f.woe, f.iv) for f in tables[name].features) for tables in (job.tables, again)
        )
        assert first == second


@pytest.mark.parametrize("method", ["chimerge", "optimal", "quantile"])
def test_every_method_gives_the_counts_of_pooled_data_and_what_the_gate_gives_on_plaintext(
    method: str, job_of: Callable[[int], Job]
) -> None:
    rules = Recipe.model_validate({"binning": {"method": method, "max_bins": 5, "min_bin_share": 0.05}})
    stages = Stages(job_of(2).stages.data, seed=method, recipe=rules)
    tables = stages.bin(job_of(2).rows)
    label = stages.data.label
    for name, table in tables.items():
        raw = {f"{name}_{i}": values for i, (values, _, _) in enumerate(stages.data.columns[name])}
        for feature in table.features:
            prebins = feature.binning.codes(raw[feature.name])
            counts = pooled.counts(prebins, label, feature.binning.bins)
            twin = assess("twin", name, *counts, feature.binning.ordered_bins, rule=rule_of_plain(rules, feature))
            rows, bads = pooled.counts(feature.codes(raw[feature.name]), label, len(feature.woe))
            assert (feature.merge_map, feature.rows) == (twin.merge_map, twin.bin_rows)
            assert [w / 10_000 for w in feature.woe] == pooled.woe(rows, bads)
            assert feature.iv / 1_000 == pooled.information_value(rows, bads)
            assert len(rows) <= 5
            assert min(rows) >= 0.05 * len(label)
            if method == "optimal" and feature.binning.ordered_bins == feature.binning.bins:
                rates = np.divide(bads, rows)
                assert (np.diff(rates) >= 0).all() or (np.diff(rates) <= 0).all()


def rule_of_plain(rules: Recipe, feature: BinnedFeature) -> MergeRule:
    return rule_of(rules.binning, FeatureRules(), feature.binning)


def test_a_method_that_the_contract_does_not_allow_is_refused(job_of: Callable[[int], Job]) -> None:
    stages = Stages(
        job_of(1).stages.data, seed="methods", recipe=Recipe.model_validate({"binning": {"method": "quantile"}})
    )
    data = stages.prebinned
    label_owner = LabelOwner(
        stages.parties,
        codes=data["bank"][0],
        binnings=data["bank"][1],
        label=stages.data.label,
        rows=job_of(1).rows["bank"],
        recipe=stages.recipe,
        methods=[Method.CHIMERGE],
    )
    roles = stages.binning_roles(job_of(1).rows) | {"bank": label_owner}
    with pytest.raises(PartyFailedError) as caught:
        stages.bin({}, roles=roles)
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")
    assert not stages.network.sent(GateDecision)


# -- what a provider is told -------------------------------------------------------------------------------------------


def test_of_a_dropped_feature_a_provider_is_told_its_alias_and_nothing_else(job_of: Callable[[int], Job]) -> None:
    stages, tables = with_tables(job_of(2), minimum_iv=10.0)
    for name in stages.parties.providers:
        (frame,) = stages.network.sent(GateDecision, "bank", name)
        decision = frame.message(GateDecision)
        assert len(decision.kept) == 3
        assert len(decision.dropped) == 1
        assert [f.name for f in tables[name].features + tables[name].dropped]
        assert [d.reason for d in tables[name].dropped] == ["dropped by the gate"]
        assert list(decision.dropped) == sorted(decision.dropped)
        assert [kept.alias for kept in decision.kept] == sorted(kept.alias for kept in decision.kept)
        assert {d.alias: d.reason for d in tables["bank"].dropped_peers[name]} == dict.fromkeys(
            decision.dropped, "information value"
        )


def test_aliases_are_in_random_order_and_order_shows_no_iv(job_of: Callable[[int], Job]) -> None:
    orders = set()
    for seed in range(6):
        stages = Stages(job_of(1).stages.data, seed=seed)
        orders.add(tuple(f.name for f in stages.bin(job_of(1).rows)["bureau"].features))
    assert len(orders) > 2


def test_a_lower_label_budget_drops_the_features_of_lowest_iv_and_says_so(job_of: Callable[[int], Job]) -> None:
    job = job_of(3)
    cost = job.tables["bank"].label_cost
    share = 0.125 * (cost - 4) / job.tables["bank"].label_budget
    _, tables = with_tables(job, label_budget_share=share)
    owner = tables["bank"]
    assert owner.label_cost <= owner.label_budget == pytest.approx(cost - 4)
    dropped = {d.alias for per in owner.dropped_peers.values() for d in per if d.reason == "label budget"}
    assert dropped
    assert all(len(owner.peers[name]) >= 3 for name in job.parties.providers)
    kept = sum(len(p.woe) - 1 for name in job.parties.providers for p in owner.peers[name])
    assert owner.label_cost == kept + len(dropped) / 4


def test_a_label_budget_below_three_features_a_provider_ends_the_job_before_anything_is_returned(
    job_of: Callable[[int], Job],
) -> None:
    stages = Stages(job_of(1).stages.data, seed="budget", recipe=recipe(label_budget_share=0.001))
    with pytest.raises(PartyFailedError) as caught:
        stages.bin(job_of(1).rows)
    assert (caught.value.party, caught.value.code) == ("bank", "LABEL_BUDGET")
    assert not stages.network.sent(GateDecision)


def test_the_budget_counts_every_provider(job: Job) -> None:
    owner = job.tables["bank"]
    bins = [len(p.woe) - 1 for name in job.parties.providers for p in owner.peers[name]]
    assert not any(owner.dropped_peers.values())
    assert owner.label_cost == sum(bins)
    assert owner.label_budget == pytest.approx(label_budget(owner.rows, owner.bads))


# -- the label owner's checks ------------------------------------------------------------------------------------------


def edit_feature(edit: Callable[[PreBinnedFeature], PreBinnedFeature]) -> Callable[[PreBins], PreBins]:
    return lambda m: replace(m, features=(edit(m.features[0]), *m.features[1:]))


def move_row(f: PreBinnedFeature) -> PreBinnedFeature:
    return replace(f, rows=(f.rows[0] + 1, f.rows[1] - 1, *f.rows[2:]))


def below_floor(f: PreBinnedFeature) -> PreBinnedFeature:
    return replace(f, rows=(f.rows[0] + f.rows[1] - 49, 49, *f.rows[2:]))


def flip_check(f: PreBinnedFeature) -> PreBinnedFeature:
    return replace(f, mask_check=bytes([f.mask_check[0] ^ 1]) + f.mask_check[1:])


def same_bin_twice(f: PreBinnedFeature) -> PreBinnedFeature:
    return replace(f, encrypted_bads=f.encrypted_bads[:WIDTH] * 2 + f.encrypted_bads[2 * WIDTH :])


BAD_OFFERS: dict[str, Callable[[PreBins], PreBins]] = {
    "a row more": edit_feature(lambda f: replace(f, rows=(f.rows[0] + 1, *f.rows[1:]))),
    "a row less": edit_feature(lambda f: replace(f, rows=(f.rows[0] - 1, *f.rows[1:]))),
    "a bin below the floor": edit_feature(below_floor),
    "another sum of masks": edit_feature(flip_check),
    "a shorter sum of masks": edit_feature(lambda f: replace(f, mask_check=f.mask_check[:-1])),
    "the same ciphertext for two bins": edit_feature(same_bin_twice),
    "a ciphertext less": edit_feature(lambda f: replace(f, encrypted_bads=f.encrypted_bads[WIDTH:])),
    "more ordered bins than bins": edit_feature(lambda f: replace(f, ordered_bins=len(f.rows) + 1)),
    "an unknown method": edit_feature(lambda f: replace(f, rule=replace(f.rule, method="tree"))),
    "a trend without its method": edit_feature(lambda f: replace(f, rule=replace(f.rule, trend="peak"))),
    "a rule for one bin": edit_feature(lambda f: replace(f, rule=replace(f.rule, max_bins=1))),
    "a policy too many": edit_feature(lambda f: replace(f, rule=replace(f.rule, policies=(0,) * 20))),
    "an unknown policy": edit_feature(
        lambda f: replace(f, rule=replace(f.rule, policies=(3,) * (len(f.rows) - f.ordered_bins)), ordered_bins=1)
    ),
    "another alias": edit_feature(lambda f: replace(f, alias="tax.01")),
    "an alias twice": lambda m: replace(m, features=(m.features[0], *m.features[:-1])),
    "fewer than 3 features": lambda m: replace(m, features=m.features[:2]),
    "more features than announced": lambda m: replace(m, features=m.features + m.features[:1]),
    "no features": lambda m: replace(m, features=()),
}


@pytest.mark.parametrize("name", list(BAD_OFFERS))
def test_a_bad_offer_of_a_provider_is_refused(name: str, job_of: Callable[[int], Job]) -> None:
    stages = Stages(job_of(1).stages.data, seed="offer")
    with pytest.raises(PartyFailedError) as caught:
        stages.bin(job_of(1).rows, {"bureau": changing(PreBins, BAD_OFFERS[name])})
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")
    assert not stages.network.sent(GateDecision)


def test_counts_that_do_not_add_up_to_the_bads_are_refused(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    public, shift = job.rows["bank"].keys["bank"], job.rows["bank"].layout.label_shift

    def one_bad_more(f: PreBinnedFeature) -> PreBinnedFeature:
        raised = add_plaintext(mpz(int.from_bytes(f.encrypted_bads[:WIDTH], "little")), 1 << shift, public)
        return replace(f, encrypted_bads=int(raised).to_bytes(WIDTH, "little") + f.encrypted_bads[WIDTH:])

    stages = Stages(job.stages.data, seed="offer")
    with pytest.raises(PartyFailedError) as caught:
        stages.bin(job.rows, {"bureau": changing(PreBins, edit_feature(one_bad_more))})
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")


BAD_CHOICES: dict[str, Callable[[SelectedFeatures], SelectedFeatures]] = {
    "an alias twice": lambda m: SelectedFeatures((m.aliases[0], *m.aliases)),
    "an unknown alias": lambda m: SelectedFeatures((*m.aliases, "bureau.99")),
    "a feature of the label owner": lambda m: SelectedFeatures((*m.aliases, "bank.01")),
    "fewer than 3": lambda m: SelectedFeatures(m.aliases[:2]),
}


@pytest.mark.parametrize("name", list(BAD_CHOICES))
def test_a_bad_choice_of_model_features_is_refused(name: str, job_of: Callable[[int], Job]) -> None:
    stages = Stages(job_of(1).stages.data, seed="choice")
    with pytest.raises(PartyFailedError) as caught:
        stages.bin(job_of(1).rows, {"bureau": changing(SelectedFeatures, BAD_CHOICES[name])})
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")


# -- the provider's checks ---------------------------------------------------------------------------------------------


def edit_kept(edit: Callable[[KeptFeature], KeptFeature]) -> Callable[[GateDecision], GateDecision]:
    return lambda m: replace(m, kept=(edit(m.kept[0]), *m.kept[1:]))


BAD_DECISIONS: dict[str, Callable[[GateDecision], Message]] = {
    "a WOE that no whole number of bads has": edit_kept(lambda k: replace(k, woe=(k.woe[0] + 3, *k.woe[1:]))),
    "WOE of counts that do not add up": edit_kept(lambda k: replace(k, woe=(k.woe[0], *k.woe[:1], *k.woe[2:]))),
    "a WOE beyond 8": edit_kept(lambda k: replace(k, woe=(80_001, *k.woe[1:]))),
    "another number of bads": lambda m: replace(m, bads=m.bads + 1),
    "no bads at all": lambda m: replace(m, bads=0),
    "a merge map that is too short": edit_kept(lambda k: replace(k, merge_map=k.merge_map[:-1])),
    "a merge map with a gap": edit_kept(lambda k: replace(k, merge_map=tuple(b + (b > 0) for b in k.merge_map))),
    "one bin only": edit_kept(lambda k: replace(k, merge_map=(0,) * len(k.merge_map), woe=(0,))),
    "a feature left out": lambda m: replace(m, kept=m.kept[1:]),
    "a feature twice": lambda m: replace(m, kept=(*m.kept, m.kept[0])),
    "kept and dropped": lambda m: replace(m, dropped=(m.kept[0].alias,)),
    "fewer than 3 kept": lambda m: replace(m, kept=m.kept[:2], dropped=tuple(k.alias for k in m.kept[2:])),
}


@pytest.mark.parametrize("name", list(BAD_DECISIONS))
def test_a_bad_answer_of_the_gate_is_refused(name: str, job_of: Callable[[int], Job]) -> None:
    stages = Stages(job_of(1).stages.data, seed="decision")
    with pytest.raises(PartyFailedError) as caught:
        stages.bin(job_of(1).rows, {"bank": changing(GateDecision, BAD_DECISIONS[name])})
    assert (caught.value.party, caught.value.code) == ("bureau", "CHECK_FAILED")
    assert not stages.network.sent(SelectedFeatures)


def resized(change: Mapping[str, int]) -> Callable[[ModelShape], ModelShape]:
    return lambda m: ModelShape(tuple(PartyFeatures(p.party, p.features + change.get(p.party, 0)) for p in m.parties))


BAD_SHAPES: dict[str, Callable[[ModelShape], ModelShape]] = {
    "another number of the provider's features": resized({"bureau": 1}),
    "a party with two features": resized({"bank": -2}),
    "a party left out": lambda m: ModelShape(m.parties[1:]),
    "another order": lambda m: ModelShape(m.parties[::-1]),
    "a party twice": lambda m: ModelShape((*m.parties, m.parties[0])),
}


@pytest.mark.parametrize("name", list(BAD_SHAPES))
def test_a_bad_shape_of_the_model_is_refused(name: str, job_of: Callable[[int], Job]) -> None:
    stages = Stages(job_of(1).stages.data, seed="shape")
    with pytest.raises(PartyFailedError) as caught:
        stages.bin(job_of(1).rows, {"bank": changing(ModelShape, BAD_SHAPES[name])})
    assert (caught.value.party, caught.value.code) == ("bureau", "CHECK_FAILED")


# -- what a provider does not send -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("differing", "sent"), [(0, 5), (1, 4), (24, 4), (25, 5)])
def test_a_feature_with_a_bin_that_differs_from_another_in_1_to_24_rows_is_not_sent(
    differing: int, sent: int, job_of: Callable[[int], Job]
) -> None:
    job = job_of(1)
    data = job.stages.data
    first = data.columns["bureau"][2][0]
    copy: Any = first.copy()
    moved = np.flatnonzero(copy == "trade")[:differing]
    copy[moved] = "industry"
    columns = dict(data.columns) | {"bureau": (*data.columns["bureau"], (copy, *data.columns["bureau"][2][1:]))}
    stages = Stages(replace(data, columns=columns), seed="copies")
    roles = stages.binning_roles(stages.encrypt())
    tables = stages.bin({}, roles=roles)
    (frame,) = stages.network.sent(PreBins)
    assert len(frame.message(PreBins).features) == sent
    not_sent = [d for d in tables["bureau"].dropped if d.alias == ""]
    assert len(not_sent) == 5 - sent
    assert all(f"in {differing} rows" in dropped.reason for dropped in not_sent)


def test_a_provider_left_with_fewer_than_three_features_ends_the_job(job_of: Callable[[int], Job]) -> None:
    data = consortium(1, features=3)
    near: Any = data.columns["bureau"][2][0].copy()
    near[np.flatnonzero(near == "trade")[:5]] = "industry"
    kind = data.columns["bureau"][2]
    columns = dict(data.columns) | {"bureau": (data.columns["bureau"][0], kind, (near, *kind[1:]))}
    stages = Stages(replace(data, columns=columns))
    with pytest.raises(DataError, match="TOO_FEW_COLUMNS"):
        stages.binning_roles(stages.encrypt())


def test_the_ledger_says_where_four_decimals_do_not_resolve_a_count(
    job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "implied_bads", lambda rows, woe, bads: [(7, 7 + (b == 0)) for b in range(len(rows))])
    stages = Stages(job_of(1).stages.data, seed="unresolved")
    table = stages.bin(job_of(1).rows)["bureau"]
    assert table.unresolved == 4
    assert all(feature.bads[0] is None and feature.bads[1] == 7 for feature in table.features)
    (line,) = [line for line in stages.ledgers["bureau"].lines() if "do not resolve" in line.what]
    assert (line.to, line.numbers, line.nature) == ("bureau", 4, "masked")


# -- room for exact moments --------------------------------------------------------------------------------------------


def test_a_recipe_that_opens_moments_leaves_as_many_own_features_as_their_guard_allows() -> None:
    before = Stages(consortium(1, rows=1000, features=9, strength=0.5), seed="room")
    rows = before.encrypt()

    def binned(**model: str) -> dict[str, BinningTable]:
        return Stages(before.data, seed="room", recipe=Recipe.model_validate({"model": model})).bin(rows)

    def check(tables: Mapping[str, BinningTable]) -> None:
        smallest = min(min(feature.rows) for feature in tables["bureau"].features)
        check_column_budget(1000, tables["bureau"].shape["bank"], smallest, search=True)

    closed, opened = binned(), binned(search="stepwise")
    with pytest.raises(SmallIntersectionError, match="TOO_FEW_ROWS"):
        check(closed)
    check(opened)
    assert 3 <= opened["bank"].shape["bank"] < closed["bank"].shape["bank"]
    reasons = {feature.alias: feature.reason for feature in opened["bank"].dropped}
    kept = {feature.alias for feature in opened["bank"].features}
    gone = [feature for feature in closed["bank"].features if feature.alias not in kept]
    assert {reasons[feature.alias] for feature in gone} == {"small bins"}
    assert max(feature.iv for feature in gone) <= min(feature.iv for feature in opened["bank"].features)
