"""A source and a destination for proxyd in the rig: plain sockets on the loopback addresses, which the rig shares."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests import builders as b
from tests.proxyd.relay.stage import SHUT_0
from tests.systemd.rig import CONFIG, SECONDS, Rig

HEAD = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.ram()
WIRE = HEAD + b.tail([b.Device(b"0000:00:02.0/virtio-gpu", b"state" * 1000)])

# More device state than the sockets between proxyd and a destination that does not read can hold.
LARGE = HEAD + b.tail([b.Device(b"0000:00:02.0/virtio-gpu", bytes(range(256)) * (12 << 12))])

SETTINGS = """\
[metrics]
listen = "127.0.0.1:{metrics}"
[control]
socket = "/run/proxyd-control/control.sock"
[limits]
{limits}
[[route]]
name = "lab"
listen = "127.0.0.1:{port}"
destination = "127.0.0.1:{destination}"
{route}
"""


class Peers:
    """The two hosts of one route of the rig's proxyd, and its configuration."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.destination = socket.socket()
        # So that most of what proxyd has sent is still with proxyd when something happens to it.
        self.destination.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.destination.bind(("127.0.0.1", 0))
        self.destination.listen()
        self.destination.settimeout(SECONDS)
        self.port, self.metrics = a_port(), a_port()
        self._open: list[socket.socket] = []

    def configure(self, limits: str = "", route: str = "") -> None:
        destination = self.destination.getsockname()[1]
        ports = {"metrics": self.metrics, "port": self.port, "destination": destination}
        self.rig.write(CONFIG, SETTINGS.format(limits=limits, route=route, **ports))

    def source(self, tls: ssl.SSLContext | None = None) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), SECONDS)
        return self.keep(plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost"))

    def accept(self) -> socket.socket:
        return self.keep(self.destination.accept()[0])

    def keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(SECONDS)
        self._open.append(sock)
        return sock

    def begin(self, sent: bytes = HEAD) -> tuple[socket.socket, socket.socket]:
        """A migration of which ``sent`` has reached the destination."""
        source = self.source()
        source.sendall(sent)
        destination = self.accept()
        assert read_exactly(destination, len(sent)) == sent
        return source, destination

    def commit(self) -> tuple[socket.socket, socket.socket, threading.Thread]:
        """A migration of :data:`LARGE` that is past its commit point, and of which next to nothing was read."""
        source = self.source()
        thread = threading.Thread(target=source.sendall, args=(LARGE,))
        thread.start()
        destination = self.accept()
        self.rig.wait_until(lambda: "past its commit point" in self.rig.proxyd("status"), "commit point")
        return source, destination, thread

    def migrate(self, tls: ssl.SSLContext | None = None) -> None:
        """A whole migration."""
        source = self.source(tls)
        source.sendall(WIRE)
        self.finish(source, self.accept(), WIRE)

    def finish(self, source: socket.socket, destination: socket.socket, wire: bytes) -> None:
        """The destination gets ``wire``, and both part as two QEMUs that are content."""
        assert read_exactly(destination, len(wire)) == wire
        destination.sendall(SHUT_0)
        destination.close()
        assert read_exactly(source, len(SHUT_0)) == SHUT_0
        assert source.recv(1) == b""
        source.close()

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        self.destination.close()


def read_exactly(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        chunk = sock.recv(min(count - len(got), 1 << 20))
        assert chunk, f"the connection ended after {len(got)} of {count} bytes"
        got += chunk
    return bytes(got)


def has_failed(source: socket.socket) -> bool:
    """Whether the source sees that its migration has failed, and resumes its guest: an end, and no verdict."""
    try:
        return source.recv(1) == b""
    except ConnectionResetError:
        return True


def a_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def peers(rig: Rig, limits: str = "", route: str = "") -> Iterator[Peers]:
    """proxyd runs in the rig, with one route; it has ended with everything of it when the context has."""
    one = Peers(rig)
    try:
        one.configure(limits, route)
        rig.systemctl("start", "proxyd")
        yield one
    finally:
        one.close()
        with suppress(Exception):
            rig.try_run("systemctl", "stop", "--no-block", "proxyd")
            rig.try_run("systemctl", "kill", "--signal=KILL", "proxyd")
        rig.wait_until(lambda: rig.show("ActiveState") in {"inactive", "failed"}, "end of proxyd")
        rig.try_run("systemctl", "reset-failed", "proxyd")
