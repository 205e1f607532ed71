"""Whom this institution deals with: identity keys, told by the lab, believed once twelve words were compared.

unverified -> verified: two people read the words to each other over the telephone. verified -> changed: the lab now
tells another key under that name; whoever is behind it, nothing is signed with it until the words were compared again.
The lab's own identity, 'coordinator', is pinned by joining: it came over TLS of the authority that the token names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Engine, RowMapping, insert, select, update

from party_agent.agent_store import open_store, store_errors
from party_agent.tables import peers
from protocols.enrolment import check_name
from protocols.errors import ContractViolationError, TransportError
from protocols.fingerprint_words import matches, words
from protocols.roles import COORDINATOR

MOST_MEMBERS = 1_000


class PeerState(Enum):
    """How far a peer's identity is believed."""

    UNVERIFIED = "unverified"
    VERIFIED = "verified"
    CHANGED = "changed"


@dataclass(frozen=True)
class Peer:
    """A member of the lab. identity: hex, as the lab last told it; enrolment: active or revoked, as it told too."""

    name: str
    identity: str
    state: PeerState
    enrolment: str

    @property
    def words(self) -> tuple[str, ...]:
        """The twelve words of the identity that the lab tells."""
        return words(_key(self.identity))


class PeerBook:
    """The peers in the agent's database.

    Args: engine: of `open_store`; clock: Unix seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    @classmethod
    def open(cls, folder: Path, clock: Callable[[], float] = time.time) -> Self:
        """The peers of the institution in `folder`; a context manager."""
        return cls(open_store(folder), clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._engine.dispose()

    def all(self) -> list[Peer]:
        """Every peer, by name."""
        with store_errors(), self._engine.connect() as connection:
            rows = connection.execute(select(peers).order_by(peers.c.name)).mappings().all()
        return [_peer(row) for row in rows]

    def get(self, name: str) -> Peer:
        """One peer.

        Raises: ContractViolationError: PEER_UNKNOWN.
        """
        with store_errors(), self._engine.connect() as connection:
            row = connection.execute(select(peers).where(peers.c.name == name)).mappings().one_or_none()
        if row is None:
            raise ContractViolationError(
                "PEER_UNKNOWN", "the lab has not told of a member of this name", "run `concordat-party peers`"
            )
        return _peer(row)

    def refresh(self, answer: Mapping[str, Any], me: str) -> list[Peer]:
        """Take over what the lab tells of its members; what was pinned stays pinned.

        Args: answer: of `RestClient.members`; me: this institution, which is no peer of its own.
        Raises: TransportError: LAB_ANSWER_INVALID.
        """
        told = _members(answer)
        with store_errors(), self._engine.begin() as connection:
            known = set(connection.execute(select(peers.c.name)).scalars())
            for name, (identity, enrolment) in told.items():
                values = {"identity": identity, "enrolment": enrolment}
                if name == me:
                    continue
                if name in known:
                    connection.execute(update(peers).where(peers.c.name == name).values(values))
                else:
                    connection.execute(insert(peers).values(name=name, **values))
        return self.all()

    def verify(self, name: str, spoken: str, *, replace: bool = False) -> Peer:
        """Pin a peer whose words were read over the telephone.

        Args: spoken: the twelve words as heard; replace: the peer has a new identity, and the words are that one's.
        Raises: ContractViolationError: PEER_UNKNOWN, WORDS_DIFFER, PEER_CHANGED.
        """
        peer = self.get(name)
        if peer.state is PeerState.CHANGED and not replace:
            raise _changed()
        if not matches(spoken, _key(peer.identity)):
            raise ContractViolationError(
                "WORDS_DIFFER",
                "these are not the twelve words of the identity that the lab tells for this member",
                "have all twelve read again; if they still differ, the lab has another key for that name",
            )
        with store_errors(), self._engine.begin() as connection:
            changed = update(peers).where(peers.c.name == name, peers.c.identity == peer.identity)
            connection.execute(changed.values(pinned=peer.identity, pinned_at=int(self._clock())))
        return self.get(name)

    def pin_lab(self, identity: str) -> None:
        """Pin the lab's own identity, at joining."""
        values = {"identity": identity, "pinned": identity, "pinned_at": int(self._clock()), "enrolment": "active"}
        with store_errors(), self._engine.begin() as connection:
            done = connection.execute(update(peers).where(peers.c.name == COORDINATOR).values(values))
            if done.rowcount == 0:
                connection.execute(insert(peers).values(name=COORDINATOR, **values))

    def pinned(self, name: str) -> Ed25519PublicKey:
        """The identity key that was compared out of band.

        Raises: ContractViolationError: PEER_UNKNOWN, PEER_UNVERIFIED, PEER_CHANGED.
        """
        peer = self.get(name)
        if peer.state is PeerState.UNVERIFIED:
            raise ContractViolationError(
                "PEER_UNVERIFIED",
                "the identity of a member has not been compared over the telephone",
                "call that institution, then run `concordat-party peers verify NAME`",
            )
        if peer.state is PeerState.CHANGED:
            raise _changed()
        return _key(peer.identity)

    def check(self, name: str, identity: str) -> None:
        """Raise unless `identity` (hex) is the one that is pinned for `name`.

        Raises: ContractViolationError: what `pinned` raises; PEER_CHANGED: another one is pinned.
        """
        if self.pinned(name).public_bytes_raw().hex() != identity:
            raise _changed()


def _peer(row: RowMapping) -> Peer:
    pinned, identity = row["pinned"], row["identity"]
    state = PeerState.VERIFIED if pinned == identity else PeerState.CHANGED
    if pinned is None:
        state = PeerState.UNVERIFIED
    return Peer(row["name"], identity, state, row["enrolment"])


def _members(answer: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Identity and enrolment by name, from the lab's answer."""
    told: dict[str, tuple[str, str]] = {}
    listed, lab = answer.get("members"), answer.get("coordinator")
    if not isinstance(listed, list) or len(listed) > MOST_MEMBERS or not isinstance(lab, dict):
        raise _invalid()
    for item in [*listed, {"name": COORDINATOR, "identity": lab.get("identity"), "state": "active"}]:
        if not isinstance(item, dict):
            raise _invalid()
        name, identity, state = item.get("name"), item.get("identity"), item.get("state")
        if not isinstance(name, str) or not isinstance(identity, str) or state not in ("active", "revoked"):
            raise _invalid()
        try:
            if name != COORDINATOR:
                check_name(name)
            canonical = _key(identity).public_bytes_raw().hex() == identity
        except (ValueError, ContractViolationError) as error:
            raise _invalid() from error
        if not canonical or name in told:
            raise _invalid()
        told[name] = (identity, state)
    return told


def _key(identity: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(identity))


def _changed() -> ContractViolationError:
    return ContractViolationError(
        "PEER_CHANGED",
        "a member has another identity key than the one that was compared",
        "call that institution; if it has a new key indeed, run `concordat-party peers verify NAME --replace`",
    )


def _invalid() -> TransportError:
    return TransportError(
        "LAB_ANSWER_INVALID", "the lab's answer is not of the form that was agreed", "compare versions with the lab"
    )
