"""``proxyd upgrade`` with real processes: another one serves from then on, and nobody is refused, cut or torn apart."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from proxyd.control.client import ask
from proxyd.control.protocol import ControlError
from tests import builders as b
from tests.proxyd.relay.stage import SHUT_0

SECONDS = 60
"""Longest wait for anything."""

HEAD = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.ram()
WIRE = HEAD + b.tail([b.Device(b"0000:00:02.0/virtio-gpu", b"state" * 1000)])

POSTCOPY_HEAD = (
    b.MAGIC
    + b.configuration()
    + b.OPEN_RETURN_PATH
    + b.POSTCOPY_ADVISE
    + b.start(2, b.mem_size({b"mach-virt.ram": 1 << 28}) + b.EOS)
)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"no {what} within {SECONDS} seconds"
        time.sleep(0.01)


def a_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Machine:
    """A proxyd, those that take its place, and a destination that listens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.destination = socket.create_server(("127.0.0.1", 0))
        self.destination.settimeout(SECONDS)
        self.port, self.metrics = a_port(), a_port()
        self.control = str(directory / "control.sock")
        self.entrance = str(directory / "in.sock")
        self.config = directory / "config.toml"
        self.log = directory / "log"
        self.pids: list[int] = []
        self.limits = ""
        self._open: list[socket.socket] = []
        self.configure()

    def configure(self, more: str = "") -> None:
        towards = f'destination = "127.0.0.1:{self.destination.getsockname()[1]}"\npostcopy = "may-lose-guest"\n'
        self.config.write_text(
            f'[metrics]\nlisten = "127.0.0.1:{self.metrics}"\n[control]\nsocket = "{self.control}"\n'
            f"[limits]\n{self.limits}\n"
            f'[[route]]\nname = "lab"\nlisten = "127.0.0.1:{self.port}"\n{towards}'
            f'[[route]]\nname = "unix"\nlisten = "unix:{self.entrance}"\n{towards}{more}'
        )

    def start(self) -> None:
        words = [sys.executable, "-m", "proxyd.cli", "serve", "--config", str(self.config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(words, stderr=log)
        self.pids.append(self.process.pid)
        wait_until(lambda: Path(self.control).exists() and self.answers(), "proxyd")

    def answers(self) -> bool:
        with suppress(Exception):
            return bool(self.ask("status"))
        return False

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return ask(self.control, command, arguments)

    def upgrade(self) -> int:
        pid = int(self.ask("upgrade")["process"])
        self.pids.append(pid)
        return pid

    def source(self) -> socket.socket:
        return self.keep(socket.create_connection(("127.0.0.1", self.port), SECONDS))

    def accept(self) -> socket.socket:
        return self.keep(self.destination.accept()[0])

    def keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(SECONDS)
        self._open.append(sock)
        return sock

    def text(self) -> str:
        return self.log.read_text()

    def migrates(self) -> None:
        """A whole migration, from its first byte to the verdict."""
        source = self.source()
        source.sendall(WIRE)
        finish(source, self.accept(), WIRE)

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=SECONDS) as answer:
            return str(answer.read().decode())

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        self.destination.close()
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    one = Machine(tmp_path)
    one.start()
    yield one
    one.close()


def read_exactly(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        chunk = sock.recv(count - len(got))
        assert chunk, f"the connection ended after {len(got)} of {count} bytes"
        got += chunk
    return bytes(got)


def finish(source: socket.socket, destination: socket.socket, wire: bytes) -> None:
    """The destination gets ``wire``, and both part as two QEMUs that are content."""
    assert read_exactly(destination, len(wire)) == wire
    destination.sendall(SHUT_0)
    destination.close()
    assert read_exactly(source, len(SHUT_0)) == SHUT_0
    assert source.recv(1) == b""
    source.close()


def test_a_new_process_serves_and_an_idle_old_one_ends(machine: Machine) -> None:
    machine.migrates()
    pid = machine.upgrade()
    assert pid != machine.process.pid
    assert machine.process.wait(SECONDS) == 0
    machine.migrates()
    wait_until(lambda: [one["outcome"] for one in machine.ask("status")["recent"]] == ["completed"], "its outcome")
    assert 'proxyd_migrations_total{outcome="completed",route="lab"} 1.0' in machine.scrape()
    assert Path(machine.entrance).exists()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(machine.control).exists(), "end of the new process")
    assert not Path(machine.entrance).exists()


def test_again_and_again(machine: Machine) -> None:
    for _ in range(3):
        machine.upgrade()
        machine.migrates()
    assert machine.process.wait(SECONDS) == 0


def test_a_migration_is_finished_where_it_is(machine: Machine) -> None:
    source = machine.source()
    source.sendall(WIRE[: len(HEAD)])
    destination = machine.accept()
    assert read_exactly(destination, 4) == WIRE[:4]
    machine.upgrade()
    machine.migrates()
    assert machine.process.poll() is None
    source.sendall(WIRE[len(HEAD) :])
    finish(source, destination, WIRE[4:])
    assert machine.process.wait(SECONDS) == 0
    assert machine.text().count("completed: the destination said SHUT(0)") == 2


def test_the_channels_of_one_migration_stay_together(machine: Machine) -> None:
    """Some of them come before the change, and some after it; another migration of the same source as well."""
    source = machine.source()
    source.sendall(HEAD)
    destination = machine.accept()
    assert read_exactly(destination, len(HEAD)) == HEAD
    channels, accepted = [], []
    for number in range(4):
        if number == 2:
            machine.upgrade()
        channels.append(machine.source())
        channels[-1].sendall(b.multifd_init(number=number) + b"pages")
        accepted.append(machine.accept())
        assert read_exactly(accepted[-1], 69) == b.multifd_init(number=number) + b"pages"
    machine.migrates()
    source.sendall(WIRE[len(HEAD) :])
    assert read_exactly(destination, len(WIRE) - len(HEAD)) == WIRE[len(HEAD) :]
    for channel, one in zip(channels, accepted, strict=True):
        channel.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""
        one.close()
        assert channel.recv(1) == b""
    finish(source, destination, b"")
    assert machine.process.wait(SECONDS) == 0
    assert "destination_gone" not in machine.text()


def test_a_channel_that_comes_before_its_main_one_speaks(machine: Machine) -> None:
    source = machine.source()
    early = machine.source()
    early.sendall(b.multifd_init(number=0))
    machine.upgrade()
    late = machine.source()
    late.sendall(b.multifd_init(number=1))
    source.sendall(WIRE)
    destination = machine.accept()
    assert read_exactly(destination, 4) == WIRE[:4]
    for number in range(2):
        assert read_exactly(machine.accept(), 64) == b.multifd_init(number=number)
    finish(source, destination, WIRE[4:])


def test_a_preempt_channel_long_after(machine: Machine) -> None:
    """It comes when the source switches to postcopy, and says nothing that would tell it from another connection."""
    source = machine.source()
    source.sendall(POSTCOPY_HEAD)
    destination = machine.accept()
    assert read_exactly(destination, len(POSTCOPY_HEAD)) == POSTCOPY_HEAD
    machine.upgrade()
    machine.source().close()  # a port probe
    preempt = machine.source()
    package = b.packaged(b.package([b.Device(b"0000:00:02.0/virtio-gpu", bytes(1000))]))
    source.sendall(package)
    channel = machine.accept()
    assert read_exactly(destination, len(package)) == package
    preempt.sendall(b"a page")
    assert read_exactly(channel, 6) == b"a page"


def test_nobody_is_refused_meanwhile(machine: Machine) -> None:
    """Connections are made all the time, and each one that was made is answered."""
    ended = threading.Event()
    failures: list[str] = []
    made = [0, 0]

    def scrape() -> None:
        while not ended.is_set():
            try:
                machine.scrape()
                made[0] += 1
            except OSError as error:
                failures.append(f"a scrape: {error}")

    def connect() -> None:
        while not ended.is_set():
            try:
                with socket.create_connection(("127.0.0.1", machine.port), SECONDS) as source:
                    source.sendall(b"no migration")
                    with suppress(ConnectionResetError):
                        assert source.recv(1) == b""
                made[1] += 1
            except OSError as error:
                failures.append(f"a connection: {error}")

    threads = [threading.Thread(target=one) for one in (scrape, connect, connect)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        machine.upgrade()
        wanted = [made[0] + 3, made[1] + 3]
        wait_until(lambda wanted=wanted: made[0] > wanted[0] and made[1] > wanted[1], "connections after an upgrade")
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ("[metrics]\nlisen = 1\n", "expected at least one [[route]] table"),
        (None, "No such file or directory"),
    ],
)
def test_a_new_process_that_cannot_start_changes_nothing(machine: Machine, edit: str | None, reason: str) -> None:
    if edit is None:
        machine.config.unlink()
    else:
        machine.config.write_text(edit)
    with pytest.raises(ControlError, match="nothing changed: the new process refused") as caught:
        machine.upgrade()
    assert reason in str(caught.value)
    machine.migrates()
    assert machine.process.poll() is None
    assert Path(machine.control).exists()
    assert "upgrade failed, nothing changed" in machine.text()


def test_a_taken_port_changes_nothing(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        machine.configure(f'[[route]]\nname = "new"\nlisten = "127.0.0.1:{taken}"\ndestination = "127.0.0.1:9"\n')
        said = f"route new: cannot listen on 127.0.0.1:{taken}: Address already in use"
        with pytest.raises(ControlError, match=said):
            machine.upgrade()
    assert Path(machine.control).exists()
    assert Path(machine.entrance).exists()
    machine.migrates()


def test_the_configuration_of_the_new_process_is_in_force(machine: Machine) -> None:
    new = a_port()
    machine.port, old = new, machine.port
    machine.configure()
    machine.upgrade()
    machine.migrates()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", old), SECONDS)


def test_temporary_routes_go_along(machine: Machine) -> None:
    towards = f"127.0.0.1:{machine.destination.getsockname()[1]}"
    listen = machine.ask("route-add", name="mine", destination=towards, once=True)["listen"]
    machine.ask("route-add", name="stays", destination=towards)
    machine.upgrade()
    assert machine.process.wait(SECONDS) == 0
    routes = {one["name"]: one for one in machine.ask("route-list")["routes"]}
    assert (routes["mine"]["listen"], routes["mine"]["once"]) == (listen, True)
    machine.port = int(listen.rpartition(":")[2])
    machine.migrates()
    wait_until(
        lambda: [one["name"] for one in machine.ask("route-list")["routes"]][2:] == ["stays"], "end of the route"
    )


def test_a_temporary_route_stays_with_the_migration_that_it_is_for(machine: Machine) -> None:
    towards = f"127.0.0.1:{machine.destination.getsockname()[1]}"
    listen = machine.ask("route-add", name="mine", destination=towards, once=True)["listen"]
    source = machine.keep(socket.create_connection(("127.0.0.1", int(listen.rpartition(":")[2])), SECONDS))
    source.sendall(HEAD)
    destination = machine.accept()
    assert read_exactly(destination, len(HEAD)) == HEAD
    machine.upgrade()
    assert "mine" not in {one["name"] for one in machine.ask("route-list")["routes"]}
    source.sendall(WIRE[len(HEAD) :])
    finish(source, destination, WIRE[len(HEAD) :])
    assert machine.process.wait(SECONDS) == 0


def test_sigusr2_upgrades(machine: Machine) -> None:
    os.kill(machine.process.pid, signal.SIGUSR2)
    assert machine.process.wait(SECONDS) == 0
    (line,) = [line for line in machine.text().splitlines() if "upgraded" in line]
    machine.pids.append(int(line.split("process=")[1].split()[0]))
    machine.migrates()


def test_a_drain_ends_what_an_old_process_finishes(machine: Machine) -> None:
    source = machine.source()
    source.sendall(HEAD)
    assert read_exactly(machine.accept(), len(HEAD)) == HEAD
    machine.upgrade()
    os.kill(machine.process.pid, signal.SIGTERM)
    wait_until(lambda: "draining: up to 300 s" in machine.text(), "drain")
    os.kill(machine.process.pid, signal.SIGTERM)
    assert machine.process.wait(SECONDS) == 0
    with pytest.raises(ConnectionResetError):
        source.recv(1)
    machine.migrates()


def test_a_new_process_takes_over_when_the_old_one_is_killed(machine: Machine) -> None:
    """While the old one still accepts, because its migration may get more channels."""
    source = machine.source()
    source.sendall(HEAD)
    assert read_exactly(machine.accept(), len(HEAD)) == HEAD
    machine.upgrade()
    machine.process.kill()
    machine.process.wait()
    machine.migrates()


def test_reload_and_upgrade_are_refused_where_they_make_no_sense(machine: Machine) -> None:
    source = machine.source()
    source.sendall(HEAD)
    assert read_exactly(machine.accept(), len(HEAD)) == HEAD
    machine.upgrade()
    with pytest.raises(ControlError, match="the process before this one still accepts"):
        machine.upgrade()
    os.kill(machine.process.pid, signal.SIGHUP)
    wait_until(lambda: "reload refused, nothing changed: process" in machine.text(), "refusal")
    os.kill(machine.process.pid, signal.SIGUSR2)
    wait_until(lambda: "upgrade failed, nothing changed: process" in machine.text(), "refusal")


def test_the_command_line(machine: Machine) -> None:
    words = [sys.executable, "-m", "proxyd.cli", "upgrade", "--config", str(machine.config)]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    machine.pids.append(answer["process"])
    assert answer == {"version": 1, "command": "upgrade", "process": machine.pids[-1], "connections": 0}
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    machine.pids.append(int(done.stdout.split()[2]))
    assert done.stdout == f"upgraded: process {machine.pids[-1]} serves; 0 connections are finished by the old one\n"


def test_a_new_process_that_says_nothing_is_ended(tmp_path: Path) -> None:
    one = Machine(tmp_path)
    one.limits = "upgrade_time_s = 0.5"
    one.configure()
    one.start()
    try:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        one.config.unlink()
        one.config.symlink_to(fifo)
        with pytest.raises(ControlError, match="was not ready within"):
            one.upgrade()
        one.migrates()
    finally:
        one.close()
