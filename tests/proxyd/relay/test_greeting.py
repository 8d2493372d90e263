"""What a connection says first. In memory, on a mock clock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from formats.channel import ChannelKind
from proxyd.relay.greeting import SETTLE_S, Greeting
from proxyd.relay.outcome import Ending, Outcome
from tests import builders as b
from tests.proxyd.relay.legs import leg_pair


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([b"QEVM\0"], ChannelKind.MAIN),
        ([b"Q", b"EV", b"M"], ChannelKind.MAIN),
        ([b.multifd_init()], ChannelKind.MULTIFD),
        ([b.multifd_init()[:9], b.multifd_init()[9:], b"pages"], ChannelKind.MULTIFD),
        ([b.RECV_BITMAP], ChannelKind.RECOVERY),
        ([b"\0\0\0\0\0\0\x10\x28"], ChannelKind.PREEMPT),
    ],
)
async def test_what_it_is(words: list[bytes], kind: ChannelKind, autojump_clock: MockClock) -> None:
    qemu, leg = leg_pair("source:1", "proxyd")
    greeting = Greeting(leg, lambda: True)
    async with trio.open_nursery() as nursery:

        async def talk() -> None:
            for word in words:
                await qemu.say(word)
                await trio.sleep(SETTLE_S / 10)

        nursery.start_soon(talk)
        assert await greeting.read() is None
    assert greeting.kind is kind
    assert b"".join(words).startswith(greeting.first)


async def test_a_silent_connection_that_is_expected(autojump_clock: MockClock) -> None:
    _, leg = leg_pair("source:1", "proxyd")
    asked: list[float] = []

    def expected() -> bool:
        asked.append(trio.current_time())
        return len(asked) == 3

    greeting = Greeting(leg, expected)
    began = trio.current_time()
    assert await greeting.read() is None
    assert (greeting.kind, greeting.first) == (ChannelKind.PREEMPT, b"")
    assert trio.current_time() - began == pytest.approx(3 * SETTLE_S)


@pytest.mark.parametrize(
    ("first", "outcome", "says"),
    [
        (b"", Outcome.NOT_MIGRATION, "expected a migration stream, found nothing: a port probe?"),
        (b"QE", Outcome.NOT_MIGRATION, "expected a migration stream, found 5145"),
        (b"GET /", Outcome.NOT_MIGRATION, "expected a migration stream (5145564d, QEVM), found 47455420"),
        (b"\x16\x03\x01\x02", Outcome.UNSUPPORTED, "this is a TLS handshake"),
        (
            b.multifd_init()[:20],
            Outcome.SOURCE_GONE,
            "the source closed a multifd channel after 20 of 64 bytes",
        ),
    ],
)
async def test_what_cannot_be_carried(first: bytes, outcome: Outcome, says: str, autojump_clock: MockClock) -> None:
    qemu, leg = leg_pair("source:1", "proxyd")
    if first:
        await qemu.say(first)
    await qemu.send_eof()
    ending = await Greeting(leg, lambda: False).read()
    assert isinstance(ending, Ending)
    assert ending.outcome is outcome
    assert ending.reason.startswith(says)


async def test_a_reset_is_an_end(autojump_clock: MockClock) -> None:
    qemu, leg = leg_pair("source:1", "proxyd")
    qemu.abort()
    ending = await Greeting(leg, lambda: True).read()
    assert ending is not None
    assert ending.outcome is Outcome.NOT_MIGRATION
