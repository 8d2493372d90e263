"""Which values a described destination takes, without asking it.

KVM_SET_ONE_REG judges each register by itself (``arch/arm64/kvm/sys_regs.c``). What is modelled here:

* an ID register's bits outside the kernel's writable mask must be the host's own; inside it, a field may be lowered,
  never raised (kernels before 6.7 have no masks: every bit must be the host's own);
* other registers take anything, unless the knowledge base says otherwise for the destination's kernel;
* some values are no error and are not kept: the kernel goes on with others (the knowledge base calls that silent);
* under TCG a constant takes its own value only (``target/arm/helper.c: write_list_to_cpustate`` reads every value back
  and fails if it differs): ID registers, REVIDR, AIDR, CLIDR and CTR. MIDR is writable there.

What is not modelled is asked of the destination itself, by a rehearsal, in a later version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from formats.arm64.id_fields import field_named, fields_of, is_id_register
from formats.arm64.register_id import id_of
from proxyd.rewrite.kernel import KernelRelease, parse_kernel, parse_patch
from proxyd.rewrite.knowledge import Accepted, Accepts, Case, CaseAction, Knowledge, Needs, Repair

if TYPE_CHECKING:
    from proxyd.rewrite.host import HostDescription

CTR_EL0: Final = id_of("CTR_EL0")
PMCR_EL0: Final = id_of("PMCR_EL0")
_CYCLE_COUNTER: Final = 1 << 31

# Registers outside the ID registers' block that QEMU's TCG defines as ARM_CP_CONST.
TCG_CONSTANTS: Final = frozenset(id_of(name) for name in ("CLIDR_EL1", "REVIDR_EL1", "AIDR_EL1"))

# The release that made ID registers writable (PFR0, MMFR0-2, ISAR0-2, ZFR0, DFR0).
FIRST_WITH_MASKS: Final = KernelRelease(6, 7)

_ALL_BITS: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A value, or a field of one, that the destination does not take.

    ``mask`` says which bits of the register it is about; ``value`` and ``destination_value`` are the field's values.
    ``silent``: writing the value is no error, and the destination goes on with its own.
    """

    field: str | None
    mask: int
    value: int
    destination_value: int
    why: str
    silent: bool = False


class Acceptance:
    """What one destination takes. Answers are kept: the vCPUs of a guest mostly carry the same values."""

    def __init__(self, host: HostDescription, knowledge: Knowledge) -> None:
        self.registers: Mapping[int, int] = dict(host.registers)
        self.kernel = parse_kernel(host.kernel)
        self.qemu = host.qemu
        self.accelerator = host.accelerator
        self.knowledge = knowledge
        self._tcg = host.accelerator == "tcg"
        self.repairs, self.doubtful = ([], []) if self._tcg else _repairs(host, self.kernel, knowledge)
        self._repaired = {register for register, _, _ in self.repairs}
        self._masks, self._masks_are = _masks_of(host, self.kernel, knowledge)
        # What only some registers have, looked for once: a guest has up to hundreds of vCPUs.
        listed = [entry for register in self.registers if (entry := knowledge.entry(register)) is not None]
        kernel = None if self._tcg else self.kernel
        self.enabled_by = [
            (entry.register, entry.enabled_by)
            for entry in listed
            if entry.enabled_by is not None and kernel is not None and kernel >= entry.enabled_by.since
        ]
        self._needs = [
            (entry.register, needs)
            for entry in listed
            for needs in entry.needs
            if kernel is not None and kernel >= needs.since
        ]
        self.telling = [entry for entry in listed if any(case.action is CaseAction.NOTICE for case in entry.cases)]
        self._answers: dict[tuple[int, int], tuple[Mismatch, ...]] = {}

    def mismatches(self, register: int, value: int) -> tuple[Mismatch, ...]:
        """What of ``value`` the destination does not take. ``register`` is one that it lists."""
        if value == self.registers[register]:
            return ()
        key = (register, value)
        if key not in self._answers:
            self._answers[key] = tuple(self._judge(register, value))
        return self._answers[key]

    def unmet(self, registers: Mapping[int, int]) -> list[tuple[int, Needs]]:
        """Fields that the destination would show the guest as 0, because ``registers`` have another field off."""
        return [
            (register, needs)
            for register, needs in self._needs
            if field_named(register, needs.field).get(registers.get(register, 0))
            and needs.other in registers
            and not field_named(needs.other, needs.other_field).get(registers[needs.other])
        ]

    def _judge(self, register: int, value: int) -> Iterator[Mismatch]:
        own = self.registers[register]
        if is_id_register(register) or register == CTR_EL0:
            yield from self._judge_fields(register, value, own)
            return
        if self._tcg:
            if register in TCG_CONSTANTS:
                yield Mismatch(None, _ALL_BITS, value, own, self._masks_are)
            return
        entry = self.knowledge.entry(register)
        if entry is None:
            return
        for rule in entry.accepted(self.kernel):
            if rule.values is Accepts.COUNTERS and register in self._repaired:
                continue  # a write to it only takes away
            mismatch = self._by_rule(rule, value, own)
            if mismatch is not None:
                yield mismatch
                return
        left = value ^ own
        for field in fields_of(register):
            theirs, ours = field.get(value), field.get(own)
            for rule in entry.accepted(self.kernel, field.name) if left & field.mask else ():
                if not _takes(rule.values, theirs, ours):
                    yield Mismatch(field.name, field.mask, theirs, ours, _why(rule), rule.silent)
                    break

    def _by_rule(self, rule: Accepted, value: int, own: int) -> Mismatch | None:
        """What a rule for the whole register has against a value."""
        if rule.values is Accepts.COUNTERS:
            unknown = value & ~self._counters
            return Mismatch(None, unknown, unknown, 0, _why(rule), rule.silent) if unknown else None
        if _takes(rule.values, value, own):
            return None
        why = f"does not know the bits {value & ~own:#x}" if rule.values is Accepts.SUBSET else _why(rule)
        return Mismatch(None, _ALL_BITS, value, own, why, rule.silent)

    @property
    def _counters(self) -> int:
        """A bit for each event counter that the host gives the guest, and the cycle counter's."""
        number = field_named(PMCR_EL0, "N").get(self.registers.get(PMCR_EL0, 0))
        return _CYCLE_COUNTER | (1 << number) - 1

    def _judge_fields(self, register: int, value: int, own: int) -> Iterator[Mismatch]:
        mask = self._masks.get(register, 0)
        entry = self.knowledge.entry(register)
        left = value ^ own
        for field in fields_of(register):
            if not left & field.mask:
                continue
            left &= ~field.mask
            theirs, ours = field.get(value), field.get(own)
            rules = () if self._tcg or entry is None else entry.accepted(self.kernel, field.name)
            if rules:
                # What is known of the field in particular goes before the mask, both ways.
                objection = next((rule for rule in rules if not _takes(rule.values, theirs, ours)), None)
                if objection is None:
                    continue
                if objection.silent:
                    yield Mismatch(field.name, field.mask, theirs, ours, _why(objection), silent=True)
                    continue
            if mask & field.mask != field.mask:
                yield Mismatch(field.name, field.mask, theirs, ours, self._masks_are)
            elif theirs > ours:
                yield Mismatch(field.name, field.mask, theirs, ours, "takes at most its own value")
        while left:
            # Bits that no field is known for: as KVM does for those, by nibbles, unsigned.
            shift = (left & -left).bit_length() - 1 & ~3
            bits = 0xF << shift
            left &= ~bits
            theirs, ours = value >> shift & 0xF, own >> shift & 0xF
            if mask & bits != bits or theirs > ours:
                yield Mismatch(f"[{shift + 3}:{shift}]", bits, theirs, ours, self._masks_are)


def _takes(accepts: Accepts, value: int, own: int) -> bool:
    match accepts:
        case Accepts.EQUAL:
            return value == own
        case Accepts.AT_MOST:
            return value <= own
        case Accepts.AT_LEAST:
            return value >= own
        case Accepts.SUBSET:
            return not value & ~own
        case _:
            return True


def _why(rule: Accepted) -> str:
    what = {
        Accepts.AT_MOST: "at most its own value",
        Accepts.AT_LEAST: "at least its own value",
        Accepts.COUNTERS: "only bits of counters that it has",
    }.get(rule.values, "only its own value")
    return f"keeps {what}, without an error" if rule.silent else f"takes {what}"


_Repairs = list[tuple[int, Case, Repair]]


def _repairs(host: HostDescription, kernel: KernelRelease | None, knowledge: Knowledge) -> tuple[_Repairs, _Repairs]:
    """The repairs that the host needs, and those of which nobody can say whether it needs them.

    A probe has tried it out. Without one the kernel's version must tell, and often does not.
    """
    patch = parse_patch(host.kernel)
    needed: _Repairs = []
    doubtful: _Repairs = []
    for item in knowledge.repairs():
        repair = item[2]
        if host.pmu_writes is not None:
            if host.pmu_writes == "as-guest":
                needed.append(item)
        elif repair.concerns(kernel, patch):
            needed.append(item)
        elif kernel is not None and kernel in repair.kernels:
            doubtful.append(item)
    return needed, doubtful


def _masks_of(
    host: HostDescription, kernel: KernelRelease | None, knowledge: Knowledge
) -> tuple[Mapping[int, int], str]:
    """The writable masks, and what to say of a bit that is outside of them."""
    if host.accelerator == "tcg":
        return {}, "is emulated by TCG and takes only its own value"
    if host.writable_masks is not None:
        return host.writable_masks, "takes only its own value"
    if kernel is None:
        return {}, "takes an unknown set of values (its kernel and writable masks are not in the description)"
    if kernel < FIRST_WITH_MASKS:
        return {}, f"takes only its own value (Linux {kernel})"
    return knowledge.writable_masks(kernel), "takes only its own value"
