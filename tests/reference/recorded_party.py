"""`concordat-party` that writes down, for a test, what nobody else may ever see.

python -m tests.reference.recorded_party RECORD ARGUMENTS...: behaves as `concordat-party ARGUMENTS...`, and puts into
RECORD every message it sends in plaintext, what it drew from its source of randomness, its Paillier keys and its masks.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocols.sharing import Entropy

SECRET_BYTES = 32


class Record:
    """A folder: `sent/` has a file a message, `drawn.bin` 32 bytes a draw, `masks.bin` likewise, `keys.json` primes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sent").mkdir(parents=True, exist_ok=True)
        self._numbers = itertools.count(len(list((folder / "sent").iterdir())))

    def message(self, sender: str, to: str, stage: str, step: str, data: bytes) -> None:
        """Keep a message as it is before it is encrypted."""
        (self.folder / "sent" / f"{next(self._numbers):06d} {sender} {to} {stage} {step}").write_bytes(data)

    def entropy(self, size: int) -> bytes:
        """`os.urandom`, keeping the first bytes of every draw long enough to be a secret."""
        drawn = os.urandom(size)
        if size >= SECRET_BYTES:
            self.secret("drawn.bin", drawn)
        return drawn

    def secret(self, name: str, secret: bytes) -> None:
        """Append the first bytes of a secret."""
        with (self.folder / name).open("ab") as file:
            file.write(secret[:SECRET_BYTES])

    def primes(self, p: int, q: int) -> None:
        """Keep the factors of a Paillier modulus."""
        with (self.folder / "keys.json").open("a") as file:
            file.write(json.dumps([str(p), str(q)]) + "\n")


def recorded(channel: type[Any], record: Record) -> type[Any]:
    """`channel`, which keeps what it sends, and draws what its links are made of from `record`."""

    class Recorded(channel):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._me = options.get("me", "coordinator")
            super().__init__(*arguments, entropy=record.entropy, **options)

        def send(self, to: str, stage: str, step: str, data: bytes) -> None:
            record.message(self._me, to, stage, step, data)
            super().send(to, stage, step, data)

    return Recorded


def main() -> None:
    """Entry point."""
    from party_agent import stages, transport
    from party_agent.__main__ import main as party_main
    from protocols.logistic import offline
    from protocols.rows import encryption

    record = Record(Path(sys.argv.pop(1)))
    generate, draw = encryption.generate_key_pair, encryption.draw_masks

    def generate_key_pair(key_bits: int, entropy: Entropy, **options: int) -> Any:
        key = generate(key_bits, entropy, **options)
        record.primes(key.private.p, key.private.q)
        return key

    def draw_masks(layout: Any, columns: int, entropy: Entropy) -> Any:
        masks = draw(layout, columns, entropy)
        for column in masks:
            record.secret("masks.bin", layout.ring.to_bytes(column))
        return masks

    patches: list[tuple[Any, str, Callable[..., Any]]] = [
        (encryption, "generate_key_pair", generate_key_pair),
        (encryption, "draw_masks", draw_masks),
        (offline, "draw_masks", draw_masks),
        (stages, "Seat", functools.partial(stages.Seat, entropy=record.entropy)),
        (transport, "RelayChannel", recorded(transport.RelayChannel, record)),
    ]
    for module, name, replacement in patches:
        setattr(module, name, replacement)
    party_main()


if __name__ == "__main__":
    main()
