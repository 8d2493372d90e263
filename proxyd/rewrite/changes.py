"""What a plan is made of: a vCPU's registers, changes to them, refusals, and things worth telling."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import describe, name_of
from proxyd.rewrite.verdict import Verdict


@dataclass(frozen=True, slots=True)
class VcpuRegisters:
    """One vCPU's cpreg list; ``vcpu`` is the ``cpu`` section's instance id."""

    vcpu: int
    registers: CpregList


class Action(StrEnum):
    """What happens to a register in the stream."""

    REMOVE = "remove"
    SET = "set"
    ADD = "add"


@dataclass(frozen=True, slots=True)
class Change:
    """One change to one register of one vCPU.

    ``old`` and ``new`` are values of the field where ``field`` names one, else of the register. ``rule`` says who asks:
    ``knowledge`` or ``profile rule[n]``. ``allowed`` is True where the route's allow list let a lossy change pass.
    """

    vcpu: int
    action: Action
    register: int
    field: str | None
    old: int | None
    new: int | None
    verdict: Verdict
    reason: str
    rule: str
    evidence: str | None = None
    allowed: bool = False

    @property
    def target(self) -> str:
        """Register and field, by name."""
        return name_of(self.register) + (f".{self.field}" if self.field else "")

    def __str__(self) -> str:
        match self.action:
            case Action.REMOVE:
                what = f"removed (was {self.old:#x})"
            case Action.ADD:
                what = f"added as {self.new:#x}"
            case Action.SET:
                what = f"{self.old:#x} -> {self.new:#x}"
        return f"vcpu {self.vcpu}: {self.target} ({self.register:#018x}) {what}, {self.verdict}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a guest may not go there as it is. ``str()`` is the one clear sentence."""

    vcpu: int
    register: int | None
    value: int | None
    destination_value: int | None
    verdict: Verdict
    reason: str
    field: str | None = None

    def __str__(self) -> str:
        if self.register is None:
            return f"vcpu {self.vcpu}: {self.reason}"
        where = describe(self.register) if self.field is None else f"{describe(self.register)} field {self.field}"
        value = "" if self.value is None else f" = {self.value:#x}"
        theirs = "" if self.destination_value is None else f", {self.destination_value:#x} at the destination"
        return f"vcpu {self.vcpu}: {where}{value}{theirs}: {self.verdict}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that is not changed and still worth telling. ``register`` is None where it is about the whole plan."""

    vcpu: int
    register: int | None
    text: str

    def __str__(self) -> str:
        return self.text if self.register is None else f"vcpu {self.vcpu}: {describe(self.register)}: {self.text}"
