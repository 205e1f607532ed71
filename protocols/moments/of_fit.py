"""Moments of the features of a fit: every party says whether it may; at the end of the fit the logits open; moments.

Source: PROTOCOLS.md section 4 ("once A knows the final z"), docs/protocols/moments.md. The label owner learns, for
weighted moments, the logit of each training row, rounded to 0.01 (with one provider, its part), and the moments; a
provider, whether others may.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

from protocols.binning.table import BinningTable
from protocols.errors import LocalProtocolError
from protocols.fixed_point import FloatArray, IntArray
from protocols.messages import require
from protocols.moments.label_owner import LabelOwner, Moments
from protocols.moments.layout import MomentKind, WorkingResponse
from protocols.moments.messages import FLOAT_BYTES, FeatureErrors, MomentsReady
from protocols.moments.permission import MomentPermission
from protocols.moments.provider import FeatureProvider
from protocols.pair_masks import agree_on_masks
from protocols.roles import Parties
from protocols.rows.encryption import RowMasks
from protocols.scoring.label_owner import open_logits
from protocols.scoring.messages import LOGIT_UNITS, MaskedLogitParts
from protocols.scoring.provider import masked_parts
from protocols.session import Script, receive, receive_each, send
from protocols.sharing import Entropy
from protocols.spent import SpentIndices


@dataclass(frozen=True)
class MomentsOfFit:
    """One party's part.

    request: names the fit, in masks and messages; table: of the features in the fit; context: as of `LabelOwner`;
    label, sample_weights: 0/1 and, in a weighted fit, the weight a training row, at the label owner; willing: false
    where this party has no need of moments.
    """

    name: str
    parties: Parties
    request: str
    table: BinningTable = field(repr=False)
    rows: RowMasks = field(repr=False)
    permission: MomentPermission = field(repr=False)
    context: bytes
    entropy: Entropy
    spent: SpentIndices
    label: IntArray | None = field(default=None, repr=False)
    minimum_key_bits: int = 2048
    willing: bool = True
    sample_weights: FloatArray | None = field(default=None, repr=False)

    def lead(self, logits: IntArray | None) -> Script[Moments | None]:
        """The label owner's part; None: one of the parties may not.

        Args: logits: own partial ones in units of 0.01, shape (n,); None for plain moments, before there is a fit.
        """
        if self.label is None:
            raise LocalProtocolError("ROLE_INVALID", "the label owner brings the label")
        table = yield from self._agree(_kind(logits))
        if table is None:
            return None
        working = None
        if logits is not None:
            total = yield from open_logits(self.parties, self.request, logits)
            working = WorkingResponse.of_fit(total / LOGIT_UNITS, self.label, self.sample_weights)
        return (
            yield from LabelOwner(
                self.parties,
                table=table,
                rows=self.rows,
                permission=self.permission,
                context=self.context,
                entropy=self.entropy,
                working=working,
                minimum_key_bits=self.minimum_key_bits,
            ).play()
        )

    def follow(self, logits: IntArray | None) -> Script[bool]:
        """A provider's part; whether moments opened. logits: as of `lead`."""
        table = yield from self._agree(_kind(logits))
        if table is None:
            return False
        if logits is not None:
            masks = yield from agree_on_masks(
                self.name, self.parties.providers, self.entropy, self.spent, summed_by_members=False
            )
            part = masked_parts(logits, masks, f"logits of {self.request}")
            masked = len(self.parties.providers) > 1
            yield from send(self.parties.label_owner, MaskedLogitParts(self.request, part, masked))
        yield from FeatureProvider(
            self.name,
            self.parties,
            table=table,
            rows=self.rows,
            kind=_kind(logits),
            permission=self.permission,
            context=self.context,
            entropy=self.entropy,
            minimum_key_bits=self.minimum_key_bits,
        ).play()
        return True

    def _agree(self, kind: MomentKind) -> Script[BinningTable | None]:
        """The table, with how many features of each party are in the fit; None where one party may not take part."""
        own = [feature.name for feature in self.table.features]
        ready = self.willing and self.permission.left(kind, own)
        others = self.parties.others(self.name)
        yield from send(others, MomentsReady(ready, len(own)))
        answers = yield from receive_each(others, MomentsReady)
        if not ready or not all(answer.ready for answer in answers.values()):
            return None
        told = {party: answer.features for party, answer in answers.items()} | {self.name: len(own)}
        require(all(0 < told[party] <= count for party, count in self.table.shape.items()))
        require(not self.table.peers or all(told[party] == len(peers) for party, peers in self.table.peers.items()))
        return replace(self.table, shape={party: told[party] for party in self.table.shape})


def send_errors(to: str, errors: list[float], inflation: list[float]) -> Script[None]:
    """Tell a provider what follows for its own coefficients."""
    yield from send(to, FeatureErrors(_packed(errors), _packed(inflation)))


def receive_errors(sender: str, errors: int, inflation: int) -> Script[tuple[list[float], list[float]]]:
    """Own standard errors and variance inflation factors, in model order.

    Args: errors, inflation: how many there are: one a feature, or none where no moments of that kind were opened.
    Raises: RemoteProtocolError: CHECK_FAILED: others, or not finite positive numbers.
    """
    message = yield from receive(sender, FeatureErrors)
    found = _unpacked(message.errors), _unpacked(message.inflation)
    require((len(found[0]), len(found[1])) == (errors, inflation))
    require(all(0 < value < float("inf") for values in found for value in values))
    return found


def _kind(logits: IntArray | None) -> MomentKind:
    return MomentKind.PLAIN if logits is None else MomentKind.WEIGHTED


def _packed(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def _unpacked(data: bytes) -> list[float]:
    require(len(data) % FLOAT_BYTES == 0)
    return list(struct.unpack(f"<{len(data) // FLOAT_BYTES}d", data))
