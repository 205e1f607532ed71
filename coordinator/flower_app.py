"""The ServerApp: sends one signed job document to every SuperNode, and asks how the job stands until it has ended.

It decides nothing and holds nothing: the document is the label owner's, each agent judges it by itself, and no step of
a protocol travels by Flower. Prints one JSON line a round, which `flwr log` shows:

    {"round": "launch", "nodes": {"123": {"job": ..., "attempt": 1, "state": "handed", "code": ""}}}
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
import time
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

LONGEST_WATCH_S = 24 * 3600
REPLY_S = 60.0
_ENDED = frozenset({"refused", "finished", "failed"})

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run configuration: document (base64 of the signed job), nodes (how many are waited for), watch-s, every-s."""
    settings = context.run_config
    document = _document(str(settings["document"]))
    job = str(document["document"]["job"])
    text = base64.b64decode(str(settings["document"])).decode()
    nodes = _nodes(grid, int(settings["nodes"]))
    told = _ask(grid, nodes, "query.launch", {"document": text})
    _say("launch", told)
    nodes = [node for node in nodes if told.get(str(node), {}).get("state")]
    deadline = time.monotonic() + min(float(settings["watch-s"]), LONGEST_WATCH_S)
    while nodes and time.monotonic() < deadline:
        time.sleep(max(1.0, float(settings["every-s"])))
        told = _ask(grid, nodes, "query.status", {"name": job})
        _say("status", told)
        if len(told) == len(nodes) and all(answer.get("state") in _ENDED for answer in told.values()):
            return


def _nodes(grid: Grid, wanted: int) -> list[int]:
    """The SuperNodes that are there, once `wanted` are or a minute has passed."""
    deadline = time.monotonic() + REPLY_S
    while len(nodes := list(grid.get_node_ids())) < wanted and time.monotonic() < deadline:
        time.sleep(1)
    return nodes


def _ask(grid: Grid, nodes: list[int], kind: str, job: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Each node's answer; a node that does not answer in time is left out."""
    messages = [Message(RecordDict({"job": ConfigRecord(dict(job))}), node, kind) for node in nodes]
    told: dict[str, dict[str, Any]] = {}
    for reply in grid.send_and_receive(messages, timeout=REPLY_S):
        answer = {} if reply.has_error() else dict(reply.content["answer"])
        told[str(reply.metadata.src_node_id)] = answer
    return told


def _document(encoded: str) -> dict[str, Any]:
    """The document, for the name of its job; it is judged at the agents."""
    try:
        document: dict[str, Any] = json.loads(base64.b64decode(encoded, validate=True))
        if isinstance(document["document"]["job"], str):
            return document
    except (binascii.Error, ValueError, KeyError, TypeError):
        pass
    raise SystemExit("the run configuration holds no signed job document")


def _say(kind: str, told: dict[str, dict[str, Any]]) -> None:
    sys.stdout.write(json.dumps({"round": kind, "nodes": told}) + "\n")
    sys.stdout.flush()
