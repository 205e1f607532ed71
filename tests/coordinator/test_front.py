"""The one port: what a client offers is read right, and its bytes reach the right server unchanged."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.front import Front, NotTlsError, offered_protocols
from protocols.errors import TransportError
from tests.running_lab import free_port

OFFERS: list[tuple[str, ...]] = [(), ("h2",), ("http/1.1",), ("h2", "http/1.1"), ("x" * 255, "h2")]


def client_hello(protocols: Sequence[str]) -> bytes:
    """The first bytes of a real TLS client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="lab.example").do_handshake()
    return outgoing.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same ClientHello, cut into several TLS records."""
    body = hello[5:]
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize("protocols", OFFERS, ids=str)
def test_what_a_tls_client_offers_is_read_however_it_arrives(protocols: tuple[str, ...]) -> None:
    hello = client_hello(protocols)
    assert offered_protocols(hello) == protocols
    assert all(offered_protocols(hello[:size]) is None for size in range(len(hello)))
    assert offered_protocols(in_records(hello, 7)) == protocols
    assert offered_protocols(hello + b"and what follows") == protocols


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x00", b"PRI * HTTP/2.0", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff", b"\x15"],
)
def test_what_is_not_tls_is_told_apart_at_once(data: bytes) -> None:
    with pytest.raises(NotTlsError):
        offered_protocols(data)


def test_a_hello_that_never_ends_is_given_up() -> None:
    endless = in_records(b"\x16\x03\x01\x00\x00" + b"\x01\x00\xff\xff" + bytes(70_000), 16_000)
    with pytest.raises(NotTlsError):
        offered_protocols(endless[:20_000])
    with pytest.raises(NotTlsError):
        offered_protocols(b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" * 20_000)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 600), st.integers(1, 255))
def test_no_bytes_are_more_than_refused(noise: bytes, place: int, flip: int) -> None:
    hello = bytearray(client_hello(("h2",)))
    hello[place % len(hello)] ^= flip
    for data in (noise, b"\x16\x03\x01" + noise, bytes(hello), bytes(hello[:20]) + noise):
        try:
            found = offered_protocols(data)
        except NotTlsError:
            continue
        assert found is None or isinstance(found, tuple)


# -- a front between real sockets


class Echo:
    """A server that greets with its name, then sends back what it gets, and ends when the client does."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.origins: list[int] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            self.origins.append(peer[1])
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.sendall(self._name)
            while data := connection.recv(65_536):
                connection.sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def servers() -> Iterator[tuple[Echo, Echo]]:
    relay, api = (
        Echo(b"relay"),
        Echo(b"api"),
    )
    yield relay, api
    relay.close()
    api.close()


@pytest.fixture
def front(servers: tuple[Echo, Echo]) -> Iterator[tuple[Front, int]]:
    made = Front(servers[0].port, servers[1].port, idle_timeout_s=1.0)
    yield made, made.start("127.0.0.1", 0)
    made.close()


def read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(65_536)):
        data += more
    return data


def ends(connection: socket.socket) -> bool:
    """Read to the end, which is a close or a reset; a timeout is an error."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize(
    ("protocols", "greeting"),
    [(("h2",), b"relay"), ((), b"api"), (("http/1.1",), b"api"), (("h2", "http/1.1"), b"api")],
    ids=str,
)
def test_grpc_goes_to_the_relay_and_all_else_to_the_api(
    front: tuple[Front, int], protocols: tuple[str, ...], greeting: bytes
) -> None:
    hello = client_hello(protocols)
    with socket.create_connection(("127.0.0.1", front[1]), timeout=5) as client:
        for at in range(0, len(hello), 97):
            client.sendall(hello[at : at + 97])
        assert read(client, len(greeting) + len(hello)) == greeting + hello


def test_megabytes_arrive_unchanged_at_a_slow_reader(front: tuple[Front, int]) -> None:
    hello, data = client_hello(("h2",)), os.urandom(6 << 20)
    with socket.create_connection(("127.0.0.1", front[1]), timeout=10) as client:
        client.sendall(hello)
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)), daemon=True)
        sender.start()
        time.sleep(0.3)
        received = read(client, 1 << 30)
    assert hashlib.sha256(received).digest() == hashlib.sha256(b"relay" + hello + data).digest()


def test_a_connection_that_is_not_tls_is_closed(front: tuple[Front, int]) -> None:
    with socket.create_connection(("127.0.0.1", front[1]), timeout=5) as client:
        client.sendall(b"GET /v1/health HTTP/1.1\r\n\r\n")
        assert ends(client)
    assert front[0].refused == 1


@pytest.mark.parametrize("first", [b"", client_hello(("h2",))[:40], client_hello(("h2",))], ids=["mute", "part", "all"])
def test_a_connection_that_says_no_more_is_closed(front: tuple[Front, int], first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", front[1]), timeout=5) as client:
        client.sendall(first)
        begin = time.monotonic()
        assert ends(client)
        assert time.monotonic() - begin < 4
    deadline = time.monotonic() + 2
    while front[0].connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert front[0].connections == 0


def test_the_address_behind_a_connection_is_known_while_it_lasts(
    front: tuple[Front, int], servers: tuple[Echo, Echo]
) -> None:
    with socket.create_connection(("127.0.0.1", front[1]), timeout=5) as client:
        client.sendall(client_hello(()))
        assert read(client, 3)[:3] == b"api"
        (port,) = servers[1].origins
        assert front[0].origin(port) == "127.0.0.1"
    deadline = time.monotonic() + 2
    while front[0].origin(port) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert front[0].origin(port) == ""


def test_a_server_that_is_down_ends_the_connection_only(servers: tuple[Echo, Echo]) -> None:
    front = Front(free_port(), servers[1].port)
    port = front.start("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(client_hello(("h2",)))
        assert ends(client)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(client_hello(()))
        assert read(client, 3)[:3] == b"api"
    front.close()


def test_a_port_that_is_taken_is_said_so(front: tuple[Front, int]) -> None:
    with pytest.raises(TransportError) as caught:
        Front(1, 1).start("127.0.0.1", front[1])
    assert caught.value.code == "PORT_TAKEN"


def test_closing_ends_every_connection_and_frees_the_port(servers: tuple[Echo, Echo]) -> None:
    front = Front(servers[0].port, servers[1].port)
    port = front.start("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(client_hello(("h2",)))
        read(client, 5)
        begin = time.monotonic()
        front.close()
        assert time.monotonic() - begin < 2
        assert ends(client)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
