"""Masks that cancel in a sum: each pair of members shares a seed; one adds its stream, the other subtracts it.

Where two members open their sum to each other, masks would hide nothing and none are used: each sees the other's part,
and the ledger says so. Source: Bonawitz et al., CCS 2017, section 4 (without drop-outs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocols.disclosure import Learned, Nature
from protocols.messages import Bounds, Message, require
from protocols.session import Script, receive, send
from protocols.sharing import SEED_BYTES, Entropy, keystream
from protocols.spent import SpentIndices


@dataclass(frozen=True)
class PairSeed(Message):
    """A fresh seed shared by sender and receiver."""

    seed: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("seed shared by two parties", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return SEED_BYTES + 16


class PairMasks:
    """One member's masks. `draw` gives the same member a mask for a purpose once only.

    Args: me: this member; members: everyone whose parts are summed, in role order; seeds: by the other's name.
    """

    def __init__(self, me: str, members: Sequence[str], seeds: Mapping[str, bytes], spent: SpentIndices) -> None:
        self._me = me
        self._members = tuple(members)
        self._seeds = seeds
        self._spent = spent

    def draw(self, purpose: str, index: int, count: int, bits: int) -> list[int]:
        """`count` masks modulo 2^bits (bits a multiple of 8) that sum to zero over the members."""
        if not self._seeds:
            return [0] * count
        self._spent.spend(f"pair mask: {purpose}", index)
        width = bits // 8
        totals = [0] * count
        for other, seed in self._seeds.items():
            sign = 1 if self._members.index(self._me) < self._members.index(other) else -1
            stream = keystream(seed, f"pair mask/{purpose}/{index}/{bits}", width * count)
            for i in range(count):
                totals[i] += sign * int.from_bytes(stream[i * width : (i + 1) * width], "little")
        return [total % (1 << bits) for total in totals]


def agree_on_masks(
    me: str, members: Sequence[str], entropy: Entropy, spent: SpentIndices, *, summed_by_members: bool
) -> Script[PairMasks]:
    """Agree on a seed with every other member, the earlier in role order choosing it.

    summed_by_members: every member learns the sum, so that masks hide something from three members on; if another
    party learns it, from two members on.
    """
    seeds: dict[str, bytes] = {}
    if len(members) > (2 if summed_by_members else 1):
        place = list(members).index(me)
        for other in members[place + 1 :]:
            seeds[other] = entropy(SEED_BYTES)
            yield from send(other, PairSeed(seeds[other]))
        for other in members[:place]:
            message = yield from receive(other, PairSeed)
            require(len(message.seed) == SEED_BYTES)
            seeds[other] = message.seed
    return PairMasks(me, members, seeds, spent)
