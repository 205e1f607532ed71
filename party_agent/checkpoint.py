"""The artefacts of finished stages, encrypted at rest, so that a job can go on after a crash.

A checkpoint is one file a stage: AES-256-GCM under a key of this agent's own (`checkpoint.key`, readable by its owner
only), bound to job and stage. Inside: a JSON header and named blobs; nothing that is executed when it is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from party_agent.store import Folder
from protocols.errors import DataError

_KEY_FILE = "checkpoint.key"
_NONCE_BYTES = 12

Blobs = Mapping[str, bytes]


class Checkpoints:
    """The checkpoints of one job.

    Args: home: the agent's folder, where its key lives; folder: the job's; job: its name; context: what binds them.
    """

    def __init__(self, home: Folder, folder: Folder, job: str, context: bytes) -> None:
        self._path = folder.path / "checkpoints" / job
        self._context = context
        self._cipher = AESGCM(home.key(_KEY_FILE))

    def save(self, stage: str, header: Mapping[str, Any], blobs: Blobs) -> None:
        """Write a stage's artefact, all or nothing."""
        names = sorted(blobs)
        text = json.dumps({"header": header, "blobs": [[name, len(blobs[name])] for name in names]}).encode()
        plain = struct.pack("<Q", len(text)) + text + b"".join(blobs[name] for name in names)
        nonce = os.urandom(_NONCE_BYTES)
        Folder(self._path).write(_name(stage), nonce + self._cipher.encrypt(nonce, plain, self._bound(stage)))

    def has(self, stage: str) -> bool:
        """Whether the stage was finished here."""
        return (self._path / _name(stage)).exists()

    def load(self, stage: str) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The artefact of a stage.

        Raises: DataError: CHECKPOINT_DAMAGED.
        """
        try:
            data = (self._path / _name(stage)).read_bytes()
            plain = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], self._bound(stage))
            (size,) = struct.unpack_from("<Q", plain)
            outer = json.loads(plain[8 : 8 + size])
        except (OSError, ValueError, InvalidTag, struct.error) as error:
            raise DataError(
                "CHECKPOINT_DAMAGED", "a checkpoint of this job cannot be read", "start the job anew"
            ) from error
        blobs, place = {}, 8 + size
        for name, length in outer["blobs"]:
            blobs[name] = plain[place : place + length]
            place += length
        return outer["header"], blobs

    def drop(self, stage: str) -> None:
        """Remove a stage's checkpoint."""
        (self._path / _name(stage)).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all: a finished job keeps no keys and no masks."""
        shutil.rmtree(self._path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._path.parent.rmdir()

    def _bound(self, stage: str) -> bytes:
        return b"concordat/checkpoint/1\0" + self._context + b"\0" + stage.encode()


def pack_array(array: NDArray[Any]) -> bytes:
    """An array of numbers with its type and shape."""
    text = json.dumps([array.dtype.str, list(array.shape)]).encode()
    return struct.pack("<I", len(text)) + text + np.ascontiguousarray(array).tobytes()


def unpack_array(data: bytes) -> NDArray[Any]:
    """Inverse of `pack_array`."""
    (size,) = struct.unpack_from("<I", data)
    kind, shape = json.loads(data[4 : 4 + size])
    return np.frombuffer(data, dtype=np.dtype(kind), offset=4 + size).reshape(shape).copy()


def _name(stage: str) -> str:
    return f"{stage}.bin"
