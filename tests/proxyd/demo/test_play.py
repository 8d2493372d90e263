"""The plot: fails directly, loads through the daemon, and the daemon says what it changed."""

from __future__ import annotations

import pytest
import trio

from formats.arm64.register_id import id_of
from proxyd.demo import play
from proxyd.demo.play import ROUTE, Story, running_daemon
from proxyd.demo.recording import HOST, data
from proxyd.demo.source import Result
from proxyd.rewrite.plan import Action, Outcome

REMOVED = {"TCR2_EL1", "PIRE0_EL1", "PIR_EL1"}


async def test_it_fails_directly_and_loads_through_proxyd() -> None:
    story: Story = await play.play()
    assert story.direct.source == Result("failed", "Sibling indicated error 1")
    assert story.direct.destination.stderr[0].endswith("Invalid value 258 expecting positive value <= 257")
    assert story.proxied.source == Result("completed")
    assert story.proxied.destination.loaded
    assert story.seconds < play.LONGEST_S
    assert story.report is not None
    assert story.report.plan.outcome is Outcome.LOADS_REWRITTEN
    changes = story.report.plan.changes
    assert {change.target for change in changes} == REMOVED
    assert {change.action for change in changes} == {Action.REMOVE}


async def test_the_guest_has_its_own_registers_at_the_destination() -> None:
    story = await play.play()
    assert story.report is not None
    (loaded,) = story.proxied.destination.vcpus
    (came,) = story.report.plan.vcpus
    removed = {id_of(name) for name in REMOVED}
    assert loaded.values.keys() - came.registers.keys() == {id_of("PMMIR_EL1"), id_of("FW_VENDOR_HYP_BMAP_2")}
    assert came.registers.keys() - loaded.values.keys() == removed
    assert all(loaded.values[register] == came.registers[register] for register in came.registers.keys() - removed)


async def test_the_daemon_is_gone_afterwards() -> None:
    directory = data(HOST)
    async with running_daemon(1, f'destination_host = "{HOST}"', play.Path(str(directory)).parent) as address:
        stream = await trio.open_tcp_stream("127.0.0.1", address.port)
        await stream.aclose()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", address.port)


def test_the_route_is_on_loopback_only() -> None:
    assert ROUTE.count('listen = "127.0.0.1:0"') == 2
    assert 'destination = "127.0.0.1:{port}"' in ROUTE
