"""What institutions send to the lab's API: the form of each request's body. What a body holds is checked elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Document = Annotated[str, Field(min_length=2, max_length=2 << 20)]
Attempt = Annotated[int, Field(ge=1, le=1_000_000)]


class Enrolment(_Body):
    """A token, the institution's name and identity key, its certificate request, and both keys' signatures (hex)."""

    token: Annotated[str, Field(max_length=600)]
    name: Name
    identity: Hex32
    csr: Annotated[str, Field(max_length=4096)]
    identity_signature: Hex64
    tls_signature: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,80}$")]


class Renewal(_Body):
    """A certificate request for a new TLS key of the same name."""

    csr: Annotated[str, Field(max_length=4096)]


class Publication(_Body):
    """Metadata of one data set, as its owner wrote it; the text is passed on as it is."""

    dataset: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
    document: Document


class Proposal(_Body):
    """A `SignedContract` in canonical form, with the proposer's signature or none."""

    document: Document


class ContractSignature(_Body):
    """The sender's signature on the contract, in hex."""

    signature: Hex64


class ContractEventBody(_Body):
    """A `SignedEvent` or a `SignedModelEvent` in canonical form, of the sender's."""

    document: Annotated[str, Field(min_length=2, max_length=8192)]


class ModelSubmission(_Body):
    """A `ModelRecord` and the `SignedModelEvent` of the sender's that submits it, both in canonical form."""

    record: Annotated[str, Field(min_length=2, max_length=8192)]
    event: Annotated[str, Field(min_length=2, max_length=8192)]


class Submission(_Body):
    """A `SignedJob` in canonical form."""

    document: Document


class Stop(_Body):
    """Which attempt to stop."""

    attempt: Attempt


class Report(_Body):
    """What the sender's agent says: 'accepted', 'refused', 'finished', 'failed' move the job; other stages inform."""

    attempt: Attempt
    stage: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,47}$")]
    code: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{2,47}$")] | None = None


class Notice(_Body):
    """A signed head of the sender's audit log, or its receipt for a head of `to`; only the two read it."""

    to: Name
    kind: Literal["head", "receipt"]
    document: Annotated[str, Field(min_length=2, max_length=2048)]
