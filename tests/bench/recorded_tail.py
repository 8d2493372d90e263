"""The device part of a recorded stream, with as many vCPUs as asked for.

Cut and multiplied as text and bytes: the last vCPU's ``cpu_common`` and ``cpu`` sections are repeated with new instance
and section ids, and so are their entries in the vmdesc, whose duplicate keys would not survive a JSON library.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from functools import cache

from tests import recorded

RECORDED = "6.12-10.0.13-neoverse-n1-returnpath-smp{}"
RECORDED_VCPUS = (4, 2, 1)

# Big endian, as in the stream: the first register of the recorded lists, a cache's, and MPIDR_EL1.
FIRST_REGISTER = struct.pack(">Q", 0x6020_0000_0011_0000)
MPIDR = struct.pack(">Q", 0x6030_0000_0013_C005)

# Section ids of the copies; the recorded ones are small.
FIRST_NEW_ID = 1000


@dataclass(frozen=True)
class DevicePart:
    """Everything from the first device section to the last byte of the vmdesc."""

    bytes: bytes
    vcpus: int


@cache
def device_part(vcpus: int) -> DevicePart:
    """The device part of a guest with ``vcpus`` vCPUs."""
    have = next(count for count in RECORDED_VCPUS if count <= vcpus)
    sections, description = _cut(recorded.load(RECORDED.format(have)))
    for instance in range(have, vcpus):
        sections = _one_more_section_pair(sections, instance)
        description = _one_more_description_pair(description, instance)
    devices = json.loads(description)["devices"]
    found = [device["instance_id"] for device in devices if device["name"] == "cpu"]
    assert found == list(range(vcpus)), found
    return DevicePart(sections + b"\x00\x06" + struct.pack(">I", len(description)) + description, vcpus)


def _cut(stream: bytes) -> tuple[bytes, bytes]:
    """(device sections without EOF, the vmdesc's JSON)."""
    for match in re.finditer(rb"\x00\x06(....)\{", stream, re.DOTALL):
        if struct.unpack(">I", match[1])[0] == len(stream) - match.end() + 1:
            break
    else:
        raise AssertionError("the recorded stream does not end with a vmdesc")
    description = stream[match.end() - 1 :]
    name = json.loads(description)["devices"][0]["name"].encode()
    first = re.search(rb"(?<=\x7e....)\x04...." + bytes([len(name)]) + re.escape(name), stream, re.DOTALL)
    assert first is not None
    return stream[first.start() : match.start()], description


def _one_more_section_pair(sections: bytes, instance: int) -> bytes:
    last = struct.pack(">I", instance - 1)
    common = _section_start(sections, b"cpu_common", last)
    cpu = _section_start(sections, b"cpu", last)
    section_id = sections[cpu + 1 : cpu + 5]
    end = sections.index(b"\x7e" + section_id + b"\x04", cpu) + 5
    copies = b""
    for number, (start, stop) in enumerate(((common, cpu), (cpu, end))):
        new_id = struct.pack(">I", FIRST_NEW_ID + 2 * instance + number)
        name_end = start + 6 + sections[start + 5]
        copies += b"\x04" + new_id + sections[start + 5 : name_end] + struct.pack(">I", instance)
        copies += _numbered(sections[name_end + 4 : stop - 4], instance) + new_id
    return sections[:end] + copies + sections[end:]


def _numbered(payload: bytes, instance: int) -> bytes:
    """The payload of a ``cpu`` section with the MPIDR_EL1 of vCPU ``instance``: no two may be the same."""
    ids = payload.find(FIRST_REGISTER)
    if ids < 0:
        return payload
    (count,) = struct.unpack_from(">i", payload, ids - 4)
    value = payload.index(MPIDR, ids) + 8 * count
    # Sixteen vCPUs in a cluster (hw/arm/virt.c: virt_cpu_mp_affinity, GICv3).
    return payload[:value] + struct.pack(">Q", 1 << 31 | instance >> 4 << 8 | instance & 15) + payload[value + 8 :]


def _section_start(sections: bytes, name: bytes, instance: bytes) -> int:
    header = rb"\x04....%c%s%s" % (len(name), name, re.escape(instance))
    found = [match.start() for match in re.finditer(header, sections, re.DOTALL)]
    assert len(found) == 1, (name, found)
    return found[0]


def _one_more_description_pair(description: bytes, instance: int) -> bytes:
    start = description.index(b'{"name": "cpu_common", "instance_id": %d,' % (instance - 1))
    cpu = description.index(b'{"name": "cpu", "instance_id": %d,' % (instance - 1))
    _, length = json.JSONDecoder().raw_decode(description[cpu:].decode())
    end = cpu + length
    copy = description[start:end].replace(b'"instance_id": %d,' % (instance - 1), b'"instance_id": %d,' % instance)
    return description[:end] + b", " + copy + description[end:]
