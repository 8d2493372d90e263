"""Migration streams: legal ones with forgeries in them, and ones that lie.

Built with :mod:`tests.builders`, that is with struct and json. A guest chooses what is in its devices' payloads, so
those are full of what might be taken for a frame: footers, headers, EOF, whole descriptions. A source that is not QEMU
chooses everything.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from formats.arm64.cpreg_list import CpregList
from tests import builders as b
from tests.fuzz.choices import Choices

NAMES: Final = (
    b"0000:00:01.0/virtio-net",
    b"arm_gicv3",
    b"slirp",
    b"timer",
    b"x",
    b"0000:00:02.0/virtio-blk",
    b"cpu_common",
)
MACHINES: Final = (b"virt-10.0", b"virt-11.1", b"virt-7.2", b"virt", b"pc-q35-10.0", b"", b"\xff", b"v" * 200)
BLOCK: Final = b"mach-virt.ram"


@dataclass(frozen=True, slots=True)
class Stream:
    """``honest``: as QEMU writes it, whatever its guest has put into its devices, and ``devices`` are its sections."""

    wire: bytes
    honest: bool
    devices: tuple[tuple[str, bytes], ...]


def payload(choices: Choices) -> bytes:
    """What a guest has put into a device."""
    parts = [choices.bytes(choices.pick((4, 0, 1, 30, 200)))]
    for _ in range(choices.below(5)):
        parts.append(choices.pick(_FORGERIES)(choices))
        parts.append(choices.bytes(choices.below(12)))
    return b"".join(parts)


def _forged_footer(choices: Choices) -> bytes:
    return b.footer(choices.below(12))


def _forged_section(choices: Choices) -> bytes:
    return b.Device(choices.pick(NAMES), choices.bytes(choices.below(20))).wire(choices.below(12))


def _forged_end(choices: Choices) -> bytes:
    return b.footer(choices.below(6)) + b"\0" + b.vmdesc([b.Device(choices.pick(NAMES), bytes(choices.below(9)))])


def _forged_mark(choices: Choices) -> bytes:
    return b"\x00\x06" + choices.bytes(4) + b"{"


def _forged_package(choices: Choices) -> bytes:
    return b.packaged(b.package([b.Device(choices.pick(NAMES), choices.bytes(4))]))


def _forged_header(_choices: Choices) -> bytes:
    return b.MAGIC + b.configuration()


_FORGERIES: Final[tuple[Callable[[Choices], bytes], ...]] = (
    _forged_footer,
    _forged_section,
    _forged_end,
    _forged_mark,
    _forged_package,
    _forged_header,
)


def devices(choices: Choices, registers: tuple[CpregList, ...]) -> list[b.Device]:
    """Device sections: vCPUs with register lists of real kernels, or nearly, between devices with any payload."""
    found: list[b.Device] = []
    for number in range(choices.pick((1, 0, 2, 3))):
        vcpu = dict(choices.pick(registers)) if not choices.sometimes(8) else dict(b.SOME_REGISTERS)
        for _ in range(choices.pick((0, 0, 0, 0, 1, 3))):
            _edit(choices, vcpu)
        found.append(b.cpu(vcpu, number, subsections=not choices.sometimes(4)))
    for number in range(choices.below(4)):
        name = choices.pick(NAMES)
        device = b.Device(name, payload(choices), choices.below(5), number, old_style=choices.sometimes(3))
        found.insert(choices.below(len(found) + 1), device)
    return found


def _edit(choices: Choices, vcpu: dict[int, int]) -> None:
    if not vcpu:
        return
    register = choices.pick(list(vcpu))
    match choices.below(3):
        case 0:
            vcpu[register] = choices.near(vcpu[register], 64)
        case 1:
            del vcpu[register]
        case _:
            vcpu[choices.near(register, 64)] = choices.below(1 << 16)
    ordered = sorted(vcpu.items())
    vcpu.clear()
    vcpu.update(ordered)


def memory(choices: Choices) -> bytes:
    """RAM as it is sent, with all that a page can be."""
    pages = choices.pick((4, 1, 16))
    records = [b.page(0, choices.bytes(8).ljust(b.PAGE, b"\x5a"), BLOCK)]
    for _ in range(choices.below(5)):
        at = choices.below(pages) * b.PAGE
        match choices.below(5):
            case 0:
                records.append(b.zero_page(at))
            case 1:
                records.append(b.page(at))
            case 2:
                delta = choices.bytes(choices.below(40))
                records.append(
                    b.be64(at | b.FLAG_XBZRLE | b.FLAG_CONTINUE) + b"\x01" + len(delta).to_bytes(2, "big") + delta
                )
            case 3:
                records.append(b.be64(b.FLAG_MULTIFD_FLUSH))
            case _:
                records.append(b.zero_page(at, BLOCK))
    body = b"".join(records) + b.EOS
    setup = b.mem_size({BLOCK: pages * b.PAGE}) + b.EOS
    parts = b"".join(b.part(2, body) for _ in range(choices.pick((1, 0, 2))))
    return b.start(2, setup) + parts + b.end(2, b.EOS)


def stream(choices: Choices, registers: tuple[CpregList, ...]) -> Stream:
    """A whole stream."""
    prologue = b.MAGIC + b.configuration(
        choices.pick(MACHINES[:3]),
        12,
        [b"postcopy-ram"] if choices.sometimes(4) else (),
        choices.bytes(16) if choices.sometimes(6) else None,
    )
    if not choices.sometimes(6):
        prologue += b.OPEN_RETURN_PATH
    if choices.sometimes(4):
        prologue += b.PING
    postcopy = choices.sometimes(4)
    if postcopy:
        prologue += b.POSTCOPY_ADVISE
    parts = devices(choices, registers)
    truth = tuple((f"{device.name.decode()}/{device.instance}", device.payload) for device in parts)
    ram = memory(choices)
    if postcopy:
        content = b.package(parts, loaded_ping=choices.sometimes(2))
        wire = prologue + ram + b.packaged(content) + choices.bytes(choices.below(40))
        honest = False  # without a description several readings can be right, and then it is refused
    else:
        lying = choices.sometimes(4)
        wire = prologue + ram + (lying_tail(choices, parts) if lying else b.tail(parts))
        honest = bool(truth) and not lying and len({name for name, _ in truth}) == len(truth)
    if choices.below(3):
        return Stream(wire, honest, truth)
    return Stream(broken(choices, wire), honest=False, devices=())


def lying_tail(choices: Choices, parts: list[b.Device]) -> bytes:
    """The device part, with a description that says something else."""
    sections = b"".join(device.wire(3 + number) for number, device in enumerate(parts))
    described: dict[str, Any] = {"page_size": b.PAGE, "devices": [device.described() for device in parts]}
    text = lie(choices, described).encode(errors="replace")
    return sections + b"\0\x06" + b.be32(choices.near(len(text)) if choices.sometimes(8) else len(text)) + text


def lie(choices: Choices, described: dict[str, Any]) -> str:
    """A description as JSON in which something is not as it is, or not as it should be."""
    if described["devices"]:
        device = choices.pick(described["devices"])
        value = choices.pick((-1, 0, 1 << 31, 1 << 63, 10**40, "x", None, [], {}, 1.5, True, "cpu"))
        match choices.below(6):
            case 0:
                device[
                    choices.pick(("name", "instance_id", "version", "size", "fields", "subsections", "vmsd_name"))
                ] = value
            case 1 if device.get("fields"):
                choices.pick(device["fields"])[
                    choices.pick(("size", "array_len", "name", "index", "struct", "type"))
                ] = value
            case 2:
                described["devices"].append(choices.pick(described["devices"]))
            case 3:
                described["devices"].reverse()
            case 4:
                described["page_size"] = value
            case _:
                device["fields"] = [{"name": "n", "type": "buffer", "size": 1}] * choices.pick((1, 100, 2000))
    text = json.dumps(described)
    match choices.below(6):
        case 0:
            return "[" * choices.pick((1, 100, 5000)) + text
        case 1:
            return '{"devices": [], ' + text[1:]
        case 2:
            return text[: choices.below(len(text) + 1)]
        case 3:
            return text.replace('"name"', '"name": "cpu", "name"', 1)
    return text


def broken(choices: Choices, wire: bytes) -> bytes:
    """The same with something done to its bytes."""
    data = bytearray(wire)
    for _ in range(choices.pick((1, 2, 5))):
        if not data:
            break
        at = choices.below(len(data))
        # Most of a stream is pages; what is behind them and before them is worth more.
        if choices.sometimes(2):
            at = choices.pick((at % 200, len(data) - 1 - at % min(len(data), 2000))) % len(data)
        match choices.below(6):
            case 0:
                data[at] ^= 1 << choices.below(8)
            case 1:
                del data[at : at + choices.pick((1, 4, 100))]
            case 2:
                data[at:at] = choices.pick(_FORGERIES)(choices)
            case 3:
                del data[at:]
            case 4:
                data[at : at + 4] = choices.near(int.from_bytes(data[at : at + 4], "big")).to_bytes(4, "big")
            case _:
                data[at:at] = data[choices.below(len(data)) :][: choices.pick((9, 60, 300))]
    return bytes(data)


def pieces(choices: Choices, wire: bytes) -> list[bytes]:
    """The stream as a network cuts it."""
    if not choices.below(2):
        return [wire]
    if choices.sometimes(8) and len(wire) < 3000:
        return [wire[at : at + 1] for at in range(len(wire))]
    cuts = sorted({choices.below(len(wire) + 1) for _ in range(choices.below(8))} | {0, len(wire)})
    return [wire[start:end] for start, end in itertools.pairwise(cuts)]
