"""A connection from its first byte to the relay, and its last word. In memory, on a mock clock."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proxyd.endpoint import Address
from proxyd.relay.outcome import Ending, Outcome
from tests.proxyd.relay.stage import SHUT_0, SHUT_1, ScriptedRewriter, Stage, a_route, end_seen, reset_seen, staged


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_port_probe_never_reaches_the_destination(how: str, autojump_clock: MockClock) -> None:
    async with staged() as stage:
        stage.source.close() if how == "fin" else stage.source.abort()
        assert await stage.outcome() == "not_migration"
        assert not stage.dialled.is_set()
        assert stage.sample("proxyd_migrations_total", outcome="not_migration") == 1
    ((level, _, _),) = [line for line in stage.told.lines if "port probe" in line[1]]
    assert level == "DEBUG"


@pytest.mark.parametrize(
    ("first", "outcome", "reason"),
    [
        (b"QE", "not_migration", "expected a migration stream, found 5145"),
        (b"GET / HTTP/1.1\r\n", "not_migration", "expected a migration stream (5145564d, QEVM), found 47455420"),
        (
            b"\x11\x22\x33\x44\x00\x00\x00\x02" + bytes(56),
            "bad_stream",
            "at 0x0: multifd channel: magic 11223344 and version 1 expected, found 11223344 and 2",
        ),
        (
            b"\x16\x03\x01\x02\x00",
            "unsupported",
            (
                "this is a TLS handshake, and the route's source leg is plain (expected tls.source in its "
                'configuration, or at the source: migrate_set_parameter tls-creds "")'
            ),
        ),
        (b"QEVM!", "bad_stream", "not a stream"),
        (b"QEVM?", "refused", "against the rules"),
        (b"QEVM^", "limit", "more than the limit"),
        (b"QEVM#", "internal_error", "a bug of proxyd's: ZeroDivisionError('a bug')"),
        (b"QEVM", "source_gone", "the source closed the connection: the stream ended too early"),
    ],
)
async def test_what_is_not_an_acceptable_stream_never_reaches_the_destination(
    first: bytes, outcome: str, reason: str, autojump_clock: MockClock
) -> None:
    async with staged() as stage:
        await stage.source.say(first)
        with suppress(trio.BrokenResourceError):  # it may be refused by now
            await stage.source.send_eof()
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == outcome
        assert stage.ending == Ending(Outcome(outcome), reason)
        assert not stage.dialled.is_set()
    last = stage.told.lines[-1]
    assert last[1] == f"{outcome}: {reason}"
    assert last[0] == ("INFO" if outcome == "not_migration" else "WARNING")


async def test_the_first_bytes_may_come_one_by_one(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        for byte in b"QEVM/":
            await stage.source.say(bytes([byte]))
            await wait_all_tasks_blocked()
        destination = await stage.destination()
        assert await destination.receive_exactly(5) == b"QEVM/"


async def test_a_source_that_resets_in_its_prologue_is_gone(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        await stage.source.say(b"QEVMvirt")
        await wait_all_tasks_blocked()
        stage.source.abort()
        assert await stage.outcome() == "source_gone"
        assert not stage.dialled.is_set()


@pytest.mark.parametrize("first", [b"", b"QEVMvirt"])
async def test_the_prologue_has_a_time_limit(first: bytes, autojump_clock: MockClock) -> None:
    async with staged(a_route(header_s=7)) as stage:
        await stage.source.say(first)
        assert await reset_seen(stage.source) == b""
        assert trio.current_time() == pytest.approx(7)
        assert await stage.outcome() == "limit"
        assert stage.ending.reason == (f"no whole prologue within 7 s (limits.header_time_s), {len(first)} bytes came")
        assert not stage.dialled.is_set()


async def test_bytes_that_trickle_in_do_not_extend_the_header_limit(autojump_clock: MockClock) -> None:
    async with staged(a_route(header_s=7)) as stage:
        await stage.source.say(b"QEVM")
        for _ in range(6):
            await trio.sleep(1)
            await stage.source.say(b".")
        await reset_seen(stage.source)
        assert trio.current_time() == pytest.approx(7)


async def test_the_destination_is_dialled_when_the_prologue_is_acceptable(autojump_clock: MockClock) -> None:
    route = a_route(destination=Address("192.0.2.1", 4444), connect_s=3)
    async with staged(route) as stage:
        await stage.source.say(b"QEVMvirt")
        await wait_all_tasks_blocked()
        assert not stage.dialled.is_set()
        assert stage.sample("proxyd_active_sessions", phase="prologue") == 1
        await stage.source.say(b"/")
        await stage.destination()
        await wait_all_tasks_blocked()
        assert stage.dialled_with == (Address("192.0.2.1", 4444), 3)
        (begins,) = [line for line in stage.told.lines if line[1] == "migration begins"]
        assert begins[2] == {
            "migration": stage.session.record.id,
            "route": "lab",
            "source": "source:1",
            "destination": "destination:2",
            "machine": "virt-10.0",
        }


async def test_the_time_to_dial_is_not_the_header_s(autojump_clock: MockClock) -> None:
    async with staged(a_route(header_s=7, idle_s=9)) as stage:
        stage.may_connect = trio.Event()
        await stage.source.say(b"QEVM/")
        await trio.sleep(100)
        stage.may_connect.set()
        destination = await stage.destination()
        assert await destination.receive_exactly(5) == b"QEVM/"


async def test_silence_is_limited_once_the_destination_is_there(autojump_clock: MockClock) -> None:
    async with staged(a_route(idle_s=9)) as stage:
        await stage.source.say(b"QEVM/")
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "limit"
        assert stage.ending.reason == "nothing moved for 9 s (limits.idle_time_s) while waiting for the next act"


async def test_an_unreachable_destination_resets_the_source(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        stage.unreachable = True
        await stage.source.say(b"QEVM/")
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "destination_unreachable"
        assert stage.ending.reason == "nobody is there"


async def test_a_stream_in_one_piece_is_released_only_to_a_connected_destination(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        stage.unreachable = True
        await stage.source.say(b"QEVM/ram[state]")
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "destination_unreachable"
        assert not stage.session.committed


@pytest.mark.parametrize("so_far", [b"", b"QEVMvirt", b"QEVM/", b"QEVM/ram[st"])
async def test_an_abandoned_session_resets_both_sides(so_far: bytes, autojump_clock: MockClock) -> None:
    async with staged() as stage:
        await stage.source.say(so_far)
        await wait_all_tasks_blocked()
        assert stage.session.abandon(Ending(Outcome.DRAINED, "enough"))
        assert await reset_seen(stage.source) == b""
        if stage.dialled.is_set():
            await reset_seen(await stage.destination())
        assert await stage.outcome() == "drained"
        assert stage.ending.reason == "enough"


async def test_a_session_can_be_abandoned_while_it_dials(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        stage.may_connect = trio.Event()
        await stage.source.say(b"QEVM/")
        await wait_all_tasks_blocked()
        assert stage.session.abandon(Ending(Outcome.DRAINED, "enough"))
        assert await stage.outcome() == "drained"


async def test_a_stopped_daemon_resets_what_is_not_committed(autojump_clock: MockClock) -> None:
    stage = Stage(a_route(), ScriptedRewriter, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await stage.source.say(b"QEVM/ram")
        destination = await stage.destination()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await reset_seen(stage.source) == b""
    assert await reset_seen(destination) == b"QEVM/ram"
    assert stage.sample("proxyd_migrations_total", outcome="drained") == 1
    assert stage.told.texts()[-1] == "drained: the daemon was stopped"


async def test_a_finished_session_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        await stage.source.say(b"QEVM/ram[state]")
        destination = await stage.destination()
        assert await destination.receive_exactly(15) == b"QEVM/ram<state>"
        await destination.say(SHUT_0)
        destination.close()
        await end_seen(stage.source)
        stage.source.close()
        assert await stage.outcome() == "completed"
    assert stage.proxy_to_source.is_closed
    assert stage.proxy_to_destination.is_closed
    assert stage.sample("proxyd_active_sessions") == 0
    assert stage.sample("proxyd_held_bytes") == 0
    assert stage.sample("proxyd_sections_total", kind="part") == 15
    level, message, fields = stage.told.lines[-1]
    assert (level, message) == ("INFO", "completed: the destination said SHUT(0): the guest runs there")
    assert fields["outcome"] == "completed"
    assert fields["bytes_to_destination"] == 15
    assert fields["bytes_to_source"] == 8


async def test_migration_ids_differ(autojump_clock: MockClock) -> None:
    stages = [Stage(a_route(), ScriptedRewriter, None) for _ in range(3)]
    assert len({stage.session.record.id for stage in stages}) == 3


async def test_a_destination_that_fails_is_told_with_the_route_s_own_description(autojump_clock: MockClock) -> None:
    route = dataclasses.replace(a_route(), host_file="/etc/proxyd/hosts/new.json")
    async with staged(route) as stage:
        await stage.source.say(b"QEVM/[state]")
        destination = await stage.destination()
        await destination.say(SHUT_1)
        destination.abort()
        assert await end_seen(stage.source) == SHUT_1
        stage.source.close()
        assert await stage.outcome() == "destination_failed"
    (hint,) = [fields["propose"] for _, _, fields in stage.told.lines if "propose" in fields]
    assert " --destination /etc/proxyd/hosts/new.json " in hint
