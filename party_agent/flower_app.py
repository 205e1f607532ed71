"""The ClientApp: hands a job document to the agent on this machine, and returns.

A shim that needs `flwr` and the standard library, nothing of Concordat: it runs in the SuperNode's environment, as a
user that cannot read the agent's folder. Where the agent listens is the SuperNode's own configuration, never the run's:

    --node-config 'agent-port=9870 agent-token="/var/lib/concordat-launcher/agent.token"'
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

TIMEOUT_S = 10.0
_MOST_ANSWERED = 64 * 1024
_ANSWERED = ("job", "attempt", "state", "code")

app = ClientApp()


@app.query("launch")
def launch(message: Message, context: Context) -> Message:
    """Hand in the document of the message; the answer says 'handed', or why not."""
    return _reply(message, _asked(context, "POST", "/v1/jobs", str(message.content["job"]["document"]).encode()))


@app.query("status")
def status(message: Message, context: Context) -> Message:
    """The state of the job that the message names, at this agent."""
    name = str(message.content["job"]["name"])
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    if not (plain.isascii() and plain.isalnum()):
        return _reply(message, {"code": "REQUEST_MALFORMED"})
    return _reply(message, _asked(context, "GET", f"/v1/jobs/{name}"))


def _asked(context: Context, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    """What the agent answers."""
    connection = None
    try:
        token = Path(str(context.node_config["agent-token"])).read_text(encoding="ascii").strip()
        port = int(context.node_config["agent-port"])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        connection.request(method, path, body=body, headers={"Authorization": f"Bearer {token}"})
        answer = json.loads(connection.getresponse().read(_MOST_ANSWERED))
        return {key: answer[key] for key in _ANSWERED if isinstance(answer.get(key), (str, int))}
    except (KeyError, TypeError, ValueError, AttributeError, OSError, http.client.HTTPException):
        return {"code": "LOOPBACK_UNAVAILABLE"}
    finally:
        if connection is not None:
            connection.close()


def _reply(message: Message, answer: dict[str, Any]) -> Message:
    return Message(RecordDict({"answer": ConfigRecord(answer)}), reply_to=message)
