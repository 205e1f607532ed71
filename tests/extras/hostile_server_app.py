"""The ServerApp of the hostile run: names a folder and a process to every SuperNode, prints what each one got."""

from __future__ import annotations

import json

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    wanted = {"folder": str(context.run_config["folder"]), "pid": int(context.run_config["pid"])}
    messages = [
        Message(RecordDict({"wanted": ConfigRecord(dict(wanted))}), node, "query.loot") for node in grid.get_node_ids()
    ]
    replies = grid.send_and_receive(messages, timeout=60)
    told = [str(reply.error) if reply.has_error() else str(reply.content["told"]["told"]) for reply in replies]
    print(json.dumps({"round": "loot", "told": told}), flush=True)  # noqa: T201
