"""Rewriting one device tail: cut, plan, change, and prove the result by parsing it again.

Everything that no rule names is re-emitted from the original bytes. The vmdesc is corrected in place, number by number,
so that saved output stays readable to QEMU's own tools.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from formats.device_tail import TailCollector
from formats.errors import SchemaMismatch
from formats.events import DeviceTail
from formats.framing import VMDESC_HEADER, VMDESC_HEADER_BYTES
from formats.schemas.arm_cpu import ARRAY_FIELDS, ArmCpu, is_arm_cpu, parse_arm_cpu
from proxyd.rewrite.plan import Outcome, Plan, VcpuRegisters, make_plan
from proxyd.rewrite.policy import RewritePolicy, StreamLimits

# `"name": "cpreg_vmstate_indexes", "array_len": 258` as QEMU's JSONWriter writes it: one space, this order.
_ARRAY_LEN: Final = re.compile(
    rb'("name": "(?:' + b"|".join(name.encode() for name in ARRAY_FIELDS) + rb')", "array_len": )(\d+)'
)


class SelfCheckFailed(Exception):
    """What the rewriter built is not what the plan says: a bug of ours, found before anything was released."""


@dataclass(frozen=True, slots=True)
class RewrittenTail:
    """``devices`` ends with the EOF byte: delivering its last byte is the commit point. ``vmdesc`` follows."""

    devices: bytes | memoryview
    vmdesc: bytes | memoryview
    plan: Plan | None


def vcpus_of(tail: DeviceTail, limits: StreamLimits) -> dict[int, ArmCpu]:
    """The arm vCPUs of a tail, by their index in ``tail.sections``. Raises :class:`~formats.errors.FormatError`."""
    names = Counter(section.name for section in tail.sections if is_arm_cpu(section.device))
    for name, count in names.items():
        if count > 1:
            # The destination would load one over the other, and all that is said of a vCPU would be said of two.
            raise SchemaMismatch(f"{name}: one section expected, found {count}", tail.offset)
    return {
        index: parse_arm_cpu(
            tail.raw[section.payload_start : section.payload_end],
            section.device,
            tail.offset + section.payload_start,
            limits.cpregs,
        )
        for index, section in enumerate(tail.sections)
        if is_arm_cpu(section.device)
    }


def registers_of(tail: DeviceTail, limits: StreamLimits) -> tuple[VcpuRegisters, ...]:
    """The cpreg list of every vCPU, in stream order."""
    return tuple(
        VcpuRegisters(tail.sections[index].device.instance_id, cpu.cpregs)
        for index, cpu in vcpus_of(tail, limits).items()
    )


def rewrite_tail(tail: DeviceTail, policy: RewritePolicy, limits: StreamLimits) -> RewrittenTail:
    """Plan and rewrite. The plan may be a refusal: then the buffers are those that came, and must not be released.

    Raises :class:`~formats.errors.FormatError` for a tail that cannot be understood, :class:`SelfCheckFailed`.
    """
    cpus = vcpus_of(tail, limits)
    untouched = RewrittenTail(tail.raw[: tail.eof + 1], tail.raw[tail.eof + 1 :], None)
    if not cpus or policy.destination is None:
        return untouched
    vcpus = [VcpuRegisters(tail.sections[index].device.instance_id, cpu.cpregs) for index, cpu in cpus.items()]
    plan = make_plan(vcpus, policy.destination, policy.knowledge, policy.allow)
    if plan.outcome is not Outcome.LOADS_REWRITTEN:
        return RewrittenTail(untouched.devices, untouched.vmdesc, plan)
    rewritten = {
        index: cpu.with_cpregs(after.registers)
        for (index, cpu), after in zip(cpus.items(), plan.rewritten, strict=True)
    }
    devices = _splice(tail, rewritten)
    vmdesc = _correct_vmdesc(tail, list(cpus.values()), list(rewritten.values()))
    _self_check(tail, devices + vmdesc, rewritten, limits)
    return RewrittenTail(devices, vmdesc, plan)


def _splice(tail: DeviceTail, rewritten: dict[int, ArmCpu]) -> bytes:
    """The device sections with the rewritten payloads in place of the old ones, up to and including EOF."""
    parts: list[bytes | memoryview] = []
    position = 0
    for index, cpu in rewritten.items():
        section = tail.sections[index]
        parts += (tail.raw[position : section.payload_start], cpu.build())
        position = section.payload_end
    parts.append(tail.raw[position : tail.eof + 1])
    return b"".join(parts)


def _correct_vmdesc(tail: DeviceTail, before: Sequence[ArmCpu], after: Sequence[ArmCpu]) -> bytes:
    """The vmdesc element behind EOF, with the new list lengths.

    The JSON is patched as text, because decoding and encoding would lose the keys that QEMU writes twice. Every vCPU
    has two arrays, in stream order; anything else is refused.
    """
    json = bytes(tail.raw[tail.eof + VMDESC_HEADER_BYTES :])
    expected = [len(cpu.cpregs) for cpu in before for _ in ARRAY_FIELDS]
    found = [int(match[2]) for match in _ARRAY_LEN.finditer(json)]
    if found != expected:
        raise SchemaMismatch(
            f"vmdesc: cpreg array lengths {expected} expected in this order, found {found}", tail.offset + tail.eof
        )
    lengths = iter([len(cpu.cpregs) for cpu in after for _ in ARRAY_FIELDS])
    json = _ARRAY_LEN.sub(lambda match: match[1] + str(next(lengths)).encode(), json)
    header: bytes = VMDESC_HEADER.build({"length": len(json)})
    return header[1:] + json  # the EOF byte belongs to the devices


def _self_check(tail: DeviceTail, data: bytes, rewritten: dict[int, ArmCpu], limits: StreamLimits) -> None:
    """Parse the result as the stream was parsed, and compare: all that was not to change must be as it came."""
    collector = TailCollector(tail.offset, tail.vmdesc.page_size, len(data), limits.sections, early=tail.early)
    complete = collector.add(data)
    if complete is None:
        raise SelfCheckFailed(f"the rewritten device state does not parse: {collector.diagnose()}")
    if len(complete.sections) != len(tail.sections):
        raise SelfCheckFailed(f"{len(tail.sections)} sections expected, found {len(complete.sections)}")
    for index, (old, new) in enumerate(zip(tail.sections, complete.sections, strict=True)):
        header = data[new.start : new.payload_start] == bytes(tail.raw[old.start : old.payload_start])
        payload = data[new.payload_start : new.payload_end]
        if index in rewritten:
            same = parse_arm_cpu(payload, new.device, new.payload_start, limits.cpregs) == rewritten[index]
        else:
            same = payload == bytes(tail.raw[old.payload_start : old.payload_end])
        if not header or not same:
            raise SelfCheckFailed(f"section {old.name} is not what the plan says")
