"""QEMU's lines about registers, as they were seen, and as its source prints them."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of
from formats.qemu_log import LogKind, LogLine, parse_line, parse_log, registers_in

PSCI, SCTLR2, PMMIR, MMFR2, CCSIDR, STD = map(
    id_of,
    ("FW_PSCI_VERSION", "SCTLR2_EL1", "PMMIR_EL1", "ID_AA64MMFR2_EL1", "DEMUX_CCSIDR[0]", "FW_STD_BMAP"),
)

LINES = {
    # Seen with QEMU 11.1.3.
    "Could not set register fw reg 0 to 10003 (is 10001)":
        (LogKind.VALUE_REFUSED, PSCI, "EINVAL", 0x10003, 0x10001),
    "Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM":
        (LogKind.UNKNOWN_TO_KVM, SCTLR2, "ENOENT", None, None),
    "handle_cpreg_only_in_incoming_stream: system register op0:3 op1:0 crn:9 crm:14 op2:6 in the incoming stream but "
    "unknown on the destination: fail migration":
        (LogKind.ONLY_IN_STREAM, PMMIR, None, None, None),
    "handle_cpreg_missing_in_incoming_stream: fw feat reg 0 expected by the destination but not in the incoming "
    "stream: skip it":
        (LogKind.ONLY_AT_DESTINATION, STD, None, None, None),
    # By its source, and by that of 10.2.
    "Could not set register op0:3 op1:0 crn:0 crm:7 op2:2 to 220011100001011":
        (LogKind.VALUE_REFUSED, MMFR2, "EINVAL", 0x220011100001011, None),
    "Could not set register demuxed reg 6020000000110000 to 7 (is 2)":
        (LogKind.VALUE_REFUSED, CCSIDR, "EINVAL", 7, 2),
    "Could not set register 603000000014ffff to 7 (is 2)":
        (LogKind.VALUE_REFUSED, 0x603000000014FFFF, "EINVAL", 7, 2),
    "Could not set register fw reg 0: Device or resource busy":
        (LogKind.WRITE_FAILED, PSCI, "EBUSY", None, None),
    "Could not set register SVE VLS: Operation not permitted":
        (LogKind.WRITE_FAILED, None, "EPERM", None, None),
    "Could not set register fw reg 0: Something new":
        (LogKind.WRITE_FAILED, PSCI, None, None, None),
    # Seen with QEMU 10.0.13.
    "Invalid value 258 expecting positive value <= 257": (LogKind.LIST_TOO_LONG, None, None, 258, 257),
    "Failed to load cpu:cpreg_vmstate_array_len": (LogKind.LIST_TOO_LONG, None, None, None, None),
    "failed to load cpu:cpreg_vmstate_array_len": (LogKind.LIST_TOO_LONG, None, None, None, None),
    "error while loading state for instance 0x0 of device 'cpu'": (LogKind.CPU_FAILED, None, None, None, None),
    "Failed to put registers after init: Invalid argument": (LogKind.PUT_FAILED, None, "EINVAL", None, None),
    "load of migration failed: Operation not permitted": (LogKind.LOAD_FAILED, None, "EPERM", None, None),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "qemu: ", "2026-11-23T10:00:00.000000Z qemu-system-aarch64: "])
@pytest.mark.parametrize("text", LINES)
def test_a_line(text: str, prefix: str) -> None:
    kind, register, errno, wanted, own = LINES[text]
    assert parse_line(f"{prefix}{text}\r\n") == LogLine(kind, prefix + text, register, errno, wanted, own)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "qemu: warning: TSC frequency",
        "error while loading state for instance 0x0 of device 'virtio-net'",
        "Could not set registers",
    ],
)
def test_a_line_about_something_else(text: str) -> None:
    assert parse_line(text) is None


def test_a_log() -> None:
    lines = list(
        parse_log(
            "first\nload of migration failed: Invalid argument\n\nsecond\nfailed to load cpu:cpreg_vmstate_array_len"
        )
    )
    assert [line.kind for line in lines] == [LogKind.LOAD_FAILED, LogKind.LIST_TOO_LONG]


@pytest.mark.parametrize(
    ("text", "registers"),
    [
        ("nothing", ()),
        ("fw reg 0 to 10003", (PSCI,)),
        ("system register op0:3 op1:0 crn:9 crm:14 op2:6 in", (PMMIR,)),
        ("{ Op0( 3), Op1( 0), CRn( 9), CRm(14), Op2( 6), func_read },", (PMMIR,)),
        ("(0x603000000013c103) then op0:3 op1:0 crn:9 crm:14 op2:6", (0x603000000013C103, PMMIR)),
        ("fw reg 1, fw reg 1, fw feat reg 0, fw reg 0", (PSCI + 1, STD, PSCI)),
        ("core reg 6030000000100000", (0x6030000000100000,)),
        ("TCG's 0x40200000200e0298", (0x40200000200E0298,)),
        ("value 603000000013c103 is no register by itself", ()),
        ("op0:9 op1:0 crn:9 crm:14 op2:6 and fw reg 99999", ()),
    ],
)
def test_registers_that_a_text_names(text: str, registers: tuple[int, ...]) -> None:
    assert registers_in(text) == registers
