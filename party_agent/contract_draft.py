"""A contract as a person writes it (TOML) and the document that parties sign.

Identities are not written: they come from the peers that this institution has compared over the telephone.
"""

from __future__ import annotations

import datetime
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from party_agent.peers import PeerBook
from protocols.contract import USUAL_ALGORITHMS, Caps, Contract, DataSet, Member
from protocols.errors import DataError
from protocols.roles import COORDINATOR, Role
from protocols.toml_document import parse_toml

_CAPS = {item.name for item in fields(Caps)}

EXAMPLE = """\
# A contract. Times are dates in UTC; every party signs the same document. `concordat-party contract explain` says in
# plain words what it lets each side learn.
id = "joint-scorecard-2026"
purpose = "A joint scorecard for small-enterprise loans; scores are used for credit decisions of the bank only."
label_owner = "bank"
providers = ["bureau", "tax"]          # the first is also the co-holder (docs/protocols/logistic.md)
valid_from = 2026-01-01
valid_until = 2027-01-01
outputs = []                           # "scorecard" opens bins, WOE and points of all parties to all; "dimensions"
                                       # opens each provider's points by dimension and row to the label owner

[caps]                                 # what is left out has its default
minimum_intersection = 1000
minimum_key_bits = 3072
runs = 20

[datasets.bank]
name = "loans"
id = "id"
label = "y"
features = ["credit_limit", "months_on_book", "utilisation"]

[datasets.bureau]
name = "history"
id = "id"
features = ["overdue_12m", "inquiries_6m", "open_loans"]

[datasets.tax]
name = "returns"
id = "id"
features = ["vat_paid", "revenue_growth", "late_filings"]
"""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSetDraft(_Section):
    """What one party brings, by the names that it published."""

    name: str
    id: str
    label: str = ""
    features: tuple[str, ...]


class Draft(_Section):
    """The file that `contract propose` takes."""

    id: str
    purpose: str
    label_owner: str
    providers: Annotated[tuple[str, ...], Field(min_length=1)]
    valid_from: datetime.date
    valid_until: datetime.date
    outputs: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = USUAL_ALGORITHMS
    caps: dict[str, int] = {}
    datasets: dict[str, DataSetDraft] = {}


def read_draft(path: Path) -> Draft:
    """The draft in a TOML file.

    Raises: DataError: DRAFT_INVALID: it cannot be read, or a key is unknown or has a wrong value.
    """
    try:
        return Draft.model_validate(parse_toml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        places = sorted({".".join(str(part) for part in item["loc"]) or "the file" for item in error.errors()})
        raise _invalid(f"not usable: {', '.join(places)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(f"{path.name} cannot be read as TOML") from error


def contract_of(draft: Draft, me: str, own_identity: str, peers: PeerBook, amends: Contract | None = None) -> Contract:
    """The document to be signed.

    Args: own_identity: hex; peers: of whom every other member must be verified; amends: the contract it is to replace.
    Raises: ContractViolationError: PEER_UNVERIFIED, PEER_UNKNOWN, PEER_CHANGED, CONTRACT_INVALID. DataError.
    """
    roles = {draft.label_owner: Role.LABEL_OWNER} | dict.fromkeys(draft.providers, Role.PROVIDER)
    roles[COORDINATOR] = Role.COORDINATOR
    if me not in roles:
        raise _invalid("this institution is not among its parties")
    unknown = set(draft.caps) - _CAPS
    if unknown:
        raise _invalid(f"unknown caps: {', '.join(sorted(unknown))}")
    return Contract(
        contract_id=draft.id,
        members=tuple(
            Member(name, role.value, own_identity if name == me else _identity(peers, name))
            for name, role in roles.items()
        ),
        purpose=draft.purpose,
        caps=Caps(**draft.caps),
        outputs=tuple(sorted(draft.outputs)),
        valid_from=_midnight(draft.valid_from),
        valid_until=_midnight(draft.valid_until),
        algorithms=tuple(sorted(draft.algorithms)),
        datasets=tuple(
            DataSet(party, item.name, item.id, item.label, item.features) for party, item in draft.datasets.items()
        ),
        version=1 if amends is None else amends.version + 1,
        supersedes="" if amends is None else amends.hash().hex(),
    )


def _identity(peers: PeerBook, name: str) -> str:
    return peers.pinned(name).public_bytes_raw().hex()


def _midnight(day: datetime.date) -> int:
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())


def _invalid(sentence: str) -> DataError:
    return DataError("DRAFT_INVALID", f"the draft of a contract: {sentence}", "see `concordat-party contract example`")


def summary(contract: Contract) -> dict[str, Any]:
    """A contract in a line."""
    return {
        "hash": contract.hash().hex(),
        "id": contract.contract_id,
        "version": contract.version,
        "parties": list(contract.parties.all),
        "purpose": contract.purpose,
    }
