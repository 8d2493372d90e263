"""Recorded streams of real guests through a real daemon, on loopback, towards a destination that a test plays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from proxyd import config_file as configuration
from proxyd.cli.main import main
from proxyd.daemon import Daemon
from proxyd.rewrite.recording import Recorded
from proxyd.service_notify import ServiceNotifier
from proxyd.snapshot import Snapshot
from tests import recorded
from tests.integration.offline import HOST, offline
from tests.proxyd.relay.stage import PONG_1, SHUT_0, Told, a_journal, value
from tests.proxyd.relay.wires import (
    Door,
    a_door,
    connect,
    read_exactly,
    read_to_fin,
    read_to_rst,
    reset,
    slam_doors,
)

WITH_RETURN_PATH = "6.12-10.0.13-neoverse-n1-returnpath-smp2"
WITHOUT = "6.12-10.0.13-neoverse-n1-plain-smp1"


class Lab:
    """A daemon with one route to the test's door."""

    def __init__(self, daemon: Daemon, door: Door, told: Told) -> None:
        self.daemon = daemon
        self.door = door
        self.told = told
        self._sources: list[trio.SocketStream] = []

    async def source(self) -> trio.SocketStream:
        address = self.daemon.listening.routes["lab"]
        stream = await connect(address.host, address.port)
        self._sources.append(stream)
        return stream

    def slam(self) -> None:
        for stream in self._sources:
            reset(stream)
        slam_doors()

    async def outcome(self, outcome: str) -> str:
        """Wait for the session's last line."""
        with trio.fail_after(30):
            while True:
                for _, text, fields in self.told.lines:
                    if fields.get("outcome") == outcome:
                        return text
                await trio.sleep(0.001)


@asynccontextmanager
async def a_lab(directory: Path, more: str = "", limits: str = "") -> AsyncIterator[Lab]:
    (directory / "host.json").write_bytes(HOST)
    path = directory / "config.toml"
    journal, told = a_journal()
    async with a_door() as door:
        path.write_text(
            f'[metrics]\nlisten = "127.0.0.1:0"\n[limits]\n{limits}\n[[route]]\nname = "lab"\nlisten = "127.0.0.1:0"\n'
            f'destination = "127.0.0.1:{door.port}"\ndestination_host = "host.json"\n{more}\n'
        )
        daemon = Daemon(Snapshot.build(configuration.load(path)), ServiceNotifier(None), journal)
        await daemon.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.run)
            lab = Lab(daemon, door, told)
            try:
                yield lab
            finally:
                lab.slam()
                nursery.cancel_scope.cancel()


async def _send_all(stream: trio.SocketStream, data: bytes) -> None:
    await stream.send_all(data)


async def _send_in_pieces(stream: trio.SocketStream, data: bytes) -> None:
    for at in range(0, len(data), 1448):
        await stream.send_all(data[at : at + 1448])


@pytest.mark.parametrize("send", [_send_all, _send_in_pieces])
async def test_a_stream_arrives_rewritten_and_the_verdict_comes_back(
    tmp_path: Path, send: Callable[..., object]
) -> None:
    wire = recorded.load(WITH_RETURN_PATH)
    expected = offline(wire)
    assert expected != wire
    async with a_lab(tmp_path) as lab:
        source = await lab.source()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, source, wire)
            destination = await lab.door.next()
            await destination.send_all(PONG_1)
            assert await read_exactly(destination, len(expected)) == expected
        assert await read_exactly(source, 8) == PONG_1
        await destination.send_all(SHUT_0)
        await destination.aclose()
        assert await read_to_fin(source) == SHUT_0
        await source.aclose()
        await lab.outcome("completed")
        removed = [fields["register"] for _, text, fields in lab.told.lines if text == "register removed"]
        assert "TCR2_EL1 (0x603000000013c103)" in removed
        metrics = lab.daemon.metrics
        assert value(metrics, "proxyd_registers_total", action="remove") == len(removed)
        assert value(metrics, "proxyd_sections_total", kind="full") > 10
        assert value(metrics, "proxyd_bytes_total", direction="to_destination") == len(expected)
        ids = {fields["migration"] for _, _, fields in lab.told.lines if "migration" in fields}
        assert len(ids) == 1


async def test_without_a_return_path_the_source_is_refused_before_the_destination_is_dialled(tmp_path: Path) -> None:
    async with a_lab(tmp_path) as lab:
        source = await lab.source()
        await source.send_all(recorded.load(WITHOUT)[:4096])
        assert await read_to_rst(source) == b""
        text = await lab.outcome("refused")
        assert "migrate_set_capability return-path on" in text
        assert await lab.door.nobody_came()


async def test_without_a_return_path_a_route_that_allows_it_delivers(tmp_path: Path) -> None:
    wire = recorded.load(WITHOUT)
    async with a_lab(tmp_path, 'return_path = "optional"') as lab:
        source = await lab.source()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await source.send_all(wire)
                await source.aclose()

            nursery.start_soon(send)
            destination = await lab.door.next()
            assert await read_to_fin(destination) == offline(wire)
        await destination.aclose()
        await lab.outcome("delivered")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
async def test_a_source_that_dies_in_mid_stream_never_completes_a_device_state(tmp_path: Path, share: float) -> None:
    wire = recorded.load(WITH_RETURN_PATH)
    cut = wire[: int(len(wire) * share)]
    async with a_lab(tmp_path) as lab:
        source = await lab.source()
        async with trio.open_nursery() as nursery:
            connected = trio.Event()

            async def send() -> None:
                await source.send_all(cut)
                await connected.wait()
                reset(source)

            nursery.start_soon(send)
            destination = await lab.door.next()
            connected.set()
            got = await read_to_rst(destination)
        assert wire.startswith(got)
        await lab.outcome("source_gone")


async def test_device_state_that_its_vmdesc_does_not_prove_leaves_the_guest_on_the_source(tmp_path: Path) -> None:
    """Nothing in the bytes says that the end has come. Silence tells, and soon: the guest is stopped."""
    wire = bytearray(recorded.load(WITH_RETURN_PATH))
    at = wire.rindex(b"\x03cpu\x00")
    wire[at - 4 : at] = b"\xff\xff\xff\xff"  # the section id of a header, which its footer does not repeat
    async with a_lab(tmp_path, limits="hold_idle_time_s = 0.2") as lab:
        source = await lab.source()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.send_all, bytes(wire))
            destination = await lab.door.next()
            got = await read_to_rst(destination)
        assert await read_to_rst(source) == b""
        assert bytes(wire).startswith(got)
        text = await lab.outcome("bad_stream")
        assert "nothing moved for 0.2 s (limits.hold_idle_time_s)" in text


async def test_what_was_recorded_is_replayed_to_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through a daemon with a flight recorder and an audit log, and then offline."""
    wire = recorded.load(WITH_RETURN_PATH)
    expected = offline(wire)
    more = '[recorder]\ndirectory = "recordings"\n[audit]\nfile = "audit.jsonl"'
    async with a_lab(tmp_path, limits=f"cpregs = 2048\n{more}") as lab:
        source = await lab.source()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_all, source, wire)
            destination = await lab.door.next()
            assert await read_exactly(destination, len(expected)) == expected
        await destination.send_all(SHUT_0)
        await destination.aclose()
        assert await read_to_fin(source) == SHUT_0
        await source.aclose()
        await lab.outcome("completed")
        lab.daemon.drain()
    (path,) = (tmp_path / "recordings").iterdir()
    one = Recorded.parse(path.read_bytes())
    assert wire.endswith(one.before)
    assert expected.endswith(one.after)
    assert main(["replay", str(path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    removed = [fields for _, text, fields in lab.told.lines if text == "register removed"]
    assert [line["event"] for line in lines].count("change") >= len(removed) > 0
    assert (lines[-1]["event"], lines[-1]["outcome"]) == ("end", "completed")
    assert {line["migration"] for line in lines} == {one.facts.migration}
