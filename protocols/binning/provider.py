"""Binning and WOE: feature provider.

Source: PROTOCOLS.md section 2, docs/protocols/binning.md. Sends: rows and masked encrypted bads per pre-bin, under
aliases. Learns: for each feature that the gate keeps its merge map, WOE and IV; of the others only that they are
dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gmpy2 import mpz
from phe import PaillierPublicKey

from protocols.binning.correlation import uncorrelated
from protocols.binning.messages import (
    GateDecision,
    KeptFeature,
    ModelShape,
    PreBinnedFeature,
    PreBins,
    SelectedFeatures,
)
from protocols.binning.prebins import PreBinning, drop_indistinct
from protocols.binning.rules import MergeRule, rule_of
from protocols.binning.table import BinDigits, BinnedFeature, BinningTable, DroppedFeature
from protocols.binning.weight_of_evidence import implied_bads
from protocols.disclosure import Learned, Nature
from protocols.errors import DataError, check_failed
from protocols.fixed_point import IntArray, SlotLayout
from protocols.messages import require
from protocols.paillier import accumulate, seal, to_bytes
from protocols.recipe import FeatureRules, Recipe
from protocols.roles import Parties
from protocols.rows.encryption import RowMasks
from protocols.session import Opened, Progress, Script, receive, send
from protocols.sharing import Entropy, permutation, uniform_below

_GROUP = 24  # features accumulated between two reports of progress


@dataclass(frozen=True)
class Sealed:
    """A feature on its way to the gate, and the masks that only its owner knows."""

    message: PreBinnedFeature
    mask_digits: np.ndarray[tuple[int, int], np.dtype[np.object_]]  # (bins, T)


class FeatureProvider:
    """A provider at the gate.

    Args: codes: pre-bin of each training row and feature, shape (n, F); binnings: the F pre-binnings; rows: what the
        encryption of the rows left this party with; rules: how each feature is to be merged, the recipe's if None.
    """

    def __init__(
        self,
        name: str,
        parties: Parties,
        *,
        codes: IntArray,
        binnings: Sequence[PreBinning],
        rows: RowMasks,
        recipe: Recipe,
        entropy: Entropy,
        rules: Sequence[MergeRule] | None = None,
    ) -> None:
        self._name = name
        self._parties = parties
        self._recipe = recipe
        self._entropy = entropy
        self._rows = rows
        self._layout = rows.layout
        self._key = rows.keys[parties.label_owner]
        kept, dropped = drop_indistinct(codes, binnings)
        if len(kept) < 3:
            raise DataError(
                "TOO_FEW_COLUMNS",
                "fewer than 3 features can be binned without a pair of nearly equal bins",
                "bring more columns, or columns that repeat each other less",
            )
        order = [kept[i] for i in permutation(len(kept), entropy)]  # aliases are random
        self._dropped = tuple(DroppedFeature(binnings[i].feature, "", f"not sent: {why}") for i, why in dropped.items())
        self._binnings = [binnings[i] for i in order]
        rules = rules or [rule_of(recipe.binning, FeatureRules(), binning) for binning in binnings]
        self._rules = [rules[i] for i in order]
        self._codes = codes[:, order]
        width = max(2, len(str(len(order))))
        self._aliases = [f"{name}.{i + 1:0{width}d}" for i in range(len(order))]

    def play(self) -> Script[BinningTable]:
        """Steps 2 to 7."""
        sealed = yield from self._seal_features()
        yield from send(self._parties.label_owner, PreBins(tuple(item.message for item in sealed)))
        decision = yield from receive(self._parties.label_owner, GateDecision)
        features = self._check_decision(decision)
        unresolved = sum(count for _, _, count in features)
        if unresolved:
            yield Opened(
                (Learned("label counts per bin that 4 decimals of WOE do not resolve", unresolved, Nature.MASKED),)
            )
        chosen = self._select([feature for _, feature, _ in features])
        selected = [features[i] for i in chosen]
        yield from send(self._parties.label_owner, SelectedFeatures(tuple(feature.alias for _, feature, _ in selected)))
        shape = yield from receive(self._parties.label_owner, ModelShape)
        require(tuple(entry.party for entry in shape.parties) == self._parties.all)
        counts = {entry.party: entry.features for entry in shape.parties}
        require(counts[self._name] == len(selected))
        require(all(count >= 3 for count in counts.values()))
        masks = BinDigits(tuple(item.mask_digits for item in sealed)).take([i for i, _, _ in selected])
        left_out = [feature for i, (_, feature, _) in enumerate(features) if i not in chosen]
        return BinningTable(
            rows=self._layout.rows,
            bads=decision.bads,
            features=tuple(feature for _, feature, _ in selected),
            dropped=self._dropped
            + tuple(self._drop(alias, "dropped by the gate") for alias in decision.dropped)
            + tuple(self._drop(feature.alias, "correlation") for feature in left_out),
            codes=np.stack([self._merged_codes(i, feature) for i, feature, _ in selected], axis=1),
            shape=counts,
            digits={
                self._parties.label_owner: masks.merged(
                    [feature.merge_map for _, feature, _ in selected], self._layout.ring.modulus
                )
            },
            unresolved=unresolved,
            prebin_masks=masks.digits if self._recipe.binning.review_minutes else (),
        )

    def _seal_features(self) -> Script[list[Sealed]]:
        """Steps 2 and 3: per pre-bin the product of its rows' ciphertexts, masked and re-randomised."""
        encrypted = self._rows.encrypted[self._parties.label_owner]
        sealed: list[Sealed] = []
        total = len(self._binnings)
        for first in range(0, total, _GROUP):
            group = range(first, min(first + _GROUP, total))
            products = accumulate(encrypted, self._codes[:, group], [self._binnings[j].bins for j in group], self._key)
            sealed += [
                seal_feature(
                    self._aliases[j],
                    self._binnings[j],
                    self._rules[j],
                    self._codes[:, j],
                    products[j - first],
                    self._layout,
                    self._key,
                    self._entropy,
                )
                for j in group
            ]
            yield Progress("binned features", len(sealed), total)
        return sealed

    def _check_decision(self, decision: GateDecision) -> list[tuple[int, BinnedFeature, int]]:
        """Step 5: each feature is answered once, and the WOE are those of whole numbers of bads with one total."""
        answered = [kept.alias for kept in decision.kept] + list(decision.dropped)
        require(sorted(answered) == self._aliases and len(decision.kept) >= 3)
        require(0 < decision.bads < self._layout.rows)
        features = []
        for kept in decision.kept:
            index = self._aliases.index(kept.alias)
            features.append((index, *read_kept(kept, self._binnings[index], self._codes[:, index], decision.bads)))
        return sorted(features, key=lambda item: item[0])

    def _select(self, features: Sequence[BinnedFeature]) -> list[int]:
        design = np.stack(
            [feature.values[self._merged_codes(self._aliases.index(feature.alias), feature)] for feature in features],
            axis=1,
        )
        return uncorrelated(design, [feature.iv for feature in features], self._recipe.selection.maximum_correlation)

    def _merged_codes(self, index: int, feature: BinnedFeature) -> IntArray:
        merged: IntArray = np.asarray(feature.merge_map, dtype=np.int64)[self._codes[:, index]]
        return merged

    def _drop(self, alias: str, reason: str) -> DroppedFeature:
        return DroppedFeature(self._binnings[self._aliases.index(alias)].feature, alias, reason)


def seal_feature(
    alias: str,
    binning: PreBinning,
    rule: MergeRule,
    codes: IntArray,
    products: Sequence[mpz],
    layout: SlotLayout,
    key: PaillierPublicKey,
    entropy: Entropy,
) -> Sealed:
    """Step 3 for one feature: fresh masks on the product of each pre-bin, and fresh randomness.

    Args: codes: pre-bin of each training row, shape (n,); products: per pre-bin, of its rows' ciphertexts.
    """
    rows = np.bincount(codes, minlength=len(products)).tolist()
    masks = [uniform_below(1 << layout.label_shift, entropy) for _ in products]
    units = [1 << (layout.label_shift + n_b.bit_length()) for n_b in rows]
    above = [unit * uniform_below(int(key.n) // unit, entropy) for unit in units]
    plaintexts = [mask + high for mask, high in zip(masks, above, strict=True)]
    ciphertexts = seal(products, plaintexts, key, entropy)
    digits = [layout.digits(mask, layout.label_owner_slot) for mask in masks]
    slot = layout.label_owner_slot
    check = sum(digit[0] for digit in digits) % (1 << slot)
    message = PreBinnedFeature(
        alias=alias,
        ordered_bins=binning.ordered_bins,
        rows=tuple(rows),
        encrypted_bads=to_bytes(ciphertexts, key),
        mask_check=check.to_bytes((slot + 7) // 8, "little"),
        rule=rule,
    )
    return Sealed(message, np.array(digits, dtype=object) % layout.ring.modulus)


def read_kept(kept: KeptFeature, binning: PreBinning, codes: IntArray, bads: int) -> tuple[BinnedFeature, int]:
    """Step 5 for one feature: its bins, and of how many 4 decimals of WOE do not resolve the label count.

    Args: codes: pre-bin of each training row, shape (n,).
    Raises: RemoteProtocolError: the merge map is none, or no whole numbers of bads have these WOE.
    """
    merge_map = kept.merge_map
    require(len(merge_map) == binning.bins and len(kept.woe) >= 2)
    require(set(merge_map) == set(range(len(kept.woe))))
    merged = np.asarray(merge_map, dtype=np.int64)[codes]
    rows = np.bincount(merged, minlength=len(kept.woe)).tolist()
    implied = implied_bads(rows, kept.woe, bads)
    if implied is None:
        raise check_failed()
    counts = tuple(low if low == high else None for low, high in implied)
    feature = BinnedFeature(kept.alias, binning, merge_map, kept.woe, kept.iv, tuple(rows), counts)
    return feature, sum(count is None for count in counts)
