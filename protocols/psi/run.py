"""The whole intersection in one process: every role, in turn, over links that encode and decode as on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocols.disclosure import Ledger
from protocols.messages import Bounds
from protocols.psi.alignment import Alignment, Engine
from protocols.psi.blinding import Context
from protocols.psi.label_owner import LabelOwner
from protocols.psi.messages import STEPS_OF
from protocols.psi.provider import Provider
from protocols.roles import Parties
from protocols.session import MemoryNetwork, Script, Session, play_all
from protocols.sharing import Entropy

STAGE = "align"
IN_PROCESS = Context(contract_hash=bytes(32), job="in-process")


def run(
    ids: Mapping[str, Sequence[str]],
    parties: Parties,
    entropy: Entropy,
    *,
    context: Context = IN_PROCESS,
    row_choice: Entropy | None = None,
    training_share: float = 0.7,
    minimum_intersection: int = 1,
    ledgers: Mapping[str, Ledger] | None = None,
    network: MemoryNetwork | None = None,
    may_train: NDArray[np.bool_] | None = None,
    engine: Engine = "ecdh",
) -> dict[str, Alignment]:
    """Play all parties; the alignment of each, by name.

    Args: ids: party -> canonical, distinct ids in file order; ledgers: filled as the parties would fill theirs;
        network: the links, for a caller that wants to look at the messages or to change them; may_train: which of the
        label owner's rows may.
    Raises: SmallIntersectionError: fewer than `minimum_intersection` rows in common. RemoteProtocolError: a failed
        check.
    """
    largest = max(len(own) for own in ids.values())
    bounds = Bounds(rows=largest, set_size=largest, features=0, key_bytes=0)
    ledgers = ledgers or {name: Ledger(name) for name in parties.all}
    sessions = {name: Session(name, parties, STAGE, STEPS_OF[engine], bounds, ledgers[name]) for name in parties.all}
    owner = LabelOwner(
        ids[parties.label_owner],
        parties,
        context,
        entropy,
        row_choice,
        training_share,
        minimum_intersection,
        bounds.set_size,
        may_train,
        engine,
    )
    scripts: dict[str, Script[Alignment]] = {parties.label_owner: owner.play()}
    for name in parties.providers:
        provider = Provider(name, ids[name], parties, context, entropy, minimum_intersection, bounds.set_size, engine)
        scripts[name] = provider.play()
    return play_all(scripts, sessions, network)
