"""Screening across parties: which features of which party go, from the correlations of all parties' WOE columns.

Source: docs/protocols/moments.md, step 8; Belsley, Kuh & Welsch 1980 (variance inflation). Learns: the label owner, the
plain moments; a provider, which of its own features stay, and how many each party has left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from protocols.binning.correlation import LEAST_FEATURES, stronger_rivals
from protocols.binning.messages import PartyFeatures
from protocols.binning.table import BinningTable
from protocols.fixed_point import FloatArray
from protocols.messages import require
from protocols.moments.inference import correlation as correlation_of
from protocols.moments.inference import inflation_factors
from protocols.moments.messages import ScreenedFeatures
from protocols.moments.of_fit import MomentsOfFit
from protocols.roles import Parties
from protocols.session import Script, receive, send


@dataclass(frozen=True)
class ScreeningRules:
    """What the recipe says; None: no such cut. correlation: largest |correlation|; inflation: largest VIF."""

    correlation: float | None
    inflation: float | None


@dataclass(frozen=True)
class Overlap:
    """A feature beyond a cut. value: its VIF; with `rival`, its |correlation| with that feature. Both are places."""

    place: int
    value: float
    rival: int | None = None


@dataclass(frozen=True)
class Screening:
    """kept: places, ascending; left_out: in the order in which they went; held: beyond a cut, but their party has no
    more than `LEAST_FEATURES`.
    """

    kept: tuple[int, ...]
    left_out: tuple[Overlap, ...]
    held: tuple[Overlap, ...]


def screen(correlation: FloatArray, iv: Sequence[int], owners: Sequence[str], rules: ScreeningRules) -> Screening:
    """What the cuts leave of the features of all parties.

    First correlation, as within a party (`stronger_rivals`). Then, while a VIF among the features that stay exceeds its
    cut, the greatest goes; of equal ones that of lowest IV, then the later place. A party keeps 3 in either step.
    Args: correlation: shape (d, d); iv: units of 1e-3; owners: the party of each feature.
    """
    left_out: list[Overlap] = []
    held: list[Overlap] = []
    kept = list(range(len(owners)))
    if rules.correlation is not None:
        rivals, stay = stronger_rivals(correlation, iv, owners, rules.correlation)
        for j in sorted(rivals, key=lambda j: (-iv[j], j)):
            overlap = Overlap(j, float(abs(correlation[j, rivals[j]])), rivals[j])
            (held if j in stay else left_out).append(overlap)
        kept = [j for j in kept if j not in rivals or j in stay]
    if rules.inflation is None:
        return Screening(tuple(kept), tuple(left_out), tuple(held))
    while True:
        factors = inflation_factors(correlation[np.ix_(kept, kept)]).tolist()
        beyond = [(j, value) for j, value in zip(kept, factors, strict=True) if value > rules.inflation]
        spare = [item for item in beyond if _count(owners[item[0]], kept, owners) > LEAST_FEATURES]
        if not spare:
            held += [Overlap(j, value) for j, value in beyond]
            return Screening(tuple(kept), tuple(left_out), tuple(held))
        out, value = max(spare, key=lambda item: (item[1], -iv[item[0]], item[0]))
        left_out.append(Overlap(out, value))
        kept.remove(out)


def _count(owner: str, kept: Sequence[int], owners: Sequence[str]) -> int:
    return sum(owners[j] == owner for j in kept)


class KnownCorrelations(Protocol):
    """Where the label owner keeps the correlations that opened, durably, before it sends anything made of them."""

    @property
    def correlation(self) -> FloatArray | None:
        """Of all features in the order of the moments; None: they have not opened."""

    def keep(self, correlation: FloatArray) -> None:
        """Take over what opened."""


@dataclass(frozen=True)
class Feature:
    """A model feature of any party, as the label owner knows it. iv: units of 1e-3."""

    party: str
    alias: str
    iv: int


def features_of(table: BinningTable, parties: Parties) -> tuple[Feature, ...]:
    """The features of all parties in the order of the moments, from the label owner's table."""
    own = [Feature(parties.label_owner, feature.alias, feature.iv) for feature in table.features]
    peers = [Feature(party, peer.alias, peer.iv) for party in parties.providers for peer in table.peers[party]]
    return (*own, *peers)


def lead_screening(part: MomentsOfFit, rules: ScreeningRules, known: KnownCorrelations) -> Script[Screening | None]:
    """The label owner's part of the stage; None: moments could not open, and all features stay.

    Correlations that an earlier attempt opened are used again, and nothing opens then.
    """
    opened = yield from replace(part, willing=known.correlation is None).lead(None)
    if opened is not None:
        known.keep(correlation_of(opened))
    correlation, providers = known.correlation, part.parties.providers
    if correlation is None:
        yield from send(providers, ScreenedFeatures((), ()))
        return None
    features = features_of(part.table, part.parties)
    found = screen(correlation, [f.iv for f in features], [f.party for f in features], rules)
    kept = [features[place] for place in found.kept]
    shape = tuple(PartyFeatures(party, sum(f.party == party for f in kept)) for party in part.parties.all)
    for party in providers:
        yield from send(party, ScreenedFeatures(tuple(f.alias for f in kept if f.party == party), shape))
    return found


def follow_screening(part: MomentsOfFit) -> Script[ScreenedFeatures | None]:
    """A provider's part; None: moments could not open, and all features stay.

    Raises: RemoteProtocolError: CHECK_FAILED: features that are not there, or fewer than 3 of a party.
    """
    yield from part.follow(None)
    message = yield from receive(part.parties.label_owner, ScreenedFeatures)
    if not message.parties:
        require(not message.kept)
        return None
    require(tuple(entry.party for entry in message.parties) == part.parties.all)
    counts = {entry.party: entry.features for entry in message.parties}
    require(all(LEAST_FEATURES <= count <= part.table.shape[party] for party, count in counts.items()))
    own = [feature.alias for feature in part.table.features]
    require(message.kept == tuple(alias for alias in own if alias in message.kept))
    require(counts[part.name] == len(message.kept))
    return message
