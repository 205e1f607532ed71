"""Whether the lab on this machine answers: `python health.py FOLDER PORT`, exit code 0 if it does.

The certificate is checked against the lab's own authority, so that only this lab counts as healthy. Nothing but the
standard library is needed.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from pathlib import Path

TIMEOUT_S = 8.0


def health(folder: Path, port: int) -> str:
    """'ok', or what is wrong: the lab's error code, or the kind of failure."""
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.set_alpn_protocols(["http/1.1"])
        connection = http.client.HTTPSConnection("localhost", port, timeout=TIMEOUT_S, context=context)
        connection.request("GET", "/v1/health")
        answer = json.loads(connection.getresponse().read(65_536))
        return str(answer.get("status") or answer.get("code") or "no status")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return type(error).__name__


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdigit():
        sys.exit("usage: health.py FOLDER PORT")
    found = health(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write(found + "\n")
    sys.exit(found != "ok")
