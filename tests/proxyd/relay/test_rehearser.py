"""The daemon's side over real UNIX sockets, with services that answer, refuse, die and hang."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from formats.arm64.cpreg_list import CpregList
from proxyd.kvm.rehearsal_service import answer
from proxyd.rehearsal_protocol import (
    Failed,
    Message,
    MessageReader,
    Perform,
    Performed,
    Prepare,
    Prepared,
    encode,
)
from proxyd.relay.rehearser import RehearsalUnavailable, ServiceRehearser
from proxyd.rewrite.freshness import StaleDescription
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.plan import Outcome, Plan, VcpuRegisters
from proxyd.rewrite.rehearsal import Rehearsal
from proxyd.routes import RehearsalService
from tests.proxyd.kvm.fake_kernel import FakeKernel, real_host

HOST = real_host("7.3", "neoverse-n1")
GUEST = (VcpuRegisters(0, HOST.registers), VcpuRegisters(1, HOST.registers))
PLAN = Plan(Outcome.LOADS_AS_IS, (), (), (), GUEST, GUEST)
Script = Callable[[Message], Awaitable[bytes | None]]
"""What a service sends as its answer; None: it ends."""


class Service:
    """A service at a socket. ``script`` answers; ``questions`` is what was asked, connection by connection."""

    def __init__(self, path: Path, script: Script) -> None:
        self.path = path
        self.script = script
        self.questions: list[list[Message]] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        asked: list[Message] = []
        self.questions.append(asked)
        reader = MessageReader()
        async with stream:
            async for chunk in stream:
                for message in reader.feed(chunk):
                    asked.append(message)
                    said = await self.script(message)
                    if said is None:
                        return
                    await stream.send_all(said)

    def rehearser(self, host: HostDescription | None = HOST, answer_s: float = 10) -> ServiceRehearser:
        return ServiceRehearser(RehearsalService(str(self.path), answer_s), host)


@asynccontextmanager
async def serving(tmp_path: Path, script: Script) -> AsyncIterator[Service]:
    service = Service(tmp_path / "s", script)
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(service.path))
    listener.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, lambda stream: service.serve(stream), [trio.SocketListener(listener)])
        yield service
        nursery.cancel_scope.cancel()


async def honest(message: Message) -> bytes | None:
    """The real service, on a kernel that judges as KVM does."""
    kernel = FakeKernel(HOST)
    return encode(answer(message, kernel, kernel, HOST.kernel or ""))


def saying(**answers: Message | bytes | None) -> Script:
    """Fixed answers by the question's name; the others are honest."""

    async def script(message: Message) -> bytes | None:
        name = type(message).__name__.lower()
        if name not in answers:
            return await honest(message)
        said = answers[name]
        return said if said is None or isinstance(said, bytes) else encode(said)

    return script


async def test_a_migration(tmp_path: Path) -> None:
    async with serving(tmp_path, honest) as service:
        rehearser = service.rehearser()
        assert await rehearser.prepare() == ()
        rehearsal = await rehearser.perform(PLAN)
        assert rehearsal.faithful
        assert rehearsal.vcpus == 2
        rehearser.close()
        rehearser.close()
    ((prepare, perform),) = service.questions
    assert prepare == Prepare(("psci", "pmu")), "a description without features shows them"
    assert isinstance(perform, Perform)


@pytest.mark.parametrize("features", [("psci", "pmu"), None])
async def test_the_described_features_are_asked_for(tmp_path: Path, features: tuple[str, ...] | None) -> None:
    async with serving(tmp_path, honest) as service:
        host = None if features is None else HostDescription("h", HOST.registers, features=features)
        rehearser = service.rehearser(host)
        await rehearser.prepare()
        rehearser.close()
    assert service.questions == [[Prepare(features)]]


async def test_a_stale_description(tmp_path: Path) -> None:
    async with serving(tmp_path, honest) as service:
        rehearser = service.rehearser(real_host("6.12", "neoverse-n1"))
        with pytest.raises(StaleDescription, match="TCR2_EL1"):
            await rehearser.prepare()
        rehearser.close()


UNAVAILABLE: list[tuple[str, dict[str, Any], str]] = [
    ("prepare", {"prepare": Failed("no /dev/kvm")}, "no /dev/kvm"),
    ("perform", {"perform": Failed("out of memory")}, "out of memory"),
    ("prepare", {"prepare": Performed(Rehearsal((), (), "k", 2, 0.1))}, "was asked for, found performed"),
    ("perform", {"perform": Prepared("k", (), {})}, "a rehearsal was asked for, found prepared"),
    ("prepare", {"prepare": Prepare()}, "an answer expected, found prepare"),
    ("prepare", {"prepare": b"sh: proxyd: not found\n"}, "a message of at most"),
    ("prepare", {"prepare": b"\0\0\0\1{"}, "a message of the rehearsal protocol expected"),
    ("prepare", {"prepare": None}, "the service ended without an answer"),
    ("perform", {"perform": None}, "the service ended without an answer"),
    ("perform", {"perform": Performed(Rehearsal((), (), "k", 1, 0.1))}, "2 vCPUs were sent, 1 rehearsed"),
]


@pytest.mark.parametrize(("when", "answers", "text"), UNAVAILABLE)
async def test_what_is_no_answer(tmp_path: Path, when: str, answers: dict[str, Any], text: str) -> None:
    async with serving(tmp_path, saying(**answers)) as service:
        rehearser = service.rehearser()
        if when == "perform":
            await rehearser.prepare()
        with pytest.raises(RehearsalUnavailable) as error:
            await (rehearser.prepare() if when == "prepare" else rehearser.perform(PLAN))
        assert str(error.value).startswith(f"not rehearsed, and so not released: {service.path}: ")
        assert text in str(error.value)
        rehearser.close()


async def test_a_service_that_breaks_the_connection(tmp_path: Path) -> None:
    async def breaking(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)  # with more in the queue: closing resets
        await stream.aclose()

    async with serving(tmp_path, honest) as service:
        service.serve = breaking  # type: ignore[method-assign]
        rehearser = service.rehearser()
        with pytest.raises(RehearsalUnavailable, match=r"the service (broke the connection|ended without an answer)"):
            await rehearser.prepare()
        rehearser.close()


async def test_nobody_listens(tmp_path: Path) -> None:
    rehearser = Service(tmp_path / "nobody", honest).rehearser()
    with pytest.raises(RehearsalUnavailable, match="cannot connect: no such file or directory"):
        await rehearser.prepare()
    rehearser.close()


async def test_a_service_that_hangs(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def hangs(_message: Message) -> bytes | None:
        await trio.sleep_forever()

    async with serving(tmp_path, hangs) as service:
        rehearser = service.rehearser(answer_s=7)
        began = trio.current_time()
        with pytest.raises(RehearsalUnavailable, match=r"no answer within 7 s \(rehearsal.answer_time_s\)"):
            await rehearser.prepare()
        assert trio.current_time() - began == pytest.approx(7)
        rehearser.close()


async def test_a_service_that_died_while_memory_was_copied_is_started_again(tmp_path: Path) -> None:
    lives = iter([False, True])

    async def dies_once(message: Message) -> bytes | None:
        if isinstance(message, Perform) and not next(lives):
            return None
        return await honest(message)

    async with serving(tmp_path, dies_once) as service:
        rehearser = service.rehearser()
        await rehearser.prepare()
        assert (await rehearser.perform(PLAN)).faithful
        rehearser.close()
    assert [[type(message) for message in asked] for asked in service.questions] == [[Prepare, Perform], [Perform]]


async def test_large_guests_pass(tmp_path: Path) -> None:
    """More than a socket's buffers hold, both ways at once."""
    registers = CpregList({0x6030000000130000 + n: (1 << 64) - 1 for n in range(2000)})
    guest = tuple(VcpuRegisters(n, registers) for n in range(64))
    said = encode(Performed(Rehearsal((), ("psci",), "k", 64, 0.1)))
    async with serving(tmp_path, saying(perform=said)) as service:
        rehearser = service.rehearser()
        rehearsal = await rehearser.perform(Plan(Outcome.LOADS_AS_IS, (), (), (), guest, guest))
        assert rehearsal.vcpus == 64
        rehearser.close()
    ((perform,),) = service.questions
    assert isinstance(perform, Perform)
    assert len(perform.vcpus) == 64
