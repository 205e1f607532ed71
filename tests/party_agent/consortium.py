"""A relay on loopback and the channels of its parties, for tests and benchmarks of the data plane."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.certificates import Authority
from coordinator.endpoint import DealerChannel
from coordinator.relay import Relay
from party_agent.transport import RelayChannel, TlsFiles

JOB = "job-1"
CONTRACT = bytes(range(32))


class Consortium:
    """One relay, one job, throwaway certificates and identities; `close` ends what is left."""

    def __init__(
        self, folder: Path, names: Sequence[str] = ("bank", "bureau"), relay: Callable[..., Relay] = Relay
    ) -> None:
        self.folder = folder
        self.names = tuple(names)
        self.members = (*names, "coordinator")
        self.authority = Authority(datetime.datetime.now(datetime.UTC))
        self.identities = {name: Ed25519PrivateKey.generate() for name in self.members}
        self.roles = dict.fromkeys(names, "feature provider") | {"coordinator": "coordinator"}
        self.relay = relay(self.authority.server(folder / "relay"), {JOB: self.members})
        self.address = f"127.0.0.1:{self.relay.start()}"

    def tls(self, name: str) -> TlsFiles:
        files = self.authority.client(self.folder / name, name)
        return TlsFiles(files.ca, files.certificate, files.key)

    def terms(self, name: str, **changes: Any) -> dict[str, Any]:
        peers = {n: key.public_key() for n, key in self.identities.items() if n != name}
        terms = {
            "identity": self.identities[name],
            "peers": peers,
            "contract_hash": CONTRACT,
            "job": JOB,
            "roles": self.roles,
            "connect_timeout_s": 5.0,
            "receive_timeout_s": 10.0,
        }
        return terms | changes

    def party(self, name: str, **changes: Any) -> RelayChannel:
        return RelayChannel(self.address, self.tls(name), me=name, **self.terms(name, **changes))

    def dealer(self, **changes: Any) -> DealerChannel:
        return DealerChannel(self.relay, **self.terms("coordinator", **changes))

    def connect(self) -> dict[str, Any]:
        """Every member's channel, all linked."""
        channels: dict[str, Any] = {name: self.party(name) for name in self.names}
        channels["coordinator"] = self.dealer()
        in_parallel([channel.wait_for_peers for channel in channels.values()])
        return channels

    def close(self) -> None:
        self.relay.close(grace_s=0.2)


def in_parallel(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run the calls at once; their results, or the errors they raised, in order."""

    def outcome(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(outcome, calls))
