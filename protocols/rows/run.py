"""The encryption of the rows, every party in this process."""

from __future__ import annotations

from collections.abc import Mapping

from protocols.disclosure import Ledger
from protocols.fixed_point import IntArray
from protocols.messages import Bounds
from protocols.roles import Parties
from protocols.rows.encryption import RowEncryption, RowMasks
from protocols.rows.messages import STEPS
from protocols.session import MemoryNetwork, Session, play_all
from protocols.sharing import Entropy

STAGE = "encrypt"


def run(
    parties: Parties,
    label: IntArray,
    features: Mapping[str, int],
    key_bits: int,
    entropy: Entropy,
    bounds: Bounds,
    *,
    context: bytes = b"in-process",
    minimum_key_bits: int = 2048,
    ledgers: Mapping[str, Ledger] | None = None,
    network: MemoryNetwork | None = None,
) -> dict[str, RowMasks]:
    """What each party holds afterwards. features: how many each party brings."""
    scripts = {
        party: RowEncryption(
            party,
            parties,
            rows=len(label),
            features=features[party],
            key_bits=key_bits,
            context=context,
            entropy=entropy,
            label=label if party == parties.label_owner else None,
            minimum_key_bits=minimum_key_bits,
        ).play()
        for party in parties.all
    }
    ledgers = ledgers or {party: Ledger(party) for party in parties.all}
    sessions = {party: Session(party, parties, STAGE, STEPS, bounds, ledgers[party]) for party in parties.all}
    return play_all(scripts, sessions, network)
