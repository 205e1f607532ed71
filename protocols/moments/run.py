"""Second moments, every party in this process: for tests, and to be read beside docs/protocols/moments.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocols.binning.table import BinningTable
from protocols.disclosure import Ledger
from protocols.messages import Bounds
from protocols.moments.label_owner import LabelOwner, Moments
from protocols.moments.layout import MomentKind, WorkingResponse
from protocols.moments.messages import STEPS
from protocols.moments.permission import MomentPermission
from protocols.moments.provider import FeatureProvider
from protocols.roles import Parties
from protocols.rows.encryption import RowMasks
from protocols.session import MemoryNetwork, Script, Session, play_all
from protocols.sharing import Entropy

STAGE = "moments"


def scripts_of(
    parties: Parties,
    tables: Mapping[str, BinningTable],
    rows: Mapping[str, RowMasks],
    entropy: Entropy,
    permissions: Mapping[str, MomentPermission],
    *,
    working: WorkingResponse | None = None,
    context: bytes = b"in-process",
    minimum_key_bits: int = 2048,
) -> dict[str, Script[Any]]:
    """Every party's script. Args: tables, rows: what binning and the encryption of the rows left, by party."""
    owner = parties.label_owner
    scripts: dict[str, Script[Any]] = {
        owner: LabelOwner(
            parties,
            table=tables[owner],
            rows=rows[owner],
            permission=permissions[owner],
            context=context,
            entropy=entropy,
            working=working,
            minimum_key_bits=minimum_key_bits,
        ).play()
    }
    for party in parties.providers:
        scripts[party] = FeatureProvider(
            party,
            parties,
            table=tables[party],
            rows=rows[party],
            kind=MomentKind.PLAIN if working is None else MomentKind.WEIGHTED,
            permission=permissions[party],
            context=context,
            entropy=entropy,
            minimum_key_bits=minimum_key_bits,
        ).play()
    return scripts


def run(
    parties: Parties,
    tables: Mapping[str, BinningTable],
    rows: Mapping[str, RowMasks],
    entropy: Entropy,
    permissions: Mapping[str, MomentPermission],
    bounds: Bounds,
    *,
    working: WorkingResponse | None = None,
    context: bytes = b"in-process",
    minimum_key_bits: int = 2048,
    ledgers: Mapping[str, Ledger] | None = None,
    network: MemoryNetwork | None = None,
) -> Moments:
    """What the label owner learns. working: of the final fit, or None for moments without weights."""
    scripts = scripts_of(
        parties,
        tables,
        rows,
        entropy,
        permissions,
        working=working,
        context=context,
        minimum_key_bits=minimum_key_bits,
    )
    ledgers = ledgers or {party: Ledger(party) for party in parties.all}
    sessions = {party: Session(party, parties, STAGE, STEPS, bounds, ledgers[party]) for party in parties.all}
    moments: Moments = play_all(scripts, sessions, network)[parties.label_owner]
    return moments
