"""The lab's one port: looks at the protocols a TLS client offers, and joins its connection to the relay or to the API.

Only the first message of TLS (ClientHello), which is in clear, is read; nothing is decrypted here, and no byte is
changed. A client that offers `h2` alone speaks gRPC and goes to the relay; everyone else goes to the API. Both
listen on loopback. A connection that says nothing sensible in time, or nothing at all for two minutes, is closed (the
keep-alive of gRPC speaks every 20 seconds).

Source: RFC 8446 section 4.1.2, RFC 7301 section 3.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import Future
from typing import Any

from protocols.errors import TransportError

MAX_HELLO_BYTES = 16 << 10
HELLO_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 120.0
MOST_CONNECTIONS = 512
CLOSE_GRACE_S = 2.0
_HANDSHAKE, _CLIENT_HELLO, _ALPN, _RECORD = 22, 1, 16, 5
_WRITE_BUFFER = 1 << 20


class NotTlsError(ValueError):
    """The first bytes are not a ClientHello."""


def offered_protocols(data: bytes) -> tuple[str, ...] | None:
    """The protocols (ALPN) that a client offers, given the first bytes it sent; None while more bytes are needed.

    Raises: NotTlsError: they are not the beginning of TLS, or the message is larger than 16 KiB.

    >>> offered_protocols(b"") is None
    True
    """
    hello = bytearray()
    position = 0
    while position < len(data):
        if data[position] != _HANDSHAKE or (len(data) > position + 1 and data[position + 1] != 3):
            raise NotTlsError
        if len(data) < position + _RECORD:
            break
        length = int.from_bytes(data[position + 3 : position + 5], "big")
        if not 0 < length <= 1 << 14:
            raise NotTlsError
        hello += data[position + _RECORD : position + _RECORD + length]
        if hello[:1] not in (b"", bytes((_CLIENT_HELLO,))):
            raise NotTlsError
        if len(hello) >= 4:
            whole = 4 + int.from_bytes(hello[1:4], "big")
            if whole > MAX_HELLO_BYTES:
                raise NotTlsError
            if len(hello) >= whole:
                return _alpn(bytes(hello[4:whole]))
        position += _RECORD + length
    if len(data) > 2 * MAX_HELLO_BYTES:
        raise NotTlsError
    return None


def _alpn(hello: bytes) -> tuple[str, ...]:
    reader = _Reader(hello)
    reader.take(34)  # version, random
    reader.vector(1)  # session
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression
    if reader.empty:
        return ()
    extensions = _Reader(reader.vector(2))
    while not extensions.empty:
        kind = int.from_bytes(extensions.take(2), "big")
        content = extensions.vector(2)
        if kind == _ALPN:
            names = _Reader(_Reader(content).vector(2))
            found = []
            while not names.empty:
                found.append(names.vector(1).decode("latin-1"))
            return tuple(found)
    return ()


class _Reader:
    """Length-prefixed fields, with every length checked."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def empty(self) -> bool:
        """Whether all was taken."""
        return not self._data

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if len(self._data) < size:
            raise NotTlsError
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def vector(self, prefix: int) -> bytes:
        """A field with its length before it, in `prefix` bytes."""
        return self.take(int.from_bytes(self.take(prefix), "big"))


class Front:
    """Args: relay_port, api_port: on loopback. Life: `start`, `close`."""

    def __init__(self, relay_port: int, api_port: int, *, idle_timeout_s: float = IDLE_TIMEOUT_S) -> None:
        self._relay_port = relay_port
        self._api_port = api_port
        self._idle_timeout_s = idle_timeout_s
        self._origins: dict[int, str] = {}
        self._open: set[_Client] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)
        self._started: Future[int] = Future()
        self._stop = asyncio.Event()
        self.refused = 0

    def start(self, host: str, port: int) -> int:
        """Listen; the port, which the system chooses if 0 is asked for.

        Raises: TransportError: PORT_TAKEN.
        """
        try:
            listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
            )
        except OSError as error:
            raise TransportError(
                "PORT_TAKEN", f"cannot listen on {host}:{port}", "choose another port, or 0 for a free one"
            ) from error
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by every connection
        self._listener = listener
        self._thread.start()
        return self._started.result()

    def close(self) -> None:
        """Stop listening, close every connection."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(2 * CLOSE_GRACE_S)

    def origin(self, port: int) -> str:
        """The address of the client whose connection reaches the API from this port of ours, or ''."""
        return self._origins.get(port, "")

    @property
    def connections(self) -> int:
        """Clients connected now."""
        return len(self._open)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await self._loop.create_server(lambda: _Client(self), sock=self._listener)
        self._started.set_result(self._listener.getsockname()[1])
        sweeping = self._loop.create_task(self._sweep())
        await self._stop.wait()
        sweeping.cancel()
        server.close()
        for client in list(self._open):
            client.hang_up()
        await asyncio.sleep(0)

    async def _sweep(self) -> None:
        """Close what is idle or never said hello."""
        while True:
            await asyncio.sleep(min(1.0, self._idle_timeout_s / 2))
            now = time.monotonic()
            for client in list(self._open):
                limit = self._idle_timeout_s if client.joined else min(HELLO_TIMEOUT_S, self._idle_timeout_s)
                if now - client.heard > limit:
                    client.hang_up()

    # -- called by connections, on the loop's thread

    def entered(self, client: _Client) -> bool:
        """Count a client in; False if there are too many."""
        if len(self._open) >= MOST_CONNECTIONS:
            self.refused += 1
            return False
        self._open.add(client)
        return True

    def left(self, client: _Client) -> None:
        """Count a client out."""
        self._open.discard(client)
        self._origins.pop(client.inner_port, None)

    async def join(self, client: _Client, protocols: tuple[str, ...], address: str) -> None:
        """Connect a client to the server that speaks its protocol."""
        port = self._relay_port if "h2" in protocols and "http/1.1" not in protocols else self._api_port
        try:
            transport, _ = await self._loop.create_connection(lambda: _Server(client), "127.0.0.1", port)
        except OSError:
            client.hang_up()
            return
        client.inner_port = transport.get_extra_info("sockname")[1]
        self._origins[client.inner_port] = address
        client.connect(transport)


class _Client(asyncio.Protocol):
    """The outer end of one connection."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._waiting = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._gone = False
        self.transport: Any = None
        self.server: Any = None
        self.inner_port = 0
        self.heard = time.monotonic()

    @property
    def joined(self) -> bool:
        """Whether the connection has another end."""
        return self.server is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self.transport = transport
        self.transport.set_write_buffer_limits(_WRITE_BUFFER)
        if not self._front.entered(self):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Pass on, or collect until the ClientHello is complete."""
        self.heard = time.monotonic()
        if self.server is not None:
            self.server.write(data)
            return
        self._waiting += data
        if self._task is not None:
            if len(self._waiting) > _WRITE_BUFFER:
                self.transport.pause_reading()
            return
        try:
            protocols = offered_protocols(bytes(self._waiting))
        except NotTlsError:
            self._front.refused += 1
            self.transport.abort()
            return
        if protocols is not None:
            address = str((self.transport.get_extra_info("peername") or ("",))[0])
            self._task = asyncio.get_running_loop().create_task(self._front.join(self, protocols, address))

    def connect(self, server: Any) -> None:
        """The other end is there: hand over what has come."""
        if self._gone:
            server.abort()
            self._front.left(self)
            return
        self.server = server
        server.set_write_buffer_limits(_WRITE_BUFFER)
        server.write(bytes(self._waiting))
        self._waiting.clear()
        self.transport.resume_reading()
        if self._ended:
            server.write_eof()

    def eof_received(self) -> bool:
        """The client has finished; the answer may still be on its way."""
        self._ended = True
        if self.server is None:
            return False
        _write_eof(self.server)
        return True

    def pause_writing(self) -> None:
        """The client reads slowly."""
        if self.server is not None:
            self.server.pause_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self.server is not None:
            self.server.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        """The client is gone."""
        self._gone = True
        self._front.left(self)
        if self.server is not None:
            self.server.close()

    def hang_up(self) -> None:
        """Close both ends at once."""
        self.transport.abort()
        if self.server is not None:
            self.server.abort()


class _Server(asyncio.Protocol):
    """The inner end."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self._client.heard = time.monotonic()
        self._client.transport.write(data)

    def pause_writing(self) -> None:
        """The server reads slowly."""
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        """The server has caught up."""
        self._client.transport.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        """The server is gone."""
        self._client.transport.close()


def _write_eof(transport: Any) -> None:
    if not transport.is_closing():
        with contextlib.suppress(OSError, RuntimeError):
            transport.write_eof()
