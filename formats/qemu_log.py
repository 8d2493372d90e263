"""What QEMU and KVM print about registers when a migration fails: which register, which error, which values.

The texts are those of ``target/arm/kvm.c: write_list_to_kvmstate, kvm_print_register_name`` (10.2 and newer),
``target/arm/machine.c: cpu_post_load`` (11.1 adds ``handle_cpreg_only_in_incoming_stream``), ``migration/vmstate.c``,
``accel/kvm/kvm-all.c`` and, for the kernel's log, ``arch/arm64/kvm/sys_regs.h: print_sys_reg_msg``. Values are hex
without 0x. A line may carry anything before and behind: a log's time, a program's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from formats.arm64.register_id import SysregEncoding

_FIRMWARE: Final = 0x6030000000140000
_FIRMWARE_BITMAP: Final = 0x6030000000160000

# strerror() as glibc and musl have it, of the errors that KVM_SET_ONE_REG and QEMU's loader give.
ERRORS: Final = {
    "Operation not permitted": "EPERM",
    "No such file or directory": "ENOENT",
    "Argument list too long": "E2BIG",
    "Bad address": "EFAULT",
    "Device or resource busy": "EBUSY",
    "Resource busy": "EBUSY",
    "Invalid argument": "EINVAL",
    "Operation not supported": "EOPNOTSUPP",
    "Not supported": "EOPNOTSUPP",
    "Input/output error": "EIO",
    "I/O error": "EIO",
}

# The ways in which a register is named: by operands, by number, by id.
_NAMES: Final = (
    re.compile(r"op0:(\d+) op1:(\d+) crn:(\d+) crm:(\d+) op2:(\d+)"),
    re.compile(r"Op0\( ?(\d+)\), Op1\( ?(\d+)\), CRn\( ?(\d+)\), CRm\( ?(\d+)\), Op2\( ?(\d+)\)"),
    re.compile(r"\bfw reg (\d+)"),
    re.compile(r"\bfw feat reg (\d+)"),
    re.compile(r"\b(?:demuxed|core) reg ([0-9a-f]{1,16})\b"),
    re.compile(r"\bregister ([46]0[0-9a-f]{14})\b"),
    re.compile(r"\b0x([46]0[0-9a-fA-F]{14})\b"),
)


class LogKind(StrEnum):
    """What a line says."""

    VALUE_REFUSED = "value-refused"  # KVM does not take the value: EINVAL
    UNKNOWN_TO_KVM = "unknown-to-kvm"  # KVM has no such register now, although it had listed it: ENOENT
    WRITE_FAILED = "write-failed"  # KVM_SET_ONE_REG fails with another error
    ONLY_IN_STREAM = "only-in-stream"  # the destination does not list it: the load fails
    ONLY_AT_DESTINATION = "only-at-destination"  # the stream lacks it: a warning
    LIST_TOO_LONG = "list-too-long"  # the stream's list is longer than the destination's; no register is named
    CPU_FAILED = "cpu-failed"  # a vCPU's state did not load; no register is named
    PUT_FAILED = "put-failed"  # writing all registers failed; no register is named
    LOAD_FAILED = "load-failed"  # the last line of a failed load


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that was understood. ``wanted`` is the stream's value and ``own`` the destination's, where they are
    told; for :attr:`LogKind.LIST_TOO_LONG` they are the lengths of the lists. ``errno`` is a name such as ``EINVAL``.
    """

    kind: LogKind
    text: str
    register: int | None = None
    errno: str | None = None
    wanted: int | None = None
    own: int | None = None


_REFUSED: Final = re.compile(r"Could not set register .+? to (?P<wanted>[0-9a-f]+)(?: \(is (?P<own>[0-9a-f]+)\))?$")
_UNKNOWN: Final = re.compile(r"Could not set register .+: unknown to KVM")
_FAILED: Final = re.compile(r"Could not set register .+: (?P<error>[^:]+)$")
_ONLY_IN_STREAM: Final = re.compile(r"in the incoming stream but unknown on the destination")
_ONLY_HERE: Final = re.compile(r"expected by the destination but not in the incoming stream")
_TOO_LONG: Final = re.compile(r"Invalid value (\d+) expecting positive value <= (\d+)")
_LENGTH: Final = re.compile(r"cpu:cpreg_vmstate_array_len")
_CPU: Final = re.compile(r"error while loading state for instance 0x[0-9a-f]+ of device 'cpu'")
_PUT: Final = re.compile(r"Failed to put registers (?:after )?\w+: (?P<error>.+)$")
_LOAD: Final = re.compile(r"load of migration failed: (?P<error>[^:]+)")


def parse_line(line: str) -> LogLine | None:
    """What a line of a log says; None for a line about something else."""
    text = line.strip()
    register = next(iter(registers_in(text)), None)
    if match := _REFUSED.search(text):
        own = None if match["own"] is None else int(match["own"], 16)
        return LogLine(LogKind.VALUE_REFUSED, text, register, "EINVAL", int(match["wanted"], 16), own)
    if _UNKNOWN.search(text):
        return LogLine(LogKind.UNKNOWN_TO_KVM, text, register, "ENOENT")
    if match := _FAILED.search(text):
        return LogLine(LogKind.WRITE_FAILED, text, register, ERRORS.get(match["error"].strip()))
    if _ONLY_IN_STREAM.search(text):
        return LogLine(LogKind.ONLY_IN_STREAM, text, register)
    if _ONLY_HERE.search(text):
        return LogLine(LogKind.ONLY_AT_DESTINATION, text, register)
    if match := _TOO_LONG.search(text):
        return LogLine(LogKind.LIST_TOO_LONG, text, None, None, int(match[1]), int(match[2]))
    if _LENGTH.search(text):
        return LogLine(LogKind.LIST_TOO_LONG, text)
    if _CPU.search(text):
        return LogLine(LogKind.CPU_FAILED, text)
    if match := _PUT.search(text):
        return LogLine(LogKind.PUT_FAILED, text, None, ERRORS.get(match["error"].strip()))
    if match := _LOAD.search(text):
        return LogLine(LogKind.LOAD_FAILED, text, None, ERRORS.get(match["error"].strip()))
    return None


def parse_log(text: str) -> Iterator[LogLine]:
    """The lines of a log that say something."""
    for line in text.splitlines():
        parsed = parse_line(line)
        if parsed is not None:
            yield parsed


def registers_in(text: str) -> tuple[int, ...]:
    """The registers that a text names in QEMU's, the kernel's or proxyd's ways, in order, each once."""
    operands, kernel, firmware, bitmap, *by_id = _NAMES
    found: list[tuple[int, int]] = []
    for pattern in (operands, kernel):
        for match in pattern.finditer(text):
            encoding = SysregEncoding(*map(int, match.groups()))
            if _fits(encoding):
                found.append((match.start(), encoding.register_id))
    for pattern, base in ((firmware, _FIRMWARE), (bitmap, _FIRMWARE_BITMAP)):
        found += [(match.start(), base + int(match[1])) for match in pattern.finditer(text) if int(match[1]) <= 0xFFFF]
    found += [(match.start(), int(match[1], 16)) for pattern in by_id for match in pattern.finditer(text)]
    return tuple(dict.fromkeys(register for _, register in sorted(found)))


def _fits(encoding: SysregEncoding) -> bool:
    """Whether the operands are those of a system register: 2, 3, 4, 4 and 3 bits."""
    return encoding.op0 < 4 and encoding.op1 < 8 and encoding.crn < 16 and encoding.crm < 16 and encoding.op2 < 8
