"""The artefacts of binning: a party's own table of bins, and the digits that the offline half of the gradient needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.binning.prebins import PreBinning
from protocols.binning.rules import MergeRule
from protocols.binning.weight_of_evidence import feature_values
from protocols.fixed_point import IntArray


@dataclass(frozen=True)
class BinnedFeature:
    """One own feature that the gate kept.

    merge_map: pre-bin -> bin; woe: 1e-4 a bin; iv: 1e-3; rows: training rows a bin; bads: a bin, or None where 4
    decimals of WOE do not resolve one count.
    """

    alias: str
    binning: PreBinning
    merge_map: tuple[int, ...]
    woe: tuple[int, ...]
    iv: int
    rows: tuple[int, ...]
    bads: tuple[int | None, ...]

    @property
    def name(self) -> str:
        """The feature's own name; it never leaves its party unless the contract opens it."""
        return self.binning.feature

    @property
    def values(self) -> IntArray:
        """x_b of each bin: its WOE at 2^16."""
        return feature_values(self.woe)

    def codes(self, values: NDArray[Any]) -> IntArray:
        """The bin of each raw value, shape (n,)."""
        codes: IntArray = np.asarray(self.merge_map, dtype=np.int64)[self.binning.codes(values)]
        return codes

    def labels(self, digits: int | None = None) -> tuple[str, ...]:
        """A readable name of each bin."""
        return self.binning.merged_labels(self.merge_map, digits)


@dataclass(frozen=True)
class DroppedFeature:
    """An own feature that is not in the model, and why."""

    name: str
    alias: str
    reason: str


@dataclass(frozen=True)
class BinDigits:
    """Per feature and bin, T integers modulo 2^l: at `A` digits of what it decrypted, at a provider its masks.

    Their difference is the sum of A's masks over the rows of the bin.
    """

    digits: tuple[NDArray[np.object_], ...] = field(repr=False)  # per feature, shape (bins, T)

    def weighted(self, values: Sequence[IntArray], modulus: int) -> list[list[int]]:
        """sum_b x_b digit_b[t] mod 2^l, as T lists of d integers (PROTOCOLS.md section 3, offline 1)."""
        columns = [
            (np.array([int(v) for v in x], dtype=object) @ digits) % modulus
            for x, digits in zip(values, self.digits, strict=True)
        ]
        return [[int(value) for value in row] for row in zip(*columns, strict=True)]

    def merged(self, maps: Sequence[Sequence[int]], modulus: int) -> BinDigits:
        """Digits of merged bins: sums over the pre-bins of each."""
        merged = []
        for digits, merge_map in zip(self.digits, maps, strict=True):
            total = np.zeros((max(merge_map) + 1, digits.shape[1]), dtype=object)
            for prebin, target in enumerate(merge_map):
                total[target] = (total[target] + digits[prebin]) % modulus
            merged.append(total)
        return BinDigits(tuple(merged))

    def put(self, feature: int, digits: NDArray[np.object_]) -> BinDigits:
        """The same with other digits of one feature."""
        return BinDigits((*self.digits[:feature], digits, *self.digits[feature + 1 :]))

    def take(self, features: Sequence[int]) -> BinDigits:
        """The digits of some of the features, in the order given."""
        return BinDigits(tuple(self.digits[f] for f in features))


@dataclass(frozen=True)
class Counted:
    """A feature at the gate: counts per pre-bin, and for a provider's the digits of the decrypted mask sums.

    merge_map: pre-bin -> bin, once it is in the model.
    """

    party: str
    rows: tuple[int, ...]
    bads: tuple[int, ...]
    ordered_bins: int
    rule: MergeRule
    digits: NDArray[np.object_] | None = field(default=None, repr=False)  # shape (bins, T)
    merge_map: tuple[int, ...] = ()


@dataclass(frozen=True)
class PeerFeature:
    """What `A` knows of a provider's feature in the model: no name, no edge."""

    alias: str
    woe: tuple[int, ...]
    iv: int
    rows: tuple[int, ...]
    bads: tuple[int, ...]


@dataclass(frozen=True)
class DroppedPeer:
    """A provider's feature that is not in the model; its IV (1e-3) and the reason stay with the label owner."""

    alias: str
    iv: int
    reason: str


@dataclass(frozen=True)
class BinningTable:
    """A party's part of the joint binning.

    features: own features in the model, in model order; codes: bin of each training row and feature, shape (n, d);
    shape: model features by party; digits: offline half of the gradient by the *other* party's name (at a provider: its
    masks, under `A`'s name; at `A`: the decrypted digits of each provider's features, under the provider's name);
    peers: what `A` knows of the providers' model features; unresolved: bins whose label count 4 decimals do not pin
    down. Until a review has ended, where the recipe asks for one: counted: at `A` each provider feature in the model by
    alias; prebin_masks: at a provider the masks of each model feature, shape (pre-bins, T).
    """

    rows: int
    bads: int
    features: tuple[BinnedFeature, ...]
    dropped: tuple[DroppedFeature, ...]
    codes: IntArray = field(repr=False)
    shape: Mapping[str, int]
    digits: Mapping[str, BinDigits] = field(repr=False)
    peers: Mapping[str, tuple[PeerFeature, ...]] = field(default_factory=dict)
    label_cost: float = 0.0
    label_budget: float = 0.0
    dropped_peers: Mapping[str, tuple[DroppedPeer, ...]] = field(default_factory=dict)
    unresolved: int = 0
    counted: Mapping[str, Counted] = field(default_factory=dict, repr=False)
    prebin_masks: tuple[NDArray[np.object_], ...] = field(default=(), repr=False)

    def without(self, name: str, left_out: Mapping[str, Mapping[str, str]]) -> BinningTable:
        """The table of `name` after a selection left features out; of others' numbers it knows those that it is told.

        Args: left_out: by party, alias -> reason; at a provider, its own.
        """

        def stay(party: str, aliases: Sequence[str]) -> list[int]:
            return [i for i, alias in enumerate(aliases) if alias not in left_out.get(party, {})]

        own = stay(name, [feature.alias for feature in self.features])
        peers = {party: stay(party, [peer.alias for peer in known]) for party, known in self.peers.items()}
        gone = [feature for i, feature in enumerate(self.features) if i not in own]
        return replace(
            self,
            features=tuple(self.features[i] for i in own),
            dropped=(*self.dropped, *(DroppedFeature(f.name, f.alias, left_out[name][f.alias]) for f in gone)),
            codes=self.codes[:, own],
            shape={party: len(peers[party]) if party in peers else n for party, n in self.shape.items()}
            | {name: len(own)},
            digits={party: digits.take(peers.get(party, own)) for party, digits in self.digits.items()},
            peers={party: tuple(known[i] for i in peers[party]) for party, known in self.peers.items()},
            dropped_peers={
                party: known
                + tuple(
                    DroppedPeer(p.alias, p.iv, left_out[party][p.alias])
                    for p in _others(self.peers[party], peers[party])
                )
                for party, known in self.dropped_peers.items()
            },
        )

    @property
    def design(self) -> IntArray:
        """X: the WOE of each row and feature at 2^16, shape (n, d)."""
        columns = [feature.values[self.codes[:, j]] for j, feature in enumerate(self.features)]
        return np.stack(columns, axis=1)


def _others(peers: Sequence[PeerFeature], kept: Sequence[int]) -> list[PeerFeature]:
    return [peer for i, peer in enumerate(peers) if i not in kept]
