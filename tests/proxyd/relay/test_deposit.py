"""Released device state on its way: from memory, or from a file whose position is the truth."""

from __future__ import annotations

import os

import pytest
import trio

from proxyd.relay.deposit import FILE_NAME, FileDeposit, MemoryDeposit
from tests.proxyd.relay.kept import ends
from tests.proxyd.relay.legs import leg_pair
from tests.proxyd.relay.wires import read_exactly


async def test_memory_goes_in_one_or_in_parts() -> None:
    leg, peer = leg_pair("proxyd", "destination:2")
    deposit = MemoryDeposit([b"QEVM", b"", memoryview(b"device state"), b"!"])
    assert await deposit.send(leg, 6) == 6
    assert await peer.receive_exactly(6) == b"QEVMde"
    assert await deposit.send(leg) == 11
    assert await peer.receive_exactly(11) == b"vice state!"
    assert await deposit.send(leg) == 0
    deposit.close()


async def test_memory_that_is_closed_is_gone() -> None:
    leg, _peer = leg_pair("proxyd", "destination:2")
    deposit = MemoryDeposit([b"abc"])
    deposit.close()
    assert await deposit.send(leg, 2) == 0


async def test_a_file_knows_what_was_sent() -> None:
    async with ends() as one:
        deposit = FileDeposit.of([b"QEVM", memoryview(b"device"), b" state"])
        assert os.readlink(f"/proc/self/fd/{deposit.file}") == f"/memfd:{FILE_NAME} (deleted)"
        assert deposit.left == 16
        assert await deposit.send(one.destination, 4) == 4
        assert deposit.left == 12
        twin = FileDeposit(os.dup(deposit.file))  # as another process has it
        assert await twin.send(one.destination, 6) == 6
        assert await deposit.send(one.destination) == 6
        assert (deposit.left, twin.left, os.fstat(twin.file).st_size) == (0, 0, 0)
        assert await twin.send(one.destination) == 0
        assert await read_exactly(one.qemu_destination, 16) == b"QEVMdevice state"
        deposit.close()
        twin.close()


async def test_a_file_waits_for_a_destination_that_is_slow() -> None:
    content = os.urandom(16 << 20)
    async with ends() as one, trio.open_nursery() as nursery:
        deposit = FileDeposit.of([content])
        got = bytearray()

        async def read() -> None:
            while len(got) < len(content):
                got.extend(await one.qemu_destination.receive_some())

        nursery.start_soon(read)
        assert await deposit.send(one.destination) == len(content)
        deposit.close()
    assert bytes(got) == content


async def test_a_destination_that_is_gone_is_an_error() -> None:
    async with ends() as one:
        deposit = FileDeposit.of([b"x"])
        one.destination.close()
        with pytest.raises(trio.ClosedResourceError):
            await deposit.send(one.destination)
        deposit.close()


def test_no_file_is_left_behind_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")

    def fails(*_: object) -> int:
        raise OSError(12, "no memory")

    monkeypatch.setattr(os, "lseek", fails)
    with pytest.raises(OSError, match="no memory"):
        FileDeposit.of([b"x"])
    assert os.listdir("/proc/self/fd") == before
