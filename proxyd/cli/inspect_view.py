"""A stream's facts as ``inspect`` shows them: tables for people, one document for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from formats.arm64.register_id import name_of
from proxyd.cli.register_view import fields_text, grouped, is_identity, ranges, register_document
from proxyd.cli.section_fields import fields_in, version_of
from proxyd.cli.terminal import plain, plural, print_table, size_of, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from formats.device_tail import DeviceSection
    from formats.events import DeviceTail
    from proxyd.cli.stream_facts import StreamFacts
    from proxyd.rewrite.plan import VcpuRegisters


def show(console: Console, facts: StreamFacts, idstr: str | None, *, registers: bool) -> None:
    """Print the stream, or with ``idstr`` the fields of the device sections of that name, and the registers."""
    if idstr is None:
        for name, text in _summary(facts):
            console.print(f"{name:<13} {text}", soft_wrap=True)
        _show_memory(console, facts)
    if facts.tail is not None:
        if idstr is None:
            _show_devices(console, facts.tail)
        for section in facts.sections_named(idstr):
            _show_fields(console, facts.tail, section)
    if registers:
        _show_registers(console, facts)


def _summary(facts: StreamFacts) -> Iterator[tuple[str, str]]:
    packed = "" if facts.compression is None else f", unpacked from {facts.compression}"
    yield "stream", f"{plain(facts.name)}{packed}: {facts.total_bytes} bytes"
    if facts.image is not None:
        running = "running" if facts.image.was_running else "paused"
        yield (
            "save image",
            f"libvirt's, format {facts.image.format.name.lower()}, guest {plain(facts.domain or '?')} {running}",
        )
    if facts.configuration is not None:
        yield "machine", plain(facts.configuration.machine)
        fixed = "" if facts.configuration.page_bits is not None else " (assumed: the stream does not say)"
        yield "page size", f"{facts.page_size}{fixed}"
        yield "capabilities", plain(", ".join(facts.configuration.capabilities)) or "none"
        if facts.configuration.uuid is not None:
            yield "uuid", facts.configuration.uuid.hex()
    yield "return path", "yes" if facts.return_path else "no"
    yield "commands", ", ".join(_command_text(one.command.name, one.data) for one in facts.commands) or "none"
    if facts.tail is not None:
        sections = plural(len(facts.tail.sections), "section")
        yield "device state", f"{len(facts.tail.raw)} bytes in {sections}, with their description (vmdesc)"
    for count in sorted({len(vcpu.registers) for vcpu in facts.vcpus}):
        who = [vcpu.vcpu for vcpu in facts.vcpus if len(vcpu.registers) == count]
        yield "registers", f"{count} each in the list of {plural(len(who), 'vCPU')}: {ranges(who)}"


def _command_text(name: str, data: bytes) -> str:
    return f"{name} {int.from_bytes(data, 'big'):#x}" if data else name


def _show_memory(console: Console, facts: StreamFacts) -> None:
    if facts.iterables:
        iterables = table("Section", "Version", "START", "PART", "END", "Payload", title="Iterable sections")
        for one in facts.iterables.values():
            counts = map(str, (one.version_id, one.starts, one.parts, one.ends))
            iterables.add_row(plain(f"{one.idstr}/{one.instance_id}"), *counts, size_of(one.payload_bytes))
        print_table(console, iterables)
    if facts.blocks:
        blocks = table("Block", "Size", "Pages", "Zero pages", "Encoded pages", title="RAM blocks")
        for block in facts.blocks:
            pages = map(str, (block.pages, block.zero_pages, block.encoded_pages))
            blocks.add_row(plain(block.name), size_of(block.size), *pages)
        print_table(console, blocks)


def _show_devices(console: Console, tail: DeviceTail) -> None:
    devices = table("Section", "Version", "Offset", "Bytes", "Subsections", title="Device sections")
    for section in tail.sections:
        devices.add_row(
            plain(section.name),
            str(version_of(tail, section)),
            f"{tail.offset + section.start:#x}",
            str(section.payload_end - section.payload_start),
            plain(", ".join(sub.vmsd_name for sub in section.device.subsections)),
        )
    print_table(console, devices)


def _show_fields(console: Console, tail: DeviceTail, section: DeviceSection) -> None:
    length = section.payload_end - section.payload_start
    title = plain(f"{section.name}, version {version_of(tail, section)}, {length} bytes")
    fields = table("Field", "Type", "Offset", "Bytes", "Value", title=title)
    for one in fields_in(tail, section):
        count = "" if one.array_len is None else f" x {one.array_len}"
        value = "" if one.data is None else f"0x{one.data.hex()}"
        fields.add_row(plain(one.name), plain(one.type), f"{one.offset:#x}", f"{one.size}{count}", value)
    print_table(console, fields)


def _show_registers(console: Console, facts: StreamFacts) -> None:
    rows = grouped(facts.vcpus)
    identity = table("Register", "Id", "vCPU", "Value", "Fields that are not 0", title="Identification and firmware")
    others = table("Register", "Id", "vCPU", "Value", title="Registers that the guest writes")
    for register, value, who in rows:
        cells = (name_of(register), f"{register:#x}", ranges(who), f"{value:#x}")
        if is_identity(register):
            identity.add_row(*cells, fields_text(register, value))
        else:
            others.add_row(*cells)
    for shown in (identity, others):
        if shown.row_count:
            print_table(console, shown)


def document(facts: StreamFacts, idstr: str | None, *, registers: bool) -> dict[str, Any]:
    """The same for ``--json``."""
    configuration, tail = facts.configuration, facts.tail
    sections = () if tail is None else tail.sections if idstr is None else facts.sections_named(idstr)
    return {
        "file": facts.name,
        "compression": facts.compression,
        "save_image": None
        if facts.image is None
        else {
            "format": facts.image.format.name.lower(),
            "domain": facts.domain,
            "was_running": facts.image.was_running,
            "stream_offset": facts.image.stream_offset,
        },
        "bytes": facts.total_bytes,
        "complete": facts.error is None,
        "error": None if facts.error is None else str(facts.error),
        "stream_version": None if facts.header is None else facts.header.version,
        "machine": facts.machine,
        "page_size": facts.page_size,
        "capabilities": [] if configuration is None else list(configuration.capabilities),
        "uuid": None if configuration is None or configuration.uuid is None else configuration.uuid.hex(),
        "return_path": facts.return_path,
        "commands": [
            {"name": one.command.name, "data": one.data.hex(), "offset": one.offset} for one in facts.commands
        ],
        "iterable_sections": [asdict(one) for one in facts.iterables.values()],
        "ram_blocks": [asdict(block) for block in facts.blocks],
        "device_sections": [
            _section_document(tail, one, fields=idstr is not None) for one in sections if tail is not None
        ],
        "vcpus": [_vcpu_document(vcpu, registers=registers) for vcpu in facts.vcpus],
    }


def _section_document(tail: DeviceTail, section: DeviceSection, *, fields: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "idstr": section.device.name,
        "instance_id": section.device.instance_id,
        "version_id": version_of(tail, section),
        "section_id": section.section_id,
        "offset": tail.offset + section.start,
        "payload_bytes": section.payload_end - section.payload_start,
        "subsections": [sub.vmsd_name for sub in section.device.subsections],
    }
    if fields:
        found["fields"] = [one.to_json_dict() for one in fields_in(tail, section)]
    return found


def _vcpu_document(vcpu: VcpuRegisters, *, registers: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"vcpu": vcpu.vcpu, "register_count": len(vcpu.registers)}
    if registers:
        found["registers"] = [register_document(register, value) for register, value in vcpu.registers.items()]
    return found
