"""Ports and the book of sessions, on real sockets: what a source and a destination see of the relay."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proxyd.endpoint import Address
from proxyd.metrics import Metrics
from proxyd.relay.channel import SocketLeg
from proxyd.relay.listener import RoutePort, Sessions
from proxyd.relay.listening import InheritedSockets, listen_on
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.session import MigrationSession
from proxyd.relay.surroundings import Surroundings
from tests.proxyd.relay.legs import leg_pair
from tests.proxyd.relay.port_bench import a_bench
from tests.proxyd.relay.stage import PONG_1, SHUT_0, SHUT_1, ScriptedRewriter, a_journal, a_route
from tests.proxyd.relay.wires import (
    a_closed_port,
    a_door,
    connect,
    read_exactly,
    read_to_fin,
    read_to_rst,
    reset,
)


async def test_a_migration_over_real_sockets_with_its_half_closes() -> None:
    async with a_bench() as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/" + b"ram" * 100_000)
        destination = await bench.door.next()
        assert await read_exactly(destination, 300_005) == b"QEVM/" + b"ram" * 100_000
        await destination.send_all(PONG_1)
        assert await read_exactly(source, 8) == PONG_1
        await source.send_all(b"[state]")
        assert await read_exactly(destination, 7) == b"<state>"
        await source.send_eof()
        assert await read_to_fin(destination) == b""
        await destination.send_all(SHUT_0)
        await destination.aclose()
        assert await read_to_fin(source) == SHUT_0
        await source.aclose()
        await bench.outcome("completed")
        await bench.sessions.wait_none()


async def test_a_refusal_is_rst_on_both_sides() -> None:
    async with a_bench() as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/ram")
        destination = await bench.door.next()
        await read_exactly(destination, 8)
        await source.send_all(b"[sta?")
        assert await read_to_rst(source) == b""
        assert await read_to_rst(destination) == b""
        await bench.outcome("refused")


async def test_a_source_s_rst_becomes_rst_before_the_commit_point() -> None:
    async with a_bench() as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/ram")
        destination = await bench.door.next()
        await read_exactly(destination, 8)
        reset(source)
        assert await read_to_rst(destination) == b""
        await bench.outcome("source_gone")


async def test_a_destination_s_rst_becomes_rst_before_and_after_the_commit_point() -> None:
    async with a_bench() as bench:
        for state, outcome in ((b"", "destination_gone"), (b"[state]", "destination_failed")):
            source = await bench.source()
            await source.send_all(b"QEVM/ram" + state)
            destination = await bench.door.next()
            await read_exactly(destination, 8 + len(state))
            reset(destination)
            assert await read_to_rst(source) == b""
            await bench.outcome(outcome)


async def test_a_destination_s_fin_becomes_fin_after_the_commit_point() -> None:
    async with a_bench() as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/ram[state]")
        destination = await bench.door.next()
        await read_exactly(destination, 15)
        await destination.aclose()
        assert await read_to_fin(source) == b""
        await source.aclose()
        await bench.outcome("destination_failed")


async def test_a_verdict_arrives_although_the_destination_closes_with_unread_data() -> None:
    """The kernel makes an RST of that; QEMU does it when a load fails in the middle."""
    async with a_bench() as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/ram[state]")
        destination = await bench.door.next()
        await read_exactly(destination, 10)
        await destination.send_all(SHUT_1)
        await destination.aclose()
        assert await read_to_fin(source) == SHUT_1
        await source.aclose()
        await bench.outcome("destination_failed")


async def test_a_source_that_dies_after_the_commit_point_does_not_stop_the_delivery() -> None:
    async with a_bench() as bench:
        source = await bench.source()
        state = b"x" * 200_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.send_all, b"QEVM/ram[" + state + b"]" + state)
            destination = await bench.door.next()
            got = await read_exactly(destination, 100_000)
            await destination.send_all(SHUT_0)
        # All of it is with the kernel; the destination has read a quarter.
        await source.aclose()
        got += await read_to_fin(destination)
        assert len(got) == 8 + 2 + 2 * len(state)
        await destination.aclose()
        await bench.outcome("completed")


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_port_probe_does_not_reach_the_destination(how: str) -> None:
    async with a_bench() as bench:
        source = await bench.source()
        if how == "fin":
            await source.aclose()
        else:
            reset(source)
        await bench.outcome("not_migration")
        assert await bench.door.nobody_came()


async def test_an_unreachable_destination_is_rst_to_the_source() -> None:
    nobody = Address("127.0.0.1", a_closed_port())
    async with a_bench(make_route=lambda **_: a_route(destination=nobody)) as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/ram")
        assert await read_to_rst(source) == b""
        await bench.outcome("destination_unreachable")


async def test_only_the_allowed_networks_may_connect() -> None:
    networks = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
    async with a_bench(make_route=lambda **given: a_route(networks=networks, **given)) as bench:
        source = await bench.source()
        assert await read_to_rst(source) == b""
        await bench.outcome("source_not_allowed")
        ((level, text, fields),) = bench.told.lines
        assert (level, text) == (
            "WARNING",
            "source_not_allowed: expected a source in 192.0.2.0/24, 2001:db8::/32 (source_networks), found 127.0.0.1",
        )
        assert fields["route"] == "lab"
        assert fields["source"].startswith("127.0.0.1:")


async def test_an_allowed_network_may_connect() -> None:
    networks = (ipaddress.ip_network("127.0.0.0/8"),)
    async with a_bench(make_route=lambda **given: a_route(networks=networks, **given)) as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/")
        destination = await bench.door.next()
        await read_exactly(destination, 5)


async def test_one_migration_too_many_is_refused_and_the_next_one_is_not() -> None:
    async with a_bench(limit=2) as bench:
        sources = [await bench.source() for _ in range(3)]
        for source in sources[:2]:
            await source.send_all(b"QEVM/")
            await read_exactly(await bench.door.next(), 5)
        await sources[2].send_all(b"QEVM/")
        assert await read_to_rst(sources[2]) == b""
        await bench.outcome("too_many_connections")
        assert bench.told.lines[-1][1] == (
            "too_many_connections: 2 connections of migrations are served, as many as limits.connections accepts"
        )
        assert await bench.door.nobody_came()
        reset(sources[0])
        await bench.outcome("source_gone")
        fourth = await bench.source()
        await fourth.send_all(b"QEVM/")
        await read_exactly(await bench.door.next(), 5)


async def test_many_migrations_at_once_do_not_mix() -> None:
    count = 24
    async with a_bench() as bench:

        async def play_source(n: int) -> None:
            source = await bench.source()
            await source.send_all(b"QEVM%02d/" % n)
            await source.send_all(b"%02d" % n * 50_000)
            await source.send_all(b"[%02d]" % n)
            verdict = await read_to_fin(source)
            assert verdict == struct.pack(">HHI", 2, 4, n) + SHUT_0
            await source.aclose()

        async def play_destination(stream: trio.SocketStream) -> None:
            n = int((await read_exactly(stream, 7))[4:6])
            await stream.send_all(struct.pack(">HHI", 2, 4, n))
            assert await read_exactly(stream, 100_004) == b"%02d" % n * 50_000 + b"<%02d>" % n
            await stream.send_all(SHUT_0)
            await stream.aclose()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for n in range(count):
                    nursery.start_soon(play_source, n)
                for _ in range(count):
                    nursery.start_soon(play_destination, await bench.door.next())
            await bench.outcome("completed", count)
        await bench.sessions.wait_none()


async def test_back_pressure_reaches_the_source() -> None:
    async with a_bench() as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/")
        destination = await bench.door.next()
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await source.send_all(b"r" * 65536)
                sent += 65536
        # Two send queues and two receive queues of the kernel's, and one chunk of ours.
        assert sent < 40 << 20
        reset(source)
        reset(destination)


async def test_a_closed_port_refuses_and_its_sessions_go_on() -> None:
    async with a_bench() as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/")
        destination = await bench.door.next()
        await read_exactly(destination, 5)
        bench.port.close()
        await wait_all_tasks_blocked()
        with pytest.raises(OSError) as caught:
            await bench.source()
        assert caught.value.errno == errno.ECONNREFUSED
        await source.send_all(b"more")
        assert await read_exactly(destination, 4) == b"more"


async def test_a_port_takes_the_route_of_the_moment_and_a_session_keeps_its_own() -> None:
    async with a_bench() as bench, a_door() as other:
        first = await bench.source()
        await first.send_all(b"QEVM")
        while not len(bench.sessions):
            await trio.sleep(0.001)
        bench.port.route = a_route(name="lab", destination=Address(other.host, other.port))
        await first.send_all(b"/1")
        second = await bench.source()
        await second.send_all(b"QEVM/2")
        assert await read_exactly(await bench.door.next(), 6) == b"QEVM/1"
        assert await read_exactly(await other.next(), 6) == b"QEVM/2"


async def test_a_connection_that_breaks_while_it_is_accepted_is_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(SocketLeg):
        def __init__(self, sock: socket.socket, *, receive_queue_bytes: int | None = None) -> None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr("proxyd.relay.listener.SocketLeg", Broken)
    async with a_bench() as bench:
        source = await bench.source()
        await bench.outcome("not_migration")
        assert [line[:2] for line in bench.told.lines] == [
            (
                "DEBUG",
                "a connection broke while it was accepted: [Errno 107] Transport endpoint is not connected",
            )
        ]
        await source.aclose()


async def test_a_taken_address_cannot_be_opened() -> None:
    async with a_door() as door:
        with pytest.raises(OSError) as caught:
            await listen_on(Address(door.host, door.port), InheritedSockets({}))
        assert caught.value.errno == errno.EADDRINUSE


async def test_ipv6_listens_too() -> None:
    async with a_bench(listen="::1") as bench:
        source = await bench.source()
        await source.send_all(b"QEVM/")
        assert await read_exactly(await bench.door.next(), 5) == b"QEVM/"


async def test_an_unserved_port_is_closed_again() -> None:
    journal, _ = a_journal()
    port = RoutePort(
        a_route(),
        await listen_on(Address("127.0.0.1", 0), InheritedSockets({})),
        Sessions(1),
        Surroundings(Metrics(), journal),
    )
    port.close()
    with pytest.raises(ConnectionRefusedError):
        await connect(port.address.host, port.address.port)


# The book of sessions, in memory.


async def test_the_book_knows_who_runs_and_abandons_those_it_may(autojump_clock: MockClock) -> None:
    sessions = Sessions(10)
    journal, _ = a_journal()
    around = Surroundings(Metrics(), journal, lambda _route: ScriptedRewriter())
    await sessions.wait_none()
    endings = []

    async def run(session: MigrationSession) -> None:
        endings.append(await sessions.run(session))

    async with trio.open_nursery() as nursery:
        for n in range(3):
            _source, leg = leg_pair("source", "proxyd")
            nursery.start_soon(run, MigrationSession(leg, a_route(name=f"r{n}"), around))
        await wait_all_tasks_blocked()
        assert len(sessions) == 3
        assert sorted(session.route.name for session in sessions) == ["r0", "r1", "r2"]
        drained = Ending(Outcome.DRAINED, "enough")
        assert sessions.abandon(drained) == 3
        await sessions.wait_none()
        assert len(sessions) == 0
    assert endings == [drained] * 3
