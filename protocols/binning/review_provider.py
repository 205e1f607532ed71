"""The review of bins before training: feature provider.

Source: docs/protocols/binning.md, "Review", after PROTOCOLS.md section 2. Sends: of one own feature at a time rows and
masked encrypted bads per new pre-bin, or another rule for the pre-bins it has. Learns: merge map, WOE and IV of each
version that the label owner grants or makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from protocols.binning.messages import ChangedRule, KeptFeature, ReviewAnswer, ReviewTurn
from protocols.binning.prebins import PreBinning
from protocols.binning.provider import read_kept, seal_feature
from protocols.binning.review import (
    DISCLOSURE_CAP,
    REFUSALS,
    Accept,
    Change,
    Desk,
    OwnColumns,
    Rebinned,
    Room,
    View,
    check_rows_between,
    joint_codes,
    no_cap,
    refusal_of,
)
from protocols.binning.review_owner import unknown_feature
from protocols.binning.table import BinDigits, BinnedFeature, BinningTable
from protocols.disclosure import Learned, Nature
from protocols.errors import ConcordatError, ContractViolationError, RemoteProtocolError
from protocols.fixed_point import IntArray
from protocols.messages import require
from protocols.paillier import accumulate
from protocols.recipe import FeatureRules, Recipe
from protocols.roles import Parties
from protocols.rows.encryption import RowMasks
from protocols.session import Opened, Progress, Script, receive, send
from protocols.sharing import Entropy

OVERRUN_S = 600  # beyond its own waiting time, a label owner that does not end the review


@dataclass(frozen=True)
class Pending:
    """A version that was asked for and not answered yet. masks: of new pre-bins, shape (pre-bins, T), else None."""

    alias: str
    binning: PreBinning
    rules: FeatureRules
    masks: NDArray[np.object_] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProviderState:
    """What a further attempt of the job goes on from.

    table: as the changes so far have left it; sent: by own name, all pre-binnings sent in the review; given: by own
    name, the versions that came back, as pre-binning and merge map; applied: changes that have arrived; asked: changes
    asked for; pending: stored before it is sent, so that an answer that a crash lost can be taken when it comes again;
    changed: own names, with who asked; rules: of own features whose owner changed them, notes: on them, by name.
    """

    table: BinningTable
    sent: Mapping[str, tuple[PreBinning, ...]] = field(default_factory=dict)
    given: Mapping[str, tuple[tuple[PreBinning, tuple[int, ...]], ...]] = field(default_factory=dict)
    applied: int = 0
    asked: int = 0
    pending: Pending | None = None
    changed: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, FeatureRules] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def anew(self, table: BinningTable) -> ProviderState:
        """In an attempt that asked the gate again: nothing that was granted holds, and all that was sent counts."""
        features = {feature.name: (feature.binning, feature.merge_map) for feature in table.features}
        given = {name: (*items, features[name]) for name, items in self.given.items() if name in features}
        return ProviderState(table, sent=self.sent, given=given, asked=self.asked)


@dataclass(frozen=True)
class ProviderReview:
    """How a review ended: the state, and the parties that had not accepted when time was up."""

    state: ProviderState
    waiting: tuple[str, ...]


class ReviewingProvider:
    """A provider in a review.

    Args: state: of an earlier attempt, or `ProviderState` of the table; sent: every pre-binning that went to the gate;
        room: whether so much more may open to the label owner; save: makes a state durable, before anything of it
        is sent.
    """

    def __init__(
        self,
        name: str,
        parties: Parties,
        *,
        state: ProviderState,
        sent: Sequence[PreBinning],
        rows: RowMasks,
        recipe: Recipe,
        entropy: Entropy,
        desk: Desk,
        own: OwnColumns,
        room: Room = no_cap,
        save: Callable[[ProviderState], None] = lambda _: None,
    ) -> None:
        self._name = name
        self._parties = parties
        self._owner = parties.label_owner
        self._state = state
        self._sent = sent
        self._rows = rows
        self._recipe = recipe
        self._entropy = entropy
        self._desk = desk
        self._own = own
        self._room = room
        self._save = save

    def play(self) -> Script[ProviderReview]:
        """Rounds of steps 8 and 9, until the label owner ends them."""
        accepted, said, turn = False, "", ReviewTurn(self._state.applied, False)
        self._show((self._name,), self._desk.seconds_left())
        while True:
            yield from send(self._owner, turn)
            answer = yield from receive(self._owner, ReviewAnswer)
            unresolved = self._take(turn, answer)
            if unresolved:
                what = "label counts per bin that 4 decimals of WOE do not resolve"
                yield Opened((Learned(what, unresolved, Nature.MASKED),))
            if answer.changed:
                accepted = False
            words = self._desk.words(answer.waiting, answer.seconds_left)
            if words != said:
                said = words
                yield Progress(words, 0, 0)
            if answer.ended:
                return ProviderReview(self._state, answer.waiting)
            if self._desk.seconds_left() < -OVERRUN_S:
                raise RemoteProtocolError(
                    "REVIEW_OVERRUN", "the label owner did not end the review when its time was up"
                )
            wish = self._desk.next(wait=not accepted)
            turn = ReviewTurn(self._state.applied, accepted)
            if isinstance(wish, Accept):
                accepted = True
                self._desk.answer(None)
                turn = replace(turn, accepted=True)
            elif wish is not None:
                accepted = False
                turn = self._ask(wish)

    def _ask(self, wish: Change) -> ReviewTurn:
        """What to send for a wish; refused here, at the desk, if this party's own rules do not allow it."""
        idle = ReviewTurn(self._state.applied, False)
        try:
            return self._asking(wish)
        except ConcordatError as error:
            self._desk.answer(error)
            return idle

    def _asking(self, wish: Change) -> ReviewTurn:
        state, table = self._state, self._state.table
        feature = next((f for f in table.features if f.name == wish.feature), None)
        if feature is None:
            raise unknown_feature()
        if state.asked >= self._recipe.binning.review_changes:
            raise ContractViolationError(
                "CHANGES_SPENT",
                "this party has asked for as many changes of bins as the recipe allows",
                "accept the bins as they are",
            )
        rebinned = self._own.rebin(wish.feature, state.rules.get(wish.feature), wish.given)
        turn = ReviewTurn(state.applied, False)
        pending = Pending(feature.alias, rebinned.binning, rebinned.rules, notes=rebinned.notes)
        if rebinned.binning == feature.binning:
            turn = replace(turn, rules=(ChangedRule(feature.alias, rebinned.rule),))
            self._check_room(turn)
            self._keep(replace(state, asked=state.asked + 1, pending=pending))
            return turn
        self._check(feature, rebinned)
        key = self._rows.keys[self._owner]
        encrypted = self._rows.encrypted[self._owner]
        products = accumulate(encrypted, rebinned.codes[:, None], [rebinned.binning.bins], key)
        sealed = seal_feature(
            feature.alias,
            rebinned.binning,
            rebinned.rule,
            rebinned.codes,
            products[0],
            self._rows.layout,
            key,
            self._entropy,
        )
        turn = replace(turn, features=(sealed.message,))
        self._check_room(turn)
        sent = {**state.sent, wish.feature: (*state.sent.get(wish.feature, ()), rebinned.binning)}
        self._keep(replace(state, sent=sent, asked=state.asked + 1, pending=replace(pending, masks=sealed.mask_digits)))
        return turn

    def _check_room(self, turn: ReviewTurn) -> None:
        if not self._room(self._owner, turn.learned()):
            raise refusal_of(DISCLOSURE_CAP)

    def _check(self, feature: BinnedFeature, rebinned: Rebinned) -> None:
        """The new pre-bins beside all that were sent before.

        Raises: PrivacyError: BINS_TOO_CLOSE.
        """
        name, state = feature.name, self._state
        own = self._sent_of(name)
        others = [b for b in self._sent if b.feature != name]
        others += [b for other, versions in state.sent.items() if other != name for b in versions]
        check_rows_between(
            rebinned.codes,
            rebinned.binning,
            [*map(self._own.codes, own), joint_codes([self._merged(*version) for version in self._given(feature)])],
            [(self._own.codes(other), other) for other in others],
        )

    def _sent_of(self, name: str) -> tuple[PreBinning, ...]:
        """All pre-binnings of an own feature that went to the label owner."""
        return (*(b for b in self._sent if b.feature == name), *self._state.sent.get(name, ()))

    def _show(self, waiting: tuple[str, ...], seconds_left: int) -> None:
        state = self._state
        sent = {feature.name: self._sent_of(feature.name) for feature in state.table.features}
        self._desk.show(View(state.table, state.changed, waiting, seconds_left, sent))

    def _given(self, feature: BinnedFeature) -> tuple[tuple[PreBinning, tuple[int, ...]], ...]:
        """All versions of a feature whose counts came back."""
        return self._state.given.get(feature.name, ((feature.binning, feature.merge_map),))

    def _merged(self, binning: PreBinning, merge_map: tuple[int, ...]) -> IntArray:
        merged: IntArray = np.asarray(merge_map, dtype=np.int64)[self._own.codes(binning)]
        return merged

    def _take(self, turn: ReviewTurn, answer: ReviewAnswer) -> int:
        """Take over an answer; of how many bins 4 decimals of WOE do not resolve the label count.

        Raises: RemoteProtocolError: any check fails; the same generic error for all.
        """
        asked = bool(turn.features or turn.rules)
        require(len(answer.changed) <= 1 and answer.refused in ("", *REFUSALS))
        require(set(answer.waiting) <= set(self._parties.all))
        require(answer.seconds_left <= 60 * self._recipe.binning.review_minutes)
        require(asked == bool(answer.refused or answer.changed) or not (asked or answer.refused))
        require(not (answer.refused and answer.changed))
        unresolved = 0
        pending = self._state.pending
        for kept in answer.changed:
            unresolved = self._apply(kept, pending)
        if pending is not None and not answer.changed:
            self._keep(replace(self._state, pending=None))
        self._show(answer.waiting, answer.seconds_left)
        if pending is not None and (asked or answer.changed):
            self._desk.answer(refusal_of(answer.refused) if answer.refused else None, pending.notes)
        return unresolved

    def _apply(self, kept: KeptFeature, pending: Pending | None) -> int:
        state, table = self._state, self._state.table
        aliases = [feature.alias for feature in table.features]
        require(kept.alias in aliases and (pending is None or pending.alias == kept.alias))
        place = aliases.index(kept.alias)
        before = table.features[place]
        binning = before.binning if pending is None else pending.binning
        masks = table.prebin_masks[place] if pending is None or pending.masks is None else pending.masks
        codes = self._own.codes(binning)
        feature, unresolved = read_kept(kept, binning, codes, table.bads)
        merged_codes = table.codes.copy()
        merged_codes[:, place] = np.asarray(kept.merge_map, dtype=np.int64)[codes]
        merged = BinDigits((masks,)).merged([kept.merge_map], self._rows.layout.ring.modulus).digits[0]
        table = replace(
            table,
            features=(*table.features[:place], feature, *table.features[place + 1 :]),
            codes=merged_codes,
            digits={self._owner: table.digits[self._owner].put(place, merged)},
            prebin_masks=(*table.prebin_masks[:place], masks, *table.prebin_masks[place + 1 :]),
            unresolved=table.unresolved + unresolved,
        )
        given = {**state.given, feature.name: (*self._given(before), (binning, kept.merge_map))}
        state = replace(state, table=table, given=given, applied=state.applied + 1, pending=None)
        changed = {**state.changed, feature.name: self._owner if pending is None else self._name}
        if pending is not None:
            rules = {**state.rules, feature.name: pending.rules}
            state = replace(state, rules=rules, notes={**state.notes, feature.name: pending.notes})
        self._keep(replace(state, changed=changed))
        return unresolved

    def _keep(self, state: ProviderState) -> None:
        self._state = state
        self._save(state)
