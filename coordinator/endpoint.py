"""The dealer's channel: a seat at the relay inside the coordinator's own process, with the same links as any party.

The coordinator is one more end of end-to-end encryption here, under its own identity from the contract: what it deals
reaches each party encrypted, and another process of the lab cannot pretend to be it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from coordinator.relay import Relay
from protocols.envelope import FrameQueue
from protocols.errors import TransportError
from protocols.linked_channel import SEND_QUEUE_BYTES, LinkedChannel
from protocols.roles import COORDINATOR
from protocols.secure_channel import Links, LinkTerms
from protocols.sharing import Entropy

FLUSH_TIMEOUT_S = 30.0


class DealerChannel(LinkedChannel):
    """`protocols.session.Channel` for 'coordinator'.

    Args: as for `party_agent.transport.RelayChannel`, with the relay itself in place of address and certificates.
    Raises: TransportError: JOB_UNKNOWN, ALREADY_CONNECTED.
    """

    def __init__(
        self,
        relay: Relay,
        *,
        identity: Ed25519PrivateKey,
        peers: Mapping[str, Ed25519PublicKey],
        contract_hash: bytes,
        job: str,
        roles: Mapping[str, str],
        attempt: int = 1,
        connect_timeout_s: float = 60.0,
        receive_timeout_s: float = 600.0,
        entropy: Entropy = os.urandom,
    ) -> None:
        links = Links(LinkTerms(COORDINATOR, job, attempt, contract_hash, roles, identity, peers), entropy)
        outbound = FrameQueue(SEND_QUEUE_BYTES)
        super().__init__(
            links,
            outbound,
            time.monotonic,
            connect_timeout_s=connect_timeout_s,
            receive_timeout_s=receive_timeout_s,
        )
        self._seat = relay.attach(job, COORDINATOR)
        self._reader = threading.Thread(target=self._read, name=f"dealer-read-{job}", daemon=True)
        self._writer = threading.Thread(target=self._write, name=f"dealer-write-{job}", daemon=True)
        self._reader.start()
        self._writer.start()

    def close(self) -> None:
        """Deliver what is queued to the relay, then leave the seat."""
        super().close()
        self._writer.join(FLUSH_TIMEOUT_S)
        self._seat.lose()
        self._reader.join(FLUSH_TIMEOUT_S)

    def _read(self) -> None:
        for frame in self._seat.inbound:
            self.deliver(frame)
        self.ended(TransportError("RELAY_UNREACHABLE", "the relay has ended the dealer's seat", "rerun the job"))

    def _write(self) -> None:
        for frame in self._outbound:
            if not self._seat.put(frame):
                return
