"""proxyd dies by SIGKILL and is started again by its manager: past the commit point nobody but the log notices.

The manager is a stand-in for systemd (:mod:`tests.systemd.store`), because it restarts a daemon as often as there are
bytes to die at. :mod:`tests.systemd.test_survival` does the same under systemd itself, at fewer.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import builders as b
from tests import recorded
from tests.integration.offline import HOST, offline
from tests.integration.test_recorded_streams import WITH_RETURN_PATH
from tests.proxyd.relay.stage import PONG_1, SHUT_0
from tests.systemd.store import StandIn

# More than what the sockets between proxyd and a destination that does not read can hold.
LARGE = 24 << 20


class Host:
    """A migration host: proxyd and its manager, and a destination that listens."""

    def __init__(self, directory: Path, route: str = "") -> None:
        self.destination = socket.create_server(("127.0.0.1", 0))
        # So that most of what proxyd has sent is still with proxyd when it dies.
        self.destination.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.destination.settimeout(60)
        self.port = _a_port()
        (directory / "host.json").write_bytes(HOST)
        self.config = directory / "config.toml"
        self.config.write_text(
            f'[metrics]\nlisten = "127.0.0.1:{_a_port()}"\n[[route]]\nname = "lab"\nlisten = "127.0.0.1:{self.port}"\n'
            f'destination = "127.0.0.1:{self.destination.getsockname()[1]}"\n{route}\n'
        )
        command = [sys.executable, "-m", "proxyd.cli", "serve", "--config", str(self.config)]
        self.manager = StandIn(command, dict(os.environ), directory)

    def open(self) -> None:
        self.manager.open()
        self.manager.wait_ready()

    def source(self) -> socket.socket:
        """A source's connection; its destination accepts once the prologue came."""
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def accept(self) -> socket.socket:
        accepted, _ = self.destination.accept()
        accepted.settimeout(60)
        return accepted

    def log(self) -> str:
        return self.manager.log.read_text()

    def close(self) -> None:
        self.manager.close()
        self.destination.close()


def _a_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    one = Host(tmp_path, getattr(request, "param", ""))
    one.open()
    yield one
    one.close()


def a_large_stream() -> bytes:
    """One whose device state is :data:`LARGE`, of bytes that tell where they belong."""
    payload = b"".join(struct.pack(">I", number) for number in range(LARGE // 4))
    devices = [b.Device(b"0000:00:02.0/virtio-gpu", payload)]
    return b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.ram() + b.tail(devices)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        chunk = sock.recv(min(count - len(got), 1 << 20))
        assert chunk, f"the connection ended after {len(got)} of {count} bytes"
        got += chunk
    return bytes(got)


def sending(source: socket.socket, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=source.sendall, args=(data,))
    thread.start()
    return thread


def finish(host: Host, source: socket.socket, destination: socket.socket) -> None:
    """As two QEMUs part that are content."""
    destination.sendall(SHUT_0)
    destination.close()
    assert read_exactly(source, len(SHUT_0)) == SHUT_0
    assert source.recv(1) == b""
    source.close()
    host.manager.wait_for(lambda: not host.manager.stored, "an empty store")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.25, 0.5, 0.9, 0.9999])
def test_killed_while_it_delivers_the_device_state(share: float, host: Host) -> None:
    wire = a_large_stream()
    source = host.source()
    thread = sending(source, wire)
    destination = host.accept()
    destination.sendall(PONG_1)
    assert read_exactly(source, len(PONG_1)) == PONG_1
    # The device state is let go only when all of it has come and is kept.
    host.manager.wait_for(lambda: bool(host.manager.stored), "something in the store")
    at = round(share * len(wire))
    got = read_exactly(destination, at)
    host.manager.crash()
    assert got + read_exactly(destination, len(wire) - at) == wire
    thread.join()
    finish(host, source, destination)
    assert "a migration past its commit point is taken up again" in host.log()
    assert "completed: the destination said SHUT(0)" in host.log()


def test_killed_again_and_again(host: Host) -> None:
    wire = a_large_stream()
    source = host.source()
    thread = sending(source, wire)
    destination = host.accept()
    host.manager.wait_for(lambda: bool(host.manager.stored), "something in the store")
    got = b""
    for _ in range(5):
        got += read_exactly(destination, LARGE // 6)
        host.manager.crash()
    got += read_exactly(destination, len(wire) - len(got))
    assert got == wire
    thread.join()
    finish(host, source, destination)


@pytest.mark.parametrize("host", ['destination_host = "host.json"'], indirect=True)
@pytest.mark.parametrize("said", [0, 1, 4, 7, 8])
def test_killed_before_the_verdict_has_all_come(said: int, host: Host) -> None:
    """Rewritten device state; and what the process that has died had heard of the SHUT is known to the next."""
    wire = recorded.load(WITH_RETURN_PATH)
    expected = offline(wire)
    source = host.source()
    thread = sending(source, wire)
    destination = host.accept()
    assert read_exactly(destination, len(expected)) == expected
    thread.join()
    destination.sendall(SHUT_0[:said])
    assert read_exactly(source, said) == SHUT_0[:said]
    host.manager.crash()
    destination.sendall(SHUT_0[said:])
    destination.close()
    assert read_exactly(source, 8 - said) == SHUT_0[said:]
    assert source.recv(1) == b""
    source.close()
    host.manager.wait_for(lambda: not host.manager.stored, "an empty store")
    assert "completed: the destination said SHUT(0)" in host.log()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_killed_before_the_commit_point_it_leaves_the_guest_at_the_source(share: float, host: Host) -> None:
    wire = recorded.load(WITH_RETURN_PATH)
    source = host.source()
    source.sendall(wire[: round(share * len(wire))])
    destination = host.accept()
    head = read_exactly(destination, 8)
    host.manager.crash()
    assert host.manager.stored == []
    assert _ended(source)
    got = head
    try:
        while chunk := destination.recv(1 << 20):
            got += chunk
    except ConnectionResetError:
        pass
    assert wire.startswith(got)
    assert len(got) < len(wire) * share + 1
    source.close()
    destination.close()


def _ended(source: socket.socket) -> bool:
    """Whether the source sees that its migration has failed: an end, or an error, and no verdict."""
    try:
        return source.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_wrong_configuration_does_not_lose_what_was_left(host: Host) -> None:
    """The restart that follows a bad edit: nothing is served, but the migration is brought to its end."""
    wire = a_large_stream()
    source = host.source()
    thread = sending(source, wire)
    destination = host.accept()
    host.manager.wait_for(lambda: bool(host.manager.stored), "something in the store")
    host.config.write_text("[metrics]\nlisen = 1\n")
    host.manager.crash()
    assert read_exactly(destination, len(wire)) == wire
    thread.join()
    finish(host, source, destination)
    host.manager.wait_for(lambda: host.manager.starts > 2 or host.manager.exit_status is not None, "its end")
    assert "expected at least one [[route]] table" in host.log()


def test_a_source_that_dies_meanwhile_does_not_stop_the_delivery(host: Host) -> None:
    wire = a_large_stream()
    source = host.source()
    thread = sending(source, wire)
    destination = host.accept()
    host.manager.wait_for(lambda: bool(host.manager.stored), "something in the store")
    thread.join()
    host.manager.kill()
    source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    source.close()
    host.manager.wait_ready(2)
    assert read_exactly(destination, len(wire)) == wire
    destination.sendall(SHUT_0)
    destination.close()
    host.manager.wait_for(lambda: not host.manager.stored, "an empty store")
    assert "completed: the destination said SHUT(0)" in host.log()


def test_multifd_channels_live_on(host: Host) -> None:
    """Each with bytes on its way when proxyd dies, and with more afterwards."""
    wire = a_large_stream()
    source = host.source()
    channels = [host.source() for _ in range(3)]
    for number, channel in enumerate(channels):
        channel.sendall(b.multifd_init(number=number))
    thread = sending(source, wire)
    destination = host.accept()
    accepted = [host.accept() for _ in channels]
    pages = os.urandom(6 << 20)
    threads = [sending(channel, pages) for channel in channels]
    host.manager.wait_for(lambda: bool(host.manager.stored), "something in the store")
    assert len(host.manager.stored) == 3 + 4 * 6
    inits = [read_exactly(one, 64) for one in accepted]
    assert inits == [b.multifd_init(number=number) for number in range(3)]
    host.manager.crash()
    for one in accepted:
        assert read_exactly(one, len(pages)) == pages
    assert read_exactly(destination, len(wire)) == wire
    for one in (thread, *threads):
        one.join()
    for channel, one in zip(channels, accepted, strict=True):
        channel.sendall(b"more")
        assert read_exactly(one, 4) == b"more"
        channel.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""
        one.close()
        assert channel.recv(1) == b""
        channel.close()
    finish(host, source, destination)


def test_a_postcopy_goes_on_in_both_directions(host: Host) -> None:
    """Memory follows the device state, for as long as it takes, and the destination asks for it."""
    devices = [b.Device(b"0000:00:02.0/virtio-gpu", bytes(1 << 20))]
    memory = b.start(2, b.mem_size({b"mach-virt.ram": 1 << 28}) + b.EOS)
    head = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.POSTCOPY_ADVISE + memory
    wire = head + b.packaged(b.package(devices))
    asks = struct.pack(">HHQI", 4, 12, 0x1000, 0x1000)
    source = host.source()
    source.sendall(wire)
    destination = host.accept()
    assert read_exactly(destination, len(wire)) == wire
    page = b.part(2, b.page(0, block=b"mach-virt.ram") + b.EOS)
    for _ in range(3):
        source.sendall(page[:1000])
        destination.sendall(asks[:5])
        host.manager.crash()
        source.sendall(page[1000:])
        destination.sendall(asks[5:])
        assert read_exactly(destination, len(page)) == page
        assert read_exactly(source, len(asks)) == asks
    finish(host, source, destination)
