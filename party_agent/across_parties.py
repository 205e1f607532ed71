"""Screening across parties in a job: what it left out and why, what an attempt that broke off had opened, and VIF.

The rule is `protocols.moments.screening`. The label owner knows the reason of each feature; a provider, that a feature
of its own went in this step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from party_agent.artefacts import Stored, bins_identity
from party_agent.checkpoint import Blobs, Checkpoints, pack_array, unpack_array
from party_agent.dataset import Finding
from protocols.binning.correlation import LEAST_FEATURES
from protocols.binning.table import BinningTable
from protocols.fixed_point import FloatArray
from protocols.moments.inference import MOST_INFLATION, inflation_factors
from protocols.moments.messages import ScreenedFeatures
from protocols.moments.of_fit import MomentsOfFit
from protocols.moments.screening import (
    Overlap,
    Screening,
    ScreeningRules,
    features_of,
    follow_screening,
    lead_screening,
)
from protocols.recipe import Recipe
from protocols.session import Script

SCREEN = "screen"
ACROSS = "across parties"  # the step of the screening, and how the reason of each feature that went there begins
NOT_OPENED = "SCREENING_NOT_OPENED"
HELD = "SCREENING_HELD"
_CORRELATION = "correlation"


@dataclass(frozen=True)
class Screened:
    """What one party knows after the stage.

    opened: whether moments did; where not, all features stay. shape: features by party; left_out: by party, alias ->
    reason, at a provider its own; held: sentences on features that stay beyond a cut; aliases, correlation: of the
    features that stay, at the label owner, in the order of the moments.
    """

    opened: bool
    shape: Mapping[str, int]
    left_out: Mapping[str, Mapping[str, str]]
    held: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    correlation: FloatArray | None = field(default=None, repr=False)

    def table(self, name: str, bins: BinningTable) -> BinningTable:
        """The bins of `name` without what went."""
        return replace(bins.without(name, self.left_out), shape=dict(self.shape))

    def inflation(self, aliases: Sequence[str]) -> FloatArray | None:
        """VIF of each of these features among them, shape (d,); None at a provider, and where nothing opened."""
        if self.correlation is None:
            return None
        places = [self.aliases.index(alias) for alias in aliases]
        return inflation_factors(self.correlation[np.ix_(places, places)])

    def findings(self) -> tuple[Finding, ...]:
        """What the party's own report says of features that stay beyond a cut."""
        return tuple(Finding(HELD, 1, sentence) for sentence in self.held)


NOT_OPENED_FINDING = Finding(
    NOT_OPENED,
    1,
    "No screening across parties: exact moments of a feature were opened before under this contract, or by an attempt "
    "that broke off. All features stay; a new version of the contract opens them anew.",
)


def rules_of(recipe: Recipe) -> ScreeningRules:
    """The cuts of a recipe."""
    return ScreeningRules(recipe.selection.maximum_cross_correlation, recipe.selection.maximum_vif)


class CorrelationsOnDisk:
    """`KnownCorrelations` in a checkpoint of the job. bins: that the correlations are of."""

    def __init__(self, checkpoints: Checkpoints, bins: BinningTable) -> None:
        self._checkpoints = checkpoints
        self._of = bins_identity(bins)
        self.correlation: FloatArray | None = None
        if checkpoints.has(_CORRELATION):
            header, blobs = checkpoints.load(_CORRELATION)
            if header["of"] == self._of:
                self.correlation = unpack_array(blobs["correlation"])

    def keep(self, correlation: FloatArray) -> None:
        """See `KnownCorrelations.keep`."""
        self.correlation = correlation
        self._checkpoints.save(_CORRELATION, {"of": self._of}, {"correlation": pack_array(correlation)})


def screening(part: MomentsOfFit, recipe: Recipe, known: CorrelationsOnDisk) -> Script[Screened]:
    """One party's part of the stage."""
    if part.name != part.parties.label_owner:
        return _told(part, (yield from follow_screening(part)))
    return _found(part, (yield from lead_screening(part, rules_of(recipe), known)), known)


def _told(part: MomentsOfFit, message: ScreenedFeatures | None) -> Screened:
    if message is None:
        return Screened(False, dict(part.table.shape), {})
    gone = {f.alias: ACROSS for f in part.table.features if f.alias not in message.kept}
    return Screened(True, {entry.party: entry.features for entry in message.parties}, {part.name: gone})


def _found(part: MomentsOfFit, found: Screening | None, known: CorrelationsOnDisk) -> Screened:
    if found is None or known.correlation is None:
        return Screened(False, dict(part.table.shape), {})
    features = features_of(part.table, part.parties)
    names = [feature.name for feature in part.table.features]
    names += [feature.alias for feature in features[len(names) :]]
    left_out: dict[str, dict[str, str]] = {}
    for overlap in found.left_out:
        feature = features[overlap.place]
        left_out.setdefault(feature.party, {})[feature.alias] = f"{ACROSS}: {_words(overlap, names)}"
    held = tuple(
        f"{names[item.place]}: {_words(item, names)}; it stays, since {features[item.place].party} keeps "
        f"{LEAST_FEATURES} features."
        for item in found.held
    )
    kept = [features[place] for place in found.kept]
    return Screened(
        True,
        {party: sum(feature.party == party for feature in kept) for party in part.parties.all},
        left_out,
        held,
        tuple(feature.alias for feature in kept),
        known.correlation[np.ix_(found.kept, found.kept)],
    )


def _words(overlap: Overlap, names: Sequence[str]) -> str:
    if overlap.rival is not None:
        return f"correlation {overlap.value:.3f} with {names[overlap.rival]}"
    return "VIF infinite" if overlap.value >= MOST_INFLATION else f"VIF {overlap.value:.2f}"


def screened_to(value: Screened) -> Stored:
    """For a checkpoint."""
    header = {
        "opened": value.opened,
        "shape": dict(value.shape),
        "left_out": {party: dict(reasons) for party, reasons in value.left_out.items()},
        "held": list(value.held),
        "aliases": list(value.aliases),
    }
    return header, {} if value.correlation is None else {"correlation": pack_array(value.correlation)}


def screened_from(header: dict[str, Any], blobs: Blobs) -> Screened:
    """Inverse of `screened_to`."""
    return Screened(
        header["opened"],
        header["shape"],
        header["left_out"],
        tuple(header["held"]),
        tuple(header["aliases"]),
        unpack_array(blobs["correlation"]) if "correlation" in blobs else None,
    )
