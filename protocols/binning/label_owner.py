"""Binning and WOE: the label owner, who is the gate.

Source: PROTOCOLS.md section 2, docs/protocols/binning.md. Learns: rows and bads per aliased pre-bin, and which aliased
features enter the model. Sends: for each feature merge map, WOE and IV, or only that it is dropped, within the label
budget. Keeps: the digits of its own masks' sums, the offline half of every gradient (section 3).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from protocols.binning.budget import (
    Candidate,
    Choice,
    assess,
    choose_features,
    known_sums,
    label_budget,
)
from protocols.binning.correlation import LEAST_FEATURES, uncorrelated
from protocols.binning.messages import (
    GateDecision,
    KeptFeature,
    ModelShape,
    PartyFeatures,
    PreBins,
    SelectedFeatures,
)
from protocols.binning.opening import Opening
from protocols.binning.prebins import PreBinning
from protocols.binning.rules import MergeRule, Method, rule_of
from protocols.binning.table import (
    BinDigits,
    BinnedFeature,
    BinningTable,
    Counted,
    DroppedFeature,
    DroppedPeer,
    PeerFeature,
)
from protocols.binning.weight_of_evidence import feature_values, woe_units
from protocols.errors import LocalProtocolError
from protocols.fixed_point import IntArray
from protocols.messages import require
from protocols.recipe import FeatureRules, Recipe
from protocols.roles import Parties
from protocols.row_account import NoRowAccount, RowAccount
from protocols.rows.encryption import RowMasks
from protocols.session import Progress, Script, receive_each, send

INFEASIBLE = "no two bins under its trend and least bin size"
_REASONS = {
    "iv": "information value",
    "constraints": INFEASIBLE,
    "budget": "label budget",
    "small bins": "small bins",
}


class LabelOwner:
    """The gate.

    Args: codes: own pre-bins of each training row and feature, shape (n, F); label: 0/1 a row; rows: what the
        encryption of the rows left; rules: of the own features, the recipe's if None; methods: that a provider may ask
        for.
    """

    def __init__(
        self,
        parties: Parties,
        *,
        codes: IntArray,
        binnings: Sequence[PreBinning],
        label: IntArray,
        rows: RowMasks,
        recipe: Recipe,
        rules: Sequence[MergeRule] | None = None,
        methods: Collection[Method] = frozenset(Method),
        account: RowAccount | None = None,
    ) -> None:
        self._parties = parties
        self._name = parties.label_owner
        self._codes = codes
        self._binnings = {f"{self._name}.{i + 1:02d}": binning for i, binning in enumerate(binnings)}
        self._positions = {alias: i for i, alias in enumerate(self._binnings)}
        self._rules = rules or [rule_of(recipe.binning, FeatureRules(), binning) for binning in binnings]
        self._label = label
        self._bads = int(label.sum())
        self._rows = rows
        self._layout = rows.layout
        self._recipe = recipe
        self._account: RowAccount = account or NoRowAccount()
        self._opening = Opening(rows, self._bads, recipe, methods)
        self._counted: dict[str, Counted] = {}
        self._ivs: dict[str, int] = {}

    def play(self) -> Script[BinningTable]:
        """Steps 4 to 7."""
        for alias, binning in self._binnings.items():
            codes = self._codes[:, self._positions[alias]]
            rows = np.bincount(codes, minlength=binning.bins)
            bads = np.bincount(codes, weights=self._label, minlength=binning.bins).astype(np.int64)
            rule = self._rules[self._positions[alias]]
            self._counted[alias] = Counted(
                self._name, tuple(rows.tolist()), tuple(bads.tolist()), binning.ordered_bins, rule
            )
        offers = yield from receive_each(self._parties.providers, PreBins)
        for done, (party, offer) in enumerate(offers.items()):
            self._open(party, offer)
            yield Progress("opened providers", done + 1, len(offers))
        candidates = [self._assess(alias) for alias in self._counted]
        self._ivs = {candidate.alias: candidate.iv_units for candidate in candidates}
        uncorrelated_own, correlated = self._filter_own([c for c in candidates if c.party == self._name])
        choice = self._choose(uncorrelated_own + [c for c in candidates if c.party != self._name])
        self._account.charge(choice.label_cost)
        for party in self._parties.providers:
            yield from send(party, self._decision(party, choice))
        selected = yield from receive_each(self._parties.providers, SelectedFeatures)
        kept = self._agree(choice, {party: message.aliases for party, message in selected.items()})
        shape = {party: len(kept[party]) for party in self._parties.all}
        yield from send(
            self._parties.providers, ModelShape(tuple(PartyFeatures(party, shape[party]) for party in shape))
        )
        return self._table(choice, kept, shape, correlated)

    def _open(self, party: str, offer: PreBins) -> None:
        """Step 4: decrypt, check, keep the digits.

        Raises: RemoteProtocolError: any check fails; the same generic error for all.
        """
        require(LEAST_FEATURES <= len(offer.features) <= self._rows.features[party])
        width = max(2, len(str(len(offer.features))))
        require(
            tuple(f.alias for f in offer.features)
            == tuple(f"{party}.{i + 1:0{width}d}" for i in range(len(offer.features)))
        )
        for feature, counted in zip(offer.features, self._opening.read(party, offer.features), strict=True):
            self._counted[feature.alias] = counted

    def _assess(self, alias: str, minimum_rows: int = 0) -> Candidate:
        counted, rules = self._counted[alias], self._recipe.binning
        return assess(
            alias,
            counted.party,
            counted.rows,
            counted.bads,
            counted.ordered_bins,
            rule=counted.rule,
            threshold=rules.chimerge_threshold,
            min_goods=rules.min_goods,
            min_bads=rules.min_bads,
            minimum_rows=minimum_rows,
        )

    def _filter_own(self, own: Sequence[Candidate]) -> tuple[list[Candidate], list[str]]:
        """The label owner's own features after IV and correlation, as a provider does after the gate."""
        ranked = sorted(own, key=lambda c: (-c.iv, len(c.bin_rows), c.alias))
        least = self._recipe.selection.minimum_iv
        strong = {c.alias for c in ranked if (c.keep or c.iv >= least) and len(c.bin_rows) > 1}
        strong |= {c.alias for c in [c for c in ranked if len(c.bin_rows) > 1][:LEAST_FEATURES]}
        passing = [c for c in own if c.alias in strong]
        if len(passing) < LEAST_FEATURES:
            return list(own), []  # choose_features refuses with its own sentence
        design = np.stack([self._own_values(c) for c in passing], axis=1)
        stay = uncorrelated(design, [c.iv_units for c in passing], self._recipe.selection.maximum_correlation)
        correlated = [c.alias for i, c in enumerate(passing) if i not in stay]
        return [c for c in own if c.alias not in correlated], correlated

    def _own_values(self, candidate: Candidate) -> IntArray:
        woe = woe_units(candidate.bin_rows, candidate.bin_bads)
        values: IntArray = feature_values(woe)[self._own_codes(candidate)]
        return values

    def _own_codes(self, candidate: Candidate) -> IntArray:
        codes: IntArray = np.asarray(candidate.merge_map)[self._codes[:, self._positions[candidate.alias]]]
        return codes

    def _choose(self, candidates: Sequence[Candidate]) -> Choice:
        return choose_features(
            candidates,
            n=self._layout.rows,
            bads=self._bads,
            minimum_iv=self._recipe.selection.minimum_iv,
            label_budget=self._label_budget,
            own_party=self._name,
            remerge=lambda candidate, minimum_rows: self._assess(candidate.alias, minimum_rows),
            own_sums=self._own_sums,
            weighted=self._layout.weighted,
        )

    def _own_sums(self, features: int) -> int:
        """What so many own features count against the limit that a provider's smallest bin sets."""
        if not self._recipe.opens_moments:
            return features
        return known_sums(features, search=self._recipe.model.search != "none")

    @cached_property
    def _label_budget(self) -> float:
        whole = label_budget(self._layout.rows, self._bads, self._recipe.selection.label_budget_share)
        return whole - self._account.spent()

    def _decision(self, party: str, choice: Choice) -> GateDecision:
        kept = tuple(
            KeptFeature(
                candidate.alias,
                candidate.merge_map,
                tuple(woe_units(candidate.bin_rows, candidate.bin_bads).tolist()),
                candidate.iv_units,
            )
            for candidate in choice.kept
            if candidate.party == party
        )
        dropped = tuple(alias for alias in choice.dropped_by_reason if self._counted[alias].party == party)
        return GateDecision(self._bads, kept, dropped)

    def _agree(self, choice: Choice, selected: Mapping[str, Sequence[str]]) -> dict[str, list[Candidate]]:
        """The model's features by party: what each provider chose among those it was given."""
        by_alias = {candidate.alias: candidate for candidate in choice.kept}
        kept = {self._name: [c for c in choice.kept if c.party == self._name]}
        for party, aliases in selected.items():
            require(len(set(aliases)) == len(aliases) >= LEAST_FEATURES)
            require(all(alias in by_alias and by_alias[alias].party == party for alias in aliases))
            kept[party] = [by_alias[alias] for alias in aliases]
        return kept

    def _table(
        self,
        choice: Choice,
        kept: Mapping[str, Sequence[Candidate]],
        shape: Mapping[str, int],
        correlated: Sequence[str],
    ) -> BinningTable:
        own = kept[self._name]
        reasons = {alias: _REASONS[reason] for alias, reason in choice.dropped_by_reason.items()}
        own_reasons = {alias: why for alias, why in reasons.items() if alias in self._binnings}
        own_reasons |= dict.fromkeys(correlated, "correlation")
        in_model = {candidate.alias for part in kept.values() for candidate in part}
        dropped_peers = {
            party: tuple(
                DroppedPeer(alias, self._ivs[alias], reasons.get(alias, "correlation"))
                for alias, counted in self._counted.items()
                if counted.party == party and alias not in in_model
            )
            for party in self._parties.providers
        }
        return BinningTable(
            rows=self._layout.rows,
            bads=self._bads,
            features=tuple(self._binned(candidate) for candidate in own),
            dropped=tuple(
                DroppedFeature(self._binnings[alias].feature, alias, why) for alias, why in own_reasons.items()
            ),
            codes=np.stack([self._own_codes(candidate) for candidate in own], axis=1),
            shape=shape,
            digits={party: self._digits(kept[party]) for party in self._parties.providers},
            peers={party: tuple(peer_of(candidate) for candidate in kept[party]) for party in self._parties.providers},
            label_cost=choice.label_cost,
            label_budget=choice.budget,
            dropped_peers=dropped_peers,
            counted={
                c.alias: replace(self._counted[c.alias], merge_map=c.merge_map)
                for party in self._parties.providers
                for c in kept[party]
                if self._recipe.binning.review_minutes
            },
        )

    def _binned(self, candidate: Candidate) -> BinnedFeature:
        peer = peer_of(candidate)
        return BinnedFeature(
            candidate.alias,
            self._binnings[candidate.alias],
            candidate.merge_map,
            peer.woe,
            peer.iv,
            peer.rows,
            peer.bads,
        )

    def _digits(self, candidates: Sequence[Candidate]) -> BinDigits:
        digits = []
        for candidate in candidates:
            own = self._counted[candidate.alias].digits
            if own is None:
                raise LocalProtocolError("ROLE_INVALID", "a provider's feature has no digits")
            digits.append(own)
        return BinDigits(tuple(digits)).merged([c.merge_map for c in candidates], self._layout.ring.modulus)


def peer_of(candidate: Candidate) -> PeerFeature:
    """What the label owner keeps of a provider's feature."""
    woe = tuple(woe_units(candidate.bin_rows, candidate.bin_bads).tolist())
    return PeerFeature(candidate.alias, woe, candidate.iv_units, candidate.bin_rows, candidate.bin_bads)
