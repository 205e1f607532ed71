"""The review before training: what is granted equals a job that had the rule from the start; what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from party_agent import review_desk
from party_agent.dataset import Column, Table
from party_agent.rebinning import RawColumns, changed_rules
from party_agent.review_desk import FileDesk, ask, find_review, shown_bins
from party_agent.review_state import owner_state_from, owner_state_to, provider_state_from, provider_state_to
from party_agent.store import Folder
from protocols.binning.budget import label_budget
from protocols.binning.messages import REVIEW_STEPS, ChangedRule, ReviewAnswer, ReviewTurn
from protocols.binning.provider import FeatureProvider
from protocols.binning.review import Accept, Change, Version, View, Wish, label_cells, refusal_of
from protocols.binning.review_owner import OwnerState, ReviewingOwner
from protocols.binning.review_provider import ProviderState, ReviewingProvider
from protocols.binning.rules import Method, rule_of
from protocols.binning.table import BinnedFeature, BinningTable
from protocols.errors import (
    ConcordatError,
    ContractViolationError,
    DataError,
    RemoteProtocolError,
    TransportError,
)
from protocols.fixed_point import IntArray
from protocols.messages import Message
from protocols.recipe import FeatureRules, Recipe
from tests.simulator import Job, PartyFailedError, Stages, changing

RECIPE = {"binning": {"review_minutes": 30, "review_changes": 8}}


@dataclass
class ScriptedDesk:
    """A modeller who asks for one thing after the other. patience: rounds before her time is up."""

    wishes: list[Wish] = field(default_factory=list)
    patience: int = 50
    answers: list[str] = field(default_factory=list)
    view: View | None = None

    def next(self, *, wait: bool) -> Wish | None:
        self.patience -= 1
        return self.wishes.pop(0) if self.wishes else None

    def answer(self, refusal: ConcordatError | None, notes: Sequence[str] = ()) -> None:
        self.answers.append(refusal.code if refusal else "")

    def show(self, view: View) -> None:
        self.view = view

    def seconds_left(self) -> int:
        return max(self.patience, 0)

    def words(self, waiting: Sequence[str], seconds_left: int) -> str:
        return f"waiting for {waiting}"


@dataclass
class Reviewed:
    """A review that was played."""

    stages: Stages
    tables: dict[str, BinningTable]
    desks: dict[str, ScriptedDesk]
    ended: dict[str, Any]
    saved: dict[str, list[Any]]

    def raw(self, name: str) -> np.ndarray[Any, Any]:
        party, _, number = name.rpartition("_")
        return self.stages.data.columns[party][int(number)][0]

    def feature(self, name: str) -> BinnedFeature:
        return next(f for f in self.tables[name.rpartition("_")[0]].features if f.name == name)


def columns_of(stages: Stages, party: str, methods: Sequence[str] = ("chimerge", "optimal", "quantile")) -> RawColumns:
    columns = tuple(
        Column(f"{party}_{i}", kind, values, special)
        for i, (values, kind, special) in enumerate(stages.data.columns[party])
    )
    ids = tuple(str(i) for i in range(stages.data.rows))

    def check(method: str) -> None:
        if method not in methods:
            raise ContractViolationError("ALGORITHM_NOT_ALLOWED", "not allowed")

    return RawColumns(Table(ids, None, columns), stages.recipe, party, check)


def review(
    job: Job,
    wishes: Mapping[str, Sequence[Wish]],
    *,
    changes: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] = RECIPE,
    states: Mapping[str, Any] | None = None,
    before: Reviewed | None = None,
    **owner: Any,
) -> Reviewed:
    """Bins of a job's rows, and the review of them; everyone accepts in the end."""
    stages = (
        before.stages if before else Stages(job.stages.data, seed=str(wishes), recipe=Recipe.model_validate(recipe))
    )
    first = {} if before else stages.bin(job.rows)
    parties = stages.parties
    desks = {name: ScriptedDesk([*wishes.get(name, ()), Accept()]) for name in parties.all}
    saved: dict[str, list[Any]] = {name: [] for name in parties.all}
    states = states or {
        name: OwnerState.of(first[name], parties.providers) if name == "bank" else ProviderState(first[name])
        for name in parties.all
    }
    roles: dict[str, Any] = {
        "bank": ReviewingOwner(
            parties,
            state=states["bank"],
            label=stages.data.label,
            rows=job.rows["bank"],
            recipe=stages.recipe,
            methods=list(Method),
            desk=desks["bank"],
            own=columns_of(stages, "bank"),
            save=saved["bank"].append,
            **owner,
        )
    }
    for name in parties.providers:
        roles[name] = ReviewingProvider(
            name,
            parties,
            state=states[name],
            sent=stages.prebinned[name][1],
            rows=job.rows[name],
            recipe=stages.recipe,
            entropy=stages.entropy,
            desk=desks[name],
            own=columns_of(stages, name),
            save=saved[name].append,
        )
    ended = stages.play("review", REVIEW_STEPS, {name: role.play() for name, role in roles.items()}, changes or {})
    return Reviewed(stages, {name: ended[name].state.table for name in parties.all}, desks, ended, saved)


def split_inside(job: Job, name: str, prebin: int, share: float = 0.5) -> float:
    """A value that cuts one of the first call's pre-bins."""
    party, _, number = name.rpartition("_")
    codes, binnings = job.stages.prebinned[party]
    place = [b.feature for b in binnings].index(name)
    values = np.sort(job.stages.data.columns[party][int(number)][0][codes[:, place] == prebin])
    return float(values[int(share * len(values))])


def edges(job: Job, name: str) -> tuple[float, ...]:
    return next(b.edges for b in job.stages.prebinned[name.rpartition("_")[0]][1] if b.feature == name)


def check_digits(job: Job, tables: Mapping[str, BinningTable]) -> None:
    """Of every provider's feature the digits of both sides differ by the sum of the label owner's masks."""
    masks = job.rows["bank"].masks
    assert masks is not None
    ring = job.rows["bank"].layout.ring
    column = ring.to_integers(masks[0], signed=False)
    for name in job.parties.providers:
        table = tables[name]
        for j, feature in enumerate(table.features):
            at_owner, at_provider = tables["bank"].digits[name].digits[j], table.digits["bank"].digits[j]
            assert len(at_owner) == len(at_provider) == len(feature.woe)
            for b in range(len(feature.woe)):
                inside = np.flatnonzero(table.codes[:, j] == b).tolist()
                expected = sum(column[i] for i in inside) % ring.modulus
                assert (int(at_owner[b, 0]) - int(at_provider[b, 0])) % ring.modulus == expected


def check_tables(played: Reviewed) -> None:
    """Codes, counts and what the label owner holds are those of the bins."""
    label = played.stages.data.label
    for name, table in played.tables.items():
        for j, feature in enumerate(table.features):
            codes = feature.codes(played.raw(feature.name))
            assert np.array_equal(codes, table.codes[:, j])
            assert list(feature.rows) == np.bincount(codes).tolist()
            assert list(feature.bads) == np.bincount(codes, weights=label).astype(int).tolist()
        if name != "bank":
            assert [(f.alias, f.woe, f.iv, f.rows, f.bads) for f in table.features] == [
                (p.alias, p.woe, p.iv, p.rows, p.bads) for p in played.tables["bank"].peers[name]
            ]


# -- granted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("providers", [1, 2])
def test_the_model_is_that_of_a_job_that_had_the_rules_from_the_start(
    providers: int, job_of: Callable[[int], Job]
) -> None:
    job = job_of(providers)
    splits = {
        "bank_0": [edges(job, "bank_0")[i] for i in (3, 7, 11)],
        "bureau_0": [edges(job, "bureau_0")[3], split_inside(job, "bureau_0", 9), edges(job, "bureau_0")[14]],
    }
    wishes = {name.partition("_")[0]: [Change(name, {"splits": cuts})] for name, cuts in splits.items()}
    played = review(job, wishes)
    assert [desk.answers for desk in played.desks.values()] == [["", ""], ["", ""], [""]][: providers + 1]
    check_tables(played)
    check_digits(job, played.tables)

    twin = Stages(job.stages.data, seed="twin", recipe=Recipe())
    roles = twin.binning_roles(job.rows)
    for name in ("bank", "bureau"):
        codes, binnings = twin.prebinned[name]
        own = columns_of(twin, name)
        made = {f: own.rebin(f, None, {"splits": cuts}) for f, cuts in splits.items() if f.startswith(name)}
        rules = [
            made[b.feature].rule if b.feature in made else rule_of(twin.recipe.binning, FeatureRules(), b)
            for b in binnings
        ]
        codes = np.stack(
            [made[b.feature].codes if b.feature in made else codes[:, i] for i, b in enumerate(binnings)], 1
        )
        binnings = [made[b.feature].binning if b.feature in made else b for b in binnings]
        more = {"label": twin.data.label} if name == "bank" else {"entropy": twin.entropy}
        first = () if name == "bank" else (name,)
        roles[name] = type(roles[name])(
            *first,
            twin.parties,
            codes=codes,
            binnings=binnings,
            rows=job.rows[name],
            recipe=twin.recipe,
            rules=rules,
            **more,
        )
    assert isinstance(roles["bureau"], FeatureProvider)
    from_start = twin.bin(job.rows, roles=roles)
    for name in job.parties.all:
        ours, theirs = (
            {f.name: (f.binning, f.merge_map, f.woe, f.iv, f.bads) for f in t.features}
            for t in (played.tables[name], from_start[name])
        )
        assert ours == theirs
    assert played.feature("bureau_0").binning.edges == tuple(splits["bureau_0"])
    if providers == 1:
        return

    fits = [played.stages.train(job.rows, played.tables), twin.train(job.rows, from_start)]
    tables = [played.tables, from_start]
    for name in job.parties.all:
        by_name = [
            {f.name: w for f, w in zip(table[name].features, fit[name].weights, strict=True)}
            for table, fit in zip(tables, fits, strict=True)
        ]
        assert all(abs(by_name[0][f] - by_name[1][f]) <= 1e-4 for f in by_name[0])


def test_a_change_that_keeps_the_pre_bins_needs_no_new_product_and_may_come_from_the_label_owner(
    job_of: Callable[[int], Job],
) -> None:
    job = job_of(2)
    own = review(job, {"bureau": [Change("bureau_0", {"max_bins": 2})]})
    assert own.desks["bureau"].answers == ["", ""]
    assert len(own.feature("bureau_0").woe) == 2
    check_tables(own)
    check_digits(job, own.tables)
    learned = [line for line in own.stages.ledgers["bank"].lines(to="bank") if line.stage == "review"]
    assert {line.what for line in learned} == {
        "how an aliased feature is to be merged, and whether its owner wants it kept"
    }
    alias = next(p.alias for p in own.tables["bank"].peers["bureau"] if len(p.woe) > 3)
    by_owner = review(job, {"bank": [Change(alias, {"max_bins": 2})]})
    name = next(f.name for f in by_owner.tables["bureau"].features if f.alias == alias)
    assert by_owner.desks["bank"].answers == ["", ""]
    assert len(by_owner.feature(name).woe) == 2
    assert by_owner.ended["bureau"].state.changed == {name: "bank"}
    assert by_owner.ended["bank"].state.changed == {alias: "bank"}
    check_tables(by_owner)
    check_digits(job, by_owner.tables)


def test_each_version_costs_label_counts_before_it_is_returned(job_of: Callable[[int], Job]) -> None:
    class Account:
        def __init__(self) -> None:
            self.costs: list[float] = []

        def spent(self) -> float:
            return 10.0 + sum(self.costs)

        def charge(self, cost: float) -> None:
            self.costs.append(cost)

    job, account = job_of(1), Account()
    wishes = [Change("bureau_0", {"max_bins": 4}), Change("bureau_0", {"max_bins": 2})]
    played = review(job, {"bureau": wishes}, account=account)
    assert played.desks["bureau"].answers == ["", "", ""]
    assert account.costs == [
        len(
            played.ended["bureau"].state.given["bureau_0"][1][1]
            and set(played.ended["bureau"].state.given["bureau_0"][1][1])
        )
        - 1,
        1,
    ]
    first = Stages(job.stages.data, seed="costs", recipe=played.stages.recipe).bin(job.rows)["bank"]
    assert played.tables["bank"].label_cost == first.label_cost + sum(account.costs)
    lines = played.stages.ledgers["bureau"].lines(to="bureau")
    woe = next(line.numbers for line in lines if line.stage == "review" and line.what.startswith("WOE per bin"))
    assert woe == sum(account.costs) + 2


def test_more_bins_cost_more_where_the_fit_will_be_weighted(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    wishes = [Change("bureau_0", {"max_bins": 2}), Change("bureau_0", {"max_bins": 4})]
    costs = []
    for weighted in (False, True):
        played = review(job, {"bureau": wishes}, recipe={**RECIPE, "model": {"weighted": weighted}})
        bins = [len(set(merge_map)) for _, merge_map in played.ended["bureau"].state.given["bureau_0"][1:]]
        assert played.desks["bureau"].answers == ["", "", ""]
        costs.append(played.tables["bank"].label_cost)
    assert bins[0] == 2 < bins[1]
    assert costs[1] - costs[0] == bins[1] - 2  # beside what the gate took for the weighted sums of the first version


# -- refused -----------------------------------------------------------------------------------------------------------


def test_beyond_the_label_budget_a_change_is_refused_and_the_job_goes_on(job_of: Callable[[int], Job]) -> None:
    class NearlySpent:
        left = 1.5

        def spent(self) -> float:
            stages = job_of(1).stages
            return label_budget(stages.data.rows, int(stages.data.label.sum())) - self.left

        def charge(self, cost: float) -> None:
            self.left -= cost

    job, account = job_of(1), NearlySpent()
    few, many = Change("bureau_0", {"max_bins": 2}), Change("bureau_0", {"method": "quantile", "max_bins": 5})
    played = review(job, {"bureau": [many, few, few]}, account=account)
    assert played.desks["bureau"].answers == ["LABEL_BUDGET", "", "LABEL_BUDGET", ""]
    assert account.left == pytest.approx(0.25 - 0.25)  # a refusal costs a quarter
    assert len(played.feature("bureau_0").woe) == 2
    check_tables(played)
    check_digits(job, played.tables)


def test_versions_that_differ_in_few_rows_are_not_sent(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    near = split_inside(job, "bureau_0", 9, 0.1)  # some rows above an edge
    other = split_inside(job, "bureau_0", 9, 0.5)
    wishes = [
        Change("bureau_0", {"splits": [near]}),
        Change("bureau_0", {"splits": [other]}),
        Change("bureau_0", {"splits": [split_inside(job, "bureau_0", 9, 0.6)]}),
    ]
    played = review(job, {"bureau": wishes})
    assert played.desks["bureau"].answers == ["BINS_TOO_CLOSE", "", "BINS_TOO_CLOSE", ""]
    learned = [
        x for x in played.stages.ledgers["bank"].lines(to="bank") if x.stage == "review" and "rows per" in x.what
    ]
    assert [line.numbers for line in learned] == [2]
    check_tables(played)
    view = played.desks["bureau"].view
    assert view is not None
    shown = {item["name"]: item for item in shown_bins(view)["features"]}
    assert shown["bureau_0"]["cuts_sent"] == sorted([*edges(job, "bureau_0"), other])
    back = {"splits": edges(job, "bureau_0")[4:14:4]}
    state = {name: item.state for name, item in played.ended.items()}
    again = review(job, {"bureau": [Change("bureau_0", back)]}, states=state, before=played)
    assert again.desks["bureau"].answers == ["", ""]


def test_every_cell_of_two_versions_that_a_provider_was_given_holds_goods_and_bads(
    job_of: Callable[[int], Job],
) -> None:
    job = job_of(1)
    wishes = [
        Change(f"bureau_{i}", rules)
        for i in (0, 3)
        for rules in (
            {"method": "quantile", "max_bins": 13},
            {"max_bins": 11},
            {"max_bins": 7},
            {"method": "optimal", "max_bins": 5},
        )
    ]
    played = review(job, {"bureau": wishes})
    answers = played.desks["bureau"].answers
    assert set(answers[:-1]) == {"", "BINS_TOO_CLOSE"}
    label, state = played.stages.data.label, played.ended["bureau"].state
    own = columns_of(played.stages, "bureau")
    for versions in state.given.values():
        joint: IntArray = np.stack([np.asarray(m)[own.codes(b)] for b, m in versions], axis=1)
        cells, place, rows = np.unique(joint, axis=0, return_inverse=True, return_counts=True)
        bads = np.bincount(place.reshape(-1), weights=label, minlength=len(cells))
        assert rows.min() >= 25
        assert bads.min() >= 5
        assert (rows - bads).min() >= 5


def test_cells_are_found_between_cuts_of_one_order_and_beside_what_is_not_ordered() -> None:
    old = Version((100, 100, 100, 60), (30, 20, 10, 3), 3, (0, 1, 1, 1))
    assert label_cells([old, Version((100, 200, 60), (30, 30, 3), 2, (0, 1, 1))], 5, 5)
    assert not label_cells([old, Version((90, 210, 60), (29, 31, 3), 2, (0, 1, 1))], 5, 5)  # 10 rows between two cuts
    assert not label_cells([old, Version((130, 170, 60), (32, 28, 3), 2, (0, 1, 1))], 5, 5)  # 30 rows with 2 bads
    assert label_cells([old, Version((130, 170, 60), (36, 24, 3), 2, (0, 1, 1))], 5, 5)
    moved = Version((100, 100, 100, 60), (30, 20, 10, 3), 3, (0, 1, 1, 0))  # missing, with 3 bads, elsewhere
    assert not label_cells([old, moved], 5, 5)
    third = Version((100, 130, 70, 60), (30, 23, 7, 3), 3, (0, 0, 1, 1))  # its cut lies 30 rows and 3 bads from 200
    second = Version((100, 100, 100, 60), (30, 20, 10, 3), 3, (0, 0, 1, 1))
    assert label_cells([old, third], 5, 5)
    assert not label_cells([old, second, third], 5, 5)


def test_more_changes_than_the_recipe_allows_are_refused_before_they_are_sent(job_of: Callable[[int], Job]) -> None:
    wish = Change("bureau_0", {"max_bins": 2})
    recipe = {"binning": {"review_minutes": 30, "review_changes": 1}}
    played = review(job_of(1), {"bureau": [wish, wish]}, recipe=recipe)
    assert played.desks["bureau"].answers == ["", "CHANGES_SPENT", ""]


def test_what_does_not_fit_is_refused_with_its_own_code(job_of: Callable[[int], Job]) -> None:
    wishes = [
        Change("bureau_9", {"max_bins": 2}),
        Change("bureau_0", {"groups": [["a"]]}),
        Change("bureau_0", {"max_bins": 200}),
        Change("bureau_0", {"bins": 3}),
        Change("bureau_0", {"splits": [1e9]}),
    ]
    alias = review(job_of(1), {}).tables["bank"].peers["bureau"][0].alias
    owner = [
        Change(alias, {"splits": [1.0]}),
        Change("bank_0", {"trend": "peak"}),
        Change("nobody.1", {"max_bins": 3}),
        Change(alias, {"method": "best"}),
        Change(alias, {"max_bins": True}),
        Change(alias, {"trend": "peak"}),
    ]
    played = review(job_of(1), {"bureau": wishes, "bank": owner})
    codes = ["FEATURE_UNKNOWN", "RULE_OF_OTHER_KIND", "RECIPE_OUT_OF_RANGE", "RECIPE_UNKNOWN_KEY", "BINS_NOT_TWO", ""]
    assert played.desks["bureau"].answers == codes
    assert played.desks["bank"].answers == [
        *("RULE_OF_OTHER_KIND", "RECIPE_OUT_OF_RANGE", "FEATURE_UNKNOWN"),
        *("RECIPE_OUT_OF_RANGE", "RECIPE_MALFORMED", "RECIPE_OUT_OF_RANGE", ""),
    ]
    assert not played.ended["bureau"].state.changed


def test_a_cap_of_the_contract_refuses_a_change_and_ends_no_job(job_of: Callable[[int], Job]) -> None:
    wish = Change("bureau_0", {"max_bins": 2})
    played = review(job_of(1), {"bureau": [wish]}, room=lambda to, learned: False)
    assert played.desks["bureau"].answers == ["DISCLOSURE_CAP", ""]


# -- time, and what breaks off -----------------------------------------------------------------------------------------


def test_when_time_is_up_the_bins_are_taken_as_they_are(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    stages = Stages(job.stages.data, seed="late", recipe=Recipe.model_validate(RECIPE))
    tables = stages.bin(job.rows)
    desks = {name: ScriptedDesk([] if name == "tax" else [Accept()], 6) for name in job.parties.all}
    states = {
        n: OwnerState.of(t, job.parties.providers) if n == "bank" else ProviderState(t) for n, t in tables.items()
    }
    scripts: dict[str, Any] = {
        "bank": ReviewingOwner(
            job.parties, state=states["bank"], label=job.stages.data.label, rows=job.rows["bank"], recipe=stages.recipe,
            methods=list(Method), desk=desks["bank"], own=columns_of(stages, "bank"),
        ).play()
    }  # fmt: skip
    for name in job.parties.providers:
        scripts[name] = ReviewingProvider(
            name, job.parties, state=states[name], sent=stages.prebinned[name][1], rows=job.rows[name],
            recipe=stages.recipe, entropy=stages.entropy, desk=desks[name], own=columns_of(stages, name),
        ).play()  # fmt: skip
    ended = stages.play("review", REVIEW_STEPS, scripts, {})
    assert {item.waiting for item in ended.values()} == {("tax",)}
    assert all(ended[name].state.table is tables[name] for name in job.parties.all)


def test_an_answer_that_a_crash_lost_comes_again_and_is_not_paid_for_twice(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    cut = edges(job, "bureau_0")[9]
    played = review(job, {"bureau": [Change("bureau_0", {"splits": [cut]})]})
    asked = next(state for state in played.saved["bureau"] if state.pending is not None)
    header, blobs = provider_state_to(asked)
    states = {
        "bureau": provider_state_from(header, blobs),  # it had asked, and heard nothing
        "bank": owner_state_from(*owner_state_to(played.saved["bank"][-1])),  # it had granted
    }
    again = review(job, {}, states=states, before=played)
    assert again.desks["bureau"].answers == ["", ""]
    check_tables(again)
    check_digits(job, again.tables)
    assert again.feature("bureau_0").binning.edges == (cut,)
    assert again.tables["bank"].label_cost == played.tables["bank"].label_cost
    assert again.ended["bureau"].state.rules["bureau_0"] == FeatureRules(splits=(cut,))


def test_a_version_that_never_arrived_is_forgotten_with_its_masks(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    cut = edges(job, "bureau_0")[9]
    played = review(job, {"bureau": [Change("bureau_0", {"splits": [cut]})]})
    asked = next(state for state in played.saved["bureau"] if state.pending is not None)
    first = Stages(
        job.stages.data, seed=str({"bureau": [Change("bureau_0", {"splits": [cut]})]}), recipe=played.stages.recipe
    )
    owner = OwnerState.of(first.bin(job.rows)["bank"], job.parties.providers)
    again = review(
        job, {"bureau": [Change("bureau_0", {"splits": [cut]})]}, states={"bureau": asked, "bank": owner}, before=played
    )
    assert again.desks["bureau"].answers[-2:] == ["", ""]
    check_tables(again)
    check_digits(job, again.tables)
    first_masks, second_masks = (
        next(s.pending.masks for s in saved["bureau"] if s.pending is not None) for saved in (played.saved, again.saved)
    )
    assert not np.array_equal(first_masks, second_masks)


def test_where_the_gate_is_asked_again_nothing_granted_holds_and_what_was_sent_counts(
    job_of: Callable[[int], Job],
) -> None:
    job = job_of(1)
    near, same = (split_inside(job, "bureau_0", 9, share) for share in (0.6, 0.5))
    played = review(job, {"bureau": [Change("bureau_0", {"splits": [same]})]})
    tables = Stages(job.stages.data, seed="anew", recipe=played.stages.recipe).bin(job.rows)
    states = {name: played.ended[name].state.anew(tables[name]) for name in job.parties.all}
    assert states["bureau"].table is tables["bureau"]
    wishes = {"bureau": [Change("bureau_0", {"splits": [cut]}) for cut in (near, same)]}
    again = review(job, wishes, states=states, before=played)
    assert again.desks["bureau"].answers == ["BINS_TOO_CLOSE", "", ""]
    assert again.ended["bank"].state.asked == {"bureau": 2}
    check_digits(job, again.tables)


def test_a_provider_waits_for_no_label_owner_for_ever(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)

    class Overdue(ScriptedDesk):
        def seconds_left(self) -> int:
            return -601

    stages = Stages(job.stages.data, seed="overrun", recipe=Recipe.model_validate(RECIPE))
    script = ReviewingProvider(
        "bureau", job.parties, state=ProviderState(stages.bin(job.rows)["bureau"]), sent=stages.prebinned["bureau"][1],
        rows=job.rows["bureau"], recipe=stages.recipe, entropy=stages.entropy, desk=Overdue(),
        own=columns_of(stages, "bureau"),
    ).play()  # fmt: skip
    next(script)
    script.send(None)  # waits for the answer
    script.send(ReviewAnswer((), "", ("bank",), 5, False))
    with pytest.raises(RemoteProtocolError) as overrun:
        script.send(None)
    assert overrun.value.code == "REVIEW_OVERRUN"


# -- the desk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path, job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch) -> FileDesk:
    monkeypatch.setattr(review_desk, "TURN_S", 0.0)
    made = FileDesk(Folder(tmp_path), "train-1", "bureau", 30)
    made.show(View(job_of(1).tables["bureau"], {"bureau_0": "bank"}, ("bank",), 60))
    return made


def test_a_wish_lies_in_the_folder_until_it_is_answered(desk: FileDesk, tmp_path: Path) -> None:
    place = find_review(tmp_path, None)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, place, "change", "bureau_0", {"splits": [1.0]}, 10.0)
        while desk.next(wait=False) is None:
            pass
        assert desk.next(wait=True) == Change("bureau_0", {"splits": [1.0]})
        with pytest.raises(DataError) as busy:
            ask(place, "accept", "", {}, 0.0)
        assert busy.value.code == "REVIEW_BUSY"
        again = FileDesk(Folder(tmp_path), "train-1", "bureau", 30)  # of a further attempt
        assert again.next(wait=False) == Change("bureau_0", {"splits": [1.0]})
        again.answer(None, ["a note"])
        assert asked.result() == ["a note"]
    assert desk.next(wait=False) is None
    with pytest.raises(TransportError) as nobody:
        ask(place, "accept", "", {}, 0.0)
    assert nobody.value.code == "REVIEW_NO_ANSWER"
    assert desk.next(wait=False) is None
    assert {path.name for path in place.iterdir()} == {"bins.json", "answer.json"}


def test_a_refusal_reaches_who_asked_with_its_code_and_remedy(desk: FileDesk, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, tmp_path / "review", "change", "bureau_0", {}, 10.0)
        while desk.next(wait=False) is None:
            pass
        desk.answer(refusal_of("BINS_TOO_SMALL"))
        with pytest.raises(ConcordatError) as refused:
            asked.result()
    assert (refused.value.code, refused.value.remedy) == ("BINS_TOO_SMALL", refusal_of("BINS_TOO_SMALL").remedy)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"number": "\\ud800", "act": "accept", "feature": "", "given": {}}',
        '{"number": 1, "act": "accept", "feature": "", "given": {}}',
        "\xff",
    ],
)
def test_a_file_that_is_no_wish_is_answered_and_removed(desk: FileDesk, tmp_path: Path, text: str) -> None:
    (tmp_path / "review" / "ask.json").write_text(text, encoding="latin-1")
    assert desk.next(wait=False) is None
    assert Folder(tmp_path / "review").read_json("answer.json")["error"]["code"] == "ASK_MALFORMED"
    assert not (tmp_path / "review" / "ask.json").exists()


def test_a_review_is_found_while_it_is_open(desk: FileDesk, tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    for name in ("one", "two"):
        other = FileDesk(Folder(agent / "jobs" / name), name, "bureau", 30)
        other.show(View(BinningTable(0, 0, (), (), np.zeros((0, 0), dtype=np.int64), {}, {}), {}, ("bank",), 60))
    assert find_review(agent, "two") == agent / "jobs" / "two" / "review"
    with pytest.raises(DataError) as several:
        find_review(agent, None)
    assert several.value.code == "JOB_UNKNOWN"
    shown = Folder(tmp_path / "review").read_json("bins.json")
    assert [item["changed_by"] for item in shown["features"] if item["name"] == "bureau_0"] == ["bank"]
    assert desk.words(("bank", "tax"), 60).startswith("waiting for review at bank, tax until ")
    desk.close()
    with pytest.raises(DataError) as closed:
        find_review(tmp_path, "train-1")
    assert closed.value.code == "REVIEW_NOT_OPEN"


# -- checks ------------------------------------------------------------------------------------------------------------


def tampered(edit: Callable[[Any], Message], kind: type[Message], nth: int, party: str, job: Job) -> set[str]:
    wishes = {"bureau": [Change("bureau_0", {"splits": [edges(job, "bureau_0")[9]]})]}
    with pytest.raises(PartyFailedError) as failed:
        review(job, wishes, changes={party: changing(kind, edit, nth)})
    return {code for code in failed.value.codes.values() if code == "CHECK_FAILED"}


def test_the_label_owner_checks_a_new_version_as_it_did_the_first(job_of: Callable[[int], Job]) -> None:
    def feature(**fields: Any) -> Callable[[ReviewTurn], ReviewTurn]:
        return lambda turn: replace(turn, features=(replace(turn.features[0], **fields),))

    def rows(turn: ReviewTurn) -> ReviewTurn:
        (a, b), one = turn.features[0].rows, turn.features[0]
        return replace(turn, features=(replace(one, rows=(a + 1, b - 1)),))

    edits: list[Callable[[Any], Message]] = [
        feature(alias="tax.1"),
        feature(mask_check=b"\0" * 20),
        rows,
        lambda turn: replace(turn, applied=1),
        lambda turn: replace(turn, accepted=True),
        lambda turn: replace(turn, features=turn.features * 2),
        lambda turn: replace(turn, rules=(ChangedRule(turn.features[0].alias, turn.features[0].rule),)),
    ]
    for edit in edits:
        assert tampered(edit, ReviewTurn, 1, "bureau", job_of(1)) == {"CHECK_FAILED"}


def test_the_provider_checks_what_comes_back(job_of: Callable[[int], Job]) -> None:
    def kept(**fields: Any) -> Callable[[ReviewAnswer], ReviewAnswer]:
        return lambda answer: replace(answer, changed=(replace(answer.changed[0], **fields),))

    edits: list[Callable[[Any], Message]] = [
        kept(alias="bureau.99"),
        kept(woe=(1, 1)),
        kept(merge_map=(0, 0)),
        lambda answer: replace(answer, changed=()),
        lambda answer: replace(answer, refused="LABEL_BUDGET"),
        lambda answer: replace(answer, changed=(), refused="NONE_OF_OURS"),
        lambda answer: replace(answer, waiting=("\x1b[2J",)),
        lambda answer: replace(answer, seconds_left=1801),
    ]
    for edit in edits:
        assert tampered(edit, ReviewAnswer, 1, "bank", job_of(1)) == {"CHECK_FAILED"}


def test_rules_that_cannot_stand_together_replace_each_other() -> None:
    before = FeatureRules(method="optimal", trend="peak", max_bins=5, missing="riskiest")
    assert changed_rules(before, {"splits": [1.0, 2.0]}) == FeatureRules(splits=(1.0, 2.0), missing="riskiest")
    assert changed_rules(FeatureRules(splits=(1.0,)), {"method": "quantile"}) == FeatureRules(method="quantile")
    assert changed_rules(before, {"missing_with": 0.0}).missing is None
