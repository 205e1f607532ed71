"""The whole of binning, every party in this process: for tests, and to be read beside PROTOCOLS.md section 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protocols.binning.label_owner import LabelOwner
from protocols.binning.messages import STEPS
from protocols.binning.prebins import PreBinning
from protocols.binning.provider import FeatureProvider
from protocols.binning.table import BinningTable
from protocols.disclosure import Ledger
from protocols.fixed_point import IntArray
from protocols.messages import Bounds
from protocols.recipe import Recipe
from protocols.roles import Parties
from protocols.rows.encryption import RowMasks
from protocols.session import MemoryNetwork, Script, Session, play_all
from protocols.sharing import Entropy

STAGE = "bin"


def run(
    parties: Parties,
    prebinned: Mapping[str, tuple[IntArray, Sequence[PreBinning]]],
    label: IntArray,
    rows: Mapping[str, RowMasks],
    recipe: Recipe,
    entropy: Entropy,
    bounds: Bounds,
    *,
    ledgers: Mapping[str, Ledger] | None = None,
    network: MemoryNetwork | None = None,
) -> dict[str, BinningTable]:
    """The binning table of each party.

    Args: prebinned: pre-bin codes (n, F) and pre-binnings by party; label: 0/1 a row; rows: from `protocols.rows`.
    """
    scripts: dict[str, Script[Any]] = {}
    for party in parties.all:
        codes, binnings = prebinned[party]
        if party == parties.label_owner:
            owner = LabelOwner(parties, codes=codes, binnings=binnings, label=label, rows=rows[party], recipe=recipe)
            scripts[party] = owner.play()
        else:
            provider = FeatureProvider(
                party, parties, codes=codes, binnings=binnings, rows=rows[party], recipe=recipe, entropy=entropy
            )
            scripts[party] = provider.play()
    ledgers = ledgers or {party: Ledger(party) for party in parties.all}
    sessions = {party: Session(party, parties, STAGE, STEPS, bounds, ledgers[party]) for party in parties.all}
    return play_all(scripts, sessions, network)
