"""The daemon as a whole: start, reload, drain; on real sockets, with the toy stream of the relay's tests."""

from __future__ import annotations

import logging
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import wait_all_tasks_blocked

from proxyd import config_file as configuration
from proxyd import daemon as daemons
from proxyd.daemon import Daemon
from proxyd.endpoint import Address
from proxyd.journal import LOGGER
from proxyd.metrics import Metrics
from proxyd.service_notify import ServiceNotifier
from proxyd.snapshot import Snapshot
from tests.proxyd.relay.stage import SHUT_0, ScriptedRewriter, Told, a_journal, value
from tests.proxyd.relay.wires import (
    Door,
    a_closed_port,
    a_door,
    connect,
    read_exactly,
    read_to_fin,
    read_to_rst,
    reset,
    slam_doors,
)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    loggers = (LOGGER, logging.getLogger("trio"))
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, was in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level, logger.propagate = was


class RecordingNotifier(ServiceNotifier):
    """Keeps what the service manager would be told."""

    def __init__(self, watchdog_s: float | None = None) -> None:
        super().__init__(None, watchdog_s)
        self.told: list[str] = []

    def _send(self, *lines: str) -> None:
        self.told.append(" ".join(line for line in lines if not line.startswith("MONOTONIC")))


def text(*routes: str, metrics_port: int = 0, limits: str = "") -> str:
    return f'[metrics]\nlisten = "127.0.0.1:{metrics_port}"\n[limits]\n{limits}\n' + "".join(routes)


def route(name: str, destination: Door | int, listen: int = 0, more: str = "") -> str:
    port = destination if isinstance(destination, int) else destination.port
    return f'[[route]]\nname = "{name}"\nlisten = "127.0.0.1:{listen}"\ndestination = "127.0.0.1:{port}"\n{more}\n'


class Running:
    """A daemon that runs in the test's own process."""

    def __init__(self, daemon: Daemon, config: Path, notifier: RecordingNotifier, told: Told) -> None:
        self.daemon = daemon
        self.config = config
        self.notifier = notifier
        self.told = told
        self.ended = trio.Event()
        self._sources: list[trio.SocketStream] = []

    async def run(self) -> None:
        await self.daemon.run()
        self.ended.set()

    async def source(self, name: str = "lab") -> trio.SocketStream:
        address = self.daemon.listening.routes[name]
        stream = await connect(address.host, address.port)
        self._sources.append(stream)
        return stream

    def slam(self) -> None:
        for stream in self._sources:
            reset(stream)
        slam_doors()

    def sample(self, name: str, **labels: str) -> float:
        return value(self.daemon.metrics, name, **labels)


def a_snapshot(path: Path, content: str) -> Snapshot:
    path.write_text(content)
    return Snapshot.build(configuration.load(path))


@asynccontextmanager
async def running(
    path: Path, content: str, watchdog_s: float | None = None, command: Sequence[str] = ()
) -> AsyncIterator[Running]:
    journal, told = a_journal()
    notifier = RecordingNotifier(watchdog_s)
    snapshot = a_snapshot(path, content)
    daemon = Daemon(snapshot, notifier, journal, lambda _route: ScriptedRewriter(), command=command)
    await daemon.open()
    it = Running(daemon, path, notifier, told)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.run)
        await wait_all_tasks_blocked()
        try:
            yield it
        finally:
            it.slam()
            nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


# Start.


async def test_a_started_daemon_relays_and_says_so(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        assert it.notifier.told == ["READY=1 STATUS=serving 1 route"]
        assert set(it.daemon.listening.routes) == {"lab"}
        address = it.daemon.listening.routes["lab"]
        (listening,) = [line for line in it.told.lines if line[1] == "listening"]
        assert listening[2] == {
            "route": "lab",
            "listen": str(address),
            "destination": f"127.0.0.1:{door.port}",
        }
        assert "route lab: no profile and no destination_host, so nothing is rewritten" in it.told.texts()
        source = await it.source()
        await source.send_all(b"QEVM/ram")
        assert await read_exactly(await door.next(), 8) == b"QEVM/ram"


async def test_a_scrape_of_a_running_daemon_has_every_metric_of_the_manual(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door), route("other", door))) as it:
        source = await it.source()
        await source.send_all(b"QEVM/ram[state]")
        destination = await door.next()
        await read_exactly(destination, 15)

        def scrape() -> str:
            with urllib.request.urlopen(f"http://{it.daemon.listening.metrics}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        page = await trio.to_thread.run_sync(scrape)
        families = {family.name: family for family in text_string_to_metric_families(page)}
        assert {name for name in families if name.startswith("proxyd_")} == {
            name.removesuffix("_total") for name in Metrics().registry._names_to_collectors if _is_family(name)
        }
        sessions = {
            (sample.labels["route"], sample.labels["phase"]): sample.value
            for sample in families["proxyd_active_sessions"].samples
        }
        assert sessions["lab", "released"] == 1
        assert sum(sessions.values()) == 1
        assert {sample.labels["route"] for sample in families["proxyd_bytes"].samples} == {"lab", "other"}


def _is_family(name: str) -> bool:
    """The registry also lists the names of samples."""
    samples = ("_bucket", "_count", "_sum", "_created")
    bare = name in {"proxyd_bytes", "proxyd_migrations", "proxyd_registers", "proxyd_reloads", "proxyd_sections"}
    return name.startswith("proxyd_") and not name.endswith(samples) and not bare and name != "proxyd_build"


async def test_the_watchdog_is_fed(path: Path) -> None:
    async with running(path, text(route("lab", 1)), watchdog_s=0.01) as it:
        with trio.fail_after(10):
            while it.notifier.told.count("WATCHDOG=1") < 3:
                await trio.sleep(0.001)


# Reload.


async def test_a_reload_opens_closes_and_keeps(path: Path) -> None:
    stays, goes, comes = a_closed_port(), a_closed_port(), a_closed_port()
    async with a_door() as before, a_door() as after:
        content = text(route("stays", before, stays), route("goes", before, goes))
        async with running(path, content) as it:
            running_before = await it.source("stays")
            await running_before.send_all(b"QEVM/ram")
            destination = await before.next()
            await read_exactly(destination, 8)
            path.write_text(text(route("stays", after, stays), route("comes", after, comes), limits="connections = 10"))
            assert await it.daemon.reload()
            assert it.notifier.told[1:] == ["RELOADING=1", "READY=1 STATUS=serving 2 routes"]
            assert set(it.daemon.listening.routes) == {"stays", "comes"}
            with pytest.raises(ConnectionRefusedError):
                await connect("127.0.0.1", goes)
            for name in ("stays", "comes"):
                source = await it.source(name)
                await source.send_all(b"QEVM/new")
                assert await read_exactly(await after.next(), 8) == b"QEVM/new"
                await source.aclose()
            await running_before.send_all(b"more")
            assert await read_exactly(destination, 4) == b"more"
            assert it.daemon.sessions.limit == 10
            assert it.sample("proxyd_reloads_total", result="applied") == 1


async def test_port_0_stays_the_same_port_over_a_reload(path: Path) -> None:
    async with running(path, text(route("lab", 1))) as it:
        before = it.daemon.listening
        path.write_text(text(route("lab", 2)))
        assert await it.daemon.reload()
        assert it.daemon.listening == before


@pytest.mark.parametrize("mistake", ["typo", "file", "gone"])
async def test_a_reload_with_a_mistake_changes_nothing(path: Path, mistake: str) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        snapshot, listening = it.daemon.snapshot, it.daemon.listening
        if mistake == "typo":
            path.write_text(text(route("new", 1, more="profil = 'x'")))
        elif mistake == "file":
            path.write_text(text(route("new", 1, more="profile = 'nothing.toml'")))
        else:
            path.unlink()
        assert not await it.daemon.reload()
        assert it.daemon.snapshot is snapshot
        assert it.daemon.listening == listening
        assert it.notifier.told[1] == "RELOADING=1"
        assert it.notifier.told[2].startswith("READY=1 STATUS=serving 1 route; the last reload was refused: ")
        assert it.told.lines[-1][0] == "ERROR"
        assert it.told.lines[-1][1].startswith("reload refused, nothing changed: ")
        assert "Errno" not in it.told.lines[-1][1]
        assert it.sample("proxyd_reloads_total", result="refused") == 1
        source = await it.source()
        await source.send_all(b"QEVM/")
        await read_exactly(await door.next(), 5)


@pytest.mark.parametrize("taken", ["route", "metrics"])
async def test_a_reload_that_cannot_bind_changes_nothing(path: Path, taken: str) -> None:
    free = a_closed_port()
    async with a_door() as door, running(path, text(route("lab", 1))) as it:
        listening = it.daemon.listening
        if taken == "route":
            path.write_text(text(route("free", 1, free), route("taken", 1, door.port)))
        else:
            path.write_text(text(route("free", 1, free), metrics_port=door.port))
        assert not await it.daemon.reload()
        assert it.daemon.listening == listening
        with pytest.raises(ConnectionRefusedError):
            await connect("127.0.0.1", free)


async def test_a_reload_moves_the_metrics(path: Path) -> None:
    old, new = a_closed_port(), a_closed_port()
    async with running(path, text(route("lab", 1), metrics_port=old)) as it:
        path.write_text(text(route("lab", 1), metrics_port=new))
        assert await it.daemon.reload()
        assert it.daemon.listening.metrics == Address("127.0.0.1", new)
        stream = await connect("127.0.0.1", new)
        await stream.aclose()
        with pytest.raises(ConnectionRefusedError):
            await connect("127.0.0.1", old)


async def test_a_draining_daemon_does_not_reload(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        source = await it.source()
        await source.send_all(b"QEVM/")
        await door.next()
        it.daemon.drain()
        await wait_all_tasks_blocked()
        assert not await it.daemon.reload()
        assert it.told.lines[-1][1] == "reload refused, nothing changed: the daemon is draining"


class Gate:
    """Lets the first reading of a configuration, which is in a thread, end when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self._read = daemons._read
        self._first = True
        monkeypatch.setattr(daemons, "_read", self)

    def __call__(self, path: Path) -> Snapshot:
        snapshot = self._read(path)
        if self._first:
            self._first = False
            self.open.wait(30)
        return snapshot


async def test_what_was_read_last_is_in_force_when_two_reload_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(path, text(route("lab", 1))) as it:
        gate = Gate(monkeypatch)
        async with trio.open_nursery() as nursery:
            path.write_text(text(route("earlier", 1)))
            nursery.start_soon(it.daemon.reload)
            while gate._first:
                await trio.sleep(0.005)
            path.write_text(text(route("later", 1)))
            nursery.start_soon(it.daemon.reload)
            await wait_all_tasks_blocked(0.2)
            gate.open.set()
        assert list(it.daemon.listening.routes) == ["later"]


async def test_a_drain_overtakes_a_reload(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = a_closed_port()
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        source = await it.source()
        await source.send_all(b"QEVM/")
        await door.next()
        gate = Gate(monkeypatch)
        async with trio.open_nursery() as nursery:
            path.write_text(text(route("lab", door), route("new", 1, free)))
            nursery.start_soon(it.daemon.reload)
            while gate._first:
                await trio.sleep(0.005)
            it.daemon.drain()
            await wait_all_tasks_blocked()
            gate.open.set()
        assert it.daemon.last_reload_error == "the daemon is draining"
        with pytest.raises(ConnectionRefusedError):
            await connect("127.0.0.1", free)


# Drain.


async def test_an_idle_daemon_ends_at_once(path: Path) -> None:
    async with running(path, text(route("lab", 1))) as it:
        address = it.daemon.listening.routes["lab"]
        it.daemon.drain()
        with trio.fail_after(10):
            await it.ended.wait()
        assert it.notifier.told[-1] == (
            "STOPPING=1 STATUS=draining: 0 sessions, up to 300 s for those before their commit point"
        )
        with pytest.raises(ConnectionRefusedError):
            await connect(address.host, address.port)


async def test_a_drain_refuses_new_sources_and_lets_running_ones_finish(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        address = it.daemon.listening.routes["lab"]
        source = await it.source()
        await source.send_all(b"QEVM/ram")
        destination = await door.next()
        await read_exactly(destination, 8)
        it.daemon.drain()
        await wait_all_tasks_blocked()
        assert it.sample("proxyd_draining") == 1
        with pytest.raises(ConnectionRefusedError):
            await connect(address.host, address.port)
        await source.send_all(b"[state]")
        assert await read_exactly(destination, 7) == b"<state>"
        await destination.send_all(SHUT_0)
        await destination.aclose()
        assert await read_to_fin(source) == SHUT_0
        assert not it.ended.is_set()
        await source.aclose()
        with trio.fail_after(10):
            await it.ended.wait()
        assert it.sample("proxyd_migrations_total", outcome="completed") == 1


async def _one_before_and_one_past(it: Running, door: Door) -> list[tuple[trio.SocketStream, trio.SocketStream]]:
    pairs = []
    for state in (b"[sta", b"[state]"):
        source = await it.source()
        await source.send_all(b"QEVM/ram" + state)
        destination = await door.next()
        await read_exactly(destination, 8 if state == b"[sta" else 15)
        pairs.append((source, destination))
    return pairs


async def _cut_but_never_past_the_commit_point(
    it: Running, pairs: list[tuple[trio.SocketStream, trio.SocketStream]]
) -> None:
    (source, destination), (committed_source, committed_destination) = pairs
    assert await read_to_rst(source) == b""
    assert await read_to_rst(destination) == b""
    await wait_all_tasks_blocked()
    assert not it.ended.is_set()
    assert "drain: 1 sessions reset, 1 past the commit point are waited for" in it.told.texts()
    it.daemon.drain()  # and again: it does not help
    await wait_all_tasks_blocked()
    assert not it.ended.is_set()
    await committed_destination.send_all(SHUT_0)
    await committed_destination.aclose()
    assert await read_to_fin(committed_source) == SHUT_0
    await committed_source.aclose()
    with trio.fail_after(10):
        await it.ended.wait()
    assert it.sample("proxyd_migrations_total", outcome="drained") == 1
    assert it.sample("proxyd_migrations_total", outcome="completed") == 1


async def test_a_drain_that_runs_out_of_patience_cuts_only_before_the_commit_point(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door), limits="drain_time_s = 0.05")) as it:
        pairs = await _one_before_and_one_past(it, door)
        it.daemon.drain()
        await _cut_but_never_past_the_commit_point(it, pairs)


async def test_a_second_request_ends_the_patience(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        pairs = await _one_before_and_one_past(it, door)
        it.daemon.drain()
        await wait_all_tasks_blocked()
        it.daemon.drain()
        await _cut_but_never_past_the_commit_point(it, pairs)
