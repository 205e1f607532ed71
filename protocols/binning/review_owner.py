"""The review of bins before training: the label owner, who is the gate again for one feature at a time.

Source: docs/protocols/binning.md, "Review", after PROTOCOLS.md section 2. Learns: rows and bads per pre-bin of each new
version. Sends: merge map, WOE and IV of a version it grants, one code for one it does not. The labels pay for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from protocols.binning.budget import (
    LARGEST_MINIMUM_SHARE,
    Candidate,
    assess,
    feature_limit,
    known_sums,
    label_budget,
    least_bin_rows,
)
from protocols.binning.label_owner import peer_of
from protocols.binning.messages import KeptFeature, ReviewAnswer, ReviewTurn
from protocols.binning.opening import Opening
from protocols.binning.review import (
    DISCLOSURE_CAP,
    LABEL_BUDGET,
    ONE_BIN,
    REFUSED_COST,
    TOO_CLOSE,
    TOO_SMALL,
    Accept,
    Change,
    Desk,
    OwnColumns,
    Room,
    Version,
    View,
    label_cells,
    no_cap,
    refusal_of,
)
from protocols.binning.rules import MergeRule, Method, Trend
from protocols.binning.table import BinDigits, BinnedFeature, BinningTable, Counted
from protocols.errors import ConcordatError, ContractViolationError, DataError, LocalProtocolError, RecipeError
from protocols.fixed_point import IntArray
from protocols.messages import require
from protocols.recipe import FeatureRules, Recipe, feature_rules
from protocols.roles import Parties
from protocols.row_account import NoRowAccount, RowAccount
from protocols.rows.encryption import RowMasks
from protocols.session import Progress, Script, receive_each, send

T = TypeVar("T")


@dataclass(frozen=True)
class OwnerState:
    """What a further attempt of the job goes on from.

    table: as the changes so far have left it; versions: by alias, all that their owner was given; answered: changes of
    its features that each provider was given, last: the last of them; asked: changes that each provider has asked for;
    changed: aliases or own names, with who asked; rules: of own features that changed, by name; notes: on them.
    """

    table: BinningTable
    versions: Mapping[str, tuple[Version, ...]]
    answered: Mapping[str, int]
    last: Mapping[str, KeptFeature] = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, FeatureRules] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, table: BinningTable, providers: Sequence[str]) -> OwnerState:
        """Before the first change."""
        return cls(table, {}, dict.fromkeys(providers, 0), asked=dict.fromkeys(providers, 0))

    def anew(self, table: BinningTable) -> OwnerState:
        """In an attempt that asked the gate again: nothing that was granted holds, and the requests count."""
        return replace(OwnerState.of(table, tuple(self.answered)), asked=self.asked)


@dataclass(frozen=True)
class OwnerReview:
    """How a review ended: the state, and the parties that had not accepted when time was up."""

    state: OwnerState
    waiting: tuple[str, ...]


class ReviewingOwner:
    """The label owner in a review.

    Args: state: of an earlier attempt, or `OwnerState.of` the table; label: 0/1 a row; methods: that a provider may ask
        for; room: whether so much more may open to a provider; save: makes a state durable, before anything of it is
        sent.
    """

    def __init__(
        self,
        parties: Parties,
        *,
        state: OwnerState,
        label: IntArray,
        rows: RowMasks,
        recipe: Recipe,
        methods: Collection[Method],
        desk: Desk,
        own: OwnColumns,
        account: RowAccount | None = None,
        room: Room = no_cap,
        save: Callable[[OwnerState], None] = lambda _: None,
    ) -> None:
        self._parties = parties
        self._name = parties.label_owner
        self._state = state
        self._label = label
        self._recipe = recipe
        self._methods = methods
        self._desk = desk
        self._own = own
        self._account: RowAccount = account or NoRowAccount()
        self._room = room
        self._save = save
        self._opening = Opening(rows, int(label.sum()), recipe, methods)
        self._ring = rows.layout.ring
        self._party_of = {p.alias: party for party, peers in state.table.peers.items() for p in peers}
        self._waiting: tuple[str, ...] = parties.all
        self._in_hand: Change | None = None  # a wish for a feature of a provider that asked for something itself

    def play(self) -> Script[OwnerReview]:
        """Rounds of steps 8 and 9, until all have accepted or time is up."""
        accepted, said, first = False, "", True
        self._show()
        while True:
            turns = yield from receive_each(self._parties.providers, ReviewTurn)
            answers = {party: self._answer(party, turn, first=first) for party, turn in turns.items()}
            busy = [party for party, answer in answers.items() if answer != _NOTHING]
            wish = self._in_hand or self._desk.next(wait=not (accepted or busy))
            self._in_hand = None
            if isinstance(wish, Accept):
                accepted = True
                self._desk.answer(None)
            elif wish is not None:
                accepted = False
                party = self._party_of.get(wish.feature)
                if party is not None and party in busy:
                    self._in_hand = wish
                else:
                    kept = self._own_wish(wish, party)
                    if party is not None and kept is not None:
                        answers[party] = (kept, "")
            has = {self._name: accepted} | {
                party: turns[party].accepted and answers[party] == _NOTHING for party in self._parties.providers
            }
            self._waiting = waiting = tuple(party for party in self._parties.all if not has[party])
            left = max(self._desk.seconds_left(), 0)
            ended = not waiting or not left
            for party, (kept, refused) in answers.items():
                changed = () if kept is None else (kept,)
                yield from send(party, ReviewAnswer(changed, refused, waiting, left, ended))
            self._show()
            words = self._desk.words(waiting, left)
            if words != said:
                said = words
                yield Progress(words, 0, 0)
            if ended:
                return OwnerReview(self._state, waiting)
            first = False

    # -- what a provider asks for

    def _answer(self, party: str, turn: ReviewTurn, *, first: bool) -> tuple[KeptFeature | None, str]:
        """Step 9 to one provider.

        Raises: RemoteProtocolError: any check fails; the same generic error for all.
        """
        asks = len(turn.features) + len(turn.rules)
        missed = self._state.answered[party] - turn.applied
        require(asks <= 1 and not (asks and turn.accepted))
        require(missed in ((0, 1) if first and not asks else (0,)))
        if missed:
            require(party in self._state.last)
            return self._state.last[party], ""
        if not asks:
            return _NOTHING
        require(self._state.asked[party] < self._recipe.binning.review_changes)
        self._keep(replace(self._state, asked={**self._state.asked, party: self._state.asked[party] + 1}))
        if turn.features:
            (feature,) = turn.features
            require(self._party_of.get(feature.alias) == party)
            return self._offer(feature.alias, party, self._opening.read(party, turn.features)[0])
        (asked,) = turn.rules
        require(self._party_of.get(asked.alias) == party)
        before = self._state.table.counted[asked.alias]
        require(asked.rule.sound_for(len(before.rows), before.ordered_bins) and asked.rule.method in self._methods)
        return self._offer(asked.alias, party, replace(before, rule=asked.rule))

    def _offer(self, alias: str, party: str, counted: Counted) -> tuple[KeptFeature | None, str]:
        left = self._left()
        if left < REFUSED_COST:
            return None, LABEL_BUDGET
        candidate, refusal = self._judged(alias, party, counted)
        if not refusal and self._cost(candidate) > left:
            refusal = LABEL_BUDGET
        if not refusal and not self._room(party, _answer_of(candidate).learned()):
            refusal = DISCLOSURE_CAP
        if refusal:
            self._charge(REFUSED_COST)
            return None, refusal
        return self._grant(candidate, counted, party), ""

    def _grant(self, candidate: Candidate, counted: Counted, asker: str) -> KeptFeature:
        self._charge(self._cost(candidate, folds=0))
        alias, party = candidate.alias, candidate.party
        state, table = self._state, self._state.table
        place = [peer.alias for peer in table.peers[party]].index(alias)
        if counted.digits is None:
            raise LocalProtocolError("ROLE_INVALID", "a provider's feature has no digits")
        digits = BinDigits((counted.digits,)).merged([candidate.merge_map], self._ring.modulus).digits[0]
        peer, kept = peer_of(candidate), _answer_of(candidate).changed[0]
        table = replace(
            table,
            peers={**table.peers, party: _put(table.peers[party], place, peer)},
            digits={**table.digits, party: table.digits[party].put(place, digits)},
            counted={**table.counted, alias: replace(counted, merge_map=candidate.merge_map)},
        )
        version = Version(counted.rows, counted.bads, counted.ordered_bins, candidate.merge_map)
        self._keep(
            replace(
                state,
                table=table,
                versions={**state.versions, alias: (*self._versions(alias), version)},
                answered={**state.answered, party: state.answered[party] + 1},
                last={**state.last, party: kept},
                changed={**state.changed, alias: asker},
            )
        )
        return kept

    def _versions(self, alias: str) -> tuple[Version, ...]:
        """All versions of a provider's feature that it was given."""
        if alias in self._state.versions:
            return self._state.versions[alias]
        counted = self._state.table.counted[alias]
        return (Version(counted.rows, counted.bads, counted.ordered_bins, counted.merge_map),)

    # -- what the label owner's own modeller asks for

    def _own_wish(self, wish: Change, party: str | None) -> KeptFeature | None:
        """Grant or refuse it at the desk; what a provider is to be told."""
        try:
            if party is not None:
                return self._change_peer(wish, party)
            self._change_own(wish)
        except ConcordatError as error:
            self._desk.answer(error)
        return None

    def _change_own(self, wish: Change) -> None:
        state, table = self._state, self._state.table
        names = [feature.name for feature in table.features]
        if wish.feature not in names:
            raise unknown_feature()
        place = names.index(wish.feature)
        alias = table.features[place].alias
        rebinned = self._own.rebin(wish.feature, state.rules.get(wish.feature), wish.given)
        rows = np.bincount(rebinned.codes, minlength=rebinned.binning.bins)
        bads = np.bincount(rebinned.codes, weights=self._label, minlength=rebinned.binning.bins).astype(np.int64)
        counted = Counted(
            self._name, tuple(rows.tolist()), tuple(bads.tolist()), rebinned.binning.ordered_bins, rebinned.rule
        )
        candidate, refusal = self._judged(alias, self._name, counted)
        if refusal:
            raise refusal_of(refusal)
        peer = peer_of(candidate)
        feature = BinnedFeature(alias, rebinned.binning, candidate.merge_map, peer.woe, peer.iv, peer.rows, peer.bads)
        codes = table.codes.copy()
        codes[:, place] = np.asarray(candidate.merge_map, dtype=np.int64)[rebinned.codes]
        self._keep(
            replace(
                state,
                table=replace(table, features=_put(table.features, place, feature), codes=codes),
                changed={**state.changed, wish.feature: self._name},
                rules={**state.rules, wish.feature: rebinned.rules},
                notes={**state.notes, wish.feature: rebinned.notes},
            )
        )
        self._show()
        self._desk.answer(None, rebinned.notes)

    def _change_peer(self, wish: Change, party: str) -> KeptFeature:
        before = self._state.table.counted[wish.feature]
        counted = replace(before, rule=self._rule_from(before, wish.given))
        candidate, refusal = self._judged(wish.feature, party, counted)
        if refusal or self._cost(candidate) > self._left():
            raise refusal_of(refusal or LABEL_BUDGET)
        if not self._room(party, _answer_of(candidate).learned()):
            raise refusal_of(DISCLOSURE_CAP)
        kept = self._grant(candidate, counted, self._name)
        self._show()
        self._desk.answer(None)
        return kept

    def _rule_from(self, before: Counted, given: Mapping[str, Any]) -> MergeRule:
        """The rule of a provider's feature with what the label owner may change of it: its pre-bins stay."""
        if not given.keys() <= {"method", "trend", "max_bins", "min_bin_share"}:
            raise RecipeError(
                "RULE_OF_OTHER_KIND",
                "of a provider's feature only method, trend, most bins and least bin share can be changed here",
                "ask its owner for other cut points, groups or policies",
            )
        asked, rule, defaults = feature_rules(given), before.rule, self._recipe.binning
        method = Method(asked.method or (defaults.method if rule.method == Method.SPLITS else rule.method))
        trend = Trend(asked.trend or (rule.trend if rule.method == Method.OPTIMAL else defaults.trend))
        if asked.trend is not None and method is not Method.OPTIMAL:
            raise RecipeError("RECIPE_OUT_OF_RANGE", "a trend goes with the method optimal", "name that method too")
        if method not in self._methods:
            raise ContractViolationError("ALGORITHM_NOT_ALLOWED", "the contract does not allow this method of binning")
        share = asked.min_bin_share
        return replace(
            rule,
            method=method.value,
            trend=(trend if method is Method.OPTIMAL else Trend.NONE).value,
            max_bins=asked.max_bins or rule.max_bins,
            least_rows=rule.least_rows if share is None else math.ceil(round(share * sum(before.rows), 9)),
        )

    # -- the gate for one feature

    def _judged(self, alias: str, party: str, counted: Counted) -> tuple[Candidate, str]:
        """The feature merged by its rule, further if other parties' numbers of features need it; or why it may not."""
        rules, n = self._recipe.binning, self._state.table.rows

        def merged(minimum_rows: int) -> Candidate:
            return assess(
                alias,
                party,
                counted.rows,
                counted.bads,
                counted.ordered_bins,
                rule=counted.rule,
                threshold=rules.chimerge_threshold,
                min_goods=rules.min_goods,
                min_bads=rules.min_bads,
                minimum_rows=minimum_rows,
            )

        candidate = merged(0)
        sums = max(self._sums(other) for other in self._parties.all if other != party)
        least = least_bin_rows(n, sums)
        minimum = min(n if least is None else least, int(LARGEST_MINIMUM_SHARE * n))
        if min(candidate.bin_rows) < minimum:
            candidate = merged(minimum)
        if len(candidate.bin_rows) < 2:
            return candidate, ONE_BIN
        crowd = max(count for other, count in self._state.table.shape.items() if other != party)
        if max(sums, self._recipe.validation.folds * crowd) > feature_limit(n, min(candidate.bin_rows)):
            return candidate, TOO_SMALL
        if party != self._name:
            version = Version(counted.rows, counted.bads, counted.ordered_bins, candidate.merge_map)
            if not label_cells([*self._versions(alias), version], rules.min_goods, rules.min_bads):
                return candidate, TOO_CLOSE
        return candidate, ""

    def _sums(self, party: str) -> int:
        """What a party's features count against the limit that the smallest bin of another sets, as at the gate."""
        features = self._state.table.shape[party]
        if party != self._name or not self._recipe.opens_moments:
            return features
        return known_sums(features, search=self._recipe.model.search != "none")

    def _cost(self, candidate: Candidate, folds: int | None = None) -> float:
        """What a version takes from the label budget: its bins, and what they add in the folds that are to come.

        In a weighted fit also what they add to the weighted sums of the version before, which the gate charged.
        """
        folds = self._recipe.validation.folds if folds is None else folds
        bins = len(candidate.bin_rows)
        now = next(len(peer.rows) for peer in self._state.table.peers[candidate.party] if peer.alias == candidate.alias)
        return bins - 1 + (folds + self._recipe.model.weighted) * max(bins - now, 0)

    def _left(self) -> float:
        """What is left of the label budget: of this job, and of all jobs on these rows, but for the folds to come."""
        table = self._state.table
        whole = label_budget(table.rows, table.bads, self._recipe.selection.label_budget_share)
        left = min(table.label_budget - table.label_cost, whole - self._account.spent())
        return left - self._recipe.validation.folds * sum(
            len(peer.rows) - 1 for peers in table.peers.values() for peer in peers
        )

    def _charge(self, cost: float) -> None:
        """The labels pay, durably, before anything is returned."""
        self._account.charge(cost)
        table = replace(self._state.table, label_cost=self._state.table.label_cost + cost)
        self._keep(replace(self._state, table=table))

    def _show(self) -> None:
        left = max(self._desk.seconds_left(), 0)
        self._desk.show(View(self._state.table, self._state.changed, self._waiting, left))

    def _keep(self, state: OwnerState) -> None:
        self._state = state
        self._save(state)


_NOTHING: tuple[KeptFeature | None, str] = (None, "")


def _answer_of(candidate: Candidate) -> ReviewAnswer:
    peer = peer_of(candidate)
    return ReviewAnswer((KeptFeature(candidate.alias, candidate.merge_map, peer.woe, peer.iv),), "", (), 0, False)


def unknown_feature() -> DataError:
    """A name that is no feature of the model."""
    return DataError(
        "FEATURE_UNKNOWN",
        "no feature of this name or alias is among those that enter the training",
        "see `concordat-party bins show`",
    )


def _put(items: tuple[T, ...], place: int, item: T) -> tuple[T, ...]:
    return (*items[:place], item, *items[place + 1 :])
