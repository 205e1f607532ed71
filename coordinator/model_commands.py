"""`concordat models`: the library of models as the lab's operator sees it: hashes, states, opened metrics."""

from __future__ import annotations

import time
from typing import Any

import typer

from coordinator.lab import Lab
from coordinator.lab_commands import FolderOption, JsonOption, _refusing, _say
from coordinator.model_registry import StoredVersion
from protocols.model_record import METRIC_UNIT, Act

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def models(folder: FolderOption, as_json: JsonOption = False) -> None:
    """List every model: name, version, state, hashes, opened metrics. No part of a model is at the lab."""
    with _refusing(as_json):
        lab = Lab.load(folder, time.time)
        rows = [_row(item) for item in lab.registry.models()]
        lab.close()
    _say(as_json, {"models": rows}, "\n".join(map(_line, rows)) or "No model was submitted.")


def _row(item: StoredVersion) -> dict[str, Any]:
    approvals = {x.event.party: vars(x.event.own) for x in item.events if x.event.act is Act.APPROVE}
    return item.record.to_json() | {
        "hash": item.record.hash(),
        "state": item.state,
        "received": item.received,
        "parts": dict(sorted(approvals.items())),
    }


def _line(row: dict[str, Any]) -> str:
    metrics = "  ".join(f"{name} {value / METRIC_UNIT:.4f}" for name, value in row["metrics"].items())
    named = f"{row['name']}:{row['version']}  {row['state']:<9}  {row['hash'][:12]}  {row['contract_hash'][:12]}"
    return f"{named}  approved by {', '.join(row['parts']) or 'nobody'}  {metrics}".rstrip()
