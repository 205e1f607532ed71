"""Scoring, every party in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocols.disclosure import Ledger
from protocols.fixed_point import IntArray
from protocols.messages import Bounds
from protocols.roles import Parties
from protocols.scoring.label_owner import ScoringOwner, Totals
from protocols.scoring.messages import SCORE_STEPS
from protocols.scoring.provider import ScoringProvider
from protocols.session import MemoryNetwork, Script, Session, play_all
from protocols.sharing import Entropy
from protocols.spent import MemorySpentIndices

STAGE = "score"


def run(
    parties: Parties,
    points: Mapping[str, IntArray],
    entropy: Entropy,
    bounds: Bounds,
    *,
    request: str = "in-process",
    ledgers: Mapping[str, Ledger] | None = None,
    network: MemoryNetwork | None = None,
) -> Totals:
    """The label owner's totals. points: partial points of each party, shape (n,)."""
    owner = parties.label_owner
    scripts: dict[str, Script[Any]] = {owner: ScoringOwner(parties, request=request, points=points[owner]).play()}
    for party in parties.providers:
        provider = ScoringProvider(
            party, parties, request=request, points=points[party], entropy=entropy, spent=MemorySpentIndices()
        )
        scripts[party] = provider.play()
    ledgers = ledgers or {party: Ledger(party) for party in parties.all}
    sessions = {party: Session(party, parties, STAGE, SCORE_STEPS, bounds, ledgers[party]) for party in parties.all}
    totals: Totals = play_all(scripts, sessions, network)[owner]
    return totals
