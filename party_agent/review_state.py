"""The state of a review as JSON header and blobs, for the checkpoint of a job that breaks off within it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from party_agent.artefacts import Stored, integers, table_from, table_to, texts, tuples
from party_agent.checkpoint import Blobs
from protocols.binning.messages import KeptFeature
from protocols.binning.prebins import PreBinning
from protocols.binning.review import Version
from protocols.binning.review_owner import OwnerState
from protocols.binning.review_provider import Pending, ProviderState
from protocols.recipe import FeatureRules, feature_rules


def owner_state_to(value: OwnerState) -> Stored:
    """At the label owner."""
    table, blobs = table_to(value.table)
    header = {
        "table": table,
        "versions": {alias: [asdict(item) for item in items] for alias, items in value.versions.items()},
        "answered": dict(value.answered),
        "last": {party: asdict(kept) for party, kept in value.last.items()},
        "asked": dict(value.asked),
        **_own_to(value.changed, value.rules, value.notes),
    }
    return header, blobs


def owner_state_from(header: Mapping[str, Any], blobs: Blobs) -> OwnerState:
    """Inverse of `owner_state_to`."""
    versions = header["versions"].items()
    return OwnerState(
        table_from(header["table"], blobs),
        {alias: tuple(Version(**tuples(item)) for item in items) for alias, items in versions},
        header["answered"],
        {party: KeptFeature(**tuples(item)) for party, item in header["last"].items()},
        header["asked"],
        **_own_from(header),
    )


def provider_state_to(value: ProviderState) -> Stored:
    """At a provider, with the masks of a version that was not answered yet."""
    table, blobs = table_to(value.table)
    given = value.given.items()
    pending = value.pending
    header = {
        "table": table,
        "sent": {name: [binning.to_json() for binning in items] for name, items in value.sent.items()},
        "given": {name: [[binning.to_json(), list(merged)] for binning, merged in items] for name, items in given},
        "applied": value.applied,
        "asked": value.asked,
        "pending": pending
        and {
            "alias": pending.alias,
            "binning": pending.binning.to_json(),
            "rules": _rules_to(pending.rules),
            "masks": None if pending.masks is None else texts(pending.masks),
            "notes": list(pending.notes),
        },
        **_own_to(value.changed, value.rules, value.notes),
    }
    return header, blobs


def provider_state_from(header: Mapping[str, Any], blobs: Blobs) -> ProviderState:
    """Inverse of `provider_state_to`."""
    given, pending = header["given"].items(), header["pending"]
    return ProviderState(
        table_from(header["table"], blobs),
        {name: tuple(map(PreBinning.from_json, items)) for name, items in header["sent"].items()},
        {name: tuple((PreBinning.from_json(b), tuple(merged)) for b, merged in items) for name, items in given},
        header["applied"],
        header["asked"],
        pending
        and Pending(
            pending["alias"],
            PreBinning.from_json(pending["binning"]),
            feature_rules(pending["rules"]),
            None if pending["masks"] is None else integers(pending["masks"]),
            tuple(pending["notes"]),
        ),
        **_own_from(header),
    )


def _own_to(
    changed: Mapping[str, str], rules: Mapping[str, FeatureRules], notes: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    return {
        "changed": dict(changed),
        "rules": {name: _rules_to(item) for name, item in rules.items()},
        "notes": {name: list(items) for name, items in notes.items()},
    }


def _own_from(header: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "changed": header["changed"],
        "rules": {name: feature_rules(item) for name, item in header["rules"].items()},
        "notes": {name: tuple(items) for name, items in header["notes"].items()},
    }


def _rules_to(rules: FeatureRules) -> dict[str, Any]:
    return rules.model_dump(mode="json")
