"""The page says what the results say, in few words."""

from dataclasses import replace

from tests.kvmlab.measured import measured
from tests.kvmlab.report import page
from tests.kvmlab.results import Noticed, Result, Results

GUEST = "neoverse-n1 10.0 1 plain checker"
FULL = "neoverse-n1 10.0 2 full checker"
KEYS = [f"{pair} {GUEST}" for pair in ("6.12:7.2", "6.12:7.3", "7.3:6.12", "6.16:7.2", "6.16:7.3")]


def made(*bent: Result, broken: dict[str, str] | None = None) -> Results:
    """A few measured cells, some of them *bent*."""
    cells = {key: measured().cells[key] for key in KEYS} | {cell.key: cell for cell in bent}
    streams = {**measured().streams, f"6.16 {FULL}": measured().streams[f"6.16 {GUEST}"]}
    return replace(measured(), cells=cells, streams=streams, broken=broken or {})


def test_pairs_are_shown_in_a_table() -> None:
    lines = page(made()).splitlines()
    assert "|  | 6.12 | 6.16 | 7.2 | 7.3 |" in lines
    assert "| **6.12** |  |  | no / ok | no / ok |" in lines
    assert "| **6.16** |  |  | ok / ok | ok / ok |" in lines
    assert "| **7.3** | no / ref |  |  |  |" in lines
    assert "| neoverse-n1, QEMU 10.0, 1 vCPU, plain devices | 5 | 2 | 3 | 4 | 1 | 0 | 4 of 4 |" in lines


def test_refusals_changes_and_errors_say_where() -> None:
    text = page(made())
    assert "| `FW_PSCI_VERSION` | lossy | calls of the newer PSCI version vanish" in text
    assert "| `TCR2_EL1` | remove | proven | 6.12 to 7.2-7.3 (neoverse-n1: 10.0) |" in text
    assert "Invalid value N expecting positive value <= N<br>Failed to load cpu:cpreg_vmstate_array_len<br>" in text


def test_what_the_guest_finds_is_shown_with_how_it_was_named() -> None:
    cell = measured().cells[KEYS[1]]
    found = (
        Noticed(0, "PMMIR_EL1", "0x0", "0x1"),
        Noticed(0, "TCR2_EL1", "0x0", "0x1"),
        Noticed(0, "FPCR", "0x0", "0x7"),
    )
    text = page(made(replace(cell, proxied=replace(cell.proxied, changed=found))))
    assert "| `PMMIR_EL1` | 0x0 -> 0x1 | state | notice | 6.12 to 7.3 (neoverse-n1: 10.0) |" in text
    assert "| `TCR2_EL1` | 0x0 -> 0x1 | state | change, proven | 6.12 to 7.3 (neoverse-n1: 10.0) |" in text
    assert "| `FPCR` | 0x0 -> 0x7 | state | no | 6.12 to 7.3 (neoverse-n1: 10.0) |" in text
    assert "* 6.12 to 7.3 (neoverse-n1: 10.0): proxyd does not name FPCR 0x0 -> 0x7" in text
    assert "| **6.12** |  |  | no / ok | no / ch |" in text


def test_silent_losses_are_counted() -> None:
    cell = measured().cells[KEYS[3]]
    lost = replace(cell, direct=replace(cell.direct, changed=(Noticed(1, "FPCR", "0x0", "0x7"),)))
    text = page(made(lost))
    assert "Of 2 direct migrations that load, 1 leave the guest with a register changed" in text
    assert "| `FPCR` | 0x0 -> 0x7 | 6.16 to 7.2 (neoverse-n1: 10.0) |" in text


def test_no_mismatch_is_said_too() -> None:
    assert page(made()).endswith("## Where prediction and reality differ\n\nNowhere in 5 cells.\n")
    assert page(made(broken={"a": "no boot"})).endswith("differ\n\n* a: broke off: no boot\n")


def test_more_vcpus_and_leave_to_lose_are_tables_of_their_own() -> None:
    cell = measured().cells[KEYS[4]]
    text = page(made(replace(cell, vcpus=2, devices="full"), replace(cell, allow=("CLIDR_EL1",))))
    assert "### neoverse-n1, QEMU 10.0, 2 vCPUs, full devices\n" in text
    assert "### neoverse-n1, QEMU 10.0, 1 vCPU, plain devices, allowed to lose CLIDR_EL1\n" in text
