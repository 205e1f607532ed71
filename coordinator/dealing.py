"""A dealer thread for one job: the coordinator's own seat at the relay, played by the same role object as in tests."""

from __future__ import annotations

import os
import threading

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.endpoint import DealerChannel
from coordinator.relay import Relay
from protocols.contract import Contract, JobDocument, JobKind
from protocols.disclosure import Ledger
from protocols.errors import ConcordatError
from protocols.logistic.dealer import Dealer
from protocols.logistic.messages import STEPS as TRAIN_STEPS
from protocols.messages import Bounds
from protocols.recipe import recipe_from_canonical
from protocols.roles import COORDINATOR
from protocols.session import Player, Session

LONGEST_JOB_S = 24 * 3600.0
_MOST_ROWS = 1 << 27
_WITHOUT_DEALER = frozenset({JobKind.SCORE})


def start_dealer(
    relay: Relay,
    identity: Ed25519PrivateKey,
    contract: Contract,
    document: JobDocument,
    *,
    longest_s: float = LONGEST_JOB_S,
) -> threading.Thread:
    """Take the coordinator's seat in an open job, and deal until the job ends.

    Args: identity: the coordinator's; document: the job, verified under `contract`; longest_s: how long a silent
        peer is waited for.
    Raises: TransportError: JOB_UNKNOWN, ALREADY_CONNECTED; RecipeError: the document's recipe is not one.
    """
    recipe = recipe_from_canonical(document.recipe.encode())
    key_bits = recipe.keys.bits
    parties = contract.parties
    bounds = Bounds(rows=_MOST_ROWS, set_size=0, features=0, key_bytes=key_bits // 8)
    session = Session(COORDINATOR, parties, "train", TRAIN_STEPS, bounds, Ledger(COORDINATOR))
    script = Dealer(parties, key_bits, os.urandom, weighted=recipe.model.weighted).play()
    channel = DealerChannel(
        relay,
        identity=identity,
        peers=contract.peers(COORDINATOR),
        contract_hash=contract.hash(),
        job=document.job,
        roles=contract.roles(),
        attempt=document.attempt,
        receive_timeout_s=longest_s,
        connect_timeout_s=longest_s,
    )

    def deal() -> None:
        try:
            if document.kind in _WITHOUT_DEALER:
                channel.wait_for_peers()
            else:
                Player(script, session, channel).run()
        except ConcordatError as error:
            channel.abort(error.code)
        finally:
            channel.close()

    thread = threading.Thread(target=deal, name=f"dealer-{document.job}", daemon=True)
    thread.start()
    return thread
