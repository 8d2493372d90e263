"""Rewriting a postcopy package: cut, plan, change, correct the length, and prove the result by cutting it again.

The sibling of :mod:`.tail`, which has a vmdesc to go by and to correct; here the reading that is the only possible one
takes its place (:mod:`formats.package`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from formats.errors import SchemaMismatch
from formats.package import PACKAGED_HEADER, PackagedSection, cut_package
from formats.savevm import MigCommand, SectionType
from formats.schemas.arm_cpu import IDSTR, VERSION, ArmCpu, parse_undescribed
from proxyd.rewrite.plan import Outcome, Plan, VcpuRegisters, make_plan
from proxyd.rewrite.policy import RewritePolicy, StreamLimits
from proxyd.rewrite.tail import SelfCheckFailed


@dataclass(frozen=True, slots=True)
class RewrittenPackage:
    """``header`` says how long ``package`` is; delivering its last byte is the commit point."""

    header: bytes
    package: bytes
    sections: int
    plan: Plan | None


def package_header(length: int) -> bytes:
    """The command before a package of ``length`` bytes (``migration/savevm.c: qemu_savevm_send_packaged``)."""
    return PACKAGED_HEADER.pack(SectionType.COMMAND, MigCommand.PACKAGED, 4, length)


def vcpus_in(
    package: bytes, sections: tuple[PackagedSection, ...], offset: int, limits: StreamLimits
) -> dict[int, ArmCpu]:
    """The arm vCPUs of a package, by their index in ``sections``. Raises :class:`~formats.errors.FormatError`."""
    indices = [n for n, section in enumerate(sections) if (section.idstr, section.version_id) == (IDSTR, VERSION)]
    for name, count in Counter(sections[n].name for n in indices).items():
        if count > 1:
            raise SchemaMismatch(f"{name}: one section expected, found {count}", offset)
    return {
        n: parse_undescribed(
            package[sections[n].payload_start : sections[n].payload_end],
            sections[n].name,
            offset + sections[n].payload_start,
            limits.cpregs,
        )
        for n in indices
    }


def rewrite_package(package: bytes, offset: int, policy: RewritePolicy, limits: StreamLimits) -> RewrittenPackage:
    """Plan and rewrite. The plan may be a refusal: then the package is the one that came, and must not be released.

    Raises :class:`~formats.errors.FormatError` for a package that cannot be understood, :class:`SelfCheckFailed`.
    """
    sections = cut_package(package, offset, limits.sections)
    cpus = vcpus_in(package, sections, offset, limits)
    if not cpus or policy.destination is None:
        return RewrittenPackage(package_header(len(package)), package, len(sections), None)
    vcpus = [VcpuRegisters(sections[n].instance_id, cpu.cpregs) for n, cpu in cpus.items()]
    plan = make_plan(vcpus, policy.destination, policy.knowledge, policy.allow)
    if plan.outcome is not Outcome.LOADS_REWRITTEN:
        return RewrittenPackage(package_header(len(package)), package, len(sections), plan)
    rewritten = {
        n: cpu.with_cpregs(after.registers) for (n, cpu), after in zip(cpus.items(), plan.rewritten, strict=True)
    }
    parts: list[bytes] = []
    position = 0
    for n, cpu in rewritten.items():
        parts += (package[position : sections[n].payload_start], cpu.build())
        position = sections[n].payload_end
    parts.append(package[position:])
    built = b"".join(parts)
    _self_check(package, sections, built, rewritten, limits)
    return RewrittenPackage(package_header(len(built)), built, len(sections), plan)


def _self_check(
    before: bytes,
    sections: tuple[PackagedSection, ...],
    built: bytes,
    rewritten: dict[int, ArmCpu],
    limits: StreamLimits,
) -> None:
    """Cut the result as the package was cut, and compare: all that was not to change must be as it came."""
    try:
        found = cut_package(built, 0, limits.sections)
        cpus = vcpus_in(built, found, 0, limits)
    except SchemaMismatch as error:
        raise SelfCheckFailed(f"the rewritten package cannot be read: {error}") from error
    if len(found) != len(sections) or cpus != rewritten:
        raise SelfCheckFailed("the rewritten package is not what the plan says")
    for n, (old, new) in enumerate(zip(sections, found, strict=True)):
        header = built[new.start : new.payload_start] == before[old.start : old.payload_start]
        same = n in rewritten or (
            built[new.payload_start : new.payload_end] == before[old.payload_start : old.payload_end]
        )
        if not header or not same:
            raise SelfCheckFailed(f"section {old.name} is not what the plan says")
    if before[sections[-1].end :] != built[found[-1].end :]:
        raise SelfCheckFailed("what follows the sections of the package is not what came")
