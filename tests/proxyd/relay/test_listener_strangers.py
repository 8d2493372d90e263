"""Ports and those that have not shown what they are: who is displaced, and who may stay; on real sockets."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from proxyd.config import TlsConfig
from proxyd.relay.channel import SocketLeg
from proxyd.relay.listener import Sessions
from proxyd.relay.tls_leg import TlsLeg, accept_tls
from proxyd.tls import ServerTls, server_tls
from tests.certificates import make_directory
from tests.proxyd.relay.port_bench import Bench, a_bench
from tests.proxyd.relay.stage import a_route
from tests.proxyd.relay.wires import a_tls_client, read_exactly, read_to_rst, reset


async def test_those_that_say_nothing_take_no_place_of_a_migration() -> None:
    async with a_bench(limit=1, silent_limit=2) as bench:
        silent = [await bench.source() for _ in range(2)]
        await bench.strangers(2)
        third = await bench.source()
        assert await read_to_rst(silent[0]) == b"", "the oldest of them had to go"
        await bench.outcome("too_many_connections")
        assert [line[0] for line in bench.told.lines] == ["DEBUG"], "nobody fills the log with that"
        await third.send_all(b"QEVM/")
        await read_exactly(await bench.door.next(), 5)
        assert len(bench.sessions.strangers) == 1
        assert bench.sessions.admitted == 1
        reset(third)
        await bench.outcome("source_gone")
        assert bench.sessions.admitted == 0
        await silent[1].send_all(b"QEVM/")
        await read_exactly(await bench.door.next(), 5)


async def test_who_has_spoken_stays_longer_than_who_has_not() -> None:
    async with a_bench(silent_limit=2) as bench:
        first = await bench.source()
        await first.send_all(b"QEVM")
        while not any(session.spoke for session in bench.sessions):
            await trio.sleep(0.001)
        silent = await bench.source()
        await bench.strangers(2)
        await bench.source()
        assert await read_to_rst(silent) == b""
        await first.send_all(b"/")
        await read_exactly(await bench.door.next(), 5)


# With TLS.


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    return make_directory(tmp_path / "pki")


def a_tls_bench(pki: Path, *, header_s: float = 30, silent_limit: int = 64) -> AbstractAsyncContextManager[Bench]:
    tls = server_tls(TlsConfig(source=str(pki)), pki)
    return a_bench(
        make_route=lambda **given: replace(a_route(header_s=header_s, **given), source_tls=tls),
        silent_limit=silent_limit,
    )


async def test_who_does_not_shake_hands_is_displaced_by_who_does(pki: Path) -> None:
    async with a_tls_bench(pki, silent_limit=1) as bench:
        silent = await bench.source()
        await bench.strangers(1)
        good = await trio.to_thread.run_sync(a_tls_client, pki, bench.port.address.port)
        assert await read_to_rst(silent) == b""
        await bench.outcome("too_many_connections")
        await trio.to_thread.run_sync(good.sendall, b"QEVM/")
        assert await read_exactly(await bench.door.next(), 5) == b"QEVM/"
        assert [line[0] for line in bench.told.lines if "limits.silent" in line[1]] == ["DEBUG"]
        good.close()


async def test_a_handshake_that_does_not_come_has_its_limit(pki: Path) -> None:
    async with a_tls_bench(pki, header_s=0.05) as bench:
        assert await read_to_rst(await bench.source()) == b""
        await bench.outcome("tls_failed")
        assert bench.told.lines[-1][1] == "tls_failed: no TLS handshake within 0.05 s (limits.header_time_s)"


async def test_a_handshake_that_ends_when_its_place_is_gone(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in one turn of the event loop."""
    shaking, go_on = trio.Event(), trio.Event()

    async def accept(leg: SocketLeg, tls: ServerTls) -> tuple[TlsLeg, str | None]:
        with trio.CancelScope(shield=True):
            shaken = await accept_tls(leg, tls)
            shaking.set()
            await go_on.wait()
        return shaken

    monkeypatch.setattr("proxyd.relay.listener.accept_tls", accept)
    async with a_tls_bench(pki, silent_limit=1) as bench:
        first = await trio.to_thread.run_sync(a_tls_client, pki, bench.port.address.port)
        await shaking.wait()
        second = await bench.source()
        await bench.displaced(1)
        go_on.set()
        await bench.outcome("too_many_connections")
        # Python before 3.12 takes a reset for an end.
        with suppress(ConnectionResetError):
            assert await trio.to_thread.run_sync(first.recv, 1) == b""
        assert len(bench.sessions) == 0
        assert len(bench.sessions.strangers) == 1
        reset(second)
        first.close()


async def test_a_stranger_whose_place_is_gone_is_not_admitted() -> None:
    sessions = Sessions(1, 1)
    with sessions.arrival("192.0.2.1") as first, sessions.arrival("192.0.2.2"):
        assert first.ending is not None
        assert sessions.admit(first) is first.ending
    assert sessions.admitted == 0
