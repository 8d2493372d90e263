"""A results file is read as it was written by a matrix, and its short form says the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kvmlab.results import Move, Noticed, Touched, read_results, refusal_of, release, write_short

ATTEMPT: dict[str, Any] = {
    "outcome": {"arrival": "running", "source_running": False, "complaints": []},
    "runs_on": "destination",
    "counts_before": [10],
    "counts_resumed": [11],
    "counts_after": [17],
    "changed": [],
    "identity": [],
    "proxy_log": [],
}
CELL: dict[str, Any] = {
    "key": "6.12:7.3 neoverse-n1 10.0 1 plain checker",
    "started": "2026-11-23T18:00:00Z",
    "predicted": {"outcome": "loads-as-is", "changes": [], "refusals": [], "notices": []},
    "direct": ATTEMPT,
    "proxied": ATTEMPT,
}
REMOVED = {
    "level": "info",
    "message": "register removed",
    "vcpu": 0,
    "register": "TCR2_EL1 (0x603000000013c103)",
    "old": "0x0",
    "verdict": "proven",
}
SET = {
    "level": "info",
    "message": "register set",
    "vcpu": 1,
    "register": "ID_AA64MMFR3_EL1 (0x603000000013c03b)",
    "field": "SCTLRX",
    "old": "0x0",
    "new": "0x1",
    "verdict": "neutral",
}
NOTICE = {"level": "info", "message": "not in the stream", "vcpu": 0, "register": "PMMIR_EL1 (0x603000000013c4f6)"}
REFUSAL = {
    "level": "warning",
    "message": "vcpu 0: FW_PSCI_VERSION (0x6030000000140000) = 0x1: lossy: gone",
    "verdict": "lossy",
}
REFUSED = {**ATTEMPT["outcome"], "arrival": "exited", "source_running": True, "complaints": ["qemu: no"]}


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def moved(tmp_path: Path, **attempt: Any) -> Move:
    path = written(tmp_path / "results.jsonl", {**CELL, "proxied": {**ATTEMPT, **attempt}})
    return read_results([path]).cells[CELL["key"]].proxied


def test_a_cell_is_read_by_its_key(tmp_path: Path) -> None:
    row = {**CELL, "key": "7.3:6.12 max 11.1 2 full plain-checker FW_PSCI_VERSION,CLIDR_EL1"}
    (cell,) = read_results([written(tmp_path / "results.jsonl", row)]).cells.values()
    assert (cell.source, cell.destination, cell.cpu, cell.upwards) == ("7.3", "6.12", "max", False)
    assert (cell.qemu, cell.vcpus, cell.devices, cell.program) == ("11.1", 2, "full", "plain-checker")
    assert cell.allow == ("FW_PSCI_VERSION", "CLIDR_EL1")
    assert cell.date == "2026-11-23"
    assert cell.key == row["key"]


def test_what_proxyd_logged_is_told_apart(tmp_path: Path) -> None:
    move = moved(tmp_path, proxy_log=[REMOVED, SET, NOTICE])
    assert move.touched == (
        Touched(0, "remove", "TCR2_EL1", "0x0", None, "proven"),
        Touched(1, "set", "ID_AA64MMFR3_EL1.SCTLRX", "0x0", "0x1", "neutral"),
    )
    assert [touched.what for touched in move.touched] == ["remove TCR2_EL1", "set ID_AA64MMFR3_EL1.SCTLRX"]
    assert move.told == ("PMMIR_EL1",)
    assert move.refusals == ()


@pytest.mark.parametrize(
    ("attempt", "end"),
    [
        ({}, "loads"),
        ({"outcome": REFUSED, "proxy_log": [REFUSAL]}, "refused"),
        ({"outcome": REFUSED}, "fails"),
        ({"outcome": {**REFUSED, "source_running": False}}, "lost"),
    ],
)
def test_how_a_move_ended(tmp_path: Path, attempt: dict[str, Any], end: str) -> None:
    assert moved(tmp_path, **attempt).end == end


@pytest.mark.parametrize("counts", [{"counts_resumed": [9]}, {"counts_after": [11]}])
def test_a_guest_that_does_not_count_on_runs_nowhere(tmp_path: Path, counts: dict[str, Any]) -> None:
    assert moved(tmp_path, **counts).runs_on is None


def test_what_the_guest_found(tmp_path: Path) -> None:
    move = moved(tmp_path, changed=["vCPU 1 FPCR 0x0 -> 0x7"], identity=["vCPU 0 CTR_EL0 0x1 -> 0x2"])
    assert move.noticed == (Noticed(1, "FPCR", "0x0", "0x7"), Noticed(0, "CTR_EL0", "0x1", "0x2"))
    assert str(move.changed[0]) == "FPCR 0x0 -> 0x7"


def test_later_lines_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    broken = {"key": CELL["key"], "error": "no boot"}
    first = written(tmp_path / "first.jsonl", broken)
    assert read_results([first]).broken == {CELL["key"]: "no boot"}
    second = written(tmp_path / "second.jsonl", CELL)
    assert read_results([first, second]).broken == {}


def test_the_short_form_says_the_same(tmp_path: Path) -> None:
    refused = {**ATTEMPT, "outcome": REFUSED, "proxy_log": [REFUSAL], "changed": ["vCPU 0 FPCR 0x0 -> 0x7"]}
    loaded = {**ATTEMPT, "proxy_log": [REMOVED, SET, NOTICE]}
    stream = {"stream": "6.12 neoverse-n1 10.0 1 plain checker", "qemu": "10.0.13", "vcpus": [{"0x1": "0x2"}]}
    rows: list[dict[str, Any]] = [
        {"host": "6.12 neoverse-n1", "listed": {"kernel": "6.12.1"}},
        stream,
        {**CELL, "proxied": loaded},
        {**CELL, "key": CELL["key"] + " FW_PSCI_VERSION", "proxied": refused},
    ]
    read = read_results([written(tmp_path / "results.jsonl", *rows)])
    short = tmp_path / "short.jsonl.xz"
    write_short(read, short)
    assert read_results([short]) == read
    again = short.read_bytes()
    write_short(read_results([short]), short)
    assert short.read_bytes() == again


def test_releases_have_an_order() -> None:
    assert release("6.2") < release("6.12") < release("7.0")


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (
            'vcpu 1: CTR_EL0 (0x603000000013d801) field DIC = 0x0, 0x2 at the destination: lossy: X (allow = ["Y"])',
            ("CTR_EL0.DIC", "lossy", "X"),
        ),
        (
            "vcpu 0: PIR_EL1 (0x603000000013c513) = 0x1: unknown: nothing is known",
            ("PIR_EL1", "unknown", "nothing is known"),
        ),
        ("vcpu 0: two vCPUs", ("", "", "vcpu 0: two vCPUs")),
    ],
)
def test_refusals_are_read(text: str, refusal: tuple[str, str, str]) -> None:
    assert refusal_of(text) == refusal
