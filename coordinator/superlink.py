"""Beside a SuperLink: its certificate, the app that it runs, and the gate that parties reach it through.

A SuperLink serves fleet, control and runtime on one port, and asks nobody who may control it: whoever reaches
`/v1/control` starts code at every SuperNode. So it listens on loopback, and `gate` is what parties reach: the paths of
the fleet alone. Needs nothing of `flwr`.

    python -m coordinator.superlink certificate --folder LAB --out DIR
    python -m coordinator.superlink app --out DIR
    python -m coordinator.superlink run --document JOB --nodes 2 --out run.toml
    python -m coordinator.superlink gate --certificates DIR --superlink 127.0.0.1:8000 --host 0.0.0.0 --port 9092
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import httpx
import typer
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.certificates import write_private
from coordinator.lab import Lab, server_names
from protocols.contract import SignedJob
from protocols.errors import ConcordatError, DataError

FLEET = (
    *("register-node", "activate-node", "deactivate-node", "unregister-node", "send-node-heartbeat", "pull-messages"),
    *("push-messages", "get-run", "get-fab", "push-object", "pull-object", "confirm-message-received"),
)
MOST_BYTES = 16 << 20
TIMEOUT_S = 60.0
_HOP = frozenset({"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_SOURCES = ("coordinator/flower_app.py", "party_agent/flower_app.py")
_PROJECT = """\
[project]
name = "concordat-launcher"
version = "1.0.0"
description = "Hands a signed job document to the agents."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "concordat"

[tool.flwr.app.components]
serverapp = "coordinator.flower_app:app"
clientapp = "party_agent.flower_app:app"

[tool.flwr.app.config]
document = ""
nodes = 1
watch-s = 600
every-s = 5
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
OutOption = Annotated[Path, typer.Option(help="Folder, or file, to write.")]


@app.command()
def certificate(
    folder: Annotated[Path, typer.Option(help="The lab's folder.")],
    out: OutOption,
) -> None:
    """Have the lab's authority certify a new key of the SuperLink: `ca.pem`, `superlink.pem`, `superlink.key`."""
    lab = Lab.load(folder, time.time)
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = lab.authority.server(out, server_names(lab.settings), lab.utc())
        files.certificate.replace(out / "superlink.pem")
        files.key.replace(out / "superlink.key")
        write_private(out / "ca.pem", lab.authority.pem.encode())
    except OSError as error:
        raise DataError("FOLDER_UNUSABLE", "the folder cannot be written", "check its permissions") from error
    finally:
        lab.close()


@app.command("app")
def write_app(out: OutOption) -> None:
    """Write the launcher as a Flower app, for `flwr run`: the ServerApp and the ClientApp, nothing else."""
    root = Path(__file__).parents[1]
    for source in _SOURCES:
        target = out / source
        target.parent.mkdir(parents=True, exist_ok=True)
        (target.parent / "__init__.py").write_text("", encoding="utf-8")
        target.write_bytes((root / source).read_bytes())
    (out / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")


@app.command()
def run(
    document: Annotated[Path, typer.Option(help="The signed job, as `jobs request --out` wrote it.")],
    out: OutOption,
    nodes: Annotated[int, typer.Option(help="How many SuperNodes to wait for.")] = 1,
    watch_s: Annotated[int, typer.Option(help="How long to ask how the job stands.")] = 600,
    every_s: Annotated[int, typer.Option(help="Seconds between two rounds of questions.")] = 5,
) -> None:
    """Write the run configuration of one launch, for `flwr run --run-config FILE`."""
    try:
        data = document.read_bytes()
    except OSError as error:
        raise DataError("FILE_MISSING", "the document cannot be read", "check the path") from error
    SignedJob.decode(data)
    settings = {"document": base64.b64encode(data).decode(), "nodes": nodes, "watch-s": watch_s, "every-s": every_s}
    out.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()), encoding="utf-8")


@app.command()
def gate(
    certificates: Annotated[Path, typer.Option(help="Folder of ca.pem, superlink.pem and superlink.key.")],
    superlink: Annotated[str, typer.Option(help="Where the SuperLink listens, host:port, on this machine.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9092,
) -> None:
    """Let parties reach the fleet paths of the SuperLink, and nothing else of it."""
    authority, pair = certificates / "ca.pem", (certificates / "superlink.pem", certificates / "superlink.key")
    uvicorn.run(
        fleet_gate(superlink, authority),
        host=host,
        port=port,
        ssl_certfile=str(pair[0]),
        ssl_keyfile=str(pair[1]),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=256,
    )


def fleet_gate(superlink: str, authority: Path) -> Starlette:
    """The gate as an application. superlink: 'host:port'; authority: PEM file that its certificate is held to."""
    trusted = ssl.create_default_context(cafile=str(authority))

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        address = f"https://{superlink}"
        async with httpx.AsyncClient(base_url=address, verify=trusted, timeout=TIMEOUT_S, trust_env=False) as client:
            application.state.client = client
            yield

    return Starlette(routes=[Route(f"/v1/fleet/{name}", _pass, methods=["POST"]) for name in FLEET], lifespan=lifespan)


async def _pass(request: Request) -> Response:
    """One request of a SuperNode, its body bounded, to the SuperLink and back."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return Response(status_code=413)
    headers = [(name, value) for name, value in request.headers.items() if name not in _HOP | {"content-length"}]
    client: httpx.AsyncClient = request.app.state.client
    try:
        answer = await client.post(request.url.path, content=bytes(body), headers=headers)
    except httpx.HTTPError:
        return Response(status_code=502)
    dropped = _HOP | {"content-length", "content-encoding", "server", "date"}
    kept = {name: value for name, value in answer.headers.items() if name not in dropped}
    return Response(answer.content, answer.status_code, kept)


def main() -> None:
    """The command line."""
    try:
        app()
    except ConcordatError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
