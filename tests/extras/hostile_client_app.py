"""A hostile ClientApp: tries to read, list, write and stop what is the agent's. It tells what it got."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def loot(folder: str, pid: int, token: str) -> dict[str, object]:
    """What this user gets of an agent in `folder` that runs as `pid`."""
    got: list[str] = []
    names = (
        "identity.pem",
        "agent.toml",
        "agent.db",
        "audit.log",
        "policy.toml",
        "loopback.json",
        "tls/ca.pem",
        "jobs",
    )
    ways = (Path(folder), Path(f"/proc/{pid}/root") / folder.lstrip("/"), Path(f"/proc/{pid}/cwd"))
    for way in ways:
        with contextlib.suppress(OSError):
            got += [f"listed {way}: {len(os.listdir(way))}"]
        for name in names:
            with contextlib.suppress(OSError):
                os.stat(way / name)
                got.append(f"saw {way / name}")
            with contextlib.suppress(OSError), open(way / name, "rb") as file:
                got.append(f"read {len(file.read())} bytes of {way / name}")
    for name in ("environ", "mem", "maps", "fd"):
        path = f"/proc/{pid}/{name}"
        with contextlib.suppress(OSError):
            got.append(f"{path}: {len(os.listdir(path) if name == 'fd' else Path(path).read_bytes())}")
    with contextlib.suppress(OSError), open(f"{folder}/planted", "xb"):
        got.append("wrote a file")
    with contextlib.suppress(OSError):
        os.rename(folder, folder + ".moved")
        got.append("moved the folder")
    with contextlib.suppress(OSError):
        os.setuid(0)
        got.append("became root")
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGTERM)
        got.append("stopped the agent")
    return {"uid": os.getuid(), "own": len(Path(token).read_bytes()), "got": got}


@app.query("loot")
def on_loot(message: Message, context: Context) -> Message:
    wanted = message.content["wanted"]
    told = loot(str(wanted["folder"]), int(wanted["pid"]), str(context.node_config["agent-token"]))
    return Message(RecordDict({"told": ConfigRecord({"told": json.dumps(told)})}), reply_to=message)
