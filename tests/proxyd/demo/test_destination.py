"""The stand-in for the destination's QEMU loads and fails as real ones were measured to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing

from proxyd.demo.destination import Destination, Machine, Result
from proxyd.demo.register_file import Host
from tests import builders as b
from tests import recorded

RETURN_PATH_6_12 = "6.12-10.0.13-neoverse-n1-returnpath-smp1"
SHUT_0, SHUT_1 = b"\x00\x01\x00\x04\x00\x00\x00\x00", b"\x00\x01\x00\x04\x00\x00\x00\x01"
PONG = b"\x00\x02\x00\x04\x00\x00\x00\x01"
INVALID = "qemu-system-aarch64: load of migration failed: Invalid argument"
CPU = "qemu-system-aarch64: error while loading state for instance 0x0 of device 'cpu'"
BUILT = Machine({(b"arm_gicv3", 0): 200, (b"cpu_common", 0): 8, (b"cpu_common", 1): 8, (b"slirp", 0): 9})
SOME = Host(b.SOME_REGISTERS, {})


def host(name: str) -> Host:
    """A register list that was read on a real kernel."""
    listed = json.loads((Path(__file__).parents[2] / "reglists" / f"{name}.json").read_text())
    registers = {int(key, 16): value for key, value in listed["regs"].items()}
    # CORE and SVE registers do not travel in the list; SVE's have no value here.
    kept = {key: int(value, 16) for key, value in registers.items() if key >> 16 & 0xFFF not in {0x10, 0x15}}
    return Host(kept, {int(key, 16): int(value, 16) for key, value in listed["writable_masks"].items()})


async def load(stream: bytes, machine: Machine, there: Host) -> tuple[Result, bytes]:
    """Load a stream that ends with a close; the result, and what came on the return path."""
    ours, theirs = trio.testing.memory_stream_pair()
    answers = bytearray()

    async def listen() -> None:
        async for chunk in ours:
            answers.extend(chunk)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await ours.send_all(stream)
        await ours.send_eof()
        result = await Destination(machine, there).load(theirs)
    return result, bytes(answers)


async def load_recorded(name: str, there: Host) -> tuple[Result, bytes]:
    stream = recorded.load(name)
    return await load(stream, Machine.of(stream), there)


@pytest.mark.parametrize("vcpus", [1, 2, 4])
async def test_a_stream_loads_on_the_kernel_that_it_is_from(vcpus: int) -> None:
    result, answers = await load_recorded(f"6.12-10.0.13-neoverse-n1-returnpath-smp{vcpus}", host("6.12-neoverse-n1"))
    assert result.stderr == ()
    assert result.loaded
    assert len(result.vcpus) == vcpus
    assert answers == PONG + SHUT_0


async def test_a_longer_list_fails_before_anything_else() -> None:
    """Measured, 6.12 to 7.3."""
    result, answers = await load_recorded(RETURN_PATH_6_12, host("7.3-neoverse-n1"))
    assert result.stderr == (
        "qemu-system-aarch64: Invalid value 258 expecting positive value <= 257",
        "qemu-system-aarch64: Failed to load cpu:cpreg_vmstate_array_len",
        CPU,
        INVALID,
    )
    assert not result.loaded
    assert answers == PONG + SHUT_1


async def test_a_register_that_is_not_there_fails_where_the_length_passes() -> None:
    """Measured, 7.3 to 6.12: PMMIR_EL1."""
    result, answers = await load_recorded("7.3-10.0.13-neoverse-n1-plain-smp1", host("6.12-neoverse-n1"))
    assert result.stderr == (CPU, "qemu-system-aarch64: load of migration failed: Operation not permitted")
    assert answers == b"", "without a return path nobody is told"


async def test_a_value_that_kvm_refuses_ends_qemu_without_a_word_on_the_return_path() -> None:
    """Measured, 6.18 to 6.12: the PSCI version."""
    result, answers = await load_recorded("6.18-10.0.13-neoverse-n1-plain-smp1", host("6.12-neoverse-n1"))
    assert result.stderr == (CPU, "qemu-system-aarch64: Failed to put registers after init: Invalid argument")
    assert answers == b""


async def test_values_of_the_stream_are_the_guests_and_what_it_lacks_keeps_the_hosts() -> None:
    there = Host({0x603000000013C000: 1, 0x603000000013C103: 2, 0x603000000013DF1A: 3, 0x603000000013DF1B: 4}, {})
    result, _ = await load(b.stream(), BUILT, there)
    assert result.loaded
    assert result.vcpus[0].values == b.SOME_REGISTERS | {0x603000000013DF1B: 4}


async def test_what_lies_beyond_the_hosts_last_register_is_lost_without_a_word() -> None:
    """cpu_post_load's walk ends with the shorter list."""
    there = Host({0x6020000000110000: 0, 0x603000000013C000: 1, 0x603000000013C103: 2}, {})
    result, _ = await load(b.stream(), BUILT, there)
    assert result.loaded
    assert 0x603000000013DF1A not in result.vcpus[0].values


DEVICES = b.tail(b.devices())
BAD = {
    "magic": (b"QEVM" + b.be32(2), ["Not a migration stream"]),
    "configuration": (
        b.MAGIC + b.configuration(capabilities=[b"x-ignore-shared"]),
        [],
    ),
    "section type": (b.MAGIC + b.configuration() + b"\x55", ["Unknown savevm section type 85"]),
    "flags": (
        b.MAGIC + b.configuration() + b.start(2, b.be64(0x200)),
        ["Unknown combination of migration flags: 0x200"],
    ),
    "footer": (
        b.MAGIC + b.configuration() + b.start(2, b.EOS)[:-1] + b"\x09",
        ["Missing section footer for ram"],
    ),
    "device": (
        b.MAGIC + b.configuration() + b.ram() + b.tail([b.Device(b"virtio", b"x", instance=3)]),
        ["Unknown savevm section or instance 'virtio' 3."],
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_qemu_would_not_load(name: str) -> None:
    stream, says = BAD[name]
    result, answers = await load(stream, BUILT, SOME)
    assert result.stderr == (*(f"qemu-system-aarch64: {line}" for line in says), INVALID)
    assert answers == b""


async def test_a_stream_that_breaks_off() -> None:
    result, answers = await load(b.stream()[:-1], BUILT, SOME)
    assert result.stderr == ("qemu-system-aarch64: load of migration failed: Input/output error",)
    assert answers == PONG + SHUT_1


async def test_a_stream_without_a_description_loads() -> None:
    whole = b.stream()
    result, _ = await load(whole[: whole.rindex(b"\x00\x06")] + b"\x00\xff", BUILT, SOME)
    assert result.loaded


async def test_a_source_that_is_gone_is_not_told() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(b.stream()[:-1])
    await ours.aclose()
    result = await Destination(BUILT, SOME).load(theirs)
    assert result.stderr == ("qemu-system-aarch64: load of migration failed: Input/output error",)


async def test_a_reset_is_the_end_of_the_stream() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(b.stream()[:-1])
    theirs.receive_stream.receive_some_hook = _reset_after(theirs.receive_stream)
    result = await Destination(BUILT, SOME).load(theirs)
    assert result.stderr == ("qemu-system-aarch64: load of migration failed: Input/output error",)


def _reset_after(stream: trio.testing.MemoryReceiveStream):  # type: ignore[no-untyped-def]
    calls = 0

    async def hook() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise trio.BrokenResourceError

    return hook
