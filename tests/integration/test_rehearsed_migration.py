"""A recorded stream through a real daemon that rehearses it with the real service, on a kernel that a test plays."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import trio

from formats.arm64.register_id import id_of
from proxyd.kvm.rehearsal_service import serve
from tests import recorded
from tests.integration.offline import offline
from tests.integration.test_recorded_streams import WITH_RETURN_PATH, a_lab
from tests.proxyd.kvm.fake_kernel import FakeKernel, real_host
from tests.proxyd.relay.stage import SHUT_0, value
from tests.proxyd.relay.wires import read_exactly, read_to_fin, read_to_rst

WIRE = recorded.load(WITH_RETURN_PATH)


@contextmanager
def services(path: Path, kernel: FakeKernel) -> Iterator[str]:
    """A service for each connection, one after the other; yields what a route needs."""

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(ConnectionError):
                if connection.recv(1, socket.MSG_PEEK) == b"q":
                    return
                serve(connection.fileno(), kernel, kernel, "7.3.4")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = Thread(target=accept)
        thread.start()
        try:
            yield f'rehearse = true\n[rehearsal]\nsocket = "{path}"'
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
                last.sendall(b"q")
            thread.join(30)
        assert not thread.is_alive()


async def test_it_arrives_as_without_a_rehearsal(tmp_path: Path) -> None:
    expected = offline(WIRE)
    kernel = FakeKernel(real_host("7.3", "neoverse-n1"))
    with services(tmp_path / "s", kernel) as route:
        async with a_lab(tmp_path, route) as lab:
            source = await lab.source()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(source.send_all, WIRE)
                destination = await lab.door.next()
                assert await read_exactly(destination, len(expected)) == expected
            await destination.send_all(SHUT_0)
            await destination.aclose()
            assert await read_to_fin(source) == SHUT_0
            await source.aclose()
            await lab.outcome("completed")
            assert value(lab.daemon.metrics, "proxyd_rehearsals_total", result="passed") == 1
            (told,) = [text for text in lab.told.texts() if text.startswith("rehearsed: loads faithfully")]
            assert told.endswith("on Linux 7.3.4 (4 missing)")
    assert kernel.files == {}


async def test_what_only_kvm_knows_stays_on_its_source(tmp_path: Path) -> None:
    """This kernel drops a bit of TPIDR_EL0 without an error, which no description says."""
    kernel = FakeKernel(real_host("7.3", "neoverse-n1"))
    take = kernel._set

    def dropping(vcpu: object, argument: bytearray) -> int:
        done = take(vcpu, argument)  # type: ignore[arg-type]
        vcpu.registers[id_of("TPIDR_EL0")] = bytes(8)  # type: ignore[attr-defined]
        return done

    kernel._set = dropping  # type: ignore[method-assign]
    with services(tmp_path / "s", kernel) as route:
        async with a_lab(tmp_path, route) as lab:
            source = await lab.source()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(source.send_all, WIRE)
                destination = await lab.door.next()
                got = await read_to_rst(destination)
            assert WIRE.startswith(got)
            assert b"\x03cpu\x00" not in got, "no device state"
            assert await read_to_rst(source) == b""
            text = await lab.outcome("refused")
            assert "TPIDR_EL0" in text
            assert "takes 0x" in text


async def test_a_stale_description_is_found_before_the_destination_is_dialled(tmp_path: Path) -> None:
    with services(tmp_path / "s", FakeKernel(real_host("6.12", "neoverse-n1"))) as route:
        async with a_lab(tmp_path, route) as lab:
            source = await lab.source()
            await source.send_all(WIRE[:4096])
            assert await read_to_rst(source) == b""
            assert "is not true of the destination" in await lab.outcome("refused")
            assert await lab.door.nobody_came()


async def test_without_a_service_nothing_moves(tmp_path: Path) -> None:
    async with a_lab(tmp_path, f'rehearse = true\n[rehearsal]\nsocket = "{tmp_path}/nobody"') as lab:
        source = await lab.source()
        await source.send_all(WIRE[:4096])
        assert await read_to_rst(source) == b""
        assert "cannot connect: no such file or directory" in await lab.outcome("not_rehearsed")
        assert await lab.door.nobody_came()
