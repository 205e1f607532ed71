"""The whole fit, every party and the dealer in this process: for tests, and to be read beside section 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocols.binning.table import BinningTable
from protocols.disclosure import Ledger
from protocols.fixed_point import IntArray
from protocols.logistic.dealer import Dealer
from protocols.logistic.messages import STEPS
from protocols.logistic.party import Coefficients, FitRules, TrainingParty
from protocols.logistic.plan import Director
from protocols.messages import Bounds
from protocols.roles import COORDINATOR, Parties
from protocols.row_account import RowAccount
from protocols.rows.encryption import RowMasks
from protocols.session import MemoryNetwork, Script, Session, play_all
from protocols.sharing import Entropy
from protocols.spent import MemorySpentIndices

STAGE = "train"


def run(
    parties: Parties,
    tables: Mapping[str, BinningTable],
    label: IntArray,
    rows: Mapping[str, RowMasks],
    rules: FitRules,
    entropy: Entropy,
    bounds: Bounds,
    *,
    director: Director | None = None,
    accounts: Mapping[str, RowAccount] | None = None,
    ledgers: Mapping[str, Ledger] | None = None,
    network: MemoryNetwork | None = None,
) -> dict[str, Coefficients]:
    """Each party's own coefficients."""
    scripts: dict[str, Script[Any]] = {
        party: TrainingParty(
            party,
            parties,
            table=tables[party],
            rows=rows[party],
            rules=rules,
            entropy=entropy,
            spent=MemorySpentIndices(),
            label=label if party == parties.label_owner else None,
            account=accounts[party] if accounts else None,
            director=director if party == parties.label_owner else None,
        ).play()
        for party in parties.all
    }
    key_bits = rows[parties.label_owner].layout.key_bits
    scripts[COORDINATOR] = Dealer(parties, key_bits, entropy).play()
    everyone = (*parties.all, COORDINATOR)
    ledgers = ledgers or {party: Ledger(party) for party in everyone}
    sessions = {party: Session(party, parties, STAGE, STEPS, bounds, ledgers[party]) for party in everyone}
    results = play_all(scripts, sessions, network)
    return {party: results[party] for party in parties.all}
